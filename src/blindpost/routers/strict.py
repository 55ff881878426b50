"""JSON read strictly: what two parsers could read in two ways is refused."""

import json
import re
from collections.abc import Callable, Coroutine
from math import isinf
from typing import Any, Final, NoReturn

from dishka.integrations.fastapi import DishkaRoute
from fastapi import Request, Response

from blindpost.errors import InvalidJson

INTEGER_MAX_DIGITS: Final = 19
DEPTH_MAX: Final = 32
"""Far beyond any body of the contract, and far from the interpreter's own limit, which differs between versions."""
_STRING_OR_BRACKET: Final = re.compile(r'"(?:[^"\\]|\\.)*+"?|[][{}]', re.DOTALL)


class StrictRequest(Request):
    """A request whose body is read by `loads`."""

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = loads(await self.body())
        return self._json


class StrictRoute(DishkaRoute):
    """A route that takes what it needs from Dishka and reads bodies strictly."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def strict(request: Request) -> Response:
            return await handler(StrictRequest(request.scope, request.receive))

        return strict


def loads(body: bytes) -> Any:
    """Parse UTF-8 JSON; raises json.JSONDecodeError.

    Refused beyond the grammar: duplicate keys, NUL, lone surrogates, NaN, integers beyond 64 bits, numbers beyond what
    a float holds, and more depth than DEPTH_MAX.
    """
    try:
        text = body.decode("utf-8")
        if _has_many(text, "[") or _has_many(text, "{"):
            _demand_shallow(text)
        value = _DECODER.decode(text)
        if "\\u" in text:  # there is no other way to write either
            _demand_clean(value)
        return value
    except (ValueError, RecursionError):
        # Without the text: it would travel in the error.
        raise json.JSONDecodeError(InvalidJson.title, "", 0) from None


def _has_many(text: str, bracket: str) -> bool:
    """Tell whether there are more than half of DEPTH_MAX: `find` sees that there are not much faster than `count`."""
    place = -1
    for _ in range(DEPTH_MAX // 2 + 1):
        place = text.find(bracket, place + 1)
        if place < 0:
            return False
    return True


def _demand_shallow(text: str) -> None:
    """Refuse what is nested too deeply, without nesting: in one pass, whatever the text."""
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(text):
        mark = match[0]
        if mark in "[{":
            depth += 1
            if depth > DEPTH_MAX:
                raise ValueError("too deep")
        elif mark in "]}":
            depth -= 1


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("duplicate key")
    return result


def _demand_clean(value: object) -> None:
    """Refuse NUL, which PostgreSQL does not hold, and lone surrogates, which are no characters, wherever they are."""
    if isinstance(value, str):
        if "\x00" in value:
            raise ValueError("NUL")
        value.encode("utf-8")
    elif isinstance(value, list):
        for each in value:
            _demand_clean(each)
    elif isinstance(value, dict):
        for key, each in value.items():
            _demand_clean(key)
            _demand_clean(each)


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > INTEGER_MAX_DIGITS or not -(2**63) <= int(digits) < 2**63:
        raise ValueError("integer out of range")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if isinf(value):
        raise ValueError("number out of range")
    return value


def _refuse(constant: str) -> NoReturn:
    raise ValueError(constant)


_DECODER: Final = json.JSONDecoder(
    object_pairs_hook=_unique, parse_int=_integer, parse_float=_float, parse_constant=_refuse
)
