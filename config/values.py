"""How a setting's value is written: parsing, limits, and the words that tell somebody how to write it right.

1. Each kind carries a `Write`: the end of the sentence "write …", used by every error about a setting of that kind.
2. An empty text means "none" wherever none is allowed, because neither TOML nor the environment has a null.
3. A truth value is not a number: `idle_time = true` is refused.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BeforeValidator, Field, PlainSerializer

_IDENTIFIER = r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$"
_BRACKETED = re.compile(r"\[(?P<host>[0-9A-Fa-f:.%A-Za-z]+)\]:(?P<port>[0-9]{1,5})")
_PLAIN = re.compile(r"(?P<host>[^\[\]:\s]+):(?P<port>[0-9]{1,5})")
_TOPIC_ROOT = r"^[A-Za-z0-9._:-]+(/[A-Za-z0-9._:-]+)*$"
_TOP_PORT = 65535
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"(?=.{{1,64}}$){_LABEL}(?:\.{_LABEL})*")


@dataclass(frozen=True, slots=True)
class Write:
    """How to write a value of this kind, as the end of a sentence."""

    words: str


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen; port 0 takes a free one. An IPv6 host is kept without its brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(value: object) -> object:
    """`host:port` or `[IPv6]:port` as an `Address`; raises ValueError."""
    if isinstance(value, Address):
        return value
    if not isinstance(value, str):
        raise ValueError("not a text")  # noqa: TRY004  # pydantic reports ValueError only
    found = _BRACKETED.fullmatch(value) or _PLAIN.fullmatch(value)
    if found is None:
        raise ValueError("not host:port")
    if (port := int(found["port"])) > _TOP_PORT:
        raise ValueError(f"port {port} does not exist")
    return Address(found["host"], port)


def _check_broker_url(value: str, scheme: str) -> str:
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise ValueError("not a URL") from None
    if parts.scheme != scheme or not parts.hostname or (port is not None and port < 1):
        raise ValueError(f"not an {scheme} URL")
    if "@" in parts.netloc or parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ValueError("more than scheme, host and port")
    return value.rstrip("/")


def _check_webhook_url(value: str) -> str:
    try:
        parts = urlsplit(value)
        port = parts.port
    except ValueError:
        raise ValueError("not a URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname or (port is not None and port < 1):
        raise ValueError("not an https URL")
    if "@" in parts.netloc or parts.fragment or not value.isascii() or not value.isprintable() or " " in value:
        raise ValueError("more than scheme, host, port, path and query")
    return value


def _check_any_broker_url(value: str) -> str:
    return _check_broker_url(value, "mqtts" if value.startswith("mqtts:") else "mqtt")


def _check_published_url(value: str) -> str:
    """A URL that stands in certificates: others fetch what is there in clear, as it is signed."""
    parts = urlsplit(value.replace("{issuer}", "issuer"))
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
        raise ValueError("not a URL")
    if set(parts.geturl()) & set('{} \t"<>'):
        raise ValueError("a character that stands in no URL")
    return value.encode("ascii").decode()


def _check_control_url(value: str) -> str:
    if value.startswith(("mqtt:", "mqtts:")):
        return _check_any_broker_url(value)
    return _check_webhook_url(value).rstrip("/")


def _check_hosts(value: object) -> str:
    """Names of this machine, as they stand in a certificate."""
    names = [] if not isinstance(value, str) or not value.strip() else [name.strip() for name in value.split(",")]
    if not isinstance(value, str) or len(set(names)) != len(names):
        raise ValueError("not a text of names, each once")
    for name in names:
        if not is_host(name):
            raise ValueError(f"{name} is no host name and no address")
    return ",".join(names)


def is_host(text: str) -> bool:
    """Whether this is a host name of at most 64 characters, or an IP address."""
    if _HOST.fullmatch(text) is not None:
        return True
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _check_path(value: object) -> object:
    if not isinstance(value, (str, Path)) or not str(value) or "\0" in str(value):
        raise ValueError("not a path")
    return value


def _check_command(value: object) -> object:
    if isinstance(value, str) and (value.strip() or not value):
        shlex.split(value)  # raises ValueError where a quotation does not end
        return value
    raise ValueError("not a command")


def _none_if_empty(value: object) -> object:
    return None if value == "" else value


def _refuse_truth(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("a truth value is not a number")  # noqa: TRY004  # pydantic reports ValueError only
    return value


_AsText = PlainSerializer(str, return_type=str)
_AsTextOrEmpty = PlainSerializer(lambda value: "" if value is None else str(value), return_type=str)
_ADDRESS = Write('host:port, such as "127.0.0.1:1884" or "[::1]:1884"; port 0 takes a free one')

Listen = Annotated[Address, BeforeValidator(parse_address), _AsText, _ADDRESS]
OptionalListen = Annotated[
    Annotated[Address, BeforeValidator(parse_address)] | None,
    BeforeValidator(_none_if_empty),
    _AsTextOrEmpty,
    Write(_ADDRESS.words + ', or "" for none'),
]
Folder = Annotated[Path, BeforeValidator(_check_path), _AsText, Write("the path of a folder")]
OptionalFile = Annotated[
    Annotated[Path, BeforeValidator(_check_path)] | None,
    BeforeValidator(_none_if_empty),
    _AsTextOrEmpty,
    Write('the path of a file, or "" for none'),
]
OptionalUrl = Annotated[
    Annotated[str, BeforeValidator(lambda value: _check_broker_url(str(value), "mqtt"))] | None,
    BeforeValidator(_none_if_empty),
    _AsTextOrEmpty,
    Write('a URL such as "mqtt://broker.example:1883", or "" for the address listened on'),
]
OptionalSecureUrl = Annotated[
    Annotated[str, BeforeValidator(lambda value: _check_broker_url(str(value), "mqtts"))] | None,
    BeforeValidator(_none_if_empty),
    _AsTextOrEmpty,
    Write('a URL such as "mqtts://broker.example:8883", or "" for the address listened on'),
]
WebhookUrl = Annotated[
    Annotated[str, BeforeValidator(lambda value: _check_webhook_url(str(value)))] | None,
    BeforeValidator(_none_if_empty),
    _AsTextOrEmpty,
    Write('a URL such as "https://receiver.example/events", or "" for no webhook'),
]
DownloadUrl = Annotated[
    Annotated[str, BeforeValidator(lambda value: _check_webhook_url(str(value)))] | None,
    BeforeValidator(_none_if_empty),
    _AsTextOrEmpty,
    Write('a URL such as "https://provisioner.example", or "" for the address listened on'),
]
AnyBrokerUrl = Annotated[
    Annotated[str, BeforeValidator(lambda value: _check_any_broker_url(str(value)))] | None,
    BeforeValidator(_none_if_empty),
    _AsTextOrEmpty,
    Write('a URL such as "mqtts://broker.example:8883" or "mqtt://127.0.0.1:1883", or "" for none'),
]
PublishedUrl = Annotated[
    Annotated[str, BeforeValidator(lambda value: _check_published_url(str(value)))] | None,
    BeforeValidator(_none_if_empty),
    _AsTextOrEmpty,
    Write('a URL such as "http://pki.example/crl/{issuer}.crl", or "" for none'),
]
ControlUrl = Annotated[
    Annotated[str, BeforeValidator(lambda value: _check_control_url(str(value)))] | None,
    BeforeValidator(_none_if_empty),
    _AsTextOrEmpty,
    Write('a URL such as "mqtt://127.0.0.1:1883" or "http://127.0.0.1:15672", or "" for none'),
]
HostNames = Annotated[
    str,
    BeforeValidator(_check_hosts),
    Write('host names and IP addresses joined by ",", or "" for what this machine is called'),
]
Name = Annotated[
    str,
    Field(pattern=_IDENTIFIER),
    Write("1 to 128 of A-Z a-z 0-9 . _ : -, starting with a letter or digit"),
]
TopicRoot = Annotated[
    str,
    Field(pattern=_TOPIC_ROOT, max_length=128),
    Write('topic levels of A-Z a-z 0-9 . _ : - joined by "/", at most 128 characters'),
]
CommandLine = Annotated[
    str,
    BeforeValidator(_check_command),
    Write('a command as a shell takes it, without pipes and variables, or "" for none'),
]
Switch = Annotated[bool, Write("true or false")]
_SECONDS = Write("a number of seconds from 0.1 to 86400")
Seconds = Annotated[float, BeforeValidator(_refuse_truth), Field(ge=0.1, le=86_400, allow_inf_nan=False), _SECONDS]
Delay = Annotated[
    float,
    BeforeValidator(_refuse_truth),
    Field(ge=0, le=3_600, allow_inf_nan=False),
    Write("a number of seconds from 0 to 3600"),
]
Share = Annotated[
    float,
    BeforeValidator(_refuse_truth),
    Field(ge=0, le=1, allow_inf_nan=False),
    Write("a share from 0 to 1"),
]
Seed = Annotated[
    int, BeforeValidator(_refuse_truth), Field(ge=0, le=2**32), Write("a whole number from 0 to 4294967296")
]
WholeSeconds = Annotated[
    int,
    BeforeValidator(_refuse_truth),
    Field(ge=1, le=86_400),
    Write("a whole number of seconds from 1 to 86400"),
]
Count = Annotated[
    int, BeforeValidator(_refuse_truth), Field(ge=1, le=1_000_000), Write("a whole number from 1 to 1000000")
]
PerMinute = Annotated[
    int,
    BeforeValidator(_refuse_truth),
    Field(ge=1, le=1_000_000),
    Write("a whole number of tries a minute from 1 to 1000000"),
]
PacketBytes = Annotated[
    int,
    BeforeValidator(_refuse_truth),
    Field(ge=1024, le=1_048_576),
    Write("a whole number of bytes from 1024 to 1048576"),
]
