"""H-3: guessing activation keys: no hit, no attempt used up, and the true device is served all the while.

1. The service is asked in process, as fast as it answers; over sockets strangers come from many addresses, hold as many
   sessions as they may while leaving the device a seat, and start new ones as the old ones are slowed down.
2. Half of the guesses are the true key with a mistake: a comparison that looks at a part only would fall for them.
"""

from __future__ import annotations

import asyncio
import json
import random
import string
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from provisioner import handover
from provisioner.errors import Rejected
from provisioner.lifecycle import Phase
from provisioner.model import Ack, Claim, Origin, Proof, Result, Secret
from tests.e2e.packets import EndedError, RefusedError, Session
from tests.e2e.program import FLOOR_PASSWORD, FLOOR_USER, Program, Request, Site, fresh_source
from tests.proof.scale import record, rounds
from tests.provisioner.conftest import World, build

GUESSES = rounds(5_000, 1_000_000, 3_000_000)
SOCKET_GUESSES = rounds(150, 10_000, 50_000)
AT_ONCE = 50
STRANGERS = 12
PATIENCE = 5.0
"""Seconds within which the true device is served, at the 99th percentile."""

_ALPHABET = string.ascii_letters + string.digits
_A_SESSIONS_WORTH = 7
_GROWTH = 32 * 2**20


def guesses(key: str, chance: random.Random) -> Iterator[str]:
    """Keys that are not `key`: every other one is nearly so."""
    while True:
        yield "".join(chance.choices(_ALPHABET, k=len(key)))
        at = chance.randrange(len(key))
        other = chance.choice(_ALPHABET.replace(key[at], ""))
        yield chance.choice(
            (
                key[:at] + other + key[at + 1 :],
                key[:-1],
                key + other,
                key.swapcase(),
                key[1:] + key[0],
                key[:22],
                key * 2,
            )
        )


def percentile(values: list[float], share: float) -> float:
    """The value that this share of them does not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


class Guesser:
    """A stranger at the service."""

    def __init__(self, world: World, key: str) -> None:
        self._world = world
        self._guesses = guesses(key, random.Random(1))
        self.answers: Counter[str] = Counter()
        self.tried = 0

    async def guess(self) -> None:
        """Try the next key, in one of the ways there are."""
        self.tried += 1
        key, origin = next(self._guesses), Origin(f"198.51.100.{self.tried % 250}", self.tried, secure=True)
        keys, nonce = handover.derive(key, "factory", "dev-1"), handover.encode64(self.tried.to_bytes(16))
        way, service, now = self.tried % 4, self._world.provisioner, self._world.now
        try:
            if way == 0:
                await service.claim(Claim("factory", "dev-1", "r-1", origin, key=Secret(key)), now)
            elif way == 1:
                proof = Proof(nonce, handover.claim_proof(keys.auth, "r-1", nonce, "", "", (), ""))
                await service.claim(Claim("factory", "dev-1", "r-1", origin, proof=proof), now)
            elif way == 2:
                await service.ack(Ack("factory", "dev-1", "r-1", 1, Result.STORED, origin, key=Secret(key)), now)
            else:
                proof = Proof(nonce, handover.ack_proof(keys.auth, "r-1", nonce, 1, "failed", ""))
                await service.ack(Ack("factory", "dev-1", "r-1", 1, Result.FAILED, origin, proof=proof), now)
        except Rejected as refusal:
            self.answers["proved" if refusal.conversation else refusal.reason] += 1
        else:
            raise AssertionError(f"guess {self.tried} was taken")

    async def go_on(self, until: int) -> None:
        """Guess until so many have been tried."""
        while self.tried < until:
            await self.guess()


@pytest.mark.timeout(3000)
async def test_guesses_at_the_service_find_nothing(tmp_path: Path) -> None:
    world = await build(tmp_path)
    try:
        created = await world.request()
        assert created.activation_key is not None
        device = world.device(created)
        first = await device.claim()
        before = await world.read(created.request.id)
        guesser, took, process = Guesser(world, created.activation_key.reveal()), [], psutil.Process()
        await guesser.go_on(GUESSES // 10)
        warm, parts = process.memory_info().rss, 100
        for part in range(1, parts + 1):
            crowd = [guesser.go_on(GUESSES * part // parts) for _ in range(AT_ONCE)]
            strangers = asyncio.gather(*crowd)
            began = time.perf_counter()
            again = await device.claim(f"r-{part}")
            took.append(time.perf_counter() - began)
            assert (again.generation, again.password) == (1, first.password)
            await strangers
            world.now += 1000
        grown = process.memory_info().rss - warm
        after = await world.read(created.request.id)
        assert set(guesser.answers) <= {"denied", "slow-down"}
        assert guesser.tried >= GUESSES
        assert (after.retry_count, after.phase, after.generation) == (before.retry_count, Phase.OFFERED, 1)
        assert percentile(took, 0.99) < PATIENCE
        assert grown < _GROWTH, f"{grown / 2**20:.1f} MiB more"
        assert (await device.ack()).reason == "confirmed"
    finally:
        await world.jobs.close()
        await world.store.close()
    record(
        "guesses", "H-3", guesses=guesser.tried, hits=0, true_device_p99_ms=round(percentile(took, 0.99) * 1000, 1),
        grown_mib=round(grown / 2**20, 1),
    )  # fmt: skip


class Stranger:
    """Somebody with the provisioning login at the real endpoint."""

    def __init__(self, program: Program, request: Request, seed: int) -> None:
        self._program = program
        self._request = request
        self._guesses = guesses(request.key, random.Random(seed))
        self._source = fresh_source()
        self.answers: Counter[str] = Counter()
        self.tried = 0

    async def guess(self, count: int) -> None:
        """Try so many keys over as many sessions as that takes."""
        while self.tried < count:
            try:
                session = await Session.login(
                    self._program.endpoint, self._request.client_id, FLOOR_USER, FLOOR_PASSWORD, source=self._source
                )
            except RefusedError as refused:
                self.answers["full" if refused.code == 3 else f"CONNACK {refused.code}"] += 1
                continue
            async with session:
                try:
                    await self._talk(session)
                except EndedError:
                    self.answers["ended"] += 1

    async def _talk(self, session: Session) -> None:
        topic = f"prov/v1/{FLOOR_USER}/{self._request.client_id}/"
        for number in range(_A_SESSIONS_WORTH):
            body: dict[str, object] = {"requestId": "r-1", "activationKey": next(self._guesses)}
            if number % 2:
                body |= {"generation": 1, "result": "failed"}
            await session.publish(topic + ("ack" if number % 2 else "request"), json.dumps(body).encode(), 0)
        for _ in range(_A_SESSIONS_WORTH):
            answer = json.loads((await session.message()).payload)
            assert "credentials" not in answer
            assert "sealed" not in answer
            self.answers[answer["reason"]] += 1
            self.tried += 1


@pytest.mark.timeout(1200)
async def test_guesses_over_sockets_find_nothing(tmp_path: Path) -> None:
    program = await asyncio.to_thread(Program(tmp_path / "data").start)
    try:
        async with await Site.at(program) as site:
            device, request = await site.unit()
            offer = await device.provision()
            await device.close()
            before = await request.job()
            crowd = [Stranger(program, request, seed) for seed in range(STRANGERS)]
            attack = asyncio.gather(*(one.guess(SOCKET_GUESSES // STRANGERS + 1) for one in crowd))
            took: list[float] = []
            while not attack.done() or len(took) < 3:
                began = time.perf_counter()
                again = await device.provision()
                took.append(time.perf_counter() - began)
                await device.close()
                assert again.credentials == offer.credentials
            await attack
            after = await request.job()
            answers = sum((one.answers for one in crowd), Counter())
            assert set(answers) <= {"denied", "slow-down", "full", "ended"}, answers
            assert (await request.phase(), after["retryCount"]) == ("OFFERED", before["retryCount"])
            assert percentile(took, 0.99) < PATIENCE, took
            assert (await device.ack("stored", offer.generation)).reason == "confirmed"
    finally:
        await asyncio.to_thread(program.stop)
    tried = sum(one.tried for one in crowd)
    assert tried >= SOCKET_GUESSES
    record(
        "guesses-sockets", "H-3", guesses=tried, hits=0, true_device_served=len(took),
        true_device_p99_ms=round(percentile(took, 0.99) * 1000, 1),
    )  # fmt: skip
