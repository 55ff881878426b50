"""What is read and written by hand is what the strict way reads and the models write."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from blindpost.core.hub import MessageRow
from blindpost.protocol.encoding import b64encode
from blindpost.protocol.limits import MESSAGE_MAX_BYTES, PAGE_MAX
from blindpost.routers import answers, frames, usual
from blindpost.routers.strict import loads
from blindpost.services.models.messages import (
    Acknowledged,
    AcknowledgingPollAnswer,
    AckRequest,
    Message,
    PollAnswer,
    SendRequest,
    Sent,
)
from blindpost.services.models.stream import SendFrame

ids = st.uuids()
times = st.integers(0, 4_000_000_000_000_000).map(
    lambda us: datetime.fromtimestamp(0, UTC) + timedelta(microseconds=us)
)
ciphertexts = st.binary(min_size=1, max_size=200)
separators = st.sampled_from([(",", ":"), (", ", ": "), (",", ": ")])
messages = st.builds(Message, id=ids, sender_id=ids, recipient_id=ids, message=ciphertexts, timestamp=times)


def strictly(text: str, model: type[SendRequest] | type[AckRequest]) -> Any:
    """Read as everything that is not usual is read; None for what is refused."""
    try:
        return model.model_validate(loads(text.encode()))
    except (ValueError, ValidationError):
        return None


@st.composite
def bodies(draw: st.DrawFn) -> str:
    """Write sends as a client might, and a little wrong."""
    members = {
        "recipient_id": str(draw(ids)),
        "message": b64encode(draw(ciphertexts)),
        "client_message_id": str(draw(ids)),
    }
    names = draw(st.permutations(sorted(members)).map(lambda each: each[: draw(st.integers(1, 3))]))
    text = json.dumps({name: members[name] for name in names}, separators=draw(separators))
    at = draw(st.integers(0, len(text) - 1))
    spoil = draw(st.sampled_from(["", "", "", '"', "A", "=", " ", "\\u0041", "\n", "{", "\x00", "-"]))
    return text[:at] + spoil + text[at + bool(spoil) * draw(st.integers(0, 1)) :]


@given(bodies())
def test_a_send_that_is_read_by_hand_is_read_the_same_strictly(text: str) -> None:
    found = usual.send(text)
    if found is not None:
        strict = strictly(text, SendRequest)
        assert strict is not None
        assert (found.recipient_id, found.message) == (strict.recipient_id, strict.message)
        assert found.client_message_id == strict.client_message_id
        assert found.text == b64encode(found.message)


@given(ids, ciphertexts, ids, separators)
def test_a_frame_as_libraries_write_it_is_read_by_hand(
    recipient_id: UUID, data: bytes, identifier: UUID, separators: tuple[str, str]
) -> None:
    members = {"recipient_id": str(recipient_id), "message": b64encode(data), "client_message_id": str(identifier)}
    text = json.dumps({"type": "send"} | members, separators=separators)
    found = usual.send(text, kind="send")
    strict = SendFrame.model_validate(loads(text.encode()))
    assert found is not None
    assert found[:3] == (strict.recipient_id, strict.message, strict.client_message_id)
    assert usual.send(text) is None
    assert usual.send(json.dumps(members)) is not None


@pytest.mark.parametrize(
    "text",
    [
        '{"recipient_id":"%(id)s","recipient_id":"%(id)s","message":"YQ=="}',
        '{"message":"YQ==","message":"YQ=="}',
        '{"recipient_id":"%(id)s","message":"YR=="}',
        '{"recipient_id":"%(id)s","message":"YQ"}',
        '{"recipient_id":"%(ID)s","message":"YQ=="}',
        '{"recipient_id":"{%(id)s}","message":"YQ=="}',
        '{"recipient_id":"%(hex)s","message":"YQ=="}',
        '{"recipient_id":"%(id)s","message":"YQ==","more":"x"}',
        '{"recipient_id":"%(id)s","message":"YQ==","client_message_id":null}',
        '{"recipient_id":"%(id)s","message":"YQ==","type":"send"}',
        '{"recipient_id":"%(id)s"}',
        '{"recipient_id":"%(id)s","message":"%(large)s"}',
        ' {"recipient_id":"%(id)s","message":"YQ=="}',
        '{"recipient_id":"%(id)s","message":"YQ=="}x',
    ],
)
def test_whatever_is_not_usual_is_left_to_the_strict_way(text: str) -> None:
    value = UUID(int=0xABCDEF << 100)
    fields = {"id": str(value), "ID": str(value).upper(), "hex": value.hex, "large": b64encode(bytes(65_537))}
    assert usual.send(text % fields) is None


def test_the_largest_message_is_usual() -> None:
    body = {"recipient_id": str(UUID(int=1)), "message": b64encode(bytes(MESSAGE_MAX_BYTES))}
    assert usual.send(json.dumps(body)) is not None


@given(st.lists(ids, max_size=4), separators, st.sampled_from(["", "x", '"', ",", " "]))
def test_acknowledgements_that_are_read_by_hand_are_read_the_same_strictly(
    values: list[UUID], separators: tuple[str, str], spoil: str
) -> None:
    body = json.dumps({"message_ids": [str(each) for each in values]}, separators=separators) + spoil
    frame = json.dumps({"type": "ack", "message_ids": [str(each) for each in values]}, separators=separators) + spoil
    strict = strictly(body, AckRequest)
    expected = values if values and not spoil else None
    assert usual.ack_body(body) == usual.ack_frame(frame) == expected
    if expected is not None:
        assert strict is not None
        assert strict.message_ids == expected


def test_more_acknowledgements_than_a_page_are_left_to_the_strict_way_which_refuses_them() -> None:
    values = [str(UUID(int=number)) for number in range(PAGE_MAX + 1)]
    assert usual.ack_body(json.dumps({"message_ids": values[:-1]})) is not None
    assert usual.ack_body(json.dumps({"message_ids": values})) is None
    assert strictly(json.dumps({"message_ids": values}), AckRequest) is None


@given(st.builds(Sent, id=ids, timestamp=times))
def test_the_answer_to_a_send_is_the_model_s(answer: Sent) -> None:
    assert json.loads(answers.sent(answer)) == json.loads(answer.model_dump_json())


@given(st.builds(Acknowledged, acknowledged=st.lists(ids, max_size=5)))
def test_the_answer_to_an_acknowledgement_is_the_model_s(answer: Acknowledged) -> None:
    assert json.loads(answers.acknowledged(answer)) == json.loads(answer.model_dump_json())


@given(
    st.builds(
        AcknowledgingPollAnswer,
        has_messages=st.booleans(),
        has_more=st.booleans(),
        messages=st.lists(messages, max_size=3),
        contacts_changed=st.booleans(),
        delivered=st.lists(ids, max_size=3),
        acknowledged=st.lists(ids, max_size=3),
    )
)
def test_the_answer_to_a_poll_is_the_model_s(answer: AcknowledgingPollAnswer) -> None:
    assert json.loads(answers.acknowledging_poll(answer)) == json.loads(answer.model_dump_json())
    assert json.loads(answers.poll(answer)) == json.loads(answer.model_dump_json(include=set(PollAnswer.model_fields)))
    page = json.loads(answers.page(answer))
    assert page == {name: json.loads(answer.model_dump_json())[name] for name in page}


@given(messages, st.booleans())
def test_a_message_s_frame_has_what_a_poll_has(message: Message, is_at_hand: bool) -> None:  # noqa: FBT001
    text = b64encode(message.message) if is_at_hand else None
    row = MessageRow(message.id, message.sender_id, message.recipient_id, message.message, message.timestamp, text)
    assert json.loads(frames.message(row)) == {"type": "message"} | json.loads(message.model_dump_json())
    later = row._replace(timestamp=row.timestamp + timedelta(seconds=1))
    assert frames.message(later) != frames.message(row)
