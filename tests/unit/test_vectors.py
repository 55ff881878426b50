"""The published vectors hold, and are what the code writes today."""

import base64
from typing import Any
from uuid import UUID

import pytest

import make_vectors
from blindpost.protocol.challenge import Challenge
from blindpost.protocol.dpop import InvalidProof, SignedRequest, check
from blindpost.protocol.keys import PublicKey
from blindpost.protocol.padding import unpad
from blindpost.protocol.safety_number import safety_number
from read_vectors import VECTORS, by_name, is_good, load, vectors_of


def test_the_files_are_what_the_code_writes() -> None:
    """A change of the protocol shows in the vectors, or is none."""
    for name, content in make_vectors.build().items():
        assert (VECTORS / f"{name}.json").read_text(encoding="utf-8") == make_vectors.text_of(content)


@by_name("keys")
def test_keys(vector: dict[str, str]) -> None:
    """Each PEM is read to its DER, or refused."""
    if is_good(vector, "invalid_key"):
        assert PublicKey.from_pem(vector["pem"]).der == base64.b64decode(vector["der"])
        return
    with pytest.raises(ValueError, match=r"\w"):
        PublicKey.from_pem(vector["pem"])


@by_name("signatures")
def test_signatures(vector: dict[str, str]) -> None:
    """Each signature verifies, or does not."""
    signature, data = base64.b64decode(vector["signature"]), base64.b64decode(vector["data"])
    assert PublicKey.from_pem(vector["key"]).verifies(signature, data) == is_good(vector, "invalid_signature")


@by_name("transcripts")
def test_transcripts(vector: dict[str, str]) -> None:
    """Each transcript is what its key signed, or is not."""
    signature, transcript = base64.b64decode(vector["signature"]), base64.b64decode(vector["transcript"])
    assert PublicKey.from_pem(vector["key"]).verifies(signature, transcript) == is_good(vector, "invalid_signature")


@by_name("proofs")
def test_proofs(vector: dict[str, Any]) -> None:
    """Each proof passes for its request at its time, or not."""
    request = SignedRequest(vector["method"], vector["url"], base64.b64decode(vector["body"]), vector["token"])
    if is_good(vector, "invalid_proof"):
        assert check(vector["proof"], request, vector["now"]).thumbprint == vector["thumbprint"]
        return
    with pytest.raises(InvalidProof):
        check(vector["proof"], request, vector["now"])


@by_name("challenges")
def test_challenges(vector: dict[str, Any]) -> None:
    """Each text is read to its fields, or refused."""
    if is_good(vector, "invalid_challenge"):
        expected = Challenge(vector["origin"], vector["username"], vector["nonce"], vector["expiry"])
        assert Challenge.parse(vector["text"]) == expected
        return
    with pytest.raises(ValueError, match="challenge"):
        Challenge.parse(vector["text"])


@by_name("padding")
def test_padding(vector: dict[str, str]) -> None:
    """Each padding comes off, or is refused."""
    if is_good(vector, "invalid_padding"):
        assert unpad(bytes.fromhex(vector["padded"])).hex() == vector["data"]
        return
    with pytest.raises(ValueError, match="mark"):
        unpad(bytes.fromhex(vector["padded"]))


@by_name("safety_numbers")
def test_safety_numbers(vector: dict[str, Any]) -> None:
    """Each pair of people has its number, and no other."""
    mine, theirs = (
        (UUID(vector[side]["user_id"]), PublicKey.from_pem(vector[side]["ecdsa"])) for side in ("mine", "theirs")
    )
    assert (safety_number(mine, theirs) == vector["number"]) == is_good(vector, "another_number")


def fields_of(value: Any) -> set[str]:
    """Every name in a file; those in an answer are of the contract with the router."""
    if isinstance(value, list):
        return set().union(*map(fields_of, value))
    if not isinstance(value, dict):
        return set()
    inside = (fields_of(each) for name, each in value.items() if name not in {"answer", "bundle"})
    return set(value).union(*inside)


def test_the_readme_explains_every_file_every_field_and_every_failure() -> None:
    """Who has the vectors and the specification needs nothing else."""
    readme = (VECTORS / "README.md").read_text(encoding="utf-8")
    _, *sections = readme.split("\n### ")
    explained = {section.partition(" ")[0]: section for section in sections}
    assert set(explained) == {f"{name}.json" for name in make_vectors.build()}
    assert set(explained) == {path.name for path in VECTORS.glob("*.json")}
    general, common = readme.partition("## The files")[0], explained["contents.json"] + explained["handshakes.json"]
    for name, section in explained.items():
        text = section + general + (common if name == "sessions.json" else "")
        content = load(name.removesuffix(".json"))
        failures = {vector["result"] for vector in vectors_of(content)}
        assert {each for each in fields_of(content) | failures if f"`{each}`" not in text} == set()
