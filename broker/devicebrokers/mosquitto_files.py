"""Mosquitto on this machine, by its password file and its ACL file.

1. A change is written beside the file, synced and renamed over it, owner and mode kept; then Mosquitto is told to
   reload. The ACL goes first: no name is ever admitted without its rights.
2. It is done when the canary logs in: a user of ours whose password is a new one at every write.
3. All that waits goes into one write, and reloads keep a distance: Mosquitto serves nobody while it reads its files
   (0.4 s with 100,000 users) and hashes the password of each session anew.
4. A reload closes the sessions of names that are gone. No client id is bound to a name there: nothing can be tight.
5. A name with a colon cannot stand in a password file.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import ssl
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from broker.devicebrokers.accountfiles import (
    CANARY,
    Broken,
    hashed,
    is_hash_of,
    parse_passwords,
    parse_rights,
    render_passwords,
    render_rights,
    rights,
)
from broker.devicebrokers.batches import Batches, Change
from broker.devicebrokers.mosquitto_process import MosquittoProcess
from broker.fleet.link import Link, Login, Lost, Refused
from broker.fleet.replies import Address
from provisioner.errors import Unavailable
from provisioner.model import BrokerAddress
from provisioner.ports import Cost, Entropy, Install, Probe, Revoke, ToInstall
from provisioner.topics import grant_of

_MOST = 5_000
_LOADED_WITHIN = 5.0
_LOOK_EVERY = 0.02
_DISTANCE = 0.2
"""Seconds between two reloads, at the least; a reload that takes long is followed by four times as long a pause."""
_SECONDS_A_NAME = 5e-6

Signature = tuple[int, int, int]
_Read = tuple[list[str], dict[str, str], str, dict[str, list[str]]]


@dataclass(frozen=True, slots=True)
class Files:
    """Where Mosquitto's files are, and how it is told to read them: by the process of `pid_file`, or a command."""

    passwords: Path
    rights: Path
    pid_file: Path | None = None
    reload_command: str = ""


class MosquittoFiles:
    """A `DeviceBroker`; `check` is where the canary logs in. The addresses are what devices are told."""

    kind = "mosquitto-files"
    sees_logins = False
    asks_ledger = False
    binds_client_id = False
    templates = False
    prehashed = True
    takes_passwords = True
    takes_certificates = False
    kicks_live = True
    persists = True

    def __init__(
        self,
        name: str,
        files: Files,
        check: Address,
        tls: ssl.SSLContext | None,
        entropy: Entropy,
        *,
        plain: BrokerAddress | None,
        secure: BrokerAddress | None,
    ) -> None:
        self.name = name
        self.plain = plain
        self.secure = secure
        self._files = files
        self._process = MosquittoProcess(files.pid_file, files.reload_command)
        self._check = check
        self._tls = tls
        self._entropy = entropy
        self._batches = Batches(name, self._write, _MOST)
        self._reload_took = 0.0
        self._count = 0
        self._ours: tuple[Signature, Signature] | None = None
        self._foreign = 0
        self._loaded = False

    def address(self, *, secure: bool) -> BrokerAddress | None:
        """See `DeviceBroker`."""
        return self.secure if secure else self.plain

    def objection(self, account: str, client_id: str) -> str | None:
        """See `DeviceBroker`."""
        if ":" not in account + client_id:
            return None
        return (
            f"the device broker {self.name} ({self.kind}) cannot hold a name with a colon: a password file has one "
            "behind each name; write the client id without, or use a device broker of kind mosquitto-dynsec"
        )

    def delay(self, username: str) -> float:
        """See `DeviceBroker`."""
        return self._batches.delay(username)

    def cost(self, installs: int, revokes: int) -> Cost:
        """See `DeviceBroker`."""
        if not installs + revokes:
            return Cost()
        writes = -(-(installs + revokes) // _MOST)
        stall = self._reload_took or (self._count + installs) * _SECONDS_A_NAME
        return Cost(revokes, stall * writes, 2 * writes, writes * (stall + _pause(stall)))

    async def probe(self) -> Probe:
        """See `DeviceBroker`."""
        await asyncio.to_thread(self._read)
        problems = [
            f"{path.parent} cannot be written to, and {path.name} is replaced there: give this user the right."
            for path in {self._files.passwords, self._files.rights}
            if not os.access(path.parent, os.W_OK | os.X_OK)
        ]
        self._process.check()
        with suppress(Refused):
            await self._log_in(secrets.token_hex(16))
            problems.append("A wrong password is admitted: set allow_anonymous false and password_file.")
        return Probe("Mosquitto", tuple(problems))

    async def install(self, items: Sequence[ToInstall]) -> Sequence[Install]:
        """See `DeviceBroker`."""
        return await self._batches.install(items)

    async def revoke(self, usernames: Sequence[str], *, kick: bool = True) -> Sequence[Revoke]:
        """See `DeviceBroker`."""
        return await self._batches.revoke(usernames, kick=kick)

    async def list(self) -> Sequence[str]:
        """See `DeviceBroker`."""
        _, ours, _, _ = await asyncio.to_thread(self._read)
        ours.pop(CANARY, None)
        return tuple(ours)

    async def close(self) -> None:
        """See `DeviceBroker`."""
        await self._batches.close()

    async def pulse(self) -> object:
        """Changes when Mosquitto was started anew, or somebody else wrote its files. Raises `Unavailable`."""
        found = self._signatures()
        if found != self._ours:
            self._ours = found
            self._foreign += 1
            self._loaded = False
        if (start := self._process.start()) is not None:
            return self._foreign, start
        await self._knock()
        return self._foreign

    # -- writing -------------------------------------------------------------------------------------------------------

    async def _write(self, changes: Sequence[Change]) -> None:
        canary = secrets.token_hex(16)
        if await asyncio.to_thread(self._change, changes, canary):
            await self._reload()
            began = time.monotonic()
            await self._await_canary(canary)
            self._reload_took = time.monotonic() - began
            self._loaded = True
            self._batches.not_before = time.monotonic() + _pause(self._reload_took)

    def _change(self, changes: Sequence[Change], canary: str) -> bool:
        """Write both files; False: they hold and Mosquitto has what is wanted."""
        others, ours, other_rights, our_rights = self._read()
        before = dict(ours), dict(our_rights)
        for change in changes:
            if change.item is None:
                ours.pop(change.username, None)
                our_rights.pop(change.username, None)
                continue
            credential, password = change.item.credential, change.item.password.reveal()
            if not is_hash_of(ours.get(change.username, ""), password):
                ours[change.username] = hashed(password, self._entropy)
            our_rights[change.username] = rights(grant_of(credential, credential.client_id))
        if self._loaded and before == (ours, our_rights):
            return False
        ours[CANARY] = hashed(canary, self._entropy)
        our_rights = {name: lines for name, lines in our_rights.items() if name in ours}
        try:
            passwords = render_passwords(others, ours)
        except Broken as error:
            raise Unavailable(f"{self._files.passwords} {error}", retry_after=60) from None
        self._loaded = False
        _replace(self._files.rights, render_rights(other_rights, our_rights))
        _replace(self._files.passwords, passwords)
        self._ours = self._signatures()
        self._count = len(ours)
        return True

    def _read(self) -> _Read:
        """Lines of others and ours by name in the password file; the same of the ACL file. Raises `Unavailable`."""
        path = self._files.passwords
        try:
            others, ours = parse_passwords(_text(path))
            path = self._files.rights
            other_rights, our_rights = parse_rights(_text(path))
        except Broken as error:
            raise Unavailable(f"{path} {error}", retry_after=60) from None
        self._count = len(ours)
        return others, ours, other_rights, our_rights

    def _signatures(self) -> tuple[Signature, Signature]:
        return _signature(self._files.passwords), _signature(self._files.rights)

    # -- reloading -----------------------------------------------------------------------------------------------------

    async def _reload(self) -> None:
        if self._files.pid_file is not None:
            # A process that has just started has no handler for the signal yet, and would end of it.
            with suppress(Refused):
                await self._log_in(secrets.token_hex(16))
        await self._process.reload()

    async def _await_canary(self, password: str) -> None:
        deadline = time.monotonic() + _LOADED_WITHIN
        while True:
            try:
                await self._log_in(password)
            except Refused:
                if time.monotonic() > deadline:
                    raise Unavailable(
                        f"Mosquitto does not load {self._files.passwords}: does its password_file name that file?"
                    ) from None
                await asyncio.sleep(_LOOK_EVERY)
            else:
                return

    async def _log_in(self, password: str) -> None:
        """Log in as the canary. Raises `Refused`, `Unavailable`."""
        try:
            link = await Link.open(self._check, Login(CANARY, CANARY, password), tls=self._tls, seconds=_LOADED_WITHIN)
        except Refused as error:
            if error.for_good:
                raise
            raise Unavailable(f"Mosquitto cannot be asked: {error}") from None
        except Lost as error:
            raise Unavailable(f"Mosquitto cannot be asked: {error}") from None
        await link.close()

    async def _knock(self) -> None:
        try:
            async with asyncio.timeout(_LOADED_WITHIN):
                _, writer = await asyncio.open_connection(self._check.host, self._check.port)
        except (OSError, TimeoutError):
            raise Unavailable(f"Mosquitto does not listen on {self._check.host}:{self._check.port}") from None
        writer.close()


def _pause(reload_took: float) -> float:
    return max(_DISTANCE, 4 * reload_took)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError as error:
        raise Unavailable(
            f"{path} cannot be read ({(error.strerror or str(error)).lower()}): create it, and name it in Mosquitto's "
            "configuration"
        ) from None


def _signature(path: Path) -> Signature:
    try:
        found = path.stat()
    except OSError:
        return 0, 0, 0
    return found.st_ino, found.st_mtime_ns, found.st_size


def _replace(path: Path, text: str) -> None:
    """Put a new file in the place of the old one, synced, with its owner and mode. Raises `Unavailable`."""
    fresh = path.with_name(f"{path.name}.provisioner")
    try:
        former = path.stat()
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            if (former.st_uid, former.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(descriptor, former.st_uid, former.st_gid)
            os.fchmod(descriptor, former.st_mode & 0o777)
            stream.write(text.encode("utf-8", "surrogateescape"))
            stream.flush()
            os.fsync(descriptor)
        fresh.replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise Unavailable(f"{path} cannot be replaced: {(error.strerror or str(error)).lower()}") from None
