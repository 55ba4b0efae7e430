"""H-4: how long a refusal takes tells nothing: not whether a user exists, not whether a request exists.

1. Refusals leave at multiples of 100 ms after their message came. What shows through is what happens behind the grid's
   point: so measured is how far behind the last point an answer is written, without a network, which only adds noise.
   The grid is made finer here, so that enough samples can be had; the code is the same.
2. A few are asked at once, and which class a sample is of is drawn at random: whatever else the machine does, and what
   the samples do to each other, falls on both.
3. What is above the 90th percentile of both classes together is cropped before Welch's t is taken, as dudect does: such
   a sample tells about the machine.
4. Each class has many members (users, client ids, keys), asked in every mode.
5. In front of the grid's point the classes may differ a little, as a request that exists has to be read; how much is
   recorded, and must be small beside the grid: else it would push answers across to the next point.
6. That the measure sees a leak is shown on the same answers without a grid.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import random
import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from broker.mqtt.capacity import Capacity
from broker.mqtt.connection import Connection, Shared
from broker.mqtt.interface import EndpointLimits, Inbound, LoginVerdict
from broker.mqtt.messages import Body
from broker.mqtt.responder import Responder
from broker.mqtt.topics import Topics
from provisioner import handover
from provisioner.admission import Rate, WrongKeyRates
from provisioner.errors import Rejected
from tests.e2e.packets import connect_packet
from tests.fuzz.no_socket import NoSocket
from tests.proof.scale import record, rounds
from tests.provisioner.conftest import ADMIN, World, build

SAMPLES = rounds(1_000, 200_000, 1_000_000)
"""Of each class."""
CALM = 4.5
"""|t| that chance alone exceeds once in 100,000 times."""
GRID = 0.005
AT_ONCE = 8
_SHOWN_SAMPLES = 4_000
_WORK_SAMPLES = 1_000
_CROP = 0.90
_MEMBERS = 20
_MOST_WORK = 1_000.0
"""Microseconds that the work in front of the grid may differ by: a hundredth of the grid."""
_FREELY = Rate(10**9, 10**9)

Ask = Callable[[int], Awaitable[float]]
"""Ask for a refusal of one class; the number chooses the member. Returns seconds."""


def welch(one: Sequence[float], other: Sequence[float]) -> float:
    """Welch's t of two samples."""
    difference = statistics.fmean(one) - statistics.fmean(other)
    return difference / math.sqrt(statistics.variance(one) / len(one) + statistics.variance(other) / len(other))


def cropped(one: list[float], other: list[float]) -> tuple[list[float], list[float]]:
    """Both without what is slower than the 90th percentile of all."""
    limit = sorted(one + other)[int(_CROP * (len(one) + len(other)))]
    return [value for value in one if value <= limit], [value for value in other if value <= limit]


async def compare(first: Ask, second: Ask, samples: int, at_once: int) -> tuple[float, float]:
    """T and the difference of the means in microseconds."""
    took: tuple[list[float], list[float]] = ([], [])
    chance, classes = random.Random(), (first, second)

    async def ask_on() -> None:
        while min(map(len, took)) < samples:
            which = chance.randrange(2)
            took[which].append(await classes[which](chance.randrange(_MEMBERS)))

    await asyncio.gather(*(ask_on() for _ in range(at_once)))
    one, other = cropped(*took)
    return welch(one, other), (statistics.fmean(one) - statistics.fmean(other)) * 1e6


def behind(ask: Ask) -> Ask:
    """How far behind the grid's last point its answers are."""

    async def ask_and_fold(member: int) -> float:
        return await ask(member) % GRID

    return ask_and_fold


async def settled(first: Ask, second: Ask) -> tuple[float, float]:
    """The calmer of two comparisons, if the first was not calm: a leak is there both times, a moment's noise is not."""
    told = await compare(behind(first), behind(second), SAMPLES, AT_ONCE)
    if abs(told[0]) >= CALM:
        again = await compare(behind(first), behind(second), SAMPLES, AT_ONCE)
        told = min(told, again, key=lambda one: abs(one[0]))
    assert abs(told[0]) < CALM, f"t = {told[0]:.1f}, {told[1]:.2f} us"
    return told


async def freely(folder: Path) -> World:
    """A world that looks at every key: `slow-down` is the same for both classes, and not what is asked here."""
    world = await build(folder, rates=WrongKeyRates(_FREELY, _FREELY, _FREELY, _FREELY))
    for member in range(_MEMBERS):
        await world.request(f"dev-{member}")
    return world


def claims(prefix: str) -> list[Inbound]:
    """Claims of every member, with a wrong key shown or a proof made with one."""
    found = []
    for member in range(_MEMBERS):
        key, client_id = os.urandom(16).hex(), f"{prefix}-{member}"
        keys, nonce = handover.derive(key, "factory", client_id), handover.encode64(os.urandom(16))
        proof = handover.encode64(handover.claim_proof(keys.auth, "r-1", nonce, "", "", (), ""))
        shown = {"activationKey": key} if member % 2 else {"nonce": nonce, "proof": proof}
        body = json.dumps({"requestId": "r-1"} | shown).encode()
        found.append(Inbound("factory", client_id, "request", body, "192.0.2.1", True, True, member, None))
    return found


@pytest.mark.timeout(3000)
async def test_a_missing_request_takes_what_a_wrong_key_takes(tmp_path: Path) -> None:
    world = await freely(tmp_path)
    responder = Responder(world.provisioner, lambda: world.now, os.urandom)
    responder.refusal_grid = GRID

    def answers(prefix: str) -> Ask:
        mine = claims(prefix)

        async def refuse(member: int) -> float:
            began = time.perf_counter()
            answer = await responder.answer(mine[member])
            took = time.perf_counter() - began
            assert b'"denied"' in answer.payload
            return took

        return refuse

    def works(prefix: str) -> Ask:
        mine = claims(prefix)

        async def refuse(member: int) -> float:
            inbound = mine[member]
            body = Body(inbound.payload)
            began = time.perf_counter()
            outcome = await responder.outcome(inbound, body, "0")
            took = time.perf_counter() - began
            assert isinstance(outcome, Rejected)
            return took

        return refuse

    try:
        t, difference = await settled(answers("dev"), answers("non"))
        _, work = await compare(works("dev"), works("non"), _WORK_SAMPLES, 1)
        responder.refusal_grid = 1e-9
        shown, _ = await compare(answers("dev"), answers("non"), _SHOWN_SAMPLES, 1)
    finally:
        await world.jobs.close()
        await world.store.close()
    assert abs(work) < _MOST_WORK
    assert abs(shown) > abs(t), "the measure is blind"
    tell("timing-claim", t, difference, work)


@pytest.mark.timeout(3000)
async def test_an_unknown_user_takes_what_a_wrong_password_takes(tmp_path: Path) -> None:
    world = await freely(tmp_path)
    responder = Responder(world.provisioner, lambda: world.now, os.urandom)
    limits = EndpointLimits(refusal_grid=GRID)
    shared, loop = Shared(responder, limits, Topics(), Capacity(limits)), asyncio.get_running_loop()

    def answers(prefix: str) -> Ask:
        async def refuse(member: int) -> float:
            wire, connection = NoSocket(), Connection(shared, loop, member)
            wire.protocol = connection
            answered = asyncio.Event()
            wire.on_write = answered.set
            connection.connection_made(wire)
            data = connect_packet("dev-1", f"{prefix}-{member}", "not-the-password")
            connection.get_buffer(-1)[: len(data)] = data
            began = time.perf_counter()
            connection.buffer_updated(len(data))
            await answered.wait()
            took = time.perf_counter() - began
            assert wire.written == b"\x20\x02\x00\x05"
            wire.close()
            return took

        return refuse

    def works(prefix: str) -> Ask:
        async def refuse(member: int) -> float:
            began = time.perf_counter()
            verdict = await responder.login(f"{prefix}-{member}", b"not-the-password", "dev-1")
            took = time.perf_counter() - began
            assert verdict is LoginVerdict.REFUSED
            return took

        return refuse

    try:
        for member in range(_MEMBERS):
            await world.administration.create_user(ADMIN, f"user-{member}", None, "provision", world.now)
        t, difference = await settled(answers("user"), answers("none"))
        _, work = await compare(works("user"), works("none"), _WORK_SAMPLES, 1)
    finally:
        await world.jobs.close()
        await world.store.close()
    assert abs(work) < _MOST_WORK / 20
    tell("timing-connect", t, difference, work)


def tell(proof: str, t: float, difference: float, work: float) -> None:
    """Put the figures on record."""
    record(
        proof, "H-4", samples=2 * SAMPLES, t=round(t, 2), difference_us=round(difference, 2),
        before_the_grid_us=round(work, 2),
    )  # fmt: skip
