"""Every error that the client raises on purpose, as one tree.

ClientError                       has a hint: what a person can do
├── Unreachable                   no usable answer came; whether the call was carried out may be unknown
├── Refused                       the router said no: status, stable code, detail
│   └── LoginRefused              this identity cannot log in
├── UntrustedAnswer               an answer broke the protocol; nothing of it was believed or signed
│   ├── WrongServer               it speaks for another origin, user or account
│   └── WrongKeys                 somebody's keys are not theirs, or not signed
├── KeyChanged                    a contact has a new identity key, which the user has not confirmed
├── ReplacedKey                   a message is of a session under a key that its sender seems to have replaced
├── SealedToOldKey                a waiting message was sealed for keys that are trusted no longer
├── StillTrusted                  forgetting this person would drop what the user compared, or a warning
├── NoPrekeys                     a contact has left no keys to begin a session with
├── AlreadyOpened                 a message was opened before
├── CannotDecrypt                 a message was altered, or is not for these keys
├── HeldTooMany                   a message was given up, because too many of its sender wait
├── MaybeRepeated                 a message may be an old one delivered again
├── UnknownContact                nobody of that name is known
├── WrongName                     no name that a user can have, or the user's own
├── NotRegistered                 the identity has no account yet
├── OutboxFull                    too many messages wait to be sent
└── FileError                     an identity or store file, or one of trusted certificates
    ├── WrongPassphrase
    ├── DamagedFile
    └── ExposedFile               others can read it
"""

from typing import ClassVar
from uuid import UUID

from blindpost.errors import BlindpostError
from blindpost.protocol.safety_number import grouped


class ClientError(BlindpostError):
    """The root of the client's tree."""

    hint: str = ""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint if hint is not None else type(self).hint


class Unreachable(ClientError):
    """No usable answer came. If `sent`, the request may have been carried out."""

    hint = "Check the address and the network, then try again."

    def __init__(self, message: str, *, sent: bool, hint: str | None = None) -> None:
        super().__init__(message, hint)
        self.sent = sent


class Refused(ClientError):
    """The router said no. The detail is the router's text, stripped of what could trick a terminal."""

    def __init__(self, status: int, code: str, detail: str, retry_after: float | None = None) -> None:
        super().__init__(f"{detail} ({code})")
        self.status = status
        self.code = code
        self.detail = detail
        self.retry_after = retry_after
        """Seconds."""


class LoginRefused(Refused):
    """The router does not accept this identity's signature."""

    hint = "Check the server's address; if the key was replaced on another computer, use the identity file from there."


class UntrustedAnswer(ClientError):
    """The router's answer broke the protocol. Nothing of it was believed, and nothing was signed."""

    hint = "The server is faulty, hostile or newer than this client."


class WrongServer(UntrustedAnswer):
    """The answer speaks for another origin, user or account."""

    hint = "Check the address: the server must be started with the same public origin."


class WrongKeys(UntrustedAnswer):
    """Keys that do not belong to the user they were given for."""

    hint = "Do not write to this person over this server before you have found out why."


class KeyChanged(ClientError):
    """A contact's identity key is not the one remembered. Compare the new number with them, then confirm it."""

    hint = "They may have a new device, or the server may be lying: compare the safety number by another way."

    def __init__(self, user_id: UUID, username: str, *, old_number: str, new_number: str) -> None:
        what = f"the identity key of {username} changed; the new safety number is"
        if new_number == old_number:
            # The router took a change back, or brought a replaced ECDH key back: only the user can say what is right.
            what = f"the server offered keys of {username} that it should not have; the safety number now is"
        super().__init__(f"{what} {grouped(new_number)}")
        self.user_id = user_id
        self.username = username
        self.old_number = old_number
        """60 digits, as are those of the new one."""
        self.new_number = new_number


class ReplacedKey(ClientError):
    """The message is readable, in a session under the trusted key; but the router offers another one by now."""

    hint = "Whoever has the old key may have written it: settle the sender's keys before you rely on it."

    def __init__(self, username: str) -> None:
        super().__init__(f"this message was written under a key that {username} seems to have replaced")


class SealedToOldKey(ClientError):
    """Other keys were confirmed since the message was sealed: who has the old ones might read it. It is dropped."""

    hint = "Write it again."

    def __init__(self, username: str) -> None:
        super().__init__(f"a message to {username} was not sent: it was sealed for keys that are trusted no longer")


class StillTrusted(ClientError):
    """Forgetting is trusting whatever key comes next, so it takes a word more where there is something to lose."""

    def __init__(self, username: str, what: str) -> None:
        super().__init__(
            f"{what}; if you forget {username}, the next key that the server gives is trusted unseen",
            "Say that you are sure (sure=True), if that is what you want.",
        )
        self.username = username


class CannotDecrypt(ClientError):
    """Altered on its way, or not made for these keys. Which, is not told on purpose."""

    hint = "Ask the sender to write again."

    def __init__(self) -> None:
        super().__init__("this message cannot be decrypted")


class NoPrekeys(ClientError):
    """The contact has left no keys to begin a session with, or they have expired."""

    hint = "They have to come by once with this version of the program; then write again."

    def __init__(self, username: str) -> None:
        super().__init__(f"no session can be begun with {username} yet")


class AlreadyOpened(ClientError):
    """The same ciphertext was opened before: it is a repetition, and is shown to nobody."""

    def __init__(self) -> None:
        super().__init__("this message was opened before")


class HeldTooMany(ClientError):
    """Too many messages of one sender wait for the user's word on their key; this one is given up."""

    hint = "Settle the sender's keys first, then ask them to write again."

    def __init__(self, username: str | None) -> None:
        super().__init__(f"too many messages of {username or 'this sender'} wait for you to confirm a key")


class MaybeRepeated(ClientError):
    """The message is genuine, but older than what is remembered of its sender: it may have come before."""

    hint = "Look at the time of sending; an old message may have been delivered a second time."

    def __init__(self) -> None:
        super().__init__("this message is older than the client's memory, and may have been received before")


class UnknownContact(ClientError):
    """Nobody of that name is known."""

    hint = "Look for the name with search, and send a contact request, or accept theirs."


class WrongName(ClientError):
    """A name that cannot be meant: no user can have it, or it is the user's own."""

    hint = "Names are 3 to 50 letters from A to Z, digits and underscores."


class NotRegistered(ClientError):
    """The identity has no account yet."""

    hint = "Register it first."

    def __init__(self) -> None:
        super().__init__("this identity is not registered")


class OutboxFull(ClientError):
    """Too many messages wait to be sent."""

    hint = "Send the waiting ones with flush() once the server answers."

    def __init__(self) -> None:
        super().__init__("too many messages wait to be sent")


class FileError(ClientError):
    """An identity or store file cannot be used, or that of the certificates to trust."""


class WrongPassphrase(FileError):
    """The file is whole, but this passphrase does not open it."""

    reason: ClassVar[str] = "the passphrase is wrong, or the file is another's"

    def __init__(self) -> None:
        super().__init__(self.reason, "Check the spelling; nothing can recover a forgotten passphrase.")


class DamagedFile(FileError):
    """The file is not whole, or not of this format."""

    hint = "Restore it from a backup."


class ExposedFile(FileError):
    """The file is not the user's alone."""
