"""The composition root: settings -> parts -> running program. With `wiring` the only reader of `config`.

1. Heavy parts are imported where they are first needed: a command that asks a running server needs none of them.
2. What is started is stopped in the opposite order, whatever happens in between: devices first, the ledger last.
3. Standard output gets one line, when everything listens; the rest is the log's, or for people on standard error.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import ssl
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

from broker import wiring
from broker.datadir import Running
from config.settings import DeviceBroker, Endpoint, Http, Settings, Webhook
from config.sources import Loaded, SettingsError, variable
from config.sources import load as load_settings
from config.values import Address
from provisioner.errors import ProvisionerError

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp

    from broker.lifetime import Stepper
    from broker.listeners import Listeners
    from broker.mqtt.bridge import Bridge
    from broker.mqtt.responder import Responder
    from broker.parts import Parts

_BRIDGE_PATIENCE = 10.0
"""Seconds the start waits for the broker that is there already; it may be away, and is tried again and again."""


T = TypeVar("T")


class _Start(Protocol):
    """How the endpoint and the device broker are told to listen on one more address."""

    async def __call__(self, host: str, port: int, ssl: ssl.SSLContext | None = None) -> int: ...


class CannotListen(ProvisionerError):
    """An address cannot be listened on; the text names the setting."""


def load(file: Path | None = None, data_dir: Path | None = None, chaos_seed: int | None = None) -> Loaded:
    """Settings of this process and where each came from; the arguments are the command line's. `Misconfigured`."""
    options = {"data_dir": data_dir, "chaos.seed": chaos_seed}
    given = {name: str(value) for name, value in options.items() if value is not None}
    try:
        return load_settings(file, os.environ, given)
    except SettingsError as error:
        raise wiring.Misconfigured(error.problems) from None


def check(file: Path | None = None, data_dir: Path | None = None) -> tuple[str, ...]:
    """What is wrong with the settings and the files they name, a sentence each."""
    try:
        settings = load(file, data_dir).settings
        wiring.check_files(settings)
    except wiring.Misconfigured as error:
        return error.problems
    return ()


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[FastAPI]:
    """The operator API over the data directory, without a listener: for commands that find no running server."""
    from broker.parts import Figures, assembled  # noqa: PLC0415  # rule 1

    async with assembled(settings.data_dir, wiring.choices(settings)) as parts:
        # With port 0 nobody knows the address before somebody listens; that there is one is what is asked here.
        listen, tls_listen = (
            None if address is None else str(address)
            for address in (settings.device_broker.listen, settings.device_broker.tls_listen)
        )
        root = parts.authority.in_force().root_pem
        parts.devices.plain, parts.devices.secure = wiring.told(settings.device_broker, listen, tls_listen, root)
        secure = None if settings.http.tls_listen is None else str(settings.http.tls_listen)
        parts.administration.attachments.base_url = _download_url(settings, str(settings.http.listen), secure)
        yield parts.api(Figures())


async def prepare(settings: Settings) -> bool:
    """Do what the first start does, without starting; False: it was done before."""
    from broker.parts import assembled  # noqa: PLC0415  # rule 1

    wiring.check_files(settings)
    async with assembled(settings.data_dir, wiring.choices(settings)) as parts:
        return parts.is_fresh


async def run(settings: Settings, greet: Callable[[Running, bool], None], *, chaotic: bool = False) -> None:
    """Serve until a signal comes; `greet` is called once everything listens, with whether it was the first start.

    `chaotic`: treat devices as `settings.chaos` says. That is never a setting, so that no forgotten line of a file
    does it to a production line.
    """
    from broker import lifetime, log  # noqa: PLC0415  # rule 1
    from broker.parts import assembled  # noqa: PLC0415  # rule 1

    wiring.check_files(settings)
    log.configure(settings.log.level, settings.log.format)
    lifetime.raise_file_limit()
    stop = asyncio.Event()
    with lifetime.stopped_by_signals(stop):
        async with assembled(settings.data_dir, wiring.choices(settings)) as parts:
            tls = _listeners(settings, parts)
            with lifetime.reloaded_by_signal(parts.authority.reload, tls.reload):
                async with _serving(settings, parts, tls, chaotic=chaotic) as running:
                    await _until(stop, parts, running, greet, settings.chaos.seed if chaotic else None)


async def _until(
    stop: asyncio.Event, parts: Parts, running: Running, greet: Callable[[Running, bool], None], chaos_seed: int | None
) -> None:
    """Say that everything listens, and wait for the end."""
    from broker.lifetime import settle_memory  # noqa: PLC0415  # rule 1

    announcement = parts.directory.announce(running)
    try:
        settle_memory()
        _print_ready(running, chaos_seed)
        greet(running, parts.is_fresh)
        await stop.wait()
    finally:
        announcement.withdraw()


@asynccontextmanager
async def served(given: Mapping[str, str]) -> AsyncIterator[Running]:
    """Serve within this process, on any thread's loop, as long as the block lasts: for tests of other projects.

    `given` are the settings by name (`endpoint.listen`); no file and no variable is looked at, no signal and no log
    touched. Raises `Misconfigured`, `CannotListen`.
    """
    from broker.parts import assembled  # noqa: PLC0415  # rule 1

    try:
        settings = load_settings(None, {}, given).settings
    except SettingsError as error:
        raise wiring.Misconfigured(error.problems) from None
    wiring.check_files(settings)
    async with (
        assembled(settings.data_dir, wiring.choices(settings)) as parts,
        _serving(settings, parts, _listeners(settings, parts), chaotic=False) as running,
    ):
        yield running


@asynccontextmanager
async def _serving(settings: Settings, parts: Parts, tls: Listeners, *, chaotic: bool) -> AsyncIterator[Running]:
    """Everything listens: first where devices work, last where they claim. It ends in the opposite order."""
    from broker.devicebrokers.watch import Watch  # noqa: PLC0415  # rule 1
    from broker.http.pki import PkiFront  # noqa: PLC0415  # rule 1
    from broker.lifetime import ClockWatch, Stepper  # noqa: PLC0415  # rule 1
    from broker.mqtt.endpoint import Endpoint  # noqa: PLC0415  # rule 1
    from broker.parts import Figures, now  # noqa: PLC0415  # rule 1

    responder = _responder(settings, parts, chaotic=chaotic)
    endpoint = Endpoint(responder, wiring.limits(settings), settings.endpoint.root_topic)
    bridge = _bridge(settings, parts, responder)
    watches = [Watch(one, parts.jobs.reconcile) for one in parts.beside]
    figures = Figures(
        lambda: _by_reason(responder),
        lambda: endpoint.counters.open,
        lambda: all(watch.is_there for watch in watches),
        None if bridge is None else lambda: bridge.is_serving,
        dict if bridge is None else lambda: bridge.counters.told,
    )
    async with AsyncExitStack() as stack:
        sinks = wiring.sinks(settings)
        for sink in sinks:
            stack.push_async_callback(sink.close)
        stack.push_async_callback(parts.broker.close)
        works, works_tls = await _listen_for_devices(settings, parts, tls)
        public = PkiFront(parts.api(figures), parts.pki(responder.claim, tls.own.is_this))
        serve_http = _serve_http(public, stack)
        stack.callback(parts.feed.close)
        if (webhooks := _webhook_app(settings, parts)) is not None:
            await _listen_both("webhook", settings.webhook, tls, _serve_http(webhooks, stack))
        api = await _listen("http.listen", settings.http.listen, serve_http)
        api_tls = await _listen_tls("http", settings.http.tls_listen, tls, serve_http)
        parts.administration.attachments.base_url = _download_url(settings, api, api_tls)
        await parts.begin_lists(now())
        await parts.jobs.recover()
        stack.push_async_callback(endpoint.drain, settings.endpoint.drain_time)
        claims, claims_tls = await _listen_both("endpoint", settings.endpoint, tls, endpoint.start)
        if bridge is not None:
            stack.push_async_callback(bridge.drain, settings.endpoint.drain_time)
            await bridge.start(_BRIDGE_PATIENCE)
        sighted = asyncio.Event()
        parts.administration.learning.wake = sighted.set
        async with asyncio.TaskGroup() as tasks:
            steppers = [
                Stepper("jobs", parts.jobs.step, now, parts.wake, ClockWatch()),
                Stepper("sightings", parts.administration.learning.step, now, sighted),
                Stepper("erasing", parts.forget_wiped, now, asyncio.Event()),
                Stepper("journal", parts.log_head, now, asyncio.Event()),
                Stepper("authority", parts.authority.step, now, parts.authority.wake),
                Stepper("revocation", parts.revocation.step, now, parts.revoked),
                Stepper("listeners", tls.step, now, asyncio.Event()),
                *_deliveries(settings, parts, sinks),
                *_list_topics(settings, parts, stack),
                *(Stepper(f"watching {one.broker.name}", one.step, now, asyncio.Event()) for one in watches),
            ]
            workers = [(stepper, tasks.create_task(stepper.run(), name=stepper.name)) for stepper in steppers]
            try:
                https = None if api_tls is None else _url(api_tls, "https")
                yield Running(os.getpid(), _url(api), claims, claims_tls, works, works_tls, https, settings.bridge.url)
            finally:
                await asyncio.gather(*(one.end(task, settings.endpoint.drain_time) for one, task in workers))


def _deliveries(settings: Settings, parts: Parts, sinks: Sequence[wiring.Sink]) -> list[Stepper]:
    """What delivers domain events, a worker a sink, and what deletes old ones."""
    from broker.lifetime import Stepper  # noqa: PLC0415  # rule 1
    from broker.parts import now  # noqa: PLC0415  # rule 1
    from broker.sinks import log_dead_letter  # noqa: PLC0415  # rule 1
    from provisioner.outbox import Outbox, Retention  # noqa: PLC0415  # rule 1

    log, entropy, most = parts.store.events, parts.entropy, settings.events.max_attempts
    retention = Retention(log, [sink.name for sink in sinks], settings.events.keep_days)
    return [
        Stepper("retention", retention.step, now, asyncio.Event()),
        *_mails(settings, parts),
        *(
            Stepper(sink.name, Outbox(log, sink, entropy, most, log_dead_letter).step, now, parts.deliveries.waker())
            for sink in sinks
        ),
    ]


def _list_topics(settings: Settings, parts: Parts, stack: AsyncExitStack) -> list[Stepper]:
    """What publishes revocation lists beside the events, where the settings name an MQTT broker."""
    from broker.lifetime import Stepper  # noqa: PLC0415  # rule 1
    from broker.parts import now  # noqa: PLC0415  # rule 1

    topics = wiring.list_topics(settings, lambda: parts.revocation.lists)
    if topics is None:
        return []
    stack.push_async_callback(topics.close)
    return [Stepper("revocation topics", topics.step, now, parts.deliveries.waker())]


def _mails(settings: Settings, parts: Parts) -> list[Stepper]:
    """What sends activation e-mails, where the settings name a mail server."""
    section = settings.mail
    if section.server is None:
        return []
    from broker.lifetime import Stepper  # noqa: PLC0415  # rule 1
    from broker.mail import Server, SmtpPostman  # noqa: PLC0415  # rule 1
    from broker.parts import now  # noqa: PLC0415  # rule 1
    from provisioner.mails import Mails  # noqa: PLC0415  # rule 1

    host, port, login = section.server.host, section.server.port, wiring.login_of("mail.login_file", section.login_file)
    tls = None if section.security == "none" else wiring.trust(section.ca)
    postman = SmtpPostman(Server(host, port, section.security, section.sender, section.timeout, login, tls))
    mails = Mails(parts.store.devices, parts.store, parts.vault, postman)
    return [Stepper("mail", mails.step, now, parts.deliveries.waker())]


def _responder(settings: Settings, parts: Parts, *, chaotic: bool) -> Responder:
    """What answers devices."""
    from broker.mqtt.chaos import ChaoticResponder, Moods  # noqa: PLC0415  # rule 1
    from broker.mqtt.responder import Responder  # noqa: PLC0415  # rule 1
    from broker.parts import now  # noqa: PLC0415  # rule 1

    if not chaotic:
        return Responder(parts.provisioner, now, parts.entropy)
    return ChaoticResponder(parts.provisioner, now, parts.entropy, Moods(**settings.chaos.model_dump()))


def _bridge(settings: Settings, parts: Parts, responder: Responder) -> Bridge | None:
    """The conversation through the broker that is there already; None: the settings name none."""
    site = wiring.bridge_site(settings)
    if site is None:
        return None
    from broker.beside.doctor import examine  # noqa: PLC0415  # rule 1
    from broker.mqtt.bridge import Bridge  # noqa: PLC0415  # rule 1
    from broker.mqtt.topics import Topics  # noqa: PLC0415  # rule 1

    section, patient = settings.bridge, wiring.bridge_patient(settings)
    return Bridge(
        responder,
        site,
        Topics(settings.endpoint.root_topic),
        parts.entropy,
        share=section.share,
        dotless=section.kind == "rabbitmq",
        examine=None if section.serve_on_leaks or patient is None else partial(examine, patient),
    )


def _serve_http(api: ASGIApp, stack: AsyncExitStack) -> _Start:
    """What starts one more listener of this application, which `stack` ends."""
    from broker.http.server import HttpServer  # noqa: PLC0415  # rule 1

    async def start(host: str, port: int, ssl: ssl.SSLContext | None = None) -> int:
        server = HttpServer(api, tls=ssl)
        stack.push_async_callback(server.stop)
        return await server.start(host, port)

    return start


def _listeners(settings: Settings, parts: Parts) -> Listeners:
    """The TLS of each section that listens with it. Raises `Misconfigured`, `Unusable`, `Unavailable`."""
    from broker.listeners import Listeners  # noqa: PLC0415  # rule 1
    from broker.parts import now  # noqa: PLC0415  # rule 1
    from broker.servercertificate import ServerCertificate  # noqa: PLC0415  # rule 1

    files: dict[str, tuple[Path, Path] | None] = {}
    for name in ("endpoint", "device_broker", "webhook", "http"):
        section: Endpoint | DeviceBroker | Webhook | Http = getattr(settings, name)
        if section.tls_listen is not None:
            pair = section.certificate, section.private_key
            files[name] = None if pair[0] is None or pair[1] is None else (pair[0], pair[1])
    own = ServerCertificate(parts.directory, parts.authority.in_force, wiring.server_names(settings), parts.entropy)
    return Listeners(files, own, parts.trusted, {"webhook": settings.webhook.client_ca}, now)


async def _listen_for_devices(settings: Settings, parts: Parts, tls: Listeners) -> tuple[str | None, str | None]:
    """Where the embedded device broker listens without and with TLS, if there is one."""
    if settings.device_broker.kind != "embedded":
        return None, None
    works, works_tls = await _listen_both("device_broker", settings.device_broker, tls, parts.broker.start)
    root = parts.authority.in_force().root_pem
    parts.devices.plain, parts.devices.secure = wiring.told(settings.device_broker, works, works_tls, root)
    return works, works_tls


async def _listen_both(
    name: str, section: Endpoint | DeviceBroker | Webhook, tls: Listeners, start: _Start
) -> tuple[str | None, str | None]:
    """Listen without and with TLS, as far as the settings say so; returns the addresses."""
    plain = None if section.listen is None else await _listen(f"{name}.listen", section.listen, start)
    return plain, await _listen_tls(name, section.tls_listen, tls, start)


async def _listen_tls(name: str, address: Address | None, tls: Listeners, start: _Start) -> str | None:
    if address is None:
        return None
    context = tls.context(name)
    return await _listen(f"{name}.tls_listen", address, lambda host, port: start(host, port, context))


async def _listen(name: str, address: Address, start: Callable[[str, int], Awaitable[int]]) -> str:
    try:
        return str(Address(address.host, await start(address.host, address.port)))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            why = "is taken: stop the program that listens there"
        else:
            why = f"cannot be listened on ({(error.strerror or str(error)).lower()}): check the address"
        raise CannotListen(f"{name} {address} {why}, or set {variable(name)} to another one.") from None


def _webhook_app(settings: Settings, parts: Parts) -> ASGIApp | None:
    """Where brokers ask; None: none does."""
    from broker.devicebrokers.webhook import Webhook  # noqa: PLC0415  # rule 1
    from broker.http.webhooks import Asking, WebhookApp  # noqa: PLC0415  # rule 1
    from broker.parts import now  # noqa: PLC0415  # rule 1

    sections = {settings.device_broker.kind: settings.device_broker} | settings.device_brokers
    asking = []
    for one in parts.beside:
        if isinstance(one, Webhook):
            file = sections[one.name].secret_file
            asking.append(Asking(one, "" if file is None else wiring.parsed("secret_file", file, wiring.parse_secret)))
    trusted = settings.webhook.client_ca is not None
    return WebhookApp(asking, parts.provisioner, now, certificates_count=trusted) if asking else None


def _by_reason(responder: Responder) -> Mapping[str, int]:
    """Answers to claims, by reason."""
    counted: Counter[str] = Counter()
    for (kind, reason), count in responder.answered.items():
        if kind == "request":
            counted[reason] += count
    return counted


def _print_ready(running: Running, chaos_seed: int | None) -> None:
    ready: dict[str, object] = {
        "event": "ready",
        "endpoint": running.endpoint,
        "endpointTls": running.endpoint_tls,
        "deviceBroker": running.device_broker,
        "deviceBrokerTls": running.device_broker_tls,
        "http": running.http.removeprefix("http://"),
        "bridge": running.bridge,
        "https": running.https and running.https.removeprefix("https://"),
    }
    if chaos_seed is not None:
        ready["chaos"] = chaos_seed
    sys.stdout.write(json.dumps(ready) + "\n")
    sys.stdout.flush()


def _download_url(settings: Settings, plain: str, tls: str | None) -> str | None:
    """Where devices fetch attachments; None: they cannot be told what is listened on."""
    if settings.http.download_url is not None:
        return settings.http.download_url.rstrip("/")
    address, scheme = (plain, "http") if tls is None else (tls, "https")
    return None if address.rpartition(":")[0].strip("[]") in wiring.EVERYWHERE else f"{scheme}://{address}"


def _url(address: str, scheme: str = "http") -> str:
    """Where a program on this machine reaches what listens on `address`."""
    host, _, port = address.rpartition(":")
    return f"{scheme}://{Address(wiring.EVERYWHERE.get(host.strip('[]'), host.strip('[]')), int(port))}"
