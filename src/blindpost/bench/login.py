"""Logins: a challenge, and its signature by the identity's key (P-384)."""

import asyncio
import json
import time
from collections.abc import Iterator
from itertools import count, cycle
from time import perf_counter
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec

from blindpost.bench.costs import cpu
from blindpost.bench.errors import MeasurementError
from blindpost.bench.ground import Ground, Plan, Row, spread
from blindpost.bench.people import Person
from blindpost.bench.routers import Process
from blindpost.bench.wire import HttpWire
from blindpost.protocol import transcripts
from blindpost.protocol.dpop import ProofKey, SignedRequest
from blindpost.protocol.encoding import b64encode
from blindpost.protocol.keys import ECDSA_SHA384

AT_ONCE: Final = 16
PEOPLE: Final = 512
OK: Final = 200
_numbers: Final = count()


async def measure(ground: Ground) -> list[Row]:
    """Let people log in, each from an address of their own, as a trusted proxy tells it: so the limits stay on."""
    rows = []
    async with ground.router(trusted_proxies="127.0.0.1") as router, ground.registry() as registry:
        people = cycle(await registry.people(PEOPLE))
        for number in range(ground.plan.rounds):
            ground.tell(f"logins, round {number + 1} of {ground.plan.rounds}")
            rows.append(await one_round(router, people, registry.identity, ground.plan))
    return rows


async def one_round(router: Process, people: Iterator[Person], identity: ec.EllipticCurvePrivateKey, plan: Plan) -> Row:
    """Log in for a while, one after the other on each of some connections."""
    wires = [await HttpWire.connect(router.origin) for _ in range(AT_ONCE)]

    async def log_in(seconds: float) -> list[float]:
        end, times = perf_counter() + seconds, list[float]()
        await asyncio.gather(*(_until(wire, router.origin, people, identity, end, times) for wire in wires))
        return times

    try:
        await log_in(plan.warm_up)
        before, began = cpu(router.pid), perf_counter()
        times = await log_in(plan.seconds)
        took, used = perf_counter() - began, cpu(router.pid) - before
    finally:
        for wire in wires:
            wire.close()
    return {
        "logins": len(times),
        "per_second": len(times) / took,
        **used.per_1000(len(times)),
        **spread("login", times),
    }


async def _until(
    wire: HttpWire,
    origin: str,
    people: Iterator[Person],
    identity: ec.EllipticCurvePrivateKey,
    end: float,
    times: list[float],
) -> None:
    while (began := perf_counter()) < end:
        await _login(wire, origin, next(people), identity)
        times.append(perf_counter() - began)


async def _login(wire: HttpWire, origin: str, person: Person, identity: ec.EllipticCurvePrivateKey) -> None:
    number = next(_numbers)
    address = f"X-Forwarded-For: 10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}\r\n"
    head = f"Host: {origin.partition('//')[2]}\r\n{address}"
    answer = await wire.exchange(f"GET /auth/challenge/{person.name} HTTP/1.1\r\n{head}\r\n".encode())
    challenge = json.loads(_good(*answer))["challenge"]
    key = ProofKey()
    signature = identity.sign(transcripts.login(challenge, key.thumbprint), ECDSA_SHA384)
    body = json.dumps(
        {"username": person.name, "challenge": challenge, "signature": b64encode(signature), "key_bound": True}
    ).encode()
    proof = key.prove(SignedRequest("POST", f"{origin}/auth/login", body), time.time())
    head += f"DPoP: {proof}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    _good(*await wire.exchange(f"POST /auth/login HTTP/1.1\r\n{head}\r\n".encode() + body))


def _good(status: int, body: bytes) -> bytes:
    if status != OK:
        raise MeasurementError(f"a login was answered {status}: {body.decode()}")
    return body
