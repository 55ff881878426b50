"""/auth: who one is, and how that begins, changes and ends."""

import asyncio
import base64
import json
import re
import time
from datetime import datetime
from hashlib import sha384
from hmac import digest as hmac_digest
from pathlib import Path
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from blindpost.app import Running
from blindpost.core.audit import Audit
from blindpost.core.database import Database
from blindpost.core.pseudonyms import Pseudonyms
from blindpost.core.tokens import Tokens
from blindpost.protocol import transcripts
from blindpost.protocol.dpop import ProofKey
from blindpost.protocol.keys import PublicKey
from blindpost.protocol.limits import SIGNATURE_MAX_BYTES
from checks import Waiting, another_session, refusal, said_by, success
from forgeries import BAD_KEYS, OTHER_SIGNATURES, mirrored, other_signature
from support import Person, Signed, b64, contacts, new_key, person, public, sign, unique_name

if TYPE_CHECKING:
    import asyncpg
    from redis.asyncio import Redis

BAD_NAMES = {
    "empty": "",
    "too short": "ab",
    "too long": "a" * 51,
    "hyphen": "al-ice",
    "space": "al ice",
    "line feed at the end": "alice\n",
    "carriage return": "alice\r",
    "separator of the challenge": "alice|x",
    "path": "../alice",
    "percent": "alice%",
    "Cyrillic a": "\u0430lice",
    "full-width a": "\uff41lice",
    "long s": "alice\u017f",  # its upper case is S
    "Kelvin sign": "alice\u212a",  # its lower case is k
    "dotless i": "al\u0131ce",
    "combining accent": "alice\u0301",
    "Arabic digit": "alice\u0661",
    "zero-width space": "alice\u200b",
    "right-to-left override": "\u202ealice",
    "emoji": "alice\U0001f4ee",
}


def raw(signature: str) -> bytes:
    return base64.b64decode(signature)


async def post(http: httpx.AsyncClient, path: str, body: dict[str, str], key: ProofKey | None = None) -> httpx.Response:
    """Post without a session, showing a session's key as a login must."""
    return await http.post(path, json=body, auth=Signed(key))


async def try_login(someone: Person, **changes: str) -> httpx.Response:
    return await post(someone.http, "/auth/login", await someone.login_body() | changes)


# Registration


async def test_registration_returns_the_id_and_the_name_as_written(http: httpx.AsyncClient) -> None:
    alice = Person(http, unique_name("Alice"))
    body = success(await post(http, "/auth/register", alice.registration()), 201)
    assert set(body) == {"id", "username"}
    assert body["username"] == alice.name
    assert str(UUID(body["id"])) == body["id"]


@pytest.mark.parametrize("kind", BAD_KEYS)
async def test_registration_takes_no_key_but_a_canonical_one(http: httpx.AsyncClient, kind: str) -> None:
    body = Person(http).registration()
    bad = BAD_KEYS[kind]()
    for role in ("ecdsa_public_key", "ecdh_public_key"):
        problem = refusal(await post(http, "/auth/register", body | {role: bad}), 400, "invalid_key")
        assert len(bad) < 10 or json.dumps(bad)[1:-1] not in json.dumps(problem)
    success(await post(http, "/auth/register", body), 201)


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
async def test_registration_takes_a_key_in_lines_of_either_kind(http: httpx.AsyncClient, line_end: str) -> None:
    body = Person(http).registration()
    changed = body | {"ecdsa_public_key": body["ecdsa_public_key"].replace("\n", line_end)}
    success(await post(http, "/auth/register", changed), 201)


async def test_one_key_cannot_serve_both_roles(http: httpx.AsyncClient) -> None:
    key = new_key()
    body = Person(http, ecdsa=key, ecdh=key).registration()
    refusal(await post(http, "/auth/register", body), 400, "invalid_key")


async def test_one_key_in_two_spellings_cannot_serve_both_roles(http: httpx.AsyncClient) -> None:
    key = new_key()
    body = Person(http, ecdsa=key, ecdh=key).registration()
    body["ecdh_public_key"] = body["ecdh_public_key"].replace("\n", "\r\n")
    refusal(await post(http, "/auth/register", body), 400, "invalid_key")


async def test_swapped_keys_do_not_fit_the_signature(http: httpx.AsyncClient) -> None:
    body = Person(http).registration()
    body["ecdsa_public_key"], body["ecdh_public_key"] = body["ecdh_public_key"], body["ecdsa_public_key"]
    refusal(await post(http, "/auth/register", body), 400, "invalid_signature")


def wrong_registration_signatures(someone: Person) -> list[str]:
    """Sign everything near to the right transcript."""
    name, ecdsa, ecdh = someone.name, someone.ecdsa, someone.ecdh
    one, two = public(ecdsa), public(ecdh)
    right = transcripts.register(name, one, two)
    return [
        sign(ecdh, right),
        sign(new_key(), right),
        sign(ecdsa, transcripts.register(name[:-1], one, two)),
        sign(ecdsa, transcripts.register(name.upper(), one, two)),
        sign(ecdsa, transcripts.register(name, one, public(new_key()))),
        sign(ecdsa, transcripts.register(name, public(new_key()), two)),
        sign(ecdsa, transcripts.register(name, two, one)),
        sign(ecdsa, transcripts.transcript("rotate-ecdsa", name.encode(), one.der, two.der)),
        # Without the label, without the length prefixes, over nothing, and with other hashes.
        sign(ecdsa, right.partition(b"\x00")[2]),
        sign(ecdsa, b"blindpost/v1/register\x00" + name.encode() + one.der + two.der),
        sign(ecdsa, b""),
        b64(ecdsa.sign(right, ec.ECDSA(hashes.SHA256()))),
        b64(ecdsa.sign(right, ec.ECDSA(hashes.SHA512()))),
    ]


async def test_registration_demands_the_signature_over_exactly_its_fields(http: httpx.AsyncClient) -> None:
    alice = Person(http)
    for signature in wrong_registration_signatures(alice):
        answer = await post(http, "/auth/register", alice.registration() | {"ecdh_signature": signature})
        refusal(answer, 400, "invalid_signature")
    await alice.register()


async def test_registration_takes_a_signature_in_canonical_der_alone(http: httpx.AsyncClient) -> None:
    body = Person(http).registration()
    for kind in OTHER_SIGNATURES:
        changed = body | {"ecdh_signature": b64(other_signature(raw(body["ecdh_signature"]), kind))}
        refusal(await post(http, "/auth/register", changed), 400)
    success(await post(http, "/auth/register", body), 201)


async def test_registration_of_somebody_elses_keys_needs_somebody_elses_signature(http: httpx.AsyncClient) -> None:
    victim = await person(http)
    thief = Person(http)
    body = thief.registration() | {"ecdsa_public_key": public(victim.ecdsa).pem}
    refusal(await post(http, "/auth/register", body), 400, "invalid_signature")


@pytest.mark.parametrize("kind", BAD_NAMES)
async def test_a_name_is_letters_digits_and_underscores_of_ascii(http: httpx.AsyncClient, kind: str) -> None:
    refusal(await post(http, "/auth/register", Person(http, BAD_NAMES[kind]).registration()), 400, "invalid_request")


@pytest.mark.parametrize("escape", [r"\u0000", r"\ud800", r"\udc00\ud800"], ids=["NUL", "surrogate", "surrogates"])
async def test_a_name_with_what_is_no_character_is_refused(http: httpx.AsyncClient, escape: str) -> None:
    body = json.dumps(Person(http, "namename").registration()).replace("namename", f"name{escape}")
    answer = await http.post("/auth/register", content=body, headers={"Content-Type": "application/json"})
    refusal(answer, 400)


@pytest.mark.parametrize("name", ["aaa", "_" * 3, "0" * 3, "Z" * 50])
async def test_names_at_the_limits_are_good_names(http: httpx.AsyncClient, name: str) -> None:
    answer = await post(http, "/auth/register", Person(http, name).registration())
    assert answer.status_code in {201, 409}  # another of these tests may have been here in an earlier round


async def test_a_name_is_unique_without_regard_to_case(http: httpx.AsyncClient) -> None:
    alice = await Person(http, unique_name("Alice")).register()
    for name in (alice.name, alice.name.lower(), alice.name.upper()):
        refusal(await post(http, "/auth/register", Person(http, name).registration()), 409, "username_taken")


async def test_of_concurrent_registrations_of_one_name_exactly_one_succeeds(http: httpx.AsyncClient) -> None:
    name = unique_name("alice")
    rivals = [Person(http, spelling) for spelling in (name, name.upper(), name, name.title())]
    answers = await asyncio.gather(*(post(http, "/auth/register", each.registration()) for each in rivals))
    assert sorted(answer.status_code for answer in answers) == [201, 409, 409, 409]
    winner = next(each for each, answer in zip(rivals, answers, strict=True) if answer.status_code == 201)
    await winner.login()


async def test_a_refused_registration_claims_no_name(http: httpx.AsyncClient) -> None:
    alice = Person(http)
    stranger = sign(new_key(), b"")
    refusal(await post(http, "/auth/register", alice.registration() | {"ecdh_signature": stranger}), 400)
    await alice.register()


# Challenge


async def test_a_challenge_has_the_same_shape_whether_the_name_is_known_or_not(http: httpx.AsyncClient) -> None:
    known = await person(http)
    unknown = unique_name()
    answers = [success(await http.get(f"/auth/challenge/{name}")) for name in (known.name, unknown)]
    for answer in answers:
        assert set(answer) == {"challenge", "expires"}
    assert len(answers[0]["challenge"]) == len(answers[1]["challenge"])
    assert answers[0]["challenge"].split("|")[:2] == answers[1]["challenge"].split("|")[:2]


async def test_a_challenge_says_what_it_is_for_and_until_when(router: Running, http: httpx.AsyncClient) -> None:
    name = unique_name("Alice")
    before = int(time.time())
    body = success(await http.get(f"/auth/challenge/{name}"))
    label, origin, username, nonce, expiry = body["challenge"].split("|")
    assert (label, origin, username) == ("blindpost/v1/login", router.origin, name)
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", nonce)
    assert len(base64.urlsafe_b64decode(nonce + "=")) == 32
    assert before < int(expiry) <= time.time() + 60
    assert datetime.fromisoformat(body["expires"]).timestamp() == int(expiry)


async def test_no_two_challenges_are_alike(http: httpx.AsyncClient) -> None:
    alice = Person(http)
    assert len({(await alice.challenge()).split("|")[3] for _ in range(10)}) == 10


async def test_redis_holds_a_digest_of_the_challenge_and_nothing_else_of_it(
    http: httpx.AsyncClient, cache: "Redis"
) -> None:
    alice = Person(http)
    challenge = await alice.challenge()
    key = b"challenge:" + sha384(challenge.encode()).digest()
    assert await cache.get(key) == b""
    assert 0 < await cache.ttl(key) <= 60
    nonce = challenge.split("|")[3]
    secrets = [challenge, nonce, alice.name]
    held = b"\x00".join([each async for each in cache.scan_iter()])
    assert not any(secret.encode() in held for secret in secrets)
    assert base64.urlsafe_b64decode(nonce + "=") not in held


async def test_challenges_that_strangers_ask_for_do_not_evict_ones_own(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    body = await alice.login_body()
    await asyncio.gather(*(alice.challenge() for _ in range(100)))
    success(await post(http, "/auth/login", body))


@pytest.mark.parametrize("name", ["ab", "a" * 51, "al-ice", "alice%0A", "alice%00", "alice%7Cx", "%D0%B0lice"])
async def test_a_challenge_for_what_cannot_be_a_name_is_refused(http: httpx.AsyncClient, name: str) -> None:
    refusal(await http.get(f"/auth/challenge/{name}"), 400, "invalid_request")


# Login


async def test_login_gives_a_token_for_its_key_with_its_lifetime(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    body = success(await try_login(alice))
    assert set(body) == {"access_token", "token_type", "expires_in"}
    assert body["token_type"] == "DPoP"
    assert body["expires_in"] == 12 * 3_600
    assert success(await alice.get("/auth/me"))["id"] == alice.id


async def test_login_finds_the_name_in_any_case(http: httpx.AsyncClient) -> None:
    alice = await Person(http, unique_name("Alice")).register()
    loud = Person(http, alice.name.upper(), alice.ecdsa, alice.ecdh)
    await loud.login()
    assert success(await loud.get("/auth/me"))["username"] == alice.name


async def test_a_challenge_opens_one_session_only(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    body = await alice.login_body()
    success(await post(http, "/auth/login", body))
    refusal(await post(http, "/auth/login", body), 401, "login_failed")


async def test_a_challenge_opens_one_session_only_also_when_many_try_at_once(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    body = await alice.login_body()
    answers = await asyncio.gather(*(post(http, "/auth/login", body) for _ in range(12)))
    assert sorted(answer.status_code for answer in answers) == [200] + 11 * [401]


async def test_the_other_form_of_a_signature_opens_no_second_session(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    body = await alice.login_body()
    success(await post(http, "/auth/login", body))
    twin = body | {"signature": b64(mirrored(raw(body["signature"])))}
    refusal(await post(http, "/auth/login", twin), 401, "login_failed")


async def test_a_failed_login_uses_its_challenge_up(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    body = await alice.login_body()
    wrong = body | {"signature": sign(new_key(), body["challenge"].encode())}
    refusal(await post(http, "/auth/login", wrong), 401, "login_failed")
    refusal(await post(http, "/auth/login", body), 401, "login_failed")


async def test_a_challenge_of_somebody_else_opens_nothing(http: httpx.AsyncClient) -> None:
    alice, mallory = await person(http), await person(http)
    hers, his = await alice.challenge(), await mallory.challenge()
    tries = [(alice, his, mallory.ecdsa), (alice, his, alice.ecdsa), (mallory, hers, mallory.ecdsa)]
    for who, challenge, key in tries:
        body = {"username": who.name, "challenge": challenge, "signature": sign(key, challenge.encode())}
        refusal(await post(http, "/auth/login", body), 401, "login_failed")


async def test_a_challenge_that_redis_has_dropped_opens_nothing(http: httpx.AsyncClient, cache: "Redis") -> None:
    alice = await person(http)
    body = await alice.login_body()
    assert await cache.delete(b"challenge:" + sha384(body["challenge"].encode()).digest())
    refusal(await post(http, "/auth/login", body), 401, "login_failed")


async def test_a_challenge_past_its_own_time_opens_nothing_even_if_redis_still_has_it(
    http: httpx.AsyncClient, router: Running, cache: "Redis"
) -> None:
    alice = await person(http)
    for late, status in ((0, 401), (-30, 200)):
        text = f"blindpost/v1/login|{router.origin}|{alice.name}|{token_urlsafe(32)}|{int(time.time()) - late}"
        await cache.set(b"challenge:" + sha384(text.encode()).digest(), b"", ex=60)
        body = {"username": alice.name, "challenge": text, "signature": sign(alice.ecdsa, text.encode())}
        assert (await post(http, "/auth/login", body)).status_code == status


def made_up_challenges(origin: str, name: str) -> dict[str, str]:
    fields = ["blindpost/v1/login", origin, name, token_urlsafe(32), str(int(time.time()) + 50)]
    good = "|".join(fields)
    return {
        "of a foreign origin": good.replace(origin, "https://evil.example"),
        "never issued": good,
        "without an origin": good.replace(origin, ""),
        "with a longer life": "|".join((*fields[:4], "9999999999")),
        "with a field more": good + "|x",
        "with a field less": "|".join(fields[:4]),
        "with another label": good.replace("v1", "v2", 1),
        "with a line feed": good + "\n",
        "with an expiry in other digits": "|".join((*fields[:4], "٩٩٩٩٩٩٩٩٩٩")),
        "with a sign": "|".join((*fields[:4], "+1999999999")),
        "a transcript": "blindpost/v1/register",
        "empty": "|" * 4,
    }


@pytest.mark.parametrize("kind", made_up_challenges("", ""))
async def test_a_challenge_that_this_router_did_not_issue_opens_nothing(
    http: httpx.AsyncClient, router: Running, kind: str
) -> None:
    alice = await person(http)
    text = made_up_challenges(router.origin, alice.name)[kind]
    signature = sign(alice.ecdsa, text.encode())
    refusal(await try_login(alice, challenge=text, signature=signature), 401, "login_failed")


async def test_login_takes_a_signature_in_canonical_der_alone(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    for kind in OTHER_SIGNATURES:
        body = await alice.login_body()
        changed = other_signature(raw(body["signature"]), kind)
        answer = await post(http, "/auth/login", body | {"signature": b64(changed)})
        is_too_long = len(changed) > SIGNATURE_MAX_BYTES
        refusal(answer, 400 if is_too_long else 401, "invalid_request" if is_too_long else "login_failed")


async def test_every_failed_login_gets_the_same_answer(http: httpx.AsyncClient, router: Running) -> None:
    alice, nobody = await person(http), Person(http)
    challenge = await alice.challenge()
    used = await alice.login_body()
    success(await post(http, "/auth/login", used))
    failures = [
        await try_login(nobody),
        await try_login(alice, signature=sign(new_key(), b"")),
        await try_login(alice, signature=sign(alice.ecdh, challenge.encode())),
        await try_login(alice, signature=b64(b"\x00")),
        await try_login(alice, challenge="nonsense"),
        await try_login(alice, challenge=made_up_challenges(router.origin, alice.name)["never issued"]),
        await try_login(nobody, challenge=challenge, signature=sign(alice.ecdsa, challenge.encode())),
        await post(http, "/auth/login", used),
    ]
    for answer in failures:
        refusal(answer, 401, "login_failed")
    assert len({said_by(answer) for answer in failures}) == 1
    assert len({tuple(sorted(set(answer.headers) - {"date"})) for answer in failures}) == 1


@pytest.mark.parametrize("signature", ["", "!", "AA", "AA=", "A" * 200, "AB==", "AAAA\n", "_-__"], ids=range(8))
async def test_a_signature_that_is_no_base64_of_its_size_is_a_bad_request(
    http: httpx.AsyncClient, signature: str
) -> None:
    alice = await person(http)
    refusal(await try_login(alice, signature=signature), 400, "invalid_request")


# Tokens


def parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return header and claims."""
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return jwt.get_unverified_header(token), claims


def encode(data: dict[str, Any]) -> str:
    return base64.urlsafe_b64encode(json.dumps(data).encode()).rstrip(b"=").decode()


def es256(key: ec.EllipticCurvePrivateKey, header: dict[str, Any], claims: dict[str, Any]) -> str:
    return jwt.encode(claims, key, "ES256", headers=header)


def hs256(secret: bytes, header: dict[str, Any], claims: dict[str, Any]) -> str:
    """Sign by hand: the library rightly refuses a public key as the secret."""
    signed = f"{encode(header | {'alg': 'HS256'})}.{encode(claims)}"
    mac = base64.urlsafe_b64encode(hmac_digest(secret, signed.encode(), "sha256")).rstrip(b"=").decode()
    return f"{signed}.{mac}"


async def demand_refused(someone: Person, token: str) -> None:
    answer = await someone.http.get("/auth/me", auth=Signed(someone.key, token))
    body = refusal(answer, 401, "not_authenticated")
    assert answer.headers["WWW-Authenticate"] == 'DPoP algs="ES256 ES384"'
    assert token not in json.dumps(body)
    success(await someone.get("/auth/me"))


async def token_key_of(router: Running) -> ec.EllipticCurvePrivateKey:
    return (await router.container.get(Tokens))._key.private


async def test_a_token_says_who_for_whom_and_until_when(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    header, claims = parts(alice.token)
    assert set(header) == {"alg", "kid", "typ"}
    assert (header["alg"], header["typ"]) == ("ES256", "at+jwt")
    assert set(claims) == {"iss", "aud", "sub", "jti", "iat", "exp", "cnf"}
    assert claims["cnf"] == {"jkt": alice.key.thumbprint}
    assert claims["sub"] == alice.id
    assert claims["exp"] - claims["iat"] == 12 * 3_600


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "nOnE"])
@pytest.mark.parametrize("keeps_signature", [True, False])
async def test_an_unsigned_token_is_refused(http: httpx.AsyncClient, algorithm: str, keeps_signature: bool) -> None:  # noqa: FBT001
    alice = await person(http)
    header, claims = parts(alice.token)
    signature = alice.token.rpartition(".")[2] if keeps_signature else ""
    await demand_refused(alice, f"{encode(header | {'alg': algorithm})}.{encode(claims)}.{signature}")


@pytest.mark.parametrize("form", [Encoding.PEM, Encoding.DER])
async def test_the_public_key_is_no_secret_to_sign_with(
    http: httpx.AsyncClient, router: Running, form: Encoding
) -> None:
    alice = await person(http)
    key = (await token_key_of(router)).public_key().public_bytes(form, PublicFormat.SubjectPublicKeyInfo)
    for secret in (key, key.strip(), b""):
        await demand_refused(alice, hs256(secret, *parts(alice.token)))


async def test_a_key_that_comes_with_the_token_is_not_believed(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    header, claims = parts(alice.token)
    key = ec.generate_private_key(ec.SECP256R1())
    jwk = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
    await demand_refused(alice, es256(key, header | {"jwk": jwk}, claims))
    await demand_refused(alice, es256(key, header | {"jwk": jwk, "kid": "0" * 32}, claims))
    await demand_refused(alice, es256(key, header | {"jku": "https://evil.example/keys"}, claims))
    await demand_refused(alice, es256(key, header, claims))


@pytest.mark.parametrize(
    "change",
    [
        {"typ": "JWT"},
        {"typ": None},
        {"typ": "dpop+jwt"},
        {"typ": 1},
        {"kid": "0" * 32},
        {"kid": "../../../../dev/null"},
        {"kid": "' OR 1=1 --" + " " * 21},
        {"kid": "\u00e9" * 32},
        {"crit": ["exp"]},
        {"crit": ["b64"], "b64": False},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_a_token_with_another_header_is_refused(
    http: httpx.AsyncClient, router: Running, change: dict[str, Any]
) -> None:
    alice = await person(http)
    header, claims = parts(alice.token)
    changed = {name: value for name, value in (header | change).items() if value is not None}
    signed = f"{encode(changed)}.{encode(claims)}"
    key = await token_key_of(router)
    signature = jwt.algorithms.ECAlgorithm(jwt.algorithms.ECAlgorithm.SHA256).sign(signed.encode(), key)
    await demand_refused(alice, f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}")


@pytest.mark.parametrize("name", ["iss", "aud", "sub", "jti", "iat", "exp"])
async def test_a_token_that_lacks_a_claim_is_refused(http: httpx.AsyncClient, router: Running, name: str) -> None:
    alice = await person(http)
    header, claims = parts(alice.token)
    del claims[name]
    await demand_refused(alice, es256(await token_key_of(router), header, claims))


@pytest.mark.parametrize(
    "change",
    [
        {"iss": "other"},
        {"aud": "other"},
        {"sub": str(uuid4())},
        {"sub": "alice"},
        {"sub": 1},
        {"jti": str(uuid4())},
        {"jti": None},
        {"exp": int(time.time()) - 1},
        {"exp": "tomorrow"},
        {"exp": 1e400},
        {"iat": 99_999_999_999},
        {"nbf": 99_999_999_999},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_a_token_with_another_claim_is_refused(
    http: httpx.AsyncClient, router: Running, change: dict[str, Any]
) -> None:
    alice = await person(http)
    header, claims = parts(alice.token)
    signed = f"{encode(header)}.{encode(claims | change)}"
    key = await token_key_of(router)
    signature = jwt.algorithms.ECAlgorithm(jwt.algorithms.ECAlgorithm.SHA256).sign(signed.encode(), key)
    await demand_refused(alice, f"{signed}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}")


async def test_the_session_of_one_user_is_not_another_users(http: httpx.AsyncClient, router: Running) -> None:
    alice, bob = await person(http), await person(http)
    bound = {"jkt": bob.key.thumbprint}
    header, claims = parts(alice.token)
    await demand_refused(bob, es256(await token_key_of(router), header, claims | {"sub": bob.id, "cnf": bound}))


async def test_a_token_that_was_tampered_with_is_refused(http: httpx.AsyncClient) -> None:
    alice, bob = await person(http), await person(http)
    header, claims, signature = alice.token.split(".")
    changed = encode(parts(alice.token)[1] | {"sub": bob.id})
    await demand_refused(alice, f"{header}.{changed}.{signature}")
    await demand_refused(alice, f"{header}.{claims}.{bob.token.split('.')[2]}")
    await demand_refused(alice, f"{header}.{claims}.{'A' * len(signature)}")
    await demand_refused(alice, f"{header}.{claims}.{signature[:-4]}")


@pytest.mark.parametrize("token", ["a", "a.b.c", "..", "." * 1_000, "x" * 5_000, "e30.e30.e30", "null", "é.é.é"])
async def test_what_is_no_token_is_refused(http: httpx.AsyncClient, token: str) -> None:
    shown = {b"Authorization": f"DPoP {token}".encode(), b"DPoP": b"proof"}
    answer = await http.get("/auth/me", headers=shown)
    refusal(answer, 401, "not_authenticated")


async def test_a_token_of_another_deployment_is_refused(
    http: httpx.AsyncClient, database_url: str, tmp_path: Path
) -> None:
    """Right in everything, but signed by a node that this deployment does not know."""
    alice = await person(http)
    session = UUID(parts(alice.token)[1]["jti"])
    async with Database(database_url, pool_size=1) as database:
        foreign = Tokens(tmp_path, database, Audit(database, Pseudonyms(database), tmp_path, keep_days=7))
        await demand_refused(alice, foreign.issue(UUID(alice.id), session, 60, alice.key.thumbprint))


async def test_a_token_is_not_taken_from_the_url_or_under_another_scheme(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    refusal(await http.get("/auth/me", params={"access_token": alice.token}), 401, "not_authenticated")
    for scheme in ("Basic", "Token", "Bearer"):
        shown = alice.signed("GET", str(http.base_url.join("/auth/me")))
        answer = await http.get("/auth/me", headers=shown | {"Authorization": f"{scheme} {alice.token}"})
        refusal(answer, 401, "not_authenticated")


async def test_a_session_that_expired_in_the_database_is_over(
    http: httpx.AsyncClient, database: "asyncpg.Connection[Any]"
) -> None:
    """A session's own end counts, and not only the token's."""
    alice = await person(http)
    session = UUID(parts(alice.token)[1]["jti"])
    await database.execute("UPDATE sessions SET expires_at = now() - interval '1 second' WHERE id = $1", session)
    refusal(await alice.get("/auth/me"), 401, "not_authenticated")


# Logout


async def test_a_session_that_logged_out_is_dead_at_once_and_on_every_node(
    http: httpx.AsyncClient, second_http: httpx.AsyncClient
) -> None:
    alice = await person(http)
    other_node = alice.at(second_http)
    success(await alice.get("/auth/me"))
    success(await other_node.get("/auth/me"))
    assert success(await other_node.post("/auth/logout")) == {"status": "ok"}
    for each in (alice, other_node):
        refusal(await each.get("/auth/me"), 401, "not_authenticated")
    refusal(await alice.post("/auth/logout"), 401, "not_authenticated")


async def test_logging_out_ends_one_session_and_no_other(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    phone = await another_session(alice)
    success(await alice.post("/auth/logout"))
    success(await phone.get("/auth/me"))


async def test_a_poll_that_waits_ends_when_its_session_logs_out(http: httpx.AsyncClient, waiting: Waiting) -> None:
    alice = await person(http)
    poll = await waiting.one_poll(alice)
    success(await alice.post("/auth/logout"))
    refusal(await poll, 401, "not_authenticated")


# Keys


async def test_anybody_logged_in_can_read_public_keys(http: httpx.AsyncClient) -> None:
    alice, bob = await person(http), await person(http)
    body = success(await bob.get(f"/auth/public-keys/{alice.id}"))
    registration = alice.registration()
    assert body == {
        "user_id": alice.id,
        "ecdsa_public_key": registration["ecdsa_public_key"],
        "ecdh_public_key": registration["ecdh_public_key"],
        "ecdh_signature": body["ecdh_signature"],
    }
    signed = transcripts.register(alice.name, public(alice.ecdsa), public(alice.ecdh))
    assert PublicKey.from_pem(body["ecdsa_public_key"]).verifies(raw(body["ecdh_signature"]), signed)


async def test_public_keys_of_nobody_are_not_found(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    refusal(await alice.get(f"/auth/public-keys/{uuid4()}"), 404, "user_not_found")


async def test_one_can_read_ones_own_account(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    body = success(await alice.get("/auth/me"))
    keys = success(await alice.get(f"/auth/public-keys/{alice.id}"))
    assert keys.pop("user_id") == alice.id
    created = datetime.fromisoformat(body.pop("created_at"))
    assert abs(created.timestamp() - time.time()) < 60
    assert body == {"id": alice.id, "username": alice.name, **keys}


def rotation(someone: Person, new: ec.EllipticCurvePrivateKey, **changes: str) -> dict[str, str]:
    """Return a correct body for /auth/ecdsa-update-key."""
    signed = transcripts.rotate_ecdsa(UUID(someone.id), public(someone.ecdsa), public(new))
    renewed = transcripts.register(someone.name, public(new), public(someone.ecdh))
    return {
        "ecdsa_public_key": public(new).pem,
        "ecdh_signature": sign(new, renewed),
        "old_key_signature": sign(someone.ecdsa, signed),
        "new_key_signature": sign(new, signed),
    } | changes


async def rotate(someone: Person) -> Person:
    """Replace the identity key, and return the person as their other devices still know them."""
    before = Person(someone.http, someone.name, someone.ecdsa, someone.ecdh, someone.id)
    new = new_key()
    body = success(await someone.put("/auth/ecdsa-update-key", **rotation(someone, new)))
    assert body == {"status": "ok"}
    someone.ecdsa = new
    return before


async def test_after_a_rotation_the_new_key_logs_in_and_the_old_one_does_not(http: httpx.AsyncClient) -> None:
    alice, bob = await person(http), await person(http)
    before = await rotate(alice)
    refusal(await try_login(before), 401, "login_failed")
    await another_session(alice)
    keys = success(await bob.get(f"/auth/public-keys/{alice.id}"))
    assert keys["ecdsa_public_key"] == public(alice.ecdsa).pem
    signed = transcripts.register(alice.name, public(alice.ecdsa), public(alice.ecdh))
    assert public(alice.ecdsa).verifies(raw(keys["ecdh_signature"]), signed)


async def test_a_rotation_ends_the_other_sessions_on_every_node_and_not_the_callers(
    http: httpx.AsyncClient, second_http: httpx.AsyncClient
) -> None:
    alice = await person(http)
    phone = await another_session(alice)
    elsewhere = phone.at(second_http)
    success(await elsewhere.get("/auth/me"))
    await rotate(alice)
    for each in (phone, elsewhere):
        refusal(await each.get("/auth/me"), 401, "not_authenticated")
    success(await alice.get("/auth/me"))
    success(await alice.at(second_http).get("/auth/me"))


async def test_a_rotation_ends_the_polls_of_the_other_sessions_alone(http: httpx.AsyncClient, waiting: Waiting) -> None:
    alice, bob = await contacts(http)
    phone = await another_session(alice)
    theirs = await waiting.one_poll(phone)
    mine = await waiting.one_poll(alice)
    await rotate(alice)
    refusal(await theirs, 401, "not_authenticated")
    sent = success(await bob.send(alice), 201)
    assert [message["id"] for message in success(await mine)["messages"]] == [sent["id"]]


async def test_contacts_are_told_of_a_rotation(http: httpx.AsyncClient, waiting: Waiting) -> None:
    alice, bob = await contacts(http)
    poll = await waiting.one_poll(bob)
    await rotate(alice)
    assert success(await poll)["contacts_changed"]


def wrong_rotations(someone: Person, new: ec.EllipticCurvePrivateKey) -> dict[str, dict[str, str]]:
    user, old, fresh = UUID(someone.id), public(someone.ecdsa), public(new)
    right = transcripts.rotate_ecdsa(user, old, fresh)
    back = transcripts.rotate_ecdsa(user, fresh, old)
    other = transcripts.rotate_ecdsa(uuid4(), old, fresh)
    register = transcripts.register(someone.name, fresh, public(someone.ecdh))
    return {
        "the old key did not sign": {"old_key_signature": sign(new, right)},
        "the new key did not sign": {"new_key_signature": sign(someone.ecdsa, right)},
        "the ECDH key signed": {"old_key_signature": sign(someone.ecdh, right)},
        "the old key signed the way back": {"old_key_signature": sign(someone.ecdsa, back)},
        "the new key signed the way back": {"new_key_signature": sign(new, back)},
        "the old key signed for another user": {"old_key_signature": sign(someone.ecdsa, other)},
        "the new key signed for another user": {"new_key_signature": sign(new, other)},
        "the ECDH key is signed by the old key": {"ecdh_signature": sign(someone.ecdsa, register)},
        "the ECDH key's signature is the old one": {"ecdh_signature": someone.registration()["ecdh_signature"]},
        "the old key signed a deletion": {"old_key_signature": sign(someone.ecdsa, transcripts.delete_account(user))},
        "another new key": {"ecdsa_public_key": public(new_key()).pem},
    }


async def test_a_rotation_needs_every_signature(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    new = new_key()
    for changes in wrong_rotations(alice, new).values():
        answer = await alice.put("/auth/ecdsa-update-key", **rotation(alice, new, **changes))
        refusal(answer, 400, "invalid_signature")
    await another_session(alice)
    success(await alice.put("/auth/ecdsa-update-key", **rotation(alice, new)))


async def test_a_stolen_token_alone_rotates_nothing(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    thief = Person(http, alice.name, ecdh=alice.ecdh, id=alice.id, token=alice.token, key=alice.key)
    refusal(await thief.put("/auth/ecdsa-update-key", **rotation(thief, new_key())), 400, "invalid_signature")


@pytest.mark.parametrize("kind", ["compressed point", "P-256", "explicit curve parameters", "two blocks"])
async def test_a_rotation_takes_no_key_but_a_canonical_one(http: httpx.AsyncClient, kind: str) -> None:
    alice = await person(http)
    body = rotation(alice, new_key(), ecdsa_public_key=BAD_KEYS[kind]())
    refusal(await alice.put("/auth/ecdsa-update-key", **body), 400, "invalid_key")


async def test_a_rotation_to_a_key_that_one_has_is_refused(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    for key in (alice.ecdsa, alice.ecdh):
        refusal(await alice.put("/auth/ecdsa-update-key", **rotation(alice, key)), 400, "invalid_key")


async def test_a_rotation_cannot_be_replayed(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    first = rotation(alice, new_key())
    success(await alice.put("/auth/ecdsa-update-key", **first))
    refusal(await alice.put("/auth/ecdsa-update-key", **first), 400)


async def test_of_two_rotations_at_once_exactly_one_succeeds(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    bodies = [rotation(alice, new_key()) for _ in range(4)]
    answers = await asyncio.gather(*(alice.put("/auth/ecdsa-update-key", **body) for body in bodies))
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses[0] == 200
    # The others meet the new key (a bad signature), or see it change under them (a conflict).
    assert set(statuses[1:]) <= {400, 409}
    keys = success(await alice.get("/auth/me"))
    winner = next(body for body, answer in zip(bodies, answers, strict=True) if answer.status_code == 200)
    assert keys["ecdsa_public_key"] == winner["ecdsa_public_key"]
    assert keys["ecdh_signature"] == winner["ecdh_signature"]


async def test_no_session_of_the_old_key_outlives_a_rotation_that_races_its_login(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    for _ in range(6):
        old = Person(http, alice.name, alice.ecdsa, alice.ecdh, alice.id)
        logins = [await old.login_body() for _ in range(6)]
        racing = [asyncio.create_task(post(http, "/auth/login", body, old.key)) for body in logins]
        await rotate(alice)
        answers = await asyncio.gather(*racing)
        for answer in answers:
            if answer.status_code == 200:
                old.token = answer.json()["access_token"]
                refusal(await old.get("/auth/me"), 401, "not_authenticated")
            else:
                refusal(answer, 401, "login_failed")


def ecdh_update(someone: Person, new: ec.EllipticCurvePrivateKey) -> dict[str, str]:
    signed = transcripts.register(someone.name, public(someone.ecdsa), public(new))
    return {"ecdh_public_key": public(new).pem, "ecdh_signature": sign(someone.ecdsa, signed)}


async def test_the_encryption_key_can_be_replaced_and_the_contacts_are_told(
    http: httpx.AsyncClient, waiting: Waiting
) -> None:
    alice, bob = await contacts(http)
    phone = await another_session(alice)
    poll = await waiting.one_poll(bob)
    body = ecdh_update(alice, new_key())
    assert success(await alice.put("/auth/ecdh-update-key", **body)) == {"status": "ok"}
    assert success(await poll)["contacts_changed"]
    keys = success(await bob.get(f"/auth/public-keys/{alice.id}"))
    assert {name: keys[name] for name in body} == body
    success(await phone.get("/auth/me"))


async def test_the_encryption_key_is_replaced_only_with_the_identity_keys_signature(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    new = new_key()
    good = ecdh_update(alice, new)
    signed = transcripts.register(alice.name, public(alice.ecdsa), public(new))
    others = [sign(alice.ecdh, signed), sign(new, signed), alice.registration()["ecdh_signature"]]
    for signature in others:
        answer = await alice.put("/auth/ecdh-update-key", **good | {"ecdh_signature": signature})
        refusal(answer, 400, "invalid_signature")
    assert success(await alice.get("/auth/me"))["ecdh_public_key"] == public(alice.ecdh).pem
    success(await alice.put("/auth/ecdh-update-key", **good))


async def test_the_encryption_key_cannot_be_the_identity_key_or_a_malformed_one(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    refusal(await alice.put("/auth/ecdh-update-key", **ecdh_update(alice, alice.ecdsa)), 400, "invalid_key")
    for kind in ("compressed point", "P-256", "off the curve", "trailing DER"):
        body = ecdh_update(alice, new_key()) | {"ecdh_public_key": BAD_KEYS[kind]()}
        refusal(await alice.put("/auth/ecdh-update-key", **body), 400, "invalid_key")


# Deletion


async def delete(someone: Person, key: ec.EllipticCurvePrivateKey | None = None) -> httpx.Response:
    signature = sign(key or someone.ecdsa, transcripts.delete_account(UUID(someone.id)))
    return await someone.call("DELETE", "/auth/me", {"signature": signature})


async def rows_with(database: "asyncpg.Connection[Any]", text: str) -> dict[str, int]:
    """Count the rows of each table of ours that hold this text anywhere."""
    tables = await database.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    assert len(tables) >= 8
    counts = {
        table: await database.fetchval(f"SELECT count(*) FROM {table} t WHERE t::text ILIKE '%' || $1 || '%'", text)
        for (table,) in tables
    }
    return {table: count for table, count in counts.items() if count}


async def test_of_a_deleted_account_nothing_is_left_in_postgresql_but_its_name(
    http: httpx.AsyncClient, database: "asyncpg.Connection[Any]"
) -> None:
    alice, bob = await contacts(http)
    carol = await person(http)
    success(await alice.post("/contacts/send-contact-request", receiver_id=carol.id), 201)
    bodies = [uuid4().bytes, uuid4().bytes, uuid4().bytes]
    sent = success(await alice.send(bob, bodies[0], client_message_id=str(uuid4())), 201)
    success(await alice.send(bob, bodies[1]), 201)
    success(await bob.send(alice, bodies[2]), 201)
    success(await bob.post("/messages/ack", message_ids=[sent["id"]]))
    session = parts(alice.token)[1]["jti"]
    keys = [public(alice.ecdsa).der.hex(), public(alice.ecdh).der.hex()]
    traces = [alice.id, session, sent["id"], *keys, *(body.hex() for body in bodies[1:])]
    for trace in traces:
        assert await rows_with(database, trace), "the test looks for the wrong thing"
    assert success(await delete(alice)) == {"status": "ok"}
    for trace in traces:
        assert await rows_with(database, trace) == {}
    assert await rows_with(database, alice.name) == {"names": 1}


async def test_after_a_deletion_every_token_is_dead_and_no_login_works(
    http: httpx.AsyncClient, second_http: httpx.AsyncClient
) -> None:
    alice = await person(http)
    phone = await another_session(alice)
    elsewhere = phone.at(second_http)
    success(await elsewhere.get("/auth/me"))
    success(await delete(alice))
    for each in (alice, phone, elsewhere):
        refusal(await each.get("/auth/me"), 401, "not_authenticated")
    refusal(await try_login(alice), 401, "login_failed")


async def test_the_name_of_a_deleted_account_cannot_be_taken_in_any_case(http: httpx.AsyncClient) -> None:
    alice = await person(http, unique_name("Alice"))
    success(await delete(alice))
    for name in (alice.name, alice.name.lower(), alice.name.upper()):
        refusal(await post(http, "/auth/register", Person(http, name).registration()), 409, "username_taken")
    refusal(await post(http, "/auth/register", alice.registration()), 409, "username_taken")


async def test_a_deletion_is_told_to_the_contacts_and_ends_the_polls_of_the_account(
    http: httpx.AsyncClient, waiting: Waiting
) -> None:
    alice, bob = await contacts(http)
    his, hers = await waiting.one_poll(bob), await waiting.one_poll(alice)
    success(await delete(alice))
    assert success(await his)["contacts_changed"]
    refusal(await hers, 401, "not_authenticated")
    assert success(await bob.get("/contacts/get-contacts")) == []
    refusal(await bob.get(f"/auth/public-keys/{alice.id}"), 404, "user_not_found")
    assert success(await bob.get("/contacts/search-users", username=alice.name)) == []


async def test_a_deletion_needs_the_identity_keys_signature_over_this_account(http: httpx.AsyncClient) -> None:
    alice, bob = await person(http), await person(http)
    refusal(await delete(alice, alice.ecdh), 400, "invalid_signature")
    refusal(await delete(alice, bob.ecdsa), 400, "invalid_signature")
    others = [transcripts.delete_account(UUID(bob.id)), transcripts.transcript("delete-account"), b""]
    for signed in others:
        answer = await alice.call("DELETE", "/auth/me", {"signature": sign(alice.ecdsa, signed)})
        refusal(answer, 400, "invalid_signature")
    success(await alice.get("/auth/me"))


async def test_of_two_deletions_at_once_one_succeeds_and_the_other_finds_nobody(http: httpx.AsyncClient) -> None:
    alice = await person(http)
    phone = await another_session(alice)
    answers = await asyncio.gather(delete(alice), delete(phone))
    assert sorted(answer.status_code for answer in answers) == [200, 401]


async def test_a_login_that_races_a_deletion_leaves_no_session(
    http: httpx.AsyncClient, database: "asyncpg.Connection[Any]"
) -> None:
    alice = await person(http)
    logins = [await alice.login_body() for _ in range(6)]
    racing = [asyncio.create_task(post(http, "/auth/login", body, alice.key)) for body in logins]
    success(await delete(alice))
    for answer in await asyncio.gather(*racing):
        assert answer.status_code in {200, 401}
        if answer.status_code == 200:
            alice.token = answer.json()["access_token"]
            refusal(await alice.get("/auth/me"), 401, "not_authenticated")
    assert await rows_with(database, alice.id) == {}


async def test_an_encryption_key_that_was_replaced_cannot_be_brought_back_with_a_token(http: httpx.AsyncClient) -> None:
    """Its signature is public, so a thief of a session and of the old key would read what new contacts send."""
    alice = await person(http)
    old = (await alice.get(f"/auth/public-keys/{alice.id}")).json()
    for _ in range(2):
        key = new_key()
        signature = sign(alice.ecdsa, transcripts.register(alice.name, public(alice.ecdsa), public(key)))
        body = {"ecdh_public_key": public(key).pem, "ecdh_signature": signature}
        success(await alice.put("/auth/ecdh-update-key", **body))
        success(await alice.put("/auth/ecdh-update-key", **body))  # the repeat of a lost answer
        back = {name: old[name] for name in ("ecdh_public_key", "ecdh_signature")}
        refusal(await alice.put("/auth/ecdh-update-key", **back), 400, "invalid_key")
    assert (await alice.get("/auth/me")).json()["ecdh_public_key"] == public(key).pem


async def test_a_session_of_one_user_opens_nothing_in_the_name_of_another(
    http: httpx.AsyncClient, router: Running
) -> None:
    """Not even with a node's own key, and while the session is warm in Redis."""
    alice, mallory = await person(http), await person(http)
    success(await mallory.get("/auth/me"))
    claims = jwt.decode(mallory.token, options={"verify_signature": False})
    tokens = await router.container.get(Tokens)
    mallory.token = tokens.issue(UUID(alice.id), UUID(claims["jti"]), 600, mallory.key.thumbprint)
    refusal(await mallory.get("/auth/me"), 401, "not_authenticated")
