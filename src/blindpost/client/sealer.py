"""The seam for end-to-end encryption: a sealed message in, a readable one out."""

from typing import Protocol

from blindpost.client.errors import CannotDecrypt
from blindpost.client.identity import Identity
from blindpost.client.store import Contact
from blindpost.protocol import envelope
from blindpost.protocol.envelope import Content, Parties


class Sealer(Protocol):
    """Encrypts to a contact and decrypts from one, each under the keys that the contact book trusts."""

    async def seal(self, recipient: Contact, content: Content) -> bytes:
        """Return the message for the router; raises ValueError if it does not fit."""

    async def open(self, sender: Contact, sealed: bytes) -> Content:
        """Return the content; raises CannotDecrypt for every failure."""


class EnvelopeSealer:
    """One envelope per message, each with a one-time key (protocol/envelope.py)."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity

    async def seal(self, recipient: Contact, content: Content) -> bytes:
        # Once, before the first use: key and signature must be of one state.
        self._identity.reload()
        parties = Parties(self._identity.account, self._identity.ecdsa_key, recipient.user_id, recipient.ecdh)
        return envelope.seal(content, parties, self._identity.sign)

    async def open(self, sender: Contact, sealed: bytes) -> Content:
        self._identity.reload()
        for pair in self._identity.reading_keys():
            parties = Parties(sender.user_id, sender.ecdsa, self._identity.account, pair.public)
            try:
                return envelope.open_envelope(sealed, parties, pair.private)
            except ValueError:
                continue
        raise CannotDecrypt
