"""The figures of the contract, as spec/protocol.md and spec/http.md have them: a change of one is a change of both."""

from blindpost.protocol import challenge, dpop, envelope, keys, limits, padding, safety_number


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
        "BODY_MAX_BYTES": 98_304,
    }


def test_the_figures_of_each_format_are_those_of_the_specification() -> None:
    assert (dpop.PROOF_MAX_CHARS, dpop.ID_MAX_CHARS, dpop.AGE_MAX_S, dpop.AHEAD_MAX_S) == (8_192, 128, 60, 5)
    assert (challenge.LABEL, challenge.NONCE_BYTES) == ("blindpost/v1/login", 32)
    assert (keys.POINT_BYTES, keys.DER_BYTES) == (97, 120)
    assert (padding.SMALLEST_BUCKET, len(padding.BUCKETS)) == (512, 8)
    assert (envelope.HEADER_BYTES, envelope.TAG_BYTES, envelope.OVERHEAD_BYTES) == (98, 16, 245)
    assert (safety_number.ITERATIONS, safety_number.HALF_BYTES) == (5_200, 30)
