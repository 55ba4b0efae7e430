"""Which events a step means, and that they read as the seed has them."""

import json
from dataclasses import replace
from typing import Any

import pytest

from provisioner.creation import Created
from provisioner.errors import Invalid, Rejected
from provisioner.events import EventType, StoredEvent, envelope, events_of, parse_event_id, payload
from provisioner.model import Facts, Origin, Result
from provisioner.ports import EventFilter, Install, Note, Suspicion, Unit
from tests.provisioner.conftest import ADMIN, START, World

# The seed's own example, DeviceProvisioningRecipeCreated, as its document prints it.
EXAMPLE = json.loads("""
{"id": "string",
 "kind": "domain",
 "type": "Device.ProvisioningRecipeCreated",
 "payload": {
  "owner": {
   "ownershipType": "organization",
   "organizationUid": "f32a128cxxxxxxxxxxxxxxxxb175739b",
   "parentCompanyUid": "9a52dc0axxxxxxxxxxxxxxxx92acfccc"},
  "organizationUid": "624c9c67xxxxxxxxxxxxxxxxad7cd727",
  "status": "Pending",
  "confirmedOwnership": true,
  "serialNumber": "SN-749771",
  "macAddress": "29:9F:66:C8:XX:XX",
  "model": "example-model",
  "brand": "example-model",
  "tagUids": ["87e46004xxxxxxxxxxxxxxxx4bea2712"],
  "deviceName": "Example Name",
  "policyUid": "2ca49d20xxxxxxxxxxxxxxxx56c01137",
  "locationUid": "b7cb61bfxxxxxxxxxxxxxxxxd468d313",
  "unsuccessfulRegisterAttemptStatus": {"warningMessage": "Something went wrong"},
  "errorMessage": "Something went wrong",
  "uid": "14e70f5cxxxxxxxxxxxxxxxx7620ccaf",
  "originator": {
   "accountId": 2437,
   "organizationUid": "8d34290dxxxxxxxxxxxxxxxx57a00ace",
   "policyUid": "2edbe5c9xxxxxxxxxxxxxxxxe3aaca98"},
  "type": "Device.ProvisioningRecipeCreated"}}
""")

CREATED, UPDATED, APPLIED, FAILED, INVALID = (
    f"Device.ProvisioningRecipe{word}" for word in ("Created", "Updated", "Applied", "Failed", "Invalid")
)
REVOKED = "Device.CredentialRevoked"


async def told(world: World, created: Created | None = None) -> list[dict[str, Any]]:
    """Every event so far (of one request), as others read it."""
    wanted = EventFilter(request_id=None if created is None else created.request.id)
    return [envelope(event) for event in await world.store.events.list_events(wanted, 1000)]


async def types(world: World, created: Created | None = None) -> list[str]:
    return [event["type"] for event in await told(world, created)]


def members(value: Any) -> Any:
    """Names in their order, down to the leaves."""
    return [(name, members(inner)) for name, inner in value.items()] if isinstance(value, dict) else type(value)


def test_the_seeds_example_is_replayed_member_by_member() -> None:
    example = EXAMPLE["payload"]
    outside = ("owner", "organizationUid", "uid", "originator", "type")
    built = payload(
        EXAMPLE["type"],
        {name: value for name, value in example.items() if name not in outside},
        uid=example["uid"],
        organization_uid=example["organizationUid"],
        owner=(example["owner"]["organizationUid"], example["owner"]["parentCompanyUid"]),
        originator=example["originator"],
    )
    assert json.dumps(built) == json.dumps(example)


async def test_a_created_request_is_told_in_the_seeds_form(world: World) -> None:
    facts = Facts("SN-749771", "29:9F:66:C8:01:02", "example-vendor", "example-brand", "example-model")
    created = await world.request(facts=facts, device_name="Example Name")
    account = await world.store.find_account_named("acme")
    assert account is not None
    (event,) = await told(world)
    assert list(event) == list(EXAMPLE)
    assert event == {
        "id": event["id"],
        "kind": "domain",
        "type": CREATED,
        "payload": {
            "owner": {"ownershipType": "organization", "organizationUid": account.uid, "parentCompanyUid": None},
            "organizationUid": account.uid,
            "status": "Pending",
            "serialNumber": "SN-749771",
            "macAddress": "29:9F:66:C8:01:02",
            "model": "example-model",
            "brand": "example-brand",
            "deviceName": "Example Name",
            "uid": f"{created.request.id:032x}",
            "originator": {"accountId": ADMIN.token_id},
            "type": CREATED,
        },
    }
    there = members(event["payload"])
    order = [name for name in EXAMPLE["payload"] if name in event["payload"]]
    assert [name for name, _ in there] == order


async def test_what_is_not_known_is_absent_and_brand_is_always_there(world: World) -> None:
    await world.request()
    (event,) = await told(world)
    assert set(event["payload"]) == {"owner", "organizationUid", "status", "brand", "uid", "originator", "type"}
    assert event["payload"]["brand"] == ""


async def test_a_hand_over_writes_one_event_that_names_no_operator(world: World) -> None:
    created = await world.request()
    device = world.device(created)
    await device.claim()
    await device.claim()
    assert await types(world) == [CREATED]
    await device.ack()
    await device.ack()
    first, applied = await told(world)
    assert (applied["type"], applied["payload"]["status"]) == (APPLIED, "Applied")
    assert "originator" not in applied["payload"]
    assert applied["payload"]["uid"] == first["payload"]["uid"]


async def test_the_first_login_tells_the_same(world: World) -> None:
    created = await world.request()
    offer = await world.device(created).claim()
    await world.login(offer)
    await world.login(offer)
    assert await types(world) == [CREATED, APPLIED]


async def test_an_event_shows_the_state_of_its_time(world: World) -> None:
    created = await world.request(device_name="first")
    await world.administration.update_request(ADMIN, created.request.id, 1, {"device_name": "second"}, START + 5)
    await world.administration.disable(ADMIN, created.request.id, START + 6)
    assert [(event["type"], event["payload"]["deviceName"]) for event in await told(world)] == [
        (CREATED, "first"),
        (UPDATED, "second"),
        (UPDATED, "second"),
    ]


async def test_a_refused_claim_is_kept_and_told_with_the_next_event(world: World) -> None:
    created = await world.request(facts=Facts(serial_number="SN-1"))
    device = world.device(created)
    with pytest.raises(Rejected):
        await device.claim(device={"serialNumber": "SN-2"})
    await device.claim("r-2", device={"serialNumber": "SN-1"})
    await device.ack(request_id="r-2")
    warning = "the unit's serialNumber is not the one of its request"
    assert (await told(world))[-1]["payload"]["unsuccessfulRegisterAttemptStatus"] == {"warningMessage": warning}


async def test_a_window_that_ends_fails(world: World) -> None:
    created = await world.request(expires_on=START + 1000)
    world.now += 1000
    await world.run_jobs()
    event = (await told(world, created))[-1]
    assert (event["type"], event["payload"]["status"]) == (FAILED, "Failed")
    assert event["payload"]["errorMessage"] == "The window ended before the device was provisioned."


async def test_attempts_used_up_fail(world: World) -> None:
    created = await world.request(retry_max_attempts=1)
    device = world.device(created)
    await device.claim()
    await device.ack(result=Result.FAILED)
    await world.run_jobs()
    events = await told(world, created)
    assert [event["type"] for event in events] == [CREATED, FAILED]
    assert events[-1]["payload"]["errorMessage"] == "All 1 attempts are used up."


async def test_a_device_broker_that_refuses_for_good_fails(world: World) -> None:
    created = await world.request()
    world.broker.outcome = Install.NEVER
    with pytest.raises(Rejected):
        await world.device(created).claim()
    assert (await told(world, created))[-1]["payload"]["errorMessage"].startswith("The device broker refuses")


async def test_a_stopped_request_fails_once(world: World) -> None:
    created = await world.request()
    await world.administration.stop(ADMIN, created.request.id, START)
    events = await told(world, created)
    assert [event["type"] for event in events] == [CREATED, FAILED]
    assert events[-1]["payload"]["errorMessage"] == "It was stopped by an operator."


async def test_a_request_replaced_before_any_claim_is_invalid(world: World) -> None:
    first = await world.request()
    second = await world.request(overwrite=True)
    events = await told(world, first)
    assert [(event["type"], event["payload"]["status"]) for event in events] == [
        (CREATED, "Pending"),
        (INVALID, "Invalid"),
    ]
    assert events[-1]["payload"]["errorMessage"] == "Another request replaced it before any claim."
    assert await types(world, second) == [CREATED]


async def test_a_revoked_credential_is_told_with_its_device(world: World) -> None:
    created = await world.request()
    device = world.device(created)
    await device.claim()
    await device.ack()
    await world.administration.revoke(ADMIN, created.request.id, START)
    await world.run_jobs()
    events = (await told(world, created))[2:]
    assert [event["type"] for event in events] == [REVOKED, UPDATED, FAILED]
    assert events[0]["payload"] | {"clientId": "dev-1", "generation": 1} == events[0]["payload"]
    assert events[-1]["payload"]["errorMessage"] == "Its credential was revoked."
    assert "originator" not in events[-1]["payload"]


async def test_a_reopened_request_withdraws_what_it_had_and_is_applied_again(world: World) -> None:
    created = await world.request()
    device = world.device(created)
    await device.claim()
    await device.ack()
    await world.administration.reopen(ADMIN, created.request.id, START)
    await world.run_jobs()
    await device.claim("r-2")
    await device.ack(2, request_id="r-2")
    assert await types(world, created) == [CREATED, APPLIED, REVOKED, UPDATED, APPLIED]


async def test_a_renewal_is_applied_again_and_revokes_nothing(world: World) -> None:
    created = await world.request()
    device = world.device(created)
    await device.claim()
    await device.ack()
    await world.administration.rotate(ADMIN, created.request.id, START)
    await device.claim("r-2")
    await device.ack(2, request_id="r-2")
    await world.run_jobs()
    assert await types(world, created) == [CREATED, APPLIED, UPDATED, APPLIED]


async def test_a_renewal_that_fails_tells_nothing(world: World) -> None:
    created = await world.request()
    device = world.device(created)
    await device.claim()
    await device.ack()
    await world.administration.rotate(ADMIN, created.request.id, START)
    await device.claim("r-2")
    await device.ack(2, Result.FAILED, "r-2")
    await world.run_jobs()
    assert await types(world, created) == [CREATED, APPLIED, UPDATED]


async def test_a_suspected_clone_is_told_with_its_sources(world: World) -> None:
    created = await world.request()
    suspicion = Suspicion(created.request, "Two places claim with one key.", ("192.0.2.1", "192.0.2.2"))
    assert await world.store.commit(Unit(suspicions=(suspicion,), note=Note(START, "suspect")))
    event = (await told(world, created))[-1]
    assert event["type"] == "Device.CloneSuspected"
    assert event["payload"]["sources"] == ["192.0.2.1", "192.0.2.2"]
    assert event["payload"]["detail"] == "Two places claim with one key."
    assert (event["payload"]["clientId"], event["payload"]["status"]) == ("dev-1", "Pending")


async def test_one_key_in_two_places_is_told_as_a_suspected_clone(world: World) -> None:
    created = await world.request()
    device = world.device(created)
    await device.claim()
    await replace(device, origin=Origin("192.0.2.7", 2, secure=True)).claim()
    created_event, suspected = await told(world, created)
    assert suspected["type"] == "Device.CloneSuspected"
    assert suspected["payload"]["sources"] == ["127.0.0.1", "192.0.2.7"]
    assert (suspected["payload"]["clientId"], suspected["payload"]["uid"]) == ("dev-1", created_event["payload"]["uid"])


async def test_a_stale_unit_tells_nothing(world: World) -> None:
    created = await world.request()
    await world.administration.disable(ADMIN, created.request.id, START)
    with pytest.raises(Exception, match="read it again"):
        await world.administration.update_request(ADMIN, created.request.id, 1, {"device_name": "late"}, START)
    assert await types(world, created) == [CREATED, UPDATED]


def test_ids_sort_in_commit_order_and_can_be_taken_apart() -> None:
    stored = [
        StoredEvent(seq, nonce, EventType.CREATED, 1, 1, 1, None, "{}", "acme", "a" * 32, None, None)
        for seq, nonce in ((1, -1), (2, 0), (15, 5), (16, -(2**63)), (2**40, 2**63 - 1))
    ]
    ids = [event.id for event in stored]
    assert ids == sorted(ids)
    assert [parse_event_id(one) for one in ids] == [(event.seq, event.nonce) for event in stored]


@pytest.mark.parametrize("text", ["", "1", "g" * 32, "8" * 32, "0" * 31 + "\n", "0" * 33, "A" * 32, "\u0660" * 32])
def test_what_is_no_id_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        parse_event_id(text)


def test_a_unit_without_news_tells_nothing() -> None:
    assert list(events_of(Unit(Note(START, "offer")))) == []
