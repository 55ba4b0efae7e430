"""The real program answers a broker that asks, from the ledger: EMQX's questions, with the secret or a certificate."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.e2e.program import Program, Site
from tests.mosquitto import free_port
from tests.pki import Pki

SECRET = "a-secret-that-the-broker-shows"
ALLOW, DENY, IGNORE = ({"result": "allow", "is_superuser": False}, {"result": "deny"}, {"result": "ignore"})


class Emqx:
    """Asks as EMQX 5 does."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http

    async def ask(self, call: str, **body: Any) -> Any:
        answer = await self._http.post(f"/webhook/{call}", json=body)
        assert answer.status_code == 200
        return answer.json()

    async def login(self, credentials: Any, client_id: str | None = None, password: str | None = None) -> Any:
        return await self.ask(
            "authentication",
            clientid=client_id or credentials["clientId"],
            username=credentials["username"],
            password=password or credentials["password"],
        )

    async def use(self, credentials: Any, topic: str, action: str = "publish") -> Any:
        who = {"clientid": credentials["clientId"], "username": credentials["username"]}
        return await self.ask("authorization", topic=topic, action=action, qos=1, retain=False, **who)


@pytest.fixture
async def asked(tmp_path: Path) -> AsyncIterator[tuple[Site, Pki, int, int]]:
    pki, plain, tls = Pki(tmp_path), free_port(), free_port()
    server, secret = pki.server(), tmp_path / "secret"
    secret.touch(mode=0o600)
    secret.write_text(SECRET)
    settings = {
        "DEVICE_BROKER__KIND": "webhook",
        "DEVICE_BROKER__DIALECT": "emqx",
        "DEVICE_BROKER__SECRET_FILE": str(secret),
        "DEVICE_BROKER__URL": "mqtt://emqx.example:1883",
        "WEBHOOK__LISTEN": f"127.0.0.1:{plain}",
        "WEBHOOK__TLS_LISTEN": f"127.0.0.1:{tls}",
        "WEBHOOK__CERTIFICATE": str(server.chain),
        "WEBHOOK__PRIVATE_KEY": str(server.key),
        "WEBHOOK__CLIENT_CA": str(pki.trusted),
    }
    given = {f"PROVISIONER_{name}": value for name, value in settings.items()}
    program = await asyncio.to_thread(Program(tmp_path / "data", given).start)
    program.secrets.add(SECRET)
    try:
        async with await Site.at(program) as site:
            yield site, pki, plain, tls
    finally:
        await asyncio.to_thread(program.stop)


async def test_a_broker_that_asks_is_answered_from_the_ledger(asked: tuple[Site, Pki, int, int]) -> None:
    site, _, plain, _ = asked
    headers = {"authorization": f"Bearer {SECRET}"}
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{plain}", headers=headers, trust_env=False) as http:
        emqx = Emqx(http)
        device, request = await site.unit(confirm="login")
        offer = await device.provision()
        mine, base = offer.credentials, f"north/{device.client_id}"
        assert await emqx.login(mine, password="guess") == DENY
        assert await emqx.login(mine, client_id="somebody-else") == DENY
        assert await request.phase() == "OFFERED"
        assert await emqx.login(mine) == ALLOW
        assert await request.phase() == "CONFIRMED"  # by use
        assert await emqx.use(mine, f"{base}/out") == ALLOW
        assert await emqx.use(mine, f"{base}/#", "subscribe") == ALLOW
        assert await emqx.use(mine, "north/+/out", "subscribe") == DENY
        assert await emqx.login({"clientId": "x", "username": "operator", "password": "y"}) == IGNORE
        await request.tell("revoke")
        assert await emqx.login(mine) == DENY
        assert await emqx.use(mine, f"{base}/out") == DENY
        await request.until("STOPPED")
        log = await site.operator.ask("GET", f"{request.path}/log")
        assert any("leaves an open session" in one["cause"] for one in log["entry"])


async def test_a_certificate_stands_for_the_secret(asked: tuple[Site, Pki, int, int]) -> None:
    _, pki, plain, tls = asked
    body = {"clientid": "x", "username": "operator", "password": "y"}
    for held, status in ((pki.device("brokers", "emqx"), 200), (None, 401)):
        async with httpx2.AsyncClient(verify=pki.client(held), trust_env=False) as http:
            answer = await http.post(f"https://127.0.0.1:{tls}/webhook/authentication", json=body)
            assert answer.status_code == status
    async with httpx2.AsyncClient(trust_env=False) as http:
        for path, status in (("authentication", 401), (f"{SECRET}/authentication", 200)):
            answer = await http.post(f"http://127.0.0.1:{plain}/webhook/{path}", json=body)
            assert answer.status_code == status
