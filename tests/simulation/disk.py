"""The ledger's disk: SQLite in memory, which outlives the process and fails on cue.

1. The schema, the pragmas and all statements are the product's own.
2. Both connections of a store are one here, as each function runs on it from beginning to end; one that would leave a
   transaction open, or write where it may only read, breaks the rules.
3. Between a function and its answer there is time: to be overtaken, and to die.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from provisioner.store.connections import prepare_writer
from tests.simulation.loop import Life
from tests.simulation.rules import Broken

if TYPE_CHECKING:
    import asyncio

    from tests.simulation.world import World

A = TypeVar("A")


class Died(BaseException):
    """The process ended in the middle of this."""


class Database(sqlite3.Connection):
    """`at_commit` is asked at each COMMIT: an error before it, and one after it."""

    at_commit: Callable[[], tuple[BaseException | None, BaseException | None]] | None = None

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        """As sqlite3's."""
        if sql != "COMMIT" or self.at_commit is None:
            return super().execute(sql, parameters)
        before, after = self.at_commit()
        if before is not None:
            raise before
        cursor = super().execute(sql, parameters)
        if after is not None:
            raise after
        return cursor


def blank() -> Database:
    """An empty database with the schema."""
    database = sqlite3.connect(":memory:", isolation_level=None, factory=Database)
    prepare_writer(database)
    return database


class Disk:
    """See the module. `ledger` may be read by whoever wants to know what is committed."""

    def __init__(self, world: World, image: bytes) -> None:
        self._world = world
        self.ledger = sqlite3.connect(":memory:", isolation_level=None, factory=Database)
        self.ledger.deserialize(image)
        prepare_writer(self.ledger)
        self.ledger.at_commit = self._at_commit

    def _at_commit(self) -> tuple[BaseException | None, BaseException | None]:
        weather, rng = self._world.weather, self._world.rng
        if rng.random() < weather.commit_kills:
            self._world.tell("disk", "the process dies at COMMIT")
            return (Died(), None) if rng.random() < 0.5 else (None, Died())
        if rng.random() < weather.commit_fails:
            self._world.tell("disk", "COMMIT fails")
            return sqlite3.OperationalError("disk I/O error"), None
        if rng.random() < weather.commit_lies:
            self._world.tell("disk", "COMMIT says that it failed")
            return None, sqlite3.OperationalError("disk I/O error")
        return None, None

    def hop(self, life: Life, *, writes: bool) -> Hop:
        """A connection of that process."""
        return Hop(self._world, self.ledger, life, writes=writes)


class Hop:
    """A `Connection` of the store: its functions run one after the other, each some time after it was asked."""

    def __init__(self, world: World, ledger: Database, life: Life, *, writes: bool) -> None:
        self._world = world
        self._ledger = ledger
        self._life = life
        self._writes = writes
        self._free_on = 0.0

    async def run(self, work: Callable[[sqlite3.Connection], A]) -> A:
        """See `Connection`."""
        loop = self._world.loop
        future: asyncio.Future[A] = loop.create_future()
        self._free_on = max(loop.time(), self._free_on) + self._delay()
        loop.call_at(self._free_on, self._perform, work, future, context=self._life.context)
        return await future

    async def close(self) -> None:
        """See `Connection`."""

    def _delay(self) -> float:
        rng = self._world.rng
        seconds = 0.0001 + rng.random() * 0.005
        return seconds + rng.random() * 3 if rng.random() < self._world.weather.slow_disk else seconds

    def _perform(self, work: Callable[[sqlite3.Connection], A], future: asyncio.Future[A]) -> None:
        ledger = self._ledger
        before = ledger.total_changes
        outcome: A | None = None
        error: Exception | None = None
        try:
            outcome = work(ledger)
        except Died:
            self._world.crash("at COMMIT")
        except Exception as raised:  # noqa: BLE001 - whatever it is, it belongs to whoever asked
            error = raised
        if ledger.in_transaction:
            raise Broken("store", "a transaction was left open")
        if ledger.total_changes != before:
            if not self._writes:
                raise Broken("store", "the reading connection wrote")
            self._world.ledger_changed = True
        if not self._life.is_over:
            self._world.loop.call_later(self._delay() / 2, _answer, future, outcome, error, context=self._life.context)


def _answer(future: asyncio.Future[A], outcome: A | None, error: Exception | None) -> None:
    if future.done():
        return
    if error is not None:
        future.set_exception(error)
    else:
        future.set_result(cast("A", outcome))
