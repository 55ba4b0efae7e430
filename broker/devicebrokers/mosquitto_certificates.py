"""Mosquitto on this machine, by the certificates of our authority.

1. Nothing is installed. Mosquitto admits every valid certificate of our issuers that its `crlfile` does not list, and
   takes user name and client id from it, whatever CONNECT says: nobody acts under another's name. That is
   `use_identity_as_username` and `use_username_as_clientid` in its configuration.
2. Revoking is three steps: the list with that certificate is in the file; Mosquitto has read it; the session is thrown
   out, by a login with its client id on a listener where client ids are free (`control_url`).
3. Mosquitto says nothing when it has read its files. It does so at the end of a turn of its loop, so the second of two
   logins after the signal is answered by a Mosquitto that has.
4. A list is for a week. Mosquitto is told whenever it changed, which is once a day at the least, and before a new
   issuer signs anything: it refuses certificates of issuers whose list it has not read.
5. Its plug-in for dynamic security would not be asked for certificates; rights are `pattern` lines in its ACL file.
"""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path

from broker.devicebrokers.mosquitto_process import MosquittoProcess
from broker.fleet.link import Link, Login, Lost, Refused
from broker.fleet.replies import Address
from provisioner.errors import Unavailable
from provisioner.model import BrokerAddress
from provisioner.ports import Cost, Install, Probe, Revoke, ToInstall

_SECONDS = 5.0


class MosquittoCertificates:
    """A `DeviceBroker`. `lists` publishes all revocation lists and gives them (PEM); `crl_file` is Mosquitto's.

    `holder` gives the client id of a user name, None where another certificate of that id is in force: then its session
    may be that one's. `control` is the listener of rule 2: address, user name and password, TLS.
    """

    kind = "mosquitto-certificates"
    sees_logins = False
    asks_ledger = False
    binds_client_id = True
    templates = True
    prehashed = True
    takes_passwords = False
    takes_certificates = True
    kicks_live = True
    persists = True

    def __init__(
        self,
        name: str,
        crl_file: Path,
        process: MosquittoProcess,
        control: tuple[Address, tuple[str, str], ssl.SSLContext | None],
        plain: BrokerAddress | None,
        secure: BrokerAddress | None,
    ) -> None:
        self.name = name
        self.plain = plain
        self.secure = secure
        self.lists: Callable[[], Awaitable[str]] = _no_lists
        self.holder: Callable[[str, str], Awaitable[str | None]] = _nobody
        self._crl_file = crl_file
        self._process = process
        self._control = control
        self._lock = asyncio.Lock()
        self._read = ""
        self._start: object | None = None

    def trust(self, root: str) -> None:
        """Tell devices to check Mosquitto's certificate with `root` (PEM), unless there is something else to tell."""
        if self.secure is not None and self.secure.ca is None:
            self.secure = replace(self.secure, ca=root)

    def address(self, *, secure: bool) -> BrokerAddress | None:
        """See `DeviceBroker`."""
        return self.secure if secure else self.plain

    def objection(self, account: str, client_id: str) -> str | None:  # noqa: ARG002  # what fits a certificate will do
        """See `DeviceBroker`."""
        return None

    def delay(self, username: str) -> float:  # noqa: ARG002  # nothing waits
        """See `DeviceBroker`."""
        return 0.0

    def cost(self, installs: int, revokes: int) -> Cost:  # noqa: ARG002  # nothing is installed
        """See `DeviceBroker`."""
        return Cost(sessions=revokes)

    async def probe(self) -> Probe:
        """See `DeviceBroker`."""
        self._process.check()
        await self._knock()
        return Probe("Mosquitto")

    async def install(self, items: Sequence[ToInstall]) -> Sequence[Install]:
        """See `DeviceBroker`. Only passwords are ever installed, and there is no place for them."""
        return [Install.NEVER] * len(items)

    async def revoke(self, usernames: Sequence[str], *, kick: bool = True) -> Sequence[Revoke]:
        """See `DeviceBroker`."""
        try:
            await self._bring()
            if not kick:
                return [Revoke.OPEN] * len(usernames)
            return [await self._throw_out(username) for username in usernames]
        except Unavailable:
            return [Revoke.LATER] * len(usernames)

    async def list(self) -> Sequence[str]:
        """See `DeviceBroker`. There is no list but the authority's."""
        return ()

    async def close(self) -> None:
        """See `DeviceBroker`."""

    async def pulse(self) -> object:
        """See `Beside`; keeps the list in Mosquitto as new as the ledger."""
        await self._bring()
        return self._process.start()

    async def _throw_out(self, username: str) -> Revoke:
        client_id = await self.holder(self.name, username)
        if client_id is None:
            return Revoke.OPEN
        await self._log_in(client_id)
        return Revoke.CLOSED

    async def _bring(self) -> None:
        """Have Mosquitto read the lists in force, unless it has. Raises `Unavailable`."""
        async with self._lock:
            wanted, start = await self.lists(), self._process.start()
            if (wanted, start) == (self._read, self._start):
                return
            if await asyncio.to_thread(_text, self._crl_file) != wanted:
                raise Unavailable(f"{self._crl_file} does not hold the revocation lists in force: see the log")
            await self._knock()  # who has just started has no handler for the signal yet, and would end of it
            await self._process.reload()
            await self._knock()
            await self._knock()
            self._read, self._start = wanted, start

    async def _knock(self) -> None:
        await self._log_in(f"probe-{secrets.token_hex(8)}")

    async def _log_in(self, client_id: str) -> None:
        """Log in at the listener for this, which ends any session of that client id. Raises `Unavailable`."""
        address, (user, password), tls = self._control
        try:
            link = await Link.open(address, Login(client_id, user, password), tls=tls, seconds=_SECONDS)
            await link.close()
        except (Refused, Lost) as error:
            raise Unavailable(f"Mosquitto cannot be told to end sessions at control_url: {error}") from None


async def _no_lists() -> str:
    raise Unavailable("there are no revocation lists yet")


async def _nobody(_device_broker: str, _username: str) -> str | None:
    return None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""
