"""Both people see the same sixty digits, and any other key shows."""

from uuid import UUID

from cryptography.hazmat.primitives.asymmetric import ec

from blindpost.protocol.keys import PublicKey
from blindpost.protocol.safety_number import grouped, safety_number

ONE, TWO, THREE = (PublicKey.of(ec.derive_private_key(n, ec.SECP384R1()).public_key()) for n in (1, 2, 3))
ALICE, BOB = UUID(int=1), UUID(int=2)


def test_both_sides_see_the_same_digits() -> None:
    """The order of the two does not matter."""
    number = safety_number((ALICE, ONE), (BOB, TWO))
    assert number == safety_number((BOB, TWO), (ALICE, ONE))
    assert len(number) == 60
    assert number.isdigit()


def test_every_part_counts() -> None:
    """Another key or another account is another number, and keys do not swap owners."""
    numbers = {
        safety_number((ALICE, ONE), (BOB, TWO)),
        safety_number((ALICE, ONE), (BOB, THREE)),
        safety_number((ALICE, TWO), (BOB, ONE)),
        safety_number((ALICE, ONE), (UUID(int=3), TWO)),
    }
    assert len(numbers) == 4


def test_it_is_written_in_groups_of_five() -> None:
    """Twelve groups are read out more easily than sixty digits."""
    assert grouped("0123456789" * 6).split() == ["01234", "56789"] * 6
