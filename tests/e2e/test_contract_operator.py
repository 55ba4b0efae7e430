"""The operator API: Everyware's fields under Everyware's names, optimistic locking, and who may do what."""

import time
from typing import Any

import pytest

from tests.e2e.program import FLOOR_PASSWORD, FLOOR_USER, Site, fresh_name

PATH = "/v2/provisionRequests"
JOB_STATUSES = {
    "CREATED", "STARTED", "RUNNING", "APPS_INSTALLING", "APPS_INSTALLED", "CONF_UPDATING", "CONF_UPDATED",
    "COMPLETED", "FAILED", "STOPPING", "STOPPED", "ABANDONED", "SKIPPED",
}  # fmt: skip


def in_ms(seconds: float) -> int:
    return int((time.time() + seconds) * 1000)


async def test_a_request_has_every_field_of_everyware(site: Site) -> None:
    starts, ends = in_ms(-60), in_ms(3600)
    request = await site.request(activatesOn=starts, expiresOn=ends, retryMaxAttempts=7, provisionSecureURL=False)
    now = await request.read()
    for key in (
        "id",
        "accountId",
        "createdOn",
        "createdBy",
        "modifiedOn",
        "modifiedBy",
        "activatesOn",
        "expiresOn",
        "provisionUserId",
        "optlock",
    ):
        assert isinstance(now[key], int), key
    assert (now["activatesOn"], now["expiresOn"], now["clientId"]) == (starts, ends, request.client_id)
    assert (now["status"], now["provisionSecureURL"], now["provisionedCredentialsTight"]) == (
        "ENABLED",
        False,
        "STRICT",
    )
    assert (now["accountId"], now["phase"], now["generation"]) == (site.program.accounts["north"], "PENDING", 0)
    job = now["provisionJob"]
    for key in ("id", "accountId", "createdOn", "createdBy", "retryMaxAttempts", "retryCount", "optlock"):
        assert isinstance(job[key], int), key
    assert (job["status"], job["retryMaxAttempts"], job["retryCount"]) == ("CREATED", 7, 0)
    for key in ("jobType", "displayName"):
        assert isinstance(job[key], str), key
    assert {"jobProperties", "startOn"} <= job.keys()
    assert 0 < now["id"] <= 2**53 - 1
    assert abs(now["createdOn"] - in_ms(0)) < 60_000


async def test_5_attempts_and_no_end_are_what_nobody_has_to_say(site: Site) -> None:
    now = await (await site.request()).read()
    assert now["provisionJob"]["retryMaxAttempts"] == 5
    assert now.get("expiresOn") is None


async def test_the_key_is_shown_on_create_and_not_later(site: Site) -> None:
    request = await site.request()
    assert request.created["activationKey"] == request.key
    for path in (request.path, f"{PATH}?clientIDs={request.client_id}"):
        answer = await site.operator.http.get(path)
        assert answer.status_code == 200
        assert request.key not in answer.text


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param({"clientId": "a/b"}, id="a client id outside the grammar"),
        pytest.param({"clientId": "a\n"}, id="a client id with a line feed"),
        pytest.param({"clientId": "a" * 129}, id="a client id of 129"),
        pytest.param({"clientId": ""}, id="an empty client id"),
        pytest.param({"clientId": 5}, id="a client id that is a number"),
        pytest.param({"accountId": "north"}, id="an account that is no number"),
        pytest.param({"provisionUserUsername": "a b"}, id="a user outside the grammar"),
        pytest.param({"retryMaxAttempts": 0}, id="no attempt at all"),
        pytest.param({"retryMaxAttempts": "many"}, id="attempts that are no number"),
        pytest.param({"activatesOn": in_ms(7200), "expiresOn": in_ms(3600)}, id="the end before the start"),
        pytest.param({"deviceCredentialsTight": "TIGHT"}, id="an unknown coupling"),
        pytest.param({"confirm": "never"}, id="an unknown confirmation"),
        pytest.param({"generateActivationKey": False}, id="no key"),
        pytest.param({"generateActivationKey": False, "activationKey": "k" * 15}, id="a short key"),
        pytest.param({"generateActivationKey": False, "activationKey": "a" * 32}, id="a key of one letter"),
        pytest.param(
            {"generateActivationKey": False, "activationKey": "with spaces in it, see, quite long"},
            id="a key with spaces",
        ),
    ],
)
async def test_a_form_with_a_mistake_is_refused_as_problem_details(site: Site, changed: dict[str, Any]) -> None:
    client_id = fresh_name()
    answer = await site.operator.http.post(PATH, json=await site.form(client_id) | changed)
    assert answer.status_code in {400, 409, 422}
    assert answer.headers["content-type"].startswith("application/problem+json")
    problem = answer.json()
    assert isinstance(problem["code"], str)
    assert problem["status"] == answer.status_code
    listed = await site.operator.ask("GET", f"{PATH}?clientIDs={client_id}")
    assert listed["provisionRequest"] == []


async def test_a_known_provision_user_with_another_password_is_a_conflict(site: Site) -> None:
    await site.request()
    form = await site.form(fresh_name()) | {"provisionUserPassword": FLOOR_PASSWORD + "x"}
    answer = await site.operator.http.post(PATH, json=form)
    assert (answer.status_code, FLOOR_PASSWORD in answer.text) == (409, False)


async def test_a_new_provision_user_is_made(site: Site) -> None:
    user, password = fresh_name("line"), "another-line-password-9"
    site.program.secrets.add(password)
    request = await site.request(provisionUserUsername=user, provisionUserPassword=password)
    device = site.device(request.client_id, request.key)
    assert (await device.claim()).reason == "denied", "the request belongs to another provision user"
    device = site.device(request.client_id, request.key)
    device.user, device.password = user, password
    device.keys = type(device.keys).derive(request.key, user, request.client_id)
    assert (await device.claim()).generation == 1
    assert user != FLOOR_USER


async def test_an_update_needs_the_current_optlock(site: Site) -> None:
    request = await site.request()
    first = await request.read()
    missing = await site.operator.http.put(request.path, json={"expiresOn": in_ms(100)})
    assert missing.status_code == 400
    changed = await site.operator.ask("PUT", request.path, json={"optlock": first["optlock"], "expiresOn": in_ms(7200)})
    assert changed["optlock"] != first["optlock"]
    stale = await site.operator.http.put(request.path, json={"optlock": first["optlock"], "expiresOn": in_ms(100)})
    assert stale.status_code == 409
    assert str(changed["optlock"]) in stale.text
    now = await request.read()
    assert (now["expiresOn"], now["optlock"]) == (changed["expiresOn"], changed["optlock"])


async def test_a_verb_with_a_stale_optlock_is_a_conflict_and_without_one_is_not(site: Site) -> None:
    request = await site.request()
    old = (await request.read())["optlock"]
    await request.tell("disable")
    stale = await site.operator.http.post(f"{request.path}/enable", json={"optlock": old})
    assert stale.status_code == 409
    assert (await request.read())["status"] == "DISABLED"
    await request.tell("enable")
    assert (await request.read())["status"] == "ENABLED"


async def test_the_list_is_filtered_and_paged(site: Site) -> None:
    requests = [await site.request() for _ in range(3)]
    await requests[0].tell("stop")
    await requests[0].until("STOPPED")
    for request in requests:
        found = await site.operator.ask("GET", PATH, params={"clientIDs": request.client_id})
        assert found["limitExceeded"] is False
        assert [item["id"] for item in found["provisionRequest"]] == [request.id]
    both = await site.operator.ask("GET", PATH, params={"clientIDs": requests[0].client_id, "statuses": "CREATED"})
    assert both["provisionRequest"] == []
    both = await site.operator.ask("GET", PATH, params={"clientIDs": requests[0].client_id, "statuses": "STOPPED"})
    assert len(both["provisionRequest"]) == 1
    page = await site.operator.ask("GET", PATH, params={"limit": 2})
    assert (page["limitExceeded"], len(page["provisionRequest"])) == (True, 2)
    rest = await site.operator.ask("GET", PATH, params={"limit": 2, "offset": 1})
    assert rest["provisionRequest"][0]["id"] == page["provisionRequest"][1]["id"]
    other = await site.operator.ask(
        "GET", PATH, params={"accountId": await site.account("south"), "clientIDs": requests[1].client_id}
    )
    assert other["provisionRequest"] == []
    everything = await site.operator.ask("GET", PATH, params={"limit": 50})
    assert {item["provisionJob"]["status"] for item in everything["provisionRequest"]} <= JOB_STATUSES


async def test_what_is_live_cannot_be_deleted(site: Site) -> None:
    device, request = await site.unit(confirm="ack")
    await device.provision()
    assert (await site.operator.http.delete(request.path)).status_code == 409
    await device.ack("stored", 1)
    assert (await site.operator.http.delete(request.path)).status_code == 409
    await request.tell("revoke")
    await request.until("STOPPED")
    await site.operator.ask("DELETE", request.path)
    assert (await site.operator.http.get(request.path)).status_code == 404


async def test_a_request_before_its_first_claim_can_be_deleted_and_is_denied_afterwards(site: Site) -> None:
    device, request = await site.unit()
    await site.operator.ask("DELETE", request.path)
    assert (await device.claim()).reason == "denied"


async def test_verbs_that_make_no_sense_are_conflicts(site: Site) -> None:
    request = await site.request()
    for verb in ("revoke", "rotate"):
        assert (await site.operator.http.post(f"{request.path}/{verb}")).status_code == 409
    assert await request.phase() == "PENDING"


async def test_nothing_is_answered_without_a_token(site: Site) -> None:
    request = await site.request()
    asks = [
        ("GET", PATH), ("POST", PATH), ("GET", request.path), ("PUT", request.path), ("DELETE", request.path),
        ("POST", "/v2/accounts"), ("POST", f"{request.path}/revoke"), ("POST", f"{request.path}/stop"),
    ]  # fmt: skip
    for headers in ({"Authorization": ""}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic YTpi"}):
        for method, path in asks:
            answer = await site.operator.http.request(
                method, path, headers=headers, json={} if method != "GET" else None
            )
            assert answer.status_code == 401, f"{method} {path} {headers}"
            assert request.client_id not in answer.text
    assert await request.phase() == "PENDING"


async def test_health_needs_no_token(site: Site) -> None:
    for path in ("/healthz", "/readyz"):
        assert (await site.operator.http.get(path, headers={"Authorization": ""})).status_code == 200


async def test_what_does_not_exist_is_404(site: Site) -> None:
    for method, path in (
        ("GET", f"{PATH}/1"),
        ("DELETE", f"{PATH}/1"),
        ("POST", f"{PATH}/1/stop"),
    ):
        answer = await site.operator.http.request(method, path)
        assert answer.status_code == 404, f"{method} {path}"
        assert answer.headers["content-type"].startswith("application/problem+json")


async def test_the_api_describes_itself(site: Site) -> None:
    described = await site.operator.ask("GET", "/openapi.json")
    assert PATH in described["paths"]
