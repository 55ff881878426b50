"""What a message says, before it is padded and encrypted.

content = client_message_id (16) || u64be(sent_at, ms) || series (8) || u64be(number) || kind (1) || data
"""

from dataclasses import dataclass
from enum import IntEnum
from typing import Final
from uuid import UUID

SERIES_BYTES: Final = 8
HEAD_BYTES: Final = 16 + 8 + SERIES_BYTES + 8 + 1
SENT_AT_MAX_MS: Final = 253_402_300_799_999
"""The last millisecond of the year 9999: no later time is a date everywhere."""
ID_BYTES: Final = 16
NUMBER_MAX: Final = (1 << 53) - 1
"""What every language counts up to."""
LOST_MAX: Final = 64
"""Messages that one notice may name."""


class Kind(IntEnum):
    """What the data of a message is."""

    TEXT = 1
    """UTF-8."""
    BYTES = 2
    LOST = 3
    """The router's ids, of 16 bytes each, of messages that could not be opened. Never shown as a message."""


@dataclass(frozen=True, slots=True)
class Content:
    """What only sender and recipient see."""

    client_message_id: UUID
    sent_at_ms: int
    """Unix milliseconds by the sender's clock."""
    kind: Kind
    data: bytes
    series: bytes = bytes(SERIES_BYTES)
    """Which count of its sender's to this recipient it is in: random, and another after they lost what they kept."""
    number: int = 0
    """Its place in the series, from 0 on: a message that does not come is missed, whatever session it was in. Notices
    are not counted: theirs are zeros."""

    def encode(self) -> bytes:
        """Return the content's bytes; raises ValueError for a time out of range or data that is not of its kind."""
        if not 0 <= self.sent_at_ms <= SENT_AT_MAX_MS:
            raise ValueError("the time of sending is not a date")
        if self.kind is Kind.TEXT:
            self.data.decode("utf-8")
        if self.kind is Kind.LOST and not (len(self.data) % ID_BYTES == 0 and len(self.data) <= LOST_MAX * ID_BYTES):
            raise ValueError("the notice does not name messages")
        if len(self.series) != SERIES_BYTES or not 0 <= self.number <= NUMBER_MAX:
            raise ValueError("the count is not one")
        if self.kind is Kind.LOST and (any(self.series) or self.number):
            raise ValueError("a notice is not counted")
        count = self.series + self.number.to_bytes(8, "big")
        sent_at = self.sent_at_ms.to_bytes(8, "big")
        return self.client_message_id.bytes + sent_at + count + bytes((self.kind,)) + self.data

    @classmethod
    def decode(cls, encoded: bytes) -> "Content":
        """Read a content; raises ValueError unless it is exactly what `encode` would write."""
        if len(encoded) < HEAD_BYTES:
            raise ValueError("the content is too short")
        client_message_id, sent_at_ms = UUID(bytes=encoded[:16]), int.from_bytes(encoded[16:24], "big")
        series, number = encoded[24:32], int.from_bytes(encoded[32:40], "big")
        content = cls(client_message_id, sent_at_ms, Kind(encoded[40]), encoded[HEAD_BYTES:], series, number)
        content.encode()
        return content

    @property
    def lost(self) -> tuple[UUID, ...]:
        """Return the ids that a notice names."""
        starts = range(0, len(self.data), ID_BYTES)
        return tuple(UUID(bytes=self.data[start : start + ID_BYTES]) for start in starts)
