"""What the published vectors of a person's keys are made of: answers of a router, good ones and lies."""

from collections.abc import Iterator
from typing import Any, Final

from blindpost.protocol import transcripts
from blindpost.protocol.encoding import b64encode
from blindpost.protocol.keys import PublicKey
from blindpost.protocol.limits import SIGNATURE_MAX_BYTES
from vector_keys import ALICE, BOB, PUBLIC, Vector, sign

ECDSA, ECDH, OTHER = PUBLIC["bob_ecdsa"], PUBLIC["bob_ecdh"], PUBLIC["mallory_ecdsa"]
OFF: Final = PublicKey(ECDH.der[:-1] + bytes((ECDH.der[-1] ^ 1,)))


def public_key_file() -> dict[str, Any]:
    """Return who is asked for, under which name, and the vectors."""
    return {"user_id": str(BOB), "username": "bob", "vectors": list(public_keys())}


def answer(
    ecdsa: PublicKey = ECDSA, ecdh: PublicKey = ECDH, *, name: str = "bob", signer: str = "bob_ecdsa", **other: Any
) -> Vector:
    good = {
        "user_id": str(BOB),
        "ecdsa_public_key": ecdsa.pem,
        "ecdh_public_key": ecdh.pem,
        "ecdh_signature": b64encode(sign(signer, transcripts.register(name, ecdsa, ecdh))),
    }
    return good | other


def public_keys() -> Iterator[Vector]:
    """Answers to a question for somebody's keys; whether they may be pinned, or why not."""
    good, of_deletion = answer(), b64encode(sign("bob_ecdsa", transcripts.delete_account(BOB)))
    lacking = {f"without {name}": {key: good[key] for key in good if key != name} for name in good}
    for result, answers in {
        "ok": {
            "as registered": good,
            "a replaced ECDH key": answer(ecdh=PUBLIC["one_time"]),
            "a field that nobody knows": answer(more=1),
        },
        "another_user": {"another user's": answer(user_id=str(ALICE))},
        "invalid_key": {
            "ECDH key off the curve": answer(ecdh=OFF),
            "ECDSA key off the curve": answer(ecdsa=OFF),
            "ECDH key in two blocks": answer(ecdh_public_key=ECDH.pem * 2),
            "one key for both purposes": answer(ecdh=ECDSA),
        },
        "invalid_signature": {
            "registered under another name": answer(name="mallory"),
            "registered under the name in another case": answer(name="Bob"),
            "signed by another": answer(signer="mallory_ecdsa"),
            "another ECDH key": answer(ecdh_public_key=PUBLIC["alice_ecdh"].pem),
            "another ECDSA key": answer(ecdsa_public_key=OTHER.pem),
            "the keys exchanged": answer(ecdsa_public_key=ECDH.pem, ecdh_public_key=ECDSA.pem),
            "signed under another label": answer(ecdh_signature=of_deletion),
        },
        "malformed": {
            **lacking,
            "an id that is none": answer(user_id="bob"),
            "signature of no bytes": answer(ecdh_signature=""),
            "signature of 105 bytes": answer(ecdh_signature=b64encode(bytes(SIGNATURE_MAX_BYTES + 1))),
        },
    }.items():
        for name, each in answers.items():
            yield {"name": name, "answer": each, "result": result}
