"""What MQTT brokers are told: events (QoS 1, never retained) and revocation lists (QoS 1, retained).

    {topic}/{account}/{type}                  an event: JSON
    {topic without its last level}/crl/{id}   the list of the issuer with that key identifier: DER

1. One connection each, kept; a PUBACK means that the broker has the message. A broker that drops what a login may not
   publish acknowledges that too (MQTT 3.1.1 has no word for it), so its rights have to be checked by whoever sets it
   up.
2. Whatever goes wrong means that the broker is away: MQTT cannot refuse one message.
3. A broker may forget what it retained, and says nothing of it: lists are published anew every hour.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack, suppress
from urllib.parse import urlsplit

import aiomqtt
import structlog

from provisioner.errors import Unavailable
from provisioner.events import StoredEvent, body
from provisioner.model import Millis

EVENTS = "provisioner-events"
LISTS = "provisioner-crl"
"""Client ids."""

_LOOK_EVERY: Millis = 5_000
_AGAIN: Millis = 3_600_000

_log = structlog.get_logger(__name__)
_quiet = logging.getLogger("provisioner.sinks.mqtt")
_quiet.setLevel(logging.CRITICAL)  # whoever waits says what there is to say


def parse_login(text: str) -> tuple[str, str]:
    """User name and password from a login file. Raises `ValueError` with the end of a sentence."""
    lines = text.splitlines()
    if len(lines) < 2 or not lines[0] or not lines[1] or any(lines[2:]):
        raise ValueError("does not hold a user name and a password, a line each")
    return lines[0], lines[1]


class Publisher:
    """A login at a broker. Times: seconds."""

    def __init__(
        self, url: str, client_id: str, *, login: tuple[str, str] | None, timeout: float, tls: ssl.SSLContext | None
    ) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port or (1883 if tls is None else 8883)
        self._client_id = client_id
        self._login = login or (None, None)
        self._timeout = timeout
        self._tls = tls
        self._connection = AsyncExitStack()
        self._client: aiomqtt.Client | None = None

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Return when the broker has it. Raises `Unavailable`."""
        try:
            client = self._client or await self._connect()
            await client.publish(topic, payload, qos=1, retain=retain)
        except aiomqtt.MqttError as error:
            await self.close()
            raise Unavailable(f"the broker of events.mqtt_url cannot be reached ({error})") from error

    async def _connect(self) -> aiomqtt.Client:
        username, password = self._login
        client = aiomqtt.Client(
            self._host,
            self._port,
            username=username,
            password=password,
            identifier=self._client_id,
            logger=_quiet,
            timeout=self._timeout,
            tls_context=self._tls,
        )
        await self._connection.enter_async_context(client)
        self._client = client
        return client

    async def close(self) -> None:
        """Close the connection; what is published next opens a new one."""
        self._client = None
        with suppress(aiomqtt.MqttError):  # it was broken already
            await self._connection.aclose()
        self._connection = AsyncExitStack()


class MqttTopic:
    """The sink `mqtt`; close it when nothing is delivered any more."""

    name = "mqtt"
    parallel = 1

    def __init__(self, publisher: Publisher, topic: str) -> None:
        self._publisher = publisher
        self._topic = topic

    async def deliver(self, event: StoredEvent) -> str | None:
        """See `EventSink`."""
        await self._publisher.publish(f"{self._topic}/{event.account_name}/{event.type}", body(event))
        return None

    async def close(self) -> None:
        """Close the connection; the next delivery opens a new one."""
        await self._publisher.close()


class ListTopics:
    """Keeps the lists that `lists` gives (DER, by issuer) retained at the broker."""

    def __init__(self, publisher: Publisher, topic: str, lists: Callable[[], Mapping[str, bytes]]) -> None:
        self._publisher = publisher
        self._topic = f"{topic.rpartition('/')[0]}/crl".removeprefix("/")
        self._lists = lists
        self._published: dict[str, bytes] = {}
        self._published_on: Millis = 0
        self._is_away = False

    async def step(self, now: Millis) -> Millis:
        """Publish what is new, or was published long ago; when to come back."""
        if not 0 <= now - self._published_on < _AGAIN:
            self._published.clear()
            self._published_on = now
        try:
            for issuer, der in dict(self._lists()).items():
                if self._published.get(issuer) != der:
                    await self._publisher.publish(f"{self._topic}/{issuer}", der, retain=True)
                    self._published[issuer] = der
        except Unavailable as error:
            if not self._is_away:
                _log.warning("revocation lists not published", detail=error.detail)
            self._is_away = True
        else:
            self._is_away = False
        return now + _LOOK_EVERY

    async def close(self) -> None:
        """Close the connection."""
        await self._publisher.close()
