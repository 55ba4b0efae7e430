"""The ledger on SQLite.

Why raw SQL and no ORM: one claim through SQLAlchemy Core costs about a millisecond more than the statement itself, and
the statements here are few. They stand in `queries.sql`, so another database needs another runner and no other text.
Why group commit: one durable commit (WAL, `synchronous=FULL`) costs one fsync, and a hundred claims in it still one.
Price: a claim waits for the batch before it, and a batch that trips over a constraint is done again unit by unit.
"""

from provisioner.store.sqlite import SqliteStore

__all__ = ["SqliteStore"]
