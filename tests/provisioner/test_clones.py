"""One activation key in two hands at once raises an alarm, and quarantines where the operator wants that."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from provisioner.clones import CloneAction, CloneRule, CloneWatch
from provisioner.errors import Reason, Rejected
from provisioner.handover import encode64
from provisioner.model import Origin, Status
from provisioner.service import Rules
from tests.provisioner.conftest import START, World, build

ELSEWHERE = Origin("192.0.2.7", 2, secure=True)
RULE = CloneRule(CloneAction.ALARM, 60_000)


def keys(number: int) -> str:
    return encode64(bytes([number]) * 32)


async def alarms(world: World) -> int:
    return sum(entry.line.action == "clone-suspected" for entry in await world.store.list_journal(None, 0, 1_000))


async def test_two_addresses_at_once_are_an_alarm_and_both_are_served(world: World) -> None:
    device = world.device(await world.request())
    await device.claim()
    await replace(device, origin=ELSEWHERE).claim()
    await device.claim()
    assert await alarms(world) == 1


async def test_one_unit_that_repeats_itself_is_no_alarm(world: World) -> None:
    device = world.device(await world.request())
    for _ in range(5):
        await device.claim(seal_to=keys(9))
    assert await alarms(world) == 0


async def test_two_keys_to_seal_to_are_an_alarm(world: World) -> None:
    device = world.device(await world.request())
    await device.claim(seal_to=keys(9))
    await device.claim(seal_to=keys(10))
    assert await alarms(world) == 1


async def test_a_stranger_without_the_key_raises_none(world: World) -> None:
    device = world.device(await world.request())
    await device.claim()
    with pytest.raises(Rejected):
        await replace(device, origin=ELSEWHERE, key="Z" * 32).claim()
    assert await alarms(world) == 0


@pytest.fixture
async def strict(tmp_path: Path) -> AsyncIterator[World]:
    made = await build(tmp_path, Rules(clones=CloneRule(CloneAction.QUARANTINE, 60_000)))
    yield made
    await made.jobs.close()
    await made.store.close()


async def test_quarantine_switches_the_request_off(strict: World) -> None:
    created = await strict.request()
    device = strict.device(created)
    await device.claim()
    with pytest.raises(Rejected) as refused:
        await replace(device, origin=ELSEWHERE).claim()
    assert refused.value.reason is Reason.DISABLED
    assert (await strict.read(created.request.id)).status is Status.DISABLED
    assert (await device.ack()).reason is Reason.CONFIRMED


def test_a_while_later_is_not_at_once() -> None:
    watch = CloneWatch(RULE)
    assert watch.suspects(1, "a", "", START) is None
    assert watch.suspects(1, "b", "", START + 60_000) is None
    assert watch.suspects(1, "a", "", START + 119_999) is not None
    assert watch.suspects(1, "b", "", START + 120_000) is None


def test_the_memory_is_bounded_and_the_alarm_can_be_off() -> None:
    watch = CloneWatch(RULE, most=2)
    for number in range(3):
        watch.suspects(number, "a", "", START)
    assert watch.suspects(0, "b", "", START) is None
    assert CloneWatch(CloneRule(CloneAction.OFF)).suspects(1, "a", "", START) is None
