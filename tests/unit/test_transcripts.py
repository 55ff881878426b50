"""No two lists of fields have one transcript, and none meets another purpose's."""

from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from blindpost.protocol import challenge, transcripts
from blindpost.protocol.kem import KemPublicKey
from blindpost.protocol.keys import PublicKey

LABELS = st.from_regex(r"[a-z0-9-]{1,20}", fullmatch=True)
FIELDS = st.lists(st.binary(max_size=20), max_size=4).map(tuple)
KEYS = [PublicKey.of(ec.derive_private_key(scalar, ec.SECP384R1()).public_key()) for scalar in (1, 2)]
IDS = [UUID(int=1), UUID(int=2)]


@given(LABELS, FIELDS, LABELS, FIELDS)
def test_transcripts_are_injective(
    label: str, fields: tuple[bytes, ...], other_label: str, other_fields: tuple[bytes, ...]
) -> None:
    """Equal transcripts mean equal labels and equal fields."""
    same = transcripts.transcript(label, *fields) == transcripts.transcript(other_label, *other_fields)
    assert same == ((label, fields) == (other_label, other_fields))


@given(st.binary(max_size=20), st.binary(max_size=20))
def test_a_boundary_cannot_move(one: bytes, two: bytes) -> None:
    """What is split elsewhere reads differently."""
    assert transcripts.transcript("x", one, two) != transcripts.transcript("x", one + two)


@pytest.mark.parametrize("label", ["", "a\x00", "é", "A", "login|", "a b", "a\n"])
def test_refuses_labels_that_could_run_into_a_field(label: str) -> None:
    """A label has no character that ends a label."""
    with pytest.raises(ValueError, match="label"):
        transcripts.transcript(label)


def test_layout() -> None:
    """The bytes are those that the specification writes down."""
    assert transcripts.transcript("x-1", b"", b"ab") == b"blindpost/v1/x-1\x00" + bytes(4) + b"\x00\x00\x00\x02ab"


def test_every_purpose_has_its_own_beginning() -> None:
    """The beginnings up to the label's end differ, the login challenge's too: no signature serves twice."""
    one, two = KEYS
    me, them = IDS
    signed = [
        transcripts.register("alice", one, two),
        transcripts.rotate_ecdsa(me, one, two),
        transcripts.delete_account(me),
        transcripts.signed_prekey(me, them, 1, one),
        transcripts.one_time_prekey(me, them, one),
        transcripts.last_resort_kem_prekey(me, them, 1, KemPublicKey(b"")),
        transcripts.one_time_kem_prekey(me, them, KemPublicKey(b"")),
    ]
    heads = {each.split(b"\x00")[0] for each in signed}
    assert len(heads) == len(signed)
    assert not any(challenge.LABEL.encode() + b"|" == each[: len(challenge.LABEL) + 1] for each in signed)
