"""An operator API over a real ledger, in a time that stands still, with a device broker that takes what it is given."""

import builtins
import os
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import httpx2

from broker.http.app import create_app
from broker.http.doors import Doors
from broker.http.events import Feed
from broker.http.metrics import registry
from broker.keyring import ForeignKeys
from provisioner.administration import Administration
from provisioner.admission import Admission, WrongKeyRates
from provisioner.batches import Batches
from provisioner.bulk import Bulk
from provisioner.dps import Dps
from provisioner.drafting import Drafts
from provisioner.entities import NewAccount
from provisioner.epochs import Epochs
from provisioner.event_desk import EventDesk
from provisioner.handover import Vault
from provisioner.jobs import Jobs
from provisioner.logins import Logins
from provisioner.model import (
    Account,
    AccountKind,
    Ack,
    BrokerAddress,
    Claim,
    JobStatus,
    Offer,
    Origin,
    Result,
    Role,
    Secret,
)
from provisioner.oversight import Oversight
from provisioner.passwords import Passwords
from provisioner.policy import Actor
from provisioner.ports import Cost, Install, Probe, Revoke, ToInstall
from provisioner.reconcile import Reconciler
from provisioner.serials import Serials
from provisioner.service import Provisioner, Rules
from provisioner.store import SqliteStore
from provisioner.why import Why

NOW = 1_800_000_000_000
PATH = "/v2/provisionRequests"
HERE = Origin("127.0.0.1", 1, secure=True)
ROOT = Actor(0, Role.ADMIN)


class Shelf:
    """A device broker that keeps names and is never away."""

    name = "shelf"
    kind = "shelf"
    sees_logins = False
    asks_ledger = False
    binds_client_id = True
    templates = False
    prehashed = False
    takes_passwords = True
    takes_certificates = True
    kicks_live = True
    persists = True

    def __init__(self) -> None:
        self.names: builtins.list[str] = []
        self.is_away = False
        self.is_listening = True

    def address(self, *, secure: bool) -> BrokerAddress | None:
        if not self.is_listening:
            return None
        return BrokerAddress("mqtts://devices.example:8883" if secure else "mqtt://devices.example:1883")

    async def install(self, items: Sequence[ToInstall]) -> Sequence[Install]:
        if self.is_away:
            return [Install.LATER for _ in items]
        self.names += [item.credential.username for item in items]
        return [Install.DONE for _ in items]

    async def revoke(self, usernames: Sequence[str], *, kick: bool = True) -> Sequence[Revoke]:
        self.names = [name for name in self.names if name not in usernames]
        return [Revoke.CLOSED for _ in usernames]

    def objection(self, account: str, client_id: str) -> str | None:
        return None

    def delay(self, username: str) -> float:
        return 0.0

    def cost(self, installs: int, revokes: int) -> Cost:
        return Cost(sessions=revokes, stall=0.5 * (installs + revokes), rewrites=1, duration=1.0)

    async def probe(self) -> Probe:
        return Probe("Shelf 1")

    async def close(self) -> None:
        pass

    async def list(self) -> Sequence[str]:
        return tuple(self.names)


class World:
    """One installation: accounts `floor` (PROVISION), `acme` with its child `acme-labs`, and `globex` (TARGET)."""

    def __init__(self, store: SqliteStore) -> None:
        self.now = NOW
        self.ready = {"store": True, "endpoint": True}
        self.accounts: dict[str, Account] = {}
        self._closing = AsyncExitStack()
        self.shelf = Shelf()
        vault, shelves = Vault({1: bytes(32)}, os.urandom), {Shelf.name: self.shelf}
        self.shelves = shelves
        self.passwords = Passwords(os.urandom)
        logins = Logins(store, self.passwords)
        self.jobs = Jobs(store, shelves, vault, os.urandom)
        self.administration = Administration(
            store,
            vault,
            logins,
            self.passwords,
            shelves,
            os.urandom,
            default_broker=Shelf.name,
            provision_account="floor",
            confirm_time=3600,
        )
        self.provisioner = Provisioner(
            store,
            vault,
            shelves,
            self.jobs,
            logins,
            Admission(WrongKeyRates()),
            Rules(),
            lambda _offer, _alg: 0,
            os.urandom,
        )
        self.administration.attachments.base_url = "http://provisioner"
        self.provisioner.watch_logins(self.administration.learning.note)
        self.provisioner.offering.enclosed = self.administration.attachments.deliver
        figures = registry(lambda: {"offer": 2, "denied": 1}, lambda: 3)
        keyring = ForeignKeys("in this test", {"vault-1": "00" * 32, "pepper": "01" * 32}.items())
        self.epochs = Epochs(store.keys, keyring, vault, os.urandom)
        oversight = Oversight(self.administration, store, Reconciler(store, shelves, vault))
        self.feed = Feed()
        store.tell = self.feed.tell
        self.log = store.events
        desk = EventDesk(store.events, self.administration.visible)
        rates = WrongKeyRates()
        admission = Admission(replace(rates, per_connection=rates.per_source))
        drafts = Drafts(self.administration, store)
        self.doors = Doors(
            Serials(store.serials, store, self.administration, self.provisioner, admission),
            Bulk(store.devices, self.administration, drafts, vault, os.urandom, mails=True),
            Batches(store.devices, self.administration),
            Dps(store.dps, self.administration),
            Why(store.why, store, vault, shelves, self.administration),
        )
        self.store, self.vault = store, vault
        self.app = create_app(
            self.administration,
            self.epochs,
            oversight,
            desk,
            self.feed,
            self.doors,
            lambda: self.now,
            self._readiness,
            figures,
        )

    @classmethod
    async def on(cls, folder: Path) -> Self:
        """A fresh one; its ledger is in `folder`."""
        store = await SqliteStore.open(folder / "ledger.db")
        world = cls(store)
        world._closing.push_async_callback(store.close)
        world._closing.push_async_callback(world.jobs.close)
        for name, kind, parent in (
            ("floor", AccountKind.PROVISION, None),
            ("acme", AccountKind.TARGET, None),
            ("acme-labs", AccountKind.TARGET, "acme"),
            ("globex", AccountKind.TARGET, None),
        ):
            new = NewAccount(name, kind, parent=parent)
            world.accounts[name] = await world.administration.create_account(ROOT, new, NOW)
        await world.administration.create_user(ROOT, "factory", None, None, NOW)
        return world

    async def close(self) -> None:
        """Close clients and ledger."""
        await self._closing.aclose()

    async def _readiness(self) -> dict[str, bool]:
        return self.ready

    async def token(self, role: Role = Role.ADMIN, account: str | None = None) -> str:
        """A fresh token."""
        name = f"{role}-{os.urandom(4).hex()}"
        return (await self.administration.create_token(ROOT, name, role, account, NOW))[1].reveal()

    async def operator(self, role: Role = Role.ADMIN, account: str | None = None) -> "Operator":
        """Somebody with a fresh token at the API."""
        return self.visitor({"authorization": f"Bearer {await self.token(role, account)}"})

    def visitor(self, headers: dict[str, str] | None = None) -> "Operator":
        """Somebody without one."""
        http = httpx2.AsyncClient(
            transport=httpx2.ASGITransport(self.app), base_url="http://provisioner", headers=headers
        )
        self._closing.push_async_callback(http.aclose)
        return Operator(http, self)

    async def claim(
        self, created: dict[str, Any], device: dict[str, str] | None = None, *, request_id: str = "r-1", **more: Any
    ) -> Offer:
        """The device of a request gets an offer, by the same path as over MQTT."""
        user, key = created["provisionUserUsername"], Secret(created["activationKey"])
        claim = Claim(user, created["clientId"], request_id, HERE, key=key, device=device or {}, **more)
        return await self.provisioner.claim(claim, self.now)

    async def run_jobs(self) -> None:
        """Until nothing is due now."""
        while await self.jobs.step(self.now) <= self.now:
            pass

    async def confirm(self, created: dict[str, Any]) -> None:
        """The device says that it stored the credential of its offer."""
        await self.report(created, Result.STORED)

    async def report(self, created: dict[str, Any], result: Result, status: JobStatus | None = None) -> None:
        """The device says how far it is."""
        user, key = created["provisionUserUsername"], Secret(created["activationKey"])
        ack = Ack(user, created["clientId"], "r-1", 1, result, HERE, status=status, key=key)
        await self.provisioner.ack(ack, self.now)


class Operator:
    """A client of the API that says what it expects."""

    def __init__(self, http: httpx2.AsyncClient, world: World) -> None:
        self.http = http
        self._world = world

    async def ask(self, status: int, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """The JSON of an answer with this status."""
        if body is not None:
            more["json"] = body
        answer = await self.http.request(method, path, **more)
        assert answer.status_code == status, f"{method} {path}: {answer.status_code} {answer.text}"
        if status >= 400:
            assert answer.headers["content-type"] == "application/problem+json"
            problem = answer.json()
            assert (problem["status"], problem["detail"][-1]) == (status, ".")
            return problem
        return answer.json() if answer.content else None

    async def refused(self, status: int, code: str, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """The problem of an answer with this status and code."""
        problem = await self.ask(status, method, path, body, **more)
        assert problem["code"] == code, problem
        return problem

    async def get(self, path: str, **parameters: Any) -> Any:
        """The JSON behind a path."""
        return await self.ask(200, "GET", path, params=parameters)

    def form(self, client_id: str = "dev-1", account: str = "acme", **fields: Any) -> dict[str, Any]:
        """What a creator needs at least."""
        return {
            "accountId": self._world.accounts[account].id,
            "clientId": client_id,
            "provisionUserUsername": "factory",
            **fields,
        }

    async def create(self, client_id: str = "dev-1", account: str = "acme", **fields: Any) -> dict[str, Any]:
        """A fresh request, as its creator is shown it."""
        created = await self.ask(201, "POST", PATH, self.form(client_id, account, **fields))
        assert isinstance(created, dict)
        return created
