"""Mosquitto by its files, where the contract of all device brokers ends."""

from __future__ import annotations

import asyncio
import os
import shlex
import stat
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.devicebrokers.mosquitto_files import Files, MosquittoFiles
from broker.devicebrokers.watch import Watch
from broker.fleet.replies import Address
from provisioner.errors import Unavailable
from provisioner.ports import Install
from tests.broker.devicebrokers.worlds import World, mosquitto_files, to_install
from tests.mosquitto import password_line


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with mosquitto_files(tmp_path) as made:
        yield made


def another(world: World, **where: object) -> MosquittoFiles:
    """One more installer at the same broker."""
    own = {"passwords": world.folder / "passwords", "rights": world.folder / "rights"}
    files = Files(**(own | where))  # type: ignore[arg-type]  # a test's keywords
    return MosquittoFiles("plant", files, Address("127.0.0.1", world.port), None, os.urandom, plain=None, secure=None)


async def test_owner_mode_and_others_lines_stay(world: World) -> None:
    passwords, rights = world.folder / "passwords", world.folder / "rights"
    passwords.chmod(0o640)
    before = passwords.read_text(), rights.read_text()
    assert await world.broker.install([to_install()]) == [Install.DONE]
    assert stat.S_IMODE(passwords.stat().st_mode) == 0o640
    assert passwords.read_text().startswith(before[0])
    assert rights.read_text().startswith(before[1])
    assert to_install().password.reveal() not in passwords.read_text()
    assert {one.name for one in world.folder.iterdir()} == {
        "passwords", "rights", "mosquitto.conf", "mosquitto.log", "mosquitto.pid",
    }  # fmt: skip


async def test_a_file_that_somebody_broke_is_named_and_left_alone(world: World) -> None:
    # Pitfall 6: Mosquitto 2.1 ends itself at the reload of a malformed or doubled line.
    passwords = world.folder / "passwords"
    for line in ("no colon\n", passwords.read_text()):
        broken = passwords.read_text() + line
        passwords.write_text(broken)
        assert await world.broker.install([to_install()]) == [Install.LATER]
        assert passwords.read_text() == broken
        with pytest.raises(Unavailable, match=r"passwords (has a line|names)"):
            await world.broker.probe()
        passwords.write_text(broken.removesuffix(line))
    assert await world.broker.install([to_install()]) == [Install.DONE]


async def test_reloads_keep_their_distance_and_take_all_that_waits(world: World) -> None:
    # Pitfall 6: each reload is a time in which the broker serves nobody.
    began = time.monotonic()
    items = [to_install(f"dev-{number}") for number in range(100)]
    outcomes = await asyncio.gather(*(world.broker.install([item]) for item in items))
    assert outcomes == [[Install.DONE]] * 100
    reloads = (world.folder / "mosquitto.log").read_text().count("Reloading config")
    assert reloads <= 2 + (time.monotonic() - began) / 0.2
    assert reloads <= 10
    assert world.broker.cost(100, 0).rewrites == 2


async def test_what_is_not_loaded_is_not_done(world: World) -> None:
    # Pitfall 6: the canary. Here another file than the broker's is written.
    elsewhere = world.folder / "elsewhere"
    elsewhere.write_text(password_line("x", "y"))
    broker = another(world, passwords=elsewhere, pid_file=world.folder / "mosquitto.pid")
    assert await broker.install([to_install()]) == [Install.LATER]
    assert not await world.admits(to_install())


async def test_a_command_may_reload_it(world: World) -> None:
    pid = (world.folder / "mosquitto.pid").read_text().strip()
    broker = another(world, reload_command=f"kill -HUP {pid}")
    assert await broker.install([to_install()]) == [Install.DONE]
    assert await world.admits(to_install())
    assert await broker.pulse() == await broker.pulse()
    code = shlex.quote("import sys; sys.exit(3)")
    for command in (f"{sys.executable} -c {code}", "/nowhere/reload"):
        assert await another(world, reload_command=command).install([to_install("dev-2")]) == [Install.LATER]


async def test_a_process_that_is_not_mosquitto_is_not_signalled(world: World, tmp_path: Path) -> None:
    file = tmp_path / "stale.pid"
    file.write_text(str(os.getpid()))
    broker = another(world, pid_file=file)
    assert await broker.install([to_install()]) == [Install.LATER]
    with pytest.raises(Unavailable, match="which is"):
        await broker.probe()


async def test_a_name_with_a_colon_is_objected_to(world: World) -> None:
    assert "colon" in (world.broker.objection("acme", "00:1A:2B:3C:4D:5E") or "")
    assert world.broker.objection("acme", "dev.1-a_b") is None


async def test_a_file_that_is_rolled_back_is_noticed(world: World) -> None:
    passwords, now, looks = world.folder / "passwords", 1_800_000_000_000, []
    watch = Watch(world.broker, lambda: looks.append("compare"))
    backup = passwords.read_bytes()
    await world.broker.install([to_install()])
    await watch.step(now)
    await world.broker.install([to_install("dev-2")])
    assert await watch.step(now) == now + 1000
    assert looks == []  # what we wrote ourselves is no news
    passwords.write_bytes(backup)
    await watch.step(now)
    assert looks == ["compare"]
    assert list(await world.broker.list()) == []
    assert await world.broker.install([to_install(), to_install("dev-2")]) == [Install.DONE] * 2
    await world.kill()
    await watch.step(now)
    assert not watch.is_there
    await world.restart()
    await watch.step(now)
    assert watch.is_there
    assert looks == ["compare", "compare"]


async def test_anonymous_access_is_found(world: World) -> None:
    conf = world.folder / "mosquitto.conf"
    conf.write_text(conf.read_text().replace("password_file", "allow_anonymous true\n# "))
    await world.restart()
    assert any("allow_anonymous" in one for one in (await world.broker.probe()).problems)
