"""An identity file opens with its passphrase alone, and an identity survives what can happen to it."""

import hashlib
import json
import os
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from blindpost.client import (
    DamagedFile,
    ExposedFile,
    FileError,
    Identity,
    Role,
    Scrypt,
    Store,
    WrongPassphrase,
    WrongServer,
)
from blindpost.client import files as files_module
from blindpost.client.files import read_private, write_private
from blindpost.client.identity import RETIRED_LIFETIME_S, RETIRED_MAX
from blindpost.client.vault import CEILING, STANDARD
from blindpost.protocol.encoding import b64encode

CHEAP = Scrypt(log2_n=4)
ORIGIN = "https://chat.example.org"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "alice.identity"


@pytest.fixture
def alice() -> Identity:
    return Identity.generate("alice")


def reload(path: Path) -> Identity:
    return Identity.load(path, "secret", floor=CHEAP)


def test_it_comes_back_as_it_was(alice: Identity, path: Path) -> None:
    """Keys, name, server and account are in the file, and later changes follow without the passphrase."""
    alice.save(path, "secret", kdf=CHEAP)
    alice.belong_to(ORIGIN, UUID(int=1))
    again = reload(path)
    assert (again.ecdsa_key, again.ecdh_key) == (alice.ecdsa_key, alice.ecdh_key)
    assert (again.username, again.origin, again.user_id) == ("alice", ORIGIN, UUID(int=1))
    assert alice.ecdsa_key.verifies(again.sign(b"x"), b"x")


def test_the_two_keys_differ(alice: Identity) -> None:
    """One key never serves two purposes."""
    assert alice.ecdsa_key != alice.ecdh_key


def test_the_standard_cost_works(alice: Identity, path: Path) -> None:
    """What a user gets is what load demands without being told."""
    alice.save(path, "secret")
    assert path.read_text().startswith("blindpost-identity/1 scrypt 17 8 1 ")
    assert Identity.load(path, "secret").ecdsa_key == alice.ecdsa_key


def test_a_wrong_passphrase_is_told_from_damage(alice: Identity, path: Path) -> None:
    """The two need different things from a person."""
    alice.save(path, "secret", kdf=CHEAP)
    with pytest.raises(WrongPassphrase):
        Identity.load(path, "Secret", floor=CHEAP)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(DamagedFile):
        reload(path)


def test_accents_may_be_typed_either_way(alice: Identity, path: Path) -> None:
    """A passphrase is the same composed or decomposed."""
    alice.save(path, "caf\u00e9", kdf=CHEAP)
    assert Identity.load(path, "cafe\u0301", floor=CHEAP).ecdsa_key == alice.ecdsa_key


@settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_every_changed_byte_is_noticed(tmp_path: Path, data: st.DataObject) -> None:
    """No byte of the file can change and leave it readable."""
    path = tmp_path / "file"
    if not path.exists():
        Identity.generate("alice").save(path, "secret", kdf=CHEAP)
        (tmp_path / "whole").write_bytes(path.read_bytes())
    whole = bytearray((tmp_path / "whole").read_bytes())
    whole[data.draw(st.integers(0, len(whole) - 1))] ^= data.draw(st.integers(1, 255))
    write_private(path, bytes(whole))
    with pytest.raises(FileError):
        reload(path)


@pytest.mark.parametrize("kdf", [Scrypt(log2_n=16), Scrypt(log2_n=20), Scrypt(log2_n=17, p=5), Scrypt(log2_n=99)])
def test_a_cost_out_of_bounds_is_refused_before_it_is_paid(kdf: Scrypt, alice: Identity, path: Path) -> None:
    """A file cannot ask for a weaker key than the floor, nor for all of the memory."""
    alice.save(path, "secret", kdf=CHEAP)
    header, sealed, _ = path.read_text().splitlines()
    changed = f"{header.replace('scrypt 4 8 1', f'scrypt {kdf.log2_n} 8 {kdf.p}')}\n{sealed}\n"
    write_private(path, f"{changed}{_checksum(changed)}\n".encode())
    with pytest.raises(DamagedFile, match="cost"):
        Identity.load(path, "secret")


def test_the_bounds_hold_the_standard() -> None:
    """The standard is within its own bounds, and the most is half a gigabyte."""
    assert STANDARD.within(STANDARD)
    assert 128 * CEILING.r << CEILING.log2_n == 512 * 1024 * 1024


def test_the_header_is_bound_to_the_content(alice: Identity, path: Path) -> None:
    """A changed header with a checksum made to fit does not open either."""
    alice.save(path, "secret", kdf=CHEAP)
    header, sealed, _ = path.read_text().splitlines()
    changed = f"{header.replace('scrypt 4 8 1', 'scrypt 4 8 2')}\n{sealed}\n"
    write_private(path, f"{changed}{_checksum(changed)}\n".encode())
    with pytest.raises(WrongPassphrase):
        reload(path)


def _checksum(body: str) -> str:
    return b64encode(hashlib.sha256(body.encode()).digest())


def test_the_file_is_the_owners_alone(alice: Identity, path: Path) -> None:
    """Mode 0600 whatever the umask, and a file open to others is refused with the remedy."""
    before = os.umask(0)
    try:
        alice.save(path, "secret", kdf=CHEAP)
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    with pytest.raises(ExposedFile) as caught:
        reload(path)
    assert "chmod 600" in caught.value.hint


def test_nothing_is_left_beside_it(alice: Identity, path: Path) -> None:
    """The temporary file becomes the file; the lock stays, and is empty."""
    alice.save(path, "secret", kdf=CHEAP)
    alice.belong_to(ORIGIN)
    assert sorted(each.name for each in path.parent.iterdir()) == [path.name, f"{path.name}.lock"]
    assert path.with_name(f"{path.name}.lock").read_bytes() == b""


def test_links_are_not_followed(alice: Identity, path: Path) -> None:
    """A link is neither read nor written through."""
    alice.save(path, "secret", kdf=CHEAP)
    link = path.with_name("link")
    link.symlink_to(path)
    with pytest.raises(FileError):
        reload(link)
    with pytest.raises(FileError):
        read_private(path.with_name("missing"), 10)
    with pytest.raises(FileError):
        read_private(path.parent, 10)
    os.mkfifo(path.with_name("pipe"), 0o600)
    with pytest.raises(FileError, match="regular"):
        read_private(path.with_name("pipe"), 10)
    with pytest.raises(FileError):
        write_private(path.with_name("no") / "such" / "folder", b"")


def test_another_identity_is_never_overwritten(alice: Identity, path: Path) -> None:
    """Its own file may be written again, under a new passphrase too."""
    alice.save(path, "secret", kdf=CHEAP)
    alice.save(path, "other", kdf=CHEAP)
    assert Identity.load(path, "other", floor=CHEAP).ecdsa_key == alice.ecdsa_key
    with pytest.raises(FileError, match="exists"):
        Identity.generate("mallory").save(path, "secret", kdf=CHEAP)


@pytest.mark.parametrize(("place", "step"), [(files_module, "_write_new"), (os, "fsync"), (Path, "replace")])
def test_a_new_passphrase_is_there_whole_or_not_at_all(
    place: object, step: str, alice: Identity, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash in between leaves a file that the old passphrase opens; and the store opens with either."""
    alice.save(path, "secret", kdf=CHEAP)
    alice.belong_to(ORIGIN, UUID(int=1))
    store = Store.open(path.with_suffix(".store"), alice)
    store.flag(UUID(int=7))

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(place, step, crash)
        with pytest.raises(KeyboardInterrupt):
            alice.save(path, "other", kdf=CHEAP)
    assert Store.open(path.with_suffix(".store"), reload(path)).was_flagged(UUID(int=7))
    alice.belong_to(ORIGIN, UUID(int=1))
    alice.save(path, "other", kdf=CHEAP)
    with pytest.raises(WrongPassphrase):
        reload(path)
    again = Identity.load(path, "other", floor=CHEAP)
    assert Store.open(path.with_suffix(".store"), again).was_flagged(UUID(int=7))


def test_an_empty_passphrase_is_refused(alice: Identity, path: Path) -> None:
    """It would protect nothing."""
    with pytest.raises(ValueError, match="empty"):
        alice.save(path, "", kdf=CHEAP)


@pytest.mark.parametrize("name", ["al", "a" * 51, "al ice", "alice\n", "Älice", ""])
def test_names_that_no_server_takes_are_refused(name: str) -> None:
    """Before any key is made."""
    with pytest.raises(ValueError, match="username"):
        Identity.generate(name)


def test_it_shows_no_secret(alice: Identity, path: Path) -> None:
    """Neither repr nor str has more than the name."""
    alice.save(path, "secret", kdf=CHEAP)
    assert repr(alice) == str(alice) == "<Identity alice>"
    assert repr(alice.reading_keys()[0]).startswith("<blindpost.client.identity.KeyPair object at")
    assert repr(alice._vault) == f"<Vault {path}>"


def test_it_stays_with_its_server_and_account(alice: Identity) -> None:
    """A second origin, or another account at the first, is a lie or a mistake."""
    alice.belong_to(ORIGIN, UUID(int=1))
    alice.belong_to(ORIGIN, UUID(int=1))
    with pytest.raises(WrongServer):
        alice.belong_to("https://other.example.org")
    with pytest.raises(WrongServer):
        alice.belong_to(ORIGIN, UUID(int=2))


def test_a_rotation_survives_a_crash_at_any_time(alice: Identity, path: Path) -> None:
    """The next key is in the file before the server hears of it, and counts only when it is told to."""
    alice.save(path, "secret", kdf=CHEAP)
    old = alice.ecdsa_key
    new = alice.begin_rotation(Role.ECDSA)
    crashed = reload(path)
    assert crashed.ecdsa_key == old
    assert crashed.next_key(Role.ECDSA) == new == crashed.begin_rotation(Role.ECDSA)
    assert new.verifies(crashed.sign_with_next(b"x"), b"x")
    crashed.finish_rotation(Role.ECDSA)
    assert reload(path).ecdsa_key == new
    assert reload(path).next_key(Role.ECDSA) is None


def test_replaced_ecdh_keys_still_read_for_a_while() -> None:
    """What is on its way to an old key can be opened, for thirty days and three keys."""
    now = [1_000_000.0]
    alice = Identity.generate("alice", clock=lambda: now[0])
    keys = [alice.ecdh_key]
    for _ in range(RETIRED_MAX + 1):
        keys.insert(0, alice.begin_rotation(Role.ECDH))
        assert keys[0] in [pair.public for pair in alice.reading_keys()]
        alice.finish_rotation(Role.ECDH)
    assert [pair.public for pair in alice.reading_keys()] == keys[: RETIRED_MAX + 1]
    now[0] += RETIRED_LIFETIME_S
    alice.begin_rotation(Role.ECDH)
    alice.finish_rotation(Role.ECDH)
    assert len(alice.reading_keys()) == 2


def test_a_rotation_that_was_not_taken_is_taken_up_again(alice: Identity) -> None:
    """The same key comes next: a request thought lost may have reached the server after all."""
    before = alice.ecdsa_key, alice.ecdh_key
    for role in Role:
        assert alice.begin_rotation(role) == alice.begin_rotation(role) == alice.next_key(role)
    assert (alice.ecdsa_key, alice.ecdh_key) == before
    assert alice.next_key(Role.ECDH) in [pair.public for pair in alice.reading_keys()]


def test_finishing_without_a_rotation_changes_nothing(alice: Identity) -> None:
    """A rotation may have been settled by a login in between."""
    before = alice.ecdsa_key, alice.ecdh_key
    for role in Role:
        alice.finish_rotation(role)
    assert (alice.ecdsa_key, alice.ecdh_key) == before


def test_a_file_with_strange_content_is_damaged(alice: Identity, path: Path) -> None:
    """Right passphrase, wrong content: an error, not a crash."""
    alice.save(path, "secret", kdf=CHEAP)
    vault = alice._vault
    assert vault is not None
    saved = json.loads(alice._saved.model_dump_json())
    for change in ({"ecdsa": saved["ecdh"]}, {"ecdh": ""}, {"root": "AA"}, {"extra": 1}, {"user_id": "me"}):
        vault.write(json.dumps({**saved, **change}).encode())
        with pytest.raises(DamagedFile):
            reload(path)


# Several processes


def test_a_rotation_elsewhere_is_taken_in_and_never_undone(alice: Identity, path: Path) -> None:
    """The one that did not rotate reads with the new key, and its own changes leave the new keys in the file."""
    alice.save(path, "secret", kdf=CHEAP)
    other = reload(path)
    for role in Role:
        other.begin_rotation(role)
        other.finish_rotation(role)
    alice.belong_to(ORIGIN, UUID(int=1))
    for each in (alice, reload(path)):
        assert (each.ecdsa_key, each.ecdh_key) == (other.ecdsa_key, other.ecdh_key)
        assert len(each.reading_keys()) == 2
    other.reload()
    assert (other.origin, other.user_id) == (ORIGIN, UUID(int=1))


def test_two_rotations_at_once_are_one(alice: Identity, path: Path) -> None:
    """Both use the same next key, and a later one that no server knows is not put in place by the first's end."""
    alice.save(path, "secret", kdf=CHEAP)
    other = reload(path)
    first = alice.begin_rotation(Role.ECDSA)
    assert other.begin_rotation(Role.ECDSA) == first
    other.finish_rotation(Role.ECDSA)
    second = other.begin_rotation(Role.ECDSA)
    alice.finish_rotation(Role.ECDSA)
    assert (alice.ecdsa_key, alice.next_key(Role.ECDSA)) == (first, second)
    assert reload(path).ecdsa_key == first


def test_another_file_in_its_place_is_not_overwritten(alice: Identity, path: Path) -> None:
    """Neither one under a new passphrase nor another identity; without a file, what is known is written again."""
    alice.save(path, "secret", kdf=CHEAP)
    other = reload(path)
    other.save(path, "new", kdf=CHEAP)
    before = path.read_bytes()
    with pytest.raises(FileError, match="passphrase") as caught:
        alice.belong_to(ORIGIN)
    assert caught.value.hint
    assert path.read_bytes() == before
    assert alice.origin is None
    path.unlink()
    alice.belong_to(ORIGIN)
    assert reload(path).origin == ORIGIN


def test_another_root_under_the_same_key_is_refused(alice: Identity, path: Path) -> None:
    """The store would not open any more."""
    alice.save(path, "secret", kdf=CHEAP)
    other = reload(path)
    assert other._vault is not None
    other._vault.write(Identity.generate("alice")._saved.model_dump_json().encode())
    with pytest.raises(FileError, match="another identity"):
        alice.reload()
    other._vault.write(b"{}")
    with pytest.raises(DamagedFile):
        alice.reload()


def test_a_server_without_an_account_is_left(alice: Identity) -> None:
    """Only the one that it belongs to, and never once there is an account."""
    alice.belong_to(ORIGIN)
    alice.leave("https://other.example.org")
    assert alice.origin == ORIGIN
    alice.leave(ORIGIN)
    alice.belong_to("https://other.example.org", UUID(int=1))
    alice.leave("https://other.example.org")
    assert alice.origin == "https://other.example.org"
