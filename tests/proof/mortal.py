"""A program that dies often: one process imports it once (`crash`), every life is a fork of that."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.e2e.program import ALARMS, ROOT, Program

PATIENCE = 60.0


@dataclass
class Life:
    """From a start to an end. Times are monotonic; `code` is the exit code, negative for a signal."""

    pid: int
    born: float
    ready: float | None = None
    code: int | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def kill(self) -> None:
        """End it, wherever it is."""
        if not self.ended.is_set():
            os.kill(self.pid, signal.SIGKILL)


class Mortal(Program):
    """A `Program` to enter as a context; `live` instead of `start`."""

    def __init__(self, data: Path) -> None:
        super().__init__(data)
        self.installs = False
        """Whether its device broker has a list of its own, where credentials have to be installed."""
        self.import_time = 0.0
        """Seconds from the start of an interpreter until everything was imported, which a fork does without."""
        self.life: Life | None = None
        self._log = data.parent / "program.log"
        self._nursery: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self.data.mkdir(mode=0o700)
        self._log.touch(0o600)
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PROVISIONER_")}
        self._nursery = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "tests.proof.crash",
            cwd=ROOT,
            env=environment | {"BEGAN": str(time.monotonic())},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        self.import_time = (await self._told())["seconds"]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.life is not None:
            self.life.kill()
            await self._end_of(self.life)
        assert self._nursery is not None
        assert self._nursery.stdin is not None
        self._nursery.stdin.close()
        await self._nursery.wait()

    async def _told(self) -> dict[str, Any]:
        assert self._nursery is not None
        assert self._nursery.stdout is not None
        async with asyncio.timeout(PATIENCE):
            line = await self._nursery.stdout.readline()
        assert line, "the nursery is gone"
        return dict(json.loads(line))

    async def live(self, point: str | None = None, passage: int = 1, kill_after: float | None = None) -> Life:
        """Start; it dies at a point, after a while, or not by itself. Returns when it is ready, or dead before that."""
        order = {
            "environment": {
                "PROVISIONER_DATA_DIR": str(self.data),
                "PROVISIONER_ENDPOINT__LISTEN": "127.0.0.1:0",
                "PROVISIONER_DEVICE_BROKER__LISTEN": "127.0.0.1:0",
                "PROVISIONER_DEVICE_BROKER__TLS_LISTEN": "127.0.0.1:0",
                "PROVISIONER_HTTP__LISTEN": "127.0.0.1:0",
            },
            "log": str(self._log),
            "point": point,
            "passage": passage,
            "installs": self.installs,
        }
        assert self._nursery is not None
        assert self._nursery.stdin is not None
        self._nursery.stdin.write(json.dumps(order).encode() + b"\n")
        born = time.monotonic()
        life = self.life = Life((await self._told())["pid"], born)
        if kill_after is not None:
            asyncio.get_running_loop().call_later(kill_after, life.kill)
        told = await self._told()
        if told["event"] == "ready":
            life.ready = time.monotonic()
            self.ready = told
            self._watch = asyncio.create_task(self._until_ended(life))
        else:
            self._note_end(life, told)
        return life

    async def _until_ended(self, life: Life) -> None:
        assert self._nursery is not None
        assert self._nursery.stdout is not None
        self._note_end(life, json.loads(await self._nursery.stdout.readline()))

    @staticmethod
    def _note_end(life: Life, told: dict[str, Any]) -> None:
        assert told["event"] == "ended", told
        life.code = told["code"]
        life.ended.set()

    async def _end_of(self, life: Life) -> int | None:
        async with asyncio.timeout(PATIENCE):
            await life.ended.wait()
        return life.code

    async def rest(self) -> None:
        """End it as an init system would."""
        assert self.life is not None
        os.kill(self.life.pid, signal.SIGTERM)
        assert await self._end_of(self.life) == 0

    def alarms(self) -> list[str]:
        """Lines of all its lives that nobody should ever read, and how many secrets are in them."""
        said = self._log.read_text(errors="replace")
        found = [line for line in said.splitlines() if any(alarm in line for alarm in ALARMS)]
        return found + [f"secret {number}" for number, secret in enumerate(self.secrets) if secret in said]
