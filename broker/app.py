"""The composition root: settings -> parts -> running program. The only reader of `config`.

1. Heavy parts are imported where they are first needed: a command that asks a running server needs none of them.
2. What is started is stopped in the opposite order, whatever happens in between: devices first, the ledger last.
3. Standard output gets one line, when everything listens; the rest is the log's, or for people on standard error.
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import ssl
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar
from urllib.parse import urlsplit

from broker.datadir import Running
from config import files
from config.settings import DeviceBroker, Endpoint, Events, Http, Settings, Webhook
from config.sources import Loaded, SettingsError, variable
from config.sources import load as load_settings
from config.values import Address, is_host
from provisioner.errors import ProvisionerError
from provisioner.ports import EventSink

if TYPE_CHECKING:
    from fastapi import FastAPI
    from starlette.types import ASGIApp

    from broker.authority import AuthorityChoices
    from broker.beside.doctor import Patient
    from broker.devicebrokers.watch import Beside
    from broker.keyring import KeySource
    from broker.lifetime import Stepper
    from broker.listeners import Listeners
    from broker.mqtt.bridge import Bridge
    from broker.mqtt.interface import EndpointLimits
    from broker.mqtt.responder import Responder
    from broker.mqtt.upstream import Site
    from broker.parts import Choices, Parts
    from provisioner.model import BrokerAddress

_BRIDGE_PATIENCE = 10.0
"""Seconds the start waits for the broker that is there already; it may be away, and is tried again and again."""
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # where a server that listens there can be reached


T = TypeVar("T")


class _Start(Protocol):
    """How the endpoint and the device broker are told to listen on one more address."""

    async def __call__(self, host: str, port: int, ssl: ssl.SSLContext | None = None) -> int: ...


class Sink(EventSink, Protocol):
    """A sink that holds connections."""

    async def close(self) -> None:
        """Close them."""


class Misconfigured(ProvisionerError):
    """The settings cannot be used; `problems` has one sentence each."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class CannotListen(ProvisionerError):
    """An address cannot be listened on; the text names the setting."""


def load(file: Path | None = None, data_dir: Path | None = None, chaos_seed: int | None = None) -> Loaded:
    """Settings of this process and where each came from; the arguments are the command line's. `Misconfigured`."""
    options = {"data_dir": data_dir, "chaos.seed": chaos_seed}
    given = {name: str(value) for name, value in options.items() if value is not None}
    try:
        return load_settings(file, os.environ, given)
    except SettingsError as error:
        raise Misconfigured(error.problems) from None


def check(file: Path | None = None, data_dir: Path | None = None) -> tuple[str, ...]:
    """What is wrong with the settings and the files they name, a sentence each."""
    try:
        settings = load(file, data_dir).settings
        _check_files(settings)
    except Misconfigured as error:
        return error.problems
    return ()


@asynccontextmanager
async def opened(settings: Settings) -> AsyncIterator[FastAPI]:
    """The operator API over the data directory, without a listener: for commands that find no running server."""
    from broker.parts import Figures, assembled  # noqa: PLC0415  # rule 1

    async with assembled(settings.data_dir, _choices(settings)) as parts:
        # With port 0 nobody knows the address before somebody listens; that there is one is what is asked here.
        listen, tls_listen = (
            None if address is None else str(address)
            for address in (settings.device_broker.listen, settings.device_broker.tls_listen)
        )
        root = parts.authority.in_force().root_pem
        parts.devices.plain, parts.devices.secure = _told(settings.device_broker, listen, tls_listen, root)
        secure = None if settings.http.tls_listen is None else str(settings.http.tls_listen)
        parts.administration.attachments.base_url = _download_url(settings, str(settings.http.listen), secure)
        yield parts.api(Figures())


async def prepare(settings: Settings) -> bool:
    """Do what the first start does, without starting; False: it was done before."""
    from broker.parts import assembled  # noqa: PLC0415  # rule 1

    _check_files(settings)
    async with assembled(settings.data_dir, _choices(settings)) as parts:
        return parts.is_fresh


async def run(settings: Settings, greet: Callable[[Running, bool], None], *, chaotic: bool = False) -> None:
    """Serve until a signal comes; `greet` is called once everything listens, with whether it was the first start.

    `chaotic`: treat devices as `settings.chaos` says. That is never a setting, so that no forgotten line of a file
    does it to a production line.
    """
    from broker import lifetime, log  # noqa: PLC0415  # rule 1
    from broker.parts import assembled  # noqa: PLC0415  # rule 1

    _check_files(settings)
    log.configure(settings.log.level, settings.log.format)
    lifetime.raise_file_limit()
    stop = asyncio.Event()
    with lifetime.stopped_by_signals(stop):
        async with assembled(settings.data_dir, _choices(settings)) as parts:
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
        raise Misconfigured(error.problems) from None
    _check_files(settings)
    async with (
        assembled(settings.data_dir, _choices(settings)) as parts,
        _serving(settings, parts, _listeners(settings, parts), chaotic=False) as running,
    ):
        yield running


@asynccontextmanager
async def _serving(settings: Settings, parts: Parts, tls: Listeners, *, chaotic: bool) -> AsyncIterator[Running]:
    """Everything listens: first where devices work, last where they claim. It ends in the opposite order."""
    from broker.devicebrokers.watch import Watch  # noqa: PLC0415  # rule 1
    from broker.http.pki import PkiFront  # noqa: PLC0415  # rule 1
    from broker.lifetime import Stepper  # noqa: PLC0415  # rule 1
    from broker.mqtt.endpoint import Endpoint  # noqa: PLC0415  # rule 1
    from broker.parts import Figures, now  # noqa: PLC0415  # rule 1

    responder = _responder(settings, parts, chaotic=chaotic)
    endpoint = Endpoint(responder, _limits(settings), settings.endpoint.root_topic)
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
        sinks = _sinks(settings)
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
        await parts.revocation.step(now())
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
                Stepper("jobs", parts.jobs.step, now, parts.wake),
                Stepper("sightings", parts.administration.learning.step, now, sighted),
                Stepper("erasing", parts.forget_wiped, now, asyncio.Event()),
                Stepper("journal", parts.log_head, now, asyncio.Event()),
                Stepper("authority", parts.authority.step, now, parts.authority.wake),
                Stepper("revocation", parts.revocation.step, now, parts.deliveries.waker()),
                Stepper("listeners", tls.step, now, asyncio.Event()),
                *_deliveries(settings, parts, sinks),
                *(Stepper(f"watching {one.broker.name}", one.step, now, asyncio.Event()) for one in watches),
            ]
            workers = [(stepper, tasks.create_task(stepper.run(), name=stepper.name)) for stepper in steppers]
            try:
                https = None if api_tls is None else _url(api_tls, "https")
                yield Running(os.getpid(), _url(api), claims, claims_tls, works, works_tls, https, settings.bridge.url)
            finally:
                await asyncio.gather(*(one.end(task, settings.endpoint.drain_time) for one, task in workers))


def _deliveries(settings: Settings, parts: Parts, sinks: Sequence[Sink]) -> list[Stepper]:
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


def _mails(settings: Settings, parts: Parts) -> list[Stepper]:
    """What sends activation e-mails, where the settings name a mail server."""
    section = settings.mail
    if section.server is None:
        return []
    from broker.lifetime import Stepper  # noqa: PLC0415  # rule 1
    from broker.mail import Server, SmtpPostman  # noqa: PLC0415  # rule 1
    from broker.parts import now  # noqa: PLC0415  # rule 1
    from provisioner.mails import Mails  # noqa: PLC0415  # rule 1

    host, port, login = section.server.host, section.server.port, _login("mail.login_file", section.login_file)
    tls = None if section.security == "none" else _trust(section.ca)
    postman = SmtpPostman(Server(host, port, section.security, section.sender, section.timeout, login, tls))
    mails = Mails(parts.store.devices, parts.store, parts.vault, postman)
    return [Stepper("mail", mails.step, now, parts.deliveries.waker())]


def _sinks(settings: Settings) -> list[Sink]:
    """Who gets every event, as the settings say. Raises `Misconfigured`."""
    section = settings.events
    made: list[Sink] = []
    if section.webhook_url is not None:
        from broker.parts import now  # noqa: PLC0415  # rule 1
        from broker.sinks.webhook import Webhook  # noqa: PLC0415  # rule 1

        tls = _trust(section.webhook_ca) if section.webhook_url.startswith("https:") else None
        keys, parallel = _webhook_keys(section), section.webhook_parallel
        made.append(Webhook(section.webhook_url, keys, now, timeout=section.timeout, parallel=parallel, tls=tls))
    if section.mqtt_url is not None:
        from broker.sinks.mqtt import MqttTopic  # noqa: PLC0415  # rule 1

        tls = _trust(section.mqtt_ca) if section.mqtt_url.startswith("mqtts:") else None
        login = _login("events.mqtt_login_file", section.mqtt_login_file)
        made.append(MqttTopic(section.mqtt_url, section.mqtt_topic, login=login, timeout=section.timeout, tls=tls))
    return made


def _sink_names(settings: Settings) -> tuple[str, ...]:
    """The same by name: a sink gets what happens from the moment it is set up, whoever opens the ledger then."""
    urls = {"webhook": settings.events.webhook_url, "mqtt": settings.events.mqtt_url}
    return tuple(name for name, url in urls.items() if url is not None)


def _trust(ca: Path | None) -> ssl.SSLContext:
    """What a receiver's certificate is checked with."""
    return ssl.create_default_context(cafile=ca)


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
    site = bridge_site(settings)
    if site is None:
        return None
    from broker.beside.doctor import examine  # noqa: PLC0415  # rule 1
    from broker.mqtt.bridge import Bridge  # noqa: PLC0415  # rule 1
    from broker.mqtt.topics import Topics  # noqa: PLC0415  # rule 1

    section, patient = settings.bridge, bridge_patient(settings)
    return Bridge(
        responder,
        site,
        Topics(settings.endpoint.root_topic),
        parts.entropy,
        share=section.share,
        dotless=section.kind == "rabbitmq",
        examine=None if section.serve_on_leaks or patient is None else partial(examine, patient),
    )


def bridge_site(settings: Settings) -> Site | None:
    """Where the bridge's broker is and who we are there. Raises `Misconfigured`."""
    section = settings.bridge
    if section.url is None:
        return None
    from broker.mqtt.upstream import Site  # noqa: PLC0415  # rule 1

    tls = _trust(section.ca) if section.url.startswith("mqtts:") else None
    return Site(section.url, _login("bridge.login_file", section.login_file), tls)


def bridge_patient(settings: Settings) -> Patient | None:
    """What the doctor looks at; None where there is no bridge. Raises `Misconfigured`."""
    site = bridge_site(settings)
    if site is None:
        return None
    from broker.beside.doctor import Patient  # noqa: PLC0415  # rule 1
    from broker.mqtt.topics import Topics  # noqa: PLC0415  # rule 1

    file = settings.data_dir / "provision-login"
    login = _login("the provision account's login", file) if file.exists() else None
    topics = Topics(settings.endpoint.root_topic)
    return Patient(site, login or ("factory", ""), topics, settings.bridge.kind, os.urandom)


def _check_files(settings: Settings) -> None:
    if problems := files.problems(settings):
        raise Misconfigured(problems)
    _webhook_keys(settings.events)
    _login("events.mqtt_login_file", settings.events.mqtt_login_file)
    _login("bridge.login_file", settings.bridge.login_file)
    authority_choices(settings)
    _login("mail.login_file", settings.mail.login_file)


def _webhook_keys(section: Events) -> list[bytes]:
    if section.webhook_secret_file is None:
        return []
    from broker.sinks.webhook import parse_secrets  # noqa: PLC0415  # rule 1

    return _parsed("events.webhook_secret_file", section.webhook_secret_file, parse_secrets)


def _login(name: str, file: Path | None) -> tuple[str, str] | None:
    """The user name and password in a file that the setting `name` names. Raises `Misconfigured`."""
    if file is None:
        return None
    from broker.sinks.mqtt import parse_login  # noqa: PLC0415  # rule 1

    return _parsed(name, file, parse_login)


def _parsed(name: str, file: Path, parse: Callable[[str], T]) -> T:
    """What a secret file holds. Raises `Misconfigured`."""
    try:
        return parse(file.read_text(encoding="utf-8", errors="replace"))
    except ValueError as error:
        raise Misconfigured((f"{name} {file} {error}.",)) from None


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
    own = ServerCertificate(parts.directory, parts.authority.in_force, _server_names(settings), parts.entropy)
    return Listeners(files, own, parts.trusted, {"webhook": settings.webhook.client_ca}, now)


def _server_names(settings: Settings) -> tuple[str, ...]:
    """What our own listeners are certified for: what the settings say, else what this machine is called here."""
    if settings.authority.server_names:
        return tuple(settings.authority.server_names.split(","))
    asked = (settings.device_broker.tls_listen, settings.endpoint.tls_listen, settings.http.tls_listen)
    listened = [address.host for address in asked if address is not None and address.host not in _EVERYWHERE]
    told = urlsplit(settings.device_broker.secure_url or "").hostname
    names = [*([told] if told else []), *listened, socket.gethostname(), "localhost", "127.0.0.1", "::1"]
    return tuple(dict.fromkeys(name for name in names if is_host(name)))


async def _listen_for_devices(settings: Settings, parts: Parts, tls: Listeners) -> tuple[str | None, str | None]:
    """Where the embedded device broker listens without and with TLS, if there is one."""
    if settings.device_broker.kind != "embedded":
        return None, None
    works, works_tls = await _listen_both("device_broker", settings.device_broker, tls, parts.broker.start)
    root = parts.authority.in_force().root_pem
    parts.devices.plain, parts.devices.secure = _told(settings.device_broker, works, works_tls, root)
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


def _told(
    section: DeviceBroker, plain: str | None = None, tls: str | None = None, root: str | None = None
) -> tuple[BrokerAddress | None, BrokerAddress | None]:
    """What devices are told without and with TLS; None where there is nothing. `root`: our authority's certificate."""
    from provisioner.model import BrokerAddress  # noqa: PLC0415  # rule 1

    url = section.url or (plain and f"mqtt://{plain}")
    secure_url = section.secure_url or (tls and f"mqtts://{tls}")
    ca = None if section.certificate is not None or section.tls_listen is None else root
    if section.ca is not None:
        ca = section.ca.read_text(encoding="utf-8", errors="replace")
    return BrokerAddress(url) if url else None, BrokerAddress(secure_url, ca) if secure_url else None


def _choices(settings: Settings) -> Choices:
    from broker.parts import Choices  # noqa: PLC0415  # rule 1
    from provisioner.admission import Rate, WrongKeyRates  # noqa: PLC0415  # rule 1
    from provisioner.clones import CloneAction, CloneRule  # noqa: PLC0415  # rule 1
    from provisioner.service import Rules  # noqa: PLC0415  # rule 1

    claim, wrong = settings.claim, settings.wrong_keys
    return Choices(
        sinks=_sink_names(settings),
        embedded=settings.device_broker.kind == "embedded",
        beside=_beside(settings),
        provision_account=settings.provision_account,
        confirm_time=claim.confirm_time,
        retry_max_attempts=claim.retry_max_attempts,
        rules=Rules(
            install_wait=claim.install_wait,
            allow_plain_without_tls=claim.allow_plain_without_tls,
            allow_keyless=claim.allow_keyless,
            refuse_unknown=settings.endpoint.refuse_unknown,
            clones=CloneRule(CloneAction(claim.clones), claim.clone_window * 1000),
        ),
        wrong_keys=WrongKeyRates(
            per_id=Rate(wrong.per_client_id_burst, wrong.per_client_id),
            per_source=Rate(wrong.per_source_burst, wrong.per_source),
            per_connection=Rate(wrong.per_connection_burst, wrong.per_connection),
            overall=Rate(wrong.overall_burst, wrong.overall),
        ),
        key_source=key_source(settings),
        may_repeat_activation=claim.repeat_activation,
        authority=authority_choices(settings),
        mails=settings.mail.server is not None,
    )


def _beside(settings: Settings) -> tuple[Beside, ...]:
    """The device brokers that are not ours, the default one first. Raises `Misconfigured`."""
    sections = [(settings.device_broker.kind, settings.device_broker), *settings.device_brokers.items()]
    crl_file = settings.authority.crl_file or settings.data_dir / "ca" / "crl.pem"
    return tuple(_made(name, section, crl_file) for name, section in sections if section.kind != "embedded")


def _made(name: str, section: DeviceBroker, crl_file: Path) -> Beside:
    """A device broker as its section says; what its kind needs, the settings have checked."""
    from broker.devicebrokers import (  # noqa: PLC0415  # rule 1
        dynsec_control,
        emqx_api,
        mosquitto_certificates,
        mosquitto_dynsec,
        mosquitto_files,
        mosquitto_process,
        rabbitmq,
        rabbitmq_api,
        webhook,
    )
    from broker.fleet.replies import parse_url  # noqa: PLC0415  # rule 1

    plain, secure = _told(section)
    match section:
        case DeviceBroker(kind="mosquitto-files", password_file=Path() as passwords, acl_file=Path() as rights):
            check = parse_url(section.check_url or section.url or section.secure_url or "")
            tls = _trust(section.ca) if check.tls else None
            files = mosquitto_files.Files(passwords, rights, section.pid_file, section.reload_command)
            return mosquitto_files.MosquittoFiles(name, files, check, tls, os.urandom, plain=plain, secure=secure)
        case DeviceBroker(kind="mosquitto-certificates"):
            at = parse_url(section.control_url or "")
            control = at, _control_login(section), _trust(section.control_ca) if at.tls else None
            process = mosquitto_process.MosquittoProcess(section.pid_file, section.reload_command)
            return mosquitto_certificates.MosquittoCertificates(name, crl_file, process, control, plain, secure)
        case DeviceBroker(kind="mosquitto-dynsec"):
            at = parse_url(section.control_url or "")
            dynsec = dynsec_control.DynsecControl(
                at, _control_login(section), _trust(section.control_ca) if at.tls else None
            )
            return mosquitto_dynsec.MosquittoDynsec(name, dynsec, plain=plain, secure=secure)
        case DeviceBroker(kind="rabbitmq"):
            api = rabbitmq_api.Management(*_control(section))
            return rabbitmq.RabbitMq(name, api, os.urandom, plain=plain, secure=secure)
        case _:
            apis: Mapping[str, Callable[..., webhook.Kicks]] = {
                "rabbitmq": rabbitmq_api.Management,
                "emqx": emqx_api.EmqxApi,
            }
            kicks = apis[section.dialect](*_control(section)) if section.control_url else None
            return webhook.Webhook(name, section.dialect, plain=plain, secure=secure, kicks=kicks)


def _control(section: DeviceBroker) -> tuple[str, tuple[str, str], ssl.SSLContext | None]:
    """Where a broker's own HTTP API is, the login there, and what its certificate is checked with."""
    url = section.control_url or ""
    return url, _control_login(section), _trust(section.control_ca) if url.startswith("https:") else None


def _control_login(section: DeviceBroker) -> tuple[str, str]:
    from broker.sinks.mqtt import parse_login  # noqa: PLC0415  # rule 1

    return _parsed("login_file", section.login_file or Path(), parse_login)


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
            asking.append(Asking(one, "" if file is None else _parsed("secret_file", file, _parse_secret)))
    trusted = settings.webhook.client_ca is not None
    return WebhookApp(asking, parts.provisioner, now, certificates_count=trusted) if asking else None


def _parse_secret(text: str) -> str:
    secret = text.strip()
    if (
        not 16 <= len(secret) <= 256
        or not secret.isascii()
        or not secret.isprintable()
        or not set(" /?#%").isdisjoint(secret)
    ):
        raise ValueError("does not hold a secret of 16 to 256 characters without spaces and / ? # %")
    return secret


def key_source(settings: Settings) -> KeySource:
    """Where the keys of the ledger are."""
    from broker.keyring import KeySource  # noqa: PLC0415  # rule 1

    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    return KeySource(settings.vault.source, Path(credentials) if credentials else None, settings.vault.command)


def authority_choices(settings: Settings) -> AuthorityChoices:
    """What is decided about certificates. Raises `Misconfigured`."""
    from broker.authority import AuthorityChoices, parse_blocked  # noqa: PLC0415  # rule 1
    from certs.csr import KeyPolicy  # noqa: PLC0415  # rule 1
    from provisioner.certification import DAY, CertificateRules  # noqa: PLC0415  # rule 1

    section = settings.authority
    blocked: frozenset[str] = frozenset()
    if section.blocked_keys is not None:
        blocked = _parsed("authority.blocked_keys", section.blocked_keys, parse_blocked)
    return AuthorityChoices(
        CertificateRules(section.certificate_days * DAY, KeyPolicy(section.rsa, blocked)),
        section.crl_url or "",
        section.ocsp_url or "",
        section.passphrase_file,
        section.crl_file,
    )


def _limits(settings: Settings) -> EndpointLimits:
    from broker.mqtt.interface import EndpointLimits  # noqa: PLC0415  # rule 1

    section = settings.endpoint
    return EndpointLimits(
        max_packet=section.max_packet,
        connect_time=section.connect_time,
        first_claim_time=section.first_claim_time,
        idle_time=section.idle_time,
        session_time=section.session_time,
        packets_per_second=section.packets_per_second,
        max_connections=section.max_connections,
        max_connections_per_source=section.max_connections_per_source,
        unproved_per_source=section.unproved_per_source,
        unproved_per_client_id=section.unproved_per_client_id,
        proved_per_client_id=section.proved_per_client_id,
    )


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
    return None if address.rpartition(":")[0].strip("[]") in _EVERYWHERE else f"{scheme}://{address}"


def _url(address: str, scheme: str = "http") -> str:
    """Where a program on this machine reaches what listens on `address`."""
    host, _, port = address.rpartition(":")
    return f"{scheme}://{Address(_EVERYWHERE.get(host.strip('[]'), host.strip('[]')), int(port))}"
