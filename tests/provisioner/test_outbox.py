"""At least once, a request's events in order, and a receiver that fails is nobody's trouble but its own."""

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from provisioner.creation import Created
from provisioner.errors import Unavailable
from provisioner.events import StoredEvent
from provisioner.model import Millis
from provisioner.outbox import BATCH, Outbox, Retention, backoff
from provisioner.ports import DeadFilter, EventFilter, Note, Postponed, Suspicion, Unit
from provisioner.store.event_log import SqliteEventLog
from tests.provisioner.conftest import ADMIN, World, build

DAY = 86_400_000


@dataclass
class CueSink:
    """A receiver that takes what it is given, unless `answer` says otherwise."""

    name: str = "cue"
    parallel: int = 1
    answer: Callable[[StoredEvent], str | None] = lambda _: None
    taken: list[StoredEvent] = field(default_factory=list)
    tried: list[int] = field(default_factory=list)

    async def deliver(self, event: StoredEvent) -> str | None:
        self.tried.append(event.seq)
        await asyncio.sleep(0)
        if (problem := self.answer(event)) is None:
            self.taken.append(event)
        return problem

    @property
    def seqs(self) -> list[int]:
        return [event.seq for event in self.taken]


def away(_: StoredEvent) -> str | None:
    raise Unavailable("nobody is there", retry_after=3)


@dataclass
class Site:
    """A ledger, a sink and its worker."""

    world: World
    sink: CueSink
    outbox: Outbox
    dead: list[tuple[str, int, str]]

    async def run(self) -> Millis | None:
        """Until nothing is due now; when the next is."""
        while True:
            try:
                due = await self.outbox.step(self.world.now)
            except Unavailable:
                return None
            if due is None or due > self.world.now:
                return due

    async def device(self, client_id: str) -> Created:
        """A request and its hand-over: two events."""
        created = await self.world.request(client_id)
        device = self.world.device(created, client_id)
        await device.claim()
        await device.ack()
        return created

    async def change(self, created: Created, times: int = 1) -> None:
        """So many more events of a request."""
        for _ in range(times):
            await self.world.administration.disable(ADMIN, created.request.id, self.world.now)


async def worker(world: World, sink: CueSink, max_attempts: int = 4) -> Site:
    """As a start of the program makes it."""
    await world.store.events.open_sink(sink.name)
    dead: list[tuple[str, int, str]] = []
    outbox = Outbox(
        world.store.events, sink, os.urandom, max_attempts, lambda name, event, why: dead.append((name, event.seq, why))
    )
    return Site(world, sink, outbox, dead)


@pytest.fixture
async def site(world: World) -> Site:
    return await worker(world, CueSink())


async def test_events_arrive_in_commit_order_and_once(site: Site) -> None:
    for number in range(3):
        await site.device(f"dev-{number}")
    assert await site.run() is None
    assert site.sink.seqs == [1, 2, 3, 4, 5, 6]
    assert await site.run() is None
    assert site.sink.tried == [1, 2, 3, 4, 5, 6]


async def test_a_sink_begins_with_what_happens_after_it_was_set_up(world: World) -> None:
    await world.request("dev-early")
    site = await worker(world, CueSink())
    await world.request("dev-late")
    await site.run()
    assert site.sink.seqs == [2]


async def test_several_events_of_a_request_keep_their_place_among_the_others(site: Site) -> None:
    created = await site.world.request("dev-1")
    for number in range(2, 8):
        await site.change(created)
        await site.world.request(f"dev-{number}")
    await site.run()
    assert site.sink.seqs == list(range(1, 14))


async def test_a_ledger_that_cannot_be_written_is_told_later(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    await site.world.request("dev-1")
    settle = SqliteEventLog.settle

    async def fail(*_: object) -> None:
        raise Unavailable("the database cannot be written")

    monkeypatch.setattr(SqliteEventLog, "settle", fail)
    with pytest.raises(Unavailable):
        await site.outbox.step(site.world.now)
    monkeypatch.setattr(SqliteEventLog, "settle", settle)
    await site.world.request("dev-2")
    await site.run()
    assert site.sink.seqs == [1, 2]
    (state,) = await site.world.store.events.list_sinks()
    assert state.waiting == 0


async def test_a_batch_is_bounded(site: Site) -> None:
    for number in range(BATCH + 5):
        await site.world.request(f"dev-{number}")
    assert await site.outbox.step(site.world.now) == 0
    assert len(site.sink.taken) == BATCH
    await site.run()
    assert site.sink.seqs == list(range(1, BATCH + 6))


async def test_an_event_not_taken_waits_and_its_request_waits_with_it(site: Site) -> None:
    first = await site.world.request("dev-1")
    site.sink.answer = lambda event: "No." if event.seq == 1 else None
    await site.change(first, 2)
    await site.world.request("dev-2")
    due = await site.run()
    assert site.sink.seqs == [4]
    assert due is not None
    assert site.world.now + 500 <= due <= site.world.now + 1000
    site.sink.answer = lambda _: None
    site.world.now = due
    assert await site.run() is None
    assert site.sink.seqs == [4, 1, 2, 3]
    assert site.sink.tried == [1, 4, 1, 2, 3]


async def test_an_event_given_up_is_a_dead_letter_that_stops_nobody_else(site: Site) -> None:
    first = await site.world.request("dev-1")
    await site.change(first)
    site.sink.answer = lambda event: "It is wrong." if event.request_id == first.request.id else None
    await site.world.request("dev-2")
    while (due := await site.run()) is not None:
        site.world.now = due
    assert site.dead == [("cue", 1, "It is wrong.")]
    assert site.sink.tried.count(1) == 4
    assert (site.sink.seqs, 2 in site.sink.tried) == ([3], False)
    (letter,) = await site.world.store.events.list_dead(DeadFilter(), 10)
    assert (letter.event.seq, letter.sink, letter.attempts, letter.problem, letter.waiting) == (
        1,
        "cue",
        4,
        "It is wrong.",
        1,
    )
    assert letter.dead_on == site.world.now
    (state,) = await site.world.store.events.list_sinks()
    assert (state.name, state.waiting, state.dead, state.problem) == ("cue", 1, 1, "It is wrong.")


async def dead_letter(site: Site) -> Created:
    """Event 1 is dead, event 2 of the same request waits behind it."""
    created = await site.world.request("dev-1")
    await site.change(created)
    site.sink.answer = lambda event: "No." if event.seq == 1 else None
    while (due := await site.run()) is not None:
        site.world.now = due
    site.sink.answer = lambda _: None
    assert site.dead
    assert site.sink.taken == []
    return created


async def test_a_redriven_dead_letter_arrives_under_its_id_before_what_waited(site: Site) -> None:
    await dead_letter(site)
    (letter,) = await site.world.store.events.list_dead(DeadFilter(), 10)
    assert await site.world.store.events.redrive(DeadFilter(seqs=(2, 3))) == 0
    assert await site.world.store.events.redrive(DeadFilter(seqs=(1,))) == 1
    await site.run()
    assert site.sink.seqs == [1, 2]
    assert site.sink.taken[0].id == letter.event.id
    assert await site.world.store.events.list_dead(DeadFilter(), 10) == []


async def test_a_discarded_dead_letter_never_arrives_and_frees_what_waited(site: Site) -> None:
    await dead_letter(site)
    assert await site.world.store.events.discard(DeadFilter(sink="other")) == 0
    assert await site.world.store.events.discard(DeadFilter(sink="cue")) == 1
    await site.run()
    assert site.sink.seqs == [2]


async def test_dead_letters_of_other_accounts_are_not_touched(site: Site) -> None:
    created = await dead_letter(site)
    log = site.world.store.events
    assert await log.redrive(DeadFilter(accounts=(created.request.account_id + 1,))) == 0
    assert await log.discard(DeadFilter(accounts=())) == 0
    assert await log.redrive(DeadFilter(accounts=(created.request.account_id,))) == 1


async def test_a_receiver_that_is_away_costs_no_event_an_attempt(site: Site) -> None:
    for number in range(5):
        await site.world.request(f"dev-{number}")
    site.sink.answer = away
    for _ in range(10):
        with pytest.raises(Unavailable):
            await site.outbox.step(site.world.now)
        knocked = len(site.sink.tried)
        due = await site.outbox.step(site.world.now + 1)
        assert len(site.sink.tried) == knocked, "nobody knocks during the pause"
        assert due is not None
        assert site.world.now + 1000 <= due <= site.world.now + 60_000
        site.world.now = due
    assert site.sink.tried == [1] * 10
    site.sink.answer = lambda _: None
    await site.run()
    assert site.sink.seqs == [1, 2, 3, 4, 5]
    assert site.dead == []


async def test_a_pause_ends_when_the_clock_is_set_back(site: Site) -> None:
    await site.world.request("dev-1")
    site.sink.answer = away
    with pytest.raises(Unavailable):
        await site.outbox.step(site.world.now + DAY)
    site.sink.answer = lambda _: None
    await site.run()
    assert site.sink.seqs == [1]


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[World]:
    world = await build(folder)
    try:
        yield world
    finally:
        await world.jobs.close()
        await world.store.close()


async def test_what_a_dead_process_was_delivering_is_delivered_again_under_its_id(tmp_path: Path) -> None:
    async with opened(tmp_path) as world:
        site = await worker(world, CueSink())
        await site.change(await site.world.request("dev-1"))
        # What a kill leaves behind: taken and leased, perhaps delivered, not marked.
        leased = await world.store.events.lease("cue", world.now, world.now + 600_000, BATCH)
    async with opened(tmp_path) as world:
        site = await worker(world, CueSink())
        await site.run()
        assert site.sink.seqs == [1, 2]
        assert [event.id for event in site.sink.taken] == [one.event.id for one in leased]


async def test_nobody_gets_what_is_leased(site: Site) -> None:
    await site.world.request("dev-1")
    log, now = site.world.store.events, site.world.now
    assert len(await log.lease("cue", now, now + 100, BATCH)) == 1
    assert await log.lease("cue", now + 99, now + 200, BATCH) == []
    assert len(await log.lease("cue", now + 100, now + 200, BATCH)) == 1


async def test_what_was_delivered_before_a_stop_is_not_delivered_again(site: Site) -> None:
    for number in range(3):
        await site.world.request(f"dev-{number}")
    stuck = asyncio.Event()

    async def deliver(event: StoredEvent) -> str | None:
        if event.seq == 2:
            stuck.set()
            await asyncio.get_running_loop().create_future()
        return None

    site.sink.deliver = deliver  # type: ignore[method-assign]  # a receiver that hangs
    step = asyncio.create_task(site.outbox.step(site.world.now))
    await asyncio.wait_for(stuck.wait(), 10)
    step.cancel()
    with pytest.raises(asyncio.CancelledError):
        await step
    later = await worker(site.world, CueSink())
    await later.run()
    assert later.sink.seqs == [2, 3]


async def test_two_sinks_do_not_wait_for_each_other(world: World) -> None:
    good, bad = await worker(world, CueSink("good")), await worker(world, CueSink("bad", answer=away))
    await good.device("dev-1")
    await bad.run()
    await good.run()
    assert good.sink.seqs == [1, 2]
    bad.sink.answer = lambda _: None
    world.now += 120_000
    await bad.run()
    assert bad.sink.seqs == [1, 2]


async def test_a_sink_that_is_down_does_not_disturb_claims(site: Site) -> None:
    site.sink.answer = away
    await site.run()
    await site.device("dev-1")
    await site.run()
    await site.device("dev-2")
    assert len(await site.world.store.events.list_events(EventFilter(), 10)) == 4


@pytest.mark.parametrize("parallel", [1, 4])
async def test_order_and_completeness_under_failures_and_restarts(world: World, parallel: int) -> None:
    """Random answers, random restarts, events that come meanwhile: nothing is lost, no request's order is broken."""
    cue = random.Random(20261125 + parallel)
    requests = [await world.request(f"dev-{number}") for number in range(6)]

    def answer(event: StoredEvent) -> str | None:
        match cue.randrange(4):
            case 0:
                return "Not now."
            case 1 if cue.random() < 0.3:
                raise Unavailable("away")
        return None

    sink = CueSink(parallel=parallel, answer=answer)
    site = await worker(world, sink, max_attempts=1000)
    for _ in range(120):
        await site.change(cue.choice(requests))
        if cue.random() < 0.1:
            site = await worker(world, sink, max_attempts=1000)
        if cue.random() < 0.1:  # leased, and nobody comes back to say what became of it
            await world.store.events.lease("cue", world.now, world.now + 600_000, 3)
        await site.run()
        world.now += cue.randrange(5_000)
    sink.answer = lambda _: None
    site = await worker(world, sink)
    world.now += 2 * DAY
    await site.run()
    assert set(sink.seqs) == set(range(7, 127))
    for created in requests:
        own = [event.seq for event in sink.taken if event.request_id == created.request.id]
        assert list(dict.fromkeys(own)) == sorted(set(own))
        assert own == sorted(own), "a repetition never comes after a later event"


async def test_events_are_replayed_under_their_ids(site: Site) -> None:
    first = await site.device("dev-1")
    await site.device("dev-2")
    await site.run()
    once = {event.seq: event.id for event in site.sink.taken}
    log = site.world.store.events
    assert await log.replay("cue", EventFilter(request_id=first.request.id), 10) == 2
    assert await log.replay("cue", EventFilter(request_id=first.request.id), 10) == 0
    await site.run()
    assert site.sink.seqs == [1, 2, 3, 4, 1, 2]
    assert all(once[event.seq] == event.id for event in site.sink.taken)
    assert await log.replay("cue", EventFilter(after=2), 1) == 1
    await site.run()
    assert site.sink.seqs[6:] == [3]


async def test_a_replayed_event_does_not_open_the_way_past_a_dead_one(site: Site) -> None:
    created = await site.world.request("dev-1")
    await site.change(created, 2)
    site.sink.answer = lambda event: "No." if event.seq == 2 else None
    while (due := await site.run()) is not None:
        site.world.now = due
    site.sink.answer = lambda _: None
    assert await site.world.store.events.replay("cue", EventFilter(upto=1), 10) == 1
    assert await site.run() is None
    assert site.sink.seqs == [1, 1]
    (letter,) = await site.world.store.events.list_dead(DeadFilter(), 10)
    assert (letter.event.seq, letter.waiting) == (2, 1)


async def test_an_event_whose_time_has_come_waits_for_an_earlier_one(site: Site) -> None:
    await site.change(await site.world.request("dev-1"))
    log, now = site.world.store.events, site.world.now
    first, second = (one.event for one in await log.lease("cue", now, now + 1, BATCH))
    await log.settle("cue", [], [Postponed(first, 1, now + 10_000), Postponed(second, 1, now + 1)], now)
    site.world.now += 5
    assert await site.run() == site.world.now + 1000, "and nobody asks again and again"
    assert site.sink.seqs == []
    site.world.now = now + 10_000
    await site.run()
    assert site.sink.seqs == [1, 2]


async def test_old_events_are_deleted_when_everybody_has_them(site: Site) -> None:
    log, world = site.world.store.events, site.world
    first = await site.world.request("dev-1")
    retention = Retention(log, ["cue"], days=30)
    world.now += 31 * DAY
    await site.change(first)
    assert await retention.step(world.now) == world.now + 600_000
    assert len(await log.list_events(EventFilter(), 10)) == 2, "the sink has not got it yet"
    await site.run()
    await retention.step(world.now)
    assert [event.seq for event in await log.list_events(EventFilter(), 10)] == [2]
    world.now += 31 * DAY
    await retention.step(world.now)
    assert [event.seq for event in await log.list_events(EventFilter(), 10)] == [2], "the newest stays"
    await world.request("dev-2")
    assert await log.newest() == 3


async def test_a_dead_letter_is_kept_and_holds_nothing_back(site: Site) -> None:
    created = await dead_letter(site)
    log, world = site.world.store.events, site.world
    other = await world.request("dev-2")
    await site.change(other)
    await site.run()
    world.now += 31 * DAY
    await site.change(created)
    await site.run()
    await Retention(log, ["cue"], days=30).step(world.now)
    assert [event.seq for event in await log.list_events(EventFilter(), 10)] == [1, 2, 5]
    await Retention(log, [], days=30).step(world.now)
    assert [event.seq for event in await log.list_events(EventFilter(), 10)] == [5]
    assert await log.list_dead(DeadFilter(), 10) == []


async def test_many_old_events_are_deleted_in_portions(site: Site) -> None:
    created = await site.world.request("dev-1")
    suspicion = Suspicion(created.request, "Again.", ())
    unit = Unit(suspicions=(suspicion,) * 600, note=Note(site.world.now, "suspect"))
    assert await site.world.store.commit(unit)
    site.world.now += 2 * DAY
    retention = Retention(site.world.store.events, [], days=1)
    assert await retention.step(site.world.now) == site.world.now + 100
    assert await retention.step(site.world.now) == site.world.now + 600_000
    assert len(await site.world.store.events.list_events(EventFilter(), 10)) == 1


@pytest.mark.parametrize("attempts", [0, 1, 5, 11, 12, 1000])
def test_back_off_doubles_up_to_its_cap_and_is_jittered(attempts: int) -> None:
    longest = min(3_600_000, 1000 * 2 ** min(attempts, 20))
    waits = [backoff(attempts, 3_600_000, os.urandom) for _ in range(100)]
    assert all(longest // 2 <= wait <= longest for wait in waits)
    assert len(set(waits)) > 10
