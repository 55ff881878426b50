"""Metrics count by route and status, and by nothing that a client can choose."""

from uuid import uuid4

import httpx

from blindpost.app import Running
from support import person, unique_name


async def test_no_label_is_made_of_what_a_client_sends(router: Running, http: httpx.AsyncClient) -> None:
    alice = await person(http)
    invented = uuid4().hex
    await alice.get("/contacts/search-users", username=alice.name)
    await alice.get(f"/auth/public-keys/{alice.id}")
    await http.get(f"/auth/challenge/{unique_name(invented[:8])}")
    await http.get(f"/{invented}?{invented}")
    for method in (invented.upper(), "PROPFIND", "UNLOCK"):
        await http.request(method, "/auth/me", headers={"User-Agent": invented})
    async with httpx.AsyncClient() as scraper:
        text = (await scraper.get(router.metrics)).text.lower()
    assert 'route="/auth/challenge/{username}"' in text
    assert 'method="other"' in text
    for value in (alice.name, alice.id, invented, invented[:8], "propfind", "unlock"):
        assert value.lower() not in text
