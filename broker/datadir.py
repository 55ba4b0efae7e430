"""The data directory: what is in it, who may read it, and how it is written.

    ledger.db        the store's file (and its -wal and -shm while somebody runs)
    keys/vault-1     key-encryption key of epoch 1, 32 bytes in hex; the newest epoch seals, each opens its own
    ca/              the certificate authority: `certs.keystore` tells its files
    keys/pepper      what fingerprints in the ledger are keyed with (unless keys are kept elsewhere: `keyring.py`)
    server.pem       certificate and key of our own listeners, where no file is named for them
    provision-login  the first provision login: user and password, a line each
    admin-token      the first operator token
    run.json         while a server runs: its process id and where it listens

1. The directory is 0700, secrets are 0600; a start is refused where others may read them.
2. A file appears whole or not at all, and is on the disk before anything relies on it.
3. `run.json` is locked by the process it tells of. A killed server leaves the file but not the lock, so a stale one is
   known without guessing from process ids.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from provisioner.errors import ProvisionerError

_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class Unusable(ProvisionerError):
    """The data directory cannot be used; the text says what to do about it."""


@dataclass(frozen=True, slots=True)
class Running:
    """A server that is up: its process id, the URLs of its operator API, and where devices reach it (`host:port`).

    `bridge` is the URL of the broker through which they may claim as well.
    """

    pid: int
    http: str
    endpoint: str | None = None
    endpoint_tls: str | None = None
    device_broker: str | None = None
    device_broker_tls: str | None = None
    https: str | None = None
    bridge: str | None = None


class DataDir:
    """A data directory; `prepare` before anything else."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ledger = path / "ledger.db"
        self.keys = path / "keys"
        self.authority = path / "ca"
        self._run = path / "run.json"

    def prepare(self) -> None:
        """Make the directory, or check that it is ours alone. Raises `Unusable`."""
        for folder in (self.path, self.keys):
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

    def load_secret(self, name: str) -> str | None:
        """Text of a secret file, without the last line's end; None: there is none. Raises `Unusable`."""
        return self._load(self.path / name) if (self.path / name).exists() else None

    def save_secret(self, name: str, text: str) -> None:
        """Write a secret file, in place of the one that may be there."""
        file = self.path / name
        self._written(file, text).replace(file)
        sync(file.parent)

    def create_secret(self, name: str, text: str) -> None:
        """Write a secret file, unless there is one: that one stays as it is."""
        file = self.path / name
        temporary = self._written(file, text)
        try:
            file.hardlink_to(temporary)  # unlike a rename it never replaces what somebody else just made
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
        sync(file.parent)

    def delete_secret(self, name: str) -> None:
        """Remove a secret file, which may be gone already, and what it held from the disk it was on."""
        file = self.path / name
        with suppress(FileNotFoundError), file.open("r+b") as stream:
            stream.write(bytes(file.stat().st_size))
            stream.flush()
            os.fsync(stream.fileno())
        file.unlink(missing_ok=True)
        sync(file.parent)

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

    @staticmethod
    def _load(file: Path) -> str:
        try:
            text = file.read_text(encoding="ascii")
        except UnicodeDecodeError:
            raise Unusable(f"{file} is damaged: put back the file that belongs there.") from None
        if file.stat().st_mode & _OTHERS:
            raise Unusable(f"{file} may be read by others: chmod 600 {file}.")
        return text.removesuffix("\n")

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


def sync(folder: Path) -> None:
    """Bring the names in `folder` to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
