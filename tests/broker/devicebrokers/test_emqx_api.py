"""Closing sessions at EMQX, against its recorded API (docs.emqx.com, admin/api, version 5: Clients)."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs, unquote

import pytest

from broker.devicebrokers.emqx_api import EmqxApi
from broker.devicebrokers.webhook import Webhook
from broker.http.server import HttpServer
from provisioner.errors import Unavailable
from provisioner.ports import Revoke

LOGIN = ("api-key", "api-secret")
UNAUTHORIZED: tuple[int, Any] = (401, {"code": "UNAUTHORIZED", "message": "Login Error"})
AUTHORIZED = b"Basic " + base64.b64encode(":".join(LOGIN).encode())


class Recorded:
    """EMQX as it answers; `sessions`: client id -> user name."""

    def __init__(self) -> None:
        self.sessions: dict[str, str] = {}
        self.status = 200

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if dict(scope["headers"]).get(b"authorization") != AUTHORIZED:
            status, body = UNAUTHORIZED
        else:
            status, body = self._answer(scope["method"], scope["path"], parse_qs(scope["query_string"].decode()))
        content = json.dumps(body).encode() if body is not None else b""
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def _answer(self, method: str, path: str, query: dict[str, list[str]]) -> tuple[int, Any]:
        base, _, client_id = path.partition("/api/v5/clients")
        assert base == ""
        if self.status != 200:
            return self.status, {"code": "INTERNAL_ERROR", "message": ""}
        if method == "GET":
            [wanted] = query["username"]
            data = [
                {"clientid": client_id, "username": username, "connected": True}
                for client_id, username in self.sessions.items()
                if username == wanted
            ]
            return 200, {"data": data, "meta": {"page": 1, "limit": 1000, "count": len(data)}}
        if self.sessions.pop(unquote(client_id.removeprefix("/")), None) is None:
            return 404, {"code": "CLIENTID_NOT_FOUND", "message": "Client ID not found"}
        return 204, None


@pytest.fixture
async def recorded() -> AsyncIterator[tuple[Recorded, str]]:
    app = Recorded()
    server = HttpServer(app)
    port = await server.start("127.0.0.1", 0)
    yield app, f"http://127.0.0.1:{port}"
    await server.stop()


async def test_revoking_closes_the_sessions_of_that_user_alone(recorded: tuple[Recorded, str]) -> None:
    app, url = recorded
    app.sessions = {"dev-1": "p.acme.dev-1.g1", "de:v/2": "p.acme.dev-1.g1", "dev-3": "p.acme.dev-3.g1"}
    broker = Webhook("plant", "emqx", plain=None, secure=None, kicks=EmqxApi(url, LOGIN, None))
    assert broker.kicks_live
    assert await broker.revoke(["p.acme.dev-1.g1", "p.acme.dev-9.g1"]) == [Revoke.CLOSED] * 2
    assert app.sessions == {"dev-3": "p.acme.dev-3.g1"}
    assert await broker.revoke(["p.acme.dev-3.g1"], kick=False) == [Revoke.OPEN]
    app.status = 503
    assert await broker.revoke(["p.acme.dev-3.g1"]) == [Revoke.LATER]
    await broker.close()


async def test_a_wrong_login_is_told(recorded: tuple[Recorded, str]) -> None:
    api = EmqxApi(recorded[1], ("api-key", "wrong"), None)
    with pytest.raises(Unavailable, match="login_file"):
        await api.kick("p.acme.dev-1.g1")
    await api.close()
