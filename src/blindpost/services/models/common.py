"""Types that several wire objects share."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema

from blindpost.protocol.encoding import b64decode, b64encode
from blindpost.protocol.limits import MESSAGE_MAX_BYTES, PEM_MAX_CHARS, SIGNATURE_MAX_BYTES, USERNAME_PATTERN


class Incoming(BaseModel):
    """A request body. Unknown fields are refused: a misspelt one must not be dropped in silence."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Outgoing(BaseModel):
    """An answer. A client must pass over fields that it does not know."""

    model_config = ConfigDict(extra="ignore", frozen=True)


def _base64_length(size: int) -> int:
    return (size + 2) // 3 * 4


def decoded(value: object) -> object:
    """Read base64, before the length is checked."""
    if isinstance(value, str):
        return b64decode(value)
    if isinstance(value, bytes):
        return value
    raise ValueError("must be text in standard base64")


def base64_schema(max_bytes: int) -> WithJsonSchema:
    """Describe base64 of at most so many bytes."""
    length = _base64_length(max_bytes)
    return WithJsonSchema(
        {
            "type": "string",
            "contentEncoding": "base64",
            "pattern": r"^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$",
            "minLength": 4,
            "maxLength": length,
        }
    )


def _utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:  # within hours of the calendar's two ends
        raise ValueError("the time is out of range") from None


def rfc3339(value: datetime) -> str:
    """Write a time in UTC, in microseconds."""
    return value.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


Signature = Annotated[
    bytes,
    BeforeValidator(decoded),
    Field(min_length=1, max_length=SIGNATURE_MAX_BYTES),
    PlainSerializer(b64encode),
    base64_schema(SIGNATURE_MAX_BYTES),
]
"""A DER signature; base64 on the wire."""

Ciphertext = Annotated[
    bytes,
    BeforeValidator(decoded),
    Field(min_length=1, max_length=MESSAGE_MAX_BYTES),
    PlainSerializer(b64encode),
    base64_schema(MESSAGE_MAX_BYTES),
]
"""Opaque bytes; base64 on the wire."""

Username = Annotated[str, Field(pattern=USERNAME_PATTERN, examples=["alice"])]
Pem = Annotated[
    str,
    Field(
        examples=["-----BEGIN PUBLIC KEY-----\n..."],
        # Described, not enforced: protocol.keys reads it strictly, so that every bad key is `invalid_key`.
        json_schema_extra={"minLength": 1, "maxLength": PEM_MAX_CHARS},
    ),
]
"""A public key as the client wrote it."""

Timestamp = Annotated[
    datetime, AfterValidator(_utc), PlainSerializer(rfc3339), WithJsonSchema({"type": "string", "format": "date-time"})
]
"""RFC 3339, UTC, in microseconds."""


class Problem(Outgoing):
    """RFC 9457 problem details, with a stable `code`."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str = Field(default="", description="Names the request in the router's log; X-Request-Id has it too")


class Done(Outgoing):
    """It was done."""

    status: str = "ok"
