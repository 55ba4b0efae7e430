"""What a chaotic responder does, and that its seed decides it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from broker.fleet.actions import Identity, Options
from broker.fleet.messages import Messages
from broker.fleet.replies import Encoding, Reply, parse_reply
from broker.mqtt.chaos import ChaoticResponder, Moods
from broker.mqtt.endpoint import Inbound
from tests.provisioner.conftest import World, build

CALM = Moods(seed=1, wait=0, double=0, drop=0, delay=0)
NOISE = Inbound("factory", "dev-1", "request", b"noise", "127.0.0.1", True, False, 1, None)
NONCE = "n" * 22


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = await build(tmp_path)
    yield made
    await made.jobs.close()
    await made.store.close()


def responder(world: World, moods: Moods) -> ChaoticResponder:
    return ChaoticResponder(world.provisioner, lambda: world.now, os.urandom, moods)


async def copies(world: World, moods: Moods, client_ids: str = "a", count: int = 60) -> dict[str, list[int]]:
    """How often each of the first `count` replies to these clients is sent; they take turns."""
    server = responder(world, moods)
    sent: dict[str, list[int]] = {client_id: [] for client_id in client_ids}
    for _ in range(count):
        for client_id in client_ids:
            sent[client_id].append((await server.answer(replace(NOISE, client_id=client_id))).copies)
    return sent


async def test_the_same_seed_decides_the_same_whatever_others_do(world: World) -> None:
    moods = replace(CALM, double=0.3, drop=0.3)
    alone = await copies(world, moods)
    assert (await copies(world, moods, "bac"))["a"] == alone["a"]
    assert await copies(world, replace(moods, seed=2)) != alone
    assert Counter(alone["a"]).keys() == {0, 1, 2}


async def test_the_rates_are_kept(world: World) -> None:
    sent = await copies(world, replace(CALM, double=0.05, drop=0.02), count=2000)
    counted = Counter(sent["a"])
    assert 60 < counted[2] < 140
    assert 20 < counted[0] < 65


async def test_without_moods_nothing_happens(world: World) -> None:
    assert set((await copies(world, CALM))["a"]) == {1}


async def claim(world: World, moods: Moods) -> tuple[Messages, Reply]:
    """One good claim and the reply to it."""
    created = await world.request()
    assert created.activation_key is not None
    identity = Identity("factory", "", "dev-1", created.activation_key.reveal())
    messages = Messages(identity, Options(), os.urandom)
    inbound = replace(NOISE, payload=messages.claim("r-1", NONCE, None))
    answer = await responder(world, moods).answer(inbound)
    return messages, parse_reply(answer.payload, Encoding.JSON)


async def test_an_offer_withheld_is_a_proved_wait_and_stays_there(world: World) -> None:
    messages, reply = await claim(world, replace(CALM, wait=1))
    assert (reply.code, reply.reason, reply.nonce) == (202, "wait", NONCE)
    assert reply.retry_after is not None
    assert 1 <= reply.retry_after <= 5
    messages.check(reply.proof or "", reply)
    assert len(world.broker.live) == 1
    again = replace(NOISE, payload=messages.claim("r-1", "m" * 22, None))
    answer = await responder(world, CALM).answer(again)
    offer = messages.read_offer(parse_reply(answer.payload, Encoding.JSON))
    assert (offer.generation, world.broker.live) == (1, [offer.username])


async def test_it_is_loud_about_itself(world: World) -> None:
    with capture_logs() as logs:
        await responder(world, CALM).answer(NOISE)
    assert logs[0]["log_level"] == "warning"
    assert "chaos is on" in logs[0]["event"]
    assert logs[-1] == {"event": "chaos", "log_level": "info", "client_id": "dev-1", "copies": 1, "delay_ms": 0}
