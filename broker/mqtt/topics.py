"""The topics of the wire contract: the only file that spells one, builds one or takes one apart.

1. A topic is `{root}/{user}/{clientId}/{kind}`; the root is a setting, the kinds are `request`, `reply` and `ack`.
2. What `build` makes `parse` reads back, and `parse` reads nothing else: both hold names to the identifier grammar,
   which has neither `/` nor a wildcard, so no name can reach into another's topic.
"""

import re
from dataclasses import dataclass
from typing import Literal, cast

from provisioner.policy import is_identifier

Kind = Literal["request", "reply", "ack"]

DEFAULT_ROOT = "prov/v1"

_KINDS = frozenset(("request", "reply", "ack"))
# A root that begins with $ would be a system or shared topic; the length keeps every topic far below MQTT's 65,535.
_is_root = re.compile(r"[A-Za-z0-9._:-]+(/[A-Za-z0-9._:-]+)*").fullmatch
_MAX_ROOT = 128


class UnknownTopic(ValueError):
    """A topic, a name or a root outside the contract's form."""


@dataclass(frozen=True, slots=True)
class Address:
    """Whose topic it is and what goes over it."""

    user: str
    client_id: str
    kind: Kind


@dataclass(frozen=True, slots=True)
class Topics:
    """The topics under one root, such as `prov/v1`; UnknownTopic when the root itself is not well-formed."""

    root: str = DEFAULT_ROOT

    def __post_init__(self) -> None:
        if len(self.root) > _MAX_ROOT or not _is_root(self.root):
            raise UnknownTopic("topic root must be levels of letters, digits and . _ : - joined by /")

    def build(self, address: Address) -> str:
        """Spell the topic of `address`; UnknownTopic when a name is outside the grammar."""
        if not (is_identifier(address.user) and is_identifier(address.client_id) and address.kind in _KINDS):
            raise UnknownTopic("user or client id is outside the grammar")
        return f"{self.root}/{address.user}/{address.client_id}/{address.kind}"

    def parse(self, topic: str) -> Address:
        """Take a topic apart; UnknownTopic when it is not exactly one that `build` makes."""
        prefix, _, kind = topic.rpartition("/")
        prefix, _, client_id = prefix.rpartition("/")
        root, _, user = prefix.rpartition("/")
        if root != self.root or kind not in _KINDS or not (is_identifier(user) and is_identifier(client_id)):
            raise UnknownTopic("topic is not one of ours")
        return Address(user, client_id, cast("Kind", kind))

    def session(self, user: str, client_id: str) -> tuple[str, str, str]:
        """Spell the request, reply and ack topics of one session; UnknownTopic as `build`."""
        if not (is_identifier(user) and is_identifier(client_id)):
            raise UnknownTopic("user or client id is outside the grammar")
        prefix = f"{self.root}/{user}/{client_id}/"
        return prefix + "request", prefix + "reply", prefix + "ack"

    def request(self, user: str, client_id: str) -> str:
        """Topic a device sends its claims to."""
        return self.build(Address(user, client_id, "request"))

    def reply(self, user: str, client_id: str) -> str:
        """Topic a device is answered on."""
        return self.build(Address(user, client_id, "reply"))

    def ack(self, user: str, client_id: str) -> str:
        """Topic a device acknowledges on."""
        return self.build(Address(user, client_id, "ack"))

    def every(self, kind: Kind) -> str:
        """Topic filter of one kind from all devices, for a service that subscribes at somebody else's broker."""
        return f"{self.root}/+/+/{kind}"

    def pattern(self, kind: Kind) -> str:
        """Access-control pattern of one kind, with Mosquitto's `%u` (user name) and `%c` (client id)."""
        return f"{self.root}/%u/%c/{kind}"
