"""Changes of an input that a parser may stumble over: of its bytes, and of what it is made of.

The randomness is given: Hypothesis makes its own small, and the guided session takes any.
"""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

WORDS: Final = (
    b"\x00", b"\n", b"\r\n", b" ", b"=", b"|", b".", b"\xff", b"\x80", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\xd9\xa1",
    b"\x30\x81", b"\x02\x01\x00", b"-----BEGIN PUBLIC KEY-----\n", b"-----END PUBLIC KEY-----\n",
    b"{", b"}", b"[", b'"', b",", b":", b"\\ud800", b"\\u0000", b"9" * 20, b"-", b"+", b"_", b"1e400",
    b"blindpost/v1/login", b"A", b"AA==",
)  # fmt: skip
JSON_WORDS: Final = (
    "null", "true", "false", "0", "-0", "-1", "1.5", "1e400", "-1e400", "NaN", "Infinity", "-Infinity", "9" * 25,
    "9223372036854775808", "-9223372036854775808", "9" * 5_000, '""', '"x"', '"\\u0000"', '"\\ud800"',
    '"\\udc00\\ud800"', '"\\u00e9"', '"\u0661"', f'"{"x" * 600}"', "[]", "{}", '["x"]', '["\\ud800"]',
    '{"a":1,"a":2}', "[" * 500 + "]" * 500, '{"a":' * 500 + "1" + "}" * 500,
    '"00000000-0000-0000-0000-000000000000"', '"none"', '"AAAA"', '"AB=="', "[[[]]]", "",
)  # fmt: skip
LENGTH_MAX: Final = 8_192


class _Pairs(list[Any]):
    """An object of JSON whose names may stand twice."""


class _Word(str):
    """JSON, or what is none, to be written as it stands."""

    __slots__ = ()


def mutated(random: Random, data: bytes, others: Sequence[bytes] = ()) -> bytes:
    """Change an input in one to four ways."""
    for _ in range(random.randint(1, 4)):
        data = random.choice((_bytes, _bytes, _json_line, _segment, _spliced))(random, data, others)
    return data[:LENGTH_MAX]


def _bytes(random: Random, data: bytes, _others: Sequence[bytes]) -> bytes:
    """Change some bytes, wherever they are."""
    start = random.randint(0, len(data))
    end = min(len(data), start + random.choice((0, 0, 1, 1, 2, 8, 64)))
    changes: tuple[Callable[[], bytes], ...] = (
        lambda: b"",
        lambda: random.choice(WORDS),
        lambda: bytes(byte ^ 1 << random.randint(0, 7) for byte in data[start:end]),
        lambda: bytes((random.randint(0, 255),)),
        lambda: data[start:end] * random.randint(2, 40),
    )
    return data[:start] + random.choice(changes)() + data[end:]


def _spliced(random: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Go on with another input from somewhere."""
    other = random.choice(others) if others else data[::-1]
    return data[: random.randint(0, len(data))] + other[random.randint(0, len(other)) :]


def _segment(random: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Change what a part of a compact JWS says."""
    parts = data.split(b".")
    if len(parts) != len(("header", "claims", "signature")):
        return _bytes(random, data, others)
    index = random.randrange(len(parts))
    try:
        said = base64.urlsafe_b64decode(parts[index] + b"==")
    except binascii.Error:
        return _bytes(random, data, others)
    said = random.choice((_json_line, _bytes))(random, said, ())
    parts[index] = base64.urlsafe_b64encode(said).rstrip(b"=")
    return b".".join(parts)


def _json_line(random: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """Change a member of an object that fills a line."""
    lines = data.split(b"\n")
    objects = [index for index, line in enumerate(lines) if line.startswith(b"{")]
    if not objects:
        return _bytes(random, data, others)
    index = random.choice(objects)
    try:
        value = json.loads(lines[index], object_pairs_hook=_Pairs)
        _change_member(random, value)
        lines[index] = _written(value).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        return _bytes(random, data, others)
    return b"\n".join(lines)


def _change_member(random: Random, pairs: _Pairs) -> None:
    if not pairs:
        pairs.append(("a", _Word(random.choice(JSON_WORDS))))
        return
    index = random.randrange(len(pairs))
    name, value = pairs[index]
    if isinstance(value, _Pairs) and random.random() < 0.7:
        _change_member(random, value)
        return
    change = random.randrange(6)
    if change == 0:
        del pairs[index]
    elif change == 1:
        pairs.insert(random.randint(0, len(pairs)), (name, _Word(random.choice(JSON_WORDS))))
    elif change == 2:
        pairs[index] = random.choice((name + "x", name.upper(), "crit", "d", "\x00", "\ud800", "")), value
    elif change == 3 and isinstance(value, str):
        pairs[index] = name, _bytes(random, value.encode("utf-8", "surrogatepass"), ()).decode("utf-8", "replace")
    elif change == 4:
        pairs[index] = name, [value] if random.random() < 0.5 else _Pairs([(name, value)])
    else:
        pairs[index] = name, _Word(random.choice(JSON_WORDS))


def _written(value: object) -> str:
    if isinstance(value, _Word):
        return str(value)
    if isinstance(value, _Pairs):
        return "{" + ",".join(f"{json.dumps(name)}:{_written(each)}" for name, each in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_written(each) for each in value) + "]"
    return json.dumps(value)
