"""H-2: the hostile corpus, through the responder and over sockets: refused with its code, quickly, logged safely."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cbor2
import pytest
import structlog

from broker import log
from broker.mqtt.interface import Inbound
from broker.mqtt.responder import Responder
from provisioner.lifecycle import Phase
from provisioner.model import Secret
from tests.e2e.packets import EndedError, RefusedError, Session
from tests.e2e.program import FLOOR_PASSWORD, Program, Site, fresh_source
from tests.hostile.client_ids import CLIENT_IDS, TEXTS
from tests.hostile.payloads import CLIENT_ID, GOOD_CLAIMS, KEY, USER, Hostile, every_payload
from tests.proof.scale import record, rounds
from tests.provisioner.conftest import World, build

LIMIT = 0.005
"""Seconds of processor time for one message."""

# Below the packets that a session takes at once.
_A_SESSIONS_WORTH = 8


def read(payload: bytes) -> dict[str, Any]:
    found = cbor2.loads(payload) if payload[0] >= 0xA0 else json.loads(payload)
    assert isinstance(found, dict)
    return found


def sample(found: Sequence[Any]) -> list[Any]:
    """All of them, or every so many of them when it has to be quick."""
    return list(found[:: rounds(20, 1, 1)])


def check_lines(said: str) -> list[dict[str, Any]]:
    """Every line of a log is one event, in printable ASCII."""
    assert said.isascii()
    assert all(char == "\n" or char.isprintable() for char in said)
    return [json.loads(line) for line in said.splitlines()]


@pytest.fixture
def said() -> Iterator[io.StringIO]:
    """What is logged; the process's logging is as before afterwards."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    stream = io.StringIO()
    log.configure("debug", "json", stream)
    yield stream
    root.handlers[:], root.level = before
    structlog.reset_defaults()


async def answer(responder: Responder, one: Hostile) -> tuple[str, float]:
    """The reason and the processor time of one answer; the least of three where it is slow, as others work here too."""
    took = []
    for _ in range(3):
        began = time.thread_time()
        inbound = Inbound(USER, CLIENT_ID, one.kind, one.payload, "127.0.0.1", True, False, 1, None)
        reply = await responder.answer(inbound)
        took.append(time.thread_time() - began)
        if took[-1] < LIMIT:
            break
    return str(read(reply.payload)["reason"]), min(took)


async def test_the_responder_refuses_the_corpus(tmp_path: Path, said: io.StringIO) -> None:
    world = await build(tmp_path)
    try:
        created = await world.request(CLIENT_ID, activation_key=Secret(KEY), generate_key=False)
        before = await world.read(created.request.id)
        responder = Responder(world.provisioner, lambda: world.now, os.urandom)
        corpus, slowest = every_payload(), 0.0
        for one in corpus:
            reason, took = await answer(responder, one)
            assert reason == one.reason, one
            assert took < LIMIT, f"{one}: {took * 1000:.1f} ms"
            slowest = max(slowest, took)
        assert await world.read(created.request.id) == before
        lines = [line for line in check_lines(said.getvalue()) if line["event"] == "answered"]
        assert len(lines) >= len(corpus)
        assert KEY not in said.getvalue()
        await check_good(world, responder)
        assert (await world.read(created.request.id)).phase is Phase.OFFERED
    finally:
        await world.jobs.close()
        await world.store.close()
    record("corpus", "H-2", payloads=len(corpus), accepted=0, slowest_ms=round(slowest * 1000, 2), control_bytes=0)


async def check_good(world: World, responder: Responder) -> None:
    """The corpus is one step from being accepted: without the wrong thing the same messages are."""
    for payload in GOOD_CLAIMS[:3]:
        reason, _ = await answer(responder, Hostile("good", payload))
        assert reason == "offer"


@pytest.mark.timeout(600)
async def test_the_program_refuses_the_corpus(tmp_path: Path) -> None:
    program = await asyncio.to_thread(Program(tmp_path / "data").start)
    try:
        async with await Site.at(program) as site:
            request = await site.request(
                CLIENT_ID, activationKey=KEY, generateActivationKey=False, provisionUserUsername="hostile-floor"
            )
            before = await request.read()
            counts = {
                "connects": await refuse_connects(program),
                "topics": await refuse_topics(program),
                "messages": await refuse_messages(program),
                "creators": await refuse_creators(site),
            }
            assert await request.read() == before
    finally:
        await asyncio.to_thread(program.stop)
    check_lines("".join(program.errors))
    record("corpus-sockets", "H-2", accepted=0, control_bytes=0, **counts)


async def login(program: Program, version: int = 4) -> Session:
    return await Session.login(
        program.endpoint, CLIENT_ID, "hostile-floor", FLOOR_PASSWORD, version=version, source=fresh_source()
    )


async def refuse_connects(program: Program) -> int:
    """Every hostile client id, at both listeners; with the right login of the endpoint."""
    ids = sample(CLIENT_IDS)
    for number, client_id in enumerate(ids):
        for address, version in ((program.endpoint, 4 + number % 2), (program.device_broker, 4)):
            async with await Session.open(address, version) as session:
                try:
                    connack = await session.connect(client_id, "hostile-floor", FLOOR_PASSWORD)
                except EndedError:  # no UTF-8, NUL: malformed, which has no answer in 3.1.1
                    assert not _is_fine(client_id), client_id
                else:
                    assert connack.code in (2, 0x85, 0x81), (client_id, connack)
    return 2 * len(ids)


def _is_fine(client_id: bytes) -> bool:
    """Whether MQTT lets these bytes be a string."""
    try:
        return "\0" not in client_id.decode()
    except UnicodeDecodeError:
        return False


async def refuse_topics(program: Program) -> int:
    """Publishing for a hostile client id, and subscribing to it, from a session with the right login."""
    ids = [text for text in sample(TEXTS) if len(text) < 10_000]
    for number, text in enumerate(ids):
        topic = f"prov/v1/hostile-floor/{text}"
        session = await login(program, 4 + number % 2)
        async with session:
            try:
                codes = await session.subscribe((f"{topic}/reply", 1))
                assert codes in ([0x80], [0x87]), text
                await session.publish(f"{topic}/request", GOOD_CLAIMS[0], 0)
                await session.ended()
            except (EndedError, RefusedError):
                pass
            assert all(read(message.payload)["reason"] == "bad-request" for message in session.inbox)
    return len(ids)


async def refuse_messages(program: Program) -> int:
    """Hostile claims and acks from sessions with the right login."""
    corpus = [one for one in sample(every_payload()) if len(one.payload) < 16_000]
    for start in range(0, len(corpus), _A_SESSIONS_WORTH):
        session = await login(program, 4 + start // _A_SESSIONS_WORTH % 2)
        async with session:
            for one in corpus[start : start + _A_SESSIONS_WORTH]:
                await session.publish(f"prov/v1/hostile-floor/{CLIENT_ID}/{one.kind}", one.payload, 0)
                assert read((await session.message()).payload)["reason"] == one.reason, one
    return len(corpus)


async def refuse_creators(site: Site) -> int:
    """Requests for hostile client ids."""
    ids = sample(TEXTS)
    form = await site.form("good")
    for text in ids:
        answer = await site.operator.http.post("/v2/provisionRequests", json=form | {"clientId": text})
        assert answer.status_code in (400, 422), text
        assert answer.json()["code"] in ("invalid", "invalid-identifier", "malformed-json"), answer.text
    return len(ids)
