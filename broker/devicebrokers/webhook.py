"""A broker that asks us at each login and each use of a topic: nothing is installed there.

1. One function decides for all dialects, from the ledger as it is now; a first login confirms.
2. What a broker caches of our answers delays a revocation by as much: RabbitMQ's `auth_cache.cache_ttl`, EMQX's
   authorization cache, NanoMQ's `cache_ttl`; we never send what would let VerneMQ cache (`cache-control`).
3. A session is closed by the broker's own API, where the settings name one; else it stays, and may use no
   topic any more.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from broker.devicebrokers.accountfiles import is_ours
from broker.devicebrokers.dialects import DIALECTS, Dialect, Question, Verdict
from broker.mqtt.filters import InvalidTopic, check_filter, check_topic, may
from provisioner.errors import Unavailable
from provisioner.model import BrokerAddress, DeviceRights, Millis
from provisioner.ports import Cost, Install, Probe, Revoke, ToInstall


class Kicks(Protocol):
    """The broker's own API, which closes sessions."""

    async def kick(self, username: str) -> None:
        """Close the sessions of a user name. Raises `Unavailable`."""

    async def close(self) -> None:
        """Close the connections."""


class Ledger(Protocol):
    """Who decides: `Provisioner`."""

    async def device_login(
        self, device_broker: str, username: str, password: bytes, client_id: str, now: Millis, source: str = ""
    ) -> DeviceRights | None:
        """What a login may do; None: refused."""

    async def device_rights(self, device_broker: str, username: str, client_id: str) -> DeviceRights | None:
        """What somebody logged in may do; None: nothing."""


class Webhook:
    """A `DeviceBroker` that asks. The addresses are what devices are told."""

    kind = "webhook"
    sees_logins = True
    asks_ledger = True
    binds_client_id = True
    templates = True
    prehashed = True
    takes_passwords = True
    takes_certificates = False
    persists = True

    def __init__(
        self,
        name: str,
        dialect: str,
        *,
        plain: BrokerAddress | None,
        secure: BrokerAddress | None,
        kicks: Kicks | None = None,
    ) -> None:
        self.name = name
        self.dialect: Dialect = DIALECTS[dialect]
        self.plain = plain
        self.secure = secure
        self.kicks_live = kicks is not None
        self._kicks = kicks
        self._spoken = dialect

    def address(self, *, secure: bool) -> BrokerAddress | None:
        """See `DeviceBroker`."""
        return self.secure if secure else self.plain

    def objection(self, account: str, client_id: str) -> str | None:
        """See `DeviceBroker`."""
        return dots_objection(self.name, account, client_id) if self.dialect.has_levels_of_dots else None

    def delay(self, username: str) -> float:  # noqa: ARG002  # nothing waits
        """See `DeviceBroker`."""
        return 0.0

    def cost(self, installs: int, revokes: int) -> Cost:  # noqa: ARG002  # nothing is installed
        """See `DeviceBroker`."""
        return Cost(sessions=revokes if self.kicks_live else 0)

    async def probe(self) -> Probe:
        """See `DeviceBroker`."""
        return Probe(self._spoken)

    async def install(self, items: Sequence[ToInstall]) -> Sequence[Install]:
        """See `DeviceBroker`."""
        return [Install.DONE] * len(items)

    async def revoke(self, usernames: Sequence[str], *, kick: bool = True) -> Sequence[Revoke]:
        """See `DeviceBroker`."""
        if self._kicks is None or not kick:
            return [Revoke.OPEN] * len(usernames)
        outcomes = []
        for username in usernames:
            try:
                await self._kicks.kick(username)
            except Unavailable:
                outcomes.append(Revoke.LATER)
            else:
                outcomes.append(Revoke.CLOSED)
        return outcomes

    async def list(self) -> Sequence[str]:
        """See `DeviceBroker`."""
        return ()

    async def close(self) -> None:
        """See `DeviceBroker`."""
        if self._kicks is not None:
            await self._kicks.close()

    async def pulse(self) -> object:
        """Nothing there can get out of step."""
        return None

    async def decide(self, question: Question, ledger: Ledger, now: Millis) -> Verdict:
        """What the broker is told. Raises `Unavailable`."""
        if question.verdict is not None:
            return question.verdict
        if question.password is not None:
            rights = await ledger.device_login(
                self.name, question.username, question.password, question.client_id, now, question.source
            )
        else:
            rights = await ledger.device_rights(self.name, question.username, question.client_id)
        if rights is None and not is_ours(question.username):
            return Verdict.OTHERS  # one of ours may still have another name: a unit with a CIK logs in by its serial
        return Verdict.YES if rights is not None and _may_use(rights, question) else Verdict.NO


def _may_use(rights: DeviceRights, question: Question) -> bool:
    try:
        for topic in question.publish:
            check_topic(topic)
        for topic_filter in question.subscribe:
            check_filter(topic_filter)
    except InvalidTopic:
        return False
    publishes = all(may(rights.grant.publish, topic) for topic in question.publish)
    return publishes and all(may(rights.grant.subscribe, one) for one in question.subscribe)


def dots_objection(broker: str, account: str, client_id: str) -> str | None:
    """Why names with a dot cannot work behind a broker that takes one for a slash."""
    if "." not in account + client_id:
        return None
    which = "client id" if "." in client_id else "account name"
    return (
        f"the device broker {broker} takes a dot in a topic for a slash, so the {which} must have none: "
        "write it with - or _"
    )
