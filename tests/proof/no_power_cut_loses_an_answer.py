"""F-2: the power fails at any write, sync or deletion; whatever was acknowledged is there when it is back, whole.

The real store runs on a disk that keeps what was not synced apart (`disk`), under its own SQL text and pragmas. Before
an operation the disk may be copied as it is: that is a cut. Each copy then loses all or parts of what was not synced,
is opened by the real store and compared with what callers had been told. The last one is what the next life starts on.
The control run with `synchronous = NORMAL` shows that this disk takes away what is not synced.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from provisioner import transitions
from provisioner.lifecycle import Phase, State
from provisioner.model import (
    Account,
    AccountKind,
    Confirm,
    Coupling,
    Credential,
    Facts,
    ProvisionRequest,
    Status,
    User,
)
from provisioner.ports import Bound, Note, Unit
from provisioner.store import SqliteStore
from tests.proof.disk import Disk
from tests.proof.library import Connection, Library
from tests.proof.scale import record, rounds

START = 1_800_000_000_000
NOTE = Note(START, "test")
CALLERS = 6
UNITS = 60
"""Units of one life, about."""
CUT, CHECKPOINT = 0.2, 0.08
"""How often an operation is cut, and a unit followed by a checkpoint."""
LIVES = 8
"""Lives of one disk."""

_names = itertools.count(1)

Version = tuple[int, str]
"""`job_optlock` and phase of a request: they change with every unit."""


@dataclass
class Cut:
    """The disk at one moment, what callers had been told by then, and what they had asked for."""

    disk: Disk
    told: dict[int, Version]
    asked: dict[int, Version]


@dataclass
class Life:
    """The store from one start to the next cut."""

    disk: Disk
    chance: random.Random
    told: dict[int, Version]
    checkpoint: Callable[[], object]
    asked: dict[int, Version] = field(default_factory=dict)
    cuts: list[Cut] = field(default_factory=list)
    acknowledged: int = 0

    def watch(self) -> None:
        """Cut at operations that change something; called in the thread of the connection."""
        self.disk.before = self._before

    def _before(self, operation: str, _name: str) -> None:
        if operation != "read" and self.chance.random() < CUT:
            self.cut()

    def cut(self) -> None:
        """Keep the disk as it is now."""
        self.cuts.append(Cut(self.disk.image(), dict(self.told), dict(self.asked)))

    async def live(self, store: SqliteStore) -> None:
        """Several callers at once, each with one device after the other."""
        await asyncio.gather(*(self._caller(store, random.Random(self.chance.random())) for _ in range(CALLERS)))

    async def _caller(self, store: SqliteStore, chance: random.Random) -> None:
        request = credential = None
        for _ in range(UNITS // CALLERS):
            unit = first(next(_names)) if request is None else step(request, credential, chance)
            after = unit.added[0] if unit.added else unit.saved[0].after
            self.asked[after.id] = version(after)
            assert await store.commit(unit)
            self.told[after.id] = version(after)
            self.acknowledged += 1
            if chance.random() < CHECKPOINT:
                await asyncio.to_thread(self.checkpoint)
            request, credential = after, unit.credentials[0] if unit.credentials else None
            if transitions.is_closed(request):
                request = None


def version(request: ProvisionRequest) -> Version:
    return request.job_optlock, request.phase.value


def first(number: int) -> Unit:
    request = ProvisionRequest(
        id=number,
        job_id=number,
        account_id=1,
        account_name="acme",
        client_id=f"dev-{number}",
        provision_user_id=1,
        provision_username="factory",
        device_broker="embedded",
        status=Status.ENABLED,
        activates_on=None,
        expires_on=None,
        secure_url=False,
        coupling=Coupling.STRICT,
        confirm=Confirm.ACK,
        confirm_time=3_600_000,
        configuration="{}",
        facts=Facts(),
        device_name=None,
        forget=False,
        reuse_key=True,
        retry_max_attempts=5,
        keys_sealed="sealed" * 30,
    )
    return Unit(NOTE, added=(request,))


def step(request: ProvisionRequest, credential: Credential | None, chance: random.Random) -> Unit:
    """The next unit of a device's way, with a failure now and then."""
    if request.phase is Phase.PENDING:
        minted = mint(request)
        return transitions.mint(request, minted, Bound(request.id, f"r-{minted.generation}", minted.generation), NOTE)
    assert credential is not None
    if request.phase is Phase.MINTED:
        return transitions.install_and_offer(request, credential, NOTE)
    if request.phase is Phase.OFFERED:
        if chance.random() < 0.3:
            return transitions.retire(request, credential, NOTE)
        return transitions.confirm(request, credential, None, "wiped", NOTE)
    if request.phase is Phase.CONFIRMED:
        saved, leaving = transitions.withdraw(request, [credential], START, stop_wanted=True)
        return Unit(NOTE, saved=(saved,), credentials=leaving)
    return transitions.retired(request, credential, [credential], NOTE)


def mint(request: ProvisionRequest) -> Credential:
    generation = request.generation + 1
    return Credential(
        device_broker=request.device_broker,
        client_id=request.client_id,
        generation=generation,
        request_id=request.id,
        account_name=request.account_name,
        username=f"p.acme.{request.client_id}.g{generation}",
        coupling=request.coupling,
        identity="password",
        secret_sealed="secret" * 20,
        secret_hash="hash" * 10,
        state=State.MINTED,
        minted_on=START,
        confirm_before=START + request.confirm_time,
        due_on=START + 10_000,
    )


_STANDING = {
    Phase.PENDING: None,
    Phase.MINTED: State.MINTED,
    Phase.OFFERED: State.OFFERED,
    Phase.CONFIRMED: State.CONFIRMED,
    Phase.RETIRING: State.RETIRING,
    Phase.STOPPED: State.RETIRED,
}
"""Where the newest credential is when its request is in a phase: a unit is whole or not there."""


@dataclass
class Found:
    """What is in a ledger."""

    versions: dict[int, Version]
    broken: list[str]


def look(library: Library, path: Path) -> Found:
    """Read a ledger and look for halves of units."""
    real = library.real(str(path))
    broken = [row[0] for row in real.execute("PRAGMA integrity_check") if row[0] != "ok"]
    broken += [f"foreign key {row}" for row in real.execute("PRAGMA foreign_key_check")]
    versions = {}
    rows = real.execute(
        "SELECT r.id, r.job_optlock, r.phase, r.generation, r.retry_count, c.state, c.secret_sealed IS NULL,"
        " (SELECT count(*) FROM bound_request_id WHERE request_id = r.id)"
        " FROM request r LEFT JOIN credential c ON c.request_id = r.id AND c.generation = r.generation"
    )
    for number, optlock, phase, generation, minted, state, wiped, bound in rows:
        versions[number] = (optlock, phase)
        standing = _STANDING[Phase(phase)] if generation == 0 or phase != "PENDING" else State.RETIRED
        if (state, minted, bound) != (standing, generation, generation):
            broken.append(f"{number} is {phase} and its generation {generation} {state}")
        if state is not None and bool(wiped) is (state in {"MINTED", "OFFERED"}):
            broken.append(f"{number} is {phase} and its secret is {'gone' if wiped else 'there'}")
    return Found(versions, broken)


def lost(cut: Cut, found: Found) -> list[str]:
    """What callers had been told and is not so, and what nobody asked for."""
    wrong = []
    for number, told in cut.told.items():
        if found.versions.get(number) not in {told, cut.asked.get(number, told)}:
            wrong.append(f"{number} was told as {told} and is {found.versions.get(number)}")
    for number, version_found in found.versions.items():
        if version_found not in {cut.told.get(number), cut.asked.get(number)}:
            wrong.append(f"{number} is {version_found}, and nobody asked for that")
    return wrong


@dataclass
class Outcome:
    """What many cuts came to."""

    cuts: int = 0
    acknowledged: int = 0
    lost: list[str] = field(default_factory=list)
    broken: list[str] = field(default_factory=list)


class Laboratory:
    """Lives, one after the other, with `pragmas` replaced by others."""

    def __init__(self, path: Path, seed: int, monkeypatch: pytest.MonkeyPatch, pragmas: dict[str, str]) -> None:
        self._path = path
        self._chance = random.Random(seed)
        self._pragmas = pragmas
        self._library: Library | None = None
        monkeypatch.setattr(sqlite3, "connect", self._connect)
        self.outcome = Outcome()

    async def run(self, cuts: int) -> Outcome:
        """Until there were so many cuts."""
        while self.outcome.cuts < cuts:
            disk, told = Disk(), dict[int, Version]()
            for _ in range(LIVES):
                if self.outcome.cuts >= cuts:
                    break
                disk, told = await self._life(disk, told)
        return self.outcome

    async def _life(self, disk: Disk, told: dict[int, Version]) -> tuple[Disk, dict[int, Version]]:
        library = self._library = Library("disk", disk, self._pragmas)
        life = Life(disk, self._chance, told, lambda: library.connect(self._path).execute("PRAGMA wal_checkpoint"))
        life.watch()
        store = await SqliteStore.open(self._path)
        if await store.find_user("factory") is None:
            await store.add_account(account(), NOTE)
            await store.add_user(User(1, 1, "factory", "hash", START, 1), NOTE)
        await life.live(store)
        life.cut()
        await store.close()
        library.close()
        disk.before = lambda *_: None
        self.outcome.acknowledged += life.acknowledged
        for cut in life.cuts:
            found, left = await self._after(cut)
        return left, found.versions

    async def _after(self, cut: Cut) -> tuple[Found, Disk]:
        disk = cut.disk.cut(self._chance)
        library = self._library = Library("disk", disk, self._pragmas)
        store = await SqliteStore.open(self._path)
        found = look(library, self._path)
        await store.close()
        library.close()
        self.outcome.cuts += 1
        self.outcome.lost += lost(cut, found)
        self.outcome.broken += found.broken
        return found, disk

    def _connect(self, database: object, *_: object, **__: object) -> Connection:
        assert self._library is not None
        return self._library.connect(database)


def account() -> Account:
    return Account(
        id=1, uid="0" * 32, name="acme", display_name="acme", kind=AccountKind.TARGET, parent_id=None,
        coupling=Coupling.STRICT, device_broker="embedded", quota=None, created_on=START, created_by=1,
        modified_on=START, modified_by=1, optlock=1,
    )  # fmt: skip


async def test_no_power_cut_loses_what_was_acknowledged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = await Laboratory(tmp_path / "ledger.db", 1, monkeypatch, {}).run(rounds(100, 10_000, 200_000))
    assert (outcome.lost[:3], outcome.broken[:3]) == ([], [])
    record("power-cuts", "F-2", cuts=outcome.cuts, acknowledged=outcome.acknowledged, lost=0)


async def test_without_a_sync_per_commit_this_disk_does_lose(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pragmas = {"PRAGMA synchronous = FULL": "PRAGMA synchronous = NORMAL"}
    outcome = await Laboratory(tmp_path / "ledger.db", 1, monkeypatch, pragmas).run(rounds(50, 500, 5000))
    assert outcome.lost
    record("power-cuts-control", "F-2", cuts=outcome.cuts, acknowledged=outcome.acknowledged, lost=len(outcome.lost))
