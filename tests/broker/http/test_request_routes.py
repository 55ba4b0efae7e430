"""Provision requests over the API: Everyware's words, one optlock, filters that combine, verbs."""

import json
from typing import Any

import pytest

from broker.http.bodies import MAX_NUMBER, MAX_TIME
from provisioner.livesessions import after_revoke, after_rotate
from provisioner.model import JobStatus, Result
from tests.broker.http.world import NOW, PATH, ROOT, Operator, World

HOUR = 3_600_000

EVERYWARE = {
    "id", "accountId", "createdOn", "createdBy", "modifiedOn", "modifiedBy", "activatesOn", "expiresOn", "status",
    "clientId", "activationKey", "provisionUserId", "provisionJob", "optlock", "provisionSecureURL",
    "provisionedCredentialsTight",
}  # fmt: skip
EVERYWARE_JOB = {
    "status", "id", "accountId", "jobType", "displayName", "jobProperties", "createdOn", "createdBy", "startOn",
    "retryMaxAttempts", "retryCount", "optlock",
}  # fmt: skip


async def test_a_request_is_told_in_everywares_words(admin: Operator, world: World) -> None:
    created = await admin.create(activatesOn=NOW - HOUR, expiresOn=NOW + HOUR, retryMaxAttempts=7)
    assert created.keys() >= EVERYWARE
    assert created["provisionJob"].keys() == EVERYWARE_JOB
    assert created["accountId"] == world.accounts["acme"].id
    assert (created["activatesOn"], created["expiresOn"], created["createdOn"]) == (NOW - HOUR, NOW + HOUR, NOW)
    assert (created["status"], created["phase"], created["generation"], created["optlock"]) == (
        "ENABLED",
        "PENDING",
        0,
        1,
    )
    job = created["provisionJob"]
    assert (job["status"], job["jobType"], job["retryMaxAttempts"], job["retryCount"]) == (
        "CREATED",
        "device_provision_v3",
        7,
        0,
    )
    assert json.loads(job["jobProperties"]) == {"generation": 0}


async def test_what_is_absent_is_left_out(admin: Operator) -> None:
    created = await admin.create()
    assert None not in created.values()
    assert not created.keys() & {"activatesOn", "expiresOn", "serialNumber", "unsuccessfulRegisterAttemptStatus"}


async def test_every_field_of_the_creator_arrives(admin: Operator) -> None:
    fields: dict[str, Any] = {
        "provisionSecureURL": True,
        "confirm": "ack",
        "confirmTime": 120,
        "configuration": {"a": {"b": [1, None, "ü"]}},
        "forget": True,
        "reuseKey": False,
        "serialNumber": "S-1",
        "macAddress": "00:11:22:33:44:55",
        "vendor": "Acme",
        "brand": "Roadrunner",
        "model": "R2",
        "deviceName": "The one at the door",
        "status": "DISABLED",
    }
    created = await admin.create(**fields, deviceCredentialsTight="LOOSE")
    assert {name: created[name] for name in fields} == fields
    assert created["provisionedCredentialsTight"] == "LOOSE"
    assert created["provisionUserUsername"] == "factory"


async def test_the_answer_to_a_create_says_where_it_is(admin: Operator) -> None:
    answer = await admin.http.post(PATH, json=admin.form())
    assert answer.headers["location"] == f"{PATH}/{answer.json()['id']}"
    assert (await admin.get(answer.headers["location"]))["clientId"] == "dev-1"


async def test_the_key_is_shown_once(admin: Operator) -> None:
    created = await admin.create()
    assert len(created["activationKey"]) == 32
    assert "activationKey" not in await admin.get(f"{PATH}/{created['id']}")
    assert created["activationKey"] not in json.dumps(await admin.get(PATH))


async def test_a_key_may_be_given_instead(admin: Operator) -> None:
    given = "kQ7-mR2_xW9zLp4TnB8vYc3H"
    created = await admin.create(activationKey=given, generateActivationKey=False)
    assert created["activationKey"] == given
    assert await admin.get(f"{PATH}/{created['id']}/activationKey") == {"activationKey": given}


async def test_a_provision_user_is_made_with_the_password_given(admin: Operator) -> None:
    await admin.create(provisionUserUsername="line-3", provisionUserPassword="over-the-line")
    assert "line-3" in [user["username"] for user in (await admin.get("/v2/users"))["user"]]
    again = admin.form("dev-2", provisionUserUsername="line-3", provisionUserPassword="something else")
    problem = await admin.refused(409, "wrong-user-password", "POST", PATH, again)
    assert problem["field"] == "provisionUserPassword"
    assert "something else" not in json.dumps(problem)
    await admin.create("dev-2", provisionUserUsername="line-3", provisionUserPassword="over-the-line")


@pytest.mark.parametrize(
    ("status", "code", "fields"),
    [
        (409, "duplicate-client-id", {}),
        (409, "duplicate-unit", {"clientId": "dev-2", "serialNumber": "S-1"}),
        (409, "quota-exceeded", {"clientId": "dev-2", "account": "full"}),
        (400, "weak-activation-key", {"clientId": "dev-2", "activationKey": "a" * 30}),
        (400, "invalid-attachments", {"clientId": "dev-2", "provisionAttachments": [{"type": "BUNDLE"}]}),
        (400, "invalid-window", {"clientId": "dev-2", "activatesOn": 2, "expiresOn": 1}),
    ],
)
async def test_a_request_that_is_refused_leaves_no_user_behind(
    admin: Operator, status: int, code: str, fields: dict[str, Any]
) -> None:
    full = await admin.ask(201, "POST", "/v2/accounts", {"name": "full", "kind": "TARGET", "quota": 0})
    await admin.create("dev-1", serialNumber="S-1")
    body = admin.form("dev-1") | {"provisionUserUsername": "fresh", "provisionUserPassword": "over-the-line"} | fields
    if body.pop("account", None):
        body["accountId"] = full["id"]
    await admin.refused(status, code, "POST", PATH, body)
    assert [one["username"] for one in (await admin.get("/v2/users"))["user"]] == ["factory"]


@pytest.mark.parametrize(
    ("changed", "code", "field"),
    [
        ({"clientId": "a/b"}, "invalid-identifier", "clientId"),
        ({"clientId": ""}, "invalid", "clientId"),
        ({"clientId": 5}, "invalid", "clientId"),
        ({"clientId": None}, "no-identity", "clientId"),
        ({"provisionUserUsername": "nobody"}, "unknown-user", "provisionUserUsername"),
        ({"provisionUserUsername": "a b"}, "invalid-identifier", "provisionUserUsername"),
        ({"retryMaxAttempts": 0}, "invalid-attempts", "retryMaxAttempts"),
        ({"retryMaxAttempts": True}, "invalid", "retryMaxAttempts"),
        ({"retryMaxAttempts": "5"}, "invalid", "retryMaxAttempts"),
        ({"retryMaxAttempts": 5.0}, "invalid", "retryMaxAttempts"),
        ({"activatesOn": NOW, "expiresOn": NOW}, "invalid-window", "expiresOn"),
        ({"expiresOn": -1}, "invalid", "expiresOn"),
        ({"expiresOn": MAX_TIME + 1}, "invalid", "expiresOn"),
        ({"expiresOn": "tomorrow"}, "invalid", "expiresOn"),
        ({"deviceCredentialsTight": "TIGHT"}, "invalid", "deviceCredentialsTight"),
        ({"confirm": "login"}, "logins-not-seen", "confirm"),
        ({"confirm": "never"}, "invalid", "confirm"),
        ({"confirmTime": 0}, "invalid-confirm-time", "confirmTime"),
        ({"generateActivationKey": False}, "no-activation-key", "generateActivationKey"),
        ({"activationKey": "short"}, "invalid-activation-key", "activationKey"),
        ({"activationKey": "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"}, "weak-activation-key", "activationKey"),
        ({"configuration": []}, "invalid", "configuration"),
        ({"configuration": {"a": "x" * 9000}}, "configuration-too-large", "configuration"),
        ({"macAddress": "00:11"}, "invalid-mac-address", "macAddress"),
        ({"serialNumber": "x" * 256}, "invalid", "serialNumber"),
        ({"provisionAttachment": []}, "invalid", "provisionAttachment"),
        ({"optlock": 1}, "invalid", "optlock"),
    ],
)
async def test_a_mistake_in_a_creator_is_named(admin: Operator, changed: Any, code: str, field: str) -> None:
    problem = await admin.refused(400, code, "POST", PATH, admin.form(**changed))
    assert problem["field"] == field
    assert (await admin.get(PATH))["provisionRequest"] == []


async def test_all_mistakes_of_shape_are_named_at_once(admin: Operator) -> None:
    problem = await admin.refused(400, "invalid", "POST", PATH, {"clientId": 1, "expires": 2})
    assert [error["field"] for error in problem["errors"]] == [
        "accountId",
        "clientId",
        "expires",
    ]
    assert problem["errors"][0]["detail"] == "`accountId` is required."
    assert problem["errors"][2]["detail"] == "`expires` is no field of this call; leave it out."


async def test_a_request_for_a_provision_account_is_refused(admin: Operator) -> None:
    await admin.refused(400, "not-a-target-account", "POST", PATH, admin.form(account="floor"))


async def test_a_client_id_has_one_open_request(admin: Operator) -> None:
    first = await admin.create()
    await admin.refused(409, "duplicate-client-id", "POST", PATH, admin.form())
    await admin.refused(409, "client-id-taken", "POST", PATH, admin.form(account="globex"))
    second = await admin.create(overwriteIfDuplicate=True)
    assert (await admin.get(f"{PATH}/{first['id']}"))["provisionJob"]["status"] == "SKIPPED"
    assert (await admin.get(f"{PATH}/{second['id']}"))["phase"] == "PENDING"


async def test_a_quota_is_kept(admin: Operator) -> None:
    account = await admin.ask(201, "POST", "/v2/accounts", {"name": "small", "kind": "TARGET", "quota": 1})
    await admin.create(accountId=account["id"])
    form = admin.form("dev-2", accountId=account["id"])
    await admin.refused(409, "quota-exceeded", "POST", PATH, form)


async def test_put_changes_what_may_be_changed(admin: Operator) -> None:
    created = await admin.create(expiresOn=NOW + HOUR, serialNumber="S-1", vendor="Acme")
    path = f"{PATH}/{created['id']}"
    changes = {
        "status": "DISABLED",
        "activatesOn": NOW + 1,
        "provisionSecureURL": True,
        "provisionedCredentialsTight": "LOOSE",
        "confirm": "ack",
        "confirmTime": 60,
        "configuration": {"x": 1},
        "macAddress": "001122334455",
        "deviceName": "door",
        "forget": True,
    }
    body = changes | {"optlock": 1, "retryMaxAttempts": 9, "expiresOn": None, "vendor": None}
    changed = await admin.ask(200, "PUT", path, body)
    assert {name: changed[name] for name in changes} == changes
    assert (changed["optlock"], changed["provisionJob"]["retryMaxAttempts"], changed["serialNumber"]) == (2, 9, "S-1")
    assert not changed.keys() & {"expiresOn", "vendor"}
    assert await admin.get(path) == changed


async def test_an_entity_may_be_put_back_as_it_came(admin: Operator) -> None:
    created = await admin.create(expiresOn=NOW + HOUR, serialNumber="S-1", configuration={"x": None})
    path = f"{PATH}/{created['id']}"
    entity = await admin.get(path)
    entity["provisionJob"]["retryMaxAttempts"] = 3
    changed = await admin.ask(200, "PUT", path, entity)
    assert changed["provisionJob"]["retryMaxAttempts"] == 3
    volatile = {"optlock", "modifiedOn", "modifiedBy", "provisionJob"}
    assert {k: v for k, v in changed.items() if k not in volatile} == {
        k: v for k, v in entity.items() if k not in volatile
    }


async def test_a_stale_optlock_is_shown_what_is_there(admin: Operator) -> None:
    created = await admin.create()
    path = f"{PATH}/{created['id']}"
    await admin.ask(200, "PUT", path, {"optlock": 1, "deviceName": "mine"})
    problem = await admin.refused(
        409, "stale-optlock", "PUT", path, {"optlock": 1, "deviceName": "yours", "clientId": "x"}
    )
    assert problem["current"] == await admin.get(path)
    assert problem["current"]["deviceName"] == "mine"


async def test_a_missing_optlock_is_asked_for(admin: Operator) -> None:
    path = f"{PATH}/{(await admin.create())['id']}"
    problem = await admin.refused(400, "invalid", "PUT", path, {"deviceName": "x"})
    assert (problem["field"], problem["detail"]) == ("optlock", "`optlock` is required.")


@pytest.mark.parametrize(
    ("changed", "code", "field"),
    [
        ({"clientId": "other"}, "read-only", "clientId"),
        ({"accountId": 5}, "read-only", "accountId"),
        ({"id": 5}, "read-only", "id"),
        ({"provisionUserUsername": None}, "read-only", "provisionUserUsername"),
        ({"reuseKey": False}, "read-only", "reuseKey"),
        ({"activationKey": "x"}, "invalid", "activationKey"),
        ({"status": None}, "invalid", "status"),
        ({"forget": None}, "invalid", "forget"),
        ({"optlock": "1"}, "invalid", "optlock"),
        ({"expiresOn": 1, "activatesOn": 2}, "invalid-window", "expiresOn"),
        ({"confirmTime": 86_401}, "invalid-confirm-time", "confirmTime"),
        ({"confirm": "login"}, "logins-not-seen", "confirm"),
        ({"provisionedCredentialsTight": "INHERITED"}, "invalid", "provisionedCredentialsTight"),
        ({"provisionJob": {"retryMaxAttempts": 0}}, "invalid-attempts", "retryMaxAttempts"),
        ({"provisionJob": {"retryMaxAttempts": "x"}}, "invalid", "provisionJob.retryMaxAttempts"),
        ({"provisionJob": None}, "invalid", "provisionJob"),
    ],
)
async def test_a_mistake_in_a_change_is_named(admin: Operator, changed: Any, code: str, field: str) -> None:
    created = await admin.create()
    path = f"{PATH}/{created['id']}"
    problem = await admin.refused(400, code, "PUT", path, {"optlock": 1} | changed)
    assert problem["field"] == field
    assert (await admin.get(path))["optlock"] == 1


async def listed(operator: Operator, **filters: Any) -> list[str]:
    return [one["clientId"] for one in (await operator.get(PATH, **filters))["provisionRequest"]]


async def test_the_list_is_newest_first_and_paged(admin: Operator) -> None:
    for number in range(5):
        await admin.create(f"dev-{number}")
    page = await admin.get(PATH, limit=2, offset=1)
    assert [one["clientId"] for one in page["provisionRequest"]] == ["dev-3", "dev-2"]
    assert page["limitExceeded"] is True
    assert (await admin.get(PATH, limit=5))["limitExceeded"] is False
    assert (await admin.get(PATH, limit=2, offset=3))["limitExceeded"] is False
    assert await listed(admin, offset=MAX_NUMBER) == []


async def test_filters_combine(admin: Operator, world: World) -> None:
    await admin.create("old", expiresOn=NOW - HOUR)
    await admin.create("now", activatesOn=NOW - HOUR, expiresOn=NOW + HOUR)
    await admin.create("later", activatesOn=NOW + HOUR)
    await admin.create("theirs", "globex")
    gone = await admin.create("gone")
    await admin.ask(200, "POST", f"{PATH}/{gone['id']}/stop")
    assert await listed(admin, clientIDs="now,old") == ["now", "old"]
    assert await listed(admin, clientIDs=["now", "later,gone"]) == ["gone", "later", "now"]
    assert await listed(admin, statuses="STOPPED") == ["gone"]
    assert await listed(admin, statuses=["STOPPED,CREATED"], clientIDs="gone,now") == ["gone", "now"]
    assert await listed(admin, accountId=world.accounts["globex"].id) == ["theirs"]
    assert await listed(admin, startDate=NOW, endDate=NOW, accountId=world.accounts["acme"].id, statuses="CREATED") == [
        "now"
    ]
    assert await listed(admin, startDate=NOW + 2 * HOUR, clientIDs="old,now,later") == ["later"]
    assert await listed(admin, endDate=NOW - 2 * HOUR, clientIDs="old,now,later") == ["old"]
    assert await listed(admin, clientIDs="now", accountId=world.accounts["globex"].id) == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=x", "limit"),
        ("offset=-1", "offset"),
        ("statuses=DONE", "statuses"),
        ("statuses=CREATED,DONE", "statuses"),
        ("startDate=yesterday", "startDate"),
        ("accountId=acme", "accountId"),
        ("clientId=dev-1", "clientId"),
        (f"endDate={MAX_NUMBER + 1}", "endDate"),
    ],
)
async def test_a_wrong_filter_is_refused_and_not_ignored(admin: Operator, query: str, field: str) -> None:
    assert (await admin.refused(400, "invalid", "GET", f"{PATH}?{query}"))["field"] == field


async def test_enable_and_disable_are_the_operators_switch(admin: Operator) -> None:
    path = f"{PATH}/{(await admin.create())['id']}"
    assert (await admin.ask(200, "POST", f"{path}/disable"))["status"] == "DISABLED"
    assert (await admin.ask(200, "POST", f"{path}/enable", {"optlock": 2}))["status"] == "ENABLED"


@pytest.mark.parametrize("verb", ["enable", "disable", "stop", "revoke", "rotate", "reopen"])
async def test_a_verb_compares_the_optlock_it_is_given(admin: Operator, verb: str) -> None:
    path = f"{PATH}/{(await admin.create())['id']}"
    problem = await admin.refused(409, "stale-optlock", "POST", f"{path}/{verb}", {"optlock": 7})
    assert problem["current"]["optlock"] == 1
    await admin.refused(400, "invalid", "POST", f"{path}/{verb}", {"optLock": 1})


async def test_the_life_of_a_request(admin: Operator, world: World) -> None:
    created = await admin.create()
    path = f"{PATH}/{created['id']}"
    await admin.refused(409, "nothing-live", "POST", f"{path}/revoke")
    await admin.refused(409, "not-confirmed", "POST", f"{path}/rotate")
    await world.claim(created)
    offered = await admin.get(path)
    assert (offered["phase"], offered["provisionJob"]["status"], offered["generation"]) == ("OFFERED", "RUNNING", 1)
    assert offered["provisionJob"]["startOn"] == NOW
    await admin.refused(409, "still-live", "DELETE", path)
    await world.report(created, Result.PROGRESS, JobStatus.APPS_INSTALLED)
    job = (await admin.get(path))["provisionJob"]
    assert job["status"] == "APPS_INSTALLED"
    assert json.loads(job["jobProperties"])["progress"] == "APPS_INSTALLED"
    await world.confirm(created)
    confirmed = await admin.get(path)
    assert (confirmed["phase"], confirmed["provisionJob"]["status"]) == ("CONFIRMED", "COMPLETED")
    properties = json.loads(confirmed["provisionJob"]["jobProperties"])
    assert properties == {"generation": 1, "provedGeneration": 1, "progress": "APPS_INSTALLED"}
    await admin.refused(409, "already-provisioned", "POST", f"{path}/stop")
    await admin.refused(409, "key-wiped", "GET", f"{path}/activationKey")
    rotating = await admin.ask(200, "POST", f"{path}/rotate")
    assert json.loads(rotating["provisionJob"]["jobProperties"])["rotateWanted"] is True
    revoked = await admin.ask(200, "POST", f"{path}/revoke")
    assert (revoked["phase"], revoked["provisionJob"]["status"]) == ("RETIRING", "STOPPING")
    await world.jobs.step(world.now)
    assert (await admin.get(path))["phase"] == "STOPPED"
    await admin.ask(204, "DELETE", path)
    await admin.refused(404, "no-such-request", "GET", path)


async def test_reopen_keeps_the_window_unless_told_otherwise(admin: Operator, world: World) -> None:
    created = await admin.create(activatesOn=NOW - HOUR, expiresOn=NOW + HOUR)
    path = f"{PATH}/{created['id']}"
    await admin.ask(200, "POST", f"{path}/stop")
    reopened = await admin.ask(200, "POST", f"{path}/reopen")
    assert (reopened["activatesOn"], reopened["expiresOn"], reopened["phase"]) == (NOW - HOUR, NOW + HOUR, "PENDING")
    assert "activationKey" not in reopened
    await admin.refused(409, "still-open", "POST", f"{path}/reopen")
    await admin.ask(200, "POST", f"{path}/stop")
    world.now += 2 * HOUR
    await admin.refused(409, "window-over", "POST", f"{path}/reopen")
    reopened = await admin.ask(200, "POST", f"{path}/reopen", {"expiresOn": None, "generateActivationKey": True})
    assert "expiresOn" not in reopened
    assert reopened["activationKey"] != created["activationKey"]
    assert (await admin.get(f"{path}/activationKey"))["activationKey"] == reopened["activationKey"]


async def test_the_last_refusal_is_shown(admin: Operator, world: World) -> None:
    created = await admin.create(serialNumber="S-1")
    with pytest.raises(Exception, match="denied"):
        await world.claim(created, device={"serialNumber": "S-2"})
    shown = await admin.get(f"{PATH}/{created['id']}")
    assert shown["unsuccessfulRegisterAttemptStatus"]["reason"] == "denied"
    assert "activationKey" not in await admin.ask(200, "PUT", f"{PATH}/{created['id']}", shown), (
        "what was shown may be put back"
    )


@pytest.mark.parametrize("number", ["0", "1", str(MAX_NUMBER)])
async def test_what_is_not_there_is_not_found(admin: Operator, number: str) -> None:
    path = f"{PATH}/{number}"
    for method, where in (
        ("GET", ""),
        ("DELETE", ""),
        ("GET", "/activationKey"),
        *(("POST", f"/{verb}") for verb in ("enable", "disable", "stop", "revoke", "rotate", "reopen")),
    ):
        await admin.refused(404, "no-such-request", method, path + where)
    await admin.refused(404, "no-such-request", "PUT", path, {"optlock": 1})


@pytest.mark.parametrize("number", ["x", "-1", str(MAX_NUMBER + 1), "9" * 300, "1.0", "%00"])
async def test_what_is_no_id_is_refused(admin: Operator, number: str) -> None:
    problem = await admin.ask(400, "GET", f"{PATH}/{number}")
    assert problem["code"] == "invalid"


@pytest.mark.parametrize("kicks", [True, False])
async def test_what_becomes_of_the_live_session_is_in_the_answer(admin: Operator, world: World, *, kicks: bool) -> None:
    world.shelf.kicks_live = kicks
    created = await admin.create()
    path = f"{PATH}/{created['id']}"
    await world.claim(created)
    await world.confirm(created)
    assert "liveSession" not in await admin.get(path)
    told = [(await admin.ask(200, "POST", f"{path}/{verb}"))["liveSession"] for verb in ("rotate", "revoke")]
    assert [one["closes"] for one in told] == [kicks, kicks]
    assert ["once the next is confirmed" in one["detail"] for one in told] == [kicks, False]
    assert ["shelf cannot close" in one["detail"] for one in told] == [not kicks, not kicks]


async def test_a_session_that_stays_is_told_with_what_ends_it(admin: Operator, world: World) -> None:
    request = await world.administration.get_request(ROOT, (await admin.create())["id"])
    world.shelf.kicks_live, world.shelf.asks_ledger = False, True
    for tell in (after_revoke, after_rotate):
        told = tell(request, world.shelf)
        assert not told.closes
        assert "lets it use no topic" in told.detail
        gone = tell(request, None)
        assert (gone.closes, "in the settings no more" in gone.detail) == (False, True)
