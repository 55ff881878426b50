"""What the published vectors of prekeys are made of: bundles as a router answers a claim, good ones and lies."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID

from blindpost.protocol import transcripts
from blindpost.protocol.encoding import b64encode
from blindpost.protocol.kem import KemPublicKey
from blindpost.protocol.keys import SPKI_HEADER, PublicKey
from blindpost.protocol.limits import SIGNATURE_MAX_BYTES
from vector_keys import ALICE, BOB, KEM_PUBLIC, PUBLIC, Vector, sign

NOW: Final = 1_767_225_600
LATER: Final = NOW + 30 * 24 * 3_600
SIGNED, ONCE = PUBLIC["bob_signed_prekey"], PUBLIC["bob_one_time_prekey"]


def prekey_file() -> dict[str, Any]:
    """Return whose bundles are asked for and when, and the vectors."""
    return {
        "user_id": str(BOB),
        "ecdsa": PUBLIC["bob_ecdsa"].pem,
        "now": NOW,
        "vectors": list(prekeys()),
    }


@dataclass(frozen=True)
class Signer:
    """Who signs a prekey, for whom: its owner, but for what a vector wants to be wrong."""

    name: str = "bob_ecdsa"
    user_id: UUID = BOB

    def signed(self, prekey_id: int = 1, expires_s: int = LATER, key: PublicKey = SIGNED) -> Vector:
        transcript = transcripts.signed_prekey(self.user_id, UUID(int=prekey_id), expires_s, key)
        return self._prekey(prekey_id, key.pem, expires_s, transcript)

    def one_time(self, prekey_id: int = 2, key: PublicKey = ONCE) -> Vector:
        transcript = transcripts.one_time_prekey(self.user_id, UUID(int=prekey_id), key)
        return self._prekey(prekey_id, key.pem, None, transcript)

    def last_resort(self, prekey_id: int = 3, expires_s: int = LATER, key: KemPublicKey = KEM_PUBLIC) -> Vector:
        transcript = transcripts.last_resort_kem_prekey(self.user_id, UUID(int=prekey_id), expires_s, key)
        return self._prekey(prekey_id, b64encode(key.raw), expires_s, transcript)

    def one_time_kem(self, prekey_id: int = 4, key: KemPublicKey = KEM_PUBLIC) -> Vector:
        transcript = transcripts.one_time_kem_prekey(self.user_id, UUID(int=prekey_id), key)
        return self._prekey(prekey_id, b64encode(key.raw), None, transcript)

    def _prekey(self, prekey_id: int, key: str, expires_s: int | None, transcript: bytes) -> Vector:
        return {
            "id": str(UUID(int=prekey_id)),
            "public_key": key,
            "expires": None if expires_s is None else written(expires_s),
            "signature": b64encode(sign(self.name, transcript)),
        }


def written(time_s: int) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%dT%H:%M:%S.000000Z")


OWNER: Final = Signer()
OTHER: Final = Signer("mallory_ecdsa")
FOR_ANOTHER: Final = Signer(user_id=ALICE)


def bundle(**other: Any) -> Vector:
    """Return what a session begins with, and something else in its place where a vector wants that."""
    good = {
        "user_id": str(BOB),
        "signed_prekey": OWNER.signed(),
        "one_time_prekey": OWNER.one_time(),
        "kem_prekey": OWNER.one_time_kem(),
    }
    return good | other


def prekeys() -> Iterator[Vector]:
    """Answers to a claim; whether a session may begin with them, or why not."""
    for result, bundles in {
        "ok": good_bundles(),
        "another_user": {"another user's": bundle(user_id=str(ALICE))},
        "invalid_expiry": of_no_time(),
        "invalid_key": of_bad_keys(),
        "invalid_signature": {**signed_by_others(), **signed_for_other_uses()},
        "malformed": malformed(),
    }.items():
        for name, each in bundles.items():
            yield {"name": name, "bundle": each, "result": result}


def good_bundles() -> dict[str, Vector]:
    in_one_line = SIGNED.pem.replace("\n", "").replace("KEY-----", "KEY-----\n", 1).replace("-----END", "\n-----END")
    return {
        "with both one-time keys": bundle(),
        "with the KEM key of last resort": bundle(kem_prekey=OWNER.last_resort()),
        "without a one-time prekey": bundle(one_time_prekey=None),
        "when the one-time keys are used up": bundle(one_time_prekey=None, kem_prekey=OWNER.last_resort()),
        "expired 120 seconds ago": bundle(
            signed_prekey=OWNER.signed(expires_s=NOW - 120), kem_prekey=OWNER.last_resort(expires_s=NOW - 120)
        ),
        "for longer than the router takes": bundle(signed_prekey=OWNER.signed(expires_s=NOW + 365 * 24 * 3_600)),
        "PEM in one line": bundle(signed_prekey=OWNER.signed() | {"public_key": in_one_line}),
        "a field that nobody knows": bundle(more=1),
    }


def of_no_time() -> dict[str, Vector]:
    return {
        "signed prekey, expired 121 seconds ago": bundle(signed_prekey=OWNER.signed(expires_s=NOW - 121)),
        "KEM key of last resort, expired 121 seconds ago": bundle(kem_prekey=OWNER.last_resort(expires_s=NOW - 121)),
        "signed prekey, without an expiry": bundle(signed_prekey=OWNER.signed() | {"expires": None}),
        "signed prekey, a time with a fraction": bundle(signed_prekey=fraction(OWNER.signed())),
        "KEM key of last resort, a time with a fraction": bundle(kem_prekey=fraction(OWNER.last_resort())),
    }


def fraction(prekey: Vector) -> Vector:
    return prekey | {"expires": prekey["expires"].replace(".000000", ".500000")}


def of_bad_keys() -> dict[str, Vector]:
    """Keys that are none, though their owner signed them."""
    off = PublicKey(SIGNED.der[:-1] + bytes((SIGNED.der[-1] ^ 1,)))
    point = SIGNED.der[len(SPKI_HEADER) :]
    compressed = PublicKey(SPKI_HEADER + bytes((2 + (point[-1] & 1),)) + point[1:49])
    # The first coefficient is 4,095, and the modulus 3,329.
    not_reduced = KemPublicKey(b"\xff\x0f" + KEM_PUBLIC.raw[2:])
    return {
        "signed prekey off the curve": bundle(signed_prekey=OWNER.signed(key=off)),
        "signed prekey compressed": bundle(signed_prekey=OWNER.signed(key=compressed)),
        "one-time prekey off the curve": bundle(one_time_prekey=OWNER.one_time(key=off)),
        "one-time prekey, two blocks": bundle(one_time_prekey=OWNER.one_time() | {"public_key": ONCE.pem * 2}),
        "one-time KEM key, a coefficient out of range": bundle(kem_prekey=OWNER.one_time_kem(key=not_reduced)),
        "KEM key of last resort, a coefficient out of range": bundle(kem_prekey=OWNER.last_resort(key=not_reduced)),
    }


def signed_by_others() -> dict[str, Vector]:
    """Keys that their owner did not sign, or signed for another account."""
    for_others = {
        f"{what}, signed {who}": bundle(**each)
        for who, signer in (("by another", OTHER), ("for another user", FOR_ANOTHER))
        for what, each in {
            "signed prekey": {"signed_prekey": signer.signed()},
            "one-time prekey": {"one_time_prekey": signer.one_time()},
            "one-time KEM key": {"kem_prekey": signer.one_time_kem()},
            "KEM key of last resort": {"kem_prekey": signer.last_resort()},
        }.items()
    }
    changed = {
        "signed prekey, another id": {"signed_prekey": OWNER.signed() | {"id": str(UUID(int=5))}},
        "signed prekey, another key": {"signed_prekey": OWNER.signed() | {"public_key": ONCE.pem}},
        "signed prekey, a later expiry": {"signed_prekey": OWNER.signed() | {"expires": written(LATER + 1)}},
        "one-time prekey, another id": {"one_time_prekey": OWNER.one_time() | {"id": str(UUID(int=5))}},
        "one-time prekey, another key": {"one_time_prekey": OWNER.one_time() | {"public_key": SIGNED.pem}},
        "one-time KEM key, another id": {"kem_prekey": OWNER.one_time_kem() | {"id": str(UUID(int=5))}},
        "last resort, a later expiry": {"kem_prekey": OWNER.last_resort() | {"expires": written(LATER + 1)}},
    }
    return for_others | {name: bundle(**each) for name, each in changed.items()}


def signed_for_other_uses() -> dict[str, Vector]:
    """Keys that their owner signed, under another label than that of their place."""
    return {
        "a one-time prekey as the signed one": bundle(
            signed_prekey=OWNER.one_time(key=SIGNED) | {"expires": written(LATER)}
        ),
        "a signed prekey as the one-time one": bundle(one_time_prekey=OWNER.signed(key=ONCE) | {"expires": None}),
        "a one-time KEM key as the last resort": bundle(
            kem_prekey=OWNER.one_time_kem() | {"expires": written(LATER)},
        ),
        "a last resort as a one-time KEM key": bundle(kem_prekey=OWNER.last_resort() | {"expires": None}),
        "a signature of another sort of key": bundle(
            kem_prekey=OWNER.one_time_kem() | {"signature": OWNER.signed()["signature"]}
        ),
    }


def malformed() -> dict[str, Vector]:
    """Answers that do not have the form of the contract."""
    lacking = {f"without {name}": without(bundle(), name) for name in ("user_id", "signed_prekey", "kem_prekey")}
    unsigned = {
        f"{name} without a signature": bundle(**{name: without(bundle()[name], "signature")})
        for name in ("signed_prekey", "one_time_prekey", "kem_prekey")
    }
    long, raw = bytes(SIGNATURE_MAX_BYTES + 1), KEM_PUBLIC.raw
    kem_keys = {
        "KEM key of 1,567 bytes": replace(KEM_PUBLIC, raw=raw[:-1]),
        "KEM key of 1,569 bytes": replace(KEM_PUBLIC, raw=raw + b"\x00"),
    }
    url_safe = b64encode(raw).replace("+", "-").replace("/", "_")
    return {
        **lacking,
        **unsigned,
        **{name: bundle(kem_prekey=OWNER.one_time_kem(key=key)) for name, key in kem_keys.items()},
        "KEM key in base64url": bundle(kem_prekey=OWNER.one_time_kem() | {"public_key": url_safe}),
        "signature of no bytes": bundle(signed_prekey=OWNER.signed() | {"signature": ""}),
        "signature of 105 bytes": bundle(signed_prekey=OWNER.signed() | {"signature": b64encode(long)}),
        "an id that is none": bundle(one_time_prekey=OWNER.one_time() | {"id": "2"}),
        "a time that is none": bundle(signed_prekey=OWNER.signed() | {"expires": "next year"}),
    }


def without(each: Vector, name: str) -> Vector:
    return {key: value for key, value in each.items() if key != name}
