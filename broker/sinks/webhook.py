"""Events as signed HTTP POSTs (Standard Webhooks 1.0.0, symmetric scheme).

1. The body is the envelope. `webhook-id` is the event's id, the same in every delivery; `webhook-timestamp` is when
   this one was sent, Unix seconds; `webhook-signature` is `v1,` and base64 of
   HMAC-SHA256(secret, id "." timestamp "." body), one for each secret, separated by spaces: with two secrets a receiver
   changes over without a gap.
2. 2xx means taken. Nobody there, 429 and 503 mean that the receiver is away; everything else, redirects too (none is
   followed) and no answer in time, is a failure of this event.
3. Of an answer at most 64 KiB are read, and nothing of it is logged or kept but its status.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import ssl
from collections.abc import Sequence
from typing import Any

import httpx2

from provisioner import __version__
from provisioner.errors import Unavailable
from provisioner.events import StoredEvent, body
from provisioner.ports import Clock

_PREFIX = "whsec_"
_KEY_BYTES = range(24, 65)
_AWAY = (429, 503)
_MOST = 64 * 1024


def parse_secrets(text: str) -> list[bytes]:
    """Keys from a secret file, `whsec_` and base64 a line. Raises `ValueError` with the end of a sentence."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        raise ValueError("is empty: write whsec_ and the base64 of 32 random bytes into it")
    return [_parse_secret(line) for line in lines]


def _parse_secret(line: str) -> bytes:
    try:
        key = base64.b64decode(line.removeprefix(_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if not line.startswith(_PREFIX) or len(key) not in _KEY_BYTES:
        raise ValueError("does not hold whsec_ and the base64 of 24 to 64 random bytes, a secret a line")
    return key


def signature(key: bytes, event_id: str, timestamp: int, content: bytes) -> str:
    """One signature as it stands in `webhook-signature`."""
    signed = hmac.new(key, b"%b.%d." % (event_id.encode(), timestamp) + content, hashlib.sha256).digest()
    return "v1," + base64.b64encode(signed).decode()


class Webhook:
    """The sink `webhook`; close it when nothing is delivered any more. Times: seconds."""

    name = "webhook"

    def __init__(
        self,
        url: str,
        keys: Sequence[bytes],
        clock: Clock,
        *,
        timeout: float,
        parallel: int,
        tls: ssl.SSLContext | None,
    ) -> None:
        self.parallel = parallel
        self._url = url
        self._keys = keys
        self._clock = clock
        self._timeout = timeout
        self._http = httpx2.AsyncClient(
            timeout=timeout,
            follow_redirects=False,
            trust_env=False,
            verify=False if tls is None else tls,  # None only where the URL is http
            headers={"content-type": "application/json", "user-agent": f"mqtt-provisioner/{__version__}"},
            limits=httpx2.Limits(max_connections=parallel),
        )

    async def deliver(self, event: StoredEvent) -> str | None:
        """See `EventSink`."""
        content = body(event)
        try:
            async with asyncio.timeout(self._timeout):
                status, headers = await self._post(content, self._headers(event.id, content))
        except (TimeoutError, httpx2.ReadTimeout, httpx2.WriteTimeout):
            return f"The receiver did not answer within {self._timeout:g} seconds."
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
            raise Unavailable(f"the webhook's receiver cannot be reached ({type(error).__name__})") from error
        except httpx2.TransportError as error:
            return f"The receiver broke the connection off ({type(error).__name__})."
        if status in _AWAY:
            raise Unavailable(f"the webhook's receiver answers {status}", retry_after=_seconds(headers))
        if 300 <= status < 400:
            return f"The receiver answers {status}; redirects are not followed, so set the URL it has now."
        return None if 200 <= status < 300 else f"The receiver answers {status}."

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    def _headers(self, event_id: str, content: bytes) -> dict[str, str]:
        timestamp = self._clock() // 1000
        return {
            "webhook-id": event_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": " ".join(signature(key, event_id, timestamp, content) for key in self._keys),
        }

    async def _post(self, content: bytes, headers: dict[str, str]) -> tuple[int, Any]:
        async with self._http.stream("POST", self._url, content=content, headers=headers) as answer:
            read = 0
            async for chunk in answer.aiter_raw():  # to its end, so that the connection can be used again
                read += len(chunk)
                if read > _MOST:
                    break
            return answer.status_code, answer.headers


def _seconds(headers: Any) -> int:
    """`Retry-After` where it is a number of seconds; dates are rare, and the pause has a cap anyhow."""
    text = str(headers.get("retry-after", ""))
    return min(int(text), 86_400) if text.isascii() and text.isdigit() and len(text) < 9 else 1
