"""Tags and locations: made once, carried by requests by uid, told in events; an account has its own and those above."""

from typing import Any

import pytest

from provisioner.model import Role
from tests.broker.http.world import PATH, Operator, World

NOBODYS = "0123456789abcdef" * 2


@pytest.mark.parametrize("plural", ["tags", "locations"])
async def test_a_label_is_made_listed_and_deleted(admin: Operator, plural: str) -> None:
    kind = plural.removesuffix("s")
    made = await admin.ask(201, "POST", f"/v2/{plural}", {"name": "Nördlich"})
    assert (made["name"], len(made["uid"])) == ("Nördlich", 32)
    assert (await admin.get(f"/v2/{plural}"))[kind] == [made]
    await admin.refused(409, "name-taken", "POST", f"/v2/{plural}", {"name": "Nördlich"})
    assert await admin.ask(204, "DELETE", f"/v2/{plural}/{made['uid']}") is None
    assert (await admin.get(f"/v2/{plural}"))[kind] == []
    await admin.refused(404, f"no-such-{kind}", "DELETE", f"/v2/{plural}/{made['uid']}")


async def test_a_request_carries_labels(admin: Operator) -> None:
    tag = await admin.ask(201, "POST", "/v2/tags", {"name": "north"})
    place = await admin.ask(201, "POST", "/v2/locations", {"name": "hall 3"})
    labels = {"tagUids": [tag["uid"]], "locationUid": place["uid"], "confirmedOwnership": True}
    created = await admin.create(**labels)
    assert {name: created[name] for name in labels} == labels
    change = {"optlock": 1, "tagUids": [], "locationUid": None, "confirmedOwnership": False}
    changed = await admin.ask(200, "PUT", f"{PATH}/{created['id']}", change)
    assert (changed["tagUids"], changed["confirmedOwnership"]) == ([], False)
    assert "locationUid" not in changed
    await admin.ask(204, "DELETE", f"/v2/tags/{tag['uid']}")
    assert (await admin.get(f"{PATH}/{created['id']}"))["optlock"] == 2


@pytest.mark.parametrize(
    ("labels", "code", "field"),
    [
        ({"tagUids": [NOBODYS]}, "unknown-tag", "tagUids"),
        ({"locationUid": NOBODYS}, "unknown-location", "locationUid"),
        ({"tagUids": ["north"]}, "invalid", "tagUids.0"),
        ({"tagUids": [NOBODYS.upper()]}, "invalid", "tagUids.0"),
        ({"tagUids": [NOBODYS] * 33}, "invalid", "tagUids"),
        ({"tagUids": [NOBODYS, NOBODYS]}, "invalid-labels", "tagUids"),
        ({"tagUids": "north"}, "invalid", "tagUids"),
        ({"locationUid": 1}, "invalid", "locationUid"),
        ({"confirmedOwnership": "yes"}, "invalid", "confirmedOwnership"),
    ],
)
async def test_a_label_that_is_none_is_refused(admin: Operator, labels: Any, code: str, field: str) -> None:
    assert (await admin.refused(400, code, "POST", PATH, admin.form(**labels)))["field"] == field
    created = await admin.create()
    change = {"optlock": 1, **labels}
    assert (await admin.refused(400, code, "PUT", f"{PATH}/{created['id']}", change))["field"] == field


async def test_a_location_is_no_tag(admin: Operator) -> None:
    place = await admin.ask(201, "POST", "/v2/locations", {"name": "hall 3"})
    await admin.refused(400, "unknown-tag", "POST", PATH, admin.form(tagUids=[place["uid"]]))


async def test_an_account_uses_its_labels_and_those_above(admin: Operator, world: World) -> None:
    made = {}
    for name in ("acme", "acme-labs", "globex"):
        body = {"name": f"tag of {name}", "accountId": world.accounts[name].id}
        made[name] = (await admin.ask(201, "POST", "/v2/tags", body))["uid"]
    made["all"] = (await admin.ask(201, "POST", "/v2/tags", {"name": "for all"}))["uid"]
    await admin.create("dev-1", "acme-labs", tagUids=[made["acme"], made["acme-labs"], made["all"]])
    await admin.refused(400, "unknown-tag", "POST", PATH, admin.form("dev-2", "acme", tagUids=[made["acme-labs"]]))
    await admin.refused(400, "unknown-tag", "POST", PATH, admin.form("dev-2", "acme", tagUids=[made["globex"]]))
    labs = await world.operator(Role.ADMIN, "acme-labs")
    assert {tag["uid"] for tag in (await labs.get("/v2/tags"))["tag"]} == {made["acme"], made["acme-labs"], made["all"]}
    await labs.refused(404, "no-such-tag", "DELETE", f"/v2/tags/{made['acme']}")
    await labs.refused(404, "no-such-tag", "DELETE", f"/v2/tags/{made['all']}")
    assert (await labs.ask(201, "POST", "/v2/tags", {"name": "own"}))["accountId"] == world.accounts["acme-labs"].id


@pytest.mark.parametrize("name", ["", "x" * 256, "two\nlines", 5, None])
async def test_a_name_that_is_none_is_refused(admin: Operator, name: Any) -> None:
    problem = await admin.ask(400, "POST", "/v2/tags", {"name": name})
    assert problem["field"] == "name"
