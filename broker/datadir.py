"""The data directory: what is in it, who may read it, and how it is written.

    ledger.db        the store's file (and its -wal and -shm while somebody runs)
    keys/vault-1     key-encryption key of epoch 1, 32 bytes in hex; the newest epoch seals, each opens its own
    provision-login  the first provision login: user and password, a line each
    admin-token      the first operator token
    run.json         while a server runs: its process id and where it listens

1. The directory is 0700, secrets are 0600; a start is refused where others may read them.
2. A file appears whole or not at all, and is on the disk before anything relies on it.
3. A key is only made where there is no ledger yet: a new key beside an old ledger would make a restore that forgot the
   keys look like a success.
4. `run.json` is locked by the process it tells of. A killed server leaves the file but not the lock, so a stale one is
   known without guessing from process ids.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import stat
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from provisioner.errors import ProvisionerError

_KEY_NAME = re.compile(r"vault-([1-9][0-9]{0,8})")
_KEY_BYTES = 32
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class Unusable(ProvisionerError):
    """The data directory cannot be used; the text says what to do about it."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that is up: its process id, the URL of its operator API, and where devices reach it (`host:port`)."""

    pid: int
    http: str
    endpoint: str | None = None
    endpoint_tls: str | None = None
    device_broker: str | None = None
    device_broker_tls: str | None = None


class DataDir:
    """A data directory; `prepare` before anything else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ledger = path / "ledger.db"
        self._keys = path / "keys"
        self._run = path / "run.json"

    def prepare(self) -> None:
        """Make the directory, or check that it is ours alone. Raises `Unusable`."""
        for folder in (self.path, self._keys):
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as error:
                raise Unusable(
                    f"{folder} cannot be created: {error.strerror}; choose another data directory."
                ) from None
            found = folder.stat()
            if found.st_uid != os.geteuid():
                raise Unusable(f"{folder} belongs to another user: run as its owner, or choose another data directory.")
            if found.st_mode & _OTHERS and not any(folder.iterdir()):
                folder.chmod(0o700)  # nothing was in it that others could have read
            elif found.st_mode & _OTHERS:
                raise Unusable(f"{folder} may be read by others: chmod 700 {folder}.")

    def load_keys(self, new_key: Callable[[], bytes]) -> dict[int, bytes]:
        """Key-encryption keys by epoch; the first one is made here. Raises `Unusable`."""
        found = self._found_keys()
        if not found and self.ledger.exists():
            raise Unusable(f"{self._keys} holds no key but there is a ledger: put back the keys that belong to it.")
        if not found:
            self._create(self._keys / "vault-1", new_key().hex())
            found = self._found_keys()
        return found

    def load_secret(self, name: str) -> str | None:
        """Text of a secret file, without the last line's end; None: there is none. Raises `Unusable`."""
        return self._load(self.path / name) if (self.path / name).exists() else None

    def save_secret(self, name: str, text: str) -> None:
        """Write a secret file, in place of the one that may be there."""
        temporary = self._written(self.path / name, text)
        temporary.replace(self.path / name)
        _sync(self.path)

    def delete_secret(self, name: str) -> None:
        """Remove a secret file."""
        (self.path / name).unlink(missing_ok=True)
        _sync(self.path)

    def announce(self, running: Running) -> Announcement:
        """Write `run.json`; it is valid until the returned value is withdrawn or this process ends."""
        temporary, descriptor = self._temporary("run.json")
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.write(descriptor, json.dumps(asdict(running)).encode())
        temporary.replace(self._run)
        return Announcement(self._run, descriptor)

    def running(self) -> Running | None:
        """The server that runs on this directory; None: there is none (a file left behind does not count)."""
        try:
            descriptor = os.open(self._run, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        with os.fdopen(descriptor, "rb") as file:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return Running(**json.load(file))
        return None

    def _found_keys(self) -> dict[int, bytes]:
        keys: dict[int, bytes] = {}
        for file in sorted(self._keys.iterdir()):
            if match := _KEY_NAME.fullmatch(file.name):
                try:
                    keys[int(match[1])] = key = bytes.fromhex(self._load(file))
                except ValueError:
                    key = b""
                if len(key) != _KEY_BYTES:
                    raise Unusable(
                        f"{file} is damaged, it should be 64 hex digits: put back the file that belongs there."
                    )
        return keys

    def _load(self, file: Path) -> str:
        try:
            text = file.read_text(encoding="ascii")
        except UnicodeDecodeError:
            raise Unusable(f"{file} is damaged: put back the file that belongs there.") from None
        if file.stat().st_mode & _OTHERS:
            raise Unusable(f"{file} may be read by others: chmod 600 {file}.")
        return text.removesuffix("\n")

    def _create(self, file: Path, text: str) -> None:
        temporary = self._written(file, text)
        try:
            file.hardlink_to(temporary)  # unlike a rename it never replaces what somebody else just made
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
        _sync(file.parent)

    def _written(self, file: Path, text: str) -> Path:
        temporary, descriptor = self._temporary(file.name, file.parent)
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            stream.write(text + "\n")
            stream.flush()
            os.fsync(descriptor)
        return temporary

    def _temporary(self, name: str, folder: Path | None = None) -> tuple[Path, int]:
        file = (folder or self.path) / f".{name}.{os.getpid()}"
        file.unlink(missing_ok=True)
        return file, os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)


class Announcement:
    """A `run.json` that is valid as long as it is held."""

    def __init__(self, file: Path, descriptor: int) -> None:
        self._file = file
        self._descriptor = descriptor

    def withdraw(self) -> None:
        """Remove it: whoever looks from now on finds no server."""
        self._file.unlink(missing_ok=True)
        os.close(self._descriptor)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
