"""F-2: the power fails at any write, sync or deletion; whatever was acknowledged is there when it is back, whole.

The real store runs on a disk that keeps what was not synced apart (`disk`), under its own SQL text and pragmas. Before
an operation the disk may be copied as it is: that is a cut. Each copy then loses all or parts of what was not synced,
is opened by the real store and compared with what callers had been told. The last one is what the next life starts on.
The control run with `synchronous = NORMAL` shows that this disk takes away what is not synced.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from provisioner.store import SqliteStore
from tests.proof.disk import Disk
from tests.proof.library import Connection, Library
from tests.proof.scale import record, rounds
from tests.proof.writers import Callers, Found, Memory, furnish, look, lost

CALLERS, UNITS = 6, 10
"""Callers at once, and units of each in one life."""
CUT, CHECKPOINT = 0.2, 0.08
"""How often an operation is cut, and a unit followed by a checkpoint."""
LIVES = 8
"""Lives of one disk."""


@dataclass
class Outcome:
    """What many cuts came to."""

    cuts: int = 0
    acknowledged: int = 0
    lost: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


class Laboratory:
    """Lives, one after the other, with `pragmas` replaced by others."""

    def __init__(self, path: Path, seed: int, monkeypatch: pytest.MonkeyPatch, pragmas: dict[str, str]) -> None:
        self._path = path
        self._chance = random.Random(seed)
        self._pragmas = pragmas
        self._library: Library | None = None
        self.outcome = Outcome()
        monkeypatch.setattr(sqlite3, "connect", self._connect)

    async def run(self, cuts: int) -> Outcome:
        """Until there were so many cuts."""
        while self.outcome.cuts < cuts:
            disk, memory = Disk(), Memory()
            for _ in range(LIVES):
                if self.outcome.cuts < cuts:
                    disk, memory = await self._life(disk, memory)
        return self.outcome

    async def _life(self, disk: Disk, memory: Memory) -> tuple[Disk, Memory]:
        """From a start to a cut; all cuts of it are looked into, and the last one is what is left."""
        images: list[tuple[Disk, Memory]] = []

        def before(operation: str, _name: str) -> None:
            """Cut at operations that change something; called in the thread of the connection."""
            if operation != "read" and self._chance.random() < CUT:
                images.append((disk.image(), memory.copy()))

        library = self._library = Library("disk", disk, self._pragmas)
        checkpoint = library.connect(self._path)

        async def between() -> None:
            if self._chance.random() < CHECKPOINT:
                await asyncio.to_thread(checkpoint.execute, "PRAGMA wal_checkpoint")

        disk.before = before
        store = await SqliteStore.open(self._path)
        await furnish(store)
        callers = Callers(store, memory, self._chance)
        await callers.work(CALLERS, UNITS, between)
        images.append((disk.image(), memory.copy()))
        await store.close()
        library.close()
        self.outcome.acknowledged += callers.acknowledged
        for image, remembered in images:
            left = image.cut(self._chance)
            found = await self._after(left, remembered)
        return left, Memory(found.versions)

    async def _after(self, disk: Disk, memory: Memory) -> Found:
        """The power is back."""
        library = self._library = Library("disk", disk, self._pragmas)
        store = await SqliteStore.open(self._path)
        found = look(library, self._path)
        await store.close()
        library.close()
        self.outcome.cuts += 1
        self.outcome.lost += lost(memory, found)
        self.outcome.broken += found.broken
        return found

    def _connect(self, database: object, *_: object, **__: object) -> Connection:
        assert self._library is not None
        return self._library.connect(database)


async def test_no_power_cut_loses_what_was_acknowledged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = await Laboratory(tmp_path / "ledger.db", 1, monkeypatch, {}).run(rounds(100, 10_000, 200_000))
    assert (outcome.lost[:3], outcome.broken[:3]) == ([], [])
    record("power-cuts", "F-2", cuts=outcome.cuts, acknowledged=outcome.acknowledged, lost=0)


async def test_without_a_sync_per_commit_this_disk_does_lose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pragmas = {"PRAGMA synchronous = FULL": "PRAGMA synchronous = NORMAL"}
    outcome = await Laboratory(tmp_path / "ledger.db", 1, monkeypatch, pragmas).run(rounds(50, 500, 5000))
    assert outcome.lost
    record("power-cuts-control", "F-2", cuts=outcome.cuts, acknowledged=outcome.acknowledged, lost=len(outcome.lost))
