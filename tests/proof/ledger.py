"""What a dead program left on the disk, read from a copy: the next start is to find the files as they were."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from provisioner.handover import Vault
from provisioner.journal import verify
from provisioner.keys import open_keys
from provisioner.store.statements import SQL, read_entry, read_request

JOURNAL = {"after": 0, "request_id": None, "limit": 10**9}
"""Parameters of `list_journal` for all of it."""

_WIPED = {"CONFIRMED", "RETIRING", "RETIRED"}
"""States in which the minted password is gone (section 9, rule 8)."""
_LIVE = {"INSTALLED", "OFFERED", "CONFIRMED"}


@dataclass(frozen=True)
class Kept:
    """One generation."""

    username: str
    state: str


@dataclass
class Standing:
    """A request, its generations by number, and what its requestIds belong to."""

    phase: str
    generation: int
    minted: int
    has_seal_key: bool
    credentials: dict[int, Kept] = field(default_factory=dict)
    bound: dict[str, int] = field(default_factory=dict)


def read(data: Path, scratch: Path) -> dict[int, Standing]:
    """All requests by id, after the ledger was found sound as a whole."""
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir()
    for file in data.glob("ledger.db*"):
        shutil.copyfile(file, scratch / file.name)
    vault = Vault({1: bytes.fromhex((data / "keys" / "vault-1").read_text().strip())}, os.urandom)
    with closing(sqlite3.connect(scratch / "ledger.db")) as ledger:
        assert ledger.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert ledger.execute("PRAGMA foreign_key_check").fetchall() == []
        found = {}
        verify(read_entry(row) for row in ledger.execute(SQL["list_journal"], JOURNAL))
        filters = dict.fromkeys(("accounts", "client_ids", "status", "statuses", "start", "end"))
        everything = filters | {"limit": 10**9, "offset": 0}
        for row in ledger.execute(SQL["list_requests"], everything):
            request = read_request(row)
            keys = open_keys(vault, request)
            seal = keys is not None and keys.seal is not None
            found[request.id] = Standing(request.phase, request.generation, request.retry_count, seal)
        for number, generation, username, state, secret, identity in ledger.execute(
            "SELECT request_id, generation, username, state, secret_sealed, identity FROM credential"
        ):
            kept = identity == "password" and state not in _WIPED
            assert (secret is not None) is kept, f"{username} is {state}"
            found[number].credentials[generation] = Kept(username, state)
        # Whatever was minted on a key was ordered, and what is retired is revoked.
        for username, state, revoked_on in ledger.execute(
            "SELECT c.username, c.state, k.revoked_on FROM credential c LEFT JOIN certificate k USING"
            " (device_broker, client_id, generation) WHERE length(c.identity) = 64 AND k.serial IS NULL"
            " OR k.serial IS NOT NULL AND (k.revoked_on IS NULL) IS (c.state IN ('RETIRING', 'RETIRED'))"
        ):
            raise AssertionError(f"{username} is {state}, revoked {revoked_on}")
        for number, text, generation in ledger.execute("SELECT request_id, text, generation FROM bound_request_id"):
            found[number].bound[text] = generation
    for number, standing in found.items():
        live = [kept for kept in standing.credentials.values() if kept.state in _LIVE]
        assert len(live) <= (2 if standing.phase == "RENEWING" else 1), f"{number} {standing}"
    return found
