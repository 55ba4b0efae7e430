"""P-6: what a connected, subscribed provisioning session costs the real program: at most 20 KiB, without TLS.

The memory is that of the process. A first crowd comes and goes before, so that what is kept for later connections is
there already when the counting begins.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from broker.fleet.link import Link, Login
from broker.fleet.replies import Address
from tests.bench.programs import Server, provisioner
from tests.proof.scale import record, rounds

MOST = 20 * 1024
_AT_ONCE = 50


async def crowd(server: Server, count: int) -> list[Link]:
    """Connect and subscribe so many devices."""
    user, password = server.login
    numbers = iter(range(count))
    links: list[Link] = []

    async def work() -> None:
        for number in numbers:
            client_id = f"small-{number:05}"
            link = await Link.open(Address("127.0.0.1", server.port), Login(client_id, user, password), seconds=30)
            links.append(link)
            await link.subscribe(f"prov/v1/{user}/{client_id}/reply")

    async with asyncio.TaskGroup() as group:
        for _ in range(_AT_ONCE):
            group.create_task(work())
    return links


async def leave(links: list[Link]) -> None:
    await asyncio.gather(*(link.close() for link in links))


@pytest.mark.timeout(rounds(60, 300, 300))
async def test_a_connected_session_costs_at_most_20_kib(tmp_path: Path) -> None:
    count = rounds(500, 5_000, 8_000)
    settings = {
        "PROVISIONER_ENDPOINT__MAX_CONNECTIONS_PER_SOURCE": "10000",
        "PROVISIONER_ENDPOINT__FIRST_CLAIM_TIME": "300",
    }
    async with provisioner(tmp_path, settings) as server:
        await leave(await crowd(server, 100))
        before = server.process.memory_info().rss
        links = await crowd(server, count)
        each = (server.process.memory_info().rss - before) / count
        await leave(links)
    assert each <= MOST
    record("sessions", "P-6", sessions=count, each=f"{each / 1024:.1f} KiB", most=f"{MOST / 1024:.0f} KiB")
