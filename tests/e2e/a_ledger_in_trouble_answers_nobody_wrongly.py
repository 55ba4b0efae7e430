"""F-8 on the real program: no answer without a commit, and no restart when the trouble is over."""

from __future__ import annotations

import json
import resource
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from typing import Any

import pytest

from tests.e2e.program import Program, Site, StartProgram


@contextmanager
def somebody_writes(program: Program) -> Iterator[str]:
    """Another process, say a backup gone wrong, holds the write lock."""
    with closing(sqlite3.connect(program.data / "ledger.db", isolation_level=None)) as foreign:
        foreign.execute("BEGIN IMMEDIATE")
        yield "database is locked"
        foreign.execute("ROLLBACK")


@contextmanager
def the_disk_is_full(program: Program) -> Iterator[str]:
    """Not one more byte can be written to any file: every write fails in the kernel."""
    former = resource.prlimit(program.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(program.pid, resource.RLIMIT_FSIZE, (0, former[1]))
    yield "disk I/O error"
    resource.prlimit(program.pid, resource.RLIMIT_FSIZE, former)


Trouble = Callable[[Program], Any]


@asynccontextmanager
async def at(program: Program) -> AsyncIterator[Site]:
    async with await Site.at(program) as site:
        yield site


@pytest.mark.parametrize("trouble", [somebody_writes, the_disk_is_full])
async def test_a_ledger_in_trouble(start_program: StartProgram, trouble: Trouble) -> None:
    program = start_program()
    async with at(program) as site:
        fresh, fresh_request = await site.unit()
        offered, offered_request = await site.unit(confirm="ack")
        offer = await offered.provision()
        working, _, credentials = await site.confirmed()
        with trouble(program) as words:
            # A claim mints nothing, an ack confirms nothing, an operator's call creates nothing.
            refusal = await fresh.claim()
            assert (refusal.reason, refusal.code, refusal.proved) == ("unavailable", 503, True)
            assert refusal.retry_after >= 1
            assert (await offered.ack("stored", offer.generation)).reason == "unavailable"
            problem = await site.operator.ask("POST", "/v2/accounts", (503,), json={"name": "x", "kind": "TARGET"})
            assert (problem["code"], problem["status"]) == ("unavailable", 503)
            assert (await site.operator.ask("GET", "/readyz", (503,)))["store"] is False
            # What needs no commit goes on.
            async with await working.login(program.device_broker, credentials) as session:
                await session.ping()
            assert (await fresh_request.read())["phase"] == "PENDING"
            assert (await offered_request.read())["phase"] == "OFFERED"
        assert (await fresh.provision()).generation == 1
        assert (await fresh_request.job())["retryCount"] == 1
        assert (await offered.ack("stored", offer.generation)).reason == "confirmed"
        await site.operator.account("x")
        assert (await site.operator.ask("GET", "/readyz"))["store"] is True
    program.stop()
    told = [json.loads(line) for line in program.errors if "the ledger" in line]
    assert [(one["event"], one.get("detail")) for one in told] == [
        ("the ledger fails", f"the database cannot be written: {words}"),
        ("the ledger works again", None),
    ]
