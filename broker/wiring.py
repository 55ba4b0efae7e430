"""From settings to what the parts take: which device brokers, sinks, limits, keys and certificates there are.

1. Nothing is started here, and nothing is opened but the files that settings name. What cannot be used is
   `Misconfigured`, with the setting's name and what to do.
2. Heavy parts are imported where they are first needed: a command that asks a running server needs none of them.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar
from urllib.parse import urlsplit

from config import files
from config.settings import DeviceBroker, Events, Settings
from config.values import is_host
from provisioner.errors import ProvisionerError
from provisioner.ports import EventSink

if TYPE_CHECKING:
    from broker.authority import AuthorityChoices
    from broker.beside.doctor import Patient
    from broker.devicebrokers.watch import Beside
    from broker.keyring import KeySource
    from broker.mqtt.interface import EndpointLimits
    from broker.mqtt.upstream import Site
    from broker.parts import Choices
    from broker.sinks.mqtt import ListTopics, Publisher
    from provisioner.model import BrokerAddress

EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # where a server that listens there can be reached

T = TypeVar("T")


class Sink(EventSink, Protocol):
    """A sink that holds connections."""

    async def close(self) -> None:
        """Close them."""


class Misconfigured(ProvisionerError):
    """The settings cannot be used; `problems` has one sentence each."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def check_files(settings: Settings) -> None:
    """Whether the files that settings name can be used. Raises `Misconfigured`."""
    if problems := files.problems(settings):
        raise Misconfigured(problems)
    _webhook_keys(settings.events)
    login_of("events.mqtt_login_file", settings.events.mqtt_login_file)
    login_of("bridge.login_file", settings.bridge.login_file)
    authority_choices(settings)
    login_of("mail.login_file", settings.mail.login_file)


def choices(settings: Settings) -> Choices:
    """What the operator of this installation decided. Raises `Misconfigured`."""
    from broker.parts import Choices  # noqa: PLC0415  # rule 1
    from provisioner.admission import Rate, WrongKeyRates  # noqa: PLC0415  # rule 1
    from provisioner.clones import CloneAction, CloneRule  # noqa: PLC0415  # rule 1
    from provisioner.service import Rules  # noqa: PLC0415  # rule 1

    claim, wrong = settings.claim, settings.wrong_keys
    return Choices(
        sinks=sink_names(settings),
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

    plain, secure = told(section)
    match section:
        case DeviceBroker(kind="mosquitto-files", password_file=Path() as passwords, acl_file=Path() as rights):
            check = parse_url(section.check_url or section.url or section.secure_url or "")
            tls = trust(section.ca) if check.tls else None
            files = mosquitto_files.Files(passwords, rights, section.pid_file, section.reload_command)
            return mosquitto_files.MosquittoFiles(name, files, check, tls, os.urandom, plain=plain, secure=secure)
        case DeviceBroker(kind="mosquitto-certificates"):
            at = parse_url(section.control_url or "")
            control = at, _control_login(section), trust(section.control_ca) if at.tls else None
            process = mosquitto_process.MosquittoProcess(section.pid_file, section.reload_command)
            return mosquitto_certificates.MosquittoCertificates(name, crl_file, process, control, plain, secure)
        case DeviceBroker(kind="mosquitto-dynsec"):
            at = parse_url(section.control_url or "")
            dynsec = dynsec_control.DynsecControl(
                at, _control_login(section), trust(section.control_ca) if at.tls else None
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
    return url, _control_login(section), trust(section.control_ca) if url.startswith("https:") else None


def _control_login(section: DeviceBroker) -> tuple[str, str]:
    from broker.sinks.mqtt import parse_login  # noqa: PLC0415  # rule 1

    return parsed("login_file", section.login_file or Path(), parse_login)


def told(
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
        blocked = parsed("authority.blocked_keys", section.blocked_keys, parse_blocked)
    return AuthorityChoices(
        CertificateRules(section.certificate_days * DAY, KeyPolicy(section.rsa, blocked)),
        section.crl_url or "",
        section.ocsp_url or "",
        section.passphrase_file,
        section.crl_file,
    )


def limits(settings: Settings) -> EndpointLimits:
    """What the endpoint may take."""
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


def server_names(settings: Settings) -> tuple[str, ...]:
    """What our own listeners are certified for: what the settings say, else what this machine is called here."""
    if settings.authority.server_names:
        return tuple(settings.authority.server_names.split(","))
    asked = (settings.device_broker.tls_listen, settings.endpoint.tls_listen, settings.http.tls_listen)
    listened = [address.host for address in asked if address is not None and address.host not in EVERYWHERE]
    told = urlsplit(settings.device_broker.secure_url or "").hostname
    names = [*([told] if told else []), *listened, socket.gethostname(), "localhost", "127.0.0.1", "::1"]
    return tuple(dict.fromkeys(name for name in names if is_host(name)))


def bridge_site(settings: Settings) -> Site | None:
    """Where the bridge's broker is and who we are there. Raises `Misconfigured`."""
    section = settings.bridge
    if section.url is None:
        return None
    from broker.mqtt.upstream import Site  # noqa: PLC0415  # rule 1

    tls = trust(section.ca) if section.url.startswith("mqtts:") else None
    return Site(section.url, login_of("bridge.login_file", section.login_file), tls)


def bridge_patient(settings: Settings) -> Patient | None:
    """What the doctor looks at; None where there is no bridge. Raises `Misconfigured`."""
    site = bridge_site(settings)
    if site is None:
        return None
    from broker.beside.doctor import Patient  # noqa: PLC0415  # rule 1
    from broker.mqtt.topics import Topics  # noqa: PLC0415  # rule 1

    file = settings.data_dir / "provision-login"
    login = login_of("the provision account's login", file) if file.exists() else None
    topics = Topics(settings.endpoint.root_topic)
    return Patient(site, login or ("factory", ""), topics, settings.bridge.kind, os.urandom)


def sinks(settings: Settings) -> list[Sink]:
    """Who gets every event, as the settings say. Raises `Misconfigured`."""
    section = settings.events
    made: list[Sink] = []
    if section.webhook_url is not None:
        from broker.parts import now  # noqa: PLC0415  # rule 1
        from broker.sinks.webhook import Webhook  # noqa: PLC0415  # rule 1

        tls = trust(section.webhook_ca) if section.webhook_url.startswith("https:") else None
        keys, parallel = _webhook_keys(section), section.webhook_parallel
        made.append(Webhook(section.webhook_url, keys, now, timeout=section.timeout, parallel=parallel, tls=tls))
    if section.mqtt_url is not None:
        from broker.sinks.mqtt import EVENTS, MqttTopic  # noqa: PLC0415  # rule 1

        made.append(MqttTopic(_publisher(section, section.mqtt_url, EVENTS), section.mqtt_topic))
    return made


def list_topics(settings: Settings, lists: Callable[[], Mapping[str, bytes]]) -> ListTopics | None:
    """What publishes revocation lists, where the settings name a broker for it. Raises `Misconfigured`."""
    section = settings.events
    if section.mqtt_url is None:
        return None
    from broker.sinks.mqtt import LISTS, ListTopics  # noqa: PLC0415  # rule 1

    return ListTopics(_publisher(section, section.mqtt_url, LISTS), section.mqtt_topic, lists)


def _publisher(section: Events, url: str, client_id: str) -> Publisher:
    from broker.sinks.mqtt import Publisher  # noqa: PLC0415  # rule 1

    tls = trust(section.mqtt_ca) if url.startswith("mqtts:") else None
    login = login_of("events.mqtt_login_file", section.mqtt_login_file)
    return Publisher(url, client_id, login=login, timeout=section.timeout, tls=tls)


def sink_names(settings: Settings) -> tuple[str, ...]:
    """The same by name: a sink gets what happens from the moment it is set up, whoever opens the ledger then."""
    urls = {"webhook": settings.events.webhook_url, "mqtt": settings.events.mqtt_url}
    return tuple(name for name, url in urls.items() if url is not None)


def _webhook_keys(section: Events) -> list[bytes]:
    if section.webhook_secret_file is None:
        return []
    from broker.sinks.webhook import parse_secrets  # noqa: PLC0415  # rule 1

    return parsed("events.webhook_secret_file", section.webhook_secret_file, parse_secrets)


def login_of(name: str, file: Path | None) -> tuple[str, str] | None:
    """The user name and password in a file that the setting `name` names. Raises `Misconfigured`."""
    if file is None:
        return None
    from broker.sinks.mqtt import parse_login  # noqa: PLC0415  # rule 1

    return parsed(name, file, parse_login)


def parsed(name: str, file: Path, parse: Callable[[str], T]) -> T:
    """What a secret file holds. Raises `Misconfigured`."""
    try:
        return parse(file.read_text(encoding="utf-8", errors="replace"))
    except ValueError as error:
        raise Misconfigured((f"{name} {file} {error}.",)) from None


def parse_secret(text: str) -> str:
    """The secret in a file. Raises ValueError, whose text goes on from the file's name."""
    secret = text.strip()
    if (
        not 16 <= len(secret) <= 256
        or not secret.isascii()
        or not secret.isprintable()
        or not set(" /?#%").isdisjoint(secret)
    ):
        raise ValueError("does not hold a secret of 16 to 256 characters without spaces and / ? # %")
    return secret


def trust(ca: Path | None) -> ssl.SSLContext:
    """What a receiver's certificate is checked with."""
    return ssl.create_default_context(cafile=ca)
