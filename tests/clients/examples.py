"""The clients of `examples/clients/`: how each is built and started, and a unit that runs one.

1. Every client is started the same way, `COMMAND DIRECTORY`; the directory holds `device.json`, which the factory
   wrote, and what the client stores. It ends with 0 under its new identity and with 3 where it stops for good.
2. What it prints are its steps. A secret among them fails the test.
"""

import asyncio
import contextlib
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.packets import Address
from tests.e2e.program import FLOOR_PASSWORD, FLOOR_USER, ROOT
from tests.programs import needed

CLIENTS = ROOT / "examples" / "clients"
PATIENCE = 90.0
QUICK = {"replyMs": 2000, "firstPauseMs": 200, "longestPauseMs": 2000}
"""`times` of a device.json of the tests: the contract's times would make every lost message a minute."""


@dataclass(frozen=True)
class Client:
    """One folder of `examples/clients/`. `command` builds what is to be built and returns how to start it."""

    name: str
    modes: tuple[str, ...]
    command: Callable[[], list[str]] = field(repr=False)


def _python(name: str) -> Callable[[], list[str]]:
    return lambda: [sys.executable, str(CLIENTS / name / "provision.py")]


def _shell() -> list[str]:
    for program, package in (("mosquitto_rr", "mosquitto-clients"), ("openssl", "openssl"), ("jq", "jq")):
        needed(program, package)
    return ["bash", str(CLIENTS / "shell" / "provision.sh")]


_SANITIZED = ("-O1", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined")
"""A slip in memory ends the client."""


def compiled(name: str, compiler: str, source: Path, *options: str) -> list[str]:
    """Where the program is; built once for each state of its sources, whoever asks."""
    sources = sorted(path for path in CLIENTS.rglob("*") if path.suffix in {".c", ".h", ".cpp", ".ino"})
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in (source, *sources))).hexdigest()[:16]
    built = ROOT / "build" / "clients" / f"{name}-{digest}"
    if built.exists():
        return [str(built)]
    built.parent.mkdir(parents=True, exist_ok=True)
    fresh = built.with_suffix(f".{os.getpid()}")
    command = [needed(compiler, compiler), *options, *_SANITIZED, "-o", str(fresh), str(source)]
    run = subprocess.run([*command, "-lmosquitto", "-lmbedcrypto"], capture_output=True, text=True, check=False)
    missing = re.search(r"fatal error: (mosquitto|mbedtls|jsmn).*No such file", run.stderr)
    if missing and os.environ.get("CI") != "true":
        pytest.skip("headers are not installed (Debian packages libmosquitto-dev libmbedtls-dev libjsmn-dev)")
    assert run.returncode == 0, run.stderr
    fresh.rename(built)
    return [str(built)]


@cache
def _c() -> list[str]:
    return compiled("c", "gcc", CLIENTS / "c" / "caller.c", "-std=c11", "-Wconversion", "-Wshadow")


@cache
def _arduino() -> list[str]:
    folder = CLIENTS / "arduino"
    options = ("-std=c++17", f"-I{folder / 'host'}", f"-I{CLIENTS / 'c'}")
    return compiled("arduino", "g++", folder / "host" / "main.cpp", *options)


def _node(package: str, script: str) -> Callable[[], list[str]]:
    def command() -> list[str]:
        node = needed("node", "nodejs")
        if not (CLIENTS / package / "node_modules").is_dir():
            (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(
                f"run `make setup`: {package} lacks packages"
            )
        return [node, str(CLIENTS / script)]

    return command


EVERY = (
    Client("python-aiomqtt", ("plain", "proof", "sealed"), _python("python-aiomqtt")),
    Client("python-paho", ("plain", "proof"), _python("python-paho")),
    Client("shell", ("plain", "proof"), _shell),
    Client("c", ("plain", "proof"), _c),
    Client("node", ("plain", "proof"), _node("node", "node/provision.mjs")),
    Client("micropython", ("plain", "proof"), _node("micropython/host", "micropython/host/host.mjs")),
    Client("arduino", ("plain", "proof"), _arduino),
)
IN_EVERY_MODE = [(client, mode) for client in EVERY for mode in client.modes]


class Device:
    """A unit with one of the clients as its firmware, on a directory of its own."""

    def __init__(self, client: Client, directory: Path, factory: Mapping[str, Any]) -> None:
        self.client, self.directory = client, directory
        directory.mkdir()
        self.secrets = {str(factory[key]) for key in ("password", "activationKey")}
        file = directory / "device.json"
        file.touch(0o600)
        file.write_text(json.dumps({"times": QUICK} | dict(factory)))
        self.steps: list[str] = []
        """What it printed since it was made."""
        self._said: asyncio.Queue[str | None] = asyncio.Queue()
        self._listener: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None

    @property
    def credential(self) -> dict[str, Any] | None:
        """What it has stored."""
        try:
            slot = (self.directory / "current").read_text().strip()
            return dict(json.loads((self.directory / f"slot-{slot}").read_text())) if slot else None
        except FileNotFoundError:
            return None

    @property
    def factory(self) -> dict[str, Any]:
        """What it still knows of what the factory wrote."""
        return dict(json.loads((self.directory / "device.json").read_text()))

    async def start(self) -> None:
        """Switch it on."""
        self._process = await asyncio.create_subprocess_exec(
            *self.client.command(),
            str(self.directory),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        self._listener = asyncio.create_task(self._listen(self._process))

    async def says(self, step: str) -> None:
        """Wait until it prints a step that begins like this."""
        try:
            async with asyncio.timeout(PATIENCE):
                while (said := await self._said.get()) is not None:
                    if said.startswith(step):
                        return
        except TimeoutError:
            pass
        await self.cut()
        raise AssertionError(f"{self.client.name} does not say {step}: {self.steps}")

    async def end(self) -> int:
        """Wait until it ends by itself; its exit code."""
        assert self._process
        try:
            async with asyncio.timeout(PATIENCE):
                code = await self._process.wait()
        except TimeoutError:
            await self.cut()
            raise AssertionError(f"{self.client.name} does not end: {self.steps}") from None
        await self._tidy()
        return code

    async def cut(self) -> None:
        """Cut its power."""
        assert self._process
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.wait()
        await self._tidy()

    async def run(self) -> int:
        """Switch it on and wait for its end."""
        await self.start()
        return await self.end()

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout
        async for line in process.stdout:
            self.steps.append(line.decode(errors="replace").rstrip())
            self._said.put_nowait(self.steps[-1])
        self._said.put_nowait(None)

    async def _tidy(self) -> None:
        assert self._listener
        await self._listener
        self._said = asyncio.Queue()
        self._check_steps()

    def _check_steps(self) -> None:
        known = self.secrets | ({self.credential["credentials"]["password"]} if self.credential else set())
        said = "\n".join(self.steps)
        assert not any(secret in said for secret in known), f"{self.client.name} prints a secret"


def factory(endpoint: Address, client_id: str, key: str, mode: str, **more: Any) -> dict[str, Any]:
    """A device.json."""
    login = {"user": FLOOR_USER, "password": FLOOR_PASSWORD, "clientId": client_id, "activationKey": key}
    return {"host": endpoint[0], "port": endpoint[1], **login, "mode": mode, **more}
