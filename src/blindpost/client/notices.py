"""Whose messages could not be opened here: they are told, in a session of its own, and write in that from then on.

Who lost their sessions would otherwise be written to in the old one until they write themselves. A router can make any
message one that does not open: so there are few notices, they choose nobody as a contact, take no place in the outbox,
and hold nothing up.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Final
from uuid import UUID, uuid4

from blindpost.client.directory import Directory
from blindpost.client.errors import ClientError
from blindpost.client.line import Outlet
from blindpost.client.sealer import Sealer
from blindpost.client.store import Store
from blindpost.protocol.content import Content, Kind
from blindpost.services.models.messages import SendRequest

PAUSE_MS: Final = 3_600_000
"""Between two notices to one person."""
AT_ONCE: Final = 4


class Notices:
    """Tells people which of their messages did not open."""

    def __init__(
        self, store: Store, directory: Directory, sealer: Sealer, outlet: Outlet, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self._directory = directory
        self._sealer = sealer
        self._outlet = outlet
        self._clock = clock

    async def send(self) -> None:
        """Tell whoever may be told now. What could not be told is told an hour later."""
        for contact_id, message_ids in islice(self._due(), AT_ONCE):
            with suppress(ClientError):
                await self._tell(contact_id, message_ids)

    def _due(self) -> Iterator[tuple[UUID, list[UUID]]]:
        now_ms = self._now_ms()
        for contact_id, message_ids in self._store.unopened.all().items():
            told_at_ms = self._store.unopened.told_at_ms(contact_id)
            # A clock that was set back must not silence anybody for longer.
            if told_at_ms is None or not 0 <= now_ms - told_at_ms < PAUSE_MS:
                yield contact_id, message_ids

    async def _tell(self, contact_id: UUID, message_ids: list[UUID]) -> None:
        self._store.unopened.tell(contact_id, self._now_ms())
        recipient = await self._directory.contact(contact_id)
        begun = await self._sealer.prepare(recipient, anew=True)
        data = b"".join(each.bytes for each in message_ids)
        content = Content(uuid4(), self._now_ms(), Kind.LOST, data)
        request = SendRequest(
            client_message_id=content.client_message_id,
            recipient_id=contact_id,
            message=self._sealer.seal(recipient, content, begun),
        )
        await self._outlet.send(request, partial(self._directory.contact, contact_id))
        self._store.unopened.remove(contact_id, message_ids)

    def _now_ms(self) -> int:
        return int(self._clock() * 1000)
