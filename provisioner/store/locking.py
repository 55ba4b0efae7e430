"""One process has a ledger: a lock file beside it says so, and dies with whoever holds it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from provisioner.errors import Unavailable


def lock(path: Path) -> int:
    """Take the lock of the ledger at `path`: a descriptor to close. Raises `Unavailable` where another one has it."""
    descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise Unavailable(
            f"{path.parent} is in use by another provisioner; stop it first, or choose another data directory"
        ) from error
    return descriptor


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of the ledger at `path`. Raises `Unavailable` where another process has it."""
    descriptor = lock(path)
    try:
        yield
    finally:
        os.close(descriptor)
