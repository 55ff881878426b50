"""Minutes of measuring are no part of the default run: `./task timing` names the file, and only so is it collected."""

collect_ignore = ["test_timing.py"]
