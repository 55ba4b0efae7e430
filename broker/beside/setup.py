"""What a broker has to be told so that the bridge can serve on it: files from `templates/`, and commands that use them.

1. Passwords leave hashed, as the broker keeps them; the bridge's own one goes into a file of its own, mode 0600.
2. What a template says is proved by the doctor: the tests start the broker with it. EMQX and VerneMQ could not be
   started; theirs follow the vendors' documentation, and the doctor still has the last word on the spot.
"""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from importlib import resources

from provisioner.ports import Entropy

BRIDGE_USER = "provisioner"
"""The user name of the bridge at the broker."""

_ROUNDS = 101
_EMQX_USERS = "http://127.0.0.1:18083/api/v5/authentication/password_based%3Abuilt_in_database"
_MERGE = (
    "A Mosquitto that has an acl_file or a password_file already keeps it: append the lines of provisioner.acl and "
    "provisioner.passwords to yours, and have it read them with: sudo systemctl reload mosquitto"
)
_UNESCAPED = (
    "Needs RabbitMQ 4.3 or later: earlier ones paste the client id into a regular expression as it comes, so that a "
    "device with the client id .* reads every reply. Beside those, let devices claim at the endpoint."
)
_DOTS = "RabbitMQ takes a dot in a topic for a slash: client ids and user names with a dot are refused behind it."
_QUEUES = (
    "Rights on queues cannot name a client id: keep devices, which hold the provision account's login, from the AMQP "
    "and stream ports, and let them reach the MQTT port alone."
)
_LEFT = re.compile(r"@[A-Z0-9_]+@")


class Kind(StrEnum):
    """Brokers there are templates for."""

    MOSQUITTO = "mosquitto"
    RABBITMQ = "rabbitmq"
    EMQX = "emqx"
    VERNEMQ = "vernemq"


@dataclass(frozen=True, slots=True)
class Login:
    """Who logs in at the broker."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class File:
    """A file for the broker; `is_secret` ones are for nobody else's eyes."""

    name: str
    text: str = field(repr=False)
    is_secret: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """What to tell the broker: files, the commands that bring them there, and what to know beforehand."""

    files: tuple[File, ...]
    commands: tuple[str, ...]
    notes: tuple[str, ...] = ()


def plan(
    kind: Kind,
    root: str,
    bridge: Login,
    devices: Login,
    entropy: Entropy,
    *,
    folder: str | None = None,
    port: int = 1883,
) -> Plan:
    """What to tell a broker. `devices`: the provision account's login; `folder`: where its settings are."""
    place = folder or _FOLDERS[kind]
    names: dict[str, str] = {
        "ROOT": root,
        "BRIDGE": bridge.user,
        "USER": devices.user,
        "FOLDER": place,
        "PORT": str(port),
    }
    match kind:
        case Kind.MOSQUITTO:
            return _mosquitto(names, (bridge, devices), entropy)
        case Kind.RABBITMQ:
            return _rabbitmq(names, bridge, devices, entropy)
        case Kind.EMQX:
            return _emqx(names, bridge, devices, entropy)
        case Kind.VERNEMQ:
            return _vernemq(names)


_FOLDERS = {
    Kind.MOSQUITTO: "/etc/mosquitto",
    Kind.RABBITMQ: "/etc/rabbitmq",
    Kind.EMQX: "/etc/emqx",
    Kind.VERNEMQ: "/etc/vernemq",
}


def _mosquitto(names: Mapping[str, str], logins: tuple[Login, ...], entropy: Entropy) -> Plan:
    place = names["FOLDER"]
    lines = "".join(f"{login.user}:{mosquitto_hash(login.password, entropy(12))}\n" for login in logins)
    return Plan(
        (
            File("provisioner.conf", _filled("mosquitto/provisioner.conf", names)),
            File("provisioner.acl", _filled("mosquitto/provisioner.acl", names)),
            File("provisioner.passwords", lines, is_secret=True),
        ),
        (
            f"sudo install -m 0644 provisioner.acl {place}/",
            f"sudo install -m 0600 -o mosquitto provisioner.passwords {place}/",
            f"sudo install -m 0644 provisioner.conf {place}/conf.d/",
            "sudo systemctl restart mosquitto",
        ),
        (_MERGE,),
    )


def _rabbitmq(names: dict[str, str], bridge: Login, devices: Login, entropy: Entropy) -> Plan:
    dotted = names["ROOT"].replace("/", "\\\\.")
    hashes = {
        "BRIDGE_RABBIT": rabbitmq_hash(bridge.password, entropy(4)),
        "USER_RABBIT": rabbitmq_hash(devices.password, entropy(4)),
        "DOTTED": dotted,
    }
    text = _filled("rabbitmq/provisioner.definitions.json", hashes | names)
    return Plan(
        (File("provisioner.definitions.json", text, is_secret=True),),
        (
            "sudo rabbitmq-plugins enable rabbitmq_mqtt",
            "sudo rabbitmqctl import_definitions provisioner.definitions.json",
        ),
        (_UNESCAPED, _DOTS, _QUEUES),
    )


def _emqx(names: dict[str, str], bridge: Login, devices: Login, entropy: Entropy) -> Plan:
    place, hashes = names["FOLDER"], dict[str, str]()
    for name, login in (("BRIDGE", bridge), ("USER", devices)):
        salt = entropy(16).hex()
        hashes[f"{name}_SALT"] = salt
        hashes[f"{name}_SHA256"] = hashlib.sha256((salt + login.password).encode()).hexdigest()
    return Plan(
        (
            File("provisioner.acl.conf", _filled("emqx/provisioner.acl.conf", names)),
            File("provisioner.users.json", _filled("emqx/provisioner.users.json", hashes | names), is_secret=True),
        ),
        (
            f"sudo sh -c 'cat provisioner.acl.conf {place}/acl.conf > acl.new && mv acl.new {place}/acl.conf'",
            f"curl -u KEY:SECRET -F filename=@provisioner.users.json {_EMQX_USERS}/import_users",
            "emqx ctl conf reload",
        ),
        ("For an authenticator with sha256 and the salt in front, which is EMQX 5's default.",),
    )


def _vernemq(names: Mapping[str, str]) -> Plan:
    place = names["FOLDER"]
    return Plan(
        (File("provisioner.acl", _filled("vernemq/provisioner.acl", names)),),
        (
            f"sudo sh -c 'cat provisioner.acl >> {place}/vmq.acl'",
            f"sudo vmq-passwd {place}/vmq.passwd {names['BRIDGE']}",
            f"sudo vmq-passwd {place}/vmq.passwd {names['USER']}",
        ),
        ("vmq-passwd asks for the passwords: those in bridge-login, and in provision-login of the data directory.",),
    )


def _filled(template: str, values: Mapping[str, str]) -> str:
    text = resources.files("broker.beside").joinpath("templates", *template.split("/")).read_text(encoding="utf-8")
    for name, value in values.items():
        text = text.replace(f"@{name}@", value)
    if left := _LEFT.search(text):
        raise LookupError(f"{template} names {left.group()}, which nobody fills in")
    return text


def mosquitto_hash(password: str, salt: bytes) -> str:
    """As a line of `password_file` has it behind the name: PBKDF2-HMAC-SHA512, read by Mosquitto 2.0 and 2.1."""
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, _ROUNDS)
    return f"$7${_ROUNDS}${b64encode(salt).decode()}${b64encode(digest).decode()}"


def rabbitmq_hash(password: str, salt: bytes) -> str:
    """`rabbit_password_hashing_sha256`: base64 of a salt of four bytes and the digest."""
    return b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()
