"""The outbox: install, retire, expire, reconcile.

1. A credential's row is its own job: MINTED means install, RETIRING means take out, and past `due_on` an unproved one
   has had its confirm time. So a job is committed with the step that needs it and cannot be lost or left behind.
2. A lease is a `due_on` in the future. Whoever dies holding one leaves it to the next worker, at start at once.
3. `step` does what is due and says when to come back; loop, clock and entropy are the caller's.
4. An install runs in a task of its own: a device that goes away does not stop it half-way.
5. Times are the wall clock's, which may be set. When it went back, what is due further ahead than any job may be was
   written by a clock that was ahead: it is due at once, and an offer gets its confirm time from now.
6. A job that fails by our own fault stops no other: it is reported, its request's journal tells of it, and it comes
   back later and later. A store that is away fails no job: the lease runs out.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from provisioner import transitions
from provisioner.errors import Unavailable
from provisioner.handover import Vault
from provisioner.keys import secret_context
from provisioner.lifecycle import State
from provisioner.model import Credential, Line, Millis, ProvisionRequest, Secret
from provisioner.ports import DeviceBroker, Entropy, Install, Note, Revoke, Store, ToInstall, Unit
from provisioner.reconcile import Reconciler
from provisioner.refusals import Refusals

LEASE = 10_000
"""How long a worker has for one job, milliseconds."""

RECONCILE_EVERY = 60_000
"""Between two looks at what the device brokers hold, milliseconds."""

_BATCH = 100
_BACKOFF_FIRST, _BACKOFF_CAP = 1_000, 60_000
_STEP_BACK = 1_000
"""A clock that goes back by less is being adjusted, milliseconds."""
_TRIES = 8
_WINDOW_OVER = "the window is over"
_TIME_OVER = "the confirm time is over"
_VALIDITY_OVER = "its validity is over"
_CLOCK_AHEAD = "the clock was ahead when the confirm time was set"
_GONE = {
    Revoke.CLOSED: "gone, sessions closed",
    Revoke.OPEN: "gone; this device broker leaves an open session until it connects anew",
}

Report = Callable[[str, Exception], None]
"""Told of each failure that is our own fault: what failed, in our words, and by what."""

Key = tuple[str, str, int]
"""(device broker, clientId, generation)."""


def raise_it(_what: str, error: Exception) -> None:
    """A `Report` for who wants to see a failure where it happened: it ends the step."""
    raise error


def backoff(attempts: int, entropy: Entropy) -> Millis:
    """Milliseconds until the next attempt: 1 s doubled each time, at most a minute, less up to a half by chance."""
    longest: int = min(_BACKOFF_CAP, _BACKOFF_FIRST * 2 ** min(attempts, 10))
    return longest - longest * entropy(1)[0] // 512


@dataclass(slots=True)
class _Running:
    """An install under way, and how many claims wait for it."""

    task: asyncio.Task[Unit | None]
    waiting: int = 0


class Jobs:
    """The worker of one process."""

    def __init__(self, store: Store, brokers: Mapping[str, DeviceBroker], vault: Vault, entropy: Entropy) -> None:
        self._store = store
        self._brokers = brokers
        self._vault = vault
        self._entropy = entropy
        self._refusals = Refusals()
        self._expire_on: Millis = 0
        self._times_unexpired = 0
        self._reconcile_on: Millis = 0
        self._broker_is_back = False
        self._installing: dict[Key, _Running] = {}
        self._latest: Millis | None = None
        self._recall_on = math.inf
        self._next_on = self._told_on = -math.inf
        self.wake: Callable[[], None] = lambda: None
        """Set by whoever runs the loop; called when something became due earlier than `step` said."""
        self.report: Report = raise_it
        """Set by whoever has a log."""
        self.failures = 0
        """Jobs that failed by our own fault, since the start."""

    # -- install -----------------------------------------------------------------------------------------------------

    async def await_install(
        self, request: ProvisionRequest, credential: Credential, password: Secret | None, now: Millis, patience: float
    ) -> Unit | None:
        """Install a leased credential, or join whoever does, for at most `patience` seconds.

        The unit that was committed as OFFERED, or None: not ready, or changed meanwhile. `password` None only joins.
        """
        key = (credential.device_broker, credential.client_id, credential.generation)
        running = self._installing.get(key)
        if running is None:
            if password is None:
                return None
            running = self._start(key, request, credential, password, now)
        running.waiting += 1
        try:
            done, _ = await asyncio.wait([running.task], timeout=patience)
        finally:
            running.waiting -= 1
        return running.task.result() if done else None

    def _start(
        self, key: Key, request: ProvisionRequest, credential: Credential, password: Secret, now: Millis
    ) -> _Running:
        task = asyncio.create_task(self._install(key, request, credential, password, now))
        running = self._installing[key] = _Running(task)
        return running

    async def _install(
        self, key: Key, request: ProvisionRequest, credential: Credential, password: Secret, now: Millis
    ) -> Unit | None:
        try:
            outcome = await self._put_in(credential, password)
            if outcome is Install.DONE and self._installing[key].waiting:
                unit = transitions.install_and_offer(
                    request, credential, Note(now, "install", cause="installed, offered")
                )
            elif outcome is Install.DONE:
                unit = transitions.install(request, credential, Note(now, "install", cause="installed"))
            elif outcome is Install.NEVER:
                unit = transitions.fail(request, credential, Note(now, "install", cause="refused for good"))
            else:
                unit = self._postponed(request, credential, now)
            committed = await self._store.commit(unit)
            self.wake()
            return unit if committed and unit.credentials[0].state is State.OFFERED else None
        except Unavailable:
            # The lease runs out and the job comes back.
            return None
        except Exception as error:  # noqa: BLE001  # rule 6
            await self._put_off(request, credential, now, error)
            return None
        finally:
            del self._installing[key]

    async def _put_in(self, credential: Credential, password: Secret) -> Install:
        try:
            return (await self._broker(credential).install([ToInstall(credential, password)]))[0]
        except Unavailable:
            return Install.LATER

    # -- the loop ------------------------------------------------------------------------------------------------------

    async def recover(self) -> None:
        """At start: take over what a dead process left."""
        await self._store.release_leases()

    def due_by(self, due_on: Millis) -> None:
        """A job was committed that is due at `due_on`: wake whoever runs the loop, if he means to come back later.

        While a step is under way this need not wake him: he asks for what is due at its end.
        """
        self._told_on = min(self._told_on, due_on)
        if due_on < self._next_on:
            self._next_on = due_on
            self.wake()

    async def step(self, now: Millis) -> Millis:
        """Do what is due; when to come back at the latest. Raises `Unavailable`."""
        self._next_on, self._told_on = -math.inf, math.inf
        due_on = await self._step(now)
        self._next_on = min(due_on, self._told_on)
        return round(self._next_on)

    async def _step(self, now: Millis) -> Millis:
        await self._notice_clock(now)
        if self._broker_is_back:
            self._broker_is_back = False
            await self._store.recall(now, now + transitions.CONFIRM_LIMIT)
        await self._expire(now)
        await self._record_refusals()
        if not now < self._reconcile_on <= now + RECONCILE_EVERY:
            self._reconcile_on = now + RECONCILE_EVERY
            await self._reconcile(now)
        leased = await self._store.lease_due(now, now + LEASE, _BATCH)
        ended = [self._do(credential, dossier.request, now) for credential, dossier in leased]
        for error in await asyncio.gather(*ended, return_exceptions=True):
            if error is not None:
                raise error
        if len(leased) == _BATCH:
            return now
        due = await self._store.next_due()
        if due is not None and self._expire_on > now:
            due = max(due, now + _BACKOFF_FIRST)
        return self._reconcile_on if due is None else min(due, self._reconcile_on)

    async def _expire(self, now: Millis) -> None:
        """Close requests whose window is over. One that fails is due all the while, so all are left for a moment."""
        if now < self._expire_on <= now + _BACKOFF_CAP:
            return
        failed = False
        for request in await self._store.find_lapsed(now, _BATCH):
            try:
                await self._store.commit(transitions.expire(request, Note(now, "expire", cause=_WINDOW_OVER)))
            except Unavailable:
                raise
            except Exception as error:  # noqa: BLE001  # rule 6
                failed = True
                self._fail(f"the end of the window of request {request.id}", error)
        self._expire_on = now + backoff(self._times_unexpired, self._entropy) if failed else 0
        self._times_unexpired = self._times_unexpired + 1 if failed else 0

    async def _reconcile(self, now: Millis) -> None:
        for name, broker in self._brokers.items():
            try:
                await Reconciler(self._store, {name: broker}, self._vault).mend(now)
            except Unavailable:
                raise
            except Exception as error:  # noqa: BLE001  # rule 6
                self._fail(f"the comparison with the device broker {name}", error)

    def reconcile(self) -> None:
        """A device broker was reached again: compare it with the ledger now, and do what was put off meanwhile."""
        self._reconcile_on = 0
        self._broker_is_back = True
        self.wake()

    async def _notice_clock(self, now: Millis) -> None:
        """The first time, and whenever the clock went back: see rule 5."""
        went_back = self._latest is not None and now < self._latest - _STEP_BACK
        if self._latest is None or went_back or now >= self._recall_on:
            await self._store.recall(now + _BACKOFF_CAP, now + transitions.CONFIRM_LIMIT)
            self._latest = now
            # Once more for who read the clock before it went back, and commits after this.
            self._recall_on = now + _BACKOFF_CAP if went_back else math.inf
        self._latest = max(self._latest, now)

    async def _do(self, credential: Credential, request: ProvisionRequest, now: Millis) -> None:
        try:
            await self._work(credential, request, now)
        except Unavailable:
            raise
        except Exception as error:  # noqa: BLE001  # rule 6
            await self._put_off(request, credential, now, error)

    async def _put_off(self, request: ProvisionRequest, credential: Credential, now: Millis, error: Exception) -> None:
        """A job failed by our own fault: the same again later."""
        cause = f"it failed ({type(error).__name__}), attempt {credential.attempts + 1}; the log tells more"
        due_on = now + backoff(credential.attempts, self._entropy)
        with contextlib.suppress(Exception):  # not even that is taken: its lease runs out
            await self._store.commit(
                transitions.postpone(request, credential, due_on, Note(now, "postpone", cause=cause))
            )
        self._fail(f"the job of {credential.username}, {credential.state}", error)

    def _fail(self, what: str, error: Exception) -> None:
        self.failures += 1
        self.report(what, error)

    async def _work(self, credential: Credential, request: ProvisionRequest, now: Millis) -> None:
        if credential.state is State.CONFIRMED:
            await self._store.commit(transitions.age(request, credential, Note(now, "rotate", cause=_VALIDITY_OVER)))
        elif credential.state is not State.RETIRING and credential.confirm_before > now + transitions.CONFIRM_LIMIT:
            note = Note(now, "extend", cause=_CLOCK_AHEAD)
            await self._store.commit(transitions.reset_confirm_time(request, credential, note))
        elif credential.state is State.MINTED:
            if credential.confirm_before <= now:
                await self._store.commit(transitions.retire(request, credential, Note(now, "retire", cause=_TIME_OVER)))
            elif credential.secret_sealed is not None:
                password = Secret(self._vault.open(credential.secret_sealed, secret_context(credential)).decode())
                await self.await_install(request, credential, password, now, LEASE / 1000)
        elif credential.state in (State.INSTALLED, State.OFFERED):
            # The row is read after the lease took its `due_on`, so the confirm time itself decides.
            if credential.confirm_before <= now:
                await self._store.commit(transitions.retire(request, credential, Note(now, "retire", cause=_TIME_OVER)))
        elif credential.state is State.RETIRING:
            await self._retire(credential, request, now)

    async def _retire(self, credential: Credential, request: ProvisionRequest, now: Millis) -> None:
        try:
            gone = (await self._broker(credential).revoke([credential.username]))[0]
        except Unavailable:
            gone = Revoke.LATER
        for _ in range(_TRIES):
            others = await self._store.find_credentials(request.id)
            if all(other.generation != credential.generation for other in others):
                return  # the lease ran out meanwhile, and whoever took the next one was quicker
            if gone is Revoke.LATER:
                unit = self._postponed(request, credential, now)
            else:
                unit = transitions.retired(request, credential, others, Note(now, "retired", cause=_GONE[gone]))
            if await self._store.commit(unit):
                return
            # Two generations of one request leave side by side: each goes on from what the other left.
            dossier = await self._store.find_request(request.id)
            if dossier is None:
                return
            request = dossier.request

    def _postponed(self, request: ProvisionRequest, credential: Credential, now: Millis) -> Unit:
        due_on = now + backoff(credential.attempts, self._entropy)
        note = Note(now, "postpone", cause=f"the device broker is away, attempt {credential.attempts + 1}")
        return transitions.postpone(request, credential, due_on, note)

    def _broker(self, credential: Credential) -> DeviceBroker:
        try:
            return self._brokers[credential.device_broker]
        except KeyError:
            raise Unavailable(f"the device broker {credential.device_broker} is not configured") from None

    def tell(self, line: Line) -> None:
        """Have the journal tell of a refusal, a moment later."""
        if self._refusals.add(line):
            self.wake()

    async def close(self) -> None:
        """Let the installs under way end, and write what waits to be written."""
        tasks: Sequence[asyncio.Task[Unit | None]] = [running.task for running in self._installing.values()]
        if tasks:
            await asyncio.wait(tasks)
        await self._record_refusals()

    async def _record_refusals(self) -> None:
        if lines := self._refusals.take():
            await self._store.record(lines)
