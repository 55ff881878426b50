"""Padding to a few sizes, so that a router learns a message's size class and not its length."""

from typing import Final

from blindpost.protocol.limits import MESSAGE_MAX_BYTES

SMALLEST_BUCKET: Final = 512
"""A message needs 192 bytes of it for itself, so a smaller bucket would single out short messages."""
BUCKETS: Final = tuple(
    SMALLEST_BUCKET << step for step in range(MESSAGE_MAX_BYTES.bit_length() - SMALLEST_BUCKET.bit_length() + 1)
)
"""Every size that a message may have in all, in bytes: powers of two up to the router's limit."""

_MARK: Final = b"\x80"


def bucket_for(length: int) -> int:
    """Return the smallest bucket that holds `length` bytes; raises ValueError if none does."""
    for size in BUCKETS:
        if length <= size:
            return size
    raise ValueError(f"{length} bytes are more than the largest bucket of {BUCKETS[-1]}")


def pad(data: bytes, size: int) -> bytes:
    """Fill up to `size` bytes with 0x80 and zeros (ISO/IEC 7816-4); raises ValueError if there is no room.

    The mark is always there, so every byte string, one that ends in zeros too, has exactly one padded form.
    """
    if len(data) >= size:
        raise ValueError("there is no room for the padding's mark")
    return data + _MARK + bytes(size - len(data) - 1)


def unpad(padded: bytes) -> bytes:
    """Take the padding off; raises ValueError if there is no mark followed by nothing but zeros."""
    marked = padded.rstrip(b"\x00")
    if not marked.endswith(_MARK):
        raise ValueError("the padding has no mark")
    return marked[:-1]
