"""Bad input of every kind is refused in one form, and tells nothing; the same request, repaired, works."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import httpx
import pytest
from structlog.testing import capture_logs

from blindpost.app import Running
from blindpost.core.embedded import StoreUrls
from blindpost.core.writer import MessageWriter
from blindpost.protocol.limits import BODY_MAX_BYTES
from checks import client_of, refusal, success
from support import Person, b64, contacts, person, running_in_thread, settings_for, unique_name

if TYPE_CHECKING:
    from collections.abc import Mapping

JSON = {"Content-Type": "application/json"}
SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}
DEEP = 40_000


async def post(someone: Person, path: str, body: bytes, headers: "Mapping[str, str]" = JSON) -> httpx.Response:
    return await someone.http.post(path, content=body, headers=dict(headers), auth=someone.auth)


def send_body(recipient: Person, **more: Any) -> dict[str, Any]:
    return {"recipient_id": recipient.id, "message": b64(b"opaque")} | more


def spellings(good: dict[str, Any]) -> dict[str, bytes]:
    """Write a good body in ways in which no JSON object of this API is written."""
    text = json.dumps(good)
    data = text.encode()
    inside = text[1:-1]
    return {
        "nothing": b"",
        "blank": b" \n ",
        "half": data[:-1],
        "two": data * 2,
        "text behind": data + b"x",
        "NUL behind": data + b"\x00",
        "comma at the end": f"{{{inside},}}".encode(),
        "comment": b"/* */" + data,
        "single quotes": text.replace('"', "'").encode(),
        "array": f"[{text}]".encode(),
        "string": json.dumps(text).encode(),
        "number": b"1",
        "null": b"null",
        "true": b"true",
        "byte order mark": b"\xef\xbb\xbf" + data,
        "UTF-16": text.encode("utf-16"),
        "UTF-32": text.encode("utf-32-be"),
        "invalid UTF-8": data[:-2] + b'\xff"}',
        "overlong UTF-8": data[:-2] + b'\xc0\xaf"}',
        "surrogate in UTF-8": data[:-2] + b'\xed\xa0\x80"}',
        "repeated field": f"{{{inside},{inside}}}".encode(),
        "repeated unknown field": f'{{{inside},"x":1,"x":2}}'.encode(),
        "unknown field": f'{{{inside},"x":1}}'.encode(),
        "unknown field null": f'{{{inside},"x":null}}'.encode(),
        "NUL in a value": f'{{{inside},"client_message_id":"\\u0000"}}'.encode(),
        "raw NUL in a value": data.replace(b': "', b': "\x00', 1),
        "NUL in a name": f'{{{inside},"\\u0000":1}}'.encode(),
        "lone surrogate in a value": f'{{{inside},"client_message_id":"\\ud800"}}'.encode(),
        "lone surrogate in a name": f'{{{inside},"\\udfff":1}}'.encode(),
        "surrogates in the wrong order": f'{{{inside},"client_message_id":"\\udc00\\ud800"}}'.encode(),
        "NaN": f'{{{inside},"client_message_id":NaN}}'.encode(),
        "infinity": f'{{{inside},"client_message_id":-Infinity}}'.encode(),
        "float beyond its range": f'{{{inside},"client_message_id":1e999}}'.encode(),
        "integer beyond 64 bits": f'{{{inside},"client_message_id":{2**64}}}'.encode(),
        "huge integer": f'{{{inside},"client_message_id":{"9" * 50_000}}}'.encode(),
        "huge integer in an unknown field": f'{{{inside},"x":-{"9" * 5_000}}}'.encode(),
        "deep array": f'{{{inside},"x":{"[" * DEEP}{"]" * DEEP}}}'.encode(),
        "deep array alone": b"[" * DEEP,
        "deep object": f'{{{inside},"x":{"{" * 1}{chr(34)}a{chr(34)}:{"[" * DEEP}'.encode(),
        "deep objects": b'{"a":' * 15_000,
    }


NAMES_OF_SPELLINGS = list(spellings({"a": "b"}))


@pytest.mark.parametrize("kind", NAMES_OF_SPELLINGS)
async def test_what_is_not_one_strict_json_object_is_refused_and_repaired_it_works(
    http: httpx.AsyncClient, kind: str
) -> None:
    alice, bob = await contacts(http)
    good = send_body(bob)
    refusal(await post(alice, "/messages/send", spellings(good)[kind]), 400)
    success(await post(alice, "/messages/send", json.dumps(good).encode()), 201)


async def test_the_same_holds_without_a_session(http: httpx.AsyncClient) -> None:
    alice = Person(http)
    good = alice.registration()
    for kind, body in spellings(good).items():
        answer = await http.post("/auth/register", content=body, headers=JSON)
        assert refusal(answer, 400)["code"] in {"invalid_json", "invalid_request"}, kind
    success(await http.post("/auth/register", content=json.dumps(good).encode(), headers=JSON), 201)


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/xml", ""]
)
async def test_a_body_of_another_content_type_is_refused(http: httpx.AsyncClient, content_type: str) -> None:
    """So that no form of another site can post here."""
    alice, bob = await contacts(http)
    body = json.dumps(send_body(bob)).encode()
    refusal(await post(alice, "/messages/send", body, {"Content-Type": content_type}), 400)
    success(await post(alice, "/messages/send", body, {"Content-Type": "application/json; charset=utf-8"}), 201)


WRONG_TYPES: list[Any] = [None, True, 0, -1, 1.5, "", "x", "\u00e9", [], {}, [None], {"x": 1}, "-" * 60_000]


@pytest.mark.parametrize("field", ["recipient_id", "message", "client_message_id"])
async def test_a_field_of_another_type_is_refused_and_repaired_it_works(http: httpx.AsyncClient, field: str) -> None:
    alice, bob = await contacts(http)
    good = send_body(bob, client_message_id=str(uuid4()))
    for wrong in WRONG_TYPES:
        if field == "client_message_id" and wrong is None:
            continue  # optional
        answer = await alice.post("/messages/send", **good | {field: wrong})
        problem = refusal(answer, 400, "invalid_request")
        assert field in problem["detail"]
    success(await alice.post("/messages/send", **good), 201)


async def test_a_missing_field_is_refused_and_named(http: httpx.AsyncClient) -> None:
    good = Person(http).registration()
    for field in good:
        rest = {name: value for name, value in good.items() if name != field}
        problem = refusal(await http.post("/auth/register", json=rest), 400, "invalid_request")
        assert field in problem["detail"]
    success(await http.post("/auth/register", json=good), 201)


@pytest.mark.parametrize(
    "identifier", ["1", "x", "None", "%00", "0" * 33, "..", "{id}", "%F0%9F%93%AE", "'", "a" * 5_000]
)
async def test_an_id_in_a_path_is_a_uuid(http: httpx.AsyncClient, identifier: str) -> None:
    alice = await person(http)
    path = f"/auth/public-keys/{identifier}"
    refusal(await alice.get(path), 404 if identifier == ".." else 400)
    success(await alice.get(f"/auth/public-keys/{alice.id}"))


@pytest.mark.parametrize(
    "path",
    [
        "/contacts/search-users",
        "/contacts/search-users?username=",
        "/contacts/search-users?username=%FF%FE%FD",
        "/contacts/search-users?username=abc%00",
        "/contacts/users-by-ids",
        "/contacts/get-contact-requests?direction=both",
        "/contacts/get-contact-requests?direction=",
        "/messages/poll?timeout=-1",
        "/messages/poll?timeout=61",
        "/messages/poll?timeout=NaN",
        "/messages/poll?timeout=0&limit=0",
        "/messages/get-undelivered-messages?limit=501",
        "/messages/get-undelivered-messages?limit=1e2",
        "/messages/get-undelivered-messages?limit=%D9%A1",
        "/messages/status",
        "/messages/status?ids=x",
    ],
)
async def test_a_bad_query_is_refused(http: httpx.AsyncClient, path: str) -> None:
    alice = await person(http)
    refusal(await alice.call("GET", path), 400, "invalid_request")


@pytest.mark.parametrize(
    "path", ["/", "/auth", "/auth/", "/auth/me/", "//auth/me", "/auth/ME", "/docs", "/metrics", "/%00"]
)
async def test_an_unknown_path_is_not_found(http: httpx.AsyncClient, path: str) -> None:
    answer = await http.request("GET", httpx.URL(str(http.base_url).rstrip("/") + path))
    refusal(answer, 404, "not_found")


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/auth/register", {"POST"}),
        ("/auth/me", {"GET", "DELETE"}),
        ("/auth/ecdsa-update-key", {"PUT"}),
        ("/contacts/get-contacts", {"GET"}),
        ("/messages/poll", {"GET", "POST"}),
        ("/health/live", {"GET"}),
        ("/openapi.json", {"GET"}),
    ],
)
async def test_a_method_that_a_path_lacks_is_refused_with_those_that_it_has(
    http: httpx.AsyncClient, path: str, allowed: set[str]
) -> None:
    for method in {"GET", "POST", "PUT", "DELETE", "PATCH", "TRACE"} - allowed:
        answer = await http.request(method, path)
        refusal(answer, 405, "method_not_allowed")
        assert {each.strip() for each in answer.headers["Allow"].split(",")} - {"HEAD"} == allowed


# Size


@pytest.mark.parametrize("path", ["/auth/register", "/auth/login", "/messages/send", "/messages/ack", "/nowhere"])
async def test_a_body_that_announces_too_much_is_refused_unread(router: Running, path: str) -> None:
    """The body is never sent, and the answer comes all the same."""
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {10**15}\r\n\r\n"
    status, answer = await over_a_socket(router, head.encode())
    assert (status, answer["code"]) == (413, "too_large")


async def test_a_body_at_the_limit_is_read_and_one_byte_more_is_refused(http: httpx.AsyncClient) -> None:
    good = json.dumps(Person(http).registration()).encode()
    padding = BODY_MAX_BYTES - len(good)
    refusal(await http.post("/auth/register", content=good + b" " * (padding + 1), headers=JSON), 413, "too_large")
    success(await http.post("/auth/register", content=good + b" " * padding, headers=JSON), 201)


@pytest.mark.parametrize("path", ["/auth/register", "/auth/login", "/messages/send", "/auth/me"])
async def test_a_body_without_end_is_refused_after_the_limit(router: Running, path: str) -> None:
    """Chunked, without a Content-Length: the answer comes although the body never ends."""
    method = "DELETE" if path == "/auth/me" else "POST"
    head = (
        f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    size = BODY_MAX_BYTES + 1
    status, answer = await over_a_socket(router, head.encode() + f"{size:x}\r\n".encode() + b" " * size)
    assert (status, answer["code"]) == (413, "too_large")


async def over_a_socket(router: Running, data: bytes) -> tuple[int, dict[str, Any]]:
    """Send the beginning of a request, and wait for the answer to it."""
    address = urlsplit(router.origin)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    try:
        writer.write(data)
        async with asyncio.timeout(20):
            head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        assert "connection: close" in (line.lower() for line in head)
        return int(head[0].split()[1]), json.loads(await reader.read())
    finally:
        writer.close()


async def test_a_chunked_body_within_the_limit_is_read(http: httpx.AsyncClient) -> None:
    data = json.dumps(Person(http).registration()).encode()

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(data), 100):
            yield data[start : start + 100]

    success(await http.post("/auth/register", content=chunks(), headers=JSON), 201)


# What an error tells


async def test_no_error_repeats_what_was_submitted(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    secret = "hush" + uuid4().hex
    answers = [
        await http.get("/auth/me", headers={"Authorization": f"Bearer {secret}"}),
        await http.post("/auth/register", json=alice.registration() | {"ecdsa_public_key": secret}),
        await http.post("/auth/register", json=alice.registration() | {"username": f"{secret}-"}),
        await http.post("/auth/register", json=alice.registration() | {"ecdh_signature": secret}),
        await http.post("/auth/login", json={"username": secret, "challenge": secret, "signature": b64(b"x")}),
        await http.post("/auth/login", json={"username": secret, "challenge": secret, "signature": secret}),
        await http.get(f"/auth/challenge/{secret}-"),
        await http.get(f"/{secret}"),
        await alice.get(f"/auth/public-keys/{secret}"),
        await alice.get("/contacts/search-users", username=f"{secret}%"),
        await alice.get("/contacts/users-by-ids", users_ids=secret),
        await alice.get("/contacts/get-contact-requests", direction=secret),
        await alice.get("/messages/poll", timeout=secret),
        await alice.get("/messages/status", ids=secret),
        await alice.post("/messages/send", recipient_id=secret, message=secret),
        await alice.post("/messages/ack", message_ids=[secret]),
        await post(alice, "/messages/ack", secret.encode()),
        await post(alice, "/messages/ack", json.dumps(secret).encode()),
    ]
    for answer in answers:
        assert 400 <= answer.status_code < 500, answer.url
        refusal(answer, answer.status_code)
        assert secret not in answer.text
        assert not any(secret in value for value in answer.headers.values())


async def test_a_misspelt_field_is_named_and_no_other_text_in_its_place(http: httpx.AsyncClient) -> None:
    good = Person(http).registration()
    answer = await http.post("/auth/register", json=good | {"user_name": 1})
    assert "user_name" in refusal(answer, 400, "invalid_request")["detail"]
    for text in ("hush" + uuid4().hex, "hush " * 3, "hush" * 1_000, "<hush>"):
        answer = await http.post("/auth/register", json=good | {text: 1})
        refusal(answer, 400, "invalid_request")
        assert "hush" not in answer.text


async def test_an_error_is_short_however_much_was_wrong(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    answer = await alice.post("/messages/ack", message_ids=["x"] * 500)
    refusal(answer, 400, "invalid_request")
    answer_with_fields = await http.post("/auth/register", json={"x" * 1_000 + str(n): n for n in range(50)})
    refusal(answer_with_fields, 400, "invalid_request")
    assert max(len(answer.content), len(answer_with_fields.content)) < 1_500


async def test_every_answer_has_the_security_headers(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    answers = [
        await http.get("/health/live"),
        await http.get("/openapi.json"),
        await http.get("/nowhere"),
        await http.put("/health/live"),
        await http.get("/auth/me"),
        await alice.get("/auth/me"),
        await http.post("/auth/login", json={}),
        await http.post("/auth/register", content=b" " * (BODY_MAX_BYTES + 1)),
    ]
    assert {answer.status_code for answer in answers} == {200, 400, 401, 404, 405, 413}
    for answer in answers:
        assert {name: answer.headers.get(name) for name in SECURITY_HEADERS} == SECURITY_HEADERS
        assert "Server" not in answer.headers
    assert len({answer.headers["X-Request-Id"] for answer in answers}) == len(answers)


# Faults of ours


async def test_a_fault_of_the_server_tells_and_logs_nothing_of_its_text(scratch: StoreUrls, data_dir: Path) -> None:
    """A table is missing: the driver's error would name it, the statement and its parameters."""
    with running_in_thread(settings_for(scratch, data_dir / f"fault-{uuid4()}")) as router:
        async with client_of(router) as http:
            alice = await person(http, unique_name("leak"))
            connection = await asyncpg.connect(scratch.database_url)
            await connection.execute("DROP TABLE contact_requests")
            await connection.close()
            with capture_logs() as logs:
                answer = await alice.get("/contacts/search-users", username=alice.name)
            quoted = refusal(answer, 500, "internal_error")["request_id"]
            success(await alice.get("/auth/me"))
    fault = next(entry for entry in logs if entry["event"] == "request_failed")
    assert fault["request_id"] == quoted
    assert fault["route"] == "/contacts/search-users"
    for text in (answer.text, str(logs)):
        for leak in ("contact_requests", "SELECT", "does not exist", alice.name, alice.name.lower(), alice.token):
            assert leak not in text


async def test_a_fault_in_a_batch_is_logged_with_the_id_that_its_answer_has(
    router: Running, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch is many people's, and its own line names none of their requests."""
    alice, bob = await contacts(http)
    writer = await router.container.get(MessageWriter)
    monkeypatch.setattr(writer.sends, "_flush", failing)
    with capture_logs() as logs:
        quoted = refusal(await alice.send(bob), 500, "internal_error")["request_id"]
    assert [entry["event"] for entry in logs if entry["log_level"] == "error"] == ["flush_failed", "request_refused"]
    assert logs[-1]["request_id"] == quoted
    assert logs[-1]["code"] == "internal_error"


async def failing(_batch: object) -> NoReturn:
    raise RuntimeError


async def test_a_refusal_is_found_by_its_id_where_the_log_is_at_its_least_level(http: httpx.AsyncClient) -> None:
    with capture_logs() as logs:
        quoted = refusal(await http.get("/auth/me"), 401, "not_authenticated")["request_id"]
    (line,) = (entry for entry in logs if entry.get("request_id") == quoted)
    assert (line["log_level"], line["status"], line["code"]) == ("debug", 401, "not_authenticated")
