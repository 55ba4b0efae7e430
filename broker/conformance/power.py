"""Who switches the device: commands for a relay, or a person who is told what to do."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

_COMMAND_TIME = 120.0
_MOST_OUTPUT = 4096


class PowerFailed(Exception):
    """The device could not be switched; the text says why."""


class Power(Protocol):
    """What trials need. Each returns when it is done; raises PowerFailed."""

    async def renew(self) -> None:
        """Make the device as it left the factory, and switch it on."""

    async def cycle(self, why: str) -> None:
        """Switch it off and on again; `why` for people."""


@dataclass(frozen=True, slots=True)
class Relay:
    """Shell commands: `reset` makes the device as new and switches it on, `off` and `on` do what they say."""

    reset: str
    off: str
    on: str
    seconds_off: float = 1.0

    async def renew(self) -> None:
        """See `Power`."""
        await _call(self.reset)

    async def cycle(self, why: str) -> None:  # noqa: ARG002  # a relay asks for no reason
        """See `Power`."""
        await _call(self.off)
        await asyncio.sleep(self.seconds_off)
        await _call(self.on)


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody at the device: `ask` shows a sentence and returns when it is done."""

    ask: Callable[[str], None]

    async def renew(self) -> None:
        """See `Power`."""
        await asyncio.to_thread(self.ask, "Reset the device to its factory state and switch it on.")

    async def cycle(self, why: str) -> None:
        """See `Power`."""
        await asyncio.to_thread(self.ask, f"Switch the device off and on again ({why}).")


async def _call(command: str) -> None:
    """Run it to its end; what it starts in the background may go on."""
    with tempfile.TemporaryFile() as output:
        process = await asyncio.create_subprocess_shell(
            command, stdin=asyncio.subprocess.DEVNULL, stdout=output, stderr=output
        )
        try:
            async with asyncio.timeout(_COMMAND_TIME):
                code = await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
            raise PowerFailed(f"`{command}` does not end within {_COMMAND_TIME:.0f} seconds") from None
        if code:
            output.seek(0)
            said = output.read(_MOST_OUTPUT).decode(errors="replace").strip().splitlines()[-1:]
            raise PowerFailed(f"`{command}` ends with exit code {code}: {said[0] if said else 'no output'}")
