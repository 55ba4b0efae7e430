"""Many rows by few statements.

1. A statement runs to its end without the interpreter's lock; row by row, the lock would be given up and won back from
   the event loop for each, which costs more than the row while the loop is busy.
2. Rows go in as blocks of 512, 256, … 1: ten texts at the most are prepared and kept, however many rows there are.
3. Long rows are bound as they are: to take forty columns out of JSON costs three times what binding them does.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain

from provisioner.store.statements import SQL

_LARGEST = 512
"""Rows of a block. SQLite binds 32,766 values to a statement: this leaves room for rows of 63."""


def insert(name: str, rows: Sequence[Sequence[object]], connection: sqlite3.Connection) -> None:
    """Insert rows, values in the order of the statement's columns. The statement has `{values}` where they go."""
    at, block = 0, _LARGEST
    while at < len(rows):
        if block > len(rows) - at:
            block //= 2
            continue
        values = list(chain.from_iterable(rows[at : at + block]))
        connection.execute(_text(name, len(rows[at]), block), values)
        at += block


@lru_cache
def _text(name: str, width: int, block: int) -> str:
    row = f"({', '.join('?' * width)})"
    return SQL[name].replace("{values}", ", ".join([row] * block))
