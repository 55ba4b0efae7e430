"""Where the keys of the ledger are kept: never in it. Three places, the same names and the same 64 hex digits in each.

    vault-1, vault-2 …   key-encryption keys by epoch
    pepper               what fingerprints in the ledger are keyed with

1. `files`: `keys/` in the data directory, mode 0600; made at the first start, added and destroyed by a rotation.
2. `credentials`: systemd credentials (`LoadCredential=vault-1:…`), found in `$CREDENTIALS_DIRECTORY`.
3. `command`: what a command prints, a line each, name and digits. It gets no input, ten seconds and 64 KiB.
4. Keys are only made where there is no ledger yet: a new key beside an old ledger would make a restore that forgot the
   keys look like a success.
"""

from __future__ import annotations

import asyncio
import re
import shlex
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from broker.datadir import DataDir, Unusable
from provisioner.epochs import Keyring
from provisioner.handover import first_pepper

_NAME = re.compile(r"vault-([1-9][0-9]{0,8})")
_PEPPER = "pepper"
_DIGITS = re.compile(r"[0-9A-Fa-f]{64}")
_LONGEST = 64 * 1024
_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class KeySource:
    """What the operator chose; `folder` of the credentials, `command` as one types it."""

    kind: Literal["files", "credentials", "command"] = "files"
    folder: Path | None = None
    command: str = ""


async def open_keyring(source: KeySource, directory: DataDir, new_key: Callable[[], bytes]) -> Keyring:
    """The keys at hand, made where there are none to be had yet. Raises `Unusable`."""
    if source.kind == "files":
        return FileKeys(directory, new_key)
    if source.kind == "command":
        return ForeignKeys("in the output of vault.command", _lines(await _output(source.command)))
    if source.folder is None:
        raise Unusable(
            "vault.source is credentials but there are none: start it as a systemd unit with LoadCredential=."
        )
    return ForeignKeys(f"in {source.folder}", _credentials(source.folder))


class FileKeys:
    """Keys in the data directory (see `Keyring`)."""

    is_ours = True

    def __init__(self, directory: DataDir, new_key: Callable[[], bytes]) -> None:
        self._directory = directory
        self.place = f"in {directory.keys}"
        names = [file.name for file in directory.keys.iterdir() if _NAME.fullmatch(file.name)]
        if not names and directory.ledger.exists():
            raise Unusable(f"{directory.keys} holds no key but there is a ledger: put back the keys that belong to it.")
        if not names:
            directory.create_secret("keys/vault-1", new_key().hex())
            names = ["vault-1"]
        self.keys = {int(name.removeprefix("vault-")): self._load(name) for name in names}
        if not (directory.keys / _PEPPER).exists():
            pepper = first_pepper(self.keys) if directory.ledger.exists() else new_key()
            directory.create_secret(f"keys/{_PEPPER}", pepper.hex())
        self.pepper = self._load(_PEPPER)

    def add(self, epoch: int, key: bytes) -> bytes:
        """See `Keyring`."""
        self._directory.create_secret(f"keys/vault-{epoch}", key.hex())
        self.keys[epoch] = self._load(f"vault-{epoch}")
        return self.keys[epoch]

    def destroy(self, epoch: int) -> None:
        """See `Keyring`."""
        self._directory.delete_secret(f"keys/vault-{epoch}")
        self.keys.pop(epoch, None)

    def _load(self, name: str) -> bytes:
        text = self._directory.load_secret(f"keys/{name}") or ""
        if not _DIGITS.fullmatch(text):
            raise Unusable(
                f"{self._directory.keys / name} is damaged, it should be 64 hex digits: "
                "put back the file that belongs there."
            )
        return bytes.fromhex(text)


class ForeignKeys:
    """Keys that somebody else keeps (see `Keyring`): we only read them."""

    is_ours = False

    def __init__(self, place: str, found: Iterable[tuple[str, str]]) -> None:
        self.place = place
        keys: dict[str, bytes] = {}
        for name, text in found:
            if not _DIGITS.fullmatch(text):
                raise Unusable(f"Key {name} {place} should be 64 hex digits, as `openssl rand -hex 32` makes them.")
            keys[name] = bytes.fromhex(text)
        for needed in ("vault-1", _PEPPER) if len(keys.keys() - {_PEPPER}) == 0 else (_PEPPER,):
            if needed not in keys:
                raise Unusable(
                    f"There is no {needed} {place}: put it there, 64 hex digits as `openssl rand -hex 32` makes them."
                )
        self.pepper = keys.pop(_PEPPER)
        self.keys = {int(name.removeprefix("vault-")): key for name, key in keys.items()}

    def add(self, epoch: int, key: bytes) -> bytes:  # noqa: ARG002  # the names are those of `Keyring`
        """See `Keyring`."""
        raise Unusable("Keys that are kept elsewhere are made there.")

    def destroy(self, epoch: int) -> None:  # noqa: ARG002  # as above
        """See `Keyring`."""
        raise Unusable("Keys that are kept elsewhere are destroyed there.")


def _credentials(folder: Path) -> Iterable[tuple[str, str]]:
    for file in sorted(folder.iterdir()):
        if _is_name(file.name):
            with file.open("rb") as stream:
                yield file.name, stream.read(_LONGEST).decode("ascii", "replace").strip()


def _lines(output: bytes) -> Iterable[tuple[str, str]]:
    for line in output.decode("ascii", "replace").splitlines():
        name, _, text = line.strip().partition(" ")
        if _is_name(name):
            yield name, text.strip()
        elif name:
            # What it printed may be a key: it is not repeated.
            raise Unusable("vault.command prints a line that is no key: print `vault-1 DIGITS` and `pepper DIGITS`.")


def _is_name(name: str) -> bool:
    return name == _PEPPER or _NAME.fullmatch(name) is not None


async def _output(command: str) -> bytes:
    """Standard output of a command; what it says on standard error goes to ours."""
    program, *arguments = shlex.split(command)
    try:
        process = await asyncio.create_subprocess_exec(
            program, *arguments, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
        )
    except OSError as error:
        raise Unusable(f"vault.command cannot be run: {program}: {error.strerror}.") from None
    try:
        async with asyncio.timeout(_SECONDS):
            output = await _read(process)
            code = await process.wait()
    except TimeoutError:
        raise Unusable(f"vault.command takes longer than {_SECONDS:.0f} seconds: run it by hand to see why.") from None
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if code:
        raise Unusable(f"vault.command ended with exit code {code}: run it by hand to see why.")
    return output


async def _read(process: asyncio.subprocess.Process) -> bytes:
    if process.stdout is None:
        raise Unusable("vault.command has no output.")
    output = b""
    while chunk := await process.stdout.read(_LONGEST):
        output += chunk
        if len(output) > _LONGEST:
            raise Unusable(f"vault.command prints more than {_LONGEST} bytes: print the keys alone.")
    return output
