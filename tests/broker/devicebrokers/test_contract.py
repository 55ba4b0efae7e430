"""What every kind of device broker keeps, each tried on the real one (brokers.md's pitfalls are named where they are).

The worlds are in `worlds.py`. Where the broker asks the ledger nothing is installed, and the world's ledger is filled.
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path

import aiomqtt
import pytest

from broker.fleet.link import Link, Login, Lost, Refused
from broker.mqtt.packets import V5
from provisioner.errors import Unavailable
from provisioner.model import Coupling
from provisioner.ports import Install, Revoke
from tests.broker.devicebrokers.certified import mosquitto_certificates
from tests.broker.devicebrokers.worlds import (
    FOREIGN,
    PATIENCE,
    QUICK,
    RABBIT,
    World,
    is_closed,
    is_open,
    to_install,
)

HOSTILE = ("+", "#", "a/b", ".*", "dev-1|x", "%c", "%u", "x" * 200, "d\u00e9v-1", "dev-2")
FILTERS = (
    "#", "+/#", "+/+/#", "acme/#", "acme/+/#", "acme/dev-2/#", "acme/dev-2/out", "+/dev-2/#", "acme/+/out",
    "+/+/out", "acme/dev-2", "$share/g/acme/dev-2/#",
)  # fmt: skip


WORLDS = QUICK | {"mosquitto-certificates": mosquitto_certificates}


@pytest.fixture(
    params=[*WORLDS, *(pytest.param(name, marks=pytest.mark.timeout(300)) for name in RABBIT)],
)
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    if request.param in WORLDS:
        opened = WORLDS[request.param](tmp_path)
    else:
        opened = RABBIT[request.param](tmp_path, request.getfixturevalue("rabbit"))
    async with opened as made:
        yield made


async def listed(world: World) -> list[str] | None:
    """Our names there, in order; None where the broker has no list."""
    return None if world.broker.asks_ledger or not world.broker.takes_passwords else sorted(await world.broker.list())


async def install(world: World, *client_ids: str, coupling: Coupling = Coupling.LOOSE) -> None:
    items = [to_install(client_id, coupling=coupling) for client_id in client_ids]
    assert await world.broker.install(items) == [Install.DONE] * len(items)


async def test_who_is_installed_can_log_in_now_and_nobody_else(world: World) -> None:
    assert not await world.admits(to_install())
    await install(world, "dev-1")
    assert await world.admits(to_install())
    assert not await world.admits(to_install(), password="guess")
    assert not await world.admits(to_install("dev-2"))
    assert await world.admits_foreign()


async def test_installing_again_changes_nothing_and_disturbs_nobody(world: World) -> None:
    await install(world, "dev-1")
    link = await world.enter(to_install())
    await install(world, "dev-1", "dev-2")
    assert await is_open(link, "acme/dev-1/out")
    assert await listed(world) in (None, ["p.acme.dev-1.g1", "p.acme.dev-2.g1"])


async def test_revoking_refuses_for_good_and_closes_the_session(world: World) -> None:
    await install(world, "dev-1", "dev-2")
    link, other = await world.enter(to_install()), await world.enter(to_install("dev-2"))
    kicked = Revoke.CLOSED if world.broker.kicks_live else Revoke.OPEN
    assert await world.broker.revoke(["p.acme.dev-1.g1"]) == [kicked]
    assert await is_closed(link) is world.broker.kicks_live
    assert not await world.admits(to_install())
    assert await is_open(other, "acme/dev-2/out")
    assert await world.broker.revoke(["p.acme.dev-1.g1", "p.acme.dev-9.g1"]) == [kicked] * 2
    if not world.broker.asks_ledger:
        assert await world.broker.install([to_install()]) == [Install.NEVER]
    assert await listed(world) in (None, ["p.acme.dev-2.g1"])
    assert await world.admits_foreign()


async def test_the_next_generation_works_beside_the_former(world: World) -> None:
    await install(world, "dev-1")
    link = await world.enter(to_install())
    assert await world.broker.install([to_install(generation=2)]) == [Install.DONE]
    assert await is_open(link, "acme/dev-1/out")
    await link.close()
    assert await world.broker.revoke(["p.acme.dev-1.g1"]) != [Revoke.LATER]
    link = await world.enter(to_install(generation=2))
    assert await is_open(link, "acme/dev-1/out")


async def test_many_at_once_are_all_there(world: World) -> None:
    items = [to_install(f"dev-{number}") for number in range(60)]
    parts = [items[start : start + 7] for start in range(0, len(items), 7)]
    outcomes = await asyncio.gather(*(world.broker.install(part) for part in parts))
    assert {one for part in outcomes for one in part} == {Install.DONE}
    assert all(await asyncio.gather(*(world.admits(item) for item in items[::5])))
    names = [item.credential.username for item in items]
    assert await listed(world) in (None, sorted(names))
    assert Revoke.LATER not in await world.broker.revoke(names[:59])
    assert await listed(world) in (None, names[59:])


async def test_tight_is_what_the_flag_says(world: World) -> None:
    await install(world, "dev-1", coupling=Coupling.STRICT)
    assert await world.admits(to_install())
    for client_id in ("dev-2", "Dev-1", "dev-1x", "dev-1 "):
        if world.broker.takes_passwords:
            assert await world.admits(to_install(), client_id) is not world.broker.binds_client_id
        else:  # a certificate says who it is, whatever CONNECT says
            link = await world.enter(to_install(), client_id)
            for topic in (f"acme/{client_id}/out", "acme/dev-1/out"):
                await link.subscribe(topic)
            for topic in (f"acme/{client_id}/out", "acme/dev-1/out"):
                link.publish(topic, topic.encode())
            async with asyncio.timeout(PATIENCE):
                assert await link.receive() == b"acme/dev-1/out"


async def test_a_broker_that_was_away_is_waited_for_and_forgot_nobody(world: World) -> None:
    if world.broker.kind == "embedded":
        return  # it is a part of this process: what is away with it, its own tests tell
    await install(world, "dev-1", "dev-2")
    await world.broker.revoke(["p.acme.dev-2.g1"])
    pulse = await world.broker.pulse()
    await install(world, "dev-3")
    assert await world.broker.pulse() == pulse
    await world.kill()
    if not world.broker.asks_ledger:
        for look in (world.broker.probe, world.broker.pulse):
            with pytest.raises(Unavailable) as told:
                await look()
            assert to_install().password.reveal() not in f"{told.value!r} {told.value.detail}"
        later = Install.LATER if world.broker.takes_passwords else Install.DONE
        assert await world.broker.install([to_install("dev-4"), to_install("dev-5")]) == [later] * 2
    assert await world.broker.revoke(["p.acme.dev-3.g1"]) == [Revoke.LATER]
    await world.restart()
    if not world.broker.asks_ledger:
        assert await world.broker.pulse() != pulse
    assert await world.admits(to_install()) is world.broker.persists
    assert not await world.admits(to_install("dev-2"))
    assert await world.broker.revoke(["p.acme.dev-3.g1"]) != [Revoke.LATER]
    await install(world, "dev-4", "dev-5")
    assert [await world.admits(to_install(f"dev-{number}")) for number in (3, 4, 5)] == [False, True, True]


async def test_a_healthy_broker_is_probed_without_a_finding(world: World) -> None:
    await install(world, "dev-1")
    link = await world.enter(to_install())
    found = await world.broker.probe()
    assert found.problems == ()
    assert await is_open(link, "acme/dev-1/out")


async def test_a_device_has_its_own_topics_and_no_others(world: World) -> None:
    # H-5 at the device broker: whoever has a credential of its own hears nothing of its neighbour.
    await install(world, "dev-1", "dev-2")
    spy, victim = await world.enter(to_install()), await world.enter(to_install("dev-2"))
    assert await is_open(victim, "acme/dev-2/out")
    heard = await tapped(world, spy, FILTERS)
    victim.publish("acme/dev-2/out", b"for nobody else")
    assert await is_open(victim, "acme/dev-2/in")
    assert await heard() == set()


async def test_a_device_reaches_nobody_else_whatever_is_acknowledged(world: World) -> None:
    # Pitfall 7: neither SUBACK nor PUBACK means that something is allowed; what arrives does.
    await install(world, "dev-1", "dev-2")
    victim = await world.enter(to_install("dev-2"))
    await victim.subscribe("acme/dev-2/#")
    for topic in ("acme/dev-2/in", "acme/dev-2", "acme/dev-2/in/deep"):
        forger = await world.enter(to_install())
        with contextlib.suppress(Lost):
            forger.publish(topic, b"forged")
            forger.publish("acme/dev-1/own", b"mine")
            await is_open(forger, "acme/dev-1/own")
    victim.publish("acme/dev-2/last", b"my own")
    async with asyncio.timeout(PATIENCE):
        assert await victim.receive() == b"my own"


async def tapped(
    world: World, spy: Link, filters: Iterable[str], client_id: str = "dev-1"
) -> Callable[[], Awaitable[set[bytes]]]:
    """Subscribe to all of these, on a fresh connection where the broker closes one; what is heard comes when asked."""
    links = [spy]
    for wanted in filters:
        try:
            await links[-1].subscribe(wanted)
        except Refused:
            continue
        except Lost:
            links.append(await world.enter(to_install(), client_id))

    async def heard() -> set[bytes]:
        found = set()
        for link in links:
            with contextlib.suppress(Lost, TimeoutError):
                async with asyncio.timeout(0.5):
                    while True:
                        found.add(await link.receive())
        return found

    return heard


@pytest.mark.parametrize("client_id", HOSTILE)
async def test_no_client_id_opens_anothers_topics(world: World, client_id: str) -> None:
    # Pitfall 1: a client id is text that brokers paste into topics, patterns and regular expressions.
    await install(world, "dev-1", "dev-2")
    try:
        spy = await world.enter(to_install(), client_id)
    except (Lost, Refused):
        return
    wanted = ("acme/dev-2/#", f"acme/{client_id}/#".replace("#/", "+/"), "acme/+/out", "+/+/out", "#")
    heard = await tapped(world, spy, wanted, client_id)
    spy.publish("acme/dev-2/in", b"forged")
    victim = await world.enter(to_install("dev-2"))  # takes the connection of its own id over, as MQTT demands
    assert await is_open(victim, "acme/dev-2/in")
    victim.publish("acme/dev-2/out", b"for nobody else")
    assert await is_open(victim, "acme/dev-2/in")
    assert await heard() == set()


async def test_a_wrong_password_with_a_live_client_id_disturbs_nobody(world: World) -> None:
    # Pitfall 2.
    await install(world, "dev-1")
    link = await world.enter(to_install())
    assert not await world.admits(to_install(), password="guess")
    with pytest.raises(Refused):
        await world.login(Login("dev-1", FOREIGN[0], "guess"))
    assert await is_open(link, "acme/dev-1/out")


@pytest.mark.parametrize("clean", [True, False])
async def test_the_newer_connection_of_a_device_takes_over(world: World, clean: bool) -> None:
    # Pitfall 3.
    await install(world, "dev-1")
    old = await world.enter(to_install())
    item = to_install()
    port, tls = world.door(item)
    async with aiomqtt.Client(
        "127.0.0.1",
        port,
        identifier="dev-1",
        username=item.credential.username,
        password=item.password.reveal(),
        clean_session=clean,
        timeout=PATIENCE,
        tls_context=tls,
    ) as new:
        assert await is_closed(old)
        await new.subscribe("acme/dev-1/out", qos=1)
        await new.publish("acme/dev-1/out", b"still here", qos=1)
        async with asyncio.timeout(PATIENCE):
            assert (await anext(aiter(new.messages))).payload == b"still here"


async def test_a_device_of_mqtt_5_is_served_or_clearly_refused(world: World) -> None:
    # Pitfall 8.
    await install(world, "dev-1")
    try:
        link = await world.enter(to_install(), version=V5)
    except Lost:
        assert await world.admits(to_install())
    else:
        assert await is_open(link, "acme/dev-1/out")


async def test_the_way_to_the_broker_does_not_wait_for_delayed_acknowledgements(world: World) -> None:
    # Pitfall 9 (Nagle): a sequential round trip on loopback is far below the 40 ms of a delayed acknowledgement.
    await install(world, "dev-1")
    times = []
    for _ in range(9):
        began = time.perf_counter()
        await world.broker.list()
        times.append(time.perf_counter() - began)
    assert statistics.median(times) < 0.020
