"""Numbered SQL files, applied in order, each in a transaction of its own, never changed once shipped.

`executescript` would commit before it starts and leave half a file behind, so a file is split into statements.
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from importlib.resources import files

from provisioner.errors import Unavailable

_TABLE = "CREATE TABLE IF NOT EXISTS migration (number INTEGER PRIMARY KEY, name TEXT NOT NULL, digest TEXT NOT NULL)"


def statements(text: str) -> Iterator[str]:
    """The complete statements of a file."""
    pending = ""
    for line in text.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            yield pending
            pending = ""
    if pending.strip():
        raise ValueError(f"an SQL file ends in the middle of a statement: {pending.strip()[:60]}")


def shipped() -> list[tuple[int, str, str]]:
    """(number, name, text) of every migration, in order."""
    folder = files("provisioner.store").joinpath("schema")
    names = sorted(entry.name for entry in folder.iterdir() if entry.name.endswith(".sql"))
    return [(int(name[:4]), name, folder.joinpath(name).read_text(encoding="utf-8")) for name in names]


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the database to the newest schema; raises `Unavailable` where it is newer than this program."""
    connection.execute(_TABLE)
    rows = connection.execute("SELECT number, digest FROM migration").fetchall()
    done: dict[int, str] = {row[0]: row[1] for row in rows}
    known = {number for number, _, _ in shipped()}
    if set(done) - known:
        raise Unavailable("the database was written by a newer version of the provisioner; install that version")
    for number, name, text in shipped():
        digest = hashlib.sha256(text.encode()).hexdigest()
        if number in done:
            if done[number] != digest:
                raise Unavailable(f"migration {name} is not the one this database was made with")
            continue
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in statements(text):
                connection.execute(statement)
            connection.execute("INSERT INTO migration VALUES (?, ?, ?)", (number, name, digest))
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
