"""What the documentation tells an operator to type is what the program means."""

from pathlib import Path

from blindpost.config import PREFIX, Settings
from blindpost.core.backup import LEFT_OUT
from blindpost.core.privileges import PRIVILEGES
from blindpost.core.safety import REDIS_RIGHTS, REDIS_RIGHTS_OF_BUS
from blindpost.core.schema import metadata
from e2e.test_serve import blindpost

DOCS = Path(__file__).parents[2] / "docs"
SETTINGS = (DOCS / "settings.md").read_text()
BACKUP = (DOCS / "backup.md").read_text()


def test_the_redis_line_in_the_documentation_is_the_one_that_is_tested() -> None:
    assert f"ACL SETUSER blindpost on >PASSWORD {REDIS_RIGHTS}\n" in SETTINGS
    assert f"ACL SETUSER blindpost {REDIS_RIGHTS_OF_BUS}\n" in SETTINGS


def test_the_rights_in_the_documentation_are_those_that_are_granted() -> None:
    for table, rights in PRIVILEGES.items():
        (line,) = (line for line in SETTINGS.splitlines() if f"`{table}`" in line and "SELECT" in line)
        assert f"| {', '.join(rights)}" in line, table


def test_every_setting_is_documented_and_in_the_help_of_serve(tmp_path: Path) -> None:
    said = blindpost("serve", "--help", data_dir=tmp_path).stdout
    for name in Settings.model_fields:
        assert f"`{PREFIX}{name.upper()}`" in SETTINGS, name
        assert PREFIX + name.upper() in said, name


def test_what_is_in_a_backup_is_documented_for_every_table() -> None:
    """A new table needs a line there, and the thought whether it may come back."""
    for table in metadata.tables:
        (line,) = (line for line in BACKUP.splitlines() if line.startswith("| `") and f"`{table}`" in line)
        assert ("| nothing: " in line) == (table in LEFT_OUT), table
