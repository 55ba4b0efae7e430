"""Key epochs: the ledger moves to another key while devices go on, and what is left opens with nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from provisioner import epochs as module
from provisioner.epochs import Epochs, KeyState, enrol
from provisioner.errors import Conflict, Forbidden, NotFound, Unavailable
from provisioner.handover import Vault, VaultError, epoch_of, key_id
from provisioner.keys import open_keys, reveal_key
from provisioner.lifecycle import Phase
from provisioner.model import Role
from provisioner.policy import Actor
from provisioner.ports import Listing
from provisioner.store.keyrows import SEALED
from tests.provisioner.conftest import ADMIN, START, SimpleDevice, World

LISTING = Listing(limit=1000)
FIRST = b"k" * 32
"""The key of `World`."""


@dataclass
class Ring:
    """A keyring in memory; `destroyed` in the order it happened."""

    keys: dict[int, bytes] = field(default_factory=lambda: {1: FIRST})
    pepper: bytes = b"p" * 32
    is_ours: bool = True
    place: str = "in this test"
    destroyed: list[int] = field(default_factory=list)

    def add(self, epoch: int, key: bytes) -> bytes:
        return self.keys.setdefault(epoch, key)

    def destroy(self, epoch: int) -> None:
        self.keys.pop(epoch, None)
        self.destroyed.append(epoch)


@pytest.fixture
def ring() -> Ring:
    return Ring()


@pytest.fixture
async def keys(world: World, ring: Ring) -> Epochs:
    await enrol(world.store.keys, ring, START)
    return Epochs(world.store.keys, ring, world.vault, os.urandom)


async def rotate(keys: Epochs, *, keep_former: bool = False) -> None:
    while not (await keys.rotate(ADMIN, START, keep_former=keep_former)).is_done:
        pass


def sealed_in(folder: Path) -> list[str]:
    """Every sealed value in the ledger, as another process sees it."""
    connection = sqlite3.connect(folder / "ledger.sqlite")
    try:
        found = connection.execute(
            "SELECT keys_sealed FROM request UNION ALL SELECT secret_sealed FROM credential"
        ).fetchall()
    finally:
        connection.close()
    return [row[0] for row in found if row[0] is not None]


async def states(keys: Epochs) -> dict[int, KeyState]:
    return {one.epoch: one.state for one in await keys.list_epochs(ADMIN)}


async def test_everything_is_sealed_anew_and_nobody_notices(
    world: World, keys: Epochs, ring: Ring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_STEP", 3)
    monkeypatch.setattr(module, "_STEPS", 2)
    devices = [world.device(await world.request(f"dev-{n}"), f"dev-{n}") for n in range(8)]
    offers = [await device.claim() for device in devices[:5]]
    await devices[0].ack()
    await rotate(keys)
    assert {epoch_of(text) for text in sealed_in(tmp_path)} == {2}
    assert len(sealed_in(tmp_path)) == 8 + 4
    assert (list(ring.keys), ring.destroyed) == ([2], [1])
    assert await states(keys) == {1: KeyState.RETIRED, 2: KeyState.IN_USE}
    fresh = Vault(ring.keys, os.urandom, ring.pepper)
    for request in [
        await world.read((await world.administration.list_requests(ADMIN, LISTING))[0][n].id) for n in range(8)
    ]:
        assert open_keys(fresh, request) is not None
        assert (reveal_key(fresh, request) is None) == (request.client_id == "dev-0")
    for device, offer in zip(devices[1:5], offers[1:], strict=True):
        assert (await device.claim()).password == offer.password
        await device.ack()
    await devices[7].claim()


async def test_an_old_copy_opens_with_nothing_after_it(world: World, keys: Epochs, ring: Ring, tmp_path: Path) -> None:
    created = await world.request()
    old = (await world.read(created.request.id)).keys_sealed
    assert old is not None
    await rotate(keys)
    assert old not in sealed_in(tmp_path)
    with pytest.raises(VaultError):
        Vault(ring.keys, os.urandom, ring.pepper).open(old, f"request|{created.request.id}")


async def test_a_kept_key_opens_old_copies_until_it_is_retired(world: World, keys: Epochs, ring: Ring) -> None:
    await world.request()
    await rotate(keys, keep_former=True)
    assert (list(ring.keys), await states(keys)) == ([1, 2], {1: KeyState.KEPT, 2: KeyState.IN_USE})
    await rotate(keys)
    assert (list(ring.keys), ring.destroyed) == ([1, 3], [2])
    assert (await keys.retire(ADMIN, 1, START)).state is KeyState.RETIRED
    assert (await keys.retire(ADMIN, 1, START)).state is KeyState.RETIRED
    assert list(ring.keys) == [3]


async def test_the_journal_tells_what_became_of_each_key(world: World, keys: Epochs) -> None:
    await rotate(keys, keep_former=True)
    await keys.retire(ADMIN, 1, START)
    first, second = (one.key_id for one in await keys.list_epochs(ADMIN))
    lines = [entry.line for entry in await world.store.list_journal(None, 0, 100)]
    told = [(line.action, line.actor, line.cause) for line in lines if "vault-" in line.cause]
    assert told == [
        ("enrol-keys", None, f"vault-1 ({first}) IN_USE"),
        ("rotate-keys", ADMIN.token_id, f"vault-2 ({second}) IN_USE"),
        ("end-rotation", ADMIN.token_id, f"vault-1 ({first}) KEPT"),
        ("retire-key", ADMIN.token_id, f"vault-1 ({first}) RETIRING"),
        ("retire-key", ADMIN.token_id, f"vault-1 ({first}) RETIRED"),
    ]


async def test_only_a_key_that_is_not_needed_is_retired(keys: Epochs, ring: Ring) -> None:
    with pytest.raises(Conflict, match="rotate first"):
        await keys.retire(ADMIN, 1, START)
    with pytest.raises(NotFound):
        await keys.retire(ADMIN, 2, START)
    assert ring.destroyed == []


@pytest.mark.parametrize("actor", [Actor(2, Role.INSTALLER), Actor(3, Role.ADMIN, account_id=7)])
async def test_keys_are_for_whoever_runs_the_installation(keys: Epochs, actor: Actor) -> None:
    for call in (keys.list_epochs(actor), keys.rotate(actor, START, keep_former=False), keys.retire(actor, 1, START)):
        with pytest.raises(Forbidden):
            await call


async def test_what_was_sealed_before_a_rotation_is_sealed_again(world: World, keys: Epochs, tmp_path: Path) -> None:
    """A claim that sealed before the rotation began commits after it: it is stale, starts over and mints once."""
    device = world.device(await world.request())
    await rotate(keys)
    sealing = world.vault.seal
    late = [Vault({1: FIRST}, os.urandom).seal]

    def seal(secret: bytes, context: str) -> str:
        return (late.pop() if late and context.startswith("credential") else sealing)(secret, context)

    world.vault.seal = seal  # type: ignore[method-assign]  # a claim that was between sealing and commit
    offer = await device.claim()
    assert (offer.generation, late) == (1, [])
    assert {epoch_of(text) for text in sealed_in(tmp_path)} == {2}
    assert world.broker.live == [offer.username]


async def test_claims_go_on_during_a_rotation(
    world: World, keys: Epochs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_STEP", 2)
    devices = [world.device(await world.request(f"dev-{n}"), f"dev-{n}") for n in range(40)]
    generations = set()

    async def hand_over(device: SimpleDevice) -> None:
        offer = await device.claim()
        assert (await device.claim()).password == offer.password
        await device.ack()
        generations.add(offer.generation)

    async with asyncio.TaskGroup() as tasks:
        for device in devices:
            tasks.create_task(hand_over(device))
        tasks.create_task(rotate(keys))
        for n in range(20):
            tasks.create_task(world.request(f"new-{n}"))
    assert generations == {1}
    assert {epoch_of(text) for text in sealed_in(tmp_path)} == {2}
    phases = {one.phase for one in (await world.administration.list_requests(ADMIN, LISTING))[0]}
    assert phases == {Phase.CONFIRMED, Phase.PENDING}


class _Killed(Exception):
    pass


@pytest.mark.parametrize("verb", ["add", "save_epochs", "reseal", "destroy"])
@pytest.mark.parametrize("when", ["before", "after"])
async def test_it_goes_on_wherever_it_was_interrupted(
    world: World, ring: Ring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str, when: str
) -> None:
    """Each durable step of a rotation fails once, before and after it is done; then another process takes it up."""
    monkeypatch.setattr(module, "_STEP", 2)
    await enrol(world.store.keys, ring, START)
    devices = [world.device(await world.request(f"dev-{n}"), f"dev-{n}") for n in range(5)]
    offers = [await device.claim() for device in devices]
    for skip in range(4):
        start = max(ring.keys)
        place = ring if verb in ("add", "destroy") else world.store.keys
        with monkeypatch.context() as patch:
            _interrupt(patch, place, verb, when, skip)
            with contextlib.suppress(_Killed):
                await rotate(Epochs(world.store.keys, ring, Vault(ring.keys, os.urandom, ring.pepper), os.urandom))
        await enrol(world.store.keys, ring, START)
        vault = Vault(ring.keys, os.urandom, ring.pepper)
        keys = Epochs(world.store.keys, ring, vault, os.urandom)
        for request in (await world.administration.list_requests(ADMIN, LISTING))[0]:
            assert open_keys(vault, request) is not None
        if max(ring.keys) == start or [
            one for one in (await keys.list_epochs(ADMIN))[:-1] if one.state is KeyState.IN_USE
        ]:
            await rotate(keys)
        assert {epoch_of(text) for text in sealed_in(tmp_path)} == {max(ring.keys)}
        assert list(ring.keys) == [max(await states(keys))]
        for key, epoch in zip(ring.keys.values(), ring.keys, strict=True):
            world.vault.add(epoch, key)
    for device, offer in zip(devices, offers, strict=True):
        assert (await device.claim()).password == offer.password


def _interrupt(patch: pytest.MonkeyPatch, place: object, verb: str, when: str, skip: int) -> None:
    real, calls = getattr(place, verb), []

    def count() -> None:
        calls.append(verb)
        if len(calls) == skip + 1:
            raise _Killed

    async def awaited(*args: object) -> object:
        if when == "before":
            count()
        outcome = await real(*args)
        if when == "after":
            count()
        return outcome

    def called(*args: object) -> object:
        if when == "before":
            count()
        outcome = real(*args)
        if when == "after":
            count()
        return outcome

    patch.setattr(place, verb, awaited if asyncio.iscoroutinefunction(real) else called)


async def test_wrong_and_missing_keys_are_known_at_the_start(world: World, keys: Epochs, ring: Ring) -> None:
    del keys
    for broken, sentence in (
        (Ring({1: b"x" * 32}), rf"has id {key_id(b'x' * 32)}, the ledger needs the one with id {key_id(FIRST)}"),
        (Ring({2: b"x" * 32}), r"the ledger needs key vault-1 .* which is not in this test: put it back"),
        (Ring(pepper=b"x" * 32), r"the pepper in this test is not the one"),
    ):
        with pytest.raises(Unavailable, match=sentence):
            await enrol(world.store.keys, broken, START)
    assert [one.epoch for one in await world.store.keys.list_epochs()] == [1]
    await enrol(world.store.keys, ring, START)


async def test_keys_of_others_are_only_read(world: World, tmp_path: Path) -> None:
    ring = Ring(is_ours=False)
    await enrol(world.store.keys, ring, START)
    keys = Epochs(world.store.keys, ring, world.vault, os.urandom)
    await world.request()
    with pytest.raises(Conflict, match="keep a new key vault-2 beside the others"):
        await rotate(keys)
    ring.keys[2] = b"n" * 32
    await enrol(world.store.keys, ring, START)
    world.vault.add(2, ring.keys[2])
    await rotate(keys)
    assert {epoch_of(text) for text in sealed_in(tmp_path)} == {2}
    assert (ring.destroyed, await states(keys)) == ([], {1: KeyState.RETIRING, 2: KeyState.IN_USE})
    del ring.keys[1]
    await enrol(world.store.keys, ring, START)
    assert await states(keys) == {1: KeyState.RETIRED, 2: KeyState.IN_USE}


def test_every_sealed_column_is_part_of_a_pass(world: World, tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "ledger.sqlite")
    try:
        found = connection.execute(
            "SELECT m.name, c.name FROM sqlite_schema m JOIN pragma_table_info(m.name) c"
            " WHERE m.type = 'table' AND c.name LIKE '%sealed'"
        ).fetchall()
    finally:
        connection.close()
    assert {table for table, _ in found} == set(SEALED)
    assert len(found) == len(SEALED)
