"""Who switches the device."""

import asyncio
from pathlib import Path

import pytest

from broker.conformance.power import Person, PowerFailed, Relay


async def test_a_relay_is_called_in_order(tmp_path: Path) -> None:
    log = tmp_path / "log"
    relay = Relay(f"echo reset >> {log}", f"echo off >> {log}", f"echo on >> {log}", seconds_off=0.0)
    await relay.renew()
    await relay.cycle("it has sent CONNECT")
    assert log.read_text().split() == ["reset", "off", "on"]


async def test_a_relay_that_fails_says_why() -> None:
    relay = Relay("echo no such outlet >&2; exit 3", "true", "true")
    with pytest.raises(PowerFailed, match=r"ends with exit code 3: no such outlet"):
        await relay.renew()


async def test_a_person_is_told_what_to_do_and_why() -> None:
    told: list[str] = []
    person = Person(told.append)
    async with asyncio.timeout(1000):
        await person.renew()
        await person.cycle("it has sent its claim")
    assert told == [
        "Reset the device to its factory state and switch it on.",
        "Switch the device off and on again (it has sent its claim).",
    ]
