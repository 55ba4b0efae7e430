"""The Mosquitto of this machine as a process: told to read its files again, by a signal or by a command."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
from dataclasses import dataclass
from pathlib import Path

from provisioner.errors import Unavailable

_COMMAND_SECONDS = 10.0
_NAMES = ("mosquitto",)


@dataclass(frozen=True, slots=True)
class MosquittoProcess:
    """Mosquitto's `pid_file`, or where there is none a command that makes it reload."""

    pid_file: Path | None = None
    reload_command: str = ""

    async def reload(self) -> None:
        """Have it read its files again, which it does a moment later. Raises `Unavailable`."""
        if self.pid_file is not None:
            _signal(_pid(self.pid_file), signal.SIGHUP)
            return
        command = shlex.split(self.reload_command)
        try:
            async with asyncio.timeout(_COMMAND_SECONDS):
                process = await asyncio.create_subprocess_exec(
                    *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL
                )
                try:
                    code = await process.wait()
                finally:
                    if process.returncode is None:
                        process.kill()
        except TimeoutError:
            raise Unavailable(f"reload_command {command[0]} does not end within {_COMMAND_SECONDS:g} seconds") from None
        except OSError as error:
            raise Unavailable(f"reload_command {command[0]} cannot be run: {error.strerror or error}") from None
        if code:
            raise Unavailable(f"reload_command {command[0]} ends with code {code}")

    def check(self) -> None:
        """Whether it can be told to. Raises `Unavailable`."""
        if self.pid_file is not None:
            _signal(_pid(self.pid_file), 0)

    def start(self) -> object | None:
        """Changes when it is started anew; None where only a command reaches it. Raises `Unavailable`."""
        if self.pid_file is None:
            return None
        pid = _pid(self.pid_file)
        return pid, _started(pid)


def _pid(file: Path) -> int:
    try:
        pid = int(file.read_text(encoding="ascii", errors="replace"))
        name = Path(f"/proc/{pid}/comm").read_text(encoding="utf-8", errors="replace").strip()
    except (OSError, ValueError):
        raise Unavailable(f"Mosquitto does not run: {file} names no process") from None
    if name not in _NAMES:
        raise Unavailable(f"Mosquitto does not run: {file} names process {pid}, which is {name!r}")
    return pid


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        raise Unavailable(f"Mosquitto (process {pid}) has just ended") from None
    except PermissionError:
        raise Unavailable(
            f"Mosquitto (process {pid}) belongs to another user: run as that user, or set reload_command"
        ) from None


def _started(pid: int) -> str:
    """When a process was started, in ticks since the machine's start."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
