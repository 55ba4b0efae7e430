"""RabbitMQ's management API, as far as device credentials need it (rabbitmq-server, deps/rabbitmq_management)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

from broker.devicebrokers.control_api import ControlApi


class Management(ControlApi):
    """As a user with the tag administrator."""

    async def overview(self) -> Mapping[str, Any]:
        """Version and listeners."""
        return dict(await self.ask("GET", "/api/overview"))

    async def tags(self) -> Sequence[str]:
        """What the login may do."""
        tags = dict(await self.ask("GET", "/api/whoami")).get("tags", [])
        return tags.split(",") if isinstance(tags, str) else list(tags)

    async def processes(self) -> Sequence[tuple[str, str]]:
        """Nodes and their process ids."""
        nodes = await self.ask("GET", "/api/nodes?columns=name,os_pid")
        return [(str(one.get("name")), str(one.get("os_pid"))) for one in nodes]

    async def usernames(self) -> Sequence[str]:
        """Every user's name."""
        return [str(one["name"]) for one in await self.ask("GET", "/api/users?columns=name")]

    async def merge(self, definitions: Mapping[str, Sequence[Mapping[str, str]]]) -> None:
        """Add or change users and permissions, all in one call."""
        await self.ask("POST", "/api/definitions", definitions)

    async def delete_user(self, username: str) -> None:
        """Delete a user, if it is there; deleting many in one call gives up at the first that is not."""
        await self.ask("DELETE", f"/api/users/{quote(username, safe='')}", absent=True)

    async def kick(self, username: str) -> None:
        """Close the connections of a user."""
        await self.ask("DELETE", f"/api/connections/username/{quote(username, safe='')}", absent=True)
