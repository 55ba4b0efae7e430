"""The audit trail: a line for each decision, in a chain that shows every hand laid on it."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from provisioner.errors import Reason, Rejected
from provisioner.journal import GENESIS, Broken, digest, verify
from provisioner.model import Entry, Line
from tests.provisioner.conftest import ADMIN, START, World

texts = st.text(max_size=20)
lines = st.builds(
    Line,
    at=st.integers(0, 2**53),
    action=texts,
    actor=st.none() | st.integers(0, 2**53),
    source=texts,
    request_id=st.none() | st.integers(1, 2**53),
    client_id=texts,
    generation=st.none() | st.integers(1, 10**9),
    before=st.none() | texts,
    phase=st.none() | texts,
    cause=texts,
)


def chain(told: list[Line]) -> list[Entry]:
    entries: list[Entry] = []
    for seq, line in enumerate(told, start=1):
        entries.append(Entry(seq, line, digest(entries[-1].digest if entries else GENESIS, seq, line)))
    return entries


async def whole(world: World) -> list[Entry]:
    return list(await world.store.list_journal(None, 0, 10_000))


@given(st.lists(lines, min_size=1, max_size=8))
def test_what_was_written_verifies_and_its_head_is_met(told: list[Line]) -> None:
    entries = chain(told)
    assert verify(entries) == entries[-1]
    for entry in entries:
        assert verify(entries, entry.digest) == entries[-1]


@given(st.lists(lines, min_size=2, max_size=8, unique=True), st.data())
def test_every_change_is_noticed(told: list[Line], data: st.DataObject) -> None:
    entries = chain(told)
    place = data.draw(st.integers(0, len(told) - 2))
    other = data.draw(lines.filter(lambda line: line != told[place]))
    changed = [entry._replace(line=other) if index == place else entry for index, entry in enumerate(entries)]
    swapped = [*entries[:place], entries[place + 1], entries[place], *entries[place + 2 :]]
    for broken in (changed, swapped, entries[:place] + entries[place + 1 :]):
        with pytest.raises(Broken, match="line"):
            verify(broken)
    with pytest.raises(Broken, match="head"):
        verify(entries[:-1], entries[-1].digest)
    rewritten = chain([other, *told[1:]] if place == 0 else [*told[:place], other, *told[place + 1 :]])
    with pytest.raises(Broken, match="head"):
        verify(rewritten, entries[-1].digest)


async def test_a_hand_over_leaves_a_line_for_each_decision(world: World) -> None:
    created = await world.request()
    device = world.device(created)
    await device.claim()
    await device.ack()
    told = await world.store.list_journal(created.request.id, 0, 100)
    assert [(entry.line.action, entry.line.before, entry.line.phase) for entry in told] == [
        ("create", None, "PENDING"),
        ("claim", "PENDING", "MINTED"),
        ("install", "MINTED", "OFFERED"),
        ("ack", "OFFERED", "CONFIRMED"),
    ]
    assert (told[0].line.actor, told[1].line.source, told[1].line.generation) == (ADMIN.token_id, "127.0.0.1", 1)
    verify(await whole(world))


async def test_a_broker_that_asks_the_ledger_needs_one_decision(world: World) -> None:
    world.broker.asks_ledger = True
    created = await world.request()
    assert (await world.device(created).claim()).generation == 1
    told = await world.store.list_journal(created.request.id, 0, 100)
    assert [(entry.line.action, entry.line.phase) for entry in told] == [("create", "PENDING"), ("claim", "OFFERED")]
    assert world.broker.live == []


async def test_refusals_are_told_a_moment_later_without_what_strangers_said(world: World) -> None:
    created = await world.request()
    stranger = replace(world.device(created), key="Z" * 32)
    with pytest.raises(Rejected):
        await stranger.claim()
    await world.run_jobs()
    last = (await whole(world))[-1].line
    assert (last.action, last.cause, last.client_id) == ("claim", Reason.DENIED, "dev-1")
    assert "Z" * 32 not in json.dumps(last)


async def test_a_flood_of_refusals_is_counted_and_not_written_singly(world: World) -> None:
    world.jobs.tell(Line(START, "claim", None, "", None, "dev-9", None, None, None, "denied"))
    before = len(await whole(world))
    for _ in range(5_000):
        world.jobs.tell(Line(START, "claim", None, "", None, "dev-9", None, None, None, "denied"))
    await world.run_jobs()
    told = await whole(world)
    assert len(told) - before <= 602
    assert told[-1].line.cause == "4401 more in this minute"
    verify(told)


async def test_a_key_that_was_shown_is_on_record(world: World) -> None:
    created = await world.request()
    await world.administration.reveal_key(ADMIN, created.request.id, START)
    last = (await whole(world))[-1].line
    assert (last.action, last.actor, last.request_id) == ("reveal-key", ADMIN.token_id, created.request.id)


@pytest.mark.parametrize("statement", ["UPDATE journal SET cause = 'x'", "DELETE FROM journal"])
async def test_the_database_itself_keeps_the_journal_as_it_is(world: World, statement: str) -> None:
    await world.request()
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        await world.store._writer.run(lambda connection: connection.execute(statement))
