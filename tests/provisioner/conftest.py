"""A provisioner without sockets: real store, real vault, and a device broker that fails on cue."""

from __future__ import annotations

import asyncio
import builtins
import os
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from certs.authority import Authority, Issuer
from certs.hierarchy import Signer, create_issuer, create_root
from certs.keys import P256, generate
from certs.profile import Purpose
from provisioner import handover
from provisioner.administration import Administration
from provisioner.admission import Admission, WrongKeyRates
from provisioner.certification import CertificateRules, Certification
from provisioner.creation import Created, NewRequest
from provisioner.entities import NewAccount
from provisioner.handover import Vault
from provisioner.jobs import Jobs
from provisioner.logins import Logins
from provisioner.model import (
    AccountKind,
    Ack,
    BrokerAddress,
    Claim,
    DeviceRights,
    JobStatus,
    Millis,
    Offer,
    Origin,
    Proof,
    ProvisionRequest,
    Result,
    Role,
    Secret,
    Taken,
)
from provisioner.passwords import Passwords
from provisioner.policy import Actor
from provisioner.ports import Cost, Install, Probe, Revoke, ToInstall
from provisioner.service import Provisioner, Rules
from provisioner.store import SqliteStore

START = 1_800_000_000_000
ROOT = create_root("Test", generate(P256), START, os.urandom)
ISSUER = create_issuer(ROOT, "Test", Purpose.DEVICES, generate(P256), START, os.urandom)
ADMIN = Actor(1, Role.ADMIN)
LOCAL = Origin("127.0.0.1", 1, secure=True)


@dataclass
class CueBroker:
    """A device broker whose answers a test sets; it remembers what is live."""

    name: str = "embedded"
    sees_logins: bool = True
    asks_ledger: bool = False
    kind: str = "cue"
    binds_client_id: bool = True
    templates: bool = False
    prehashed: bool = False
    takes_passwords: bool = True
    takes_certificates: bool = True
    kicks_live: bool = True
    persists: bool = True
    queue: float = 0.0
    outcome: Install = Install.DONE
    gate: asyncio.Event | None = None
    revokes: bool = True
    secure: BrokerAddress | None = None
    live: builtins.list[str] = field(default_factory=list)
    tombs: builtins.list[str] = field(default_factory=list)

    def address(self, *, secure: bool) -> BrokerAddress | None:
        return self.secure if secure else BrokerAddress("mqtt://127.0.0.1:1883")

    async def install(self, items: Sequence[ToInstall]) -> Sequence[Install]:
        if self.gate is not None:
            await self.gate.wait()
        if self.outcome is Install.DONE:
            self.live += [item.credential.username for item in items if item.credential.username not in self.tombs]
        return [self.outcome] * len(items)

    async def revoke(self, usernames: Sequence[str], *, kick: bool = True) -> Sequence[Revoke]:
        if self.revokes:
            self.live = [name for name in self.live if name not in usernames]
            self.tombs += usernames
        return [Revoke.CLOSED if self.revokes else Revoke.LATER] * len(usernames)

    async def list(self) -> Sequence[str]:
        return tuple(self.live)

    def objection(self, account: str, client_id: str) -> str | None:
        return "this device broker takes no client id with a dot" if "." in client_id else None

    def delay(self, username: str) -> float:
        return self.queue

    def cost(self, installs: int, revokes: int) -> Cost:
        return Cost(revokes, 0.1 * installs, installs + revokes)

    async def probe(self) -> Probe:
        return Probe("1")

    async def close(self) -> None:
        pass


@dataclass
class World:
    """Everything, and a clock that a test moves."""

    store: SqliteStore
    vault: Vault
    broker: CueBroker
    jobs: Jobs
    provisioner: Provisioner
    administration: Administration
    certification: Certification
    now: Millis = START

    async def request(self, client_id: str = "dev-1", **fields: object) -> Created:
        new = NewRequest(account="acme", client_id=client_id, username="factory")
        return await self.administration.create_request(ADMIN, replace(new, **fields), self.now)  # type: ignore[arg-type]  # a test's keywords

    async def read(self, request_id: int) -> ProvisionRequest:
        return await self.administration.get_request(ADMIN, request_id)

    async def run_jobs(self) -> None:
        """Until nothing is due now."""
        while await self.jobs.step(self.now) <= self.now:
            pass

    def device(self, created: Created, client_id: str = "dev-1") -> SimpleDevice:
        assert created.activation_key is not None
        return SimpleDevice(self, client_id, created.activation_key.reveal())

    async def login(
        self, offer: Offer, client_id: str | None = None, username: str | None = None
    ) -> DeviceRights | None:
        return await self.provisioner.device_login(
            "embedded",
            offer.username,
            offer.password.reveal().encode(),
            client_id or offer.client_id,
            self.now,
        )


@dataclass
class SimpleDevice:
    """Speaks to the service in proof mode."""

    world: World
    client_id: str
    key: str
    user: str = "factory"
    origin: Origin = LOCAL

    def claim_of(self, request_id: str, **fields: object) -> Claim:
        nonce = handover.encode64(os.urandom(16))
        claim = Claim(self.user, self.client_id, request_id, self.origin)
        claim = replace(claim, **fields)  # type: ignore[arg-type]  # a test's keywords
        keys = handover.derive(self.key, self.user, self.client_id)
        proof = handover.claim_proof(
            keys.auth, request_id, nonce, claim.seal_to, handover.csr_hash(claim.csr), claim.accept, claim.alg
        )
        return replace(claim, proof=Proof(nonce, proof))

    async def claim(self, request_id: str = "r-1", **fields: object) -> Offer:
        return await self.world.provisioner.claim(self.claim_of(request_id, **fields), self.world.now)

    async def claim_plain(self, request_id: str = "r-1") -> Offer:
        claim = Claim(self.user, self.client_id, request_id, self.origin, key=Secret(self.key))
        return await self.world.provisioner.claim(claim, self.world.now)

    async def ack(
        self,
        generation: int = 1,
        result: Result = Result.STORED,
        request_id: str = "r-1",
        status: JobStatus | None = None,
    ) -> Taken:
        nonce = handover.encode64(os.urandom(16))
        keys = handover.derive(self.key, self.user, self.client_id)
        text = "" if status is None else status.value
        proof = Proof(nonce, handover.ack_proof(keys.auth, request_id, nonce, generation, result.value, text))
        ack = Ack(self.user, self.client_id, request_id, generation, result, self.origin, status, proof=proof)
        return await self.world.provisioner.ack(ack, self.world.now)


def an_authority(*more: Signer) -> Authority:
    """A root with an issuer for devices, in memory; `more` are issuers under it, made later."""
    root = ROOT.certificate
    return Authority(root, [Issuer(Purpose.DEVICES, root, [one.certificate], one.key) for one in (ISSUER, *more)])


async def build(folder: Path, rules: Rules | None = None, rates: WrongKeyRates | None = None) -> World:
    """A world on the database in `folder`: accounts `provision` and `acme`, and the login `factory` on the first."""
    store = await SqliteStore.open(folder / "ledger.sqlite")
    vault = Vault({1: b"k" * 32}, os.urandom)
    passwords = Passwords(os.urandom)
    logins = Logins(store, passwords)
    broker = CueBroker()
    brokers = {"embedded": broker}
    jobs = Jobs(store, brokers, vault, os.urandom)
    rules = rules or Rules()
    certification = Certification(an_authority(), CertificateRules(), os.urandom)
    administration = Administration(
        store,
        vault,
        logins,
        passwords,
        brokers,
        os.urandom,
        default_broker="embedded",
        provision_account="provision",
        confirm_time=3600,
        allow_keyless=rules.allow_keyless,
        newest_id=await store.newest_id(),
    )
    admission = Admission(rates or WrongKeyRates())
    provisioner = Provisioner(
        store, vault, brokers, jobs, logins, admission, rules, lambda offer, encoding: 900, os.urandom, certification
    )
    world = World(store, vault, broker, jobs, provisioner, administration, certification)
    if await store.find_account_named("provision") is None:
        await administration.create_account(ADMIN, NewAccount("provision", AccountKind.PROVISION), START)
        await administration.create_account(ADMIN, NewAccount("acme", AccountKind.TARGET), START)
        await administration.create_user(ADMIN, "factory", None, "provision", START)
    await jobs.recover()
    return world


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = await build(tmp_path)
    yield made
    await made.jobs.close()
    await made.store.close()
