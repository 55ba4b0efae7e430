"""Devices and operators that go on whatever happens to the program, and remember what they were told.

1. A story is told to its end: a lost connection, a kill, a start in between are no reason to give up. Waiting is on the
   program being up.
2. What an answer said is noted before anything else is done; `Story.check` compares it with a ledger.
3. What may be taken away is noted before it is asked for.
"""

from __future__ import annotations

import asyncio
import base64
import itertools
import secrets
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from tempfile import NamedTemporaryFile
from typing import Any, TypeVar

import httpx2

from broker.fleet.device_key import SEED_SIZE, DeviceKey
from broker.fleet.keys import csr_hash
from broker.fleet.link import Link, Login, Lost
from broker.fleet.link import Refused as LoginRefused
from broker.fleet.replies import Address
from tests.e2e.independent import IndependentDevice, Mode, Reply
from tests.e2e.packets import EndedError, RefusedError
from tests.e2e.program import FLOOR_PASSWORD, FLOOR_USER, Operator, Program, Site, fresh_name, fresh_source
from tests.proof.ledger import Standing

LOST = (EndedError, OSError, EOFError, httpx2.TransportError)
"""What happens to a client of a program that is killed."""

_BUSY = 3
"""CONNACK of MQTT 3.1.1: unavailable."""

WINDOW = 400
"""Milliseconds until an unclaimed request expires."""

_modes: Iterator[Mode] = itertools.cycle(("proof", "ctr", "hpke", "plain"))

T = TypeVar("T")


class Stage:
    """Where stories take place: the program, and whether it is up."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.up = asyncio.Event()
        self.site: Site | None = None
        self.answered: float | None = None
        """When the first answer came in this life."""

    async def raise_curtain(self) -> None:
        """The program is ready."""
        self.answered = None
        self.site = await Site.at(self.program)
        self.up.set()

    async def drop_curtain(self) -> None:
        """The program is gone."""
        self.up.clear()
        if self.site is not None:
            site, self.site = self.site, None
            await site.close()

    @property
    def operator(self) -> Operator:
        """Somebody with the administrator's token; lost between two lives."""
        if self.site is None:
            raise EndedError
        return self.site.operator


class Story:
    """One device from its request to its end. Sub-classes say which way it goes."""

    fields: dict[str, Any] = {}  # noqa: RUF012  constants of the sub-classes
    last_word = "already-provisioned"
    """What a claim is told after the end."""
    forgiven = 0
    """Attempts that may have been given back."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.client_id = ""
        self.id = 0
        self.key = ""
        self.offers: dict[int, dict[str, Any]] = {}
        """Credential by generation, as offered."""
        self.bound: dict[int, set[str]] = {}
        """Generation -> requestIds it was offered under."""
        self.confirmed: set[int] = set()
        self.leaving: set[int] = set()
        """Generations somebody asked to take away."""
        self.gone: set[int] = set()
        """Generations that are not admitted any more: somebody was told so."""
        self.phase = ""
        """Where the request rests, once somebody was told."""
        self._device: IndependentDevice | None = None

    @property
    def device(self) -> IndependentDevice:
        """The device, once there is a request."""
        assert self._device is not None
        return self._device

    async def tell(self) -> None:
        """From the beginning to the end."""
        await self.again(self._prepare)
        try:
            await self.act()
            await self.again(self.verify)
        finally:
            await self.device.close()

    async def look_back(self) -> None:
        """Verify once more, later."""
        try:
            await self.again(self.verify)
        finally:
            await self.device.close()

    async def act(self) -> None:
        """The way this device goes."""
        raise NotImplementedError

    async def again(self, step: Callable[[], Awaitable[T]]) -> T:
        """Do a step until an answer comes."""
        while True:
            await self.stage.up.wait()
            try:
                outcome = await step()
            except LOST as error:
                if isinstance(error, RefusedError) and error.code != _BUSY:
                    raise
                if self._device is not None:
                    await self._device.close()
                await asyncio.sleep(0.01)
                continue
            if self.stage.answered is None:
                self.stage.answered = time.monotonic()
            return outcome

    async def _prepare(self) -> None:
        if self.stage.site is None:
            raise EndedError
        # A fresh name each time: nobody knows what became of a creation without an answer.
        request = await self.stage.site.request(fresh_name(), **self.form())
        self.client_id, self.id, self.key = request.client_id, request.id, request.key
        program = self.stage.program
        self._device = IndependentDevice(
            lambda: program.endpoint,
            FLOOR_USER,
            FLOOR_PASSWORD,
            self.client_id,
            self.key,
            mode=next(_modes),
            source=fresh_source(),
        )

    def form(self) -> dict[str, Any]:
        """Further fields of the request. The provision user is there; its password would only cost time."""
        return {"confirm": "ack", "provisionUserPassword": None} | self.fields

    async def claim(self) -> Reply:
        """One claim; what it says is noted. Rule 3: a generation is offered with one and the same credential."""
        reply = await self.device.claim(**self.asked())
        if reply.reason == "offer":
            known = self.offers.setdefault(reply.generation, reply.credentials)
            assert known == reply.credentials, f"{self.client_id}: another credential of the same generation"
            if "password" in reply.credentials:
                self.stage.program.secrets.add(reply.credentials["password"])
            self.bound.setdefault(reply.generation, set()).add(self.device.request_id)
        return reply

    def asked(self) -> dict[str, Any]:
        """Further keys of its claims."""
        return {}

    async def offered(self) -> int:
        """Claim until there is an offer, and log in with it (rule 2); returns the generation."""
        while True:
            reply = await self.again(self.claim)
            if reply.reason == "offer":
                break
            if reply.reason == "superseded":
                self.device.request_id = f"r-{secrets.token_hex(4)}"
            else:
                assert reply.reason in {"wait", "unavailable"}, reply.body
                await asyncio.sleep(0.05)
        await self.again(lambda: self._works(reply.generation))
        return reply.generation

    async def _works(self, generation: int) -> None:
        program = self.stage.program
        async with await self.device.login(program.device_broker, self.offers[generation]) as session:
            await session.ping()

    async def is_admitted(self, generation: int) -> bool:
        """Whether a generation may work at the device broker."""
        try:
            session = await self.device.login(self.stage.program.device_broker, self.offers[generation])
        except RefusedError:
            return False
        await session.disconnect()
        return True

    async def confirm(self, generation: int) -> None:
        """Ack `stored` until it is taken."""
        while (reply := await self.again(lambda: self.device.ack("stored", generation))).reason != "confirmed":
            assert reply.reason == "unavailable", reply.body
        self.confirmed.add(generation)

    async def fail(self, generation: int) -> None:
        """Ack `failed` until it is taken; from then on that generation is not admitted."""
        self.leaving.add(generation)
        reply = await self.again(lambda: self.device.ack("failed", generation))
        assert reply.reason in {"noted", "superseded"}, reply.body
        self.gone.add(generation)

    async def say(self, verb: str) -> None:
        """An operator's verb, until it was taken; 409: it was, and the answer was lost."""
        path = f"/v2/provisionRequests/{self.id}/{verb}"
        await self.again(lambda: self.stage.operator.ask("POST", path, (200, 409)))

    async def until(self, *phases: str) -> None:
        """Look until the request is in one of these phases."""
        path = f"/v2/provisionRequests/{self.id}"
        while True:
            found = (await self.again(lambda: self.stage.operator.ask("GET", path)))["phase"]
            if found in phases:
                break
            await asyncio.sleep(0.03)
        self.phase = found

    async def verify(self) -> None:
        """The end, as everybody sees it: the last word to a new claim, and who is admitted."""
        self.device.request_id = "after-all"
        assert (reply := await self.claim()).reason == self.last_word, f"{type(self).__name__} {reply.body}"
        for generation in self.offers:
            admitted = generation in self.confirmed - self.gone
            assert await self.is_admitted(generation) is admitted, f"{self.client_id} {generation} {admitted}"

    def check(self, found: Standing) -> None:
        """Compare a ledger with what was told (rules 1, 3, 4, 5 and 8)."""
        about = f"{type(self).__name__} {self.client_id} {found}"
        assert found.generation == len(found.credentials), about
        assert found.minted in {found.generation, found.generation - self.forgiven}, about
        assert found.generation <= max(self.offers, default=0) + 1, about
        for generation, told in self.offers.items():
            credential = found.credentials[generation]
            assert credential.username == told.get("username", credential.username), about
            may_be = {"CONFIRMED"} if generation in self.confirmed else {"OFFERED", "CONFIRMED"}
            if generation in self.leaving:
                may_be |= {"RETIRING", "RETIRED"}
            if generation in self.gone:
                may_be = {"RETIRING", "RETIRED"}
            assert credential.state in may_be, about
        for generation, request_ids in self.bound.items():
            assert all(found.bound.get(text) == generation for text in request_ids), about
        assert self.phase in {"", found.phase}, about


class Straight(Story):
    """Claim, log in, ack. A stranger with a wrong key comes first and takes nothing away (rule 7)."""

    async def act(self) -> None:
        stranger = IndependentDevice(
            lambda: self.stage.program.endpoint,
            FLOOR_USER,
            FLOOR_PASSWORD,
            self.client_id,
            "not-the-key-of-this-device-1234",
            source=fresh_source(),
        )
        try:
            async with await stranger.open():
                assert (await stranger.claim()).reason == "denied"
        except LOST:
            pass  # it does not have to get through
        finally:
            await stranger.close()
        await self.confirm(await self.offered())


class Refused(Story):
    """The first credential does not work for the device; its requestId is spent (rule 4), the next one works."""

    async def act(self) -> None:
        generation = await self.offered()
        spent = self.device.request_id
        await self.fail(generation)
        reply = await self.again(self.claim)
        assert reply.reason in {"wait", "superseded"}, reply.body
        assert not await self.again(lambda: self.is_admitted(generation))
        following = await self.offered()
        assert following == generation + 1
        assert self.device.request_id != spent
        await self.confirm(following)


class Forgetful(Story):
    """Nothing that could open a reply is kept after the confirmation (rule 8)."""

    fields = {"reuseKey": False}  # noqa: RUF012  as above

    async def act(self) -> None:
        await self.confirm(await self.offered())

    def check(self, found: Standing) -> None:
        super().check(found)
        assert found.has_seal_key is (found.phase != "CONFIRMED"), f"{self.client_id} {found}"


class Late(Story):
    """Nobody claims in time (rule 9)."""

    last_word = "expired"

    def form(self) -> dict[str, Any]:
        return super().form() | {"expiresOn": time.time_ns() // 1_000_000 + WINDOW}

    async def act(self) -> None:
        await self.until("EXPIRED")


class Revoked(Story):
    """The operator takes it away again."""

    last_word = "abandoned"

    async def act(self) -> None:
        generation = await self.offered()
        await self.confirm(generation)
        self.leaving.add(generation)
        await self.say("revoke")
        await self.until("STOPPED")
        self.gone.add(generation)


class Renewed(Story):
    """The operator asks for a new credential; the former works until the next is confirmed (rule 5)."""

    forgiven = 1

    async def act(self) -> None:
        first = await self.offered()
        await self.confirm(first)
        await self.say("rotate")
        self.device.request_id = "renewal"
        second = await self.offered()
        assert second == first + 1
        await self.again(lambda: self._works(first))
        self.leaving.add(first)
        await self.confirm(second)
        self.gone.add(first)


class Certified(Story):
    """A certificate on the device's own key; the first one does not work for it, the next is on another key."""

    fields = {"credentialKind": "x509", "provisionSecureURL": True}  # noqa: RUF012  as above

    def __init__(self, stage: Stage) -> None:
        super().__init__(stage)
        self._keys: dict[int, DeviceKey] = {}
        self._key = DeviceKey.made_from(secrets.token_bytes(SEED_SIZE))

    def asked(self) -> dict[str, Any]:
        return {"csr": base64.b64encode(self._key.csr).decode(), "csr_hash": csr_hash(self._key.csr)}

    async def claim(self) -> Reply:
        reply = await super().claim()
        if reply.reason == "offer":
            assert self._key.is_certified_by(reply.credentials["certificate"])
            self._keys[reply.generation] = self._key
        return reply

    async def act(self) -> None:
        first = await self.offered()
        await self.fail(first)
        assert (await self.again(self.claim)).reason in {"wait", "superseded"}
        self._key = DeviceKey.made_from(secrets.token_bytes(SEED_SIZE))
        second = await self.offered()
        assert second == first + 1
        await self.confirm(second)

    async def _works(self, generation: int) -> None:
        try:
            await self._log_in(generation)
        except Lost as error:
            raise EndedError from error

    async def is_admitted(self, generation: int) -> bool:
        try:
            await self._log_in(generation)
        except LoginRefused:
            return False
        except Lost as error:
            raise EndedError from error
        return True

    async def _log_in(self, generation: int) -> None:
        program = self.stage.program
        context = ssl.create_default_context(cafile=program.data / "ca" / "root.pem")
        with NamedTemporaryFile("w") as file:
            file.write(self.offers[generation]["certificate"] + self._keys[generation].pem)
            file.flush()
            context.load_cert_chain(file.name)
        host, _, port = program.ready["deviceBrokerTls"].rpartition(":")
        link = await Link.open(Address(host, int(port), tls=True), Login(self.client_id, "", ""), tls=context)
        await link.close()


STORIES: tuple[type[Story], ...] = (Straight, Refused, Forgetful, Late, Revoked, Renewed, Certified)
