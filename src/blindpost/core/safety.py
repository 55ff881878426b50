"""What the stores allow: whether what they hold is safe from others, and from the router itself."""

from typing import Final

REDIS_RIGHTS: Final = (
    "resetkeys ~challenge:* ~session:* ~proof:* ~blindpost:* ~LIMITS:* resetchannels -@all"
    " +ping +info +time +select +get +set +getdel +exists +pttl +incrby +rename +eval +evalsha +script|load"
)
"""What the router's user needs of Redis: its own keys, and no command that empties, lists, stops or reconfigures."""
