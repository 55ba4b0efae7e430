"""`python -m tests.proof.crash`: starts the real program again and again, and has it kill itself at a named point.

1. The modules are imported once; every life is a fork of this process, so that a kill costs no start of an interpreter.
   What runs in it is `provisioner serve`, as its users start it.
2. A life is ordered with one line of JSON on standard input: `{"environment": {…}, "log": path, "point": name or null,
   "passage": n, "installs": …}`. Standard output tells `imported`, `born`, the program's own ready line, and `ended`.
3. A point is passed before or after something that a seam of the program does: a verb of a port, a message that is
   answered, bytes that are written. Nothing of the program knows of it.
"""

from __future__ import annotations

import asyncio
import functools
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from broker import __main__ as program
from broker import app, lifetime, parts  # noqa: F401  imported here, once, what every life needs
from broker.devicebrokers.embedded import EmbeddedDevices
from broker.http import server  # noqa: F401  as above
from broker.mqtt import endpoint  # noqa: F401  as above
from broker.mqtt.connection import Connection
from broker.mqtt.responder import Responder
from provisioner.lifecycle import Phase, State
from provisioner.ports import Install, Revoke, ToInstall, Unit
from provisioner.store import SqliteStore

REPLY = b"/reply"
"""What stands in every PUBLISH of ours: the end of its topic."""


def has(state: State) -> Callable[[Unit], bool]:
    """Units that bring a credential into a state."""
    return lambda unit: any(credential.state is state for credential in unit.credentials)


def mints(unit: Unit) -> bool:
    """Units that make a generation."""
    return any(saved.after.generation > saved.before.generation for saved in unit.saved)


def expires(unit: Unit) -> bool:
    """Units that close a window."""
    return any(saved.after.phase is Phase.EXPIRED is not saved.before.phase for saved in unit.saved)


def wipes(unit: Unit) -> bool:
    """Units that leave nothing of an activation key that could open a reply."""
    return any(
        saved.before.keys_sealed != saved.after.keys_sealed and not saved.after.reuse_key for saved in unit.saved
    )


def orders(unit: Unit) -> bool:
    """Units that order a certificate: it is signed after them."""
    return bool(unit.certificates)


def mints_and_offers(unit: Unit) -> bool:
    """Units that do both, as behind a device broker that asks the ledger."""
    return mints(unit) and has(State.OFFERED)(unit)


POINTS: dict[str, tuple[type[Any], str, Callable[..., bool]]] = {
    "mint commit": (SqliteStore, "commit", mints),
    "install": (EmbeddedDevices, "install", lambda _items: True),
    "offer commit": (SqliteStore, "commit", has(State.OFFERED)),
    "mint and offer": (SqliteStore, "commit", mints_and_offers),
    "certificate order": (SqliteStore, "commit", orders),
    "reply": (Connection, "connection_made", lambda _transport: True),
    "ack": (Responder, "answer", lambda message: message.kind == "ack"),
    "confirm commit": (SqliteStore, "commit", has(State.CONFIRMED)),
    "key wipe": (SqliteStore, "commit", wipes),
    "retire commit": (SqliteStore, "commit", has(State.RETIRING)),
    "revoke": (EmbeddedDevices, "revoke", lambda _usernames: True),
    "retired commit": (SqliteStore, "commit", has(State.RETIRED)),
    "expiry commit": (SqliteStore, "commit", expires),
}
"""Name -> whose verb it is, and which of its calls are meant. Each is passed twice: `before NAME`, `after NAME`."""

INSTALLING = ("mint commit", "install", "offer commit")
"""Points that are passed where something has to be installed at the device broker."""


def keep_list(file: Path) -> None:
    """Make the device broker one with a list of its own: mint, install and offer are then steps by themselves."""
    installs, revokes = EmbeddedDevices.install, EmbeddedDevices.revoke

    def note(sign: str, usernames: Sequence[str]) -> None:
        with file.open("a") as stream:
            stream.writelines(f"{sign}{username}\n" for username in usernames)

    async def install(owner: EmbeddedDevices, items: Sequence[ToInstall]) -> Sequence[Install]:
        note("+", [item.credential.username for item in items])
        return await installs(owner, items)

    async def revoke(owner: EmbeddedDevices, usernames: Sequence[str], *, kick: bool = True) -> Sequence[Revoke]:
        note("-", usernames)
        return await revokes(owner, usernames, kick=kick)

    def noted() -> list[str]:
        there: dict[str, None] = {}
        for line in file.read_text().splitlines() if file.exists() else ():
            there[line[1:]] = None
            if line[0] == "-":
                del there[line[1:]]
        return list(there)

    async def listed(_: EmbeddedDevices) -> Sequence[str]:
        return noted()

    for name, value in {"asks_ledger": False, "install": install, "revoke": revoke, "list": listed}.items():
        setattr(EmbeddedDevices, name, value)


class Trap:
    """Kills this process when the point was passed often enough."""

    def __init__(self, point: str, passage: int) -> None:
        self._when, _, name = point.partition(" ")
        self._left = passage
        self._owner, self._verb, self._is_meant = POINTS[name]

    def set(self) -> None:
        """Put it around the verb."""
        original = getattr(self._owner, self._verb)
        around = self._around_writes if self._owner is Connection else self._around_verb
        setattr(self._owner, self._verb, functools.wraps(original)(around(original)))

    def _around_verb(self, original: Callable[..., Any]) -> Callable[..., Any]:
        async def verb(owner: Any, *given: Any) -> Any:
            if not self._is_meant(*given):
                return await original(owner, *given)
            self._pass("before")
            outcome = await original(owner, *given)
            self._pass("after")
            return outcome

        return verb

    def _around_writes(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def connection_made(owner: Connection, transport: asyncio.Transport) -> None:
            original(owner, _Wire(transport, self._pass))

        return connection_made

    def _pass(self, when: str) -> None:
        if when == self._when:
            self._left -= 1
            if self._left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


class _Wire:
    """A transport that tells before and after a reply is written."""

    def __init__(self, transport: asyncio.Transport, passed: Callable[[str], None]) -> None:
        self._transport = transport
        self._passed = passed
        self._loop = asyncio.get_running_loop()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        if REPLY not in data:
            self._transport.write(data)
            return
        self._passed("before")
        self._transport.write(data)
        # The loop hands bytes to the kernel when it has run what is ready.
        self._loop.call_soon(self._loop.call_soon, self._passed, "after")


def live(order: dict[str, Any]) -> None:
    """Be the program; returns never."""
    os.environ.update(order["environment"])
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(log, sys.stderr.fileno())
    if order["installs"]:
        keep_list(Path(order["environment"]["PROVISIONER_DATA_DIR"]).with_name("installed"))
    if order["point"] is not None:
        Trap(order["point"], order["passage"]).set()
    sys.argv = ["provisioner", "serve"]
    try:
        program.main()
    except SystemExit as leaving:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(int(leaving.code or 0))
    os._exit(0)


def main(orders: TextIO, told: TextIO, began: float) -> None:
    """One life after the other, until there are no more orders."""

    def tell(event: str, **more: object) -> None:
        told.write(json.dumps({"event": event, **more}) + "\n")
        told.flush()

    tell("imported", seconds=round(time.monotonic() - began, 3))
    for line in orders:
        order = json.loads(line)
        child = os.fork()
        if child == 0:
            live(order)
        tell("born", pid=child)
        _, status = os.waitpid(child, 0)
        tell("ended", code=os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main(sys.stdin, sys.stdout, float(os.environ.get("BEGAN", time.monotonic())))
