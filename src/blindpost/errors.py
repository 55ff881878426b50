"""Every error that Blindpost raises on purpose, as one tree.

BlindpostError
├── ConfigurationError            the program cannot start like this; has a hint
│   ├── StartError                a store does not start or answer
│   │   └── StoresInUse           another process has the embedded ones
│   └── BackupDamaged             a backup is not what it was when it was made
└── Problem                       becomes an RFC 9457 answer
    ├── InvalidRequest            400 invalid_request
    │   ├── InvalidJson           400 invalid_json
    │   ├── InvalidKey            400 invalid_key
    │   ├── InvalidSignature      400 invalid_signature
    │   └── UpgradeRequired       426 upgrade_required
    ├── NotAuthenticated          401 not_authenticated
    │   ├── InvalidProof          401 invalid_proof
    │   └── LoginFailed           401 login_failed
    ├── NotAContact               403 not_a_contact
    ├── NotFound                  404 not_found
    │   ├── UserNotFound          404 user_not_found
    │   └── NoPrekeys             404 no_prekeys
    ├── MethodNotAllowed          405 method_not_allowed
    ├── Conflict                  409 conflict
    │   ├── UsernameTaken         409 username_taken
    │   ├── ContactRequestExists  409 contact_request_exists
    │   ├── TooManyContacts       409 too_many_contacts
    │   └── TooManyPrekeys        409 too_many_prekeys
    ├── TooLarge                  413 too_large
    ├── TooManyRequests           429 too_many_requests
    │   ├── TooManyWaiting        429 too_many_waiting
    │   ├── TooManyPending        429 too_many_pending
    │   └── MailboxFull           429 mailbox_full
    ├── InternalFault             500 internal_error
    └── Unavailable               503 unavailable
        ├── Overloaded            503 overloaded
        ├── OutcomeUnknown        503 outcome_unknown
        └── ShuttingDown          503 shutting_down
"""

from typing import ClassVar


class BlindpostError(Exception):
    """The root of the tree."""


class ConfigurationError(BlindpostError):
    """The program cannot start like this. The message is one line; the hint says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class StartError(ConfigurationError):
    """A store does not start, or does not answer at start."""


class StoresInUse(StartError):
    """Another process runs the embedded stores of this data directory."""


class BackupDamaged(ConfigurationError):
    """A backup is not whole, or not one of ours."""


class Problem(BlindpostError):
    """A refusal that a client sees: status, stable code, and a sentence that a person can act on."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "A fault of the server"
    detail: str = "The server made a mistake, and logged it. Repeating the request may help."
    retry_after: int | None = None
    """Seconds, for the Retry-After header."""

    def __init__(self, detail: str | None = None, *, retry_after: int | None = None) -> None:
        self.detail = detail if detail is not None else type(self).detail
        self.retry_after = retry_after if retry_after is not None else type(self).retry_after
        super().__init__(self.detail)


class InvalidRequest(Problem):
    """The request does not have the shape that the contract gives."""

    status, code, title = 400, "invalid_request", "The request is not valid"
    detail = "A field, parameter or header is missing or not valid."


class InvalidJson(InvalidRequest):
    """The body is not acceptable JSON."""

    code, title = "invalid_json", "The body is not valid JSON"
    detail = "Send a JSON object in UTF-8, with Content-Type: application/json."


class InvalidKey(InvalidRequest):
    """A public key is not one P-384 key in canonical form."""

    code, title = "invalid_key", "The public key is not valid"
    detail = "Send one P-384 public key as PEM (SPKI, uncompressed point), and a different one for each role."


class InvalidSignature(InvalidRequest):
    """A signature does not verify over its transcript."""

    code, title = "invalid_signature", "The signature is not valid"
    detail = "Sign the transcript of this request with the identity key: ECDSA P-384, SHA-384, DER, base64."


class UpgradeRequired(InvalidRequest):
    """What is asked for is a WebSocket, and the request is no handshake of one."""

    status, code, title = 426, "upgrade_required", "A WebSocket is wanted here"
    detail = (
        "Ask for this with a WebSocket handshake (RFC 6455, version 13), or use /messages/events or /messages/poll."
    )


class NotAuthenticated(Problem):
    """No session, or one that has ended."""

    status, code, title = 401, "not_authenticated", "Not logged in"
    detail = "Log in, and send the token in the Authorization header, with a proof in the DPoP header."


class InvalidProof(NotAuthenticated):
    """The proof is not one of this session's key for this very request, or was used before."""

    code, title = "invalid_proof", "The proof is not valid"
    detail = "Sign each request anew with the session's key, as RFC 9449 says, with bd = base64url(SHA-256(body))."


class LoginFailed(NotAuthenticated):
    """One answer for every reason, so that it tells nothing about who exists."""

    code, title = "login_failed", "Login failed"
    detail = "Ask for a new challenge, and sign it with the identity key of this user."


class NotAContact(Problem):
    """The recipient has not accepted the sender, or does not exist: alike on purpose."""

    status, code, title = 403, "not_a_contact", "Not a contact"
    detail = "You can write to this person once they have accepted you as a contact."


class NotFound(Problem):
    """Nothing there, or nothing that is the caller's: alike on purpose."""

    status, code, title = 404, "not_found", "Not found"
    detail = "There is nothing here for you."


class UserNotFound(NotFound):
    """No such user."""

    code, title = "user_not_found", "No such user"
    detail = "There is no user with this id."


class NoPrekeys(NotFound):
    """Somebody has published no keys to begin a session with, or they have expired."""

    code, title = "no_prekeys", "No prekeys"
    detail = "This person has no keys here that a session could begin with. They have to come and publish some."


class MethodNotAllowed(Problem):
    """The path exists, with other methods."""

    status, code, title = 405, "method_not_allowed", "Method not allowed"
    detail = "This path answers to other methods: see /openapi.json."


class Conflict(Problem):
    """The request contradicts what is stored."""

    status, code, title = 409, "conflict", "Conflict"
    detail = "The request contradicts what is stored."


class UsernameTaken(Conflict):
    """The name belongs, or belonged, to somebody."""

    code, title = "username_taken", "The username is taken"
    detail = "Choose another username: this one belongs to somebody, or did."


class ContactRequestExists(Conflict):
    """A request between the two stands already."""

    code, title = "contact_request_exists", "A contact request exists"
    detail = "There is a contact request between you and this person already."


class TooManyContacts(Conflict):
    """One of the two has as many contacts as one can have: which of them is not said."""

    code, title = "too_many_contacts", "Too many contacts"
    detail = "You or this person have 4,096 contacts already, and nobody can have more."


class TooManyPrekeys(Conflict):
    """More one-time keys would wait than may."""

    code, title = "too_many_prekeys", "Too many prekeys"
    detail = "At most 100 one-time keys of a sort can wait here: see GET /keys/status for how many do."


class TooLarge(Problem):
    """The body is over the limit."""

    status, code, title = 413, "too_large", "The request is too large"
    detail = "A message is at most 65,536 bytes, and a request body at most 98,304."


class TooManyRequests(Problem):
    """A rate limit was hit."""

    status, code, title = 429, "too_many_requests", "Too many requests"
    detail = "Wait for the time in Retry-After, then try again."
    retry_after = 60


class TooManyWaiting(TooManyRequests):
    """Too many polls at once."""

    code, title = "too_many_waiting", "Too many waiting requests"
    detail = "Close one of your waiting polls or streams before you open another."
    retry_after = 5


class TooManyPending(TooManyRequests):
    """Too many contact requests wait, of the one who asks or for the one who is asked: which is not said."""

    code, title = "too_many_pending", "Too many contact requests wait"
    detail = "Too many contact requests of yours, or to this person, wait for an answer. Ask again when some have one."
    retry_after = 3_600


class MailboxFull(TooManyRequests):
    """The mailbox is full, or the sender's share of it: which would tell one sender about the others' messages."""

    code, title = "mailbox_full", "The mailbox is full"
    detail = "Too much waits for this person. Send again, with the same client_message_id, when they have fetched some."


class InternalFault(Problem):
    """A fault of ours; what happened is in the log, not in the answer."""


class Unavailable(Problem):
    """A store does not answer: nothing was changed."""

    status, code, title = 503, "unavailable", "Not available for the moment"
    detail = "A store of the server does not answer. Nothing was changed; try again soon."
    retry_after = 2


class Overloaded(Unavailable):
    """A bounded queue is full: nothing was changed."""

    code, title = "overloaded", "Too busy for the moment"
    detail = "The server is too busy. Nothing was stored; try again soon."
    retry_after = 1


class OutcomeUnknown(Unavailable):
    """The connection broke while committing."""

    code, title = "outcome_unknown", "The outcome is not known"
    detail = "The store was lost while it saved. Repeat the request with the same client_message_id."


class ShuttingDown(Unavailable):
    """This process is going away."""

    code, title = "shutting_down", "The server is going away"
    detail = "This server is stopping. Nothing was stored; try again soon."
