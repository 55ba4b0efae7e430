"""Signals, naps and limits of a process."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from broker.lifetime import ClockWatch, Stepper, raise_file_limit, reloaded_by_signal, run, stopped_by_signals
from provisioner.errors import Unavailable

ROOT = Path(__file__).parents[2]


class Work:
    """Tells each step, and answers it as it was told to."""

    def __init__(self, *answers: int | Exception | None) -> None:
        self.answers = list(answers)
        self.steps: asyncio.Queue[int] = asyncio.Queue()
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.ended = 0

    async def step(self, now: int) -> int | None:
        self.steps.put_nowait(now)
        await self.goes_on.wait()
        self.ended += 1
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def next(self) -> int:
        return await asyncio.wait_for(self.steps.get(), 5)


@asynccontextmanager
async def working(work: Work, now: int = 0, patience: float = 5) -> AsyncIterator[asyncio.Event]:
    """A stepper at work; yields what wakes it."""
    wake = asyncio.Event()
    stepper = Stepper("jobs", work.step, lambda: now, wake)
    task = asyncio.create_task(stepper.run())
    try:
        yield wake
    finally:
        await stepper.end(task, patience)
        await asyncio.gather(task, return_exceptions=True)


async def test_a_job_is_looked_at_when_it_is_due() -> None:
    work = Work(1_000, 900, 1_020)
    async with working(work, 1_000):
        assert [await work.next() for _ in range(4)] == [1_000] * 4


async def test_who_waits_can_be_woken() -> None:
    work = Work()
    async with working(work) as wake:
        for _ in range(3):
            await work.next()
            wake.set()


async def test_a_failing_job_is_tried_again(capsys: pytest.CaptureFixture[str]) -> None:
    work = Work(Unavailable("the disk is full"), ValueError("ours"))
    async with working(work) as wake:
        for _ in range(3):
            await work.next()
            wake.set()
    assert "the disk is full" in capsys.readouterr().out


async def test_a_step_that_was_begun_is_ended() -> None:
    work = Work()
    work.goes_on.clear()
    async with working(work):
        await work.next()
        asyncio.get_running_loop().call_soon(work.goes_on.set)
    assert work.ended == 1


async def test_a_step_that_takes_too_long_is_cut_off() -> None:
    work = Work()
    work.goes_on.clear()
    async with working(work, patience=0.01):
        await work.next()
    assert work.ended == 0


async def test_a_signal_asks_for_the_end() -> None:
    stop = asyncio.Event()
    with stopped_by_signals(stop):
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(stop.wait(), 5)


async def test_a_hangup_asks_to_read_again() -> None:
    asked: asyncio.Queue[None] = asyncio.Queue()
    with reloaded_by_signal(lambda: asked.put_nowait(None)):
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGHUP)
            await asyncio.wait_for(asked.get(), 5)


def test_a_second_signal_ends_at_once() -> None:
    script = (
        "import asyncio, os, signal\n"
        "from broker.lifetime import run, stopped_by_signals\n"
        "async def main():\n"
        "    stop = asyncio.Event()\n"
        "    with stopped_by_signals(stop):\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        await stop.wait()\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "        await asyncio.Event().wait()\n"
        "run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False, timeout=20, capture_output=True)
    assert (done.returncode, done.stderr) == (128 + signal.SIGINT, b"")


def test_the_file_limit_is_raised_to_what_is_allowed() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(512, before[1]), before[1]))
    try:
        assert raise_file_limit() == before[1]
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == before[1]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_the_loop_is_uvloop_where_there_is_one() -> None:
    async def kind() -> str:
        return type(asyncio.get_running_loop()).__module__

    assert run(kind()) == "uvloop"


async def test_a_clock_that_was_set_is_told() -> None:
    hour, times = 3_600_000, iter([0, 20, 20 + 24 * 3_600_000, 40 + 23 * 3_600_000])
    current = [0]

    def clock() -> int:
        return current[0]

    work, wake = Work(), asyncio.Event()
    stepper = Stepper("jobs", work.step, clock, wake, ClockWatch())
    with capture_logs() as logs:
        current[0] = next(times)
        task = asyncio.create_task(stepper.run())
        await work.next()
        for moment in times:
            current[0] = moment
            wake.set()
            await work.next()
        await stepper.end(task, 5)
    assert [round(line["seconds"] * 1000 / hour) for line in logs if line["event"] == "the clock was set"] == [24, -1]
