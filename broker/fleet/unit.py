"""One simulated unit: a device with real connections, under the event loop's clock.

1. One coroutine: it does what the device asks for, then waits for a message or for the device's own time.
2. It ends when the device is confirmed or has stopped, when repeating cannot help, or when `patience` is over: a real
   device would go on, a command should not.
3. Logins at the device broker speak MQTT 3.1.1: every broker does.
4. Whoever observes may raise `PowerCut`: what was written has left then, and nobody is told goodbye.
"""

import asyncio
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from tempfile import NamedTemporaryFile
from typing import Final

from broker.fleet.actions import Action, Connect, Disconnect, Login, Publish, Step, Subscribe
from broker.fleet.device import Device, State
from broker.fleet.link import Link, Lost, Refused, Tap
from broker.fleet.link import Login as Account
from broker.fleet.replies import Address, Credential, Reply, parse_url
from broker.fleet.roads import Roads
from broker.mqtt.packets import V5

_REPEATED: Final = {"wait", "not-active", "slow-down", "unavailable"}
"""Refusals that time alone may turn into an offer."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where and how units claim: `version` is 4 or 5, `tls` what the server's certificate is checked with."""

    address: Address
    version: int = V5
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """How it ended. `reason` is `confirmed`, a reason of the wire contract, `refused`, `lost` or `timeout`.

    `reply` is the refusal, `text` what else is known; `seconds` from the start to the end.
    """

    client_id: str
    reason: str
    seconds: float
    credential: Credential | None = None
    reply: Reply | None = None
    text: str = ""

    @property
    def is_confirmed(self) -> bool:
        """Whether the device has its credential and the provisioner knows."""
        return self.reason == "confirmed"


def trusting(credential: Credential) -> ssl.SSLContext:
    """What the device broker's certificate is checked with, and the device's own to show where it has one."""
    context = ssl.create_default_context(cadata=credential.ca)
    if credential.certificate is not None and credential.private_key is not None:
        # The library reads files alone; this one is the owner's only, and gone at once.
        with NamedTemporaryFile("w", encoding="ascii") as file:
            file.write(credential.certificate + credential.private_key)
            file.flush()
            context.load_cert_chain(file.name)
    return context


class Unit:
    """A device and its connections. `observe` is told each step; `stubborn` units never mind an absent server.

    `clock_rate` seconds pass on the device's clock in one of ours. `tap` gives what listens in on a connection about to
    be opened, by its login, `provisioning` or `issued`.
    """

    def __init__(
        self,
        device: Device,
        endpoint: Endpoint,
        *,
        patience: float = 60.0,
        stubborn: bool = False,
        observe: Callable[[Step], None] = lambda _: None,
        roads: Roads | None = None,
        clock_rate: float = 1.0,
        tap: Callable[[str], Tap] | None = None,
    ) -> None:
        self._device = device
        self._endpoint = endpoint
        self._patience = patience
        self._stubborn = stubborn
        self._observe = observe
        self._client_id = device.identity.client_id if device.identity else ""
        self._link: Link | None = None
        self._roads = roads or Roads()
        self._clock_rate = clock_rate
        self._tap = tap
        self._time = asyncio.get_running_loop().time
        self._end = ""
        self._reply: Reply | None = None
        self._text = ""

    async def run(self) -> Outcome:
        """Be switched on until one of the ends of rule 2."""
        started = self._time()
        try:
            async with asyncio.timeout(self._patience):
                self._device.start(self._clock())
                while not await self._act():
                    await self._wait(started + self._patience)
        except TimeoutError:
            self._end = self._reply.reason if self._reply else "timeout"
        except BaseException:
            await self._vanish()
            raise
        finally:
            await self._hang_up()
        return Outcome(
            self._client_id, self._end, self._time() - started, self._device.credential, self._reply, self._text
        )

    def _clock(self) -> float:
        """The device's."""
        return self._time() * self._clock_rate

    async def _act(self) -> bool:
        """Do what the device wants done; True at an end."""
        while actions := self._device.take():
            for action in actions:
                await self._do(action)
                if self._end:
                    return True
        return False

    async def _do(self, action: Action) -> None:
        match action:
            case Connect():
                await self._connect()
            case Subscribe(topic_filter):
                await self._subscribe(topic_filter)
            case Publish(topic, payload):
                if self._link is not None:
                    self._link.publish(topic, payload)
            case Disconnect():
                await self._hang_up()
            case Login(credential):
                await self._log_in(credential)
            case Step():
                self._watch(action)

    def _watch(self, step: Step) -> None:
        self._observe(step)
        if step.name == "refused" and step.reply is not None:
            self._reply = step.reply
            if step.reply.reason not in _REPEATED:
                self._end = step.reply.reason
        elif step.name in ("login-refused", "login-unreachable"):
            self._text = step.text
        elif step.name == State.CONFIRMED:
            self._end, self._reply = "confirmed", None
        elif step.name == State.STOPPED:
            self._end = step.text

    async def _connect(self) -> None:
        identity = self._device.identity
        if identity is None:
            return
        account = Account(identity.client_id, identity.user, identity.password)
        endpoint = self._endpoint
        try:
            self._link = await Link.open(
                await self._roads.to_provisioner(endpoint.address),
                account,
                version=endpoint.version,
                tls=endpoint.tls,
                server_name=endpoint.address.host,
                seconds=self._device.times.opening,
                tap=self._tap("provisioning") if self._tap else None,
            )
        except Refused as error:
            self._lose(error, for_good=error.for_good)
        except Lost as error:
            self._lose(error, for_good=not self._stubborn)
        else:
            self._observe(Step("connect"))
            self._device.connected(self._clock())

    async def _subscribe(self, topic_filter: str) -> None:
        if self._link is None:
            return
        try:
            await self._link.subscribe(topic_filter)
        except Lost as error:
            await self._hang_up()
            self._lose(error, for_good=isinstance(error, Refused))
        else:
            self._observe(Step("subscribe", topic_filter))
            self._device.subscribed(self._clock())

    async def _log_in(self, credential: Credential) -> None:
        address = parse_url(credential.url)
        account = Account(credential.client_id, credential.username, credential.password)
        try:
            tls = trusting(credential) if address.tls else None
            link = await Link.open(
                await self._roads.to_device_broker(address),
                account,
                tls=tls,
                server_name=address.host,
                seconds=self._device.times.opening,
                tap=self._tap("issued") if self._tap else None,
            )
        except Refused as error:
            tell = self._device.login_refused if error.for_good else self._device.login_unreachable
            tell(self._clock(), str(error))
        except (Lost, ssl.SSLError) as error:
            self._device.login_unreachable(self._clock(), str(error))
        else:
            await link.close()
            self._device.login_accepted(self._clock())

    async def _wait(self, deadline: float) -> None:
        """Wait for a message, or until the device is due."""
        due = None if self._device.due is None else self._device.due / self._clock_rate
        if due is not None and due > deadline and self._reply is not None:
            raise TimeoutError  # it would sleep longer than we wait
        try:
            async with asyncio.timeout_at(due):
                if self._link is None:
                    await asyncio.Event().wait()
                else:
                    self._device.receive(await self._link.receive(), self._clock())
        except Lost as error:
            await self._hang_up()
            self._lose(error, for_good=False)
        except TimeoutError:
            self._device.tick(self._clock())

    def _lose(self, error: Lost, *, for_good: bool) -> None:
        self._text = str(error)
        self._observe(Step("lost", self._text))
        if for_good:
            self._end = "refused" if isinstance(error, Refused) else "lost"
        self._device.lost(self._clock())

    async def _hang_up(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.close()

    async def _vanish(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            await link.vanish()
