"""Everyware's document, replayed: its example field by field, and the thirteen job statuses, each by a real flow."""

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from provisioner.errors import Rejected
from provisioner.model import JobStatus, Result
from tests.broker.http.world import NOW, PATH, Operator, World

HOUR = 3_600_000

EXAMPLE: dict[str, Any] = {
    "id": 12345,
    "accountId": 12345,
    "createdOn": 12345,
    "createdBy": 12345,
    "modifiedOn": 12345,
    "modifiedBy": 12345,
    "activatesOn": 12345,
    "expiresOn": 12345,
    "status": "DISABLED",
    "clientId": "...",
    "activationKey": "...",
    "provisionUserId": 12345,
    "provisionJob": {
        "status": "APPS_INSTALLED",
        "id": 12345,
        "accountId": 12345,
        "jobType": "device_provision_v3",
        "displayName": "...",
        "jobProperties": "...",
        "createdOn": 12345,
        "createdBy": 12345,
        "startOn": 12345,
        "retryMaxAttempts": 12345,
        "retryCount": 12345,
        "optlock": 12345,
    },
    "optlock": 12345,
    "provisionSecureURL": True,
    "provisionedCredentialsTight": "STRICT",
}
"""The document's example; 12345 and "..." stand for any number and any text."""


def check_like(example: Any, ours: Any, path: str = "") -> None:
    """`ours` has every field of the example, of its type; what the example spells out is the same."""
    if isinstance(example, dict):
        for name, value in example.items():
            assert name in ours, f"{path}{name} is missing"
            check_like(value, ours[name], f"{path}{name}.")
    elif example == 12345:
        assert isinstance(ours, int), f"{path} is no number: {ours!r}"
        assert not isinstance(ours, bool)
    elif example == "...":
        assert isinstance(ours, str), f"{path} is no text: {ours!r}"
        assert ours
    else:
        assert ours == example, path


async def test_the_documents_example_is_what_a_request_looks_like(admin: Operator, world: World) -> None:
    window: dict[str, Any] = {"activatesOn": NOW - HOUR, "expiresOn": NOW + HOUR}
    created = await admin.create(**window, provisionSecureURL=True, deviceCredentialsTight="STRICT")
    await world.claim(created)
    await world.report(created, Result.PROGRESS, JobStatus.APPS_INSTALLED)
    await admin.ask(200, "POST", f"{PATH}/{created['id']}/disable")
    shown = await admin.get(f"{PATH}/{created['id']}")
    revealed = await admin.get(f"{PATH}/{created['id']}/activationKey")
    check_like(EXAMPLE, shown | revealed)
    assert revealed["activationKey"] == created["activationKey"]
    assert shown["accountId"] == shown["provisionJob"]["accountId"] == world.accounts["acme"].id
    (listed,) = (await admin.get(PATH, statuses="APPS_INSTALLED"))["provisionRequest"]
    assert listed == shown


REQUIRED = {
    "id": int,
    "accountId": int,
    "createdBy": int,
    "modifiedBy": int,
    "provisionUserId": int,
    "optlock": int,
    "provisionSecureURL": bool,
}
"""What the document's table of properties calls required, and its type."""


async def test_what_the_document_requires_is_always_there(admin: Operator, world: World) -> None:
    for request in (await skipped(admin, world), await admin.create("dev-2")):
        shown = await admin.get(f"{PATH}/{request['id']}")
        assert {name: type(shown[name]) for name in REQUIRED} == REQUIRED
        assert shown["status"] in ("ENABLED", "DISABLED")
        assert shown["provisionedCredentialsTight"] in ("STRICT", "LOOSE")


@pytest.mark.parametrize("coupling", ["STRICT", "LOOSE", "INHERITED"])
@pytest.mark.parametrize("status", ["ENABLED", "DISABLED"])
@pytest.mark.parametrize("secure", [True, False])
async def test_every_word_of_the_creator_is_kept(admin: Operator, coupling: str, status: str, secure: bool) -> None:
    said: dict[str, Any] = {"status": status, "provisionSecureURL": secure}
    shown = await admin.get(f"{PATH}/{(await admin.create(**said, deviceCredentialsTight=coupling))['id']}")
    assert {name: shown[name] for name in said} == said
    assert shown["provisionedCredentialsTight"] == ("STRICT" if coupling == "INHERITED" else coupling)


async def test_the_entity_as_it_was_read_may_be_written_back(admin: Operator) -> None:
    created = await admin.create(tagUids=[], serialNumber="S-1")
    shown = await admin.get(f"{PATH}/{created['id']}")
    shown["expiresOn"] = NOW + HOUR
    changed = await admin.ask(200, "PUT", f"{PATH}/{created['id']}", shown)
    assert (changed["expiresOn"], changed["optlock"]) == (NOW + HOUR, shown["optlock"] + 1)
    conflict = await admin.refused(409, "stale-optlock", "PUT", f"{PATH}/{created['id']}", shown)
    assert conflict["current"] == changed


async def test_the_target_account_owns_what_logs_in_through_the_provision_account(
    admin: Operator, world: World
) -> None:
    created = await admin.create()
    (user,) = (one for one in (await admin.get("/v2/users"))["user"] if one["id"] == created["provisionUserId"])
    assert user["accountId"] == world.accounts["floor"].id
    assert created["accountId"] == world.accounts["acme"].id


Flow = Callable[[Operator, World], Awaitable[dict[str, Any]]]


async def created(admin: Operator, _: World) -> dict[str, Any]:
    return await admin.create(retryMaxAttempts=1, expiresOn=NOW + 2 * HOUR)


async def started(admin: Operator, world: World) -> dict[str, Any]:
    """The device broker is away, so what was minted is not there yet."""
    request = await created(admin, world)
    world.shelf.is_away = True
    with pytest.raises(Rejected, match="wait"):
        await world.claim(request)
    return request


async def running(admin: Operator, world: World) -> dict[str, Any]:
    request = await created(admin, world)
    await world.claim(request)
    return request


def reporting(status: JobStatus) -> Flow:
    async def flow(admin: Operator, world: World) -> dict[str, Any]:
        request = await running(admin, world)
        await world.report(request, Result.PROGRESS, status)
        return request

    return flow


async def completed(admin: Operator, world: World) -> dict[str, Any]:
    request = await running(admin, world)
    await world.confirm(request)
    return request


async def stopping(admin: Operator, world: World) -> dict[str, Any]:
    request = await running(admin, world)
    await admin.ask(200, "POST", f"{PATH}/{request['id']}/stop")
    return request


async def stopped(admin: Operator, world: World) -> dict[str, Any]:
    request = await stopping(admin, world)
    await world.run_jobs()
    return request


async def failed(admin: Operator, world: World) -> dict[str, Any]:
    request = await created(admin, world)
    world.now += 3 * HOUR
    await world.run_jobs()
    return request


async def abandoned(admin: Operator, world: World) -> dict[str, Any]:
    request = await running(admin, world)
    await world.report(request, Result.FAILED)
    await world.run_jobs()
    return request


async def skipped(admin: Operator, world: World) -> dict[str, Any]:
    request = await created(admin, world)
    await admin.create(overwriteIfDuplicate=True)
    return request


FLOWS: dict[JobStatus, Flow] = {
    JobStatus.CREATED: created,
    JobStatus.STARTED: started,
    JobStatus.RUNNING: running,
    JobStatus.APPS_INSTALLING: reporting(JobStatus.APPS_INSTALLING),
    JobStatus.APPS_INSTALLED: reporting(JobStatus.APPS_INSTALLED),
    JobStatus.CONF_UPDATING: reporting(JobStatus.CONF_UPDATING),
    JobStatus.CONF_UPDATED: reporting(JobStatus.CONF_UPDATED),
    JobStatus.COMPLETED: completed,
    JobStatus.FAILED: failed,
    JobStatus.SKIPPED: skipped,
    JobStatus.STOPPING: stopping,
    JobStatus.STOPPED: stopped,
    JobStatus.ABANDONED: abandoned,
}


@pytest.mark.parametrize("status", JobStatus)
async def test_each_job_status_is_reached(admin: Operator, world: World, status: JobStatus) -> None:
    request = await FLOWS[status](admin, world)
    shown = await admin.get(f"{PATH}/{request['id']}")
    assert shown["provisionJob"]["status"] == status
    (found,) = (await admin.get(PATH, statuses=str(status)))["provisionRequest"]
    assert found == shown


@pytest.mark.parametrize(
    ("facts", "client_id"),
    [
        ({"serialNumber": "SN-749771", "macAddress": "29:9F:66:C8:00:01", "brand": "b", "model": "m"}, "SN-749771"),
        ({"macAddress": "29:9F:66:C8:00:01", "brand": "b"}, "29:9F:66:C8:00:01"),
        ({"serialNumber": "7", "vendor": "v"}, "7"),
    ],
)
async def test_a_unit_may_be_known_by_serial_number_or_mac_address(
    admin: Operator, facts: dict[str, str], client_id: str
) -> None:
    form = admin.form(**facts)
    del form["clientId"]
    made = await admin.ask(201, "POST", PATH, form)
    assert made["clientId"] == client_id
    assert {name: made[name] for name in facts} == facts


@pytest.mark.parametrize(
    ("facts", "code", "field"),
    [
        ({}, "no-identity", "clientId"),
        ({"deviceName": "x"}, "no-identity", "clientId"),
        ({"serialNumber": "S-1"}, "no-brand", "brand"),
        ({"serialNumber": "S 1", "brand": "b"}, "no-client-id", "serialNumber"),
        ({"macAddress": "zz", "brand": "b"}, "invalid-mac-address", "macAddress"),
    ],
)
async def test_a_unit_without_identity_is_refused(admin: Operator, facts: Any, code: str, field: str) -> None:
    form = admin.form(**facts)
    del form["clientId"]
    problem = await admin.refused(400, code, "POST", PATH, form)
    assert problem["field"] == field


@pytest.mark.parametrize(
    ("other", "is_twin"),
    [
        ({"serialNumber": "S-1", "brand": "b", "model": "m"}, True),
        ({"serialNumber": "S-1", "brand": "c", "model": "m"}, False),
        ({"serialNumber": "S-1", "brand": "b", "model": "n"}, False),
        ({"serialNumber": "S-1", "brand": "b"}, False),
        ({"macAddress": "29-9f-66-c8-00-01"}, True),
        ({"macAddress": "299F.66C8.0001"}, True),
        ({"macAddress": "29:9F:66:C8:00:02"}, False),
    ],
)
async def test_one_unit_has_one_open_request(admin: Operator, other: dict[str, str], is_twin: bool) -> None:
    await admin.create("dev-1", serialNumber="S-1", macAddress="29:9F:66:C8:00:01", brand="b", model="m")
    third = await admin.create("dev-3")
    if not is_twin:
        await admin.create("dev-2", **other)
        return
    await admin.refused(409, "duplicate-unit", "POST", PATH, admin.form("dev-2", **other))
    change = {"optlock": third["optlock"], **other}
    await admin.refused(409, "duplicate-unit", "PUT", f"{PATH}/{third['id']}", change)


async def test_a_serial_number_without_a_model_is_the_accounts_own(admin: Operator) -> None:
    await admin.create("dev-1", serialNumber="S-1")
    await admin.create("dev-2", "globex", serialNumber="S-1")
    await admin.refused(409, "duplicate-unit", "POST", PATH, admin.form("dev-3", serialNumber="S-1"))
