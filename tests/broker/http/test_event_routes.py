"""Domain events at the operator API: listed, followed, and looked after when they could not be delivered."""

import json
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import httpx2
import pytest

from broker.http import events as routes
from broker.http.server import HttpServer
from provisioner.events import StoredEvent
from provisioner.model import Role
from provisioner.outbox import Outbox
from tests.broker.http.world import NOW, PATH, Operator, World

EVENTS = "/v2/events"
CREATED, UPDATED, APPLIED, FAILED = (
    f"Device.ProvisioningRecipe{word}" for word in ("Created", "Updated", "Applied", "Failed")
)


def types(page: dict[str, Any]) -> list[str]:
    return [one["event"]["type"] for one in page["event"]]


async def story(world: World, admin: Operator) -> dict[str, Any]:
    """A request that is created, applied, and updated a second later."""
    created = await admin.create()
    await world.claim(created)
    await world.confirm(created)
    world.now += 1000
    await admin.ask(200, "POST", f"{PATH}/{created['id']}/disable")
    return created


async def test_events_are_listed_newest_first(world: World, admin: Operator) -> None:
    created = await story(world, admin)
    page = await admin.get(EVENTS)
    assert types(page) == [UPDATED, APPLIED, CREATED]
    assert page["limitExceeded"] is False
    newest = page["event"][0]
    assert (newest["createdOn"], newest["requestId"], newest["accountId"]) == (
        NOW + 1000,
        created["id"],
        created["accountId"],
    )
    (token,) = (await admin.get("/v2/tokens"))["token"]
    assert newest["event"]["payload"]["originator"] == {"accountId": token["id"]}
    assert newest["event"]["payload"]["owner"]["parentCompanyUid"] is None


async def test_filters_combine(world: World, admin: Operator) -> None:
    first = await story(world, admin)
    second = await admin.create("dev-2", "globex")
    for filters, expected in (
        ({"types": f"{CREATED},{APPLIED}"}, [CREATED, APPLIED, CREATED]),
        ({"types": [CREATED, UPDATED], "requestId": first["id"]}, [UPDATED, CREATED]),
        ({"requestId": second["id"]}, [CREATED]),
        ({"accountId": second["accountId"]}, [CREATED]),
        ({"startDate": NOW + 1}, [CREATED, UPDATED]),
        ({"endDate": NOW}, [APPLIED, CREATED]),
        ({"startDate": NOW + 2000}, []),
        ({"limit": 1, "offset": 1}, [UPDATED]),
    ):
        assert types(await admin.get(EVENTS, **filters)) == expected
    assert (await admin.get(EVENTS, limit=3))["limitExceeded"] is True


async def test_who_polls_gets_what_came_behind_oldest_first(world: World, admin: Operator) -> None:
    await story(world, admin)
    first = (await admin.get(EVENTS))["event"][-1]["event"]["id"]
    page = await admin.get(EVENTS, after=first, limit=1)
    assert (types(page), page["limitExceeded"]) == ([APPLIED], True)
    page = await admin.get(EVENTS, after=page["event"][0]["event"]["id"])
    assert (types(page), page["limitExceeded"]) == ([UPDATED], False)
    assert types(await admin.get(EVENTS, after=page["event"][0]["event"]["id"])) == []


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({"after": "x"}, "invalid-event-id"),
        ({"types": "Device.Exploded"}, "invalid"),
        ({"requestId": "one"}, "invalid"),
        ({"limit": "0"}, "invalid"),
        ({"limit": "1001"}, "invalid"),
        ({"sinse": "1"}, "invalid"),
        ({"after": "0" * 65}, "invalid"),
    ],
)
async def test_a_wrong_filter_is_refused(admin: Operator, parameters: dict[str, str], code: str) -> None:
    await admin.refused(400, code, "GET", EVENTS, params=parameters)


async def test_an_event_that_never_was_is_no_place_to_go_on_from(world: World, admin: Operator) -> None:
    await admin.create()
    known = (await admin.get(EVENTS))["event"][0]["event"]["id"]
    other = known[:-1] + ("0" if known[-1] != "0" else "1")
    await admin.refused(404, "no-such-event", "GET", EVENTS, params={"after": other})
    await admin.refused(404, "no-such-event", "GET", EVENTS, params={"after": f"{99:032x}"})


async def test_an_account_sees_its_own_events_and_those_below(world: World, admin: Operator) -> None:
    for name in ("acme", "acme-labs", "globex"):
        await admin.create(f"dev-{name}", name)
    globex = (await admin.get(EVENTS))["event"][0]["event"]["id"]
    acme = await world.operator(Role.VIEWER, "acme")
    seen = {world.accounts[name].id for name in ("acme", "acme-labs")}
    assert {one["accountId"] for one in (await acme.get(EVENTS))["event"]} == seen
    assert (await acme.get(EVENTS, accountId=world.accounts["globex"].id))["event"] == []
    await acme.refused(404, "no-such-event", "GET", EVENTS, params={"after": globex})
    labs = (await acme.get(EVENTS, accountId=world.accounts["acme-labs"].id))["event"][0]["event"]
    assert labs["payload"]["owner"]["parentCompanyUid"] == world.accounts["acme"].uid


async def test_an_operator_of_an_account_is_named_with_it(world: World) -> None:
    acme = await world.operator(Role.PREPARER, "acme")
    await acme.create()
    originator = (await acme.get(EVENTS))["event"][0]["event"]["payload"]["originator"]
    assert originator["organizationUid"] == world.accounts["acme"].uid


async def test_what_an_originator_was_stays_when_its_token_is_gone(world: World, admin: Operator) -> None:
    acme = await world.operator(Role.PREPARER, "acme")
    await acme.create()
    before = (await admin.get(EVENTS))["event"][0]
    token = before["event"]["payload"]["originator"]["accountId"]
    await admin.ask(204, "DELETE", f"/v2/tokens/{token}")
    assert (await admin.get(EVENTS))["event"][0] == before


# -- the stream --------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def served(world: World) -> AsyncIterator[str]:
    """The same API on a real listener: streams are cut into pieces there as everywhere."""
    server = HttpServer(world.app)
    try:
        yield f"http://127.0.0.1:{await server.start('127.0.0.1', 0)}{EVENTS}/stream"
    finally:
        world.feed.close()
        await server.stop()


async def followed(
    url: str, token: str, last_id: str | None = None, **parameters: Any
) -> AsyncGenerator[tuple[str, dict[str, Any] | None]]:
    """(id, envelope) of each event, and (comment, None) of each line that is none."""
    headers = {"authorization": f"Bearer {token}"} | ({"last-event-id": last_id} if last_id else {})
    async with (
        httpx2.AsyncClient(trust_env=False, timeout=20, verify=False) as http,
        http.stream("GET", url, headers=headers, params=parameters) as answer,
    ):
        assert answer.status_code == 200, await answer.aread()
        assert answer.headers["content-type"].startswith("text/event-stream")
        identifier = ""
        async for line in answer.aiter_lines():
            if line.startswith("id: "):
                identifier = line.removeprefix("id: ")
            elif line.startswith("data: "):
                yield identifier, json.loads(line.removeprefix("data: "))
            elif line:
                yield line, None


async def test_a_stream_tells_what_happens_from_now_on(world: World, admin: Operator) -> None:
    created = await admin.create("dev-early")
    async with served(world) as url, aclosing(followed(url, await world.token())) as stream:
        assert await anext(stream) == ("retry: 2000", None)
        await admin.create("dev-late")
        identifier, event = await anext(stream)
        assert event is not None
        assert (identifier, event["type"]) == (event["id"], CREATED)
        assert event == (await admin.get(EVENTS))["event"][0]["event"]
        await world.claim(created)
        await world.confirm(created)
        assert (await anext(stream))[1] == (await admin.get(EVENTS))["event"][0]["event"]


async def test_a_stream_goes_on_where_it_broke_off(world: World, admin: Operator) -> None:
    token = await world.token()
    ids = []
    async with served(world) as url:
        async with aclosing(followed(url, token)) as stream:
            await anext(stream)
            await admin.create("dev-0")
            ids.append((await anext(stream))[0])
        for number in range(1, 120):
            await admin.create(f"dev-{number}")
        async with aclosing(followed(url, token, ids[0])) as stream:
            await anext(stream)
            ids += [(await anext(stream))[0] for _ in range(119)]
    listed = (await admin.get(EVENTS, limit=1000))["event"]
    assert ids == [one["event"]["id"] for one in reversed(listed)]


async def test_a_stream_shows_an_account_its_own_and_obeys_filters(world: World, admin: Operator) -> None:
    token = await world.token(Role.VIEWER, "acme")
    async with served(world) as url, aclosing(followed(url, token, types=UPDATED)) as stream:
        await anext(stream)
        for name in ("globex", "acme"):
            created = await admin.create(f"dev-{name}", name)
            await admin.ask(200, "POST", f"{PATH}/{created['id']}/disable")
        _, event = await anext(stream)
        assert event is not None
        assert (event["type"], event["payload"]["uid"]) == (UPDATED, f"{created['id']:032x}")


async def test_a_stream_ends_with_its_token(world: World, admin: Operator) -> None:
    token = await world.token(Role.VIEWER, "acme")
    viewer = next(one for one in (await admin.get("/v2/tokens"))["token"] if one.get("accountId"))
    async with served(world) as url, aclosing(followed(url, token)) as stream:
        await anext(stream)
        await admin.ask(204, "DELETE", f"/v2/tokens/{viewer['id']}")
        await admin.create()
        assert [one async for one in stream] == []


async def test_a_silent_stream_is_kept_alive(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "KEEP_ALIVE", 0.05)
    async with served(world) as url, aclosing(followed(url, await world.token())) as stream:
        assert [(await anext(stream))[0] for _ in range(3)] == ["retry: 2000", ": nothing new", ": nothing new"]


async def test_a_stop_ends_the_streams(world: World) -> None:
    async with served(world) as url, aclosing(followed(url, await world.token())) as stream:
        await anext(stream)
        world.feed.close()
        assert [one async for one in stream] == []
    assert world.feed.streams == 0


async def test_streams_are_counted(world: World, admin: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(routes, "MAX_STREAMS", 1)
    token = await world.token()
    async with served(world) as url:
        async with aclosing(followed(url, token)) as stream:
            await anext(stream)
            problem = await admin.refused(503, "unavailable", "GET", f"{EVENTS}/stream")
            assert problem["detail"] == "There are too many event streams already."
        await admin.create()  # the stream notices that nobody reads any more
        assert types(await admin.get(EVENTS)) == [CREATED]


async def test_a_stream_is_refused_before_it_begins(world: World, admin: Operator) -> None:
    await admin.refused(400, "invalid-event-id", "GET", f"{EVENTS}/stream", headers={"last-event-id": "x"})
    await admin.refused(404, "no-such-event", "GET", f"{EVENTS}/stream", headers={"last-event-id": "0" * 32})
    await world.visitor().refused(401, "unauthenticated", "GET", f"{EVENTS}/stream")


# -- dead letters ------------------------------------------------------------------------------------------------------


class Wall:
    """A sink that takes nothing, until it is told to."""

    name = "webhook"
    parallel = 1

    def __init__(self) -> None:
        self.taken: list[str] | None = None

    async def deliver(self, event: StoredEvent) -> str | None:
        if self.taken is None:
            return "The receiver answers 500."
        self.taken.append(event.id)
        return None


async def dead_letters(world: World, admin: Operator) -> tuple[Wall, Outbox]:
    """Two devices' first events are dead, of the first one another one waits behind it."""
    await world.log.open_sink("webhook")
    first = await admin.create("dev-1")
    await admin.create("dev-2", "globex")
    await admin.ask(200, "POST", f"{PATH}/{first['id']}/disable")
    wall = Wall()
    outbox = Outbox(world.log, wall, os.urandom, max_attempts=1)
    await outbox.step(world.now)
    return wall, outbox


async def test_dead_letters_are_listed_and_redriven(world: World, admin: Operator) -> None:
    wall, outbox = await dead_letters(world, admin)
    listed = (await admin.get(f"{EVENTS}/dead"))["dead"]
    assert [(one["sink"], one["attempts"], one["problem"], one["waiting"], one["deadOn"]) for one in listed] == [
        ("webhook", 1, "The receiver answers 500.", 1, NOW),
        ("webhook", 1, "The receiver answers 500.", 0, NOW),
    ]
    assert (await admin.get(f"{EVENTS}/dead", sink="mqtt"))["dead"] == []
    page = await admin.get(f"{EVENTS}/dead", limit=1)
    assert (len(page["dead"]), page["limitExceeded"]) == (1, True)
    assert (await admin.get(f"{EVENTS}/sinks"))["sink"] == [
        {"name": "webhook", "waiting": 1, "dead": 2, "problem": "The receiver answers 500."}
    ]
    wall.taken = []
    ids = [one["event"]["id"] for one in listed]
    assert await admin.ask(200, "POST", f"{EVENTS}/dead/redrive", {"ids": ids[:1]}) == {"count": 1}
    await outbox.step(world.now)
    assert wall.taken[0] == ids[0]
    assert len(wall.taken) == 2, "what waited behind it came after it"
    assert await admin.ask(200, "POST", f"{EVENTS}/dead/redrive") == {"count": 1}
    await outbox.step(world.now)
    assert wall.taken[2:] == ids[1:]
    assert (await admin.get(f"{EVENTS}/dead"))["dead"] == []


async def test_a_dead_letter_is_discarded(world: World, admin: Operator) -> None:
    wall, outbox = await dead_letters(world, admin)
    identifier = (await admin.get(f"{EVENTS}/dead"))["dead"][0]["event"]["id"]
    assert await admin.ask(200, "DELETE", f"{EVENTS}/dead/webhook/{identifier}") == {"count": 1}
    assert await admin.ask(200, "DELETE", f"{EVENTS}/dead/webhook/{identifier}") == {"count": 0}
    wall.taken = []
    await outbox.step(world.now)
    assert identifier not in wall.taken
    assert len(wall.taken) == 1


async def test_an_account_looks_after_its_own_dead_letters(world: World, admin: Operator) -> None:
    await dead_letters(world, admin)
    acme = await world.operator(Role.ADMIN, "acme")
    (own,) = (await acme.get(f"{EVENTS}/dead"))["dead"]
    assert own["waiting"] == 1
    assert (await acme.get(f"{EVENTS}/sinks"))["sink"] == []
    other = (await admin.get(f"{EVENTS}/dead"))["dead"][1]["event"]["id"]
    assert await acme.ask(200, "DELETE", f"{EVENTS}/dead/webhook/{other}") == {"count": 0}
    assert await acme.ask(200, "POST", f"{EVENTS}/dead/redrive", {"ids": [other]}) == {"count": 0}
    assert await acme.ask(200, "POST", f"{EVENTS}/dead/redrive", {}) == {"count": 1}


async def test_events_are_replayed(world: World, admin: Operator) -> None:
    await world.log.open_sink("webhook")
    created = await story(world, admin)
    wall = Wall()
    wall.taken = []
    outbox = Outbox(world.log, wall, os.urandom, max_attempts=1)
    await outbox.step(world.now)
    first = wall.taken[0]
    body = {"sink": "webhook", "after": first, "requestId": created["id"], "startDate": NOW, "endDate": NOW}
    assert await admin.ask(200, "POST", f"{EVENTS}/replay", body) == {"count": 1}
    await outbox.step(world.now)
    assert wall.taken[3:] == wall.taken[1:2]
    await admin.refused(404, "no-such-sink", "POST", f"{EVENTS}/replay", {"sink": "pigeon"})


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("dead/redrive", {"ids": []}),
        ("dead/redrive", {"ids": ["x" * 65]}),
        ("dead/redrive", {"sinks": "webhook"}),
        ("replay", {}),
        ("replay", {"sink": 1}),
        ("replay", {"sink": "webhook", "startDate": -1}),
    ],
)
async def test_a_wrong_order_is_refused(admin: Operator, path: str, body: dict[str, Any]) -> None:
    await admin.refused(400, "invalid", "POST", f"{EVENTS}/{path}", body)


async def test_only_an_admin_moves_events(world: World) -> None:
    for role in (Role.VIEWER, Role.PREPARER, Role.INSTALLER):
        operator = await world.operator(role)
        await operator.get(EVENTS)
        await operator.get(f"{EVENTS}/dead")
        for method, path, body in (
            ("POST", "dead/redrive", None),
            ("POST", "replay", {"sink": "webhook"}),
            ("DELETE", f"dead/webhook/{'0' * 32}", None),
        ):
            await operator.refused(403, "forbidden", method, f"{EVENTS}/{path}", body)
