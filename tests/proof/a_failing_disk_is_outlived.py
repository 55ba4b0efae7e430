"""F-8 on the real store: the disk fills up or fails for a while; nobody is told what is not so, and it recovers.

1. During a trouble operations of one kind fail; how long it lasts is chance. A sync that fails forgets what was
   written: programs go on reading it, the platter never sees it (what Linux does to the pages of a failed `fsync`).
2. A refused unit is not there when its caller looks again; a unit that was acknowledged is there after a power cut.
3. When the trouble is over the same store works on, without a restart.
4. Half of the power cuts come after a kill and another start, which finds what programs see and not what the platter
   has: what a failed sync left in the WAL must not become the ground that later commits stand on.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import apsw
import pytest

from provisioner.store import SqliteStore
from tests.proof.disk import Disk
from tests.proof.library import Connection, Library
from tests.proof.scale import record, rounds
from tests.proof.writers import Callers, Memory, furnish, look, lost

CALLERS, UNITS = 4, 25
"""Callers at once, and units each tries in one life."""
CUT = 0.05
"""How often an operation is cut."""
KILL = 0.5
"""How often a cut strikes only after the process was killed and started once more."""
CHECKPOINT = 0.1
"""How often a unit is followed by a checkpoint."""
CALM, TROUBLE = (5, 120), (1, 40)
"""How many operations a calm and a trouble last."""


@dataclass(frozen=True)
class Kind:
    """What fails, and how SQLite hears of it."""

    operations: frozenset[str]
    error: Callable[[str], apsw.Error]
    code: int


def failure(operations: str, code: int, error: Callable[[str], apsw.Error] = apsw.IOError) -> Kind:
    return Kind(frozenset(operations.split()), error, code)


KINDS = {
    "full": failure("write", apsw.SQLITE_FULL, apsw.FullError),
    "write": failure("write", apsw.SQLITE_IOERR_WRITE),
    "sync": failure("sync", apsw.SQLITE_IOERR_FSYNC),
    "read": failure("read", apsw.SQLITE_IOERR_READ),
    "everything": failure("read write sync truncate delete create", apsw.SQLITE_IOERR),
}


class Trouble:
    """A disk's good and bad times."""

    def __init__(self, disk: Disk, kind: Kind, chance: random.Random) -> None:
        self._disk = disk
        self._kind = kind
        self._chance = chance
        self._bad = False
        self._left = chance.randint(*CALM)
        self.failed = 0

    def ask(self, operation: str, name: str) -> None:
        """Raise what the disk has to say about an operation."""
        self._left -= 1
        if self._left <= 0:
            self._bad = not self._bad
            self._left = self._chance.randint(*(TROUBLE if self._bad else CALM))
        if not self._bad or operation not in self._kind.operations:
            return
        self.failed += 1
        if operation == "sync":
            self._disk.files[name].pending.clear()
        error: Any = self._kind.error("disk trouble")
        error.extendedresult = self._kind.code  # APSW hands it to SQLite
        raise error


@dataclass
class Figures:
    failed: int = 0
    acknowledged: int = 0
    refused: int = 0
    cuts: int = 0


class Laboratory:
    """Lives of one kind of trouble, each on a new disk."""

    def __init__(self, path: Path, kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
        self._path = path
        self._kind = kind
        self._chance = random.Random(kind.code)
        self._library = Library("start", Disk())
        self.figures = Figures()
        monkeypatch.setattr(sqlite3, "connect", self._connect)

    def _connect(self, database: object, *_: object, **__: object) -> Connection:
        return self._library.connect(database)

    async def live(self) -> None:
        """A store through good and bad times; then all its power cuts."""
        disk, memory = Disk(), Memory()
        images: list[tuple[Disk, Memory]] = []
        async with self._store(disk) as store:
            await furnish(store)
            trouble = Trouble(disk, self._kind, self._chance)

            def before(operation: str, name: str) -> None:
                if operation != "read" and self._chance.random() < CUT:
                    images.append((disk.image(), memory.copy()))
                trouble.ask(operation, name)

            disk.before = before
            callers = Callers(store, memory, self._chance)
            async with asyncio.timeout(30):
                await callers.work(CALLERS, UNITS, self._checkpoint)
            disk.before = lambda *_: None
            await callers.work(1, 6, self._checkpoint)
            images.append((disk.image(), memory.copy()))
            self._check(memory)
        self._count(trouble, callers, len(images))
        for image, remembered in images:
            killed = self._chance.random() < KILL
            last, known = await self._killed(image, remembered) if killed else (image, remembered)
            async with self._store(last.cut(self._chance)):
                self._check(known)

    async def _killed(self, disk: Disk, memory: Memory) -> tuple[Disk, Memory]:
        """The process was killed and started again; the machine stayed up and remembers what the platter never saw."""
        async with self._store(disk) as store:
            await furnish(store)
            self._check(memory)
            memory = Memory(look(self._library, self._path).versions)
            await Callers(store, memory, self._chance).work(2, 3, self._checkpoint)
            return disk.image(), memory

    @asynccontextmanager
    async def _store(self, disk: Disk) -> AsyncIterator[SqliteStore]:
        self._library.close()
        # A cache of some pages alone, so that something is read from the disk.
        self._library = Library("disk", disk, {"PRAGMA cache_size = -16000": "PRAGMA cache_size = 2"})
        if (wal := disk.files.get(f"{self._path}-wal")) is not None:
            wal.renew()  # as `SqliteStore.open` does with a file of the real disk
        store = await SqliteStore.open(self._path)
        try:
            yield store
        finally:
            disk.before = lambda *_: None
            await store.close()

    async def _checkpoint(self) -> None:
        if self._chance.random() < CHECKPOINT:
            with suppress(sqlite3.Error):
                await asyncio.to_thread(self._library.connect(self._path).execute, "PRAGMA wal_checkpoint")

    def _check(self, memory: Memory) -> None:
        found = look(self._library, self._path)
        assert (found.broken, lost(memory, found)) == ([], [])

    def _count(self, trouble: Trouble, callers: Callers, cuts: int) -> None:
        self.figures.failed += trouble.failed
        self.figures.acknowledged += callers.acknowledged
        self.figures.refused += callers.refused
        self.figures.cuts += cuts


@pytest.mark.parametrize("kind", KINDS)
async def test_a_failing_disk_is_outlived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    laboratory = Laboratory(tmp_path / "ledger.db", KINDS[kind], monkeypatch)
    for _ in range(rounds(2, 60, 2000)):
        await laboratory.live()
    figures = laboratory.figures
    assert figures.failed
    record(f"disk trouble: {kind}", "F-8", **vars(figures))
