"""Events as MQTT messages: QoS 1, never retained, on `{topic}/{account}/{type}`.

1. One connection, kept; a PUBACK means that the broker has the message. A broker that drops what a login may not
   publish acknowledges that too (MQTT 3.1.1 has no word for it), so its rights have to be checked by whoever sets it
   up.
2. Whatever goes wrong means that the broker is away: MQTT cannot refuse one message.
"""

from __future__ import annotations

import logging
import ssl
from contextlib import AsyncExitStack, suppress
from urllib.parse import urlsplit

import aiomqtt

from provisioner.errors import Unavailable
from provisioner.events import StoredEvent, body

_CLIENT_ID = "provisioner-events"

_quiet = logging.getLogger("provisioner.sinks.mqtt")
_quiet.setLevel(logging.CRITICAL)  # the outbox says what there is to say


def parse_login(text: str) -> tuple[str, str]:
    """User name and password from a login file. Raises `ValueError` with the end of a sentence."""
    lines = text.splitlines()
    if len(lines) < 2 or not lines[0] or not lines[1] or any(lines[2:]):
        raise ValueError("does not hold a user name and a password, a line each")
    return lines[0], lines[1]


class MqttTopic:
    """The sink `mqtt`; close it when nothing is delivered any more. Times: seconds."""

    name = "mqtt"
    parallel = 1

    def __init__(
        self,
        url: str,
        topic: str,
        *,
        login: tuple[str, str] | None,
        timeout: float,
        tls: ssl.SSLContext | None,
    ) -> None:
        parts = urlsplit(url)
        self._host = parts.hostname or ""
        self._port = parts.port or (1883 if tls is None else 8883)
        self._topic = topic
        self._login = login or (None, None)
        self._timeout = timeout
        self._tls = tls
        self._connection = AsyncExitStack()
        self._client: aiomqtt.Client | None = None

    async def deliver(self, event: StoredEvent) -> str | None:
        """See `EventSink`."""
        try:
            client = self._client or await self._connect()
            await client.publish(f"{self._topic}/{event.account_name}/{event.type}", body(event), qos=1)
        except aiomqtt.MqttError as error:
            await self.close()
            raise Unavailable(f"the events' MQTT broker cannot be reached ({error})") from error
        return None

    async def _connect(self) -> aiomqtt.Client:
        username, password = self._login
        client = aiomqtt.Client(
            self._host,
            self._port,
            username=username,
            password=password,
            identifier=_CLIENT_ID,
            logger=_quiet,
            timeout=self._timeout,
            tls_context=self._tls,
        )
        await self._connection.enter_async_context(client)
        self._client = client
        return client

    async def close(self) -> None:
        """Close the connection; the next delivery opens a new one."""
        self._client = None
        with suppress(aiomqtt.MqttError):  # it was broken already
            await self._connection.aclose()
        self._connection = AsyncExitStack()
