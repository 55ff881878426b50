"""What to look for, in every spelling in which it could have been written down, and the search for it."""

import re
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, NamedTuple
from uuid import UUID

PAGE: Final = 8_192
_STANDARD: Final = bytes.maketrans(b"-_", b"+/")
_BREAKS: Final = re.compile(rb"(?:\r|\n|\\r|\\n)+")


class Needle(NamedTuple):
    """Something that somebody had."""

    kind: str
    data: bytes
    is_text: bool = False
    """Then it is found in any case."""


class View(NamedTuple):
    """A place, prepared: as it is, in lower case, and as base64 of either alphabet without line breaks."""

    raw: bytes
    lower: bytes
    base64: bytes


def text(kind: str, value: str) -> Iterator[Needle]:
    yield Needle(kind, value.encode(), is_text=True)


def number(kind: str, value: UUID | str) -> Iterator[Needle]:
    """An id, as the text that people see and as its 16 bytes."""
    yield from text(kind, str(value))
    yield Needle(kind, UUID(str(value)).bytes)


def view(data: bytes) -> View:
    return View(data, data.lower(), _BREAKS.sub(b"", data).translate(_STANDARD))


def pages(data: Iterable[bytes]) -> bytes:
    """Put files together without pages that are empty, or the same as another: most of a young cluster is."""
    return b"".join({each[at : at + PAGE]: None for each in data for at in range(0, len(each), PAGE)})


def is_in(needle: Needle, place: View) -> bool:
    """Tell whether a place holds it: as bytes, in hex, or within something in base64."""
    data = needle.data
    is_written = data.lower() in place.lower if needle.is_text else data in place.raw
    return is_written or data.hex().encode() in place.lower or any(each in place.base64 for each in _base64(data))


def search(needles: Iterable[Needle], places: Mapping[str, bytes]) -> set[tuple[str, str]]:
    """Return which kinds are in which places."""
    views = {name: view(data) for name, data in places.items()}
    return {(name, each.kind) for each in set(needles) for name, place in views.items() if is_in(each, place)}


def _base64(data: bytes) -> Iterator[bytes]:
    """The characters that follow from the data alone, wherever in a text of base64 it begins (RFC 4648)."""
    for shift in range(3):
        encoded = b64encode(bytes(shift) + data)
        yield encoded[-(-shift * 8 // 6) : (shift + len(data)) * 8 // 6]
