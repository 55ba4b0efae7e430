"""RabbitMQ's management API, as far as device credentials need it (rabbitmq-server, deps/rabbitmq_management).

One connection pool, kept. Every trouble is `Unavailable`; no answer is logged but its status.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import httpx2

from provisioner.errors import Unavailable

_SECONDS = 15.0
_CONNECTIONS = 4


class Management:
    """The API at `url`, as a user with the tag administrator."""

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

    async def overview(self) -> Mapping[str, Any]:
        """Version and listeners."""
        return dict(await self._ask("GET", "/api/overview"))

    async def tags(self) -> Sequence[str]:
        """What the login may do."""
        tags = dict(await self._ask("GET", "/api/whoami")).get("tags", [])
        return tags.split(",") if isinstance(tags, str) else list(tags)

    async def processes(self) -> Sequence[tuple[str, str]]:
        """Nodes and their process ids."""
        nodes = await self._ask("GET", "/api/nodes?columns=name,os_pid")
        return [(str(one.get("name")), str(one.get("os_pid"))) for one in nodes]

    async def usernames(self) -> Sequence[str]:
        """Every user's name."""
        return [str(one["name"]) for one in await self._ask("GET", "/api/users?columns=name")]

    async def merge(self, definitions: Mapping[str, Sequence[Mapping[str, str]]]) -> None:
        """Add or change users and permissions, all in one call."""
        await self._ask("POST", "/api/definitions", definitions)

    async def delete_user(self, username: str) -> None:
        """Delete a user, if it is there; deleting many in one call gives up at the first that is not."""
        await self._ask("DELETE", f"/api/users/{quote(username, safe='')}", absent=True)

    async def kick(self, username: str) -> None:
        """Close the connections of a user."""
        await self._ask("DELETE", f"/api/connections/username/{quote(username, safe='')}", absent=True)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def _ask(self, method: str, path: str, body: object = None, *, absent: bool = False) -> Any:
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
            raise Unavailable(f"{self._url} does not answer in JSON: it is no management API") from None
