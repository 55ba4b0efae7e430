"""Which settings there are: frozen, and nothing beside them is accepted.

1. Each setting has a default that works on one machine, and one sentence (`description`) that is also its comment in
   `provisioner.toml`.
2. Times are seconds. Paths are relative to the working directory. An empty text means "none".
3. A rule that joins two settings is checked here; one that joins a setting and the disk is checked in `files.py`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, model_validator

from config.values import (
    Address,
    AnyBrokerUrl,
    CommandLine,
    ControlUrl,
    Count,
    Delay,
    DownloadUrl,
    Folder,
    HostNames,
    Listen,
    Name,
    OptionalFile,
    OptionalListen,
    OptionalSecureUrl,
    OptionalUrl,
    PacketBytes,
    PerMinute,
    PublishedUrl,
    Seconds,
    Seed,
    Share,
    Switch,
    TopicRoot,
    WebhookUrl,
    WholeSeconds,
    Write,
)

BrokerKind = Literal["mosquitto", "rabbitmq", "emqx", "vernemq", "other"]
"""Brokers whose access control we have words for."""

_EVERYWHERE = ("0.0.0.0", "::")  # noqa: S104  # named to be recognised, not to be listened on


class Section(BaseModel):
    """Frozen, complete and closed: what is not written here is not a setting."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


def _check_listeners(
    section: str,
    addresses: tuple[Address | None, Address | None],
    certificate: Path | None,
    private_key: Path | None,
) -> None:
    listen, tls_listen = addresses
    if listen is None and tls_listen is None:
        raise ValueError(f"{section}.listen and {section}.tls_listen are both empty: give at least one of them")
    if (certificate is None) != (private_key is None):
        missing = "certificate" if certificate is None else "private_key"
        raise ValueError(f"{section}.{missing} is missing: a certificate and its private key are set together")


class Endpoint(Section):
    """The provision broker: where factory-fresh devices ask (wire contract, section 4)."""

    listen: OptionalListen = Field(default=Address("127.0.0.1", 1884), description="Where devices claim without TLS.")
    tls_listen: OptionalListen = Field(default=None, description="Where devices claim with TLS.")
    certificate: OptionalFile = Field(
        default=None, description="PEM file with the server's chain; without one the authority certifies the listener."
    )
    private_key: OptionalFile = Field(default=None, description="PEM file with the key of the certificate, mode 0600.")
    root_topic: TopicRoot = Field(
        default="prov/v1", description="The levels in front of {user}/{clientId}/request, reply and ack."
    )
    refuse_unknown: Switch = Field(
        default=False,
        description="Refuse the CONNECT of a client id without a request, which tells a stranger who exists.",
    )
    connect_time: Seconds = Field(default=5.0, description="A CONNECT must be complete this long after the connection.")
    first_claim_time: Seconds = Field(
        default=10.0, description="The first claim must come this long after the CONNACK."
    )
    idle_time: Seconds = Field(default=120.0, description="A session that sends nothing for this long is closed.")
    session_time: Seconds = Field(default=600.0, description="No session lasts longer than this.")
    drain_time: Seconds = Field(default=5.0, description="On shutdown, answers under way get this long.")
    packets_per_second: Count = Field(default=10, description="Above this rate a session is read more slowly.")
    max_packet: PacketBytes = Field(default=16_384, description="A larger packet is refused before it is read.")
    max_connections: Count = Field(
        default=10_000, description="Above this many connections a newcomer is told to come later."
    )
    max_connections_per_source: Count = Field(default=1_000, description="The same for one source address.")
    unproved_per_source: Count = Field(
        default=4, description="Sessions of one client id from one source address that have not proved a key yet."
    )
    unproved_per_client_id: Count = Field(
        default=16,
        description="The same from anywhere; where they are taken, the source that has most of them makes room.",
    )
    proved_per_client_id: Count = Field(
        default=4, description="Sessions of one client id that proved its key; a new one replaces the oldest."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_listeners("endpoint", (self.listen, self.tls_listen), self.certificate, self.private_key)
        if self.unproved_per_source > self.unproved_per_client_id:
            raise ValueError("endpoint.unproved_per_source must not be above endpoint.unproved_per_client_id")
        return self


class Bridge(Section):
    """The broker somebody already runs, where devices may claim as well; we are one of its clients."""

    url: AnyBrokerUrl = Field(default=None, description="Devices claim through that broker as well; empty: no bridge.")
    kind: Annotated[BrokerKind, Write('"mosquitto", "rabbitmq", "emqx", "vernemq" or "other"')] = Field(
        default="mosquitto", description="Which broker it is: whose limits apply and whose words the doctor uses."
    )
    login_file: OptionalFile = Field(
        default=None, description="File with the bridge's user name and password there, a line each, mode 0600."
    )
    ca: OptionalFile = Field(
        default=None, description="PEM file to check that broker's certificate with, instead of the system's."
    )
    share: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{0,64}$"), Write("up to 64 of A-Z a-z 0-9 _ -")] = Field(
        default="", description="Workers with the same name share its messages ($share); empty: this is the only one."
    )
    serve_on_leaks: Switch = Field(
        default=False, description="Serve although devices there can read or write what is not theirs."
    )


class Claim(Section):
    """What a claim may be, and how long each step of the hand-over may take."""

    allow_plain_without_tls: Switch = Field(
        default=False, description="Take activation keys that cross a network unencrypted; loopback is always allowed."
    )
    allow_keyless: Switch = Field(
        default=False, description="Let an operator create requests without an activation key."
    )
    install_wait: Seconds = Field(
        default=5.0, description="A claim waits this long for the device broker, then is told to repeat."
    )
    confirm_time: WholeSeconds = Field(
        default=3600, description="An offered credential must be confirmed within this time."
    )
    retry_max_attempts: Count = Field(
        default=5, description="A request without a number of its own is abandoned after this many."
    )
    clones: Annotated[Literal["off", "alarm", "quarantine"], Write('"off", "alarm" or "quarantine"')] = Field(
        default="alarm",
        description="One key in two hands at once: nothing, an event, or the event and the request switched off.",
    )
    repeat_activation: Switch = Field(
        default=True,
        description="A unit may ask /provision/activate for its CIK again, from the same address, until it used it.",
    )
    clone_window: WholeSeconds = Field(
        default=60, description="Two claims within this time are made at once, as far as clones are concerned."
    )


class WrongKeys(Section):
    """How many wrong activation keys are looked at: so many at once, then so many a minute. A right one always is."""

    per_client_id: PerMinute = Field(default=6, description="Wrong keys a minute for one client id.")
    per_client_id_burst: Count = Field(default=10, description="Wrong keys at once for one client id.")
    per_source: PerMinute = Field(default=60, description="Wrong keys a minute from one source address.")
    per_source_burst: Count = Field(default=60, description="Wrong keys at once from one source address.")
    per_connection: PerMinute = Field(default=6, description="Wrong keys a minute on one connection.")
    per_connection_burst: Count = Field(default=5, description="Wrong keys at once on one connection.")
    overall: PerMinute = Field(default=6_000, description="Wrong keys a minute in all.")
    overall_burst: Count = Field(default=1_000, description="Wrong keys at once in all.")


class DeviceBroker(Section):
    """The broker where devices work afterwards."""

    kind: Annotated[
        Literal["embedded", "mosquitto-certificates", "mosquitto-dynsec", "mosquitto-files", "rabbitmq", "webhook"],
        Write('"embedded", "mosquitto-certificates", "mosquitto-dynsec", "mosquitto-files", "rabbitmq" or "webhook"'),
    ] = Field(
        default="embedded", description="Which device broker: embedded runs one in this process, the others are there."
    )
    listen: OptionalListen = Field(default=Address("127.0.0.1", 1883), description="Where devices work without TLS.")
    tls_listen: OptionalListen = Field(default=None, description="Where devices work with TLS.")
    certificate: OptionalFile = Field(
        default=None, description="PEM file with the server's chain; without one the authority certifies the listener."
    )
    private_key: OptionalFile = Field(default=None, description="PEM file with the key of the certificate, mode 0600.")
    ca: OptionalFile = Field(
        default=None, description="PEM file that devices are told to check the broker's certificate with."
    )
    url: OptionalUrl = Field(default=None, description="What devices are told when their request wants no TLS.")
    secure_url: OptionalSecureUrl = Field(
        default=None, description="What devices are told when their request wants TLS."
    )
    password_file: OptionalFile = Field(default=None, description="For mosquitto-files: Mosquitto's password_file.")
    acl_file: OptionalFile = Field(default=None, description="For mosquitto-files: Mosquitto's acl_file.")
    pid_file: OptionalFile = Field(
        default=None,
        description="For mosquitto-files and -certificates: its pid_file; that process is told to reload.",
    )
    reload_command: CommandLine = Field(
        default="",
        description="For mosquitto-files and -certificates: a command that makes it reload, without a pid_file.",
    )
    check_url: AnyBrokerUrl = Field(
        default=None, description="For mosquitto-files: where it is reached from here, if not at url."
    )

    control_url: ControlUrl = Field(
        default=None,
        description="For mosquitto-dynsec and -certificates its MQTT address; the management API of others.",
    )
    control_ca: OptionalFile = Field(
        default=None, description="PEM file to check the certificate at control_url with, instead of the system's."
    )
    login_file: OptionalFile = Field(
        default=None, description="File with user name and password for control_url, a line each, mode 0600."
    )
    dialect: Annotated[
        Literal["", "emqx", "vernemq", "rabbitmq", "nanomq", "rmqtt", "mosquitto-go-auth", "amqtt"],
        Write('"emqx", "vernemq", "rabbitmq", "nanomq", "rmqtt", "mosquitto-go-auth" or "amqtt"'),
    ] = Field(default="", description="For webhook: which broker asks.")
    secret_file: OptionalFile = Field(
        default=None, description="For webhook: file with the secret that the broker shows, one line, mode 0600."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        needs, takes = _OF_KIND[self.kind]
        for names in needs:
            if not any(getattr(self, name) for name in names):
                raise ValueError(f"a device broker of kind {self.kind} needs {' or '.join(names)}: give it")
        for name in sorted({name for _, others in _OF_KIND.values() for name in others} - takes):
            if getattr(self, name):
                raise ValueError(f"a device broker of kind {self.kind} has no {name}: leave it out, or change the kind")
        if (self.control_url is None) != (self.login_file is None):
            raise ValueError("control_url and login_file of a device broker go together: give both or neither")
        by_mqtt = self.kind in ("mosquitto-dynsec", "mosquitto-certificates")
        if self.control_url is not None and self.control_url.startswith("mqtt") != by_mqtt:
            wanted = "mqtt or mqtts" if by_mqtt else "http or https"
            raise ValueError(f"control_url of a device broker of kind {self.kind} begins with {wanted}: change it")
        if self.kind == "webhook" and self.control_url is not None and self.dialect not in ("emqx", "rabbitmq"):
            raise ValueError(f"control_url is for the dialects emqx and rabbitmq, not for {self.dialect}: leave it out")
        if self.kind == "embedded":
            _check_listeners("device_broker", (self.listen, self.tls_listen), self.certificate, self.private_key)
            self._check_told()
        return self

    def _check_told(self) -> None:
        for listen, url, name in ((self.listen, self.url, "url"), (self.tls_listen, self.secure_url, "secure_url")):
            if listen is not None and listen.host in _EVERYWHERE and url is None:
                raise ValueError(f"device_broker.{name} is missing: devices cannot be told to connect to {listen}")


_TOLD: Final = (("url", "secure_url"),)
_CONTROLLED: Final = frozenset({"control_url", "control_ca", "login_file"})
_OF_KIND: Final[Mapping[str, tuple[tuple[tuple[str, ...], ...], frozenset[str]]]] = {
    "embedded": ((), frozenset()),
    "mosquitto-certificates": (
        (("pid_file", "reload_command"), ("control_url",), ("secure_url",)),
        _CONTROLLED | {"pid_file", "reload_command"},
    ),
    "mosquitto-dynsec": ((("control_url",), *_TOLD), _CONTROLLED),
    "mosquitto-files": (
        (("password_file",), ("acl_file",), ("pid_file", "reload_command"), *_TOLD),
        frozenset({"password_file", "acl_file", "pid_file", "reload_command", "check_url"}),
    ),
    "rabbitmq": ((("control_url",), *_TOLD), _CONTROLLED),
    "webhook": ((("dialect",), *_TOLD), _CONTROLLED | {"dialect", "secret_file"}),
}
"""What a kind needs, one of each group, and which settings are for some kinds only and for this one, too."""


class Webhook(Section):
    """Where device brokers of kind webhook ask."""

    listen: OptionalListen = Field(
        default=Address("127.0.0.1", 8081), description="Where brokers ask without TLS, if one of them is to ask."
    )
    tls_listen: OptionalListen = Field(default=None, description="The same with TLS.")
    certificate: OptionalFile = Field(
        default=None, description="PEM file with the server's chain, its own certificate first."
    )
    private_key: OptionalFile = Field(default=None, description="PEM file with the key of the certificate, mode 0600.")
    client_ca: OptionalFile = Field(
        default=None, description="PEM file of who signs the brokers' certificates; one with such needs no secret."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_listeners("webhook", (self.listen, self.tls_listen), self.certificate, self.private_key)
        if self.client_ca is not None and self.tls_listen is None:
            raise ValueError("webhook.client_ca needs webhook.tls_listen: certificates are shown with TLS")
        return self


class Vault(Section):
    """Where the keys are kept that the ledger is sealed under."""

    source: Annotated[Literal["files", "credentials", "command"], Write('"files", "credentials" or "command"')] = Field(
        default="files",
        description="Key files in the data directory, systemd credentials of the same names, or what a command prints.",
    )
    command: CommandLine = Field(
        default="",
        description="Prints the keys: lines such as `vault-1 DIGITS` and `pepper DIGITS`, 64 hex digits each.",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.source == "command") != bool(self.command):
            raise ValueError('vault.command and vault.source = "command" go together: give both or neither')
        return self


class Authority(Section):
    """The certificate authority in the data directory, folder `ca`."""

    certificate_days: Count = Field(
        default=90, description="A device's certificate is valid for so many days, and never beyond its issuer."
    )
    rsa: Switch = Field(
        default=False, description="Take RSA keys of 3072 to 4096 bits beside P-256, P-384 and Ed25519."
    )
    blocked_keys: OptionalFile = Field(
        default=None,
        description="File with device keys to be refused, the SHA-256 of a SubjectPublicKeyInfo in hex a line.",
    )
    passphrase_file: OptionalFile = Field(
        default=None, description="File with the passphrase of the authority's keys, mode 0600."
    )
    crl_file: OptionalFile = Field(
        default=None, description="Revocation lists of all issuers are written there too, PEM, as Mosquitto's crlfile."
    )
    server_names: HostNames = Field(
        default="",
        description="What the authority certifies our own listeners for, as devices and operators call them.",
    )
    crl_url: PublishedUrl = Field(
        default=None, description="Where revocation lists are found; it goes into certificates, {issuer} in it too."
    )
    ocsp_url: PublishedUrl = Field(
        default=None, description="Where the OCSP responder is found; it goes into certificates, {issuer} in it too."
    )


class Http(Section):
    """The operator API."""

    listen: Listen = Field(
        default=Address("127.0.0.1", 8080), description="Where operators and programs reach the API."
    )
    tls_listen: OptionalListen = Field(default=None, description="The same with TLS.")
    certificate: OptionalFile = Field(
        default=None, description="PEM file with the server's chain; without one the authority certifies the listener."
    )
    private_key: OptionalFile = Field(default=None, description="PEM file with the key of the certificate, mode 0600.")
    download_url: DownloadUrl = Field(default=None, description="Where devices fetch large attachments.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        _check_listeners("http", (self.listen, self.tls_listen), self.certificate, self.private_key)
        return self


class Events(Section):
    """Where domain events go; they are always kept and listed, whether somebody gets them or not."""

    keep_days: Count = Field(default=30, description="Delivered events older than so many days are deleted.")
    max_attempts: Count = Field(
        default=20, description="An event not taken so many times is a dead letter; 20 take some nine hours."
    )
    timeout: Seconds = Field(default=10.0, description="A receiver has this long to take an event.")
    webhook_url: WebhookUrl = Field(default=None, description="Every event is sent there in an HTTP POST.")
    webhook_secret_file: OptionalFile = Field(
        default=None, description="File with what signs them, whsec_ and base64 a line, mode 0600."
    )
    webhook_ca: OptionalFile = Field(
        default=None, description="PEM file to check the receiver's certificate with, instead of the system's."
    )
    webhook_parallel: Count = Field(
        default=1, description="Events on their way at once; 1 keeps commit order, more only each request's own."
    )
    webhook_allow_http: Switch = Field(
        default=False, description="Let events cross a network unencrypted; loopback is always allowed."
    )
    mqtt_url: AnyBrokerUrl = Field(
        default=None, description="Every event is published at that broker, and every revocation list."
    )
    mqtt_topic: TopicRoot = Field(
        default="provisioner/events", description="The levels in front of {account}/{type} in its topic."
    )
    mqtt_login_file: OptionalFile = Field(
        default=None, description="File with user name and password for that broker, a line each, mode 0600."
    )
    mqtt_ca: OptionalFile = Field(
        default=None, description="PEM file to check that broker's certificate with, instead of the system's."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.webhook_url is None:
            return self
        if self.webhook_secret_file is None:
            raise ValueError("events.webhook_secret_file is missing: a webhook is signed, so its receiver can trust it")
        parts = urlsplit(self.webhook_url)
        if parts.scheme == "http" and not self.webhook_allow_http and not _is_loopback(parts.hostname or ""):
            raise ValueError(
                "events.webhook_url is http and not on this machine: use https, or set events.webhook_allow_http"
            )
        return self


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Mail(Section):
    """Activation e-mails; without a server none can be asked for."""

    server: OptionalListen = Field(default=None, description="Mail server that takes them, host:port.")
    sender: Annotated[str, Write("an e-mail address")] = Field(
        default="provisioner@localhost", description="Whom they come from."
    )
    security: Annotated[Literal["starttls", "tls", "none"], Write('"starttls", "tls" or "none"')] = Field(
        default="starttls", description="How the connection to it is encrypted."
    )
    login_file: OptionalFile = Field(
        default=None, description="File with user name and password for it, a line each, mode 0600."
    )
    ca: OptionalFile = Field(
        default=None, description="PEM file to check its certificate with, instead of the system's."
    )
    timeout: Seconds = Field(default=30.0, description="It has this long for one letter.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.security == "none" and self.login_file is not None:
            raise ValueError('mail.login_file with mail.security = "none" would send a password unencrypted')
        if self.server is not None and self.security == "none" and not _is_loopback(self.server.host):
            raise ValueError("mail.security is none and mail.server is not on this machine: letters hold secrets")
        if not re.fullmatch(r"[!-~]{1,64}@[A-Za-z0-9.-]{1,253}", self.sender):
            raise ValueError("mail.sender is no e-mail address: write it as name@example.com")
        return self


class Log(Section):
    """The log, on standard error."""

    level: Annotated[Literal["debug", "info", "warning", "error"], Write('"debug", "info", "warning" or "error"')] = (
        Field(default="info", description="The least level that is written.")
    )
    format: Annotated[Literal["auto", "json", "console"], Write('"auto", "json" or "console"')] = Field(
        default="auto", description="One JSON object a line, or coloured text; auto takes text on a terminal only."
    )


class Chaos(Section):
    """What `serve --chaos` does to devices whose firmware is tried; nothing of it happens without that option."""

    seed: Seed = Field(default=1, description="The same seed has the same moods.")
    wait: Share = Field(default=0.05, description="Share of offers in whose place the device is told to wait.")
    double: Share = Field(default=0.05, description="Share of replies that are sent twice.")
    drop: Share = Field(default=0.02, description="Share of replies that are not sent.")
    delay: Delay = Field(default=15.0, description="A reply is at most this late.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.double + self.drop > 1:
            raise ValueError("chaos.double and chaos.drop are more than 1 together: make one of them smaller")
        return self


class Settings(Section):
    """Everything an operator may choose."""

    data_dir: Folder = Field(
        default=Path("data"), description="Folder of the ledger, the keys and the first logins, mode 0700."
    )
    provision_account: Name = Field(
        default="provision", description="Name of the provision account that the first start creates."
    )
    endpoint: Endpoint = Field(default=Endpoint(), description="The provision broker.")
    bridge: Bridge = Field(
        default=Bridge(), description="A broker that is there already, where devices may claim as well."
    )
    claim: Claim = Field(default=Claim(), description="Claims.")
    wrong_keys: WrongKeys = Field(
        default=WrongKeys(),
        description="Limits of wrong activation keys; a right one is never refused because of them.",
    )
    device_broker: DeviceBroker = Field(default=DeviceBroker(), description="The device broker.")
    device_brokers: dict[Name, DeviceBroker] = Field(
        default={}, description="More of them by name, each a table as [device_broker]; an account names its own."
    )
    webhook: Webhook = Field(default=Webhook(), description="Where device brokers of kind webhook ask.")
    vault: Vault = Field(default=Vault(), description="The keys of the ledger.")
    authority: Authority = Field(default=Authority(), description="The certificate authority.")
    http: Http = Field(default=Http(), description="The operator API.")
    events: Events = Field(default=Events(), description="Domain events.")
    mail: Mail = Field(default=Mail(), description="Activation e-mails; without a server none can be asked for.")
    log: Log = Field(default=Log(), description="The log.")
    chaos: Chaos = Field(
        default=Chaos(), description="For trying out firmware: how serve --chaos treats devices; else it does nothing."
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, broker in self.device_brokers.items():
            if broker.kind == "embedded":
                raise ValueError(f"device_brokers.{name} needs a kind other than embedded, which runs once: give it")
            if name == self.device_broker.kind:
                raise ValueError(
                    f"device_brokers.{name} has the name of the one of [device_broker]: give it another one"
                )
        embedded = self.device_broker.kind == "embedded"
        asking = [one for one in (self.device_broker, *self.device_brokers.values()) if one.kind == "webhook"]
        if self.webhook.client_ca is None and not all(one.secret_file for one in asking):
            raise ValueError(
                "a device broker of kind webhook needs secret_file, or webhook.client_ca: give one of them"
            )
        taken: dict[Address, str] = {}
        for name, address in (
            ("endpoint.listen", self.endpoint.listen),
            ("endpoint.tls_listen", self.endpoint.tls_listen),
            ("device_broker.listen", self.device_broker.listen if embedded else None),
            ("device_broker.tls_listen", self.device_broker.tls_listen if embedded else None),
            ("webhook.listen", self.webhook.listen if asking else None),
            ("webhook.tls_listen", self.webhook.tls_listen if asking else None),
            ("http.listen", self.http.listen),
            ("http.tls_listen", self.http.tls_listen),
        ):
            if address is None or address.port == 0:
                continue
            if address in taken:
                raise ValueError(f"{name} and {taken[address]} are both {address}: each needs a port of its own")
            taken[address] = name
        if self.bridge.url is not None and self.bridge.kind == "rabbitmq" and "." in self.endpoint.root_topic:
            raise ValueError("endpoint.root_topic has a dot, which RabbitMQ takes for a slash: write another one")
        return self
