"""The description that clients are generated from."""

from collections.abc import Iterator
from typing import Any

import httpx


async def described(http: httpx.AsyncClient) -> dict[str, Any]:
    answer = await http.get("/openapi.json")
    assert answer.status_code == 200
    schema: dict[str, Any] = answer.json()
    return schema


def references(node: object) -> Iterator[str]:
    if isinstance(node, dict):
        if isinstance(node.get("$ref"), str):
            yield node["$ref"]
        for each in node.values():
            yield from references(each)
    elif isinstance(node, list):
        for each in node:
            yield from references(each)


async def test_every_reference_in_the_served_description_resolves(http: httpx.AsyncClient) -> None:
    schema = await described(http)
    found = set(references(schema))
    assert "#/components/schemas/Problem" in found
    for reference in found:
        node: Any = schema
        for part in reference.removeprefix("#/").split("/"):
            node = node[part]


async def test_every_error_is_described_as_a_problem_and_422_is_never_promised(http: httpx.AsyncClient) -> None:
    schema = await described(http)
    for path in schema["paths"].values():
        for operation in path.values():
            assert "422" not in operation["responses"]
            errors = {status: each for status, each in operation["responses"].items() if int(status) >= 400}
            assert {"400", "500", "503"} <= errors.keys()
            assert all(list(each["content"]) == ["application/problem+json"] for each in errors.values())
