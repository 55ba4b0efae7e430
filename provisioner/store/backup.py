"""Copies of the ledger, while it is used, and the way back.

1. A copy is the ledger at one moment. It is taken through a connection of its own, in small portions of one snapshot:
   nobody who claims waits for it, and the write-ahead log grows meanwhile.
2. A copy appears whole, checked and on the disk, or not at all, and never in place of something that is there.
3. A copy says that it is one (`ledger.copied_on`): whatever way it comes back into use, the first start on it knows
   (`restore`). It holds no key: it opens with the keys its epochs name, and with those alone.
4. A restore needs the ledger for itself. What is there now is kept under another name, and the new one takes its place
   in one step; the floor of generations is the higher of both.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from provisioner.epochs import KeyEpoch, KeyState
from provisioner.errors import ProvisionerError, Unavailable
from provisioner.model import Millis
from provisioner.store.locking import locked
from provisioner.store.migrations import migrate
from provisioner.store.statements import SQL

Progress = Callable[[int, int], None]
"""Told how much is done, and of how much."""

_PAGES = 256
_PORTION = 4 * 1024 * 1024
_PATIENCE = 10.0


class BadCopy(ProvisionerError):
    """A file is no ledger, or a damaged one, or is in the way; the text is one sentence."""


@dataclass(frozen=True, slots=True)
class Inventory:
    """What a ledger holds. `changed_on`: last change by an operator or mint; `size` in bytes."""

    size: int
    accounts: int
    requests: int
    credentials: int
    changed_on: Millis | None
    copied_on: Millis | None
    generation_floor: int
    epochs: tuple[KeyEpoch, ...]
    pepper_id: str | None

    @property
    def needed(self) -> tuple[KeyEpoch, ...]:
        """Keys without which it does not open."""
        return tuple(one for one in self.epochs if one.state is KeyState.IN_USE)


def back_up(ledger: Path, target: Path, now: Millis, progress: Progress) -> Inventory:
    """Copy `ledger`, which may be in use, to `target`, which must not exist. Raises `BadCopy`, `OSError`."""
    if target.exists():
        raise BadCopy(f"{target} exists already: name a new file.")
    with _temporary(target) as copy:
        try:
            with closing(_connect(ledger)) as source, closing(_connect(copy)) as made:
                source.execute("BEGIN")
                source.execute("SELECT count(*) FROM sqlite_schema").fetchone()  # the snapshot begins with a read
                source.backup(
                    made, pages=_PAGES, progress=lambda _, left, pages: progress(pages - left, pages), sleep=0.05
                )
                inventory = _checked(made, copy, now)
        except sqlite3.Error as error:
            raise BadCopy(f"{ledger} cannot be copied: {error}.") from error
        _sync(copy)
        try:
            target.hardlink_to(copy)
        except FileExistsError:
            raise BadCopy(f"{target} exists already: name a new file.") from None
    _sync(target.parent)
    return inventory


@dataclass(frozen=True, slots=True)
class Staged:
    """A copy beside the ledger, ready to take its place; `present` None: there is no ledger, or none that opens."""

    restored: Inventory
    present: Inventory | None
    _ledger: Path
    _copy: Path

    def take_place(self, aside: Path) -> None:
        """Put it in the ledger's place; what is there now is kept as `aside`."""
        highest = max(self.restored.generation_floor, self.present.generation_floor if self.present else 0)
        with closing(_connect(self._copy)) as copy:
            copy.execute(SQL["lift_floor"], {"floor": highest})
        _sync(self._copy)
        if self._ledger.exists():
            aside.hardlink_to(self._ledger)
        # Only a ledger that could not be opened has a log still; beside another one it would be its ruin.
        for end in ("-wal", "-shm"):
            with suppress(FileNotFoundError):
                self._ledger.with_name(self._ledger.name + end).replace(aside.with_name(aside.name + end))
        self._copy.replace(self._ledger)
        _sync(self._ledger.parent)


@contextmanager
def staged(file: Path, ledger: Path, now: Millis, progress: Progress) -> Iterator[Staged]:
    """A copy of `file` beside `ledger`, checked. Raises `Unavailable` while the ledger is in use, `BadCopy`."""
    with locked(ledger), _temporary(ledger) as copy:
        _copy_file(file, copy, progress)
        try:
            with closing(_connect(copy)) as made:
                restored = _checked(made, copy, now)
        except sqlite3.Error as error:
            raise BadCopy(f"{file} is not a ledger, or is damaged: {error}.") from error
        except (BadCopy, Unavailable) as error:
            raise BadCopy(f"{file} cannot be used: {str(error).rstrip('.')}.") from error
        yield Staged(restored, _present(ledger), ledger, copy)


def _present(ledger: Path) -> Inventory | None:
    """What the ledger holds now; its log is brought into it and removed, so that nobody else may have it open."""
    if not ledger.exists():
        return None
    try:
        with closing(_connect(ledger)) as connection:
            connection.execute("PRAGMA journal_mode = DELETE")
            migrate(connection)
            return _inventory(connection, ledger)
    except sqlite3.Error as error:
        if error.sqlite_errorname == "SQLITE_BUSY":
            raise BadCopy(f"{ledger} is being read, perhaps by a backup: try again when that is over.") from error
        return None
    except Unavailable:
        return None


def _checked(connection: sqlite3.Connection, file: Path, now: Millis) -> Inventory:
    """Make sure that a copy is whole and of this version, in one file, and says that it is a copy."""
    connection.execute("PRAGMA journal_mode = DELETE")
    damages = [row[0] for row in connection.execute("PRAGMA integrity_check(1)") if row[0] != "ok"]
    damages += [f"a row of {row[0]} refers to nothing" for row in connection.execute("PRAGMA foreign_key_check")]
    if damages:
        raise BadCopy(f"it is damaged: {damages[0].splitlines()[0]}.")
    if not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'migration'").fetchall():
        raise BadCopy("it is a database, but not a ledger.")
    migrate(connection)
    connection.execute(SQL["note_copy"], {"now": now})
    return _inventory(connection, file)


def _inventory(connection: sqlite3.Connection, file: Path) -> Inventory:
    pepper_id, _, copied_on, floor = connection.execute(SQL["find_ledger"]).fetchone()
    accounts, requests, credentials, changed_on, highest = connection.execute(SQL["take_inventory"]).fetchone()
    epochs = tuple(
        KeyEpoch(epoch, key_id, made_on, KeyState(state))
        for epoch, key_id, made_on, state in connection.execute(SQL["list_epochs"])
    )
    return Inventory(
        size=file.stat().st_size,
        accounts=accounts,
        requests=requests,
        credentials=credentials,
        changed_on=changed_on,
        copied_on=copied_on,
        generation_floor=max(floor, highest),
        epochs=epochs,
        pepper_id=pepper_id,
    )


def _connect(file: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(file, isolation_level=None, timeout=_PATIENCE)
    connection.execute("PRAGMA synchronous = FULL")
    return connection


@contextmanager
def _temporary(beside: Path) -> Iterator[Path]:
    """A new empty file (0600) for a copy, in the folder of `beside`; it is gone afterwards."""
    file = beside.with_name(f".{beside.name}.{os.getpid()}")
    try:
        file.unlink(missing_ok=True)
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        yield file
    finally:
        for end in ("", "-journal", "-wal", "-shm"):
            file.with_name(file.name + end).unlink(missing_ok=True)


def _copy_file(file: Path, copy: Path, progress: Progress) -> None:
    size, done = file.stat().st_size, 0
    with file.open("rb") as source, copy.open("r+b") as target:
        while portion := source.read(_PORTION):
            target.write(portion)
            done += len(portion)
            progress(done, size)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
