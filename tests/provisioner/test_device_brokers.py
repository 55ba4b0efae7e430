"""What a device broker cannot hold is not promised, several may be there at once, and its queue is told honestly."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from provisioner.entities import NewAccount
from provisioner.errors import Forbidden, Invalid, Reason, Rejected
from provisioner.lifecycle import Phase
from provisioner.model import AccountKind, Coupling, Kind, Role
from provisioner.ports import Install
from provisioner.reconcile import Reconciler
from provisioner.terms import check_kind
from tests.provisioner.conftest import ADMIN, START, CueBroker, World

TWO = 2


def beside(world: World, name: str, **abilities: object) -> CueBroker:
    """One more device broker of this world."""
    broker = CueBroker(name=name, **abilities)  # type: ignore[arg-type]  # a test's keywords
    for part in (world.administration, world.jobs, world.provisioner, world.provisioner.offering):
        part._brokers = {**part._brokers, name: broker}
    return broker


async def test_tight_is_refused_where_the_broker_admits_any_client_id(world: World) -> None:
    world.broker.binds_client_id = False
    with pytest.raises(Invalid, match=r"LOOSE.*webhook") as refused:
        await world.request(coupling=Coupling.STRICT)
    assert (refused.value.code, refused.value.field) == ("tight-not-held", "deviceCredentialsTight")
    with pytest.raises(Invalid):
        await world.request()  # the account's default is tight
    loose = await world.request(coupling=Coupling.LOOSE)
    with pytest.raises(Invalid, match="cannot be tight"):
        await world.administration.update_request(
            ADMIN, loose.request.id, loose.request.optlock, {"coupling": Coupling.STRICT}, world.now
        )


async def test_a_name_that_the_broker_maps_is_refused(world: World) -> None:
    with pytest.raises(Invalid, match="no client id with a dot") as refused:
        await world.request("dev.1")
    assert (refused.value.code, refused.value.field) == ("client-id-unfit", "clientId")


@pytest.mark.parametrize(
    ("kind", "flag", "code"),
    [(Kind.PASSWORD, "takes_passwords", "certificates-only"), (Kind.X509, "takes_certificates", "passwords-only")],
)
def test_what_a_broker_does_not_take_is_not_promised(kind: Kind, flag: str, code: str) -> None:
    broker = CueBroker()
    check_kind(broker, kind)
    setattr(broker, flag, False)
    with pytest.raises(Invalid) as refused:
        check_kind(broker, kind)
    assert (refused.value.code, refused.value.field) == (code, "credentialKind")


async def test_an_account_names_its_own_device_broker(world: World) -> None:
    plant = beside(world, "plant")
    await world.administration.create_account(
        ADMIN, NewAccount("globex", AccountKind.TARGET, device_broker="plant"), START
    )
    there, here = await world.request("dev-1", account="globex"), await world.request("dev-2")
    await world.device(there).claim()
    await world.device(here, "dev-2").claim()
    assert plant.live == ["p.globex.dev-1.g1"]
    assert world.broker.live == ["p.acme.dev-2.g1"]


async def test_one_client_id_may_work_at_two_device_brokers(world: World) -> None:
    plant = beside(world, "plant")
    await world.administration.create_account(
        ADMIN, NewAccount("globex", AccountKind.TARGET, device_broker="plant"), START
    )
    await world.device(await world.request("dev-1")).claim()
    await world.device(await world.request("dev-1", account="globex")).claim()
    assert [len(broker.live) for broker in (world.broker, plant)] == [1, 1]


async def test_an_account_moves_and_its_devices_stay(world: World) -> None:
    plant = beside(world, "plant")
    created = await world.request("dev-1")
    await world.device(created).claim()
    moved = await world.administration.move_account(ADMIN, "acme", "plant", world.now)
    assert moved.device_broker == "plant"
    await world.device(await world.request("dev-2"), "dev-2").claim()
    assert plant.live == ["p.acme.dev-2.g1"]
    await world.administration.stop(ADMIN, created.request.id, world.now)
    await world.run_jobs()
    assert world.broker.live == []
    with pytest.raises(Invalid, match="embedded, plant"):
        await world.administration.move_account(ADMIN, "acme", "nowhere", world.now)
    with pytest.raises(Forbidden):
        await world.administration.move_account(replace(ADMIN, role=Role.INSTALLER), "acme", "plant", world.now)


async def test_an_account_of_a_device_broker_that_is_gone_is_told_what_to_do(world: World) -> None:
    world.administration._brokers = {"plant": world.broker}
    with pytest.raises(Invalid, match="move the account to plant") as refused:
        await world.request()
    assert refused.value.code == "no-such-device-broker"


async def test_a_claim_is_told_how_long_the_queue_is(world: World) -> None:
    device = world.device(await world.request())
    world.broker.outcome = Install.LATER
    world.broker.queue = 41.2
    with pytest.raises(Rejected) as refused:
        await device.claim()
    assert (refused.value.reason, refused.value.retry_after) == (Reason.WAIT, 42)
    world.broker.queue = 0.0
    with pytest.raises(Rejected) as refused:
        await device.claim()
    assert refused.value.retry_after == TWO


async def test_what_was_put_off_is_done_at_once_when_the_broker_is_back(world: World, tmp_path: Path) -> None:
    created = await world.request()
    world.broker.outcome = Install.LATER
    with pytest.raises(Rejected):
        await world.device(created).claim()
    for _ in range(8):  # each attempt is put off for longer
        world.now += 60_000
        await world.run_jobs()
    world.broker.outcome = Install.DONE
    await world.run_jobs()
    assert (await world.read(created.request.id)).phase is Phase.MINTED
    world.jobs.reconcile()
    await world.run_jobs()
    assert (await world.read(created.request.id)).phase is Phase.OFFERED


async def test_many_that_are_missing_are_put_back_in_few_calls(world: World) -> None:
    devices = [world.device(await world.request(f"dev-{number}"), f"dev-{number}") for number in range(150)]
    await asyncio.gather(*(device.claim() for device in devices))
    world.broker.live.clear()
    calls = 0
    install = world.broker.install

    async def counted(items: object) -> object:
        nonlocal calls
        calls += 1
        return await install(items)  # type: ignore[arg-type]  # as given

    world.broker.install = counted  # type: ignore[assignment,method-assign]  # counts
    await Reconciler(world.store, {"embedded": world.broker}, world.vault).mend(world.now)
    assert calls == TWO
    assert len(world.broker.live) == 150
