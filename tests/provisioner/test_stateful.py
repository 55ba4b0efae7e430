"""The service against a small model of the contract, in every order of messages, acks, time and operator's verbs.

The model is written from the table of phases alone (wire contract, section 9) and knows nothing of units, jobs or rows.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar

from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.strategies import integers, sampled_from

from provisioner.creation import Created
from provisioner.errors import Conflict, Reason, Rejected
from provisioner.lifecycle import Phase
from provisioner.model import Result
from tests.provisioner.conftest import ADMIN, SimpleDevice, World, build

T = TypeVar("T")

ATTEMPTS = 3
REQUEST_IDS = [f"r-{number}" for number in range(6)]
_SHUT = (Phase.STOPPED, Phase.ABANDONED)


@dataclass
class Model:
    """What one request is, after the contract."""

    phase: Phase = Phase.PENDING
    enabled: bool = True
    generation: int = 0
    proved: int | None = None
    attempts: int = 0
    rotate: bool = False
    offered: bool = False
    bound: dict[str, int] = field(default_factory=dict)

    @property
    def live(self) -> set[int]:
        """Generations that the device broker admits."""
        return {one for one in (self.proved, self.generation if self.offered else None) if one is not None}

    def claim(self, request_id: str) -> Reason:
        if not self.enabled:
            return Reason.DISABLED
        if self.phase in _SHUT:
            return Reason.ABANDONED
        bound = self.bound.get(request_id)
        if bound is not None and bound != self.proved and (bound != self.generation or not self.offered):
            return Reason.SUPERSEDED
        if (bound is not None and bound == self.proved) or (self.phase is Phase.CONFIRMED and not self.rotate):
            return Reason.ALREADY_PROVISIONED
        if not self.offered:
            if self.attempts >= ATTEMPTS:
                return Reason.ABANDONED
            self.phase = Phase.OFFERED if self.phase is Phase.PENDING else Phase.RENEWING
            self.generation += 1
            self.attempts += 1
            self.offered = True
        self.bound.setdefault(request_id, self.generation)
        return Reason.OFFER

    def ack(self, generation: int, result: Result) -> Reason:
        if generation == self.proved:
            return Reason.CONFIRMED if result is Result.STORED else Reason.ALREADY_PROVISIONED
        if generation > self.generation:
            return Reason.BAD_REQUEST
        if generation != self.generation or not self.offered:
            return Reason.SUPERSEDED
        if result is Result.FAILED:
            self.give_up()
            return Reason.NOTED
        self.phase, self.proved, self.offered, self.rotate = Phase.CONFIRMED, generation, False, False
        return Reason.CONFIRMED

    def give_up(self) -> None:
        """The unproved generation is retired, and gone."""
        if not self.offered:
            return
        self.offered = False
        if self.phase is Phase.RENEWING:
            self.phase = Phase.CONFIRMED
            self.rotate = self.rotate and self.attempts < ATTEMPTS
        else:
            self.phase = Phase.ABANDONED if self.attempts >= ATTEMPTS else Phase.PENDING

    def stop(self) -> bool:
        if self.phase in (Phase.CONFIRMED, *_SHUT):
            return False
        if self.phase is Phase.RENEWING:
            self.phase, self.offered, self.rotate = Phase.CONFIRMED, False, False
        else:
            self.phase, self.offered = Phase.STOPPED, False
        return True

    def revoke(self) -> bool:
        if self.phase not in (Phase.OFFERED, Phase.CONFIRMED, Phase.RENEWING):
            return False
        self.phase, self.offered, self.proved = Phase.STOPPED, False, None
        return True

    def turn(self) -> bool:
        """Rotate."""
        if self.phase not in (Phase.CONFIRMED, Phase.RENEWING):
            return False
        self.attempts = self.attempts if self.phase is Phase.RENEWING else 0
        self.rotate = True
        return True

    def reopen(self) -> bool:
        if self.phase not in (Phase.CONFIRMED, Phase.RENEWING, *_SHUT):
            return False
        self.phase, self.offered, self.proved, self.attempts, self.rotate = Phase.PENDING, False, None, 0, False
        return True


class Story(RuleBasedStateMachine):
    """One device, one request, one operator."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.loop = asyncio.new_event_loop()
        self.folder = tempfile.TemporaryDirectory()
        self.world: World
        self.created: Created
        self.device: SimpleDevice

    def wait(self, work: Awaitable[T]) -> T:
        async def run() -> T:
            return await work

        return self.loop.run_until_complete(run())

    def answer(self, work: Awaitable[T]) -> tuple[Reason | None, T | None]:
        """Why it was refused, or what came of it."""
        try:
            return None, self.wait(work)
        except Rejected as refusal:
            return refusal.reason, None

    @initialize()
    def begin(self) -> None:
        self.world = self.wait(build(Path(self.folder.name)))
        self.created = self.wait(self.world.request(retry_max_attempts=ATTEMPTS))
        self.device = self.world.device(self.created)

    def teardown(self) -> None:
        self.wait(self.world.jobs.close())
        self.wait(self.world.store.close())
        self.loop.close()
        self.folder.cleanup()

    @rule(request_id=sampled_from(REQUEST_IDS))
    def claim(self, request_id: str) -> None:
        expected = self.model.claim(request_id)
        reason, offer = self.answer(self.device.claim(request_id))
        assert (reason or Reason.OFFER) is expected
        assert offer is None or offer.generation == self.model.generation

    @rule(request_id=sampled_from(REQUEST_IDS))
    def claim_with_a_wrong_key(self, request_id: str) -> None:
        stranger = replace(self.device, key="Z" * 32)
        reason, _ = self.answer(stranger.claim(request_id))
        assert reason in (Reason.DENIED, Reason.SLOW_DOWN)

    @rule(back=integers(-1, 2), result=sampled_from([Result.STORED, Result.FAILED]))
    def ack(self, back: int, result: Result) -> None:
        generation = max(1, self.model.generation - back)
        expected = self.model.ack(generation, result)
        reason, taken = self.answer(self.device.ack(generation, result))
        assert (reason if taken is None else taken.reason) is expected

    @rule()
    def the_confirm_time_passes(self) -> None:
        self.world.now += 25 * 3_600_000
        self.model.give_up()

    @rule(verb=sampled_from(["stop", "revoke", "turn", "reopen"]))
    def the_operator_acts(self, verb: str) -> None:
        done = getattr(self.model, verb)()
        act = getattr(self.world.administration, "rotate" if verb == "turn" else verb)
        try:
            self.wait(act(ADMIN, self.created.request.id, self.world.now))
        except Conflict:
            assert not done
        else:
            assert done

    @precondition(lambda self: self.model.phase not in _SHUT)
    @rule()
    def the_operator_turns_the_switch(self) -> None:
        self.model.enabled = not self.model.enabled
        turn = self.world.administration.enable if self.model.enabled else self.world.administration.disable
        self.wait(turn(ADMIN, self.created.request.id, self.world.now))

    @invariant()
    def the_ledger_and_the_device_broker_agree_with_the_model(self) -> None:
        if not hasattr(self, "world"):
            return
        self.wait(self.world.run_jobs())
        request = self.wait(self.world.read(self.created.request.id))
        told = (request.phase, request.proved_generation, request.retry_count, request.rotate_wanted)
        assert told == (self.model.phase, self.model.proved, self.model.attempts, self.model.rotate)
        assert {int(name.rpartition(".g")[2]) for name in self.world.broker.live} == self.model.live


TestStory = Story.TestCase
TestStory.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
