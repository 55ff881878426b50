"""What reaches the log is on a list, or is wording: never a value that names somebody."""

import json
import subprocess
import sys

SECRET = "hush_alice_0123456789"
PROGRAM = f"""
import logging, warnings
from blindpost.telemetry import configure_logging, log, log_fault

configure_logging(json=True, level="debug")
secret = {SECRET!r}
log.info("said", username=secret, count=3)
logging.getLogger("sqlalchemy.engine").error("SELECT %s", secret)
logging.getLogger("asyncpg").error(f"cannot find {{secret}}")
logging.getLogger("uvicorn.error").error("%s %s", secret, secret)
logging.getLogger("sqlalchemy.engine.Engine").info("INSERT INTO users VALUES (%s)", secret)
warnings.warn(secret)
for name in ("blindpost", "redis"):
    try:
        try:
            raise KeyError(secret)
        except KeyError as error:
            raise ValueError(secret) from error
    except ValueError as error:
        if name == "blindpost":
            log_fault("failed", error)
        else:
            logging.getLogger(name).exception("it failed for %s", secret)
"""


def logged() -> tuple[str, list[dict[str, object]]]:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert not done.stdout
    return done.stderr, [json.loads(line) for line in done.stderr.splitlines()]


def test_no_line_of_ours_or_of_a_library_holds_a_value() -> None:
    text, lines = logged()
    assert len(lines) == 7, "each of those that are warnings or worse, once"
    assert SECRET not in text


def test_what_is_left_tells_what_went_wrong_and_where() -> None:
    _, lines = logged()
    said = next(line for line in lines if line["event"] == "said")
    assert (said["username"], said["count"]) == ("[struck out]", 3)
    fault = next(line for line in lines if line["event"] == "failed")
    assert fault["error"] == "ValueError < KeyError"
    assert fault["frames"]
    assert any(line["event"] == "it failed for %s: ValueError < KeyError" for line in lines)
