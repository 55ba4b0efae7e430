"""RabbitMQ by its management API.

1. What waits goes in with one import of definitions: users with hashed passwords, and their permissions.
2. Topic rights are a regular expression with the credential's own names in it. RabbitMQ's own `{client_id}` is pasted
   into one unescaped before 4.3, so it is not used.
3. Queues may be used under the credential's own client id alone: under another id it would read what is kept for that
   device. So a loose credential publishes under any client id, and subscribes under its own.
4. Deleting a user refuses it at once; its connections are closed by a call of their own.
5. A dot in a topic is a slash to RabbitMQ, and a colon in a user name separates the virtual host: names have neither.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import re
from collections.abc import Iterable, Sequence

from broker.devicebrokers.accountfiles import is_ours
from broker.devicebrokers.batches import Batches, Change
from broker.devicebrokers.rabbitmq_api import Management
from broker.devicebrokers.webhook import dots_objection
from provisioner.model import BrokerAddress, Credential
from provisioner.ports import Cost, Entropy, Install, Probe, Revoke, ToInstall
from provisioner.topics import grant_of

_MOST = 500
_VHOST = "/"
_EXCHANGE = "amq.topic"
_SECONDS_A_NAME = 0.0025
_WORD = "[^.#]+"


class RabbitMq:
    """A `DeviceBroker`. The addresses are what devices are told."""

    kind = "rabbitmq"
    sees_logins = False
    asks_ledger = False
    binds_client_id = False
    templates = False
    prehashed = True
    takes_passwords = True
    takes_certificates = False
    kicks_live = True
    persists = True

    def __init__(
        self,
        name: str,
        management: Management,
        entropy: Entropy,
        *,
        plain: BrokerAddress | None,
        secure: BrokerAddress | None,
    ) -> None:
        self.name = name
        self.plain = plain
        self.secure = secure
        self._management = management
        self._entropy = entropy
        self._batches = Batches(name, self._write, _MOST)

    def address(self, *, secure: bool) -> BrokerAddress | None:
        """See `DeviceBroker`."""
        return self.secure if secure else self.plain

    def objection(self, account: str, client_id: str) -> str | None:
        """See `DeviceBroker`."""
        if ":" in account + client_id:
            return (
                f"the device broker {self.name} takes what stands before a colon in a user name for a virtual host, "
                "so a client id has none there: write it with - or _"
            )
        return dots_objection(self.name, account, client_id)

    def delay(self, username: str) -> float:
        """See `DeviceBroker`."""
        return self._batches.delay(username)

    def cost(self, installs: int, revokes: int) -> Cost:
        """See `DeviceBroker`."""
        each = self._batches.each or _SECONDS_A_NAME
        return Cost(sessions=revokes, duration=each * (installs + revokes))

    async def probe(self) -> Probe:
        """See `DeviceBroker`."""
        overview = await self._management.overview()
        problems = []
        if "administrator" not in await self._management.tags():
            problems.append("The login of login_file may not change users: give it the tag administrator.")
        if not any(str(one.get("protocol", "")).startswith("mqtt") for one in overview.get("listeners", [])):
            problems.append("RabbitMQ does not listen for MQTT: rabbitmq-plugins enable rabbitmq_mqtt.")
        return Probe(f"RabbitMQ {overview.get('rabbitmq_version', '')}".rstrip(), tuple(problems))

    async def install(self, items: Sequence[ToInstall]) -> Sequence[Install]:
        """See `DeviceBroker`."""
        return await self._batches.install(items)

    async def revoke(self, usernames: Sequence[str], *, kick: bool = True) -> Sequence[Revoke]:
        """See `DeviceBroker`."""
        return await self._batches.revoke(usernames, kick=kick)

    async def list(self) -> Sequence[str]:
        """See `DeviceBroker`."""
        return [name for name in await self._management.usernames() if is_ours(name)]

    async def close(self) -> None:
        """See `DeviceBroker`."""
        await self._batches.close()
        await self._management.close()

    async def pulse(self) -> object:
        """Changes when RabbitMQ was started anew. Raises `Unavailable`."""
        return await self._management.processes()

    async def _write(self, changes: Sequence[Change]) -> None:
        # A name stands in one batch once as an install and, later, once as a revocation: installs go first.
        items = [change.item for change in changes if change.item is not None]
        if items:
            await self._management.merge(
                {
                    "users": [self._user(item) for item in items],
                    "permissions": [_permission(item.credential) for item in items],
                    "topic_permissions": [_topics(item.credential) for item in items],
                }
            )
        await asyncio.gather(*(self._take_out(change) for change in changes if change.item is None))

    async def _take_out(self, change: Change) -> None:
        await self._management.delete_user(change.username)
        await self._management.kick(change.username)

    def _user(self, item: ToInstall) -> dict[str, str]:
        salt = self._entropy(4)
        hashed = base64.b64encode(salt + hashlib.sha256(salt + item.password.reveal().encode()).digest()).decode()
        return {
            "name": item.credential.username,
            "password_hash": hashed,
            "hashing_algorithm": "rabbit_password_hashing_sha256",
            "tags": "",
        }


def _permission(credential: Credential) -> dict[str, str]:
    queues = f"mqtt-subscription-{credential.client_id}qos[01]"
    return {
        "user": credential.username,
        "vhost": _VHOST,
        "configure": f"^{queues}$",
        "write": rf"^({queues}|amq\.topic)$",
        "read": rf"^({queues}|amq\.topic)$",
    }


def _topics(credential: Credential) -> dict[str, str]:
    grant = grant_of(credential, credential.client_id)
    return {
        "user": credential.username,
        "vhost": _VHOST,
        "exchange": _EXCHANGE,
        "write": expression(grant.publish),
        "read": expression(grant.subscribe),
    }


def expression(filters: Iterable[str]) -> str:
    """What RabbitMQ compares routing keys and binding keys with, for topic names and filters inside of these.

    A `+` is asked for as `*`, and fits where a word does; a `#` fits only where one is granted.
    """
    return f"^({'|'.join(map(_key, filters))})$"


def _key(topic_filter: str) -> str:
    *levels, last = topic_filter.split("/")
    words = [_WORD if level == "+" else re.escape(level) for level in levels]
    if last == "#":
        return r"\.".join(words) + r"(\..*)?"
    return r"\.".join([*words, _WORD if last == "+" else re.escape(last)])
