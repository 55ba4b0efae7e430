"""Whoever knows the shared login may take every unproved place of a device's client id; the device is served anyhow.

The squatters come from four addresses, four sessions each, which is all that one id may have. They keep their places by
claiming with a wrong key, and whoever is thrown out comes back at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from broker.fleet.actions import Identity, Options
from broker.fleet.replies import Address
from broker.fleet.swarm import Swarm
from broker.fleet.unit import Endpoint
from broker.mqtt.packets import Connack, Connect, Decoder, Frame, Publish, encode, parse
from tests.e2e.program import Operator, Program, StartProgram
from tests.proof import floor

DEVICES = 10
SOURCES = [f"127.0.9.{number}" for number in range(1, 5)]
EACH = 4
PATIENCE = 10
SLOWEST = 4.0
"""Less than a device's first pause, seconds: nobody was told to come again later."""


class Squatters:
    """All places of some client ids, taken for as long as the server lets them; `seated` once they all were."""

    def __init__(self, program: Program, identities: Sequence[Identity]) -> None:
        self._address = program.endpoint
        self._expected = len(identities) * len(SOURCES) * EACH
        self._admitted = 0
        self.seated = asyncio.Event()

    async def squat(self, identity: Identity, source: str) -> None:
        """Keep one place."""
        name, nonce = identity.client_id, "A" * 22
        connect = Connect(name, username=identity.user, password=identity.password.encode())
        wrong = json.dumps({"requestId": "r-1", "nonce": nonce, "proof": "A" * 43}).encode()
        claim = Publish(f"prov/v1/{identity.user}/{name}/request", wrong)
        while True:
            with contextlib.suppress(OSError, EOFError):
                reader, writer = await asyncio.open_connection(*self._address, local_addr=(source, 0))
                try:
                    writer.write(encode(connect, 4))
                    await self._expect_connack(reader)
                    while True:
                        writer.write(encode(claim, 4))
                        async with asyncio.timeout(PATIENCE):
                            if not await reader.read(1024):
                                break
                        await asyncio.sleep(1)
                finally:
                    writer.transport.abort()
            await asyncio.sleep(0.05)

    async def _expect_connack(self, reader: asyncio.StreamReader) -> None:
        decoder, frames = Decoder(), list[Frame]()
        while not frames:
            if not (data := await reader.read(1024)):
                raise EOFError
            frames = list(decoder.feed(data))
        connack = parse(frames[0], 4)
        if isinstance(connack, Connack) and connack.code == 0:
            self._admitted += 1
            if self._admitted >= self._expected:
                self.seated.set()


@asynccontextmanager
async def squatted(program: Program, identities: Sequence[Identity]) -> AsyncIterator[None]:
    """Squatters on every place of these."""
    squatters = Squatters(program, identities)
    places = [(one, source) for one in identities for source in SOURCES for _ in range(EACH)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(squatters.squat(*place)) for place in places]
        async with asyncio.timeout(PATIENCE):
            await squatters.seated.wait()
        yield
        for task in tasks:
            task.cancel()


async def test_the_device_is_served_at_its_first_knock(start_program: StartProgram) -> None:
    program = start_program()
    operator = Operator(program)
    identities = await floor.prepare(operator, "true", DEVICES)
    async with squatted(program, identities):
        swarm = Swarm(Endpoint(Address(*program.endpoint)), Options(), patience=20)
        tally = await swarm.run(identities, DEVICES)
    phases = await floor.phases(operator)
    await operator.close()
    assert (tally.refused, tally.confirmed, phases) == ({}, DEVICES, {"CONFIRMED": DEVICES})
    assert (tally.percentile(100) or 0.0) < SLOWEST
