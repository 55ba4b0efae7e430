"""The doctor: is that broker fit for the bridge? Everything is tried from outside, with the logins that will be used.

1. It stops at the first thing without which the rest says nothing: no broker, no login.
2. `examine` is the part the bridge asks for before it serves: leaks alone. `consult` adds what is merely bad: nobody
   hears the device, 40 ms of Nagle, a certificate that ends, an old version.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from broker.beside.findings import Finding, Verdict
from broker.beside.leaks import Access, Ward, leaks
from broker.beside.probe import Gone, Probe, Refused
from broker.mqtt.packets import V5, V311
from broker.mqtt.topics import Topics
from broker.mqtt.upstream import Site
from provisioner.ports import Entropy

_DAY = 86_400
_SOON = 30
"""Days before a certificate ends that it is spoken of."""
_SLOW = 0.025
"""Seconds of a round trip above twice a PING that only waiting for each other explains."""
_TRIPS = 9
_OLDEST = (2, 0, 11)


@dataclass(frozen=True, slots=True)
class Patient:
    """The broker to look at: where it is, the provision account's login, the topics, and whose words to use."""

    site: Site
    devices: tuple[str, str]
    topics: Topics
    kind: str
    entropy: Entropy

    async def access(self) -> Access:
        """With the version the broker speaks. Raises Gone, Refused."""
        access = Access(self.site, self.devices, self.topics, self.kind, V5, self.entropy)
        try:
            await (await access.bridge()).close()
        except Gone as error:
            if isinstance(error, Refused) and error.code not in (1, 0x84):
                raise
            older = replace(access, version=V311)
            await (await older.bridge()).close()
            return older
        return access


async def examine(patient: Patient) -> list[str]:
    """What would be a leak, a sentence each with its cure; also that it cannot be told. Raises nothing."""
    try:
        access = await patient.access()
        async with Ward.opened(access) as ward:
            await ward.deliveries()
            found = [*await _strangers(access), *await leaks(ward)]
    except Gone as error:
        user = patient.devices[0]
        return [f"it cannot be told what devices may do there: {error} ({user} or the bridge cannot log in)"]
    return [f"{one.detail}: {one.cure}" for one in found if one.verdict is Verdict.LEAK]


async def consult(patient: Patient, now: float) -> list[Finding]:
    """Every check there is; `now` is the wall clock in seconds."""
    findings = [_clock(now), *await _way(patient, now)]
    blind = Access(patient.site, patient.devices, patient.topics, patient.kind, V5, patient.entropy)
    try:
        access = await patient.access()
    except Refused as error:
        detail = f"the bridge cannot log in: {error}"
        return [*findings, blind.finding("bridge login", Verdict.PROBLEM, detail, "bridge-login")]
    except Gone as error:
        ill = "tls" if "certificate" in str(error) else "reach"
        detail = f"{patient.site} cannot be reached: {error}"
        return [*findings, blind.finding("reach", Verdict.PROBLEM, detail, ill)]
    spoken = "5" if access.version == V5 else "3.1.1"
    findings.append(access.finding("reach", Verdict.OK, f"{patient.site} speaks MQTT {spoken}"))
    findings.append(access.finding("bridge login", Verdict.OK, f"{access.names.bridge} may log in"))
    findings += await _strangers(access)
    try:
        async with Ward.opened(access) as ward:
            findings.append(access.finding("device login", Verdict.OK, f"{access.names.user} may log in"))
            findings += await ward.deliveries()
            findings += await leaks(ward)
            findings.append(await _clearing(ward))
            findings.append(await _speed(ward))
            findings.append(await _keeping(ward))
            findings.append(await _version(ward))
    except Gone as error:
        detail = f"a device cannot log in with the provision account: {error}"
        findings.append(access.finding("device login", Verdict.PROBLEM, detail, "device-login"))
    return findings


async def _strangers(access: Access) -> list[Finding]:
    """Who has no login or a wrong password must not get in: topics are granted by user name."""
    found = []
    user = access.devices[0]
    for check, login, ill in (
        ("no login", None, "anonymous"),
        ("wrong password", (user, access.entropy(12).hex()), "any-password"),
    ):
        try:
            probe = await Probe.open(access.site, access.fresh_id(), login, version=access.version)
        except Gone:
            found.append(access.finding(check, Verdict.OK, f"{check}: refused"))
        else:
            await probe.close()
            found.append(access.finding(check, Verdict.LEAK, f"{check}: the broker admits it all the same", ill))
    return found


async def _clearing(ward: Ward) -> Finding:
    """What a device retained on its own topic would be heard again on every connection, unless the bridge clears it."""
    access, topic, token = ward.access, ward.topic("request"), ward.access.token()
    left = False
    try:
        await ward.patient.publish(topic, token, retain=True)
        await ward.bridge.publish(topic, b"", retain=True)
        newcomer = await access.bridge()
        try:
            await newcomer.subscribe(access.topics.every("request"))
            await newcomer.ping()
            left = newcomer.has(token)
        finally:
            await newcomer.close()
        if left:
            await ward.patient.publish(topic, b"", retain=True)
    except Gone:
        left = True
    if left:
        detail = "the bridge cannot clear what a device retained"
        return access.finding("clearing", Verdict.PROBLEM, detail, "clear")
    return access.finding("clearing", Verdict.OK, "the bridge clears what devices retain")


async def _speed(ward: Ward) -> Finding:
    """One message there and one back, as a claim and its reply."""
    access = ward.access
    if not (ward.answers and ward.hears["request"]):
        return access.finding("speed", Verdict.NOTE, "not measured: messages do not arrive")
    pings, trips = [], []
    for _ in range(_TRIPS):
        asked, answered = access.token(), access.token()
        began = time.perf_counter()
        await ward.patient.ping()
        pinged = time.perf_counter()
        await ward.patient.publish(ward.topic("request"), asked)
        await ward.bridge.until(asked)
        await ward.bridge.publish(ward.topic("reply"), answered)
        await ward.patient.until(answered)
        pings.append(pinged - began)
        trips.append(time.perf_counter() - pinged)
    ping, trip = median(pings), median(trips)
    detail = f"{trip * 1000:.1f} ms there and back, {ping * 1000:.1f} ms a PING"
    if trip > 4 * ping + _SLOW:
        return access.finding("speed", Verdict.PROBLEM, f"{detail}: small packets wait for each other", "nagle")
    return access.finding("speed", Verdict.OK, detail)


async def _keeping(ward: Ward) -> Finding:
    """Whether a reply is kept for a device that is away, and so handed to whoever has its client id next."""
    access, client_id, token = ward.access, ward.access.fresh_id(), ward.access.token()
    kept = False
    with contextlib.suppress(Gone):
        for attempt in (1, 2):
            away = await Probe.open(access.site, client_id, access.devices, version=access.version, clean=False)
            try:
                if attempt == 1:
                    await away.subscribe(ward.topic("reply", client_id))
                else:
                    kept = await away.until(token, 1.0)
            finally:
                await away.close()
            if attempt == 1:
                await ward.bridge.publish(ward.topic("reply", client_id), token, expiry=60)
        await (await access.device(client_id)).close()  # a clean session takes the other away
    if not kept:
        return access.finding("persistence", Verdict.OK, "no reply is kept for a device that is away")
    how_long = "for 60 s" if access.version == V5 else "for as long as the broker keeps sessions"
    return access.finding("persistence", Verdict.NOTE, f"sealed replies are kept {how_long} for the client id")


async def _version(ward: Ward) -> Finding:
    access = ward.access
    with contextlib.suppress(Gone):
        await ward.bridge.subscribe("$SYS/broker/version")
        await ward.bridge.ping()
    told = [one.payload.decode("utf-8", "replace") for one in ward.bridge.messages if one.topic.startswith("$SYS/")]
    if not told:
        return access.finding("version", Verdict.NOTE, "the broker does not tell the bridge its version")
    numbers = tuple(int(part) for part in told[0].rpartition(" ")[2].split(".") if part.isdigit())
    if access.kind == "mosquitto" and numbers < _OLDEST:
        return access.finding("version", Verdict.PROBLEM, f"{told[0]} is too old", "version")
    return access.finding("version", Verdict.OK, told[0][:60])


def _clock(now: float) -> Finding:
    """A clock that is behind this very program is wrong, and windows and certificates with it."""
    blind = Access(Site("mqtt://localhost"), ("", ""), Topics(), "", V5, lambda _: b"")
    if now < Path(__file__).stat().st_mtime - _DAY:
        return blind.finding("clock", Verdict.PROBLEM, "the clock of this machine is wrong", "clock")
    return blind.finding("clock", Verdict.OK, time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now)))


async def _way(patient: Patient, now: float) -> Sequence[Finding]:
    """How the bridge gets there: in the clear, or with which certificate."""
    site = patient.site
    access = Access(site, patient.devices, patient.topics, patient.kind, V5, patient.entropy)
    if site.tls is None:
        if _is_loopback(site.host):
            return (access.finding("way", Verdict.OK, "in the clear, and on this machine"),)
        detail = f"logins cross the network to {site.host} in the clear"
        return (access.finding("way", Verdict.PROBLEM, detail, "clear-text"),)
    try:
        async with asyncio.timeout(5):
            _, writer = await asyncio.open_connection(site.host, site.port, ssl=site.tls)
    except (OSError, TimeoutError):
        return ()  # that is told of the login as well
    certificate = writer.get_extra_info("peercert") or {}
    version = writer.get_extra_info("ssl_object").version()
    writer.close()
    days = (ssl.cert_time_to_seconds(certificate["notAfter"]) - now) / _DAY
    if days < _SOON:
        detail = f"the broker's certificate ends in {max(0, int(days))} days"
        return (access.finding("way", Verdict.PROBLEM, detail, "expiry"),)
    return (access.finding("way", Verdict.OK, f"{version}, certificate good for {int(days)} days"),)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
