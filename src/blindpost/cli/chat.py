"""chat: a messenger at the terminal."""

import sys
from functools import partial
from typing import Annotated

import typer

from blindpost.cli.common import errors_as_sentences, fail
from blindpost.cli.me import IdentityFile, load_me, run_as, store_of
from blindpost.client import Client, History, Store


def chat(
    *,
    history: Annotated[bool, typer.Option(help="Keep what is said, encrypted, in the store file")] = True,
    identity: IdentityFile = None,
) -> None:
    """Talk to your contacts on one screen: conversations, requests, safety numbers. F1 shows the keys.

    It stays connected, and comes back by itself when the server or the network was away.

    Examples:
      blindpost chat

      blindpost chat -i alice.identity --no-history
    """
    with errors_as_sentences():
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            fail("this is not a terminal, and the chat needs one", "use `blindpost send` and `blindpost receive`")
        path, me = load_me(identity)
        store = store_of(path, me)
        kept = store.history if history else History.in_memory(me)
        run_as(path, me, partial(_chat, store, kept, keeps=history), store, kept)


async def _chat(store: Store, history: History, client: Client, *, keeps: bool) -> None:
    # Read here, as the framework takes a while and no other command needs it.
    from blindpost.chat.app import ChatApp  # noqa: PLC0415 - see above
    from blindpost.chat.model import Messenger  # noqa: PLC0415 - see above

    app = ChatApp(Messenger(client, store.contacts, history, keeps=keeps))
    await app.run_async()
    if app.failure is not None:
        raise app.failure
