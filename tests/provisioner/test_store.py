"""The ledger on SQLite: whole units, guards, one process, what lies on the disk."""

from __future__ import annotations

import asyncio
import errno
import os
import re
import sqlite3
import stat
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from provisioner import transitions
from provisioner.errors import Conflict, Unavailable
from provisioner.lifecycle import Phase
from provisioner.model import JobStatus
from provisioner.ports import Bound, Listing, Note, Unit
from provisioner.store import SqliteStore
from provisioner.store.connections import Connection
from provisioner.store.migrations import migrate, shipped, statements
from provisioner.store.statements import SQL
from tests.provisioner.conftest import ADMIN, START, SimpleDevice, World

A = TypeVar("A")

NOTE = Note(START, "test")


async def test_the_database_is_private_durable_and_for_one_process(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    store = await SqliteStore.open(path)
    try:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        for connection in (store._writer, store._reader):
            pragmas = [
                await connection.run(lambda opened, name=name: opened.execute(f"PRAGMA {name}").fetchall())  # type: ignore[misc]  # a default argument
                for name in ("journal_mode", "synchronous", "secure_delete")
            ]
            assert pragmas == [[("wal",)], [(2,)], [(1,)]]
        with pytest.raises(Unavailable, match="in use by another provisioner"):
            await SqliteStore.open(path)
    finally:
        await store.close()
    await (await SqliteStore.open(path)).close()


async def test_a_database_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    await (await SqliteStore.open(path)).close()
    with sqlite3.connect(path) as connection:
        connection.execute("INSERT INTO migration VALUES (9999, 'later', '')")
    connection.close()
    with pytest.raises(Unavailable, match="newer version"):
        await SqliteStore.open(path)


async def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    path.write_bytes(b"not a database" * 100)
    with pytest.raises(Unavailable, match=r"ledger\.sqlite cannot be opened"):
        await SqliteStore.open(path)


async def test_what_a_dead_process_left_is_on_the_disk_before_it_is_built_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.sqlite"
    left = await SqliteStore.open(path)
    try:
        copy = tmp_path / "copy.sqlite"
        for end in ("", "-wal"):
            copy.with_name(copy.name + end).write_bytes(path.with_name(path.name + end).read_bytes())
    finally:
        await left.close()
    wal = copy.with_name(copy.name + "-wal")
    content = wal.read_bytes()
    assert content

    def fail(_: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", fail)
        with pytest.raises(Unavailable, match=r"copy\.sqlite cannot be opened: .*Input/output error"):
            await SqliteStore.open(copy)
    assert wal.read_bytes() == content
    opened = await SqliteStore.open(copy)
    assert await opened.list_users() == []
    await opened.close()


async def test_a_stale_unit_changes_nothing(world: World) -> None:
    request = (await world.request()).request
    fresh = transitions.changed(request, retry_count=1)
    stale = transitions.changed(request, retry_count=9)
    assert await world.store.commit(Unit(NOTE, saved=(fresh,)))
    bound = Bound(request.id, "r-1", 1)
    assert not await world.store.commit(Unit(NOTE, saved=(stale,), bound=bound))
    dossier = await world.store.find_claim("factory", "dev-1", "r-1")
    assert dossier is not None
    assert (dossier.request.retry_count, dossier.bound_generation) == (1, None)


async def test_units_at_once_are_judged_one_by_one(world: World) -> None:
    requests = [(await world.request(f"dev-{n}")).request for n in range(20)]
    units = [Unit(NOTE, saved=(transitions.changed(request, retry_count=n),)) for request in requests for n in (1, 2)]
    assert await asyncio.gather(*map(world.store.commit, units)) == [True, False] * 20


async def test_a_unit_that_cannot_be_written_fails_alone(world: World) -> None:
    first, second = (await world.request("dev-1")).request, (await world.request("dev-2")).request
    outcomes = await asyncio.gather(
        world.store.commit(Unit(NOTE, saved=(transitions.changed(first, retry_count=1),))),
        world.store.commit(Unit(NOTE, added=(first,))),  # it is there already
        world.store.commit(Unit(NOTE, saved=(transitions.changed(second, retry_count=b""),))),  # no number
        world.store.commit(Unit(NOTE, saved=(transitions.changed(second, retry_count=1),))),
        return_exceptions=True,
    )
    assert [outcomes[0], outcomes[3]] == [True, True]
    assert isinstance(outcomes[1], Conflict)
    assert isinstance(outcomes[2], TypeError)


async def test_a_commit_that_fails_is_no_answer_and_the_next_one_works(world: World) -> None:
    request = (await world.request()).request
    unit = Unit(NOTE, saved=(transitions.changed(request, retry_count=1),))
    await world.store._writer.run(lambda opened: opened.execute("PRAGMA query_only = ON"))
    with pytest.raises(Unavailable):
        await world.store.commit(unit)
    with pytest.raises(Unavailable):
        await world.store.check()
    await world.store._writer.run(lambda opened: opened.execute("PRAGMA query_only = OFF"))
    assert await world.store.commit(unit)
    await world.store.check()


async def test_a_cancelled_caller_leaves_no_transaction_open(world: World) -> None:
    request = (await world.request()).request
    for ticks in range(12):
        task = asyncio.create_task(world.store.lease_due(START, START + 1, 10))
        for _ in range(ticks):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert await world.store.commit(Unit(NOTE, saved=(transitions.changed(request, retry_count=1),)))


class _Interrupted:
    """A reading connection where something happens before the second question."""

    def __init__(self, connection: Connection, deed: Callable[[], Awaitable[object]]) -> None:
        self._connection = connection
        self._deed = deed
        self._questions = 0

    async def run(self, work: Callable[[sqlite3.Connection], A]) -> A:
        self._questions += 1
        if self._questions == 2:
            await self._deed()
        return await self._connection.run(work)

    async def close(self) -> None:
        await self._connection.close()


async def test_a_leased_job_fits_the_request_that_comes_with_it(world: World) -> None:
    created = await world.request()
    offer = await world.device(created).claim()
    store = world.store
    stop = partial(world.administration.stop, ADMIN, created.request.id, world.now)
    reader, store._reader = store._reader, _Interrupted(store._reader, stop)
    ((credential, dossier),) = await store.lease_due(offer.confirm_before, offer.confirm_before + 1, 100)
    store._reader = reader
    assert dossier.credential == credential
    assert dossier.request.phase.value == credential.state.value


async def test_lists_filter_and_page(world: World) -> None:
    made = [
        (await world.request(f"dev-{n}", activates_on=START + n * 1000, expires_on=START + n * 1000 + 500)).request
        for n in range(5)
    ]
    found, more = await world.store.list_requests(Listing(limit=2, offset=1))
    assert ([request.id for request in found], more) == ([made[3].id, made[2].id], True)
    found, more = await world.store.list_requests(Listing(client_ids=("dev-1", "dev-4", "nobody")))
    assert ([request.client_id for request in found], more) == (["dev-4", "dev-1"], False)
    found, _ = await world.store.list_requests(Listing(start=START + 1400, end=START + 3000))
    assert [request.client_id for request in found] == ["dev-3", "dev-2", "dev-1"]
    assert not (await world.store.list_requests(Listing(statuses=(JobStatus.RUNNING,))))[0]
    found, _ = await world.store.list_requests(Listing(statuses=(JobStatus.CREATED,), accounts=(made[0].account_id,)))
    assert len(found) == 5
    assert not (await world.store.list_requests(Listing(accounts=())))[0]


async def test_the_newest_request_is_the_one_claimed(world: World) -> None:
    await world.request()
    newest = (await world.request(overwrite=True)).request
    dossier = await world.store.find_claim("factory", "dev-1", "r-1")
    assert dossier is not None
    assert dossier.request == replace(newest)
    assert await world.store.find_claim("nobody", "dev-1", "r-1") is None


async def test_no_secret_lies_in_the_database_in_clear(world: World, tmp_path: Path) -> None:
    created = await world.request()
    device = world.device(created)
    offer = await device.claim()
    secrets = [device.key.encode(), offer.password.reveal().encode()]
    await device.ack()
    assert not [(name, secret) for name, content in files_of(tmp_path) for secret in secrets if secret in content]


def files_of(folder: Path) -> list[tuple[str, bytes]]:
    return [(file.name, file.read_bytes()) for file in folder.iterdir()]


async def test_nothing_of_the_minted_password_stays_after_confirmation(world: World) -> None:
    device = world.device(await world.request())
    offer = await device.claim()
    before = await world.store.find_username("embedded", offer.username)
    await device.ack()
    after = await world.store.find_username("embedded", offer.username)
    assert before is not None
    assert before.secret_sealed is not None
    assert after is not None
    assert after.secret_sealed is None


def on_the_disk(folder: Path, texts: list[str]) -> list[tuple[str, str]]:
    return [(name, text) for name, content in files_of(folder) for text in texts if text.encode() in content]


async def test_what_was_wiped_is_off_the_disk(world: World, tmp_path: Path) -> None:
    devices = [world.device(await world.request(f"dev-{n}"), f"dev-{n}") for n in range(20)]
    offers = [await device.claim() for device in devices]
    clear = [
        text for device, offer in zip(devices, offers, strict=True) for text in (device.key, offer.password.reveal())
    ]
    sealed = []
    for offer in offers:
        credential = await world.store.find_username("embedded", offer.username)
        assert credential is not None
        sealed += [credential.secret_sealed or "", (await world.read(credential.request_id)).keys_sealed or ""]
    for device in devices:
        await device.ack()
    assert {text for _, text in on_the_disk(tmp_path, sealed)} == set(sealed)
    assert await world.store.truncate_log()
    assert on_the_disk(tmp_path, clear + sealed) == []
    assert (tmp_path / "ledger.sqlite-wal").stat().st_size == 0


async def test_the_log_stays_while_somebody_reads_from_it_and_goes_afterwards(world: World, tmp_path: Path) -> None:
    await world.request()
    other = sqlite3.connect(tmp_path / "ledger.sqlite", isolation_level=None)
    try:
        other.execute("BEGIN")
        other.execute("SELECT count(*) FROM request").fetchone()
        await world.request("dev-2")
        assert not await world.store.truncate_log()
        await world.request("dev-3")
        other.execute("COMMIT")
    finally:
        other.close()
    assert await world.store.truncate_log()
    assert (tmp_path / "ledger.sqlite-wal").stat().st_size == 0


async def test_the_log_is_emptied_beside_claims(world: World, tmp_path: Path) -> None:
    devices = [world.device(await world.request(f"dev-{n}"), f"dev-{n}") for n in range(60)]

    async def hand_over(device: SimpleDevice) -> None:
        await device.claim()
        await device.ack()

    async with asyncio.TaskGroup() as tasks:
        for device in devices:
            tasks.create_task(hand_over(device))
        for _ in range(20):
            tasks.create_task(world.store.truncate_log())
    while not await world.store.truncate_log():
        pass
    assert (tmp_path / "ledger.sqlite-wal").stat().st_size == 0
    found, _ = await world.store.list_requests(Listing(limit=100))
    assert {request.phase for request in found} == {Phase.CONFIRMED}


def test_every_statement_is_one_statement() -> None:
    assert len(SQL) > 20
    for name, text in SQL.items():
        assert len(list(statements(text))) == 1, name
        assert "{" not in text.replace("VALUES {values}", ""), name
    with pytest.raises(ValueError, match="middle"):
        list(statements("SELECT 1"))
    numbers = [number for number, _, _ in shipped()]
    assert numbers == sorted(set(numbers))


@pytest.mark.parametrize(
    "name",
    ["find_twin", "find_registered_as", "find_registered", "find_loose", "is_bound", "holds_client_id", "find_times"],
)
def test_what_doors_ask_reads_no_whole_ledger(name: str) -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection)
    values = dict.fromkeys(re.findall(r":(\w+)", SQL[name]))
    steps = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {SQL[name]}", values)]
    connection.close()
    partial = ("request_registered_in", "credential_loose")
    whole = [step for step in steps if re.match(r"SCAN (?!\w+ VIRTUAL TABLE)", step) and not step.endswith(partial)]
    assert whole == []
