"""Other people's text, made safe to show on a terminal."""

from typing import Final

JOINERS: Final = "\u200c\u200d"
"""They join letters of Persian and parts of emoji, and steer nothing."""


def printable(text: str) -> str:
    """Show somebody else's text without letting it drive the terminal, or turn the direction of what follows."""
    return "".join(
        each if each.isprintable() or each in "\n\t" or each in JOINERS else "\N{REPLACEMENT CHARACTER}"
        for each in text
    )
