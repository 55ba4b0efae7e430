"""EMQX's REST API, as far as closing sessions needs it (docs.emqx.com, admin/api: Clients, version 5)."""

from __future__ import annotations

from urllib.parse import quote

from broker.devicebrokers.control_api import ControlApi

_BASE = "/api/v5/clients"
_PAGE = 1000


class EmqxApi(ControlApi):
    """With an API key and its secret as the login."""

    async def kick(self, username: str) -> None:
        """Close the sessions of a user: EMQX closes by client id, and a loose credential may have several."""
        found = await self.ask("GET", f"{_BASE}?username={quote(username, safe='')}&limit={_PAGE}&page=1")
        for one in (found or {}).get("data", []):
            if one.get("username") == username:
                await self.ask("DELETE", f"{_BASE}/{quote(str(one['clientid']), safe='')}", absent=True)
