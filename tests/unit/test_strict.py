"""JSON is bounded in depth before anything nests, and in one pass whatever it holds."""

import json
import time

import pytest

from blindpost.routers.strict import DEPTH_MAX, loads


def nested(depth: int, opening: str = "[", closing: str = "]") -> bytes:
    return (opening * depth + "1" + closing * depth).encode()


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_json_is_read_to_its_greatest_depth_and_no_deeper(opening: str, closing: str) -> None:
    steps = DEPTH_MAX // (opening.count("[") + opening.count("{"))
    assert loads(nested(steps, opening, closing))
    with pytest.raises(json.JSONDecodeError):
        loads(nested(steps + 1, opening, closing))


def test_what_is_wide_is_not_deep() -> None:
    assert len(loads(json.dumps([[], {}] * 10 * DEPTH_MAX).encode())) == 20 * DEPTH_MAX


@pytest.mark.parametrize(
    "text", ["[" * 100, "]" * 100, '"[' * 100, '\\"[' * 100, "\\" * 99 + "[", "\n{" * 100, "é[" * 99]
)
def test_brackets_in_a_string_are_no_depth(text: str) -> None:
    body = {"a": text, text: [{"b": text}]}
    assert loads(json.dumps(body).encode()) == body
    assert loads(json.dumps(body, ensure_ascii=False).encode()) == body


def test_a_string_cannot_hide_depth() -> None:
    for prefix in ("[", '["\\"",', '["\\\\",', '[""', '["', '"', "\\", '\\"'):
        with pytest.raises(json.JSONDecodeError):
            loads(f"{prefix}{'[' * 1_000}".encode())


@pytest.mark.parametrize("unit", ['"', '\\"', '"[', "[]", "[],", '"\\', '{"":', "]", "[\\"])
def test_no_text_takes_long_to_refuse(unit: str) -> None:
    body = (unit * 98_304)[:98_304].encode()
    started = time.perf_counter()
    with pytest.raises(json.JSONDecodeError):
        loads(body)
    assert time.perf_counter() - started < 1
