"""The gate: a token first, then a bounded body of honest JSON, and an answer whatever fails behind it."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import Message, Receive, Scope, Send
from structlog.testing import capture_logs

from broker.http.gate import MAX_BODY, MAX_DEPTH, Gate, check_json
from broker.http.problems import UNAUTHENTICATED
from provisioner.errors import Forbidden, Invalid, Unavailable
from provisioner.model import Role
from provisioner.policy import Actor

JSON = {"content-type": "application/json"}
TOKEN = {"authorization": "Bearer right"}


async def authenticate(token: str) -> Actor:
    if token != "right":
        raise Forbidden(UNAUTHENTICATED, "This token is not known.")
    return Actor(1, Role.VIEWER)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": body})


def client(app: Any = echo, **more: Any) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(Gate(app, authenticate, **more)), base_url="http://gate")


async def ask(method: str, path: str, app: Any = echo, **more: Any) -> httpx2.Response:
    async with client(app) as http:
        return await http.request(method, path, **more)


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/openapi.json"])
async def test_a_few_paths_need_no_token(path: str) -> None:
    assert (await ask("GET", path)).status_code == 200


@pytest.mark.parametrize("path", ["/metrics", "/v2/accounts", "/healthz/", "/nowhere", "/", "//healthz", "/HEALTHZ"])
async def test_every_other_path_needs_one(path: str) -> None:
    answer = await ask("GET", path)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "headers",
    [
        [("authorization", "")],
        [("authorization", "Bearer")],
        [("authorization", "Bearer ")],
        [("authorization", "Bearer wrong")],
        [("authorization", "Basic cmlnaHQ=")],
        [("authorization", "right")],
        [("authorization", "Bearer right"), ("authorization", "Bearer right")],
        [("authorization", "Bearer \xe9")],
        [("x-authorization", "Bearer right")],
    ],
)
async def test_what_is_no_known_token_is_refused(headers: list[tuple[str, str]]) -> None:
    sent = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    assert (await ask("GET", "/v2/accounts", headers=sent)).status_code == 401


async def test_the_scheme_is_read_whatever_its_case() -> None:
    assert (await ask("GET", "/v2/accounts", headers={"authorization": "bEARER  right"})).status_code == 200


async def test_a_body_passes_unchanged_and_the_answer_is_not_to_be_stored() -> None:
    answer = await ask("POST", "/x", headers=TOKEN, json={"a": [1, {"b": None}]})
    assert answer.json() == {"a": [1, {"b": None}]}
    assert (answer.headers["cache-control"], answer.headers["x-content-type-options"]) == ("no-store", "nosniff")


@pytest.mark.parametrize("media_type", ["text/plain", "application/x-www-form-urlencoded", "", "application/jsonx"])
async def test_a_body_of_another_type_is_refused(media_type: str) -> None:
    answer = await ask("POST", "/x", headers=TOKEN | {"content-type": media_type}, content=b"{}")
    assert (answer.status_code, answer.json()["code"]) == (415, "unsupported-media-type")


async def test_a_charset_beside_the_type_is_fine() -> None:
    headers = TOKEN | {"content-type": "Application/JSON; charset=utf-8"}
    assert (await ask("POST", "/x", headers=headers, content=b"{}")).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"{}}",
        b"{'a': 1}",
        b'{"a": 1, "a": 2}',
        b'{"x": {"a": 1, "a": 1}}',
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b'{"a": 1e999}',
        b'{"a": "\\ud800"}',
        b'{"a": "\xff"}',
        b"\xff\xfe{\x00}\x00",
        b"[" * 60_000,
        b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1),
        b'{"a": ' + b"9" * 5_000 + b"}",
    ],
)
async def test_what_parsers_would_understand_differently_is_refused(body: bytes) -> None:
    answer = await ask("POST", "/x", headers=TOKEN | JSON, content=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed-json")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
        max_leaves=20,
    )
)
def test_all_json_there_is_passes(value: Any) -> None:
    check_json(json.dumps(value).encode())


@given(st.binary(max_size=200))
def test_any_bytes_are_json_or_refused(body: bytes) -> None:
    with suppress(Invalid):
        check_json(body)


async def test_a_body_at_the_limit_passes_and_one_byte_more_does_not() -> None:
    fits = b'"' + b"x" * (MAX_BODY - 2) + b'"'
    assert (await ask("POST", "/x", headers=TOKEN | JSON, content=fits)).status_code == 200
    answer = await ask("POST", "/x", headers=TOKEN | JSON, content=fits + b" ")
    assert (answer.status_code, answer.json()["code"]) == (413, "too-large")


async def run(headers: dict[str, str], receive: Callable[[], Awaitable[Message]], **more: Any) -> list[Message]:
    """Put one message through the gate by hand; returns what it sends."""
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/x",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    await Gate(echo, authenticate, **more)(scope, receive, send)
    return sent


async def test_an_announced_length_is_refused_unread() -> None:
    async def unread() -> Message:
        raise AssertionError("the body was read")

    sent = await run(TOKEN | JSON | {"content-length": str(MAX_BODY + 1)}, unread)
    assert sent[0]["status"] == 413


async def test_a_strangers_body_is_not_read() -> None:
    async def unread() -> Message:
        raise AssertionError("the body was read")

    assert (await run({"content-length": "5"}, unread))[0]["status"] == 401


async def test_a_body_without_end_is_left_at_the_limit() -> None:
    read = 0

    async def endless() -> Message:
        nonlocal read
        read += 1
        return {"type": "http.request", "body": b" " * 16_384, "more_body": True}

    assert (await run(TOKEN | JSON, endless))[0]["status"] == 413
    assert read == MAX_BODY // 16_384 + 1


async def test_a_body_that_stalls_is_given_up() -> None:
    async def stalled() -> Message:
        await asyncio.Event().wait()
        raise AssertionError

    sent = await run(TOKEN | JSON, stalled, body_seconds=0.01)
    assert (sent[0]["status"], json.loads(sent[1]["body"])["code"]) == (408, "too-slow")
    assert (b"connection", b"close") in sent[0]["headers"]


async def test_a_client_that_hangs_up_is_told_nothing() -> None:
    async def gone() -> Message:
        return {"type": "http.disconnect"}

    assert await run(TOKEN | JSON, gone) == []


async def test_a_fault_of_ours_is_logged_once_and_withheld() -> None:
    async def faulty(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise LookupError("the drawer is empty")

    with capture_logs() as logs:
        answer = await ask("POST", "/x?key=hush-hush", faulty, headers=TOKEN, json={"password": "hush-hush"})
    assert (answer.status_code, answer.json()["code"]) == (500, "internal")
    assert "drawer" not in answer.text
    assert [entry["event"] for entry in logs] == ["http failed", "operator"]
    assert "LookupError: the drawer is empty" in logs[0]["exception"]
    assert (logs[0]["method"], logs[0]["path"]) == ("POST", "/x")
    assert "hush-hush" not in str(logs)


async def test_trouble_of_the_ledger_says_when_to_come_back() -> None:
    async def away(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise Unavailable("The ledger is away.", retry_after=7)

    answer = await ask("GET", "/x", away, headers=TOKEN)
    assert (answer.status_code, answer.json()["code"], answer.headers["retry-after"]) == (503, "unavailable", "7")


async def test_a_failure_in_the_middle_of_an_answer_is_the_servers() -> None:
    async def halfway(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        raise LookupError("half")

    with pytest.raises(LookupError):
        await ask("GET", "/x", halfway, headers=TOKEN)


async def test_the_route_learns_of_a_disconnect_behind_the_body() -> None:
    seen: list[str] = []

    async def waits(_scope: Scope, receive: Receive, send: Send) -> None:
        seen.extend([(await receive())["type"], (await receive())["type"]])
        await echo(_scope, _once(), send)

    messages: Iterator[Message] = iter([{"type": "http.request", "body": b""}, {"type": "http.disconnect"}])

    async def receive() -> Message:
        return next(messages)

    async def send(_message: Message) -> None: ...

    scope = {"type": "http", "method": "GET", "path": "/healthz", "headers": []}
    await Gate(waits, authenticate)(scope, receive, send)
    assert seen == ["http.request", "http.disconnect"]


def _once() -> Receive:
    async def receive() -> Message:
        return {"type": "http.request", "body": b""}

    return receive
