"""The whole program and a receiver of its events: whatever either suffers, nothing is missing or out of order."""

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.broker.sinks.receiver import AWAY, HANG, NO, SECRET, Post, Receiver, receiving
from tests.e2e.program import ROOT, Program, Site, StartProgram

CREATED, APPLIED, UPDATED, FAILED = (
    f"Device.ProvisioningRecipe{word}" for word in ("Created", "Applied", "Updated", "Failed")
)


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    file = tmp_path / "webhook.secret"
    file.touch(0o600)
    file.write_text(SECRET + "\n")
    return file


def settings(receiver: Receiver, secret_file: Path, **more: str) -> dict[str, str]:
    return {
        "PROVISIONER_EVENTS__WEBHOOK_URL": receiver.url,
        "PROVISIONER_EVENTS__WEBHOOK_SECRET_FILE": str(secret_file),
    } | {f"PROVISIONER_EVENTS__{name}": value for name, value in more.items()}


async def cli(program: Program, *words: str) -> Any:
    """What `provisioner events … --json` prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "broker", "events", *words, "--json", "--data-dir", str(program.data)),
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    out, errors = await asyncio.wait_for(process.communicate(), 40)
    assert process.returncode == 0, errors.decode()
    return json.loads(out)


async def test_a_hand_over_is_told_signed_and_in_order(start_program: StartProgram, secret_file: Path) -> None:
    async with receiving() as receiver:
        program = start_program(settings(receiver, secret_file))
        async with await Site.at(program) as site:
            _, request, _ = await site.confirmed(serialNumber="SN-749771", brand="example-brand")
            posts = [await receiver.next() for _ in range(2)]
            assert [post.event["type"] for post in posts] == [CREATED, APPLIED]
            assert all(post.is_signed() for post in posts)
            assert abs(int(posts[0].headers["webhook-timestamp"]) - time.time()) < 60
            assert {post.event["payload"]["uid"] for post in posts} == {f"{request.id:032x}"}
            assert posts[1].event["payload"]["serialNumber"] == "SN-749771"
            listed = await site.operator.ask("GET", "/v2/events")
            assert [one["event"] for one in listed["event"]] == [post.event for post in reversed(posts)]
    program.secrets.add(SECRET.removeprefix("whsec_"))


async def test_a_kill_between_delivery_and_mark_repeats_the_event_under_its_id(
    start_program: StartProgram, secret_file: Path
) -> None:
    async with receiving(HANG) as receiver:
        program = start_program(settings(receiver, secret_file))
        async with await Site.at(program) as site:
            request = await site.request()
            first = await receiver.next()
            # It has arrived; the program cannot know it, and dies.
            program.kill()
            await asyncio.to_thread(program.start)
        again = await receiver.next()
        assert (again.headers["webhook-id"], again.body) == (first.headers["webhook-id"], first.body)
        async with await Site.at(program) as site:
            await site.operator.ask("POST", f"{request.path}/disable")
            assert (await receiver.next()).event["type"] == UPDATED
    assert receiver.posts.empty()


async def test_a_receiver_that_is_down_disturbs_no_claim_and_misses_nothing(
    start_program: StartProgram, secret_file: Path
) -> None:
    # Bound, so that nobody else gets the port, and not listening: whoever connects is refused.
    closed = socket.socket()
    closed.bind(("127.0.0.1", 0))
    program = start_program(settings(Receiver(closed.getsockname()[1]), secret_file))
    async with await Site.at(program) as site:
        requests = [(await site.confirmed())[1] for _ in range(4)]
        async with receiving(AWAY, NO, bound=closed) as receiver:
            posts = [await receiver.next() for _ in range(10)]
        told: dict[str, list[str]] = {}
        for post in posts:
            told.setdefault(post.event["payload"]["uid"], []).append(post.event["type"])
        for request in requests:
            assert list(dict.fromkeys(told[f"{request.id:032x}"])) == [CREATED, APPLIED]
        assert len({post.headers["webhook-id"] for post in posts}) == 8
        await _until_delivered(site)


async def _until_delivered(site: Site) -> None:
    limit = time.monotonic() + 20
    while (await site.operator.ask("GET", "/v2/events/sinks"))["sink"][0]["waiting"]:
        assert time.monotonic() < limit
        await asyncio.sleep(0.05)


async def test_a_stop_is_quick_with_a_receiver_that_hangs_and_a_stream_that_is_open(
    start_program: StartProgram, secret_file: Path
) -> None:
    async with receiving(HANG) as receiver:
        program = start_program(settings(receiver, secret_file, TIMEOUT="60"))
        async with await Site.at(program) as site, aclosing(_stream(program)) as stream:
            await anext(stream)
            await site.request()
            await receiver.next()
            assert json.loads((await anext(stream)).removeprefix("data: "))["type"] == CREATED
            began = time.monotonic()
            await asyncio.to_thread(program.stop)
            assert time.monotonic() - began < 12
            assert [one async for one in stream] == []


async def _stream(program: Program) -> AsyncGenerator[str]:
    headers = {"authorization": f"Bearer {program.token}"}
    async with (
        httpx2.AsyncClient(trust_env=False, timeout=20, verify=False) as http,
        http.stream("GET", f"{program.http}/v2/events/stream", headers=headers) as answer,
    ):
        async for line in answer.aiter_lines():
            if line.startswith(("retry", "data")):
                yield line


async def test_dead_letters_are_found_and_redriven_from_the_command_line(
    start_program: StartProgram, secret_file: Path
) -> None:
    async with receiving(NO) as receiver:
        program = start_program(settings(receiver, secret_file, MAX_ATTEMPTS="1"))
        async with await Site.at(program) as site:
            _, request, _ = await site.confirmed()
            refused: Post = await receiver.next()
            limit = time.monotonic() + 20
            while not (letters := await cli(program, "dead")):
                assert time.monotonic() < limit
            assert (letters[0]["event"], letters[0]["problem"], letters[0]["waiting"]) == (
                refused.event,
                "The receiver answers 500.",
                1,
            )
            assert await cli(program, "redrive", refused.event["id"]) == {"count": 1}
            posts = [await receiver.next() for _ in range(2)]
            assert [post.event["type"] for post in posts] == [CREATED, APPLIED]
            assert posts[0].body == refused.body

            assert await cli(program, "replay", "--sink", "webhook", "--request", str(request.id)) == {"count": 2}
            assert [(await receiver.next()).body for _ in range(2)] == [post.body for post in posts]
            assert await cli(program, "dead") == []
            (sink,) = await cli(program, "sinks")
            assert (sink["name"], sink["dead"]) == ("webhook", 0)

            listed = await cli(program, "list", "--type", "RecipeApplied")
            assert [one["event"] for one in listed] == [posts[1].event]
            tailed = await cli(program, "tail", "--after", posts[0].event["id"], "--count", "1")
            assert tailed == posts[1].event
        assert '"dead letter"' in "".join(program.errors)
