"""The figures of the contract, as spec/protocol.md and spec/http.md have them: a change of one is a change of both."""

from blindpost.protocol import (
    challenge,
    dpop,
    handshake,
    keys,
    limits,
    padding,
    ratchet,
    safety_number,
    session,
)


def test_the_sizes_and_times_are_those_of_the_specification() -> None:
    assert {name: value for name, value in vars(limits).items() if name.isupper()} == {
        "USERNAME_PATTERN": r"^[A-Za-z0-9_]{3,50}$",
        "USERNAME_PREFIX_PATTERN": r"^[A-Za-z0-9_]{3,50}$",
        "PEM_MAX_CHARS": 1_024,
        "SIGNATURE_MAX_BYTES": 104,
        "CHALLENGE_MAX_CHARS": 512,
        "CHALLENGE_LIFETIME_S": 60,
        "MESSAGE_MAX_BYTES": 65_536,
        "PAGE_MAX": 500,
        "PAGE_DEFAULT": 100,
        "POLL_MAX_S": 60,
        "POLL_DEFAULT_S": 30,
        "SEARCH_MAX": 10,
        "USER_IDS_MAX": 100,
        "PREKEY_BATCH_MAX": 25,
        "PREKEYS_MAX": 100,
        "PREKEYS_LOW": 20,
        "PREKEY_LIFETIME_MAX_S": 90 * 24 * 3_600,
        "BODY_MAX_BYTES": 98_304,
    }


def test_the_figures_of_each_format_are_those_of_the_specification() -> None:
    assert (dpop.PROOF_MAX_CHARS, dpop.ID_MAX_CHARS, dpop.AGE_MAX_S, dpop.AHEAD_MAX_S) == (8_192, 128, 60, 5)
    assert (challenge.LABEL, challenge.NONCE_BYTES) == ("blindpost/v1/login", 32)
    assert (keys.POINT_BYTES, keys.DER_BYTES) == (97, 120)
    assert (padding.SMALLEST_BUCKET, len(padding.BUCKETS)) == (512, 8)
    assert (handshake.HEADER_BYTES, ratchet.HEADER_BYTES) == (1_713, 133)
    assert (ratchet.SKIP_MAX, ratchet.SKIPPED_MAX, ratchet.SKIPPED_CHAINS_MAX) == (1_000, 2_000, 32)
    assert (512 - session.OVERHEAD_BYTES, 2_048 - session.OVERHEAD_BYTES - handshake.HEADER_BYTES) == (320, 143)
    assert session.DATA_MAX_BYTES == 63_631
    assert (safety_number.ITERATIONS, safety_number.HALF_BYTES) == (5_200, 30)
