"""The `sqlite3` module as far as the store uses it, on APSW: the same SQLite beneath, but on a disk of our own.

1. `Library.connect` stands in for `sqlite3.connect`; statements, pragmas and parameters pass as they are.
2. Without shared memory there is one real connection a database (see `disk`). Those who connect share it: who is in a
   transaction has it alone, so that nobody reads what is not committed; who closes closes it for all, and the next
   statement of anybody opens it anew.
3. Errors are those of `sqlite3`, with `sqlite_errorcode`.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import apsw

from tests.proof.disk import Disk, DiskVfs

_PATIENCE = 10.0
_CHECKPOINT = 1000
"""Pages of WAL after which SQLite makes a checkpoint."""
_OURS = {"PRAGMA query_only = ON": "one connection both reads and writes"}
"""Statements that are left out, and why."""

Values = Sequence[Any] | Mapping[str, Any]


class Library:
    """SQLite on one disk. `pragmas` replaces statements by others, for control runs. Close it after use."""

    def __init__(self, name: str, disk: Disk, pragmas: Mapping[str, str] | None = None) -> None:
        self.vfs = DiskVfs(name, disk)
        self._name = name
        self.replaced = dict(pragmas or {})
        self.opened = 0
        """Real connections that were opened."""
        self._connections: dict[str, apsw.Connection] = {}
        self._alone = threading.RLock()

    def connect(self, database: object, *_: object, **__: object) -> Connection:
        """Like `sqlite3.connect` with `isolation_level=None`."""
        connection = Connection(self, str(database))
        connection.execute("SELECT 1")
        return connection

    def enter(self) -> None:
        """Have the library alone."""
        if not self._alone.acquire(timeout=_PATIENCE):
            raise sqlite3.OperationalError("database is locked")

    def leave(self) -> None:
        """Give it back."""
        self._alone.release()

    def real(self, path: str) -> apsw.Connection:
        """The one connection of a database."""
        if path not in self._connections:
            connection = apsw.Connection(path, vfs=self._name)
            self.opened += 1
            connection.execute("PRAGMA locking_mode = EXCLUSIVE")
            connection.set_wal_hook(_after_commit)
            self._connections[path] = connection
        return self._connections[path]

    def forget(self, path: str) -> None:
        """Close it; whoever needs it next opens another."""
        connection = self._connections.pop(path, None)
        if connection is not None:
            connection.close(force=True)

    def close(self) -> None:
        """Close what is open and take the disk out."""
        for path in list(self._connections):
            self.forget(path)
        self.vfs.unregister()


class Connection:
    """What the store needs of `sqlite3.Connection`."""

    def __init__(self, library: Library, path: str) -> None:
        self._library = library
        self._path = path
        self._holding = False

    @property
    def in_transaction(self) -> bool:
        """Whether BEGIN was said and neither COMMIT nor ROLLBACK took effect."""
        return self._holding

    @property
    def total_changes(self) -> int:
        """Rows changed since it was opened."""
        return self._library.real(self._path).total_changes()

    def execute(self, sql: str, parameters: Values = ()) -> Cursor:
        """Run a statement to its end."""
        return self._run(sql, [parameters])

    def executemany(self, sql: str, parameters: Iterable[Values]) -> Cursor:
        """Run a statement once for each."""
        return self._run(sql, list(parameters))

    def _run(self, sql: str, batch: list[Values]) -> Cursor:
        if sql in _OURS:
            return Cursor([], -1)
        self._library.enter()
        try:
            real = self._library.real(self._path)
            before = real.total_changes()
            rows: list[Any] = []
            for values in batch:
                rows = list(real.execute(self._library.replaced.get(sql, sql), values or None))
            cursor = Cursor(rows, real.total_changes() - before)
        except apsw.Error as error:
            raise _translated(error) from error
        finally:
            self._settle()
        return cursor

    def _settle(self) -> None:
        """Keep the library while in a transaction; otherwise give back what was taken."""
        real = self._library._connections.get(self._path)
        inside = real is not None and real.in_transaction
        if inside and not self._holding:
            self._holding = True
            return
        self._library.leave()
        if self._holding and not inside:
            self._holding = False
            self._library.leave()

    def commit(self) -> None:
        """Say COMMIT if there is a transaction."""
        if self._holding:
            self.execute("COMMIT")

    def rollback(self) -> None:
        """Say ROLLBACK if there is a transaction."""
        if self._holding:
            self.execute("ROLLBACK")

    def close(self) -> None:
        """Close, whatever is under way."""
        self._library.enter()
        try:
            self._library.forget(self._path)
        except apsw.Error as error:
            raise _translated(error) from error
        finally:
            self._settle()

    def interrupt(self) -> None:
        """Nothing here takes long."""


class Cursor:
    """The rows of a statement that has run."""

    def __init__(self, rows: list[Any], rowcount: int) -> None:
        self._rows = iter(rows)
        self.rowcount = rowcount

    def fetchall(self) -> list[Any]:
        """What is left."""
        return list(self._rows)

    def fetchone(self) -> Any:
        """The next row, if there is one."""
        return next(self._rows, None)

    def __iter__(self) -> Iterator[Any]:
        return self._rows

    def close(self) -> None:
        """Everything was read."""


def _after_commit(connection: apsw.Connection, name: str, pages: int) -> int:
    """What SQLite does by itself, failures unheard, and what APSW would take for a failure of the COMMIT."""
    if pages >= _CHECKPOINT:
        with suppress(apsw.Error):
            connection.wal_checkpoint(name, apsw.SQLITE_CHECKPOINT_PASSIVE)
    return apsw.SQLITE_OK


def _translated(error: apsw.Error) -> sqlite3.Error:
    code = getattr(error, "extendedresult", apsw.SQLITE_ERROR)
    kind: type[sqlite3.DatabaseError] = sqlite3.OperationalError
    if isinstance(error, apsw.ConstraintError):
        kind = sqlite3.IntegrityError
    elif isinstance(error, apsw.CorruptError | apsw.NotADBError):
        kind = sqlite3.DatabaseError
    told = kind(str(error))
    told.sqlite_errorcode = code
    told.sqlite_errorname = str(apsw.mapping_extended_result_codes.get(code, code))
    return told
