"""What the program prints is what it was given."""

import pytest
from rich.console import Console

from blindpost.cli import common


@pytest.mark.parametrize("console", [common.out, common.err], ids=["out", "err"])
def test_names_between_colons_stay_as_they_are(console: Console) -> None:
    with console.capture() as captured:
        console.print("12:AB:CD:34 :smile:", markup=False)
    assert captured.get() == "12:AB:CD:34 :smile:\n"
