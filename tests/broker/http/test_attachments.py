"""Attachments: kept by operators, enclosed in requests, delivered in the offer or fetched once with a ticket of it."""

import base64
import hashlib
import os
from typing import Any

import pytest

from broker.mqtt.messages import measure
from provisioner.attachments import INLINE, LARGEST, PIECE
from provisioner.model import Attached, Result, Role
from tests.broker.http.world import PATH, Operator, World

FILES = "/v2/attachments"
NOBODYS = "0123456789abcdef" * 2
LARGE = os.urandom(2 * PIECE + 77)


def inline(content: bytes, kind: str = "BUNDLE", name: str = "a.bin") -> dict[str, str]:
    return {"type": kind, "name": name, "content": base64.b64encode(content).decode()}


async def keep(operator: Operator, content: bytes = LARGE, name: str = "fw.bin", status: int = 201, **more: Any) -> Any:
    headers = {"content-type": "application/octet-stream"}
    answer = await operator.http.post(FILES, params={"name": name, **more}, content=content, headers=headers)
    assert answer.status_code == status, answer.text
    return answer.json()


async def fetch(world: World, attached: Attached) -> Any:
    """What somebody without a token gets from the address in an offer."""
    assert attached.url is not None
    return await world.visitor().http.get(attached.url)


async def test_small_ones_travel_in_the_offer(admin: Operator, world: World) -> None:
    created = await admin.create(
        provisionAttachments=[
            inline(b"<configurations/>", "CONFIGURATION", "conf.xml"),
            inline(b"zip", "BUNDLE", "b.dp"),
        ]
    )
    assert [(one["type"], one["name"], one["size"]) for one in created["provisionAttachments"]] == [
        ("CONFIGURATION", "conf.xml", 17),
        ("BUNDLE", "b.dp", 3),
    ]
    offer = await world.claim(created)
    assert [(one.name, one.content, one.url) for one in offer.attachments] == [
        ("conf.xml", b"<configurations/>", None),
        ("b.dp", b"zip", None),
    ]
    assert offer.attachments[1].sha256 == hashlib.sha256(b"zip").hexdigest()


async def test_a_large_one_is_fetched_once_with_the_address_of_the_offer(admin: Operator, world: World) -> None:
    kept = await keep(admin)
    created = await admin.create(provisionAttachments=[{"type": "BUNDLE", "id": kept["id"]}, inline(b"small")])
    offer = await world.claim(created)
    large, small = offer.attachments
    assert (large.size, large.sha256, large.content) == (len(LARGE), hashlib.sha256(LARGE).hexdigest(), None)
    assert (small.content, large.expires_on) == (b"small", offer.confirm_before)
    assert large.url is not None
    assert large.url not in repr(offer)
    answer = await fetch(world, large)
    assert (answer.status_code, answer.content) == (200, LARGE)
    assert answer.headers["content-disposition"] == "attachment; filename*=UTF-8''fw.bin"
    again = await fetch(world, large)
    assert (again.status_code, again.json()["code"]) == (410, "gone")
    repeated = await world.claim(created)
    assert repeated.attachments[0].url != large.url
    assert (await fetch(world, repeated.attachments[0])).content == LARGE


async def test_what_is_together_too_large_for_the_offer_is_fetched(admin: Operator, world: World) -> None:
    created = await admin.create(provisionAttachments=[inline(bytes(INLINE)), inline(b"x")])
    first, second = (await world.claim(created)).attachments
    assert (first.content, second.content) == (bytes(INLINE), None)
    assert (await fetch(world, second)).content == b"x"


async def test_a_device_with_little_room_fetches_them_all(admin: Operator, world: World) -> None:
    world.provisioner.offering._measure = measure
    created = await admin.create(provisionAttachments=[inline(bytes(2000))])
    (attached,) = (await world.claim(created, max_reply=1200)).attachments
    assert attached.content is None
    assert (await fetch(world, attached)).content == bytes(2000)


@pytest.mark.parametrize("end", ["time", "failed", "revoked", "deleted"])
async def test_an_address_ends_with_its_offer(admin: Operator, world: World, end: str) -> None:
    kept = await keep(admin)
    created = await admin.create(provisionAttachments=[{"type": "BUNDLE", "id": kept["id"]}])
    (attached,) = (await world.claim(created)).attachments
    if end == "time":
        world.now += 3_600_000
    elif end == "failed":
        await world.report(created, Result.FAILED)
    else:
        await world.confirm(created)
        await admin.ask(200, "POST", f"{PATH}/{created['id']}/revoke")
        await world.run_jobs()
        if end == "deleted":
            await admin.ask(204, "DELETE", f"{PATH}/{created['id']}")
    assert (await fetch(world, attached)).status_code == 410


async def test_a_confirmed_device_may_still_fetch(admin: Operator, world: World) -> None:
    kept = await keep(admin)
    created = await admin.create(provisionAttachments=[{"type": "BUNDLE", "id": kept["id"]}])
    (attached,) = (await world.claim(created)).attachments
    await world.confirm(created)
    assert (await fetch(world, attached)).content == LARGE


async def test_a_ticket_cannot_be_forged(admin: Operator, world: World) -> None:
    first, second = await keep(admin, b"a" * 5000), await keep(admin, b"b" * 5000, "other.bin")
    created = await admin.create(provisionAttachments=[{"type": "BUNDLE", "id": first["id"]}])
    (attached,) = (await world.claim(created)).attachments
    assert attached.url is not None
    base, _, ticket = attached.url.rpartition("/")
    parts = ticket.split(".")
    forged = [
        ticket[:-1] + ("A" if ticket[-1] != "A" else "B"),
        ticket.replace(first["id"], second["id"]),
        ".".join([*parts[:3], str(int(parts[3]) + 1), *parts[4:]]),
        ".".join([*parts[:4], "0" * 32, parts[5]]),
        ".".join(parts[:5]),
        "x",
        ".....",
        "%00",
        "ü",
    ]
    for one in forged:
        answer = await world.visitor().http.get(f"{base}/{one}")
        assert (answer.status_code, answer.json()["code"]) == (410, "gone"), one
    assert (await fetch(world, attached)).status_code == 200


@pytest.mark.parametrize(
    ("attachments", "code"),
    [
        ([inline(b"a", "CONFIGURATION"), inline(b"b", "CONFIGURATION")], "invalid-attachments"),
        ([inline(b"a")] * 10, "invalid-attachments"),
        ([inline(b"a")] * 11, "invalid"),
        ([{"type": "BUNDLE"}], "invalid-attachments"),
        ([{**inline(b"a"), "id": NOBODYS}], "invalid-attachments"),
        ([{"type": "BUNDLE", "id": NOBODYS}], "unknown-attachment"),
        ([{"type": "BUNDLE", "name": "a", "content": "no base64!"}], "invalid-content"),
        ([{"type": "BUNDLE", "content": "YQ=="}], "invalid-name"),
        ([inline(b"a", name="../a")], "invalid-name"),
        ([inline(b"", name="a")], "invalid-size"),
        ([inline(b"a"), inline(b"", name="b")], "invalid-size"),
        ([inline(b"a", "SCRIPT")], "invalid"),
        (["a"], "invalid"),
        ("a", "invalid"),
    ],
)
async def test_a_mistake_in_attachments_is_named(admin: Operator, attachments: Any, code: str) -> None:
    problem = await admin.refused(400, code, "POST", PATH, admin.form(provisionAttachments=attachments))
    assert problem["field"].startswith(("provisionAttachments", "content"))
    assert (await admin.get(PATH))["provisionRequest"] == []
    assert (await admin.get(FILES))["attachment"] == []


async def test_what_came_with_a_refused_request_is_not_kept(admin: Operator) -> None:
    await admin.create("dev-1")
    form = admin.form("dev-1", provisionAttachments=[inline(b"a")])
    await admin.refused(409, "duplicate-client-id", "POST", PATH, form)
    assert (await admin.get(FILES))["attachment"] == []


async def test_without_an_address_for_devices_large_ones_are_refused(admin: Operator, world: World) -> None:
    kept = await keep(admin)
    world.administration.attachments.base_url = None
    form = admin.form(provisionAttachments=[{"type": "BUNDLE", "id": kept["id"]}])
    problem = await admin.refused(400, "no-download-url", "POST", PATH, form)
    assert "http.download_url" in problem["detail"]
    await admin.create(provisionAttachments=[inline(b"small")])


async def test_a_file_is_kept_listed_and_deleted(admin: Operator, world: World) -> None:
    kept = await keep(admin)
    assert (kept["name"], kept["size"], kept["sha256"]) == ("fw.bin", len(LARGE), hashlib.sha256(LARGE).hexdigest())
    assert (await admin.get(FILES))["attachment"] == [kept]
    created = await admin.create(provisionAttachments=[{"type": "BUNDLE", "id": kept["id"], "name": "v2.bin"}])
    assert created["provisionAttachments"][0]["name"] == "v2.bin"
    await admin.refused(409, "enclosed", "DELETE", f"{FILES}/{kept['id']}")
    await admin.ask(200, "POST", f"{PATH}/{created['id']}/stop")
    await admin.ask(204, "DELETE", f"{FILES}/{kept['id']}")
    await admin.refused(404, "no-such-attachment", "DELETE", f"{FILES}/{kept['id']}")
    shown = await admin.get(f"{PATH}/{created['id']}")
    assert shown["provisionAttachments"] == created["provisionAttachments"]
    await admin.ask(200, "PUT", f"{PATH}/{created['id']}", shown)


async def test_a_file_has_its_bounds(admin: Operator) -> None:
    assert (await keep(admin, b"", status=400))["code"] == "invalid-size"
    assert (await keep(admin, bytes(LARGEST + 1), status=413))["code"] == "too-large"
    assert (await keep(admin, b"a", "a/b", status=400))["code"] == "invalid-name"


async def test_an_account_uses_its_files_and_those_above(admin: Operator, world: World) -> None:
    made = {}
    for name in ("acme", "acme-labs", "globex"):
        made[name] = (await keep(admin, b"a", accountId=world.accounts[name].id))["id"]
    enclosed = [{"type": "BUNDLE", "id": made["acme"]}, {"type": "BUNDLE", "id": made["acme-labs"]}]
    await admin.create("dev-1", "acme-labs", provisionAttachments=enclosed)
    for name in ("acme-labs", "globex"):
        form = admin.form("dev-2", "acme", provisionAttachments=[{"type": "BUNDLE", "id": made[name]}])
        await admin.refused(400, "unknown-attachment", "POST", PATH, form)
    labs = await world.operator(Role.ADMIN, "acme-labs")
    assert {one["id"] for one in (await labs.get(FILES))["attachment"]} == {made["acme"], made["acme-labs"]}
    await labs.refused(404, "no-such-attachment", "DELETE", f"{FILES}/{made['acme']}")
    assert (await keep(await world.operator(Role.VIEWER), b"a", status=403))["code"] == "forbidden"
    assert (await keep(world.visitor(), b"a", status=401))["code"] == "unauthenticated"
