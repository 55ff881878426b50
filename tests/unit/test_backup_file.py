"""The file of a backup: whole, or refused."""

import io
import itertools
import random
import stat
import tarfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from blindpost.core.backup_file import PIECE_BYTES, Header, Manifest, Reader, Table, Writer, check, whole_file
from blindpost.errors import BackupDamaged, ConfigurationError

TABLES = {"users": b"some people", "messages": bytes(range(256)) * 40, "receipts": b""}
HEADER = Header(
    program="1",
    made_at=datetime(2026, 1, 2, tzinfo=UTC),
    revision="0004",
    tables=[Table(name=name, columns=["id"]) for name in TABLES],
)


def written(tables: dict[str, bytes] = TABLES) -> bytes:
    file = io.BytesIO()
    writer = Writer(file, HEADER)
    for name, data in tables.items():
        writer.write(name, data[: len(data) // 2])
        writer.write(name, data[len(data) // 2 :])
        writer.end(name, len(data))
    writer.finish()
    return file.getvalue()


def read(data: bytes) -> tuple[Header, dict[str, bytes], Manifest]:
    reader = Reader(io.BytesIO(data))
    tables = {table.name: b"".join(reader.pieces(table.name)) for table in reader.header.tables}
    return reader.header, tables, reader.finish()


def test_what_was_written_is_read() -> None:
    header, tables, manifest = read(written())
    assert (header, tables) == (HEADER, TABLES)
    assert {name: each.rows for name, each in manifest.tables.items()} == {
        name: len(data) for name, data in TABLES.items()
    }


def test_a_large_table_is_written_in_pieces_and_read_as_one() -> None:
    large = TABLES | {"messages": random.Random(1).randbytes(2 * PIECE_BYTES + 1)}  # noqa: S311 - repeatable chance
    assert read(written(large))[1] == large


def test_it_is_a_tar_archive_that_any_tool_opens() -> None:
    with tarfile.open(fileobj=io.BytesIO(written())) as tar:
        assert tar.getnames() == [
            "header.json",
            "users/000000",
            "messages/000000",
            "manifest.json",
            "manifest.json.sha256",
        ]
        assert {member.mode for member in tar} == {0o600}


def test_a_backup_that_was_cut_off_anywhere_is_refused() -> None:
    whole = written()
    end = whole.index(b"  manifest.json")
    for length in (*range(0, end, 97), end):
        with pytest.raises(BackupDamaged) as caught:
            check(io.BytesIO(whole[:length]))
        assert caught.value.hint


def test_a_byte_that_changed_is_refused_or_changes_nothing_that_is_read() -> None:
    """Between the members there is padding, which says nothing."""
    whole, expected = written(), read(written())
    refused = 0
    for place in range(0, len(whole), 3):
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        try:
            assert read(bytes(changed)) == expected
        except BackupDamaged:
            refused += 1
    assert refused > len(TABLES["messages"]) / 3


def members(data: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]


def packed(parts: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w|") as tar:
        for member, data in parts:
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def test_parts_that_are_missing_doubled_or_in_another_order_are_refused() -> None:
    parts = members(written())
    assert read(packed(parts))
    others = [
        *(list(each) for each in itertools.permutations(parts) if list(each) != parts and each[0] == parts[0]),
        parts[::-1],
        *(parts[:place] + parts[place + 1 :] for place in range(len(parts))),
        *(parts[: place + 1] + parts[place:] for place in range(len(parts))),
    ]
    for other in others:
        with pytest.raises(BackupDamaged):
            check(io.BytesIO(packed(other)))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_links_and_directories_are_no_parts_of_a_backup(kind: bytes) -> None:
    parts = members(written())
    parts[1][0].type, parts[1][0].size, parts[1][0].linkname = kind, 0, "/etc/passwd"
    with pytest.raises(BackupDamaged):
        check(io.BytesIO(packed(parts)))


def test_a_part_of_any_size_is_not_taken_into_memory() -> None:
    parts = members(written())
    parts[1][0].size = PIECE_BYTES + 1
    with pytest.raises(BackupDamaged):
        check(io.BytesIO(packed([parts[0], (parts[1][0], bytes(PIECE_BYTES + 1)), *parts[2:]])))


def test_a_form_that_is_not_known_yet_asks_for_a_newer_program() -> None:
    parts = members(written())
    text = parts[0][1].replace(b'"format": 1', b'"format": 2')
    with pytest.raises(BackupDamaged, match="does not know") as caught:
        check(io.BytesIO(packed([(parts[0][0], text), *parts[1:]])))
    assert "version" in caught.value.hint


@pytest.mark.parametrize("data", [b"", b"\x00" * 10_240, b"age-encryption.org/v1\n" * 100, b"PGDMP" * 400])
def test_what_is_no_backup_is_said_to_be_none(data: bytes) -> None:
    with pytest.raises(BackupDamaged):
        check(io.BytesIO(data))


# Its name


def test_a_file_has_its_name_when_it_is_whole_and_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "backup.tar"
    with whole_file(path) as file:
        file.write(b"all of it")
        assert not path.exists()
        assert [stat.S_IMODE(each.stat().st_mode) for each in tmp_path.iterdir()] == [0o600]
    assert path.read_bytes() == b"all of it"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_was_not_finished_leaves_nothing(tmp_path: Path) -> None:
    def give_up() -> None:
        with whole_file(tmp_path / "backup.tar") as file:
            file.write(b"half of it")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        give_up()
    assert list(tmp_path.iterdir()) == []


def test_no_file_is_overwritten_and_no_link_followed(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"before")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("one", "link"):
        with pytest.raises(ConfigurationError, match="there already"), whole_file(tmp_path / name):
            pass
    assert (tmp_path / "one").read_bytes() == b"before"
    assert not (tmp_path / "elsewhere").exists()


def test_a_full_disk_is_a_sentence() -> None:
    full = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115 - what closes it would fail once more
    with pytest.raises(ConfigurationError, match="No space left"):
        Writer(full, HEADER)
    full.close()


def test_a_place_that_is_none_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be written"), whole_file(tmp_path / "none" / "backup.tar"):
        pass
