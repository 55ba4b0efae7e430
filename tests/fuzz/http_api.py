"""The operator API: any path, query and body from somebody with an administrator's token.

1. Every answer is below 500; every refusal is a problem with a stable code that is not `internal`, and changes nothing.
2. What was created has a client id of the grammar and no member that the API does not have.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import shutil
import sqlite3
import tempfile
from pathlib import Path
from typing import Any

import structlog

from broker.http.bodies import RequestCreator
from tests.broker.http.world import PATH, World
from tests.hostile import grammar

_FORM = {"accountId": "$A", "clientId": "dev-9", "provisionUserUsername": "factory"}
_MORE: list[dict[str, Any]] = [
    {},
    {"activatesOn": 1_800_000_000_000, "expiresOn": 1_900_000_000_000, "retryMaxAttempts": 3, "confirm": "ack"},
    {"generateActivationKey": False, "activationKey": "0123456789ABCDEFGHIJKLMNOPQRSTUV", "overwriteIfDuplicate": True},
    {"configuration": {"a": [1, {"b": None}]}, "macAddress": "00:1A:2B:3C:4D:5E", "deviceCredentialsTight": "LOOSE"},
]


def _call(method: str, path: str, body: object = None) -> bytes:
    """`$A` stands for the id of an account, `$R` for that of a request."""
    written = b"" if body is None else json.dumps(body).encode()
    return f"{method} {path}\n".encode() + written.replace(b'"$A"', b"$A")


SEEDS = [
    *(_call("POST", PATH, _FORM | more) for more in _MORE),
    _call("GET", f"{PATH}?clientIDs=dev-1&statuses=CREATED&offset=0&limit=5&startDate=1&endDate=2"),
    _call("PUT", f"{PATH}/$R", {"optlock": 0, "expiresOn": None}),
    _call("POST", f"{PATH}/$R/reopen", {"optlock": 0, "generateActivationKey": True}),
    _call("POST", "/v2/accounts", {"name": "a", "kind": "TARGET", "parentId": "$A", "quota": 5}),
    _call("POST", "/v2/tokens", {"name": "t", "role": "viewer", "accountId": "$A"}),
    _call("DELETE", f"{PATH}/$R"),
]
TOKENS = [
    *(f'"{field.alias}"'.encode() for field in RequestCreator.model_fields.values()), b"null", b"true", b"1e999",
    b"NaN",
    b"\\ud800", b"\\u0000", b"9007199254740993", b"-1", b"1.0", b"[[[[[[", b'"STRICT"', b'"LOOSE"', b'"DISABLED"',
    b"/enable", b"/stop", b"/revoke", b"/rotate", b"/activationKey", b"/v2/users", b"%00", b"%2F", b"..", b"?limit=",
]  # fmt: skip
_FIELDS = {field.alias for field in RequestCreator.model_fields.values()}


class _Site:
    """One installation for all inputs."""

    def __init__(self) -> None:
        folder = Path(tempfile.mkdtemp(prefix="http-api-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        self.runner = asyncio.Runner()
        self.world = self.runner.run(World.on(folder))
        self.token = self.runner.run(self.world.token())
        self.account = str(self.world.accounts["acme"].id).encode()
        self.request = str(self.runner.run(self._prepare())).encode()
        self.ledger = sqlite3.connect(folder / "ledger.db", isolation_level=None)

    async def _prepare(self) -> int:
        return int((await (await self.world.operator()).create("fuzzed"))["id"])

    def close(self) -> None:
        """End the ledger's thread."""
        self.ledger.close()
        self.runner.run(self.world.close())
        self.runner.close()

    def state(self) -> tuple[int, ...]:
        """What changes with every change of a request, user or account."""
        counts = "(SELECT count(*) FROM account), (SELECT count(*) FROM provision_user), (SELECT count(*) FROM token)"
        found = self.ledger.execute(f"SELECT count(*), total(optlock), {counts} FROM request").fetchone()
        return tuple(found)

    async def ask(self, method: str, path: str, query: bytes, body: bytes) -> tuple[int, bytes]:
        """Status and body of an answer; without a socket and without a client's opinion of what may be sent."""
        headers = [(b"authorization", f"Bearer {self.token}".encode()), (b"content-type", b"application/json")]
        status, answer = 0, bytearray()

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)
            answer.extend(message.get("body", b""))

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
            "path": path, "raw_path": path.encode(), "query_string": query, "root_path": "", "headers": headers,
            "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "state": {},
        }  # fmt: skip
        await self.world.app(scope, receive, send)
        return status, bytes(answer)


_sites: list[_Site] = []


def try_one(data: bytes) -> None:
    """A line with method and target, then the body."""
    if not _sites:
        _sites.append(_Site())
    site = _sites[0]
    line, _, body = data.replace(b"$A", site.account).replace(b"$R", site.request).partition(b"\n")
    method, _, target = line.decode("utf-8", "replace").partition(" ")
    path, _, query = target.partition("?")
    if not path.startswith("/") or b"assword" in body:  # a slow hash each time would be all that this does
        return
    before = site.state()
    with structlog.testing.capture_logs():
        status, answer = site.runner.run(site.ask(method.upper()[:20], path, query.encode(), body))
    assert 200 <= status < 500, answer
    if status >= 400:
        problem = json.loads(answer)
        assert problem["code"], problem
        assert problem["code"] != "internal", problem
        assert site.state() == before, problem
    elif status == 201 and path == PATH:
        form = json.loads(body)
        assert set(form) <= _FIELDS
        assert grammar.is_identifier(form["clientId"])
        assert grammar.is_identifier(form["provisionUserUsername"])


def close() -> None:
    """End what was started."""
    while _sites:
        _sites.pop().close()
