"""Copies of the ledger, and what a start on one of them does."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from provisioner import restore
from provisioner.epochs import check_at_hand, enrol
from provisioner.errors import Reason, Rejected, Unavailable
from provisioner.handover import key_id
from provisioner.lifecycle import Phase
from provisioner.store.backup import BadCopy, Staged, back_up, staged
from tests.provisioner.conftest import START, SimpleDevice, World, build
from tests.provisioner.test_epochs import FIRST, Ring

HOUR = 3_600_000


def ignore(_done: int, _of: int) -> None:
    """Progress that nobody looks at."""


def rows(file: Path, sql: str) -> list[tuple[object, ...]]:
    connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def put_back(file: Path, ledger: Path) -> Staged:
    with staged(file, ledger, START, ignore) as found:
        found.take_place(ledger.with_name("aside.db"))
    return found


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


async def end(world: World) -> None:
    await world.jobs.close()
    await world.store.close()


@pytest.fixture
async def opened() -> AsyncIterator[list[World]]:
    """Worlds to close after the test."""
    worlds: list[World] = []
    yield worlds
    for world in worlds:
        await end(world)


Start = Callable[[], Awaitable[World]]


@pytest.fixture
def start(tmp_path: Path, opened: list[World]) -> Start:
    """Start on the ledger of the test, which the one before has left."""

    async def started() -> World:
        opened.append(await build(tmp_path))
        return opened[-1]

    return started


@pytest.fixture
async def world(start: Start) -> World:
    return await start()


async def test_a_copy_is_private_whole_and_says_what_it_needs(world: World, tmp_path: Path) -> None:
    await enrol(world.store.keys, Ring(), START)
    for n in range(3):
        await world.device(await world.request(f"dev-{n}"), f"dev-{n}").claim()
    steps: list[tuple[int, int]] = []
    copied = back_up(tmp_path / "ledger.sqlite", tmp_path / "copy.db", START, lambda *step: steps.append(step))
    assert steps[-1][0] == steps[-1][1]
    assert stat.S_IMODE((tmp_path / "copy.db").stat().st_mode) == 0o600
    assert copied.size == (tmp_path / "copy.db").stat().st_size
    assert (copied.accounts, copied.requests, copied.credentials, copied.copied_on) == (2, 3, 3, START)
    assert [(one.epoch, one.key_id) for one in copied.needed] == [(1, key_id(FIRST))]
    assert copied.pepper_id == key_id(Ring().pepper)
    assert [name for name in names(tmp_path) if "copy" in name] == ["copy.db"]
    assert rows(tmp_path / "copy.db", "SELECT count(*) FROM credential") == [(3,)]
    assert await world.store.find_copied_on() is None


async def test_nothing_is_overwritten(world: World, tmp_path: Path) -> None:
    (tmp_path / "copy.db").write_text("precious")
    with pytest.raises(BadCopy, match="exists already: name a new file"):
        back_up(tmp_path / "ledger.sqlite", tmp_path / "copy.db", START, ignore)
    assert (tmp_path / "copy.db").read_text() == "precious"
    assert not [name for name in names(tmp_path) if name.startswith(".")]


async def test_a_copy_is_one_moment_and_claims_go_on_meanwhile(world: World, tmp_path: Path) -> None:
    devices = [world.device(await world.request(f"dev-{n}"), f"dev-{n}") for n in range(60)]
    loop = asyncio.get_running_loop()
    begun = asyncio.Event()

    def begin(_done: int, _of: int) -> None:
        loop.call_soon_threadsafe(begun.set)

    async def hand_over(device: SimpleDevice) -> None:
        await begun.wait()
        await device.claim()
        await device.ack()

    async with asyncio.TaskGroup() as tasks:
        for device in devices:
            tasks.create_task(hand_over(device))
        copied = await asyncio.to_thread(back_up, tmp_path / "ledger.sqlite", tmp_path / "copy.db", START, begin)
    minted, phases = (
        rows(tmp_path / "copy.db", sql)
        for sql in (
            "SELECT request_id, state FROM credential",
            "SELECT id, phase FROM request WHERE phase != 'PENDING'",
        )
    )
    assert {request for request, _ in minted} == {request for request, _ in phases}
    assert copied.requests == 60


async def test_a_copy_takes_the_place_of_the_ledger_which_is_kept(world: World, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger.sqlite"
    await world.request()
    back_up(ledger, tmp_path / "copy.db", START, ignore)
    await world.request("dev-2")
    with (
        pytest.raises(Unavailable, match="is in use by another provisioner; stop it first"),
        staged(tmp_path / "copy.db", ledger, START, ignore),
    ):
        pytest.fail("the ledger is in use")
    await end(world)
    found = put_back(tmp_path / "copy.db", ledger)
    assert found.present is not None
    assert (found.restored.requests, found.present.requests) == (1, 2)
    assert rows(tmp_path / "aside.db", "SELECT client_id FROM request") == [("dev-1",), ("dev-2",)]
    assert rows(ledger, "SELECT client_id FROM request") == [("dev-1",)]
    assert stat.S_IMODE(ledger.stat().st_mode) == 0o600
    assert names(tmp_path) == ["aside.db", "copy.db", "ledger.sqlite", "ledger.sqlite.lock"]


async def test_a_ledger_that_somebody_reads_is_not_replaced(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = tmp_path / "ledger.sqlite"
    back_up(ledger, tmp_path / "copy.db", START, ignore)
    reader = sqlite3.connect(ledger, isolation_level=None)
    try:
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM request").fetchone()
        await end(world)
        monkeypatch.setattr("provisioner.store.backup._PATIENCE", 0.1)
        with pytest.raises(BadCopy, match="is being read"):
            put_back(tmp_path / "copy.db", ledger)
    finally:
        reader.close()
    put_back(tmp_path / "copy.db", ledger)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda content: b"no database at all" * 500, "not a ledger, or is damaged"),
        (lambda content: content[: len(content) // 2], "is damaged|is malformed"),
        (lambda content: content[:20000] + os.urandom(20000) + content[40000:], "damaged"),
        (lambda content: b"", "a database, but not a ledger"),
    ],
)
async def test_a_file_that_is_no_good_copy_changes_nothing(
    world: World, tmp_path: Path, damage: object, sentence: str
) -> None:
    ledger = tmp_path / "ledger.sqlite"
    await world.request()
    back_up(ledger, tmp_path / "copy.db", START, ignore)
    await end(world)
    before = ledger.read_bytes()
    (tmp_path / "bad.db").write_bytes(damage((tmp_path / "copy.db").read_bytes()))  # type: ignore[operator]  # a table's function
    with pytest.raises(BadCopy, match=sentence):
        put_back(tmp_path / "bad.db", ledger)
    assert ledger.read_bytes() == before
    assert not [name for name in names(tmp_path) if name.startswith(".") or name == "aside.db"]


async def test_a_copy_of_a_newer_version_is_refused(world: World, tmp_path: Path) -> None:
    back_up(tmp_path / "ledger.sqlite", tmp_path / "copy.db", START, ignore)
    with sqlite3.connect(tmp_path / "copy.db") as connection:
        connection.execute("INSERT INTO migration VALUES (9999, 'later', '')")
    connection.close()
    with pytest.raises(BadCopy, match="newer version"):
        put_back(tmp_path / "copy.db", tmp_path / "elsewhere.db")


async def test_a_damaged_ledger_is_kept_as_it_is_and_replaced(world: World, tmp_path: Path, start: Start) -> None:
    ledger = tmp_path / "ledger.sqlite"
    await world.request()
    back_up(ledger, tmp_path / "copy.db", START, ignore)
    await end(world)
    ledger.write_bytes(b"ruined")
    (tmp_path / "ledger.sqlite-wal").write_bytes(b"log")
    assert put_back(tmp_path / "copy.db", ledger).present is None
    assert (tmp_path / "aside.db").read_bytes() == b"ruined"
    assert (tmp_path / "aside.db-wal").read_bytes() == b"log"
    await start()


async def test_keys_that_a_copy_needs_are_asked_for(world: World, tmp_path: Path) -> None:
    await enrol(world.store.keys, Ring(), START)
    copied = back_up(tmp_path / "ledger.sqlite", tmp_path / "copy.db", START, ignore)
    check_at_hand(copied.epochs, copied.pepper_id, Ring())
    with pytest.raises(Unavailable, match="needs key vault-1"):
        check_at_hand(copied.epochs, copied.pepper_id, Ring({2: os.urandom(32)}))


# -- the first start on it ---------------------------------------------------------------------------------------------


Restore = Callable[[World], Awaitable[World]]


@pytest.fixture
def restored(tmp_path: Path, start: Start) -> Restore:
    """The world a day later, on the copy that was put in the place of its ledger."""

    async def put_back_and_start(world: World) -> World:
        await end(world)
        put_back(tmp_path / "copy.db", tmp_path / "ledger.sqlite")
        (tmp_path / "aside.db").unlink()
        later = await start()
        later.now = world.now + 24 * HOUR
        assert (await restore.complete(later.store, later.now)) is not None
        assert (await restore.complete(later.store, later.now)) is None
        await later.run_jobs()
        return later

    return put_back_and_start


async def test_an_unconfirmed_offer_is_retired_and_the_attempt_given_back(
    world: World, tmp_path: Path, restored: Restore
) -> None:
    created = await world.request(retry_max_attempts=1)
    device = world.device(created)
    await device.claim()
    back_up(tmp_path / "ledger.sqlite", tmp_path / "copy.db", START, ignore)
    later = await restored(world)
    request = await later.read(created.request.id)
    assert (request.phase, request.retry_count) == (Phase.PENDING, 0)
    device.world = later
    with pytest.raises(Rejected) as told:
        await device.claim()
    assert told.value.reason is Reason.SUPERSEDED
    offer = await device.claim("r-2")
    assert offer.generation == restore.floor_at(later.now) + 1
    await device.ack(offer.generation, request_id="r-2")


async def test_generations_go_on_above_whatever_was_lost(world: World, tmp_path: Path, restored: Restore) -> None:
    device = world.device(await world.request())
    back_up(tmp_path / "ledger.sqlite", tmp_path / "copy.db", START, ignore)
    used = {(await device.claim()).username}
    for day in range(1, 4):
        device.world = world = await restored(world)
        used.add((await device.claim()).username)
        assert len(used) == day + 1


async def test_the_floor_is_above_both_ledgers_whatever_the_clock_says(
    world: World, tmp_path: Path, restored: Restore
) -> None:
    device = world.device(await world.request())
    back_up(tmp_path / "ledger.sqlite", tmp_path / "copy.db", START, ignore)
    await world.store.lift_floor(10**8)
    assert (await device.claim()).generation == 10**8 + 1
    later = await restored(world)
    device.world = later
    assert (await device.claim()).generation == 10**8 + 2


async def test_a_confirmed_device_may_renew_and_one_that_is_fine_need_not(
    world: World, tmp_path: Path, restored: Restore
) -> None:
    moved, stays = [world.device(await world.request(f"dev-{n}"), f"dev-{n}") for n in (1, 2)]
    offers = [await moved.claim(), await stays.claim()]
    for device in (moved, stays):
        await device.ack()
    back_up(tmp_path / "ledger.sqlite", tmp_path / "copy.db", START, ignore)
    later = await restored(world)
    assert await later.login(offers[1]) is not None
    moved.world = stays.world = later
    with pytest.raises(Rejected) as told:
        await stays.claim()
    assert told.value.reason is Reason.ALREADY_PROVISIONED
    renewed = await moved.claim("r-2")
    await moved.ack(renewed.generation, request_id="r-2")
    await later.run_jobs()
    assert await later.login(renewed) is not None
    assert await later.login(offers[0]) is None


async def test_a_start_that_was_killed_does_it_again(
    world: World, tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = [await world.request(f"dev-{n}", retry_max_attempts=2) for n in range(5)]
    for n, one in enumerate(created):
        await world.device(one, f"dev-{n}").claim()
    await world.device(created[4], "dev-4").ack()
    back_up(tmp_path / "ledger.sqlite", tmp_path / "copy.db", START, ignore)
    await end(world)
    put_back(tmp_path / "copy.db", tmp_path / "ledger.sqlite")
    later = await start()
    monkeypatch.setattr(restore, "_BATCH", 2)
    for verb in ("lift_floor", "list_unproved", "allow_renewals", "end_restore"):
        with monkeypatch.context() as patch:

            async def fail(*_: object) -> None:
                raise Unavailable("killed")

            patch.setattr(later.store, verb, fail)
            with pytest.raises(Unavailable, match="killed"):
                await restore.complete(later.store, later.now)
    assert await restore.complete(later.store, later.now) is not None
    await later.run_jobs()
    requests = [await later.read(one.request.id) for one in created]
    assert [(one.phase, one.retry_count) for one in requests] == [(Phase.PENDING, 0)] * 4 + [(Phase.CONFIRMED, 0)]
