"""What a crowd is told: too many claims at once, whoever they are from, are sent away for a moment."""

import asyncio
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.mqtt.backlog import BacklogLimits
from broker.mqtt.interface import Answer, Inbound
from broker.mqtt.responder import Responder
from provisioner.handover import claim_proof, derive, encode64
from tests.provisioner.conftest import START, World, build

ALWAYS = BacklogLimits().always


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = await build(tmp_path)
    yield made
    await made.jobs.close()
    await made.store.close()


def claim(key: str, request_id: str = "r-1") -> Inbound:
    nonce = encode64(os.urandom(16))
    proof = claim_proof(derive(key, "factory", "dev-1").auth, request_id, nonce, "", "", (), "")
    payload = json.dumps({"requestId": request_id, "nonce": nonce, "proof": encode64(proof)}).encode()
    return Inbound("factory", "dev-1", "request", payload, "127.0.0.1", True, False, 1, None)


async def test_claims_beyond_what_is_answered_in_time_are_told_when_to_come_again(world: World) -> None:
    created = await world.request()
    assert created.activation_key
    key = created.activation_key.reveal()
    responder = Responder(world.provisioner, lambda: START, os.urandom)
    world.broker.gate = asyncio.Event()
    crowd = {asyncio.create_task(responder.answer(claim(key))) for _ in range(ALWAYS + 50)}
    sent_away: set[asyncio.Task[Answer]] = set()
    async with asyncio.timeout(20):
        while len(sent_away) < 50:
            sent_away, _ = await asyncio.wait(crowd, return_when=asyncio.FIRST_COMPLETED)
    messages = [claim(key), claim("W" * 32)]
    right, wrong = [json.loads((await responder.answer(message)).payload) for message in messages]
    for reply, message in zip((right, wrong), messages, strict=True):
        assert (reply["code"], reply["reason"], reply["requestId"]) == (429, "slow-down", "r-1")
        assert reply["nonce"] == json.loads(message.payload)["nonce"]
        assert 1 <= reply["retryAfter"] <= BacklogLimits().longest
    # Nobody learns from it which key is right.
    assert right.keys() == wrong.keys()
    assert "proof" not in right
    world.broker.gate.set()
    async with asyncio.timeout(20):
        answers = [json.loads((await task).payload) for task in crowd]
        after = json.loads((await responder.answer(claim(key))).payload)
    reasons = [answer["reason"] for answer in answers]
    assert (reasons.count("offer"), reasons.count("slow-down")) == (ALWAYS, 50)
    assert after["reason"] == "offer"
