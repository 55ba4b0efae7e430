"""The parts that decide, put together over a data directory: ledger, vault, services. Nothing here listens.

`assembled` is what every use of a data directory shares: `serve` adds listeners to it, `init` only opens it, and a
command that finds no running server mounts the operator API on it.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import structlog
from fastapi import FastAPI

from broker import firststart
from broker.authority import AuthorityChoices, AuthorityWatch, open_authority
from broker.crl_files import CrlFiles
from broker.datadir import DataDir
from broker.devicebrokers.embedded import EmbeddedDevices
from broker.devicebrokers.mosquitto_certificates import MosquittoCertificates
from broker.devicebrokers.watch import Beside
from broker.entropy import Pool
from broker.http import est, ocsp, trust
from broker.http.app import create_app
from broker.http.doors import Doors
from broker.http.events import Feed
from broker.http.metrics import registry
from broker.http.pki import Door
from broker.keyring import KeySource, open_keyring
from broker.mqtt import messages
from broker.mqtt.embedded import EmbeddedBroker
from broker.mqtt.grant import Grant
from certs.crl import pem_of
from certs.profile import Purpose
from provisioner import restore
from provisioner.administration import Administration
from provisioner.admission import Admission, WrongKeyRates
from provisioner.batches import Batches
from provisioner.bulk import Bulk
from provisioner.certification import Certification
from provisioner.dps import Dps
from provisioner.drafting import Drafts
from provisioner.enrolment import Enrolment, MakeClaim
from provisioner.epochs import Epochs, Keyring, enrol
from provisioner.errors import Unavailable
from provisioner.event_desk import EventDesk
from provisioner.handover import Vault, new_key
from provisioner.jobs import Jobs
from provisioner.lifecycle import LIVE
from provisioner.logins import Logins
from provisioner.model import DeviceRights, Millis
from provisioner.oversight import Oversight
from provisioner.passwords import Passwords
from provisioner.ports import DeviceBroker, Entropy
from provisioner.reconcile import Reconciler
from provisioner.revocation import RevocationLists
from provisioner.serials import Serials
from provisioner.service import Provisioner, Rules
from provisioner.store import SqliteStore
from provisioner.why import Why

_log = structlog.get_logger(__name__)

_HOUR = 3_600_000
_BETWEEN, _IN_A_MOMENT = 30_000, 1_000
"""Milliseconds between two looks for wiped secrets, and until the next try where somebody was reading."""


@dataclass(frozen=True, slots=True)
class Choices:
    """What the operator of this installation decided; `confirm_time` in seconds, `sinks` by name.

    `beside`: device brokers that are not ours; the default one is the first of them where `embedded` is False.
    """

    provision_account: str
    confirm_time: int
    retry_max_attempts: int
    rules: Rules
    wrong_keys: WrongKeyRates
    key_source: KeySource = field(default_factory=KeySource)
    may_repeat_activation: bool = True
    authority: AuthorityChoices = field(default_factory=AuthorityChoices)
    mails: bool = False
    sinks: tuple[str, ...] = ()
    embedded: bool = True
    beside: tuple[Beside, ...] = ()


@dataclass(frozen=True, slots=True)
class Figures:
    """Where `/metrics` and `/readyz` look: claims by reason, connections open now, whether the device broker is up.

    `bridge`: whether it serves, None where there is none; `bridge_counts`: what came to it, by event.
    """

    claims: Callable[[], Mapping[str, int]] = dict
    connections: Callable[[], int] = int
    device_broker: Callable[[], bool] = bool
    bridge: Callable[[], bool] | None = None
    bridge_counts: Callable[[], Mapping[str, int]] = dict


class Deliveries:
    """Wakes every worker that waits for committed events."""

    def __init__(self) -> None:
        self._sleeping: list[asyncio.Event] = []

    def waker(self) -> asyncio.Event:
        """Set whenever events were committed."""
        event = asyncio.Event()
        self._sleeping.append(event)
        return event

    def wake(self) -> None:
        """Events were committed, or given back to a sink."""
        for event in self._sleeping:
            event.set()


@dataclass(frozen=True, slots=True)
class Parts:
    """A data directory at work. `broker` is not started.

    `wake`: a job became due; `deliveries`: an event did; `revoked`: a certificate was.
    """

    directory: DataDir
    store: SqliteStore
    broker: EmbeddedBroker
    devices: EmbeddedDevices
    beside: tuple[Beside, ...]
    jobs: Jobs
    administration: Administration
    provisioner: Provisioner
    epochs: Epochs
    oversight: Oversight
    authority: AuthorityWatch
    revocation: RevocationLists
    events: EventDesk
    feed: Feed
    doors: Doors
    entropy: Entropy
    vault: Vault
    wake: asyncio.Event
    deliveries: Deliveries
    revoked: asyncio.Event
    is_fresh: bool

    def api(self, figures: Figures) -> FastAPI:
        """The operator API over these parts."""

        async def readiness() -> Mapping[str, bool]:
            told = {"store": await self._is_writable(), "deviceBroker": figures.device_broker()}
            return told if figures.bridge is None else told | {"bridge": figures.bridge()}

        return create_app(
            self.administration,
            self.epochs,
            self.oversight,
            self.events,
            self.feed,
            self.doors,
            now,
            readiness,
            registry(figures.claims, figures.connections, figures.bridge_counts, lambda: self.jobs.failures),
        )

    def trusted(self, now: Millis) -> str:
        """The authorities of devices' certificates, PEM."""
        return self.authority.in_force().bundle(Purpose.DEVICES, now)

    def pki(self, claim: MakeClaim, is_ours: Callable[[str], bool]) -> Mapping[str, Door]:
        """What is around certificates over HTTP, by path. `claim` takes EST's claims; `is_ours`: see `Ocsp`."""
        certificates, authority = self.store.certificates, self.authority.in_force
        return {
            est.PREFIX: est.Est(Enrolment(self.provisioner, self.store, claim), self._authorities, now),
            ocsp.PREFIX: ocsp.Ocsp(authority, certificates.find, is_ours, now),
            trust.PREFIX: trust.TrustFiles(authority, lambda: self.revocation.lists, now),
        }

    def _authorities(self, now: Millis) -> str:
        """All that devices may have to do with, PEM."""
        return self.authority.in_force().bundle(Purpose.SERVERS, now) + self.trusted(now)

    async def begin_lists(self, now: Millis) -> None:
        """At start, the same as far as it goes: whoever watches a device broker that is away tells of it."""
        await self.revocation.step(now)
        with suppress(Unavailable):
            await self.bring_lists(now)

    async def bring_lists(self, now: Millis) -> None:
        """Have revocation lists in force wherever device brokers read them. Raises `Unavailable`."""
        await self.revocation.step(now)
        for one in self.beside:
            if isinstance(one, MosquittoCertificates):
                await one.pulse()

    async def forget_wiped(self, now: Millis) -> Millis:
        """Get what was wiped off the disk; when to come back."""
        return now + (_BETWEEN if await self.store.truncate_log() else _IN_A_MOMENT)

    async def log_head(self, now: Millis) -> Millis:
        """Note the journal's head where whoever rewrites the ledger does not reach it; when to come back."""
        if (head := await self.store.head()) is not None:
            _log.info("journal", seq=head.seq, head=head.digest.hex())
        return now + _HOUR

    async def _is_writable(self) -> bool:
        try:
            await self.store.check()
        except Unavailable:
            return False
        return True


def now() -> Millis:
    """The wall clock."""
    return time.time_ns() // 1_000_000


def _tell_health(trouble: str | None) -> None:
    if trouble is None:
        _log.info("the ledger works again")
    else:
        _log.error("the ledger fails", detail=trouble)


def _tell_failure(what: str, error: Exception) -> None:
    _log.error("a job failed", job=what, exc_info=error)


def _lists_of(revocation: RevocationLists) -> Callable[[], Awaitable[str]]:
    """All revocation lists, PEM, as new as the ledger."""

    async def lists() -> str:
        await revocation.step(now())
        return "".join(pem_of(one) for one in revocation.lists.values())

    return lists


def _holder_of(store: SqliteStore) -> Callable[[str, str], Awaitable[str | None]]:
    """Whose session a retired user name's is; None: perhaps that of another generation, which is in force."""

    async def holder(device_broker: str, username: str) -> str | None:
        credential = await store.find_username(device_broker, username)
        if credential is None:
            return None
        others = await store.find_credentials(credential.request_id)
        is_alone = all(one.state not in LIVE or one.username == username for one in others)
        return credential.client_id if is_alone else None

    return holder


def _granted(rights: DeviceRights | None) -> Grant | None:
    if rights is None:
        return None
    topics = rights.grant
    return Grant(rights.account, rights.username, rights.client_id, topics.publish, topics.subscribe)


@asynccontextmanager
async def assembled(data_dir: Path, choices: Choices) -> AsyncIterator[Parts]:
    """The parts over `data_dir`, which is prepared if it is new. Raises `Unusable`, `Unavailable`."""
    directory = DataDir(data_dir)
    directory.prepare()
    keyring = await open_keyring(choices.key_source, directory, lambda: new_key(os.urandom))
    store = await SqliteStore.open(directory.ledger)
    store.on_health = _tell_health
    try:
        await enrol(store.keys, keyring, now())
        await store.attachments.prune()
        if (restored := await restore.complete(store, now())) is not None:
            _log.warning("restored", copied_on=restored.copied_on, retired=restored.retired)
        parts = await _assemble(directory, keyring, store, choices)
        yield parts
        await parts.jobs.close()
    finally:
        for one in choices.beside:
            await one.close()
        await store.close()


async def _assemble(directory: DataDir, keyring: Keyring, store: SqliteStore, choices: Choices) -> Parts:
    entropy = Pool()
    vault = Vault(keyring.keys, entropy, keyring.pepper)
    epochs = Epochs(store.keys, keyring, vault, entropy)
    wake = asyncio.Event()
    passwords = Passwords(entropy)
    logins = Logins(store, passwords)
    known = await store.certificates.list_issuers()
    authority = open_authority(choices.authority, directory.authority, now(), known)
    certification = Certification(authority, choices.authority.rules, entropy)

    async def authenticate(username: str, password: bytes, client_id: str, source: str) -> Grant | None:
        return _granted(await provisioner.device_login(devices.name, username, password, client_id, now(), source))

    async def by_certificate(certificate: bytes, client_id: str, source: str) -> Grant | None:
        return _granted(await provisioner.certificate_login(devices.name, certificate, client_id, now(), source))

    broker = EmbeddedBroker(authenticate, by_certificate=by_certificate)
    devices = EmbeddedDevices(broker.kick, lambda: [grant.username for grant in broker.connected()])
    brokers: dict[str, DeviceBroker] = {devices.name: devices} if choices.embedded else {}
    brokers |= {one.name: one for one in choices.beside}
    jobs = Jobs(store, brokers, vault, entropy)
    jobs.wake = wake.set
    jobs.report = _tell_failure
    provisioner = Provisioner(
        store,
        vault,
        brokers,
        jobs,
        logins,
        Admission(choices.wrong_keys),
        choices.rules,
        messages.measure,
        entropy,
        certification,
    )
    administration = Administration(
        store,
        vault,
        logins,
        passwords,
        brokers,
        entropy,
        default_broker=next(iter(brokers)),
        provision_account=choices.provision_account,
        confirm_time=choices.confirm_time,
        retry_max_attempts=choices.retry_max_attempts,
        allow_keyless=choices.rules.allow_keyless,
        newest_id=await store.newest_id(),
        wake=wake.set,
    )
    provisioner.offering.enclosed = administration.attachments.deliver
    provisioner.watch_logins(administration.learning.note)
    feed, deliveries = Feed(), Deliveries()

    def tell() -> None:
        feed.tell()
        deliveries.wake()

    store.tell = tell
    revoked = asyncio.Event()
    store.certificates.tell = revoked.set
    events = EventDesk(store.events, administration.visible, tell)
    for name in choices.sinks:
        await store.events.open_sink(name)
    watch = AuthorityWatch(choices.authority, directory.authority, certification, store.record)
    files = CrlFiles(directory.authority, choices.authority.crl_file)
    revocation = RevocationLists(store.certificates, certification, files.publish, files.numbers(authority.issuers))
    for one in choices.beside:
        if isinstance(one, MosquittoCertificates):
            one.lists, one.holder = _lists_of(revocation), _holder_of(store)
            one.trust(authority.root_pem)
    fresh = await firststart.complete(administration, directory, choices.provision_account, now())
    oversight = Oversight(administration, store, Reconciler(store, brokers, vault))
    parts = Parts(
        directory=directory,
        store=store,
        broker=broker,
        devices=devices,
        beside=choices.beside,
        jobs=jobs,
        administration=administration,
        provisioner=provisioner,
        epochs=epochs,
        oversight=oversight,
        authority=watch,
        revocation=revocation,
        events=events,
        feed=feed,
        doors=_doors(store, vault, entropy, brokers, administration, provisioner, choices),
        entropy=entropy,
        vault=vault,
        wake=wake,
        revoked=revoked,
        deliveries=deliveries,
        is_fresh=fresh,
    )
    watch.announce = parts.bring_lists
    return parts


def _doors(
    store: SqliteStore,
    vault: Vault,
    entropy: Entropy,
    brokers: Mapping[str, DeviceBroker],
    administration: Administration,
    provisioner: Provisioner,
    choices: Choices,
) -> Doors:
    """Other products' doors. A connection of HTTP is no more than its source: it is counted as one."""
    guesses = Admission(replace(choices.wrong_keys, per_connection=choices.wrong_keys.per_source))
    serials = Serials(
        store.serials, store, administration, provisioner, guesses, may_repeat=choices.may_repeat_activation
    )
    drafts = Drafts(administration, store)
    bulk = Bulk(store.devices, administration, drafts, vault, entropy, mails=choices.mails)
    batches = Batches(store.devices, administration)
    dps = Dps(store.dps, administration)
    why = Why(store.why, store, vault, brokers, administration)
    return Doors(serials, bulk, batches, dps, why, allow_plain_without_tls=choices.rules.allow_plain_without_tls)
