"""Every route that is served, with every role, with no token, and for a stranger: a token of another account.

A route that is not in the table fails the first test, so none comes without somebody having said who may ask.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest

from broker.http.server import HttpServer
from provisioner.model import Role
from tests.broker.http.world import PATH, World

EVERYBODY = frozenset(Role)
PREPARERS = frozenset((Role.ADMIN, Role.PREPARER))
SWITCHERS = frozenset((Role.ADMIN, Role.PREPARER, Role.INSTALLER))
ADMINS = frozenset((Role.ADMIN,))
NO_TOKEN: frozenset[Role] = frozenset()
"""Routes that answer anybody."""

HIDDEN, OWN, FORBIDDEN, ALIKE = "hidden", "own", "forbidden", "alike"
"""What a stranger is told: that there is no such thing; what is its own, and nothing of ours; that it is for tokens of
no account; or what everybody is told."""

MARK = "marked"
"""In the name of what a stranger must not see."""

LINE = {"name": "line-{n}", "provisionUserUsername": "factory"}
REQUEST = {"accountId": "#account", "clientId": "fresh-{n}", "provisionUserUsername": "factory"}
ROW = {
    "Email": "ann@example.com",
    "UserGroup": "",
    "CompanyName": "acme",
    "DeviceId": "00000000-0000-0000-0000-000000000000",
    "PolicyName": "line",
    "CurrentStorageGB": 1,
    "SendActivationEmail": False,
}
DPS = "/dps-service/v2.5/pvs/device"
MODEL = "/provision/manage/model"


@dataclass(frozen=True)
class Rule:
    """Who may, and what a stranger is told. `body`: JSON, or a form as a text; `{…}` are filled in from the stage."""

    allowed: frozenset[Role]
    stranger: str
    body: Any = None
    query: str = ""


REQUEST_PATH = f"{PATH}/{{request_id}}"
ROUTES: dict[tuple[str, str], Rule | tuple[Rule, ...]] = {
    ("GET", PATH): Rule(EVERYBODY, OWN),
    ("POST", PATH): Rule(PREPARERS, HIDDEN, REQUEST),
    ("GET", REQUEST_PATH): Rule(EVERYBODY, HIDDEN),
    ("PUT", REQUEST_PATH): Rule(PREPARERS, HIDDEN, {"optlock": 1}),
    ("DELETE", REQUEST_PATH): Rule(ADMINS, HIDDEN),
    ("POST", f"{REQUEST_PATH}/enable"): Rule(SWITCHERS, HIDDEN),
    ("POST", f"{REQUEST_PATH}/disable"): Rule(SWITCHERS, HIDDEN),
    ("POST", f"{REQUEST_PATH}/stop"): Rule(SWITCHERS, HIDDEN),
    ("POST", f"{REQUEST_PATH}/revoke"): Rule(ADMINS, HIDDEN),
    ("POST", f"{REQUEST_PATH}/rotate"): Rule(ADMINS, HIDDEN),
    ("POST", f"{REQUEST_PATH}/reopen"): Rule(PREPARERS, HIDDEN),
    ("GET", f"{REQUEST_PATH}/activationKey"): Rule(ADMINS, HIDDEN),
    ("GET", f"{REQUEST_PATH}/log"): Rule(EVERYBODY, HIDDEN),
    ("GET", f"{REQUEST_PATH}/why"): Rule(EVERYBODY, HIDDEN),
    ("GET", "/v2/why"): Rule(EVERYBODY, OWN, query="clientId=dev-1"),
    ("GET", "/v2/accounts"): Rule(EVERYBODY, OWN),
    ("POST", "/v2/accounts"): Rule(ADMINS, HIDDEN, {"name": "fresh-{n}", "kind": "TARGET", "parentId": "#account"}),
    ("GET", "/v2/accounts/{name_or_id}"): Rule(EVERYBODY, HIDDEN),
    ("POST", "/v2/accounts/{account_id}/move"): Rule(ADMINS, HIDDEN, {"deviceBroker": "shelf"}),
    ("GET", "/v2/users"): Rule(EVERYBODY, OWN),
    ("POST", "/v2/users"): Rule(ADMINS, HIDDEN, {"username": "fresh-{n}", "accountId": "#floor"}),
    ("POST", "/v2/users/{user_id}/password"): Rule(ADMINS, HIDDEN),
    ("GET", "/v2/tokens"): Rule(ADMINS, OWN),
    ("POST", "/v2/tokens"): Rule(ADMINS, HIDDEN, {"name": "fresh-{n}", "role": "viewer", "accountId": "#account"}),
    ("DELETE", "/v2/tokens/{token_id}"): Rule(ADMINS, HIDDEN),
    ("GET", "/v2/attachments"): Rule(EVERYBODY, OWN),
    ("POST", "/v2/attachments"): Rule(PREPARERS, HIDDEN, "a file", "name=fresh-{n}&accountId={account}"),
    ("DELETE", "/v2/attachments/{attachment_id}"): Rule(ADMINS, HIDDEN),
    ("GET", "/v2/attachments/download/{ticket}"): Rule(NO_TOKEN, ALIKE),  # the ticket is the permission
    ("GET", "/v2/tags"): Rule(EVERYBODY, OWN),
    ("POST", "/v2/tags"): Rule(ADMINS, HIDDEN, {"name": "fresh-{n}", "accountId": "#account"}),
    ("DELETE", "/v2/tags/{uid}"): Rule(ADMINS, HIDDEN),
    ("GET", "/v2/locations"): Rule(EVERYBODY, OWN),
    ("POST", "/v2/locations"): Rule(ADMINS, HIDDEN, {"name": "fresh-{n}", "accountId": "#account"}),
    ("DELETE", "/v2/locations/{uid}"): Rule(ADMINS, HIDDEN),
    ("GET", "/v2/policies"): Rule(EVERYBODY, OWN),
    ("POST", "/v2/policies"): Rule(ADMINS, HIDDEN, {**LINE, "accountId": "#account"}),
    ("GET", "/v2/policies/{uid}"): Rule(EVERYBODY, HIDDEN),
    ("PUT", "/v2/policies/{uid}"): Rule(ADMINS, HIDDEN, {**LINE, "optlock": 1}),
    ("DELETE", "/v2/policies/{uid}"): Rule(ADMINS, HIDDEN),
    ("GET", "/v2/policies/{uid}/versions/{version}"): Rule(EVERYBODY, HIDDEN),
    ("GET", "/v2/learning"): Rule(EVERYBODY, OWN),
    ("GET", "/v2/learning/locks"): Rule(ADMINS, OWN),
    ("POST", "/v2/learning/locks"): Rule(ADMINS, HIDDEN),
    ("POST", "/v2/learning/locks/{lock_id}/undo"): Rule(ADMINS, HIDDEN),
    ("GET", "/v2/events"): Rule(EVERYBODY, OWN),
    ("GET", "/v2/events/stream"): Rule(EVERYBODY, OWN),
    ("GET", "/v2/events/sinks"): Rule(EVERYBODY, ALIKE),
    ("GET", "/v2/events/dead"): Rule(EVERYBODY, OWN),
    ("POST", "/v2/events/dead/redrive"): Rule(ADMINS, OWN, {}),
    ("DELETE", "/v2/events/dead/{sink}/{event_id}"): Rule(ADMINS, OWN),
    ("POST", "/v2/events/replay"): Rule(ADMINS, HIDDEN, {"sink": "none"}),
    ("GET", "/v2/keys"): Rule(ADMINS, FORBIDDEN),
    ("POST", "/v2/keys/rotate"): Rule(ADMINS, FORBIDDEN),
    ("POST", "/v2/keys/{epoch}/retire"): Rule(ADMINS, FORBIDDEN),
    ("GET", "/v2/journal"): Rule(ADMINS, FORBIDDEN),
    ("GET", "/v2/drift"): Rule(ADMINS, FORBIDDEN),
    ("POST", "/v2/drift/apply"): Rule(ADMINS, FORBIDDEN),
    ("GET", "/v2/deviceBrokers"): Rule(ADMINS, FORBIDDEN),
    ("GET", "/v2/deviceBrokers/plan"): Rule(ADMINS, FORBIDDEN),
    ("POST", "/provision/activate"): Rule(NO_TOKEN, ALIKE, "vendor=acme&model=marked&sn=1"),
    ("GET", f"{MODEL}/"): Rule(EVERYBODY, HIDDEN),
    ("POST", f"{MODEL}/"): Rule(PREPARERS, HIDDEN, "model=fresh-{n}"),
    ("DELETE", f"{MODEL}/{{model}}"): Rule(ADMINS, HIDDEN),
    ("GET", f"{MODEL}/{{model}}/"): Rule(EVERYBODY, HIDDEN),
    ("POST", f"{MODEL}/{{model}}/"): (
        Rule(PREPARERS, HIDDEN, "sn=fresh-{n}"),
        Rule(PREPARERS, HIDDEN, "sn=fresh-{n}&delete=true"),
    ),
    ("DELETE", f"{MODEL}/{{model}}/"): Rule(PREPARERS, HIDDEN, '{"ranges": []}'),
    ("GET", f"{MODEL}/{{model}}/{{sn}}"): (Rule(EVERYBODY, HIDDEN), Rule(EVERYBODY, HIDDEN, query="show=log")),
    ("POST", f"{MODEL}/{{model}}/{{sn}}"): (
        Rule(SWITCHERS, HIDDEN, "enable=true"),
        Rule(SWITCHERS, HIDDEN, "disable=true"),
        Rule(ADMINS, HIDDEN, "enable=true&oldsn=marked-2"),
    ),
    ("DELETE", f"{MODEL}/{{model}}/{{sn}}"): Rule(PREPARERS, HIDDEN),
    ("POST", "/v2/provisionEntities"): Rule(PREPARERS, OWN, {"ProvisionElements": [ROW]}),
    ("GET", "/v2/imports"): Rule(EVERYBODY, OWN),
    ("POST", "/v2/imports"): Rule(PREPARERS, HIDDEN, {"name": "fresh-{n}", "accountId": "#account"}),
    ("POST", "/v2/imports/check"): Rule(PREPARERS, HIDDEN, {"rows": [], "accountId": "#account"}),
    ("POST", "/v2/imports/{import_id}/rows"): Rule(PREPARERS, HIDDEN, {"rows": []}),
    ("POST", "/v2/imports/{import_id}/undo"): Rule(ADMINS, HIDDEN),
    ("GET", "/v2/imports/{import_id}/devices"): Rule(EVERYBODY, HIDDEN),
    ("GET", "/v2/devices"): Rule(EVERYBODY, OWN),
    ("POST", DPS): (
        Rule(PREPARERS, HIDDEN, {"groupId": "{group}", "count": 1}, "action=create&orgId=acme"),
        Rule(SWITCHERS, HIDDEN, {"sn": "{registered}"}, "action=allocate&orgId=acme"),
        Rule(SWITCHERS, HIDDEN, {"sn": "{registered}"}, "action=allocate&orgId=globex"),
        Rule(EVERYBODY, OWN, {"expression": ""}, "action=search"),
        Rule(ADMINS, HIDDEN, {"sn": "{registered}"}, "action=reset&orgId=acme"),
        Rule(ADMINS, HIDDEN, {"sn": "{registered}", "replacementSn": "{spare}"}, "action=replace&orgId=acme"),
    ),
    ("GET", DPS): Rule(EVERYBODY, HIDDEN, query="action=get&orgId=acme&sn={registered}"),
    ("POST", "/v2/dps/masterDataGroups"): Rule(ADMINS, HIDDEN, {"accountId": "#account", "name": "fresh-{n}"}),
    ("GET", "/v2/dps/groups"): Rule(EVERYBODY, OWN),
    ("POST", "/v2/dps/groups"): Rule(
        ADMINS,
        HIDDEN,
        {
            "accountId": "#account",
            "name": "fresh-{n}",
            "policyUid": "{policy}",
            "productKey": "p",
            "regionId": "r",
        },
    ),
    ("DELETE", "/v2/dps/groups/{group_id}"): Rule(ADMINS, HIDDEN),
    ("GET", "/healthz"): Rule(NO_TOKEN, ALIKE),
    ("GET", "/readyz"): Rule(NO_TOKEN, ALIKE),
    ("GET", "/metrics"): Rule(EVERYBODY, ALIKE),
}
CALLS = [
    (method, path, one)
    for (method, path), rules in ROUTES.items()
    for one in (rules if isinstance(rules, tuple) else (rules,))
]


@dataclass
class Stage:
    """A world in which `acme` has one of everything; what others must not see of it is called `MARK`."""

    world: World
    names: dict[str, str]
    count: int = 0

    @classmethod
    async def of(cls, world: World) -> "Stage":
        root, acme = await world.operator(), await world.operator(Role.ADMIN, "acme")
        world.shelf.sees_logins = world.shelf.asks_ledger = True
        made = await acme.create("dev-1", deviceName=MARK)
        user = await root.ask(201, "POST", "/v2/users", {"username": MARK})
        token = await acme.ask(201, "POST", "/v2/tokens", {"name": MARK, "role": "viewer"})
        kept = await acme.http.post("/v2/attachments", params={"name": MARK}, content=b"x", headers=OCTETS)
        tag = await acme.ask(201, "POST", "/v2/tags", {"name": MARK})
        place = await acme.ask(201, "POST", "/v2/locations", {"name": MARK})
        policy = await acme.ask(201, "POST", "/v2/policies", {"name": "line", "provisionUserUsername": "factory"})
        batch = await acme.ask(201, "POST", "/v2/imports", {"name": MARK})
        form = {"name": MARK, "policyUid": policy["uid"], "productKey": MARK, "regionId": MARK}
        group = await acme.ask(201, "POST", "/v2/dps/groups", {"accountId": world.accounts["acme"].id, **form})
        body = {"groupId": group["groupId"], "count": 2}
        devices = (await acme.http.post(f"{DPS}?action=create&orgId=acme", json=body)).json()["data"]
        for path, text in (("/", f"model={MARK}"), (f"/{MARK}/", f"sn[]={MARK}-2&sn[]={MARK}-3")):
            assert (await acme.http.post(f"{MODEL}{path}", content=text, headers=FORM)).status_code == 205
        assert (
            await acme.http.post(f"{MODEL}/{MARK}/{MARK}-2", content="enable=true", headers=FORM)
        ).status_code == 205
        (event, *_) = (await acme.get("/v2/events"))["event"]
        names = {
            "request_id": made["id"],
            "account": world.accounts["acme"].id,
            "account_id": world.accounts["acme"].id,
            "name_or_id": "acme",
            "floor": world.accounts["floor"].id,
            "user_id": user["id"],
            "token_id": token["id"],
            "attachment_id": kept.json()["id"],
            "ticket": "none",
            "policy": policy["uid"],
            "version": 1,
            "lock_id": 1,
            "sink": "none",
            "event_id": event["event"]["id"],
            "epoch": 1,
            "model": MARK,
            "sn": f"{MARK}-3",
            "import_id": batch["id"],
            "group": group["groupId"],
            "group_id": group["groupId"],
            "registered": devices[0],
            "spare": devices[1],
        }
        uids = {"tags": tag["uid"], "locations": place["uid"], "policies": policy["uid"]}
        return cls(world, {name: str(value) for name, value in (names | uids).items()})

    async def send(self, method: str, path: str, rule: Rule, token: str | None) -> tuple[int, str]:
        """Status and text of an answer; `n` is another number each time."""
        self.count += 1
        names = self.names | {"n": str(self.count), "uid": self.names.get(path.removeprefix("/v2/").split("/")[0], "")}
        url = path.format_map(names) + ("?" + rule.query.format_map(names) if rule.query else "")
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        if path.startswith(MODEL):
            headers["x-exosite-vendor"] = "acme"
        more: dict[str, Any] = {}
        if isinstance(rule.body, str):
            text = rule.body if rule.body.startswith("{") else rule.body.format_map(names)
            kind = OCTETS if path == "/v2/attachments" else JSON if rule.body.startswith("{") else FORM
            headers, more = headers | kind, {"content": text}
        elif rule.body is not None:
            more = {"json": filled(rule.body, names)}
        if path.endswith("/stream"):
            return await self._first_of(url, headers)
        answer = await self.world.visitor(headers).http.request(method, url, **more)
        return answer.status_code, answer.text

    async def _first_of(self, url: str, headers: dict[str, str]) -> tuple[int, str]:
        """The beginning of an answer that does not end."""
        server = HttpServer(self.world.app)
        port = await server.start("127.0.0.1", 0)
        try:
            async with (
                httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=60) as http,
                http.stream("GET", url, headers=headers) as answer,
            ):
                return answer.status_code, await anext(answer.aiter_text())
        finally:
            await server.stop()


OCTETS, JSON = ({"content-type": f"application/{kind}"} for kind in ("octet-stream", "json"))
FORM = {"content-type": "application/x-www-form-urlencoded"}


def filled(body: Any, names: Mapping[str, str]) -> Any:
    """`body` with its places filled in; `#name` is a number."""
    match body:
        case dict():
            return {name: filled(one, names) for name, one in body.items()}
        case list():
            return [filled(one, names) for one in body]
        case str():
            return int(names[body[1:]]) if body.startswith("#") else body.format_map(names)
        case _:
            return body


@pytest.fixture
async def stage(world: World) -> Stage:
    return await Stage.of(world)


async def test_every_route_that_is_served_is_in_the_table(world: World) -> None:
    served = (await world.visitor().get("/openapi.json"))["paths"]
    found = {(method.upper(), path) for path, operations in served.items() for method in operations}
    assert found == set(ROUTES)


@pytest.mark.parametrize(("method", "path", "rule"), CALLS)
async def test_a_route_answers_whom_it_should(stage: Stage, method: str, path: str, rule: Rule) -> None:
    for token in (None, "prov_" + "x" * 40):
        status, text = await stage.send(method, path, rule, token)
        assert (status == 401) == bool(rule.allowed), text
    for role in EVERYBODY - rule.allowed if rule.allowed else ():
        status, text = await stage.send(method, path, rule, await stage.world.token(role))
        assert status == 403, (role, text)
        assert f"the role {role} may not" in text.lower()
    if rule.stranger != ALIKE:
        status, text = await stage.send(method, path, rule, await stage.world.token(Role.ADMIN, "globex"))
        check_stranger(rule.stranger, status, text)
    for role in sorted(rule.allowed):
        status, text = await stage.send(method, path, rule, await stage.world.token(role))
        assert status not in (401, 403, 405, 415, 500), (role, text)
        assert status != 400 or "already" in text, (role, text)


def check_stranger(told: str, status: int, text: str) -> None:
    assert MARK not in text
    if told == FORBIDDEN:
        assert status == 403, text
        assert "no account" in text
    elif told == OWN:
        assert status < 400, text
    else:
        assert status in (400, 404, 409) or (status == 200 and '"data":null' in text), text
