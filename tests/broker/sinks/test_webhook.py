"""A webhook as its receiver sees it."""

import asyncio
import base64
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from broker.sinks.webhook import Webhook, parse_secrets
from provisioner.errors import Unavailable
from provisioner.events import StoredEvent, body
from tests.broker.sinks.receiver import AWAY, BREAK, HANG, NO, OK, SECRET, receiving

NOW = 1_800_000_000_999
EVENT = StoredEvent(
    seq=7,
    nonce=-5,
    type="Device.ProvisioningRecipeApplied",
    request_id=4711,
    account_id=1,
    made_on=NOW,
    originator_id=None,
    facts=json.dumps({"status": "Applied", "brand": "Bränd", "deviceName": "line\nbreak \u2028"}),
    account_name="acme",
    account_uid="a" * 32,
    parent_uid=None,
    originator_uid=None,
)


@asynccontextmanager
async def webhook(url: str, secret: str = SECRET, seconds: float = 5.0) -> AsyncIterator[Webhook]:
    made = Webhook(url, parse_secrets(secret), lambda: NOW, timeout=seconds, parallel=2, tls=None)
    try:
        yield made
    finally:
        await made.close()


async def test_an_event_is_posted_signed_and_dated() -> None:
    async with receiving() as receiver, webhook(receiver.url) as sink:
        assert await sink.deliver(EVENT) is None
        post = await receiver.next()
    assert post.body == body(EVENT)
    assert post.event["id"] == post.headers["webhook-id"] == EVENT.id
    assert post.event["payload"]["deviceName"] == "line\nbreak \u2028"
    assert post.headers["content-type"] == "application/json"
    assert post.headers["webhook-timestamp"] == "1800000000"
    assert post.is_signed()
    assert not post.is_signed("whsec_" + base64.b64encode(b"another secret of enough bytes").decode())


@pytest.mark.parametrize("part", ["webhook-id", "webhook-timestamp", "body"])
async def test_whoever_changes_a_part_breaks_the_signature(part: str) -> None:
    async with receiving() as receiver, webhook(receiver.url) as sink:
        await sink.deliver(EVENT)
        post = await receiver.next()
    if part == "body":
        post.body = post.body.replace(b"Applied", b"Failed!")
    else:
        post.headers[part] = post.headers[part][:-1] + "9"
    assert not post.is_signed()


async def test_two_secrets_sign_side_by_side() -> None:
    other = "whsec_" + base64.b64encode(b"the secret that comes after it ").decode()
    async with receiving() as receiver, webhook(receiver.url, f"{SECRET}\n\n{other}\n") as sink:
        await sink.deliver(EVENT)
        post = await receiver.next()
    assert post.is_signed()
    assert post.is_signed(other)
    assert len(post.headers["webhook-signature"].split(" ")) == 2


async def test_a_repetition_is_the_same_but_for_its_time() -> None:
    async with receiving(NO) as receiver, webhook(receiver.url) as sink:
        assert await sink.deliver(EVENT) == "The receiver answers 500."
        assert await sink.deliver(EVENT) is None
        first, second = await receiver.next(), await receiver.next()
    assert (first.body, first.headers["webhook-id"]) == (second.body, second.headers["webhook-id"])


async def test_one_connection_carries_many_events() -> None:
    answers = [OK, b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello"] * 5
    async with receiving(*answers) as receiver, webhook(receiver.url) as sink:
        for _ in range(10):
            assert await sink.deliver(EVENT) is None
        assert receiver.connections == 1


@pytest.mark.parametrize("answer", [AWAY, AWAY.replace(b"503", b"429")])
async def test_a_receiver_that_is_busy_is_away_for_as_long_as_it_says(answer: bytes) -> None:
    async with receiving(answer) as receiver, webhook(receiver.url) as sink:
        with pytest.raises(Unavailable) as caught:
            await sink.deliver(EVENT)
    assert caught.value.retry_after == 7


@pytest.mark.parametrize("said", [b"soon", b"-1", b"9" * 40, "\u0663".encode(), b"Wed, 21 Oct 2026 07:28:00 GMT"])
async def test_a_strange_retry_time_is_no_time(said: bytes) -> None:
    async with receiving(AWAY.replace(b"7\r", said + b"\r")) as receiver, webhook(receiver.url) as sink:
        with pytest.raises(Unavailable) as caught:
            await sink.deliver(EVENT)
    assert caught.value.retry_after == 1


async def test_nobody_there_is_away() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    async with webhook(f"http://127.0.0.1:{port}/events") as sink:
        with pytest.raises(Unavailable, match="cannot be reached"):
            await sink.deliver(EVENT)


async def test_a_redirect_is_not_followed() -> None:
    async with receiving() as other:
        moved = f"HTTP/1.1 307 Moved\r\nlocation: {other.url}\r\ncontent-length: 0\r\n\r\n".encode()
        async with receiving(moved) as receiver, webhook(receiver.url) as sink:
            problem = await sink.deliver(EVENT)
        assert other.posts.empty()
    assert problem is not None
    assert problem.startswith("The receiver answers 307; redirects are not followed")


async def test_a_receiver_that_does_not_answer_gets_its_time_and_no_more() -> None:
    async with receiving(HANG) as receiver, webhook(receiver.url, seconds=0.2) as sink:
        assert await sink.deliver(EVENT) == "The receiver did not answer within 0.2 seconds."
        assert await sink.deliver(EVENT) is None


async def test_an_answer_that_drips_gets_no_more_time() -> None:
    drip = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n")
        while not drip.is_set() and not writer.is_closing():
            writer.write(b"x")
            try:
                async with asyncio.timeout(0.05):
                    await drip.wait()
            except TimeoutError:
                pass
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        async with webhook(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", seconds=0.4) as sink:
            assert await sink.deliver(EVENT) == "The receiver did not answer within 0.4 seconds."
    finally:
        drip.set()
        server.close()


async def test_an_endless_answer_is_not_read_to_its_end() -> None:
    huge = b"HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n" + bytes(200_000)
    async with receiving(huge) as receiver, webhook(receiver.url) as sink:
        assert await sink.deliver(EVENT) is None
        assert await sink.deliver(EVENT) is None
        assert receiver.connections == 2


async def test_a_broken_answer_is_a_failure_of_this_event() -> None:
    async with receiving(BREAK) as receiver, webhook(receiver.url) as sink:
        problem = await sink.deliver(EVENT)
        assert problem is not None
        assert problem.startswith("The receiver broke the connection off")


async def test_the_proxy_of_the_environment_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    async with receiving() as receiver, webhook(receiver.url) as sink:
        assert await sink.deliver(EVENT) is None


@pytest.mark.parametrize(
    "text",
    ["", "\n\n", "secret", "whsec_", "whsec_!!!!", "whsec_" + base64.b64encode(b"x" * 23).decode(), "whsec_\u00e9"],
)
def test_a_weak_or_malformed_secret_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="whsec_ and"):
        parse_secrets(text)
