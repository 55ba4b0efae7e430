"""What stands in front of the gate: bounded, and nothing that is sent makes it fall over."""

import asyncio
import base64
import random
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from starlette.responses import PlainTextResponse, Response
from starlette.types import Receive, Scope, Send
from structlog.testing import capture_logs

from broker.http.pki import AT_ONCE, MAX_BODY, Call, PkiFront
from broker.mqtt.responder import Responder
from broker.parts import Figures, assembled, now
from broker.wiring import choices
from certs.profile import Purpose
from config.sources import load
from tests.e2e.shelldevice import ran

TRIES = 300
EST, OCSP = "/.well-known/est/simpleenroll", "application/ocsp-request"


async def behind(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("behind")(scope, receive, send)


def at(app: Any) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="https://provisioner")


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[httpx2.AsyncClient]:
    """Everything around certificates of a real data directory."""
    settings = load(None, {}, {"data_dir": str(tmp_path / "data")}).settings
    async with assembled(settings.data_dir, choices(settings)) as parts:
        responder = Responder(parts.provisioner, now, parts.entropy)
        async with at(PkiFront(parts.api(Figures()), parts.pki(responder.claim, lambda _serial: False))) as http:
            yield http


async def echo(call: Call) -> Response:
    return PlainTextResponse(f"{call.method} {call.path} {len(call.body)}")


async def test_other_paths_are_let_through() -> None:
    async with at(PkiFront(behind, {"/ca/": echo})) as http:
        for path, wanted in (("/ca/x", "GET x 0"), ("/ca", "behind"), ("/v2/accounts", "behind"), ("//ca/x", "behind")):
            assert (await http.get(path)).text == wanted


async def test_a_body_is_bounded_whether_its_length_was_told_or_not() -> None:
    async def told(size: int) -> AsyncIterator[bytes]:
        for _ in range(size // 64):
            yield bytes(64)

    async with at(PkiFront(behind, {"/ca/": echo})) as http:
        assert (await http.post("/ca/x", content=bytes(MAX_BODY))).text == f"POST x {MAX_BODY}"
        assert (await http.post("/ca/x", content=bytes(MAX_BODY + 1))).status_code == 413
        assert (await http.post("/ca/x", content=told(MAX_BODY))).text == f"POST x {MAX_BODY}"
        assert (await http.post("/ca/x", content=told(MAX_BODY + 64))).status_code == 413


async def test_a_body_that_pauses_is_given_up() -> None:
    async def pausing() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    async with at(PkiFront(behind, {"/ca/": echo}, body_seconds=0.05)) as http:
        assert (await http.post("/ca/x", content=pausing())).status_code == 408


async def test_too_many_at_once_are_told_to_come_back() -> None:
    let, arrived = asyncio.Event(), asyncio.Semaphore(0)

    async def slow(call: Call) -> Response:
        arrived.release()
        await let.wait()
        return await echo(call)

    async with at(PkiFront(behind, {"/ca/": slow})) as http:
        waiting = [asyncio.create_task(http.get("/ca/x")) for _ in range(AT_ONCE)]
        for _ in waiting:
            await asyncio.wait_for(arrived.acquire(), 10)
        refused = await http.get("/ca/x")
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
        let.set()
        assert {(await one).status_code for one in waiting} == {200}
        assert (await http.get("/ca/x")).status_code == 200


async def test_our_own_fault_is_logged_and_told_without_detail() -> None:
    async def fails(_call: Call) -> Response:
        raise ValueError("canary")

    with capture_logs() as logs:
        async with at(PkiFront(behind, {"/ca/": fails})) as http:
            answer = await http.get("/ca/x")
    assert answer.status_code == 500
    assert "canary" not in answer.text
    assert [one["event"] for one in logs] == ["http failed"]


def mutated(chance: random.Random, good: bytes) -> bytes:
    """Something that was once right: bits turned, bytes cut out, put in, doubled."""
    data = bytearray(good)
    for _ in range(chance.randint(1, 4)):
        place = chance.randrange(len(data) or 1)
        match chance.randrange(4):
            case 0 if data:
                data[place] ^= 1 << chance.randrange(8)
            case 1:
                del data[place : place + chance.randint(1, 20)]
            case 2:
                data[place:place] = chance.randbytes(chance.randint(1, 20))
            case _:
                data[place:place] = data[: chance.randint(1, 200)]
    return bytes(data)


async def check(ask: Callable[[bytes], Any], good: bytes, statuses: set[int], seed: int) -> int:
    """Send mutations and noise; whatever the answer is, it is one of `statuses` and soon there. How many were right."""
    chance = random.Random(seed)
    right = 0
    for number in range(TRIES):
        sent = chance.randbytes(chance.randrange(3000)) if number % 5 == 0 else mutated(chance, good)
        began = time.monotonic()
        answer = await ask(sent)
        assert answer.status_code in statuses, (answer.status_code, sent.hex())
        assert time.monotonic() - began < 1.0, sent.hex()
        right += answer.status_code == 200
    return right


async def test_no_ocsp_request_makes_it_fall_over(site: httpx2.AsyncClient, tmp_path: Path) -> None:
    issuer = next((tmp_path / "data" / "ca").glob(f"{Purpose.DEVICES}-*.pem"))
    request = tmp_path / "request.der"
    words: list[str | Path] = ["ocsp", "-issuer", issuer, "-serial", "0x01" + "ab" * 16, "-reqout", request]
    await asyncio.to_thread(ran, "openssl", *words)
    good = request.read_bytes()

    async def post(body: bytes) -> Any:
        return await site.post("/ocsp", content=body, headers={"content-type": OCSP})

    async def get(body: bytes) -> Any:
        return await site.get(f"/ocsp/{base64.b64encode(body).decode().replace('/', '%2F')}")

    for ask in (post, get):
        answer = await ask(good)
        assert (answer.status_code, answer.content[:1]) == (200, b"\x30")
        assert await check(ask, good, {200}, 1) == TRIES  # OCSP tells its refusals in its own form
    assert (await site.post("/ocsp", content=good)).status_code == 415
    assert (await site.put("/ocsp", content=good)).status_code == 405


async def test_no_csr_makes_est_fall_over(site: httpx2.AsyncClient, tmp_path: Path) -> None:
    key, csr = tmp_path / "key.pem", tmp_path / "csr.der"
    await asyncio.to_thread(ran, "openssl", "ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", key)
    words: list[str | Path] = ["req", "-new", "-key", key, "-subj", "/CN=x", "-outform", "DER", "-out", csr]
    await asyncio.to_thread(ran, "openssl", *words)
    # Without a right key, so none of it may be let in; the limiter answers most of them.
    login = base64.b64encode(b"dev-1:" + b"x" * 32).decode()
    headers = {"content-type": "application/pkcs10", "authorization": f"Basic {login}"}

    async def post(body: bytes) -> Any:
        return await site.post(EST, content=body, headers=headers)

    statuses = {401, 413, 422, 429}
    good = base64.encodebytes(csr.read_bytes())
    for seed, body in enumerate((good, csr.read_bytes())):
        assert await check(post, body, statuses, seed) == 0
    for authorization in ("", "Basic", "Basic ==", "Basic gA==", "Bearer x", "Basic " + "QQ" * 4000, "basic " + login):
        answer = await site.post(EST, content=good, headers=headers | {"authorization": authorization})
        assert answer.status_code in {401, 429}
