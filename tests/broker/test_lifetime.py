"""Signals, naps and limits of a process."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from broker.lifetime import keep_stepping, raise_file_limit, run, stopped_by_signals
from provisioner.errors import Unavailable

ROOT = Path(__file__).parents[2]


class Stepper:
    """Tells each step, and answers it as it was told to."""

    def __init__(self, *answers: int | Exception | None) -> None:
        self.answers = list(answers)
        self.steps: asyncio.Queue[int] = asyncio.Queue()

    async def step(self, now: int) -> int | None:
        self.steps.put_nowait(now)
        answer = self.answers.pop(0) if self.answers else None
        if isinstance(answer, Exception):
            raise answer
        return answer


async def next_step(stepper: Stepper) -> int:
    return await asyncio.wait_for(stepper.steps.get(), 5)


async def test_a_job_is_looked_at_when_it_is_due() -> None:
    stepper, now = Stepper(1_000, 900, 1_020), 1_000
    working = asyncio.create_task(keep_stepping(stepper.step, lambda: now, asyncio.Event()))
    for _ in range(4):
        assert await next_step(stepper) == now
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)


async def test_who_waits_can_be_woken() -> None:
    stepper, wake = Stepper(), asyncio.Event()
    working = asyncio.create_task(keep_stepping(stepper.step, lambda: 0, wake))
    for _ in range(3):
        await next_step(stepper)
        wake.set()
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)


async def test_a_failing_job_is_tried_again(capsys: pytest.CaptureFixture[str]) -> None:
    stepper, wake = Stepper(Unavailable("the disk is full"), ValueError("ours")), asyncio.Event()
    working = asyncio.create_task(keep_stepping(stepper.step, lambda: 0, wake))
    for _ in range(3):
        await next_step(stepper)
        wake.set()
    assert not working.done()
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    assert "the disk is full" in capsys.readouterr().out


async def test_a_signal_asks_for_the_end() -> None:
    stop = asyncio.Event()
    with stopped_by_signals(stop):
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.wait_for(stop.wait(), 5)


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
