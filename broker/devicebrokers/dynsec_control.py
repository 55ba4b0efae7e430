"""The control connection to Mosquitto's dynamic security plug-in (mosquitto, plugins/dynamic-security).

1. Commands are JSON on one topic, answers come on another, at QoS 0 to everybody who may hear them: each command has a
   correlation text of its own, and silence within `_SECONDS` is `Unavailable`, never a refusal.
2. Commands go at QoS 0: at QoS 1 Mosquitto 2.0 acknowledges first, and waits 40 ms before it answers.
3. A connection that broke is replaced by the next command; `epoch` counts them.
4. The version is what `$SYS/broker/version` says; where that is not told, it is taken for 2.0.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import secrets
import ssl
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from broker.fleet.link import Link, Login, Lost, Refused
from broker.fleet.replies import Address
from provisioner.errors import Unavailable

_COMMANDS = "$CONTROL/dynamic-security/v1"
_ANSWERS = f"{_COMMANDS}/response"
_VERSION = "$SYS/broker/version"
_SECONDS = 10.0
_CONNECT_SECONDS = 5.0
"""For CONNACK, and once more for SUBACK."""
_VERSION_SECONDS = 1.0
_PAGE = 1_000
_NUMBERS = re.compile(r"(\d+)\.(\d+)\.(\d+)")

Command = dict[str, Any]
Reply = Mapping[str, Any]


class DynsecControl:
    """One connection, opened when it is needed; `login` may use the control topics."""

    def __init__(self, address: Address, login: tuple[str, str], tls: ssl.SSLContext | None) -> None:
        self.epoch = 0
        self.version: tuple[int, ...] = ()
        self._address = address
        self._login = login
        self._tls = tls
        self._link: Link | None = None
        self._is_silent = False
        self._connecting = asyncio.Lock()
        self._reader: asyncio.Task[None] | None = None
        self._waiting: dict[str, asyncio.Future[Reply]] = {}
        self._numbers = itertools.count()
        self._version_told = asyncio.Event()

    async def run(self, commands: Sequence[Command]) -> Sequence[Reply]:
        """What each command came to, in order; one has an `error` where it was refused. Raises `Unavailable`."""
        link = await self.connect()
        loop = asyncio.get_running_loop()
        names = [f"{self.epoch}#{next(self._numbers)}" for _ in commands]
        futures: list[asyncio.Future[Reply]] = [loop.create_future() for _ in commands]
        self._waiting |= zip(names, futures, strict=True)
        numbered = [command | {"correlationData": name} for command, name in zip(commands, names, strict=True)]
        try:
            link.publish(_COMMANDS, json.dumps({"commands": numbered}).encode(), qos=0)
            async with asyncio.timeout(_SECONDS):
                replies: list[Reply] = await asyncio.gather(*futures)
                return replies
        except TimeoutError:
            self._is_silent = True
            raise Unavailable("Mosquitto does not answer: may login_file's user use its control topics?") from None
        finally:
            for name in names:
                self._waiting.pop(name, None)

    async def ping(self) -> int:
        """Ask for something short; the connection's number. Raises `Unavailable`."""
        await self.run([{"command": "getDefaultACLAccess"}])
        return self.epoch

    async def usernames(self) -> Sequence[str]:
        """Every client's user name. Raises `Unavailable`."""
        found: list[str] = []
        while True:
            page = {"command": "listClients", "verbose": False, "count": _PAGE, "offset": len(found)}
            [reply] = await self.run([page])
            names = reply.get("data", {}).get("clients", [])
            found += [str(name) for name in names]
            if len(names) < _PAGE:
                return found

    async def connect(self) -> Link:
        """The connection, opened anew where it broke. Raises `Unavailable`."""
        async with self._connecting:
            if self._link is not None and not self._is_silent and self._reader is not None and not self._reader.done():
                return self._link
            await self._drop()
            try:
                return await self._open()
            except Refused as error:
                raise Unavailable(f"Mosquitto refuses the control connection: {error}", retry_after=30) from None
            except Lost as error:
                raise Unavailable(f"Mosquitto cannot be reached: {error}") from None

    async def close(self) -> None:
        """Close it; the next command opens another one."""
        async with self._connecting:
            await self._drop()

    async def _open(self) -> Link:
        login = Login(f"provisioner-{secrets.token_hex(4)}", *self._login)
        link = await Link.open(self._address, login, tls=self._tls, seconds=_CONNECT_SECONDS)
        self._version_told.clear()
        try:
            await link.subscribe(_ANSWERS)
            with suppress(Refused):  # then it is taken for 2.0
                await link.subscribe(_VERSION)
        except BaseException:
            await link.close()
            raise
        self._reader = asyncio.create_task(self._read(link), name="dynsec answers")
        with suppress(TimeoutError):
            async with asyncio.timeout(_VERSION_SECONDS):
                await self._version_told.wait()
        self._link = link
        self._is_silent = False
        self.epoch += 1
        return link

    async def _drop(self) -> None:
        link, self._link = self._link, None
        if self._reader is not None:
            self._reader.cancel()
            with suppress(asyncio.CancelledError):
                await self._reader
            self._reader = None
        if link is not None:
            await link.close()

    async def _read(self, link: Link) -> None:
        try:
            while True:
                self._take(await link.receive())
        except Lost:
            for future in self._waiting.values():
                if not future.done():
                    future.set_exception(Unavailable("Mosquitto closed the control connection"))

    def _take(self, payload: bytes) -> None:
        if not payload.startswith(b"{"):
            found = _NUMBERS.search(payload.decode("utf-8", "replace"))
            self.version = () if found is None else tuple(int(number) for number in found.groups())
            self._version_told.set()
            return
        try:
            for response in json.loads(payload)["responses"]:
                future = self._waiting.get(response.get("correlationData"))
                if future is not None and not future.done():
                    future.set_result(response)
        except (ValueError, TypeError, KeyError, AttributeError):
            return  # to nobody, or not in the plug-in's form: whoever waits runs into its time-out
