"""What the published vectors of identity files are made of: files that open, and files that do not."""

import base64
import json
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any, Final

from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from blindpost.client.identity import ROOT_BYTES, SCALAR_BYTES
from blindpost.client.vault import MAGIC, NONCE_BYTES, SALT_BYTES, STANDARD, Scrypt, _checksum
from blindpost.protocol.encoding import b64decode, b64encode
from vector_keys import ALICE, ORDER, SCALARS, Vector

CHEAP: Final = Scrypt(log2_n=4)
PASSPHRASE: Final = "correct horse bättery staple"
SALT: Final = sha256(b"salt").digest()[:SALT_BYTES]
NONCE: Final = sha256(b"nonce").digest()[:NONCE_BYTES]
RETIRED_UNTIL: Final = 1_767_225_600


def b64url(data: bytes) -> str:
    """With padding, as the file has it."""
    return base64.urlsafe_b64encode(data).decode("ascii")


def scalar(name: str) -> bytes:
    return SCALARS[name].to_bytes(SCALAR_BYTES, "big")


NEW: Final[dict[str, Any]] = {
    "username": "alice",
    "origin": None,
    "user_id": None,
    "root": b64url(sha256(b"root").digest()),
    "ecdsa": b64url(scalar("alice_ecdsa")),
    "ecdh": b64url(scalar("alice_ecdh")),
    "next_ecdsa": None,
    "next_ecdh": None,
    "retired": [],
}
REPLACING: Final[dict[str, Any]] = NEW | {
    "origin": "https://chat.example.org",
    "user_id": str(ALICE),
    "next_ecdsa": b64url(scalar("alice_next_ecdsa")),
    "next_ecdh": b64url(scalar("one_time")),
    "retired": [[b64url(scalar("bob_ecdh")), RETIRED_UNTIL]],
}


@dataclass(frozen=True)
class Written:
    """A file, and how it is written: rightly, but for what a vector wants to be wrong."""

    content: bytes = json.dumps(NEW, separators=(",", ":")).encode()
    kdf: Scrypt = CHEAP
    header: str = ""

    @property
    def text(self) -> str:
        header = f"{MAGIC} scrypt {self.kdf.log2_n} {self.kdf.r} {self.kdf.p} {b64encode(SALT)}\n"
        key = self.kdf.derive(PASSPHRASE, SALT)
        sealed = NONCE + AESGCM(key).encrypt(NONCE, self.content, header.encode())
        return summed(f"{self.header or header}{b64encode(sealed)}\n")


def summed(body: str) -> str:
    """Return two lines with their sum."""
    return f"{body}{_checksum(body)}\n"


def holding(content: dict[str, Any]) -> str:
    return Written(json.dumps(content, separators=(",", ":")).encode()).text


def identity_files() -> Iterator[Vector]:
    """Files and passphrases; what is in them, or which of two errors."""
    new = Written()
    decomposed = unicodedata.normalize("NFD", PASSPHRASE)
    yield _good("new", new.text, NEW)
    yield _good("with an account, and a replacement of both keys under way", holding(REPLACING), REPLACING)
    yield _good("passphrase typed in another composition", new.text, NEW, passphrase=decomposed)
    yield _good("the standard cost", replace(new, kdf=STANDARD).text, NEW, floor=STANDARD)
    yield _bad("wrong passphrase", "wrong_passphrase", new.text, passphrase="correct horse battery staple")
    yield _bad("empty passphrase", "wrong_passphrase", new.text, passphrase="")
    for name, text in altered(new.text).items():
        yield _bad(f"{name}, with its sum", "wrong_passphrase", text)
    for name, text in damaged(new).items():
        yield _bad(name, "damaged_file", text)
    for name, text in out_of_bounds(new).items():
        yield _bad(name, "damaged_file", text, floor=STANDARD)
    for name, content in strange().items():
        yield _bad(f"content: {name}", "damaged_file", holding(content))
    yield _bad("content: not JSON", "damaged_file", Written(b"{").text)
    yield _bad("content: a list", "damaged_file", Written(b"[]").text)


def _vector(name: str, text: str, passphrase: str, floor: Scrypt) -> Vector:
    return {"name": name, "file": text, "passphrase": passphrase, "floor_log2_n": floor.log2_n}


def _good(
    name: str, text: str, content: dict[str, Any], *, passphrase: str = PASSPHRASE, floor: Scrypt = CHEAP
) -> Vector:
    binary = {each: hexed(content[each]) for each in ("root", "ecdsa", "ecdh", "next_ecdsa", "next_ecdh")}
    retired = [[hexed(key), until] for key, until in content["retired"]]
    return _vector(name, text, passphrase, floor) | {"result": "ok"} | content | binary | {"retired": retired}


def hexed(text: str | None) -> str | None:
    return None if text is None else base64.urlsafe_b64decode(text).hex()


def _bad(name: str, result: str, text: str, *, passphrase: str = PASSPHRASE, floor: Scrypt = CHEAP) -> Vector:
    return _vector(name, text, passphrase, floor) | {"result": result}


def altered(good: str) -> dict[str, str]:
    """Files whose sum was made anew, so that only the passphrase's key can tell."""
    header, sealed = good.splitlines()[:2]
    data = b64decode(sealed)

    def of(changed: bytes) -> str:
        return summed(f"{header}\n{b64encode(changed)}\n")

    def under(other: str) -> str:
        return summed(f"{other}\n{sealed}\n")

    return {
        "nonce altered": of(bytes((data[0] ^ 1,)) + data[1:]),
        "ciphertext altered": of(data[:50] + bytes((data[50] ^ 1,)) + data[51:]),
        "tag altered": of(data[:-1] + bytes((data[-1] ^ 1,))),
        "ciphertext cut": of(data[:-1]),
        "nonce alone": of(data[:NONCE_BYTES]),
        "N altered": under(header.replace("scrypt 4 ", "scrypt 5 ")),
        "p altered": under(header.replace(" 8 1 ", " 8 2 ")),
        "salt altered": under(header.replace(b64encode(SALT), b64encode(bytes((SALT[0] ^ 1, *SALT[1:]))))),
    }


def damaged(new: Written) -> dict[str, str]:
    """Files that are no identity files, whatever the passphrase."""
    header, sealed, checksum = new.text.splitlines()
    salt = b64encode(SALT)
    strange_headers = {
        "another version": header.replace("/1 ", "/2 "),
        "another derivation": header.replace("scrypt", "argon2id"),
        "r is not 8": header.replace(" 8 1 ", " 9 1 "),
        "N with a leading zero": header.replace("scrypt 4", "scrypt 04"),
        "p is 0": header.replace(" 8 1 ", " 8 0 "),
        "two spaces": header.replace(" 8 1 ", " 8  1 "),
        "salt of 15 bytes": header.replace(salt, b64encode(SALT[:15])),
        "salt with unused bits set": header.replace(salt, salt[:21] + chr(ord(salt[21]) + 1) + "=="),
        "more after the salt": f"{header} more",
    }
    return {
        "header altered": new.text.replace("scrypt 4 ", "scrypt 5 "),
        "ciphertext altered": f"{header}\n{sealed[:60]}{'B' if sealed[60] == 'A' else 'A'}{sealed[61:]}\n{checksum}\n",
        "sum altered": f"{header}\n{sealed}\n{'B' if checksum[0] == 'A' else 'A'}{checksum[1:]}\n",
        "cut": new.text[:-9],
        "without its last line end": new.text[:-1],
        "without its sum": f"{header}\n{sealed}\n",
        "a line too many": f"{new.text}\n",
        "CRLF": summed(f"{header}\r\n{sealed}\r\n"),
        "empty": "",
        "11 bytes for nonce and ciphertext": summed(f"{header}\n{b64encode(NONCE[:11])}\n"),
        "ciphertext in base64url": summed(f"{header}\n{sealed.replace('+', '-').replace('/', '_')}\n"),
        **{name: summed(f"{other}\n{sealed}\n") for name, other in strange_headers.items()},
    }


def out_of_bounds(new: Written) -> dict[str, str]:
    """Files that ask for a cost that no reader pays. They are refused by their first line, before any is."""
    header = new.text.splitlines()[0]
    sealed = new.text.splitlines()[1]
    return {
        name: summed(f"{header.replace(' 4 8 1 ', cost)}\n{sealed}\n")
        for name, cost in {
            "a cost below the floor": " 16 8 1 ",
            "a cost far below the floor": " 4 8 1 ",
            "N above 2^19": " 20 8 1 ",
            "p above 4": " 17 8 5 ",
        }.items()
    }


def strange() -> dict[str, dict[str, Any]]:
    """Contents that no writer writes."""
    return {
        "unknown field": NEW | {"more": None},
        "without a root": {name: value for name, value in NEW.items() if name != "root"},
        "a number as the name": NEW | {"username": 1},
        "root of 31 bytes": NEW | {"root": b64url(bytes(ROOT_BYTES - 1))},
        "scalar of 47 bytes": NEW | {"ecdsa": b64url(scalar("alice_ecdsa")[1:])},
        "scalar of zero": NEW | {"ecdh": b64url(bytes(SCALAR_BYTES))},
        "scalar of the order": NEW | {"ecdh": b64url(ORDER.to_bytes(SCALAR_BYTES, "big"))},
        "scalar of a replacement is zero": NEW | {"next_ecdh": b64url(bytes(SCALAR_BYTES))},
        "one key for both purposes": NEW | {"ecdh": NEW["ecdsa"]},
        "retired key without a time": NEW | {"retired": [[b64url(scalar("bob_ecdh"))]]},
    }
