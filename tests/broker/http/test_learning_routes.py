"""From loose to tight: sightings, findings, bindings that hold at the login, and their undoing."""

from typing import Any

import pytest

from provisioner.learning import MOST_IDS
from provisioner.model import Offer, Role
from tests.broker.http.world import NOW, PATH, Operator, World

LEARNING = "/v2/learning"
LOCKS = f"{LEARNING}/locks"


async def loose(admin: Operator, world: World, client_id: str = "dev-1", account: str = "acme") -> Offer:
    """A loose credential in force."""
    created = await admin.create(client_id, account, deviceCredentialsTight="LOOSE")
    offer = await world.claim(created)
    await world.confirm(created)
    return offer


async def admitted(world: World, offer: Offer, client_id: str) -> bool:
    """Whether the credential gets in with this client id."""
    password = offer.password.reveal().encode()
    return await world.provisioner.device_login("shelf", offer.username, password, client_id, world.now) is not None


async def findings(operator: Operator) -> dict[str, tuple[Any, ...]]:
    found = (await operator.get(LEARNING))["finding"]
    return {
        one["username"]: (one["verdict"], one.get("clientId"), [seen["clientId"] for seen in one["seen"]])
        for one in found
    }


async def test_what_uses_a_loose_credential_is_seen(admin: Operator, world: World) -> None:
    one, many, none = [await loose(admin, world, f"dev-{number}") for number in (1, 2, 3)]
    assert await admitted(world, one, "sensor-7")
    assert await admitted(world, many, "a")
    assert await admitted(world, many, "b")
    assert await findings(admin) == {
        one.username: ("bind", "sensor-7", ["sensor-7"]),
        many.username: ("shared", None, ["a", "b"]),
        none.username: ("unseen", None, []),
    }
    (seen,) = (await admin.get(LEARNING))["finding"][0]["seen"]
    assert (seen["firstOn"], seen["lastOn"]) == (NOW, NOW)


async def test_refused_logins_and_tight_credentials_are_not_seen(admin: Operator, world: World) -> None:
    offer = await loose(admin, world)
    await loose(admin, world, "dev-2")
    assert not await admitted(world, offer, "dev-2")
    assert not await admitted(world, offer, "a/b")
    created = await admin.create("dev-3", deviceCredentialsTight="STRICT")
    tight = await world.claim(created)
    await world.confirm(created)
    assert await admitted(world, tight, "dev-3")
    assert {verdict for verdict, _, _ in (await findings(admin)).values()} == {"unseen"}
    assert tight.username not in await findings(admin)


async def test_a_binding_holds_and_is_undone(admin: Operator, world: World) -> None:
    offer, other = await loose(admin, world), await loose(admin, world, "dev-2")
    assert await admitted(world, offer, "sensor-7")
    batch = await admin.ask(201, "POST", LOCKS)
    assert [(one["username"], one["clientId"]) for one in batch["bound"]] == [(offer.username, "sensor-7")]
    assert await admitted(world, offer, "sensor-7")
    assert not await admitted(world, offer, "sensor-8")
    assert not await admitted(world, offer, "dev-1")
    assert not await admitted(world, other, "sensor-7")
    assert offer.username not in await findings(admin)
    await admin.refused(409, "client-id-bound", "POST", PATH, admin.form("sensor-7"))
    assert (await admin.get(LOCKS))["lock"] == [batch]
    world.now += 5
    undone = await admin.ask(200, "POST", f"{LOCKS}/{batch['id']}/undo")
    assert (undone["undoneOn"], undone["bound"]) == (NOW + 5, batch["bound"])
    assert await admitted(world, offer, "sensor-8")
    await admin.refused(409, "undone", "POST", f"{LOCKS}/{batch['id']}/undo")
    assert (await findings(admin))[offer.username][0] == "shared"
    actions = [one["action"] for one in (await admin.get("/v2/journal", limit=1000))["entry"]]
    assert [one for one in actions if one in ("lock", "unlock")] == ["lock", "unlock"]


async def test_a_binding_outlives_a_renewal(admin: Operator, world: World) -> None:
    created = await admin.create(deviceCredentialsTight="LOOSE")
    offer = await world.claim(created)
    await world.confirm(created)
    assert await admitted(world, offer, "sensor-7")
    batch = await admin.ask(201, "POST", LOCKS)
    await admin.ask(200, "POST", f"{PATH}/{created['id']}/rotate")
    renewed = await world.claim(created, request_id="r-2")
    assert await admitted(world, renewed, "sensor-7")
    assert not await admitted(world, renewed, "dev-1")
    await admin.ask(200, "POST", f"{LOCKS}/{batch['id']}/undo")
    assert await admitted(world, renewed, "dev-1")


async def test_only_what_is_named_is_bound_all_or_none(admin: Operator, world: World) -> None:
    first, second, shared, unseen = [await loose(admin, world, f"dev-{number}") for number in range(4)]
    for offer, client_ids in ((first, "a"), (second, "b"), (shared, "cd")):
        for client_id in client_ids:
            assert await admitted(world, offer, client_id)
    for wrong in (shared.username, unseen.username, "p.acme.nobody.g1"):
        problem = await admin.refused(400, "not-bindable", "POST", LOCKS, {"usernames": [first.username, wrong]})
        assert problem["detail"].endswith("nothing was bound.")
    batch = await admin.ask(201, "POST", LOCKS, {"usernames": [first.username]})
    assert [one["username"] for one in batch["bound"]] == [first.username]
    assert (await findings(admin))[second.username][0] == "bind"


async def test_one_client_id_is_bound_to_one_credential(admin: Operator, world: World) -> None:
    first, second = await loose(admin, world, "dev-1"), await loose(admin, world, "dev-2")
    assert await admitted(world, first, "sensor-7")
    assert await admitted(world, second, "sensor-7")
    assert {verdict for verdict, _, _ in (await findings(admin)).values()} == {"contested"}
    await admin.refused(409, "nothing-to-bind", "POST", LOCKS)


async def test_a_flood_of_client_ids_is_kept_short(admin: Operator, world: World) -> None:
    offer = await loose(admin, world)
    for number in range(2 * MOST_IDS):
        assert await admitted(world, offer, f"c-{number}")
    assert len((await findings(admin))[offer.username][2]) == MOST_IDS + 1


async def test_a_sighting_is_written_once_an_hour(admin: Operator, world: World) -> None:
    offer = await loose(admin, world)
    for passed in (0, 1000, 3_600_000):
        world.now = NOW + passed
        assert await admitted(world, offer, "sensor-7")
    (seen,) = (await admin.get(LEARNING))["finding"][0]["seen"]
    assert (seen["firstOn"], seen["lastOn"]) == (NOW, NOW + 3_600_000)


async def test_an_account_learns_of_its_own_credentials(admin: Operator, world: World) -> None:
    ours, theirs = await loose(admin, world, "dev-1", "acme-labs"), await loose(admin, world, "dev-2", "globex")
    assert await admitted(world, ours, "a")
    assert await admitted(world, theirs, "b")
    acme = await world.operator(Role.ADMIN, "acme")
    assert list(await findings(acme)) == [ours.username]
    await acme.refused(400, "not-bindable", "POST", LOCKS, {"usernames": [theirs.username]})
    batch = await admin.ask(201, "POST", LOCKS)
    assert len(batch["bound"]) == 2
    assert (await acme.get(LOCKS))["lock"] == []
    await acme.refused(404, "no-such-lock", "POST", f"{LOCKS}/{batch['id']}/undo")


@pytest.mark.parametrize("body", [{"usernames": "all"}, {"usernames": [5]}, {"colour": 1}, {"usernames": [""]}])
async def test_a_mistake_in_a_lock_is_named(admin: Operator, body: Any) -> None:
    await admin.ask(400, "POST", LOCKS, body)
