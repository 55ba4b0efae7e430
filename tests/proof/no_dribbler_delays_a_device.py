"""H-7: thousands of connections that say nothing, or a byte a second, beside devices that want to be served.

The crowd comes from forty addresses and knows the shared login, as everybody does who ever opened a device: a third is
silent, a third dribbles its CONNECT, a third logs in and dribbles a claim. Who is cut off comes back a second later.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import statistics
from collections import Counter
from pathlib import Path

import psutil
import pytest

from broker.fleet.actions import Options
from broker.fleet.replies import Address
from broker.fleet.swarm import Swarm
from broker.fleet.unit import Endpoint
from broker.mqtt.packets import Connect, Publish, encode
from tests.e2e.program import Program, Site
from tests.proof import floor
from tests.proof.scale import SCALE, record, rounds

PER_SECOND = 20
SLOWEST = 20.0 if SCALE == "quick" else 2.0
"""What the quick run looks for is that nobody is shut out: it shares the machine with the whole test-suite."""
SOURCES = [f"127.0.9.{number}" for number in range(1, 41)]
LONELY = "127.0.10.1"
PER_SOURCE = 1_000
"""The endpoint's own limit, a setting."""


class Crowd:
    """Connections that come to stay. `cut` counts how often one was closed by the server."""

    def __init__(self, site: Site) -> None:
        self._address = site.program.endpoint
        login = (site.program.data / "provision-login").read_text(encoding="utf-8").splitlines()
        self._user, self._password = login
        self._tasks: list[asyncio.Task[None]] = []
        self.came: Counter[str] = Counter()
        self.cut = 0
        self.open = 0
        self.everybody = asyncio.Event()

    def gather(self, count: int, sources: list[str], kinds: tuple[str, ...]) -> None:
        """Let so many more come; `everybody` is set once all of them have been connected."""
        mix = itertools.cycle(itertools.product(kinds, sources))
        self.everybody.clear()
        for number, (kind, source) in enumerate(itertools.islice(mix, count)):
            self._tasks.append(asyncio.create_task(self._stay(f"crowd-{number}", source, kind)))

    async def leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _stay(self, client_id: str, source: str, kind: str) -> None:
        connect = encode(Connect(client_id, keep_alive=600, username=self._user, password=self._password.encode()), 4)
        claim = encode(Publish(f"prov/v1/{self._user}/{client_id}/request", b"x" * 200, 1, 1), 4)
        at_once, slowly = {"silent": (b"", b""), "connect": (b"", connect), "claim": (connect, claim)}[kind]
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection(*self._address, local_addr=(source, 0))
                try:
                    self._came(kind)
                    writer.write(at_once)
                    await self._dribble(reader, writer, slowly)
                finally:
                    self.open -= 1
                    writer.transport.abort()
                self.cut += 1
            await asyncio.sleep(1)

    def _came(self, kind: str) -> None:
        self.came[kind] += 1
        self.open += 1
        if self.open >= len(self._tasks):
            self.everybody.set()

    async def _dribble(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, slowly: bytes) -> None:
        """A byte a second until the server hangs up."""
        octets = iter(slowly)
        with contextlib.suppress(OSError):
            while True:
                try:
                    async with asyncio.timeout(1):
                        if not await reader.read(1024):
                            return
                except TimeoutError:
                    if (octet := next(octets, None)) is not None:
                        writer.write(bytes((octet,)))


async def connections(site: Site) -> int:
    """Open at the endpoint now, as it counts them."""
    answer = await site.operator.http.get("/metrics")
    (line,) = [one for one in answer.text.splitlines() if one.startswith("provisioner_connections ")]
    return int(float(line.split()[1]))


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path / "data", {"PROVISIONER_LOG__LEVEL": "warning"})


@pytest.mark.timeout(rounds(120, 300, 0))
async def test_real_devices_are_served_in_time(program: Program) -> None:
    crowd_size, seconds = rounds(100, 2_000, 8_000), rounds(3, 20, 600)
    count = PER_SECOND * seconds
    program.start()
    try:
        async with await Site.at(program) as site:
            identities = await floor.prepare(site.operator, "real", count)
            crowd = Crowd(site)
            crowd.gather(crowd_size, SOURCES, ("silent", "connect", "claim"))
            async with asyncio.timeout(30):
                await crowd.everybody.wait()
            seen = await connections(site)
            swarm = Swarm(Endpoint(Address(*program.endpoint)), Options(), spread=seconds, patience=30)
            tally = await swarm.run(identities, count)
            await crowd.leave()
    finally:
        program.stop()
    assert (tally.refused, tally.confirmed) == ({}, count)
    p99 = tally.percentile(99) or 0.0
    assert p99 < SLOWEST
    record(
        "dribblers",
        "H-7",
        crowd=crowd_size,
        open_at_once=seen,
        cut_off=crowd.cut,
        devices=count,
        per_second=PER_SECOND,
        confirmed=tally.confirmed,
        p50=f"{1000 * (tally.percentile(50) or 0):.0f} ms",
        p99=f"{1000 * p99:.0f} ms",
    )


@pytest.mark.timeout(rounds(120, 300, 0))
async def test_one_source_has_its_share_and_no_more(program: Program) -> None:
    excess = rounds(100, 1_000, 4_000)
    program.settings["PROVISIONER_ENDPOINT__MAX_CONNECTIONS_PER_SOURCE"] = str(share := rounds(50, PER_SOURCE, 2_000))
    program.start()
    try:
        async with await Site.at(program) as site:
            process = psutil.Process(program.pid)
            before = process.memory_info().rss
            crowd = Crowd(site)
            crowd.gather(share + excess, [LONELY], ("silent",))
            request = await site.request()
            device = site.device(request.client_id, request.key, source=LONELY)
            async with asyncio.timeout(30):
                while crowd.came["silent"] < share + excess:  # noqa: ASYNC110  nothing tells
                    await asyncio.sleep(0.05)
            # Who has just been thrown out counts for one more turn of the event loop, so a single look may see more.
            held = statistics.median_high([await connections(site) for _ in range(21)])
            grown = process.memory_info().rss - before
            offer = await device.provision()
            assert (await device.ack("stored", offer.generation)).reason == "confirmed"
            await crowd.leave()
    finally:
        program.stop()
    assert held <= share + 1
    record("one-source", "H-7", tried=share + excess, held=held, memory_kib=grown // 1024, device_there="served")
