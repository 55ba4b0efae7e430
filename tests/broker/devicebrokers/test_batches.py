"""Changes that arrive together are written together, in their order, and nobody who was revoked comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from broker.devicebrokers.batches import Batches, Change
from provisioner.errors import Unavailable
from provisioner.ports import Install, Revoke
from tests.broker.devicebrokers.worlds import to_install


class Broker:
    """Writes as a test wants it, on a clock of its own: each change takes 50 ms."""

    def __init__(self, most: int) -> None:
        self.batches = Batches("plant", self.write, most, lambda: self.now)
        self.now = 100.0
        self.written: list[list[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.begun = asyncio.Event()
        self.trouble: Exception | None = None

    async def write(self, changes: Sequence[Change]) -> None:
        self.begun.set()
        await self.gate.wait()
        if self.trouble is not None:
            raise self.trouble
        self.now += 0.05 * len(changes)
        self.written.append([("-" if one.item is None else "+") + one.username.split(".")[2] for one in changes])


async def test_what_waits_goes_into_one_write() -> None:
    broker = Broker(100)
    broker.gate.clear()
    first = asyncio.create_task(broker.batches.install([to_install("a")]))
    await broker.begun.wait()
    rest = asyncio.gather(*(broker.batches.install([to_install(one)]) for one in "bcd"))
    await asyncio.sleep(0)
    broker.gate.set()
    assert await first == [Install.DONE]
    assert await rest == [[Install.DONE]] * 3
    assert broker.written == [["+a"], ["+b", "+c", "+d"]]


async def test_no_write_has_more_than_the_broker_takes() -> None:
    broker = Broker(2)
    await broker.batches.install([to_install(one) for one in "abcde"])
    assert broker.written == [["+a", "+b"], ["+c", "+d"], ["+e"]]


async def test_a_late_install_does_not_bring_a_revoked_name_back() -> None:
    broker = Broker(1)
    installed, revoked = await asyncio.gather(
        broker.batches.install([to_install("a"), to_install("b")]),
        broker.batches.revoke(["p.acme.b.g1"], kick=True),
    )
    assert (installed, revoked) == ([Install.DONE, Install.NEVER], [Revoke.CLOSED])
    assert broker.written == [["+a"], ["-b"]]


async def test_trouble_is_later_for_whoever_waits_and_the_next_try_goes_on() -> None:
    broker = Broker(100)
    broker.trouble = Unavailable("away")
    assert await broker.batches.install([to_install("a")]) == [Install.LATER]
    assert await broker.batches.revoke(["p.acme.b.g1"], kick=True) == [Revoke.LATER]
    broker.trouble = None
    assert await broker.batches.install([to_install("a")]) == [Install.DONE]


async def test_each_is_told_its_own_place_in_the_queue() -> None:
    broker = Broker(1)
    assert broker.batches.delay("p.acme.a.g1") == 0.0
    await broker.batches.install([to_install("a")])
    broker.gate.clear()
    broker.begun.clear()
    work = asyncio.gather(*(broker.batches.install([to_install(f"b{number}")]) for number in range(20)))
    await broker.begun.wait()
    told = [broker.batches.delay(f"p.acme.b{number}.g1") for number in (0, 1, 19)]
    assert told == pytest.approx([0.05, 0.10, 1.0])
    broker.gate.set()
    await work
    assert broker.batches.delay("p.acme.b19.g1") == 0.0


async def test_closing_leaves_nobody_waiting() -> None:
    broker = Broker(1)
    broker.gate.clear()
    work = asyncio.gather(*(broker.batches.install([to_install(one)]) for one in "abc"))
    await asyncio.sleep(0)
    await broker.batches.close()
    assert await work == [[Install.LATER]] * 3
