"""Whether devices can read or write what is not theirs: tried, with the provision account and nothing else.

A patient is a device like any other; an intruder has the same login and another client id, as everybody has who opens
one unit's case. What the broker answers is not believed: a leak is a message that arrived where it must not.

1. Nothing is concluded from silence alone. Before an intruder is cleared, a message that it may have was sent after the
   ones it must not have, and arrived.
2. Each trick has a connection of its own, as brokers may end it for the attempt.
3. What is left at the broker is taken away again: retained messages are cleared.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from broker.beside.findings import Finding, Names, Verdict, cure
from broker.beside.probe import Gone, Probe
from broker.mqtt.packets import Will
from broker.mqtt.topics import Topics
from broker.mqtt.upstream import Site
from provisioner.ports import Entropy

T = TypeVar("T")

_GRACE = 0.3
"""Seconds for messages to arrive that must not, where no other message can tell that they would be here by now."""
_ARRIVES = 2.5
"""Seconds for a message to arrive that should."""
_AT_ONCE = 8
_KINDS = ("request", "ack", "reply")


def filters(root: str, user: str, patient: str) -> tuple[str, ...]:
    """Twelve ways to ask for a neighbour's reply."""
    return (
        "#",
        "+/#",
        f"{root}/#",
        f"{root}/+/+/reply",
        f"{root}/{user}/#",
        f"{root}/{user}/+/reply",
        f"{root}/{user}/{patient}/reply",
        f"{root}/{user}/{patient}/+",
        f"{root}/{user}/{patient}/#",
        f"{root}/+/{patient}/reply",
        f"$share/doctor/{root}/{user}/{patient}/reply",
        f"{root}/{user}/{patient}/reply/#",
    )


def hostile_ids(patient: str) -> tuple[str, ...]:
    """Client ids that mean something to whoever pastes them into a topic, a pattern or a regular expression."""
    return (
        "+", "#", "a/b", ".*", "[^/]+", f"x|{patient}", f"({patient})", r"\E.*\Q", "%c", "%u", "", "x" * 200,
        "caf\u00e9", f"{patient}/reply",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Access:
    """Where to look, and as whom: the bridge at `site`, devices with `devices`. `version` is 4 or 5."""

    site: Site
    devices: tuple[str, str]
    topics: Topics
    kind: str
    version: int
    entropy: Entropy

    @property
    def names(self) -> Names:
        """For cures."""
        bridge = "" if self.site.login is None else self.site.login[0]
        return Names(self.topics.root, bridge, self.devices[0])

    def fresh_id(self) -> str:
        """A client id nobody has."""
        return f"doctor-{self.entropy(6).hex()}"

    def token(self) -> bytes:
        """A payload nobody else sends; the service takes it for no claim."""
        return b"doctor " + self.entropy(8).hex().encode()

    async def device(self, client_id: str, will: Will | None = None) -> Probe:
        """Log in as a device. Raises Gone."""
        return await Probe.open(self.site, client_id, self.devices, version=self.version, will=will)

    async def bridge(self) -> Probe:
        """Log in as the bridge. Raises Gone."""
        return await Probe.open(self.site, self.fresh_id(), self.site.login, version=self.version)

    def finding(self, check: str, verdict: Verdict, detail: str, ill: str = "", **about: str) -> Finding:
        """A finding with its cure."""
        return Finding(check, verdict, detail, cure(self.kind, ill, self.names, **about) if ill else "")


class Ward:
    """The bridge's and the patient's connection, and how far messages between them arrive.

    `hears`: kinds of the patient's messages that reach the bridge; `answers`: replies reach the patient.
    """

    def __init__(self, access: Access, bridge: Probe, patient: Probe, patient_id: str) -> None:
        self.access = access
        self.bridge = bridge
        self.patient = patient
        self.patient_id = patient_id
        self.hears = {"request": False, "ack": False}
        self.answers = False

    @classmethod
    @asynccontextmanager
    async def opened(cls, access: Access) -> AsyncIterator[Ward]:
        """Both logged in and subscribed. Raises Gone."""
        async with AsyncExitStack() as stack:
            bridge = await access.bridge()
            stack.push_async_callback(bridge.close)
            await bridge.subscribe(access.topics.every("request"))
            await bridge.subscribe(access.topics.every("ack"))
            patient_id = access.fresh_id()
            patient = await access.device(patient_id)
            stack.push_async_callback(patient.close)
            await patient.subscribe(access.topics.reply(access.devices[0], patient_id))
            yield cls(access, bridge, patient, patient_id)

    def topic(self, kind: str, client_id: str | None = None) -> str:
        """A topic of the patient, or of another client id."""
        return f"{self.access.topics.root}/{self.access.devices[0]}/{client_id or self.patient_id}/{kind}"

    async def deliveries(self) -> list[Finding]:
        """Whether the conversation itself goes through; sets `hears` and `answers`."""
        return [await self._upwards("request"), await self._upwards("ack"), await self._downwards()]

    async def _upwards(self, kind: str) -> Finding:
        access, token, check = self.access, self.access.token(), f"{kind}s arrive"
        try:
            code = await self.patient.publish(self.topic(kind), token)
        except Gone as error:
            return access.finding(check, Verdict.PROBLEM, f"a device may not send: {error}", "device-write", kind=kind)
        if code >= 0x80:
            return access.finding(
                check, Verdict.PROBLEM, f"a device may not publish its {kind}", "device-write", kind=kind
            )
        self.hears[kind] = await self.bridge.until(token, _ARRIVES)
        if self.hears[kind]:
            return access.finding(check, Verdict.OK, f"the bridge gets what a device publishes as {kind}")
        # On 3.1.1 a PUBACK says nothing, so either of two lines may be missing.
        ill = "bridge-read" if access.version == 5 else "device-write"
        found = access.finding(check, Verdict.PROBLEM, f"the bridge does not get a device's {kind}", ill, kind=kind)
        if access.version == 5:
            return found
        other = cure(access.kind, "bridge-read", access.names, kind=kind)
        return Finding(check, Verdict.PROBLEM, found.detail, f"{found.cure}; or {other}")

    async def _downwards(self) -> Finding:
        access, token, check = self.access, self.access.token(), "replies arrive"
        try:
            code = await self.bridge.publish(self.topic("reply"), token, expiry=60)
        except Gone as error:
            return access.finding(check, Verdict.PROBLEM, f"the bridge may not send: {error}", "bridge-write")
        if code >= 0x80:
            return access.finding(check, Verdict.PROBLEM, "the bridge may not publish replies", "bridge-write")
        self.answers = await self.patient.until(token, _ARRIVES)
        if self.answers:
            return access.finding(check, Verdict.OK, "a device gets its reply")
        found = access.finding(check, Verdict.PROBLEM, "a device does not get its reply", "device-read")
        if access.version == 5:
            return found
        return Finding(
            check, Verdict.PROBLEM, found.detail, f"{found.cure}; or {cure(access.kind, 'bridge-write', access.names)}"
        )

    async def speak(self) -> dict[str, bytes]:
        """A whole conversation of the patient; its payloads by kind. Everything is routed when this returns."""
        said = {kind: self.access.token() for kind in _KINDS}
        for kind, token in said.items():
            speaker, hearer = (self.bridge, self.patient) if kind == "reply" else (self.patient, self.bridge)
            with contextlib.suppress(Gone):
                await speaker.publish(self.topic(kind), token)
                if self.answers if kind == "reply" else self.hears[kind]:
                    await hearer.until(token)
        return said

    async def settle(self, probe: Probe, client_id: str) -> None:
        """Return when `probe` has got whatever was sent to it before (rule 1)."""
        token = self.access.token()
        with contextlib.suppress(Gone):
            if self.answers:
                await self.bridge.publish(self.topic("reply", client_id), token)
                if await probe.until(token, _GRACE):
                    return
            await probe.ping()
        await asyncio.sleep(_GRACE)

    async def settle_all(self) -> None:
        """The same for the patient and the bridge."""
        token = self.access.token()
        await self.settle(self.patient, self.patient_id)
        with contextlib.suppress(Gone):
            await self.patient.publish(self.topic("request"), token)
        if not (self.hears["request"] and await self.bridge.until(token)):
            await asyncio.sleep(_GRACE)


async def leaks(ward: Ward) -> list[Finding]:
    """All tricks, and what came of them; a finding for each kind of trick."""
    read, readable = await _reading(ward)
    written, writable = await _writing(ward)
    found = [read, written, await _own_reply(ward), await _last_words(ward), await _pasted_ids(ward)]
    if readable == writable == set(_KINDS):
        # No wrong rule, but none at all.
        words = cure(ward.access.kind, "no-acl", ward.access.names)
        found = [replace(one, cure=words) if one.verdict is Verdict.LEAK else one for one in found]
    return found


async def _reading(ward: Ward) -> tuple[Finding, set[str]]:
    """Also the kinds of a neighbour's topics that can be read."""
    access = ward.access
    asked = filters(access.topics.root, access.devices[0], ward.patient_id)
    async with AsyncExitStack() as stack:
        spies: list[tuple[str, str, Probe]] = []

        async def send_in(topic_filter: str) -> None:
            client_id = access.fresh_id()
            with contextlib.suppress(Gone):
                spy = await access.device(client_id)
                stack.push_async_callback(spy.close)
                await spy.subscribe(ward.topic("reply", client_id))
                await spy.subscribe(topic_filter)
                spies.append((topic_filter, client_id, spy))

        await _few_at_once(send_in, asked)
        said = await ward.speak()
        await _few_at_once(lambda spy: ward.settle(spy[2], spy[1]), spies)
        heard = [one for one, _, spy in spies if any(spy.has(token) for token in said.values())]
        kinds = {kind for kind, token in said.items() for _, _, spy in spies if spy.has(token)}
    if not heard:
        return access.finding("reading", Verdict.OK, f"{len(asked)} topic filters show nothing of a neighbour"), kinds
    detail = (
        f"a device reads a neighbour's {' and '.join(sorted(kinds))} with {', '.join(sorted(heard, key=asked.index))}"
    )
    granted = f"{access.topics.root}/{access.devices[0]}/+/{max(kinds)}"
    return access.finding("reading", Verdict.LEAK, detail, "read-others", topic_filter=granted), kinds


async def _writing(ward: Ward) -> tuple[Finding, set[str]]:
    """Also the kinds of a neighbour's topics that can be written to."""
    access = ward.access
    tried = {kind: access.token() for kind in _KINDS}

    async def forge(kind: str) -> None:
        with contextlib.suppress(Gone):
            intruder = await access.device(access.fresh_id())
            try:
                await intruder.publish(ward.topic(kind), tried[kind])
            finally:
                await intruder.close()

    await _few_at_once(forge, tried)
    await ward.settle_all()
    done = {kind for kind, token in tried.items() if ward.patient.has(token) or ward.bridge.has(token)}
    if not done:
        return access.finding("writing", Verdict.OK, "nobody can speak in a neighbour's name, or answer it"), done
    granted = f"{access.topics.root}/{access.devices[0]}/+/{max(done)}"
    detail = f"a device writes to a neighbour's {' and '.join(sorted(done))}"
    return access.finding("writing", Verdict.LEAK, detail, "write-others", topic_filter=granted), done


async def _own_reply(ward: Ward) -> Finding:
    """Who may write its own reply may leave one there, retained, for whoever has that client id next."""
    access, client_id, token = ward.access, ward.access.fresh_id(), ward.access.token()
    topic = ward.topic("reply", client_id)
    found = False
    with contextlib.suppress(Gone):
        planter = await access.device(client_id)
        try:
            await planter.publish(topic, token, retain=True)
        finally:
            await planter.close()
    with contextlib.suppress(Gone):
        successor = await access.device(client_id)
        try:
            await successor.subscribe(topic)
            await ward.settle(successor, client_id)
            found = successor.has(token)
            if found:
                await successor.publish(topic, b"", retain=True)  # rule 3
        finally:
            await successor.close()
    if found:
        detail = "a device can leave a retained reply for whoever uses its client id next"
        return access.finding("retained replies", Verdict.LEAK, detail, "own-reply")
    return access.finding("retained replies", Verdict.OK, "no device can leave a reply behind")


async def _last_words(ward: Ward) -> Finding:
    access, client_id, token = ward.access, ward.access.fresh_id(), ward.access.token()
    for kind in ("reply", "request"):
        with contextlib.suppress(Gone):
            dying = await access.device(client_id, Will(ward.topic(kind), token, qos=1))
            await dying.abort()
            # The broker publishes the Will of a session at the latest when another takes its client id.
            await (await access.device(client_id)).close()
    await ward.settle_all()
    if ward.patient.has(token) or ward.bridge.has(token):
        detail = "a Will is published to a neighbour's topics"
        return access.finding("wills", Verdict.LEAK, detail, "will")
    return access.finding("wills", Verdict.OK, "a Will reaches no neighbour")


async def _pasted_ids(ward: Ward) -> Finding:
    access, ids = ward.access, hostile_ids(ward.patient_id)
    forged = access.token()
    heard = await _listeners(ward, ids, lambda _: ward.topic("reply"))
    heard |= await _listeners(ward, ids, lambda client_id: ward.topic("reply", client_id))

    async def forge(client_id: str) -> None:
        with contextlib.suppress(Gone):
            intruder = await access.device(client_id)
            try:
                await intruder.publish(ward.topic("request"), forged)
            finally:
                await intruder.close()

    await _few_at_once(forge, ids)
    await ward.settle_all()
    if ward.bridge.has(forged):
        heard.add("(to write)")
    if not heard:
        return access.finding("client ids", Verdict.OK, f"{len(ids)} hostile client ids open nothing")
    detail = f"a neighbour's topics open to whoever calls itself {' '.join(sorted(heard))}"
    return access.finding("client ids", Verdict.LEAK, detail, "client-ids")


async def _listeners(ward: Ward, ids: tuple[str, ...], asked: Callable[[str], str]) -> set[str]:
    """Which of these client ids hear the patient's conversation with the filter that `asked` makes of each."""
    async with AsyncExitStack() as stack:
        spies: list[tuple[str, Probe]] = []

        async def send_in(client_id: str) -> None:
            with contextlib.suppress(Gone):
                spy = await ward.access.device(client_id)
                stack.push_async_callback(spy.close)
                await spy.subscribe(asked(client_id))
                spies.append((client_id, spy))

        async def settle(spy: tuple[str, Probe]) -> None:
            with contextlib.suppress(Gone):
                await spy[1].ping()

        await _few_at_once(send_in, ids)
        said = await ward.speak()
        await _few_at_once(settle, spies)
        # No reply topic of theirs is well-formed, so no message could tell that everything is there.
        await asyncio.sleep(_GRACE)
        return {client_id for client_id, spy in spies if any(spy.has(token) for token in said.values())}


async def _few_at_once(act: Callable[[T], Awaitable[None]], items: Iterable[T]) -> None:
    slots = asyncio.Semaphore(_AT_ONCE)

    async def one(item: T) -> None:
        async with slots:
            await act(item)

    await asyncio.gather(*(one(item) for item in items))
