"""Back-pressure in time: an honest answer to each, and a herd that comes back as a stream."""

import heapq
import math
import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.mqtt.backlog import Backlog, BacklogLimits

LIMITS = BacklogLimits(patience=2.0, always=100, longest=60.0)


def backlog(limits: BacklogLimits = LIMITS, seed: int = 1) -> Backlog:
    return Backlog(limits, random.Random(seed).randbytes)


def busy(rate: float, seconds: float = 20.0) -> tuple[Backlog, float]:
    """One that has ended claims at `rate` for a while, with just `always` in work."""
    tested, now = backlog(), 0.0
    for _ in range(LIMITS.always):
        assert tested.take(now) == 0
    while now < seconds:
        now += 1 / rate
        tested.end(now)
        tested.take(now)
    return tested, now


def test_few_claims_are_always_taken() -> None:
    tested = backlog()
    assert [tested.take(0.0) for _ in range(LIMITS.always)] == [0] * LIMITS.always
    # Nothing ended for an hour, and they still are.
    for _ in range(50):
        tested.end(3600.0)
    assert [tested.take(3600.0) for _ in range(50)] == [0] * 50


@pytest.mark.parametrize("rate", [80, 500, 2000])
def test_as_many_are_taken_as_are_answered_in_time(rate: float) -> None:
    tested, now = busy(rate)
    assert tested.rate == pytest.approx(rate, rel=0.05)
    while not tested.take(now):
        pass
    assert tested.in_work == pytest.approx(max(LIMITS.always, rate * LIMITS.patience), rel=0.05)


def test_those_sent_away_come_back_one_by_one() -> None:
    tested, now = busy(100)
    while not (first := tested.take(now)):
        pass
    told = [first] + [tested.take(now) for _ in range(999)]
    # A slot a hundredth of a second: a hundred of them in each second, but for what chance rounds.
    assert 1 <= told[0] <= 3
    assert told[-1] == pytest.approx(12, abs=1)
    for second in range(4, 11):
        assert told.count(second) == pytest.approx(100, abs=30)


def test_time_frees_slots() -> None:
    tested, now = busy(100)
    while not tested.take(now):
        pass
    last = [tested.take(now) for _ in range(2000)][-1]
    for _ in range(1000):
        now += 0.01
        tested.end(now)
        tested.take(now)
    assert tested.take(now) == pytest.approx(last - 10, abs=2)


def test_a_flood_pushes_nobody_beyond_the_longest_time() -> None:
    tested, now = busy(80)
    told = [tested.take(now) for _ in range(100_000)]
    late = told[-1000:]
    assert max(told) <= LIMITS.longest
    assert min(late) >= LIMITS.longest / 2
    assert len(set(late)) > 20


def test_a_quiet_hour_does_not_count_as_a_slow_one() -> None:
    tested, now = busy(500)
    for _ in range(LIMITS.always):
        tested.end(now)
    rate = tested.rate
    for minute in range(60):
        tested.take(now + minute * 60)
        tested.end(now + minute * 60 + 1)
    assert tested.rate == rate


def test_a_stall_shows_at_once() -> None:
    tested, now = busy(1000)
    assert tested.take(now) == 0
    assert tested.take(now + 10) > 0


@given(
    st.lists(st.tuples(st.sampled_from(["take", "end"]), st.floats(0, 100)), max_size=300),
    st.builds(BacklogLimits, st.floats(0.1, 10), st.integers(1, 20), st.floats(1, 600)),
    st.integers(0, 100),
)
def test_whatever_happens_answers_and_numbers_keep_their_bounds(
    steps: list[tuple[str, float]], limits: BacklogLimits, seed: int
) -> None:
    tested, now, taken = backlog(limits, seed), 0.0, 0
    for step, pause in steps:
        now += pause
        if step == "take":
            answer = tested.take(now)
            assert isinstance(answer, int)
            assert 0 <= answer <= math.ceil(limits.longest) + 1
            taken += not answer
        elif taken:
            tested.end(now)
            taken -= 1
        assert tested.in_work == taken
        assert tested.rate >= 0


@dataclass
class Herd:
    """Devices that arrive within ten seconds at a server with one queue, and do as they are told."""

    devices: int
    rate: float
    seed: int
    asked: int = 0
    longest_queue: int = 0
    served: list[float] = field(default_factory=list)

    def run(self) -> None:
        chance = random.Random(self.seed)
        tested = backlog(BacklogLimits(), self.seed)
        events = [(chance.uniform(0, 10), number, "arrive") for number in range(self.devices)]
        heapq.heapify(events)
        free = 0.0
        while events:
            now, number, what = heapq.heappop(events)
            if what == "served":
                tested.end(now)
                self.served.append(now)
                continue
            self.asked += 1
            if again := tested.take(now):
                heapq.heappush(events, (now + again * (1 + chance.random() / 2), number, "arrive"))
            else:
                free = max(free, now) + 1 / self.rate
                heapq.heappush(events, (free, number, "served"))
            self.longest_queue = max(self.longest_queue, tested.in_work)


@pytest.mark.parametrize("rate", [100, 300, 1000])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_herd_is_served_about_as_fast_as_the_server_can(rate: float, seed: int) -> None:
    herd = Herd(10_000, rate, seed)
    herd.run()
    assert len(herd.served) == herd.devices
    assert herd.longest_queue <= max(BacklogLimits().always, rate * BacklogLimits().patience) + 20
    assert max(herd.served) < 10 + 1.7 * herd.devices / rate
    assert herd.asked < 4 * herd.devices
