"""A broker's own HTTP API, as a client with a login of it.

One connection pool, kept. Every trouble is `Unavailable`; of an answer nothing is told but its status.
"""

from __future__ import annotations

import ssl
from typing import Any

import httpx2

from provisioner.errors import Unavailable

_SECONDS = 15.0
_CONNECTIONS = 4


class ControlApi:
    """The API at `url`, which is asked with basic authentication."""

    def __init__(self, url: str, login: tuple[str, str], tls: ssl.SSLContext | None) -> None:
        self._url = url
        self._http = httpx2.AsyncClient(
            base_url=url,
            auth=login,
            timeout=_SECONDS,
            follow_redirects=False,
            trust_env=False,
            verify=False if tls is None else tls,  # None only where the URL is http
            limits=httpx2.Limits(max_connections=_CONNECTIONS),
        )

    async def ask(self, method: str, path: str, body: object = None, *, absent: bool = False) -> Any:
        """JSON of the answer; None where it has none, or, with `absent`, where there is no such thing."""
        try:
            answer = await self._http.request(method, path, json=body)
            if answer.status_code == 401:
                raise Unavailable(f"{self._url} refuses the login: correct login_file", retry_after=60)
            if answer.status_code == 404 and absent:
                return None
            if not 200 <= answer.status_code < 300:
                raise Unavailable(f"{self._url} answers {answer.status_code} to {method} {path.partition('?')[0]}")
            return answer.json() if answer.content else None
        except httpx2.HTTPError as error:
            raise Unavailable(f"{self._url} cannot be reached ({type(error).__name__})") from None
        except ValueError:
            raise Unavailable(f"{self._url} does not answer in JSON: correct control_url") from None

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()
