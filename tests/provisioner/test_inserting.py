"""Rows that go into the ledger in blocks."""

import sqlite3
from contextlib import closing

import pytest

from provisioner.store.connections import prepare_writer
from provisioner.store.inserting import insert


@pytest.mark.parametrize("count", [0, 1, 2, 3, 255, 256, 257, 511, 512, 1100])
def test_every_row_goes_in_once_and_in_order_however_many_they_are(count: int) -> None:
    rows = [(number, f"m{number}@example.com", 5, 0) for number in range(count)]
    statements: list[str] = []
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        prepare_writer(connection)
        connection.execute("PRAGMA foreign_keys = OFF")
        connection.set_trace_callback(statements.append)
        insert("add_mails", rows, connection)
        connection.set_trace_callback(None)
        assert connection.execute("SELECT request_id, email, due_on, attempts FROM mail").fetchall() == rows
    assert len(statements) <= count // 512 + 9


def test_of_two_rows_of_one_key_the_later_one_stays() -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        prepare_writer(connection)
        connection.execute("PRAGMA foreign_keys = OFF")
        insert("add_mails", [(1, "a@example.com", 5, 0), (1, "b@example.com", 6, 0)], connection)
        assert connection.execute("SELECT email, due_on FROM mail").fetchall() == [("b@example.com", 6)]
