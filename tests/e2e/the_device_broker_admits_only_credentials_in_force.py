"""The device broker: who gets in under which name, which topics are his, and who can throw him out."""

import asyncio
import contextlib
from collections.abc import Mapping
from typing import Any

import pytest

from tests.e2e import packets as mqtt
from tests.e2e.independent import IndependentDevice
from tests.e2e.packets import ContractError, EndedError, RefusedError, Session
from tests.e2e.program import Site, fresh_name, fresh_source


async def enter(site: Site, credentials: Mapping[str, Any], client_id: str | None = None, **instead: Any) -> Session:
    """Log in at the device broker with a credential, parts of it replaced."""
    used = {**credentials, **instead}
    return await Session.login(
        site.program.device_broker,
        client_id or used["clientId"],
        used["username"],
        used["password"],
        source=fresh_source(),
    )


async def hears_itself(session: Session, base: str) -> bool:
    """Whether a message to one's own topic comes back."""
    await session.publish(f"{base}/echo", b"am I here?", 1)
    return (await session.message()).payload == b"am I here?"


async def working(site: Site, device: IndependentDevice, credentials: Mapping[str, Any]) -> Session:
    """Log in and subscribe to everything of one's own."""
    session = await device.login(site.program.device_broker, credentials)
    assert await session.subscribe((f"north/{device.client_id}/#", 1)) == [1]
    return session


async def test_a_strict_credential_is_refused_under_another_client_id(site: Site) -> None:
    device, _, credentials = await site.confirmed()
    for other in (fresh_name(), device.client_id + "x", device.client_id.upper()):
        with pytest.raises(RefusedError) as refused:
            await enter(site, credentials, other)
        assert refused.value.code in {2, 4, 5}
    async with await enter(site, credentials):
        pass


async def test_the_journal_tells_where_the_first_login_came_from(site: Site) -> None:
    device, request = await site.unit()
    used, source = (await device.provision()).credentials, fresh_source()
    login = used["clientId"], used["username"], used["password"]
    async with await Session.login(site.program.device_broker, *login, source=source):
        await request.until("CONFIRMED")
    log = await site.operator.ask("GET", f"{request.path}/log")
    assert [entry["source"] for entry in log["entry"] if entry["action"] == "login"] == [source]


async def test_a_loose_credential_is_admitted_under_another_client_id(site: Site) -> None:
    device, _, credentials = await site.confirmed(deviceCredentialsTight="LOOSE")
    other = fresh_name()
    async with await enter(site, credentials, other) as session:
        assert await session.subscribe((f"north/{other}/#", 1)) == [1]
        assert await hears_itself(session, f"north/{other}")
        assert await session.subscribe((f"north/{device.client_id}/#", 1)) == [0x80]


async def test_a_loose_credential_may_not_take_the_name_of_another_device(site: Site) -> None:
    owner, _, owned = await site.confirmed()
    _, _, loose = await site.confirmed(deviceCredentialsTight="LOOSE")
    async with await working(site, owner, owned) as session:
        with pytest.raises(RefusedError):
            await enter(site, loose, owner.client_id)
        assert await hears_itself(session, f"north/{owner.client_id}")


async def test_a_loose_credential_needs_a_well_formed_client_id(site: Site) -> None:
    _, _, loose = await site.confirmed(deviceCredentialsTight="LOOSE")
    for wrong in ("a/b", "+", "-a", "x" * 129):
        with pytest.raises(RefusedError):
            await enter(site, loose, wrong)


@pytest.mark.parametrize(
    "topic",
    [
        "#",
        "+/+/+",
        "north/#",
        "north/+/up",
        "north",
        "north/somebody-else/#",
        "south/{id}/#",
        "prov/v1/#",
        "$SYS/#",
        "north/{id}x/#",
        "/north/{id}/#",
    ],
)
async def test_filters_outside_the_devices_own_topics_are_refused(site: Site, topic: str) -> None:
    device, _, credentials = await site.confirmed()
    async with await device.login(site.program.device_broker, credentials) as session:
        assert await session.subscribe((topic.format(id=device.client_id), 1)) == [0x80]


@pytest.mark.parametrize("account", ["north", "south"])
async def test_nobody_hears_what_a_device_says_outside_its_own_topics(site: Site, account: str) -> None:
    device, _, credentials = await site.confirmed(confirm="ack")
    victim, request, theirs = await site.confirmed(account=account)
    base = f"{account}/{request.client_id}"
    async with await victim.login(site.program.device_broker, theirs) as target:
        assert await target.subscribe((f"{base}/#", 1)) == [1]
        async with await device.login(site.program.device_broker, credentials) as intruder:
            for qos in (0, 1):
                await intruder.send(intruder.publish_packet(f"{base}/forged", b"forged", qos))
            # It is thrown out, which is as good, or hears a PUBACK first, which means nothing.
            with contextlib.suppress(EndedError, ContractError):
                await intruder.ping()
        assert await hears_itself(target, base)


async def test_two_devices_of_one_account_do_not_hear_each_other(site: Site) -> None:
    first, _, one = await site.confirmed()
    second, _, two = await site.confirmed()
    async with await working(site, first, one) as here, await working(site, second, two) as there:
        await here.publish(f"north/{first.client_id}/secret", b"for me", 1)
        assert (await here.message()).payload == b"for me"
        assert await hears_itself(there, f"north/{second.client_id}")


async def test_what_is_not_exactly_the_credential_is_refused(site: Site) -> None:
    _, _, credentials = await site.confirmed()
    name, password = credentials["username"], credentials["password"]
    for instead in (
        {"password": password[:-1]},
        {"password": password + "x"},
        {"password": ""},
        {"password": None},
        {"username": name.upper()},
        {"username": name + " "},
        {"username": None, "password": None},
        {"username": name.replace(".g1", ".g2")},
    ):
        if instead.get("username", "") == name:
            continue
        with pytest.raises((RefusedError, EndedError)):
            await enter(site, credentials, **instead)


async def test_wrong_passwords_never_disturb_a_live_device(site: Site) -> None:
    device, _, credentials = await site.confirmed()
    stranger, _, other = await site.confirmed()
    async with await working(site, device, credentials) as session:
        attempts: list[dict[str, Any]] = [
            {"password": "wrong"},
            {"password": None},
            {"username": None, "password": None},
            dict(other),
        ]
        for instead in attempts * 3:
            with pytest.raises((RefusedError, EndedError)):
                await enter(site, credentials, device.client_id, **instead | {"clientId": device.client_id})
        assert await hears_itself(session, f"north/{device.client_id}")
    assert stranger.client_id != device.client_id


async def test_half_a_connect_never_disturbs_a_live_device(site: Site) -> None:
    device, _, credentials = await site.confirmed()
    async with await working(site, device, credentials) as session:
        connect = mqtt.connect_packet(device.client_id, credentials["username"], "wrong")
        for data in (
            connect[:-3],
            connect[:1],
            b"\x10\xff\xff\xff\xff\x01",
            b"GET / HTTP/1.1\r\n\r\n",
            connect[:2] + b"\x00\x06MQIsdp\x03",
        ):
            async with await Session.open(site.program.device_broker) as half:
                await half.send(data)
        assert await hears_itself(session, f"north/{device.client_id}")


async def test_the_device_itself_may_log_in_anew(site: Site) -> None:
    device, _, credentials = await site.confirmed()
    async with await working(site, device, credentials) as old, await working(site, device, credentials) as new:
        await old.ended()
        assert await hears_itself(new, f"north/{device.client_id}")


async def test_revoking_closes_the_live_session_and_refuses_the_next(site: Site) -> None:
    device, request, credentials = await site.confirmed()
    async with await working(site, device, credentials) as session:
        ended = asyncio.ensure_future(session.ended())
        await request.tell("revoke")
        await ended
    now = await request.until("STOPPED")
    assert now["provisionJob"]["status"] == "STOPPED"
    with pytest.raises(RefusedError):
        await enter(site, credentials)


async def test_an_offered_credential_works_before_it_is_confirmed_and_not_after_it_was_retired(site: Site) -> None:
    device, request = await site.unit(confirm="ack")
    offer = await device.provision()
    async with await working(site, device, offer.credentials) as session:
        assert await hears_itself(session, f"north/{device.client_id}")
        assert (await device.ack("failed", 1)).reason == "noted"
        await session.ended()
    await request.until("PENDING")
    with pytest.raises(RefusedError):
        await enter(site, offer.credentials)
