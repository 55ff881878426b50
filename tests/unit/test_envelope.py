"""An envelope opens for its recipient, as its sender's, unaltered: or not at all."""

from dataclasses import replace
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given, settings
from hypothesis import strategies as st

from blindpost.protocol import transcripts
from blindpost.protocol.content import HEAD_BYTES, SENT_AT_MAX_MS, Content, Kind
from blindpost.protocol.envelope import (
    DATA_MAX_BYTES,
    OVERHEAD_BYTES,
    Parties,
    _key_and_nonce,
    open_envelope,
    seal,
)
from blindpost.protocol.keys import ECDSA_SHA384, PublicKey
from blindpost.protocol.limits import MESSAGE_MAX_BYTES
from blindpost.protocol.padding import BUCKETS

ALICE, BOB, MALLORY = (ec.derive_private_key(n, ec.SECP384R1()) for n in (11, 12, 13))
BOB_ECDH, MALLORY_ECDH = (ec.derive_private_key(n, ec.SECP384R1()) for n in (21, 22))


def public(key: ec.EllipticCurvePrivateKey) -> PublicKey:
    return PublicKey.of(key.public_key())


def sign_as_alice(data: bytes) -> bytes:
    return ALICE.sign(data, ECDSA_SHA384)


TO_BOB = Parties(UUID(int=1), public(ALICE), UUID(int=2), public(BOB_ECDH))
HELLO = Content(UUID(int=7), 1_700_000_000_000, Kind.TEXT, b"hello")
SEALED = seal(HELLO, TO_BOB, sign_as_alice)

contents = st.builds(
    Content, st.uuids(), st.integers(0, SENT_AT_MAX_MS), st.just(Kind.BYTES), st.binary(max_size=2_000)
)


@settings(deadline=None)
@given(contents)
def test_round_trip(content: Content) -> None:
    """What goes in comes out, and the size is one of the buckets."""
    sealed = seal(content, TO_BOB, sign_as_alice)
    assert len(sealed) in BUCKETS
    assert open_envelope(sealed, TO_BOB, BOB_ECDH) == content


def test_no_byte_can_be_changed() -> None:
    """Each single flipped bit of the smallest envelope makes it unreadable."""
    for index in range(len(SEALED)):
        altered = bytearray(SEALED)
        altered[index] ^= 1 << (index % 8)
        with pytest.raises(ValueError, match=r"^the envelope cannot be decrypted$"):
            open_envelope(bytes(altered), TO_BOB, BOB_ECDH)


@given(st.binary(max_size=1_100))
def test_no_bytes_fail_otherwise(garbage: bytes) -> None:
    """Every failure is the same ValueError, and tells nothing of its cause."""
    with pytest.raises(ValueError, match=r"^the envelope cannot be decrypted$") as caught:
        open_envelope(garbage, TO_BOB, BOB_ECDH)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("size", [0, 1, 98, 511, 513, 1024, 65_536, 65_537, 131_072])
def test_other_lengths_are_refused(size: int) -> None:
    """Cut or lengthened, to another bucket too."""
    with pytest.raises(ValueError, match="cannot be decrypted"):
        open_envelope((SEALED + bytes(size))[:size], TO_BOB, BOB_ECDH)


@pytest.mark.parametrize(
    "parties",
    [
        replace(TO_BOB, sender_id=UUID(int=3)),
        replace(TO_BOB, recipient_id=UUID(int=3)),
        replace(TO_BOB, sender_key=public(MALLORY)),
        replace(TO_BOB, recipient_key=public(MALLORY_ECDH)),
        Parties(TO_BOB.recipient_id, TO_BOB.sender_key, TO_BOB.sender_id, TO_BOB.recipient_key),
    ],
)
def test_both_sides_must_agree_on_everybody(parties: Parties) -> None:
    """Another sender, recipient or key, told by a router, does not open the envelope."""
    with pytest.raises(ValueError, match="cannot be decrypted"):
        open_envelope(SEALED, parties, BOB_ECDH)


def test_nobody_else_can_open_it() -> None:
    """Another private key fails, its own identity assumed or not."""
    for parties in (TO_BOB, replace(TO_BOB, recipient_key=public(MALLORY_ECDH))):
        with pytest.raises(ValueError, match="cannot be decrypted"):
            open_envelope(SEALED, parties, MALLORY_ECDH)


def test_nobody_can_sign_for_another() -> None:
    """Mallory encrypts well but signs with her own key: refused."""
    forged = seal(HELLO, TO_BOB, lambda data: MALLORY.sign(data, ECDSA_SHA384))
    with pytest.raises(ValueError, match="cannot be decrypted"):
        open_envelope(forged, TO_BOB, BOB_ECDH)


def test_a_recipient_cannot_seal_it_again_to_another() -> None:
    """Mallory got a message from Alice and forwards content and signature to Bob: the signature names Mallory."""
    kept: list[bytes] = []

    def sign_and_leak(data: bytes) -> bytes:
        kept.append(sign_as_alice(data))
        return kept[-1]

    seal(HELLO, replace(TO_BOB, recipient_id=UUID(int=3), recipient_key=public(MALLORY_ECDH)), sign_and_leak)
    forwarded = seal(HELLO, TO_BOB, lambda _: kept[-1])
    with pytest.raises(ValueError, match="cannot be decrypted"):
        open_envelope(forwarded, TO_BOB, BOB_ECDH)


def test_a_signature_does_not_fit_a_second_envelope() -> None:
    """The one-time key is signed too: the same message to the same person cannot be wrapped anew."""
    kept: list[bytes] = []

    def sign_and_leak(data: bytes) -> bytes:
        kept.append(sign_as_alice(data))
        return kept[-1]

    seal(HELLO, TO_BOB, sign_and_leak)
    again = seal(HELLO, TO_BOB, lambda _: kept[-1])
    with pytest.raises(ValueError, match="cannot be decrypted"):
        open_envelope(again, TO_BOB, BOB_ECDH)


@pytest.mark.parametrize("length", [0, 1, 512 - OVERHEAD_BYTES, 513 - OVERHEAD_BYTES, DATA_MAX_BYTES])
def test_the_size_depends_on_the_length_alone(length: int) -> None:
    """Signatures vary in length by chance; the bucket does not."""
    content = replace(HELLO, data=b"x" * length)
    sizes = {len(seal(content, TO_BOB, sign_as_alice)) for _ in range(5)}
    assert len(sizes) == 1
    assert open_envelope(seal(content, TO_BOB, sign_as_alice), TO_BOB, BOB_ECDH) == content


def test_the_largest_message_fills_the_limit() -> None:
    """One byte more is refused before anything is encrypted."""
    assert len(seal(replace(HELLO, data=bytes(DATA_MAX_BYTES)), TO_BOB, sign_as_alice)) == MESSAGE_MAX_BYTES
    with pytest.raises(ValueError, match="at most"):
        seal(replace(HELLO, data=bytes(DATA_MAX_BYTES + 1)), TO_BOB, sign_as_alice)


def test_two_envelopes_share_nothing() -> None:
    """One message sealed twice has two one-time keys."""
    assert SEALED[1:98] != seal(HELLO, TO_BOB, sign_as_alice)[1:98]


@pytest.mark.parametrize(
    "encoded",
    [
        b"",
        HELLO.encode()[:24],
        HELLO.encode()[:16] + b"\xff" * 8 + HELLO.encode()[24:],
        HELLO.encode()[:24] + b"\x00hello",
        HELLO.encode()[:24] + b"\x03hello",
        HELLO.encode()[:24] + b"\x01\xff",
        HELLO.encode()[:24] + b"\x01\xed\xa0\x80",
    ],
)
def test_refuses_content_that_no_sender_writes(encoded: bytes) -> None:
    """A time beyond the calendar, an unknown kind, text that is not UTF-8: a hostile contact crashes nobody."""
    with pytest.raises(ValueError, match=r"\w"):
        Content.decode(encoded)


@given(st.binary(max_size=100))
def test_content_has_one_form(encoded: bytes) -> None:
    """What is read is what would be written."""
    try:
        content = Content.decode(encoded)
    except ValueError:
        return
    assert content.encode() == encoded


@pytest.mark.parametrize(("sent_at_ms", "is_good"), [(-1, False), (0, True), (SENT_AT_MAX_MS, True), (2**63, False)])
def test_a_time_of_sending_is_between_1970_and_the_last_millisecond_of_9999(
    sent_at_ms: int,
    is_good: bool,  # noqa: FBT001
) -> None:
    content = replace(HELLO, sent_at_ms=sent_at_ms)
    if is_good:
        assert Content.decode(content.encode()) == content
    else:
        with pytest.raises(ValueError, match="time of sending"):
            content.encode()


def test_one_millisecond_later_is_no_date() -> None:
    assert SENT_AT_MAX_MS == 253_402_300_799_999
    with pytest.raises(ValueError, match="time of sending"):
        replace(HELLO, sent_at_ms=SENT_AT_MAX_MS + 1).encode()


def test_a_content_without_data_is_one() -> None:
    empty = replace(HELLO, data=b"")
    assert len(empty.encode()) == HEAD_BYTES
    assert Content.decode(empty.encode()) == empty
    with pytest.raises(ValueError, match="too short"):
        Content.decode(empty.encode()[:-1])


def test_text_is_utf_8_and_bytes_are_anything() -> None:
    assert Content.decode(replace(HELLO, kind=Kind.BYTES, data=b"\xff").encode()).data == b"\xff"
    with pytest.raises(ValueError, match="utf-8"):
        replace(HELLO, data=b"\xff").encode()


def seal_anything(plaintext: bytes, size: int = 512) -> bytes:
    """Encrypt as a hostile sender would, who keeps to no format inside."""
    secret = ec.derive_private_key(31, ec.SECP384R1())
    header = b"\x01" + public(secret).der[-97:]
    key, nonce = _key_and_nonce(secret, TO_BOB.recipient_key, TO_BOB, public(secret))
    return header + AESGCM(key).encrypt(nonce, plaintext + bytes(size - len(header) - 16 - len(plaintext)), header)


@pytest.mark.parametrize("plaintext", [b"", b"\x80", b"\x00\x80", b"\xff\x80", b"\x01\x30\x80", b"\x00" * 300])
def test_whatever_a_hostile_sender_seals_is_the_one_error(plaintext: bytes) -> None:
    """No padding, nothing inside, a length beyond the end, no signature."""
    with pytest.raises(ValueError, match=r"^the envelope cannot be decrypted$"):
        open_envelope(seal_anything(plaintext), TO_BOB, BOB_ECDH)


def test_a_hostile_sender_who_keeps_to_the_format_is_read() -> None:
    """Else the test above would prove nothing."""
    one_time = public(ec.derive_private_key(31, ec.SECP384R1()))
    signature = sign_as_alice(
        transcripts.message(UUID(int=1), UUID(int=2), public(ALICE), public(BOB_ECDH), one_time, HELLO.encode())
    )
    plaintext = bytes((len(signature),)) + signature + HELLO.encode() + b"\x80"
    assert open_envelope(seal_anything(plaintext), TO_BOB, BOB_ECDH) == HELLO


@pytest.mark.parametrize("place", range(16, 24))
def test_every_byte_of_the_time_of_sending_counts(place: int) -> None:
    encoded = bytearray(HELLO.encode())
    encoded[place] ^= 0x80
    try:
        content = Content.decode(bytes(encoded))
    except ValueError:
        assert place < 19, "it would be a good time"
        return
    assert content.encode() == encoded
    assert content.sent_at_ms != HELLO.sent_at_ms


@pytest.mark.parametrize(("size", "is_good"), [(511, False), (512, True), (513, False), (600, False), (1_024, True)])
def test_an_envelope_that_is_right_inside_still_needs_the_size_of_a_bucket(
    size: int,
    is_good: bool,  # noqa: FBT001
) -> None:
    """Or a sender could mark messages by their size, for a router to recognise."""
    one_time = public(ec.derive_private_key(31, ec.SECP384R1()))
    signature = sign_as_alice(
        transcripts.message(UUID(int=1), UUID(int=2), public(ALICE), public(BOB_ECDH), one_time, HELLO.encode())
    )
    sealed = seal_anything(bytes((len(signature),)) + signature + HELLO.encode() + b"\x80", size)
    if is_good:
        assert open_envelope(sealed, TO_BOB, BOB_ECDH) == HELLO
    else:
        with pytest.raises(ValueError, match="cannot be decrypted"):
            open_envelope(sealed, TO_BOB, BOB_ECDH)


def test_a_one_time_key_that_is_given_is_the_one_that_is_used() -> None:
    """The vectors rest on it."""
    one_time = ec.derive_private_key(31, ec.SECP384R1())
    sealed = seal(HELLO, TO_BOB, sign_as_alice, ephemeral=one_time)
    assert sealed[1:98] == public(one_time).der[-97:]
