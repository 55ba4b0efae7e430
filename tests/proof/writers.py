"""Callers of the real store who take devices all their way, and remember what they were told.

A caller commits one unit after the other. What a call returned for is *told*; what was asked for since may be there
after a restart or may not, but always as a whole. `look` reads a ledger, `lost` compares the two.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from provisioner import transitions
from provisioner.errors import Unavailable
from provisioner.journal import Broken, verify
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
from provisioner.store.statements import SQL, read_entry
from tests.proof.ledger import JOURNAL
from tests.proof.library import Library

START = 1_800_000_000_000
NOTE = Note(START, "test")

_names = itertools.count(1)

Version = tuple[int, str]
"""`job_optlock` and phase of a request: they change with every unit."""


@dataclass
class Memory:
    """What callers were told, and what they asked for since."""

    told: dict[int, Version] = field(default_factory=dict)
    asked: dict[int, set[Version]] = field(default_factory=dict)

    def copy(self) -> Memory:
        """The same, as of now."""
        return Memory(dict(self.told), {number: set(asked) for number, asked in list(self.asked.items())})


class Callers:
    """Several callers at once, each with one device after the other. `between` runs after each unit."""

    def __init__(self, store: SqliteStore, memory: Memory, chance: random.Random) -> None:
        self._store = store
        self.memory = memory
        self._chance = chance
        self.acknowledged = 0
        self.refused = 0

    async def work(self, callers: int, units: int, between: Callable[[], Awaitable[None]]) -> None:
        """Until each has tried so many units."""
        await asyncio.gather(
            *(self._call(units, between, random.Random(self._chance.random())) for _ in range(callers))
        )

    async def _call(self, units: int, between: Callable[[], Awaitable[None]], chance: random.Random) -> None:
        request: ProvisionRequest | None = None
        credential: Credential | None = None
        for _ in range(units):
            unit = first(next(_names)) if request is None else step(request, credential, chance)
            after = unit.added[0] if unit.added else unit.saved[0].after
            self.memory.asked.setdefault(after.id, set()).add(version(after))
            try:
                assert await self._store.commit(unit)
            except Unavailable:
                self.refused += 1
                await between()
                request, credential = await self._again(after.id, between)
            else:
                self.acknowledged += 1
                self.memory.told[after.id] = version(after)
                self.memory.asked[after.id] = set()
                request, credential = after, unit.credentials[0] if unit.credentials else None
            if request is not None and transitions.is_closed(request):
                request = None
            await between()

    async def _again(
        self, number: int, between: Callable[[], Awaitable[None]]
    ) -> tuple[ProvisionRequest | None, Credential | None]:
        """Read what is there after a refusal, as a use case does; the refused unit itself must not be."""
        while True:
            try:
                dossier = await self._store.find_request(number)
            except Unavailable:
                await between()
                continue
            found = None if dossier is None else version(dossier.request)
            assert found == self.memory.told.get(number), f"{number} is {found} after a refusal"
            return (None, None) if dossier is None else (dossier.request, dossier.credential)


async def furnish(store: SqliteStore) -> None:
    """An account and a user, unless they are there."""
    if await store.find_account(1) is None:
        await store.add_account(account(), NOTE)
    if await store.find_user("factory") is None:
        await store.add_user(User(1, 1, "factory", "hash", START, 1), NOTE)


def account() -> Account:
    return Account(
        id=1, uid="0" * 32, name="acme", display_name="acme", kind=AccountKind.TARGET, parent_id=None,
        coupling=Coupling.STRICT, device_broker="embedded", quota=None, created_on=START, created_by=1,
        modified_on=START, modified_by=1, optlock=1,
    )  # fmt: skip


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
        bound = Bound(request.id, f"r-{minted.generation}", minted.generation)
        mints = transitions.mint_and_offer if chance.random() < 0.5 else transitions.mint
        return mints(request, minted, bound, NOTE)
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
    try:
        verify(read_entry(row) for row in real.execute(SQL["list_journal"], JOURNAL))
    except Broken as error:
        broken.append(f"the journal: {error}")
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


def lost(memory: Memory, found: Found) -> list[str]:
    """What callers had been told and is not so, and what nobody asked for."""
    wrong = []
    for number in memory.told.keys() | found.versions.keys():
        there, told = found.versions.get(number), memory.told.get(number)
        if there != told and there not in memory.asked.get(number, ()):
            wrong.append(f"{number} was told as {told} and is {there}")
    return wrong
