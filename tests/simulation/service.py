"""One process of the service, from its start until it is killed: the real parts, put together as `broker.parts` does.

1. What a message came to is checked before it leaves; whatever nobody expected breaks the run.
2. It answers once it took over what a dead process left, as the program does before it listens.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from broker.lifetime import Stepper
from broker.mqtt import messages
from broker.mqtt.messages import Body
from provisioner.administration import Administration
from provisioner.admission import Admission, WrongKeyRates
from provisioner.errors import ProvisionerError, Reason, Refused, Rejected, Unavailable
from provisioner.handover import Vault
from provisioner.jobs import Jobs
from provisioner.logins import Logins
from provisioner.model import Ack, Claim, Millis, Offer, Origin, Taken
from provisioner.passwords import Passwords
from provisioner.service import Provisioner, Rules
from provisioner.store import SqliteStore
from tests.simulation.brokers import NAME
from tests.simulation.loop import WORLD, Life
from tests.simulation.rules import Broken

if TYPE_CHECKING:
    from broker.fleet.replies import Credential
    from tests.simulation.world import World

USER = "factory"


@dataclass(frozen=True)
class Letter:
    """A message to the service. `key` numbers the activation key it was made with; 0: none of ours."""

    kind: str
    client_id: str
    payload: bytes
    source: str
    connection: int
    secure: bool
    key: int


class Service:
    """See the module. `patience` is how long a claim waits for its install, seconds."""

    def __init__(self, world: World, patience: float) -> None:
        self.life = Life()
        self.is_up = False
        self.working: list[tuple[str, Millis, bool]] = []
        """What is being answered: client id, the clock when it came, whether it is an ack `failed`."""
        self._world = world
        self._patience = patience
        self.do(self._live())

    def do(self, work: Coroutine[Any, Any, object]) -> asyncio.Task[Any]:
        """Have this process do something."""
        return self._world.loop.create_task(work, context=self.life.context)

    # -- its life ------------------------------------------------------------------------------------------------------

    async def _live(self) -> None:
        world = self._world
        entropy = world.rng.randbytes
        store = SqliteStore(world.disk.hop(self.life, writes=True), world.disk.hop(self.life, writes=False), -1)
        vault = Vault(world.vault_keys, entropy)
        passwords = Passwords(entropy)
        logins = Logins(store, passwords)
        brokers = {NAME: world.brokers.port()}
        wake = asyncio.Event()
        self._jobs = Jobs(store, brokers, vault, entropy)
        self._jobs.wake = wake.set
        rules = Rules(install_wait=self._patience)
        self.provisioner = Provisioner(
            store, vault, brokers, self._jobs, logins, Admission(WrongKeyRates()), rules, messages.measure, entropy
        )
        try:
            newest_id = await store.newest_id()
            await self._jobs.recover()
        except Unavailable:
            world.crash("at its start")
            return
        self.administration = Administration(
            store,
            vault,
            logins,
            passwords,
            brokers,
            entropy,
            default_broker=NAME,
            provision_account="provision",
            confirm_time=300,
            newest_id=newest_id,
            wake=wake.set,
        )
        self.is_up = True
        world.tell("service", "up")
        await Stepper("jobs", self._step, world.clock, wake).run()

    async def _step(self, now: Millis) -> Millis:
        try:
            return await self._jobs.step(now)
        except Unavailable:
            raise
        except Exception as error:
            self._world.fail(error, "the jobs")
            raise

    # -- devices -------------------------------------------------------------------------------------------------------

    def login(self, client_id: str, password: bytes, answer: Callable[[bool], None]) -> None:
        """A device connects."""

        async def work() -> None:
            try:
                admitted = await self.provisioner.login(USER, password, client_id)
            except Unavailable:
                admitted = False
            self._later(answer, admitted)

        self.do(work())

    def device_login(self, credential: Credential, answer: Callable[[bool | None], None]) -> None:
        """A device logs in at the embedded device broker."""

        async def work() -> None:
            now = self._world.clock()
            try:
                rights = await self.provisioner.device_login(
                    NAME, credential.username, credential.password.encode(), credential.client_id, now
                )
            except Unavailable:
                self._later(answer, None)
                return
            except Exception as error:
                self._world.fail(error, f"the login of {credential.username}")
                raise
            self._later(answer, rights is not None)

        if self.is_up:
            self.do(work())
        else:
            answer(None)

    def answer(self, letter: Letter, reply: Callable[[bytes], None]) -> None:
        """A message came; `reply` gets the bytes that leave."""
        self.do(self._answer(letter, reply))

    async def _answer(self, letter: Letter, reply: Callable[[bytes], None]) -> None:
        now = self._world.clock()
        body = Body(letter.payload)
        body.read(letter.payload)
        is_claim = letter.kind == "request"
        mark = (letter.client_id, now, not is_claim and body.members["result"] == "failed")
        self.working.append(mark)
        outcome: Offer | Taken | ProvisionerError
        try:
            outcome = await self._outcome(letter, body, now)
        except ProvisionerError as error:
            outcome = error
        except Exception as error:
            self._world.fail(error, f"{letter.kind} of {letter.client_id}")
            raise
        finally:
            self.working.remove(mark)
        self._check(letter, outcome)
        self._world.tell("service", f"answers {letter.client_id}", body.request_id, _words(outcome))
        self._later(reply, messages.encode(outcome, body, "trace", self._world.rng.randbytes))

    async def _outcome(self, letter: Letter, body: Body, now: Millis) -> Offer | Taken:
        origin = Origin(letter.source, letter.connection, secure=letter.secure)
        if letter.kind == "request":
            claim: Claim = messages.parse_claim(body, USER, letter.client_id, origin)
            return await self.provisioner.claim(claim, now)
        ack: Ack = messages.parse_ack(body, USER, letter.client_id, origin)
        return await self.provisioner.ack(ack, now)

    def _check(self, letter: Letter, outcome: Offer | Taken | ProvisionerError) -> None:
        rules = self._world.rules
        with self._world.judging():
            if isinstance(outcome, Offer):
                rules.check_offer(outcome)
            elif isinstance(outcome, Taken):
                rules.check_taken(letter.client_id, outcome)
            elif isinstance(outcome, Rejected):
                if letter.key == self._world.right_key(letter.client_id):
                    rules.check_right_key(letter.client_id, outcome.reason)
                if letter.key == 0 and outcome.reason not in (Reason.DENIED, Reason.SLOW_DOWN):
                    raise Broken("rule 7", f"a wrong key was told {outcome.reason}")
            if isinstance(outcome, Refused):
                raise Broken("errors", f"a message was answered as if an operator had sent it: {outcome}")
            if letter.key == 0 and isinstance(outcome, (Offer, Taken)):
                raise Broken("rule 7", "a wrong key was good for an answer")

    def _later(self, tell: Callable[[Any], None], what: object) -> None:
        """Out of this process: what happens there goes on without it."""
        self._world.loop.call_soon(tell, what, context=WORLD)


def _words(outcome: Offer | Taken | ProvisionerError) -> str:
    if isinstance(outcome, Offer):
        return f"offer of generation {outcome.generation}"
    if isinstance(outcome, (Taken, Rejected)):
        return str(outcome.reason)
    return f"unavailable: {outcome}"
