"""What the calls of every message are answered with, as JSON: the models' own words, written by hand as frames are."""

from collections.abc import Iterable

from blindpost.routers import frames
from blindpost.services.models.messages import (
    Acknowledged,
    AcknowledgingPollAnswer,
    Message,
    MessagePage,
    PollAnswer,
    Sent,
)


def sent(answer: Sent) -> bytes:
    """Write the answer to a send."""
    return f'{{"id":"{answer.id}","timestamp":"{frames.time(answer.timestamp)}","status":"{answer.status}"}}'.encode()


def acknowledged(answer: Acknowledged) -> bytes:
    """Write the answer to an acknowledgement."""
    return f'{{"status":"{answer.status}","acknowledged":{frames.ids(answer.acknowledged)}}}'.encode()


def page(answer: MessagePage) -> bytes:
    """Write a page of messages."""
    return f"{{{_page(answer)}}}".encode()


def poll(answer: PollAnswer) -> bytes:
    """Write the answer to a poll."""
    return f"{{{_poll(answer)}}}".encode()


def acknowledging_poll(answer: AcknowledgingPollAnswer) -> bytes:
    """Write the answer to a poll that acknowledges."""
    return f'{{{_poll(answer)},"acknowledged":{frames.ids(answer.acknowledged)}}}'.encode()


def _poll(answer: PollAnswer) -> str:
    changed = "true" if answer.contacts_changed else "false"
    return f'{_page(answer)},"contacts_changed":{changed},"delivered":{frames.ids(answer.delivered)}'


def _page(answer: MessagePage) -> str:
    has_messages, has_more = ("true" if each else "false" for each in (answer.has_messages, answer.has_more))
    return f'"has_messages":{has_messages},"has_more":{has_more},"messages":[{_messages(answer.messages)}]'


def _messages(messages: Iterable[Message]) -> str:
    return ",".join(
        f"{{{frames.members(each.id, each.sender_id, each.recipient_id, each.message, each.timestamp)}}}"
        for each in messages
    )
