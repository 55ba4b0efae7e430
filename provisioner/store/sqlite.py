"""The Store on SQLite.

1. One process: a lock file says so. One writing connection, one reading connection (`connections`); a reader sees
   committed rows only.
2. Group commit: units that arrive while a batch is being written make the next batch (`gathering`), one BEGIN and one
   fsync for all.
3. A unit's guards are compared inside the write transaction, in order of arrival; a stale unit changes nothing, and its
   neighbours do not notice (`units`).
4. Reads that arrive together are one statement, and their answers one row: between two rows, SQLite's thread gives up
   the interpreter's lock and has to win it back from the event loop.
5. Nothing is acknowledged before COMMIT returned (`synchronous=FULL`); a failed COMMIT fails every unit in it.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from provisioner.errors import Conflict, Unavailable
from provisioner.journal import line_about, line_of
from provisioner.model import Account, Credential, Dossier, Entry, Line, Millis, ProvisionRequest, Token, User
from provisioner.policy import normal_mac
from provisioner.ports import Listing, Note, Unit
from provisioner.store.attachmentrows import SqliteAttachments
from provisioner.store.certificate_rows import SqliteCertificates, revokes
from provisioner.store.connections import Connection, connect, transaction, truncate_log
from provisioner.store.devicerows import SqliteDevices
from provisioner.store.dpsrows import SqliteDps
from provisioner.store.event_log import SqliteEventLog
from provisioner.store.gathering import Gatherer
from provisioner.store.keyrows import SqliteKeys
from provisioner.store.labelrows import SqliteLabels
from provisioner.store.learningrows import SqliteSightings
from provisioner.store.locking import lock
from provisioner.store.policyrows import SqlitePolicies
from provisioner.store.serialrows import SqliteSerials
from provisioner.store.statements import (
    SQL,
    read_account,
    read_credential,
    read_dossier,
    read_entry,
    read_request,
    read_request_with_credential,
    read_token,
    read_user,
    row_values,
)
from provisioner.store.units import append, write_units
from provisioner.store.whyrows import SqliteWhy

_FORMER_KEY = "sealed under a former key"
"""What a trigger of the schema says."""

A = TypeVar("A")


class _FormerKey(Conflict):
    """Something was sealed anew under a former key: a rotation began since, so it is stale (`epochs`, rule 2)."""


class SqliteStore:
    """See the module. Open with `SqliteStore.open`; `lock` is the descriptor of the lock file, -1 for none."""

    def __init__(self, writer: Connection, reader: Connection, lock: int) -> None:
        self._writer = writer
        self._reader = reader
        self._lock_file = lock
        self._ailing: set[str] = set()
        self.on_health: Callable[[str | None], None] = lambda _: None
        """Set by who keeps a log; called once when something begins to fail, with SQLite's words, and once with None
        when it works again."""
        self._claims = Gatherer(self._find_claims)
        self._usernames = Gatherer(self._find_usernames)
        self._units = Gatherer(self._commit_batch)
        self._is_logged = True
        self.keys = SqliteKeys(self._read, self._transact)
        self.certificates = SqliteCertificates(self._read, self._read_batch, Gatherer)
        self.events = SqliteEventLog(self._reading, self._transact)
        self.serials = SqliteSerials(self._read, self._transact, append)
        self.why = SqliteWhy(self._read)
        self.dps = SqliteDps(self._read, self._change)
        self.attachments = SqliteAttachments(self._read, self._change)
        self.sightings = SqliteSightings(self._read, self._transact, self._journaled)
        self.labels = SqliteLabels(self._read, self._change)
        self.policies = SqlitePolicies(self._read, self._journaled)
        self.devices = SqliteDevices(self._reading, self._transact, self._tell)
        self.tell: Callable[[], None] = lambda: None
        """Set by whoever delivers events; called when some were committed."""

    @classmethod
    async def open(cls, path: Path) -> SqliteStore:
        """Open or create the database (0600); raises `Unavailable` when another process has it."""
        held = lock(path)
        try:
            writer, reader = await connect(path)
        except BaseException as error:
            os.close(held)
            if isinstance(error, (sqlite3.Error, OSError)):
                raise Unavailable(f"the database {path} cannot be opened: {error}") from error
            raise
        return cls(writer, reader, held)

    async def close(self) -> None:
        """Finish what was begun, then close; idempotent."""
        for gatherer in (self._claims, self._usernames, self._units):
            await gatherer.drain()
        await self.certificates.drain()
        await self._reader.close()
        await self._writer.close()
        if self._lock_file >= 0:
            os.close(self._lock_file)
            self._lock_file = -1

    # -- reading ---------------------------------------------------------------------------------------------------

    async def find_claim(self, user: str, client_id: str, request_id: str) -> Dossier | None:
        """See `Store`."""
        return await self._claims.ask((user, client_id, request_id))

    async def _find_claims(self, batch: list[tuple[str, str, str]]) -> list[Dossier | None]:
        found: list[Dossier | None] = [None] * len(batch)
        for row in await self._read_batch("find_claims", batch):
            found[row[0]] = read_dossier(row[1:])
        return found

    async def find_username(self, device_broker: str, username: str) -> Credential | None:
        """See `Store`."""
        return await self._usernames.ask((device_broker, username))

    async def _find_usernames(self, batch: list[tuple[str, str]]) -> list[Credential | None]:
        found: list[Credential | None] = [None] * len(batch)
        for row in await self._read_batch("find_usernames", batch):
            found[row[0]] = read_credential(row[1:])
        return found

    async def find_live(self, device_broker: str, after: str, limit: int) -> Sequence[Credential]:
        """See `Store`."""
        values = {"device_broker": device_broker, "after": after, "limit": limit}
        return [read_credential(row) for row in await self._read("find_live", values)]

    async def find_request(self, request_id: int) -> Dossier | None:
        """See `Store`."""
        rows = await self._read("find_request", {"id": request_id})
        return read_dossier(rows[0][1:]) if rows else None

    async def find_credentials(self, request_id: int) -> Sequence[Credential]:
        """See `Store`."""
        return [read_credential(row) for row in await self._read("find_credentials", {"id": request_id})]

    async def find_open(self, device_broker: str, client_id: str) -> Sequence[ProvisionRequest]:
        """See `Store`."""
        rows = await self._read("find_open", {"device_broker": device_broker, "client_id": client_id})
        return [read_request(row) for row in rows]

    async def holds_client_id(self, device_broker: str, client_id: str, but_for: int) -> bool:
        """See `Store`."""
        values = {"device_broker": device_broker, "client_id": client_id, "but_for": but_for}
        return bool(await self._read("holds_client_id", values))

    async def find_twin(self, request: ProvisionRequest) -> ProvisionRequest | None:
        """See `Store`."""
        facts = request.facts
        values = {
            "serial": facts.serial_number,
            "mac": None if facts.mac_address is None else normal_mac(facts.mac_address),
            "client_id": request.client_id,
            "account_id": request.account_id,
            "model": facts.model,
            "maker": facts.vendor or facts.brand,
        }
        rows = await self._read("find_twin", values)
        return read_request(rows[0]) if rows else None

    async def find_lapsed(self, now: Millis, limit: int) -> Sequence[ProvisionRequest]:
        """See `Store`."""
        return [read_request(row) for row in await self._read("find_lapsed", {"now": now, "limit": limit})]

    async def next_due(self) -> Millis | None:
        """See `Store`."""
        due: Millis | None = (await self._read("next_due", {}))[0][0]
        return due

    async def newest_id(self) -> int:
        """See `Store`."""
        return int((await self._read("newest_id", {}))[0][0])

    async def list_requests(self, listing: Listing) -> tuple[Sequence[ProvisionRequest], bool]:
        """See `Store`."""
        values = {
            "accounts": _json(listing.accounts),
            "client_ids": _json(listing.client_ids),
            "statuses": _json(listing.statuses),
            "status": listing.status,
            "start": listing.start,
            "end": listing.end,
            "offset": listing.offset,
            "limit": listing.limit,
        }
        rows = await self._read("list_requests", values)
        return [read_request(row) for row in rows[: listing.limit]], len(rows) > listing.limit

    async def count_open(self, account_id: int) -> int:
        """See `Store`."""
        return int((await self._read("count_open", {"account_id": account_id}))[0][0])

    async def find_account(self, account_id: int) -> Account | None:
        """See `Store`."""
        rows = await self._read("find_account", {"id": account_id, "name": None})
        return read_account(rows[0]) if rows else None

    async def find_account_named(self, name: str) -> Account | None:
        """See `Store`."""
        rows = await self._read("find_account", {"id": None, "name": name})
        return read_account(rows[0]) if rows else None

    async def list_accounts(self) -> Sequence[Account]:
        """See `Store`."""
        return [read_account(row) for row in await self._read("list_accounts", {})]

    async def find_user(self, username: str) -> User | None:
        """See `Store`."""
        rows = await self._read("find_user", {"username": username})
        return read_user(rows[0]) if rows else None

    async def list_users(self) -> Sequence[User]:
        """See `Store`."""
        return [read_user(row) for row in await self._read("list_users", {})]

    async def find_token(self, token_hash: str) -> Token | None:
        """See `Store`."""
        rows = await self._read("find_token", {"token_hash": token_hash})
        return read_token(rows[0]) if rows else None

    async def list_tokens(self) -> Sequence[Token]:
        """See `Store`."""
        return [read_token(row) for row in await self._read("list_tokens", {})]

    async def _read(self, name: str, values: dict[str, Any]) -> list[Any]:
        return await self._reading(lambda connection: connection.execute(SQL[name], values).fetchall())

    async def _read_batch(self, name: str, batch: Sequence[object]) -> Sequence[Any]:
        """Rows of a statement that takes its questions and gives its answers as one JSON text each."""
        text = (await self._read(name, {"batch": json.dumps(batch)}))[0][0]
        rows: Sequence[Any] = json.loads(text)
        return rows

    async def _reading(self, work: Callable[[sqlite3.Connection], A]) -> A:
        try:
            outcome = await self._reader.run(work)
        except (sqlite3.Error, ValueError) as error:
            raise self._ails("read", error) from error
        self._works("read")
        return outcome

    def _ails(self, what: str, error: Exception) -> Unavailable:
        if what not in self._ailing:
            self._ailing.add(what)
            self.on_health(f"the database cannot be {what}: {error}")
        return Unavailable(f"the database cannot be {what}")

    def _works(self, what: str) -> None:
        if what in self._ailing:
            self._ailing.remove(what)
            self.on_health(None)

    # -- writing ---------------------------------------------------------------------------------------------------

    async def commit(self, unit: Unit) -> bool:
        """See `Store`."""
        return await self._units.ask(unit)

    async def _commit_batch(self, units: list[Unit]) -> Sequence[bool | Exception]:
        try:
            return await self._write_and_tell(units)
        except Unavailable:
            raise
        except Exception:  # noqa: BLE001  # one of them is at fault: each once more, alone
            outcomes: list[bool | Exception] = []
        for unit in units:
            try:
                outcomes += await self._write_and_tell([unit])
            except _FormerKey:
                outcomes.append(False)
            except Exception as error:  # noqa: BLE001  # for who asked for this one
                outcomes.append(error)
        return outcomes

    async def _write_and_tell(self, units: list[Unit]) -> list[bool]:
        winners, has_events = await self._transact(partial(write_units, units))
        if has_events:
            self.tell()
        if any(wins and revokes(unit) for unit, wins in zip(units, winners, strict=True)):
            self.certificates.tell()
        return winners

    async def lease_due(self, now: Millis, until: Millis, limit: int) -> Sequence[tuple[Credential, Dossier]]:
        """See `Store`."""
        values = {"now": now, "until": until, "limit": limit}

        def work(connection: sqlite3.Connection) -> list[tuple[Credential, Dossier]]:
            # Read where nobody can write: a credential and its request that do not fit make no step.
            found = []
            for request_id, generation in connection.execute(SQL["lease_due"], values).fetchall():
                rows = connection.execute(SQL["find_request"], {"id": request_id}).fetchall()
                credentials = map(read_credential, connection.execute(SQL["find_credentials"], {"id": request_id}))
                credential = next((one for one in credentials if one.generation == generation), None)
                if rows and credential is not None:
                    found.append((credential, read_dossier(rows[0][1:])))
            return found

        return await self._transact(work)

    async def release_leases(self) -> None:
        """See `Store`."""
        await self._change("release_leases", {})

    async def recall(self, jobs: Millis, confirms: Millis) -> None:
        """See `Store`."""
        await self._change("recall", {"jobs": jobs, "confirms": confirms})

    async def delete_request(self, before: ProvisionRequest, note: Note) -> bool:
        """See `Store`."""

        def work(connection: sqlite3.Connection) -> bool:
            values = {"id": before.id, "optlock": before.optlock, "job_optlock": before.job_optlock}
            gone = connection.execute(SQL["delete_request"], values).rowcount == 1
            if gone:
                connection.execute(SQL["delete_bound"], {"id": before.id})
                append((line_about(note, before),), connection)
            return gone

        return await self._transact(work)

    async def add_account(self, account: Account, note: Note) -> None:
        """See `Store`."""
        await self._change("add_account", row_values(account), note)

    async def add_user(self, user: User, note: Note) -> None:
        """See `Store`."""
        await self._change("add_user", row_values(user), note)

    async def save_device_broker(self, account_id: int, device_broker: str, note: Note) -> None:
        """See `Store`."""
        await self._change(
            "save_device_broker", {"id": account_id, "device_broker": device_broker, "at": note.at}, note
        )

    async def save_user_password(self, user_id: int, password_hash: str, note: Note) -> None:
        """See `Store`."""
        await self._change("save_user_password", {"id": user_id, "password_hash": password_hash}, note)

    async def add_token(self, token: Token, note: Note) -> None:
        """See `Store`."""
        await self._change("add_token", row_values(token), note)

    async def delete_token(self, token_id: int, note: Note) -> bool:
        """See `Store`."""
        return bool(await self._change("delete_token", {"id": token_id}, note))

    async def record(self, lines: Sequence[Line]) -> None:
        """See `Store`."""
        await self._transact(partial(append, lines))

    async def list_journal(self, request_id: int | None, after: int, limit: int) -> Sequence[Entry]:
        """See `Store`."""
        values = {"request_id": request_id, "after": after, "limit": limit}
        return [read_entry(row) for row in await self._read("list_journal", values)]

    async def head(self) -> Entry | None:
        """See `Store`."""
        found = await self._read("journal_head", {})
        return (await self.list_journal(None, found[0][0] - 1, 1))[0] if found else None

    async def find_copied_on(self) -> Millis | None:
        """See `CopiedLedger`."""
        copied_on: Millis | None = (await self._read("find_ledger", {}))[0][2]
        return copied_on

    async def list_unproved(self, limit: int) -> Sequence[tuple[ProvisionRequest, Credential]]:
        """See `CopiedLedger`."""
        rows = await self._read("find_unproved", {"limit": limit})
        return [read_request_with_credential(row) for row in rows]

    async def lift_floor(self, floor: int) -> None:
        """See `CopiedLedger`."""
        await self._change("lift_floor", {"floor": floor})

    async def allow_renewals(self) -> None:
        """See `CopiedLedger`."""
        await self._change("allow_renewals", {})

    async def end_restore(self) -> None:
        """See `CopiedLedger`."""
        await self._change("end_restore", {})

    async def truncate_log(self) -> bool:
        """Bring the write-ahead log into the database and empty it; False: somebody reads from it, try again."""
        if self._is_logged:
            self._is_logged = False
            try:
                self._is_logged = not await self._writer.run(truncate_log)
            except (sqlite3.Error, ValueError) as error:
                self._is_logged = True
                raise Unavailable("the database cannot be written") from error
        return not self._is_logged

    async def check(self) -> None:
        """See `Store`."""

        def work(connection: sqlite3.Connection) -> None:
            """BEGIN IMMEDIATE is the check while all is well; after a failure only a write tells."""
            if self._ailing:
                connection.execute(SQL["add_probe"])
                connection.execute(SQL["delete_probe"])

        await self._transact(work)

    def _tell(self) -> None:
        self.tell()

    async def _change(self, name: str, values: dict[str, Any], note: Note | None = None) -> list[Any]:
        def work(connection: sqlite3.Connection) -> list[Any]:
            return connection.execute(SQL[name], values).fetchall()

        return await (self._transact(work) if note is None else self._journaled(work, note))

    async def _journaled(self, work: Callable[[sqlite3.Connection], A], note: Note) -> A:
        def both(connection: sqlite3.Connection) -> A:
            outcome = work(connection)
            append((line_of(note),), connection)
            return outcome

        return await self._transact(both)

    async def _transact(self, work: Callable[[sqlite3.Connection], A]) -> A:
        """`work` in a transaction, which ends one way or the other even when its caller is cancelled half-way."""
        self._is_logged = True
        try:
            outcome, wrote = await self._writer.run(partial(transaction, work))
        except sqlite3.IntegrityError as error:
            if _FORMER_KEY in str(error):
                raise _FormerKey("busy", "the key it was sealed under is being replaced") from error
            raise Conflict("conflict", "something of that name or id is there already") from error
        except (sqlite3.Error, ValueError) as error:
            raise self._ails("written", error) from error
        if wrote:
            self._works("written")
        return outcome


def _json(values: Sequence[object] | None) -> str | None:
    return None if values is None else json.dumps(values)
