"""Sessions: what opens, what never does, and what a stolen state is worth."""

import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blindpost.protocol import ratchet, session
from blindpost.protocol.content import LOST_MAX, Content, Kind
from blindpost.protocol.handshake import Header
from blindpost.protocol.padding import BUCKETS
from blindpost.protocol.session import DATA_MAX_BYTES, Session
from two_parties import Person, Town, text

STEPS = int(os.environ.get("RATCHET_STEPS", "3000"))
SEED = int(os.environ.get("RATCHET_SEED", "0")) or int.from_bytes(os.urandom(4), "big")

ALICE, BOB = Person(1), Person(2)


def begun() -> tuple[Session, Session]:
    """Return both sides after one message each way."""
    alice, message = ALICE.begin(BOB).seal(text(1))
    bob, answer = BOB.take_up(ALICE, message).open(message).session.seal(text(2))
    return alice.open(answer).session, bob


def opens(state: Session, message: bytes) -> bool:
    try:
        state.open(message)
    except ValueError:
        return False
    return True


def test_every_delivered_message_opens_once_whatever_happens_on_the_way_and_nothing_else_does() -> None:
    town = Town(SEED)
    print(f"RATCHET_SEED={SEED} RATCHET_STEPS={STEPS}")  # noqa: T201 - to run it again
    for _ in range(STEPS):
        town.step()
    print(dict(town.done))  # noqa: T201 - what the figures of a long run are
    assert min(town.done[each] for each in ("opened", "late", "refused repetition", "crash", "tamper")) > 0
    for side in town.sides:
        assert side.state is not None
        assert session.encode(side.state) == side.disk


@given(st.integers(0, 5), st.binary(max_size=1_000))
def test_a_message_has_one_of_eight_sizes_and_opens_to_what_was_said(sent_before: int, data: bytes) -> None:
    alice, bob = begun()
    for number in range(sent_before):
        alice, message = alice.seal(text(number))
        bob = bob.open(message).session
    content = Content(text(1).client_message_id, 7, Kind.BYTES, data)
    _, message = alice.seal(content)
    assert len(message) in BUCKETS
    assert bob.open(message).content == content


def test_the_largest_message_fits_also_beside_the_handshake_and_a_larger_one_is_refused() -> None:
    largest = Content(text(1).client_message_id, 7, Kind.BYTES, bytes(DATA_MAX_BYTES))
    _, message = ALICE.begin(BOB).seal(largest)
    assert len(message) == BUCKETS[-1]
    with pytest.raises(ValueError, match="at most"):
        ALICE.begin(BOB).seal(replace(largest, data=bytes(DATA_MAX_BYTES + 1)))


@pytest.mark.parametrize(("length", "size"), [(0, 512), (320, 512), (321, 1_024), (320 + 512, 1_024)])
def test_the_size_follows_from_the_length_alone(length: int, size: int) -> None:
    alice, _ = begun()
    _, message = alice.seal(Content(text(1).client_message_id, 7, Kind.BYTES, bytes(length)))
    assert len(message) == size


def seal_anything(alice: Session, plaintext: bytes, size: int = 512) -> bytes:
    """Encrypt as a hostile contact would, who keeps to no format inside."""
    room = size - len(session.FOLLOWING) - ratchet.OVERHEAD_BYTES
    _, sealed = ratchet.encrypt(alice.ratchet, plaintext.ljust(room, b"\x00"), alice.associated + session.FOLLOWING)
    return session.FOLLOWING + sealed


@pytest.mark.parametrize(("size", "is_good"), [(511, False), (512, True), (513, False), (600, False), (1_024, True)])
def test_a_message_that_is_right_inside_still_needs_one_of_the_sizes(
    size: int,
    is_good: bool,  # noqa: FBT001
) -> None:
    """Or a sender could mark messages by their size, for a router to recognise."""
    alice, bob = begun()
    assert opens(bob, seal_anything(alice, text(1).encode() + b"\x80", size)) == is_good


@pytest.mark.parametrize("plaintext", [b"", b"\x80", text(1).encode(), text(1).encode()[:24] + b"\x04\x80"])
def test_whatever_a_hostile_contact_seals_is_the_one_error(plaintext: bytes) -> None:
    """No padding, nothing inside, no mark, an unknown kind."""
    alice, bob = begun()
    demand_the_one_error(bob, seal_anything(alice, plaintext))


def demand_the_one_error(state: Session, message: bytes) -> None:
    with pytest.raises(ValueError, match=r"^the message cannot be decrypted$") as caught:
        state.open(message)
    assert caught.value.__suppress_context__


def test_no_byte_of_a_message_can_be_changed() -> None:
    """Nor can it be cut or lengthened: all of it is the one error, which tells nothing of its cause."""
    alice, bob = begun()
    alice, before = alice.seal(text(1))
    bob = bob.open(before).session
    _, message = alice.seal(text(2))
    for index in range(len(message)):
        altered = bytearray(message)
        altered[index] ^= 1 << (index % 8)
        demand_the_one_error(bob, bytes(altered))
    for size in (0, 1, 511, 513, 1_024, 65_536, 131_072):
        demand_the_one_error(bob, (message + bytes(size))[:size])
    assert opens(bob, message)


@pytest.mark.parametrize("one_time", [True, False])
def test_the_handshake_goes_along_until_the_first_answer(*, one_time: bool) -> None:
    alice = ALICE.begin(BOB, one_time=one_time)
    alice, first = alice.seal(text(1))
    alice, second = alice.seal(text(2))
    assert session.opening_of(first) == session.opening_of(second) != None  # noqa: E711 - all three
    bob = BOB.take_up(ALICE, second).open(second).session
    received = bob.open(first)
    assert received.is_late
    bob, answer = received.session.seal(text(3))
    alice, third = alice.open(answer).session.seal(text(4))
    assert session.opening_of(third) is None
    assert bob.open(third).content == text(4)


def test_who_was_written_to_cannot_write_in_a_session_before_a_message_of_it_opened() -> None:
    _, message = ALICE.begin(BOB).seal(text(1))
    with pytest.raises(ValueError, match="cannot send"):
        BOB.take_up(ALICE, message).seal(text(2))


def test_a_session_opens_only_between_the_two_who_agreed() -> None:
    """Somebody else as sender, as recipient, another identity key, another prekey: none agrees."""
    mallory = Person(3)
    _, message = ALICE.begin(BOB).seal(text(1))
    assert opens(BOB.take_up(ALICE, message), message)
    assert not opens(BOB.take_up(mallory, message), message)
    assert not opens(mallory.take_up(ALICE, message), message)
    renamed = Person(4)
    renamed.party = replace(ALICE.party, user_id=renamed.party.user_id)
    assert not opens(BOB.take_up(renamed, message), message)
    rekeyed = Person(5)
    rekeyed.party = replace(ALICE.party, ecdsa=mallory.party.ecdsa)
    assert not opens(BOB.take_up(rekeyed, message), message)


@pytest.mark.parametrize("at", range(0, 1714, 101))
def test_a_changed_handshake_opens_nothing(at: int) -> None:
    _, message = ALICE.begin(BOB).seal(text(1))
    changed = message[:at] + bytes((message[at] ^ 1,)) + message[at + 1 :]
    with pytest.raises((ValueError, AssertionError)):
        BOB.take_up(ALICE, changed).open(changed)


def test_a_stolen_state_opens_nothing_from_before() -> None:
    """Forward secrecy: at each step, all messages that were opened before stay closed to who takes the state."""
    alice, bob = begun()
    before: list[bytes] = []
    for number in range(40):
        alice, message = alice.seal(text(number))
        bob = bob.open(message).session
        before.append(message)
        if number % 3 == 0:
            bob, message = bob.seal(text(number))
            alice = alice.open(message).session
            before.append(message)
        for stolen in (alice, bob):
            assert not any(opens(stolen, each) for each in before)


def test_after_one_exchange_of_ratchet_keys_a_stolen_state_opens_nothing() -> None:
    """Healing: the thief reads until each side took a turn with a key that the thief has not seen."""
    alice, bob = begun()
    stolen_alice, stolen_bob = alice, bob
    alice, message = alice.seal(text(1))
    assert opens(stolen_bob, message), "the test would prove nothing if the thief were always blind"
    bob, answer = bob.open(message).session.seal(text(2))
    alice = alice.open(answer).session
    after: list[bytes] = []
    for number in range(3, 20, 2):
        alice, message = alice.seal(text(number))
        bob, answer = bob.open(message).session.seal(text(number + 1))
        alice = alice.open(answer).session
        after += [message, answer]
    # The first turn after the theft is made of keys that the thief may have had a hand in.
    for stolen in (stolen_alice, stolen_bob):
        assert not any(opens(stolen, each) for each in after[2:])


def test_identity_and_prekeys_stolen_later_open_no_session_whose_one_time_keys_are_gone() -> None:
    _, message = ALICE.begin(BOB).seal(text(1))
    thief = Person(9)
    thief.party, thief.ecdsa, thief.ecdh = BOB.party, BOB.ecdsa, BOB.ecdh
    thief.private = replace(BOB.private, one_time=thief.private.one_time, kem=thief.private.kem)
    assert not opens(thief.take_up(ALICE, message), message)


def test_a_stolen_encryption_key_takes_no_session_up_and_is_nobody_else_to_its_owner() -> None:
    """Either takes the private prekey, too."""
    _, first = ALICE.begin(BOB, one_time=False).seal(text(1))
    thief = Person(9)
    thief.party, thief.ecdh = BOB.party, BOB.ecdh
    assert not opens(thief.take_up(ALICE, first), first)
    thief.party = ALICE.party
    _, forged = thief.begin(BOB).seal(text(3))
    assert not opens(BOB.take_up(ALICE, forged), forged)


def test_a_state_used_twice_does_not_use_a_key_and_nonce_twice() -> None:
    """A backup that was restored: equal texts look nothing alike, so neither text nor authentication key follows."""
    alice, bob = begun()
    _, first = alice.seal(text(1))
    _, second = alice.seal(text(1))
    same = sum(a == b for a, b in zip(first[1:], second[1:], strict=True))
    assert same < len(first) / 16
    assert opens(bob, first)
    assert opens(bob, second)


def test_missing_messages_are_counted_and_no_longer_once_they_come() -> None:
    alice, bob = begun()
    messages = []
    for number in range(5):
        alice, message = alice.seal(text(number))
        messages.append(message)
    received = bob.open(messages[4])
    assert (received.missed, received.session.ratchet.missing) == (4, 4)
    received = received.session.open(messages[1])
    assert (received.missed, received.is_late, received.session.ratchet.missing) == (0, True, 3)


def test_messages_missing_at_the_end_of_a_turn_are_found_by_the_next_turn() -> None:
    alice, bob = begun()
    alice, first = alice.seal(text(1))
    alice, _ = alice.seal(text(2))
    bob = bob.open(first).session
    bob, answer = bob.seal(text(3))
    alice = alice.open(answer).session
    alice, message = alice.seal(text(4))
    assert bob.open(message).missed == 1


def test_too_many_missing_messages_are_refused_and_nothing_changes() -> None:
    alice, bob = begun()
    for number in range(ratchet.SKIP_MAX + 1):
        alice, message = alice.seal(text(number))
    assert bob.open(message).missed == ratchet.SKIP_MAX
    _, message = alice.seal(text(0))
    assert not opens(bob, message)


def test_keys_of_missing_messages_are_bounded_the_oldest_go_first() -> None:
    alice, bob = begun()
    lost: list[bytes] = []
    for turn in range(ratchet.SKIPPED_CHAINS_MAX + 3):
        for number in range(80):
            alice, message = alice.seal(text(number))
            lost.append(message)
        alice, message = alice.seal(text(turn))
        bob, answer = bob.open(message).session.seal(text(turn))
        alice = alice.open(answer).session
    assert bob.ratchet.missing == ratchet.SKIPPED_MAX
    assert not opens(bob, lost[0])
    assert opens(bob, lost[-1])


@given(st.binary(max_size=4_000))
def test_arbitrary_bytes_are_no_session_and_no_state(data: bytes) -> None:
    for read in (session.decode, ratchet.decode, Header.decode):
        with pytest.raises(ValueError, match=r"\w"):
            read(data)
    _, bob = begun()
    assert not opens(bob, data)


@given(st.data())
def test_a_state_is_read_from_disk_as_it_was_written(data: st.DataObject) -> None:
    town = Town(data.draw(st.integers(0, 1 << 32)))
    for _ in range(data.draw(st.integers(0, 60))):
        town.step()
    for side in town.sides:
        if side.state is not None:
            assert session.decode(session.encode(side.state)) == side.state


@pytest.mark.parametrize(
    "content",
    [
        Content(text(1).client_message_id, -1, Kind.TEXT, b""),
        Content(text(1).client_message_id, 1, Kind.TEXT, b"\xff"),
        Content(text(1).client_message_id, 1, Kind.LOST, bytes(15)),
        Content(text(1).client_message_id, 1, Kind.LOST, bytes(16 * (LOST_MAX + 1))),
    ],
)
def test_a_content_that_is_not_of_its_kind_is_neither_written_nor_read(content: Content) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        content.encode()


def test_a_state_shows_nothing_of_itself_in_a_log() -> None:
    alice, _ = begun()
    for each in (alice, alice.ratchet, alice.ratchet.sending, BOB.private):
        assert "object at" in repr(each)
