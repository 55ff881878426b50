"""keys: the key with which this node signs its tokens."""

from pathlib import Path
from typing import Annotated

import typer

from blindpost.cli.common import errors_as_sentences, out, settings_from
from blindpost.core import token_key

keys = typer.Typer(no_args_is_help=True, help="The key with which this node signs its tokens.")


@keys.callback()
def _group() -> None:
    """Keep `rotate` a command of its own name, though it is the only one."""


@keys.command()
def rotate(
    at_once: Annotated[
        bool, typer.Option("--at-once", help="Believe nothing the old key signed: who logged in here logs in again")
    ] = False,
    data_dir: Annotated[Path | None, typer.Option(help="The node's directory, or BLINDPOST_DATA_DIR")] = None,
) -> None:
    """Replace the key that signs this node's tokens; a router that runs takes it within seconds, with all its workers.

    Tokens of the old key stay good until they end by themselves (BLINDPOST_SESSION_LIFETIME_S), so nobody notices.
    If the old key may have been stolen, add --at-once. No other node is touched, and no identity key.

    Examples:
      blindpost keys rotate

      blindpost keys rotate --at-once
    """
    with errors_as_sentences():
        settings = settings_from(data_dir=data_dir)
        overlap_s = 0 if at_once else settings.session_lifetime_s
        key = token_key.rotate(settings.data_dir, overlap_s)
        out.print(f"The new key is {key.id[:8]}, in {settings.data_dir / token_key.KEY_FILE}.", markup=False)
        if at_once:
            out.print("Tokens of the old one are refused as soon as the router has taken it: within 10 seconds.")
        else:
            out.print(f"Tokens of the old one are taken for another {overlap_s // 3_600} hours at most.")
