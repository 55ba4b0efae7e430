"""From units of work to rows: one statement a table, however many units.

1. Rows of the path of a claim go in as one JSON text a table. The statement then runs to its end without the
   interpreter's lock, which would otherwise be given up and won back from the event loop once a row: on a busy server
   that costs more than the row. Requests are long rows: new ones go in by `inserting`, changed ones row by row.
2. Guards are compared in order of arrival, inside the write transaction: a stale unit changes nothing. A key has one
   certificate for ever, so a unit with another one on it is stale too.
3. The journal grows in the same transaction, each line chained to the one before.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from provisioner.events import DomainEvent, events_of
from provisioner.journal import GENESIS, digest, lines_of
from provisioner.model import Line
from provisioner.ports import Unit
from provisioner.store.certificate_rows import revoked_by
from provisioner.store.inserting import insert
from provisioner.store.statements import SQL, added_values, job_values, request_values, row_values

_encode = json.JSONEncoder(separators=(",", ":")).encode


def write_units(units: list[Unit], connection: sqlite3.Connection) -> tuple[list[bool], bool]:
    """Which units were written, and whether there are events among them."""
    winners = _check_guards(units, connection)
    winning = [unit for unit, wins in zip(units, winners, strict=True) if wins]
    has_events = _write(winning, connection)
    append((line for unit in winning for line in lines_of(unit)), connection)
    return winners, has_events


def append(lines: Iterable[Line], connection: sqlite3.Connection) -> None:
    """Write lines at the end of the journal."""
    seq, last = connection.execute(SQL["journal_head"]).fetchone() or (0, GENESIS)
    rows, digests = [], []
    for line in lines:
        seq += 1
        last = digest(last, seq, line)
        rows.append((seq, *line))
        digests.append(last)
    if rows:
        connection.execute(SQL["add_journal"], {"rows": _encode(rows), "digests": b"".join(digests)})


def _check_guards(units: list[Unit], connection: sqlite3.Connection) -> list[bool]:
    ids = [saved.before.id for unit in units for saved in unit.saved]
    (text,) = connection.execute(SQL["guards"], {"ids": _encode(ids)}).fetchone()
    current = {row[0]: (row[1], row[2]) for row in json.loads(text)}
    used = _used_keys(units, connection)
    winners = []
    for unit in units:
        wins = all(
            current.get(saved.before.id) == (saved.before.optlock, saved.before.job_optlock) for saved in unit.saved
        )
        keys = {certificate.key_id for certificate in unit.certificates}
        wins = wins and used.isdisjoint(keys)
        if wins:
            used |= keys
            for saved in unit.saved:
                current[saved.after.id] = (saved.after.optlock, saved.after.job_optlock)
        winners.append(wins)
    return winners


def _used_keys(units: list[Unit], connection: sqlite3.Connection) -> set[str]:
    """Of the keys that these units bring, those that have had their certificate."""
    keys = [certificate.key_id for unit in units for certificate in unit.certificates]
    if not keys:
        return set()
    return set(json.loads(connection.execute(SQL["used_keys"], {"keys": _encode(keys)}).fetchone()[0]))


def _write(units: Iterable[Unit], connection: sqlite3.Connection) -> bool:
    jobs: dict[int, dict[str, Any]] = {}
    requests: list[dict[str, Any]] = []
    added: list[tuple[object, ...]] = []
    credentials: list[dict[str, Any]] = []
    certificates: list[dict[str, Any]] = []
    revoked: list[dict[str, Any]] = []
    bound: list[dict[str, Any]] = []
    events: list[DomainEvent] = []
    for unit in units:
        for saved in unit.saved:
            if saved.after.job_optlock != saved.before.job_optlock:
                job = job_values(saved.after)
                job["keys_changed"] = saved.after.keys_sealed != saved.before.keys_sealed
                # Two units of one request, one upon the other: the later one's row, with what either changed.
                if earlier := jobs.pop(saved.after.id, None):
                    job["keys_changed"] |= earlier["keys_changed"]
                jobs[saved.after.id] = job
            if saved.after.optlock != saved.before.optlock:
                requests.append(request_values(saved.after))
        added += map(added_values, unit.added)
        credentials += map(vars, unit.credentials)
        certificates += map(row_values, unit.certificates)
        revoked += revoked_by(unit)
        if unit.bound is not None:
            bound.append(row_values(unit.bound))
        events += events_of(unit)
    _execute("save_jobs", list(jobs.values()), connection)
    connection.executemany(SQL["save_request"], requests)
    insert("add_requests", added, connection)
    _execute("save_credentials", credentials, connection)
    _execute("add_certificates", certificates, connection)
    _execute("revoke_certificates", revoked, connection)
    _execute("bind", bound, connection)
    _execute("add_events", events, connection)
    return bool(events)


def _execute(name: str, rows: Sequence[object], connection: sqlite3.Connection) -> None:
    if rows:
        connection.execute(SQL[name], {"rows": _encode(rows)})
