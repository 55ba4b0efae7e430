"""The event log on SQLite: see `EventLog` in the ports.

1. Events are written by the store, in the transaction of their step; everything here comes after it.
2. A lease, its events and its end are one transaction each, so a delivery is never half recorded.
3. A place in commit order stands for an event wherever statements speak of one.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

from provisioner.events import StoredEvent
from provisioner.model import Millis
from provisioner.ports import DeadFilter, DeadLetter, EventFilter, Leased, Postponed, SinkState
from provisioner.store.statements import SQL, Row, read_event

T = TypeVar("T")

_ANY_REQUEST = "(:request_id IS NULL OR e.request_id = :request_id)"


class Runner(Protocol):
    """Runs a function with the connection, on its thread: in a transaction of its own, or only reading."""

    async def __call__(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` returns. Raises `Unavailable`."""
        ...


class SqliteEventLog:
    """See the module; the store that owns the connections hands it out."""

    def __init__(self, read: Runner, transact: Runner) -> None:
        self._run_reading = read
        self._transact = transact

    # -- reading -------------------------------------------------------------------------------------------------------

    async def newest(self) -> int:
        """See `EventLog`."""
        return int((await self._read(SQL["newest_event"], {}))[0][0] or 0)

    async def find(self, seq: int) -> StoredEvent | None:
        """See `EventLog`."""
        rows = await self._read(SQL["find_events"], {"seqs": json.dumps([seq])})
        return read_event(rows[0]) if rows else None

    async def list_events(
        self, wanted: EventFilter, limit: int, *, offset: int = 0, newest_first: bool = False
    ) -> Sequence[StoredEvent]:
        """See `EventLog`."""
        values = _wanted(wanted) | {"limit": limit, "offset": offset}
        return [read_event(row) for row in await self._read(_listing(wanted, newest_first=newest_first), values)]

    async def next_delivery(self, sink: str) -> Millis | None:
        """See `EventLog`."""
        due, fresh = (await self._read(SQL["next_delivery"], {"sink": sink}))[0]
        return 0 if fresh else due

    async def list_dead(self, wanted: DeadFilter, limit: int, offset: int = 0) -> Sequence[DeadLetter]:
        """See `EventLog`."""
        rows = await self._read(SQL["list_dead"], _dead(wanted) | {"limit": limit, "offset": offset})
        return [DeadLetter(read_event(row[5:]), *row[:5]) for row in rows]

    async def list_sinks(self) -> Sequence[SinkState]:
        """See `EventLog`."""
        return [SinkState(*row) for row in await self._read(SQL["list_sinks"], {})]

    async def _read(self, sql: str, values: dict[str, Any]) -> list[Row]:
        return await self._run_reading(lambda connection: connection.execute(sql, values).fetchall())

    # -- delivering ----------------------------------------------------------------------------------------------------

    async def open_sink(self, sink: str) -> None:
        """See `EventLog`."""

        def work(connection: sqlite3.Connection) -> None:
            for name in ("open_sink", "release_deliveries"):
                connection.execute(SQL[name], {"sink": sink})

        await self._transact(work)

    async def lease(self, sink: str, now: Millis, until: Millis, limit: int) -> Sequence[Leased]:
        """See `EventLog`."""
        values = {"sink": sink, "now": now, "until": until, "limit": limit}

        def work(connection: sqlite3.Connection) -> list[Leased]:
            for name in ("take_events", "mark_taken"):
                connection.execute(SQL[name], values)
            first = connection.execute(SQL["lease_first"], values).fetchall()
            requests = json.dumps(sorted({row[2] for row in first}))
            followers = connection.execute(SQL["lease_followers"], values | {"requests": requests}).fetchall()
            attempts = {row[0]: row[1] for row in (*first, *followers)}
            rows = connection.execute(SQL["find_events"], {"seqs": json.dumps([*attempts])}).fetchall()
            return [Leased(read_event(row), attempts[row[0]]) for row in rows]

        return await self._transact(work)

    async def settle(
        self, sink: str, delivered: Sequence[StoredEvent], others: Sequence[Postponed], now: Millis
    ) -> None:
        """See `EventLog`."""
        gone = {"sink": sink, "seqs": json.dumps([event.seq for event in delivered])}
        saved = [
            {
                "sink": sink,
                "seq": other.event.seq,
                "attempts": other.attempts,
                "due_on": other.due_on,
                "dead_on": now if other.is_dead else None,
                "problem": other.problem,
            }
            for other in others
        ]

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(SQL["delete_deliveries"], gone)
            connection.executemany(SQL["save_delivery"], saved)
            _free(connection, [event.request_id for event in (*delivered, *(other.event for other in others))])

        if delivered or others:
            await self._transact(work)

    # -- what an operator does -----------------------------------------------------------------------------------------

    async def redrive(self, wanted: DeadFilter) -> int:
        """See `EventLog`."""
        return await self._change_and_free("redrive_dead", _dead(wanted))

    async def discard(self, wanted: DeadFilter) -> int:
        """See `EventLog`."""
        return await self._change_and_free("discard_dead", _dead(wanted))

    async def replay(self, sink: str, wanted: EventFilter, limit: int) -> int:
        """See `EventLog`."""
        return await self._change_and_free("replay_events", _wanted(wanted) | {"sink": sink, "limit": limit})

    async def _change_and_free(self, name: str, values: dict[str, Any]) -> int:
        def work(connection: sqlite3.Connection) -> int:
            requests = [row[0] for row in connection.execute(SQL[name], values).fetchall()]
            _free(connection, requests)
            return len(requests)

        return await self._transact(work)

    async def prune(self, before: Millis, sinks: Sequence[str], limit: int) -> int:
        """See `EventLog`."""
        values = {"before": before, "sinks": json.dumps(sinks), "limit": limit}
        return await self._transact(lambda connection: len(connection.execute(SQL["prune_events"], values).fetchall()))


def _free(connection: sqlite3.Connection, requests: Sequence[int]) -> None:
    """What is now the earliest undelivered event of these requests is due."""
    connection.execute(SQL["free_deliveries"], {"requests": json.dumps(sorted(set(requests)))})


def _listing(wanted: EventFilter, *, newest_first: bool) -> str:
    """With a request, its index has to be used, and SQLite decides that before it knows the value."""
    sql = SQL["list_events"]
    if wanted.request_id is not None:
        sql = sql.replace(_ANY_REQUEST, "e.request_id = :request_id")
    return sql.replace("ORDER BY e.seq", "ORDER BY e.seq DESC") if newest_first else sql


def _wanted(wanted: EventFilter) -> dict[str, Any]:
    return {
        "after": wanted.after,
        "upto": wanted.upto,
        "request_id": wanted.request_id,
        "accounts": _json(wanted.accounts),
        "types": _json(wanted.types),
        "start": wanted.start,
        "end": wanted.end,
    }


def _dead(wanted: DeadFilter) -> dict[str, Any]:
    return {"sink": wanted.sink, "seqs": _json(wanted.seqs), "accounts": _json(wanted.accounts)}


def _json(values: Sequence[object] | None) -> str | None:
    return None if values is None else json.dumps(values)
