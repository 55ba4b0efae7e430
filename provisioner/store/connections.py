"""Connections to SQLite: each has a thread of its own, and runs one function after the other on it.

1. A hop to that thread costs more than a statement: a transaction is one function that runs there from BEGIN to COMMIT,
   so it ends one way or the other whatever becomes of its caller, and never interleaves.
2. After a failed sync a connection goes on: it knows where the last good commit ends, and writes over what came after.
   A new process does not, and would build on frames that are in the page cache and never reached the disk (Linux takes
   the pages of a failed fsync for clean). So the WAL is written once more before it is opened.
3. What was wiped is off the disk: freed bytes are overwritten (`secure_delete`), and `truncate_log` empties the
   write-ahead log, which holds pages as they were.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeVar

import aiosqlite

from provisioner.store.migrations import migrate

_BUSY_TIMEOUT = "PRAGMA busy_timeout = 500"
_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA secure_delete = ON",
    "PRAGMA foreign_keys = ON",
    _BUSY_TIMEOUT,
    "PRAGMA cache_size = -16000",
)

A = TypeVar("A")


class Connection(Protocol):
    """A database connection that works somewhere else, one function after the other."""

    async def run(self, work: Callable[[sqlite3.Connection], A]) -> A:
        """What `work` returns or raises."""

    async def close(self) -> None:
        """After what was begun."""


class Threaded(aiosqlite.Connection):
    """aiosqlite's connection, which brings the thread, with a way to have a whole function run there."""

    async def run(self, work: Callable[[sqlite3.Connection], A]) -> A:
        """See `Connection`."""
        outcome: A = await self._execute(work, self._conn)  # type: ignore[no-untyped-call]  # aiosqlite types its public part
        return outcome


async def connect(path: Path) -> tuple[Threaded, Threaded]:
    """The writing and the reading connection to a database file, made with mode 0600. Raises sqlite3.Error, OSError."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    _renew(path.with_name(path.name + "-wal"))
    opened: list[Threaded] = []
    try:
        for prepare in (prepare_writer, _prepare_reader):
            connection = Threaded(lambda: sqlite3.connect(path, isolation_level=None), 64)
            await connection
            opened.append(connection)
            await connection.run(prepare)
    except BaseException:
        for connection in opened:
            await connection.close()
        raise
    return opened[0], opened[1]


def transaction(work: Callable[[sqlite3.Connection], A], connection: sqlite3.Connection) -> tuple[A, bool]:
    """What `work` returned, and whether it changed anything: a COMMIT of nothing writes nothing, and proves nothing."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        before = connection.total_changes
        outcome = work(connection)
        wrote = connection.total_changes != before
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise
    return outcome, wrote


def truncate_log(connection: sqlite3.Connection) -> bool:
    """Without waiting for readers: writers would have to wait as long."""
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        busy: int = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    finally:
        connection.execute(_BUSY_TIMEOUT)
    return not busy


def prepare_writer(connection: sqlite3.Connection) -> None:
    """Pragmas and schema."""
    for pragma in _PRAGMAS:
        connection.execute(pragma)
    migrate(connection)


def _prepare_reader(connection: sqlite3.Connection) -> None:
    for pragma in (*_PRAGMAS, "PRAGMA query_only = ON"):
        connection.execute(pragma)


def _renew(wal: Path) -> None:
    """Write a file over itself and sync it (rule 2)."""
    try:
        descriptor = os.open(wal, os.O_RDWR)
    except FileNotFoundError:
        return
    try:
        at = 0
        while chunk := os.pread(descriptor, 1 << 20, at):
            at += os.pwrite(descriptor, chunk, at)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
