"""From what is there and what happened to the unit of work that says so: pure, and the only users of `lifecycle`.

1. Each function takes values as they were read and returns the `Unit` that commits one step; nothing is written here.
   The note says when, who and why.
2. Every step of a credential comes with its request, whose `job_optlock` guards both.
3. A credential leaves by RETIRING, which is the job to take it out of the device broker; its row and name stay.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from provisioner.lifecycle import CLOSED, Event, Phase, State, advance, progress
from provisioner.model import Certificate, Credential, JobStatus, Millis, ProvisionRequest, evolve
from provisioner.policy import is_lapsed
from provisioner.ports import Bound, Note, Saved, Unit

CONFIRM_LIMIT = 24 * 3_600_000
"""Latest end of the confirm time after the mint (section 9, rule 9), milliseconds."""


def _step(request: ProvisionRequest, event: Event, *more: Event, **changes: object) -> Saved:
    """One step, or some at once."""
    phase = advance(request.phase, event)
    for one in more:
        phase = advance(phase, one)
    return Saved(request, evolve(request, phase=phase, job_optlock=request.job_optlock + 1, **changes))


def changed(request: ProvisionRequest, **changes: object) -> Saved:
    """A change of the job that is no change of phase."""
    return Saved(request, evolve(request, job_optlock=request.job_optlock + 1, **changes))


def attempts(request: ProvisionRequest) -> int:
    """Mints that count against `retry_max_attempts`: a renewal that no operator asked for starts anew each time.

    It is authenticated by the credential in force, and a device that could not renew any more would be locked out.
    """
    return 0 if request.phase is Phase.CONFIRMED and not request.rotate_wanted else request.retry_count


def mint(request: ProvisionRequest, credential: Credential, bound: Bound, note: Note) -> Unit:
    """An authenticated claim gets the next generation, whose install job is leased to whoever minted it."""
    return _minted(request, credential, bound, note)


def _minted(request: ProvisionRequest, credential: Credential, bound: Bound, note: Note, *more: Event) -> Unit:
    saved = _step(
        request,
        Event.MINT,
        *more,
        generation=credential.generation,
        retry_count=attempts(request) + 1,
        start_on=note.at,
        progress=None,
    )
    return Unit(note, saved=(saved,), credentials=(credential,), bound=bound)


def install(request: ProvisionRequest, credential: Credential, note: Note) -> Unit:
    """The device broker accepts it, and nobody waits for the offer any more."""
    state = progress(credential.state, Event.INSTALL)
    after = evolve(credential, state=state, due_on=credential.confirm_before, attempts=0)
    return Unit(note, saved=(_step(request, Event.INSTALL),), credentials=(after,))


def install_and_offer(request: ProvisionRequest, credential: Credential, note: Note) -> Unit:
    """The device broker accepts it and the claim still waits: two steps in one commit, the offer leaves after it."""
    saved = _step(request, Event.INSTALL, Event.OFFER)
    return Unit(note, saved=(saved,), credentials=(_offered(credential),))


def mint_and_offer(
    request: ProvisionRequest,
    credential: Credential,
    bound: Bound,
    note: Note,
    certificates: tuple[Certificate, ...] = (),
) -> Unit:
    """Mint, install and offer in one commit, where what is committed is live: nothing has to be installed.

    So it is where the device broker asks the ledger, and with certificates, which it knows by their issuer.
    """
    unit = _minted(request, _offered(credential), bound, note, Event.INSTALL, Event.OFFER)
    return replace(unit, certificates=certificates)


def _offered(credential: Credential) -> Credential:
    """A minted credential, installed and about to be sent."""
    state = progress(progress(credential.state, Event.INSTALL), Event.OFFER)
    return evolve(credential, state=state, due_on=credential.confirm_before, attempts=0)


def offer(
    request: ProvisionRequest, credential: Credential, confirm_before: Millis, bound: Bound | None, note: Note
) -> Unit:
    """The credential is about to be sent, for the first time or again."""
    state = progress(credential.state, Event.OFFER)
    after = evolve(credential, state=state, confirm_before=confirm_before, due_on=confirm_before)
    return Unit(note, saved=(_step(request, Event.OFFER),), credentials=(after,), bound=bound)


def postpone(request: ProvisionRequest, credential: Credential, due_on: Millis, note: Note) -> Unit:
    """The device broker is away: the same job again later."""
    after = evolve(credential, due_on=due_on, attempts=credential.attempts + 1)
    return Unit(note, saved=(changed(request),), credentials=(after,))


def reset_confirm_time(request: ProvisionRequest, credential: Credential, note: Note) -> Unit:
    """The clock was ahead when the confirm time was set: it begins now, and an install goes on at once."""
    confirm_before = note.at + request.confirm_time
    due_on = note.at if credential.state is State.MINTED else confirm_before
    after = evolve(credential, confirm_before=confirm_before, due_on=due_on)
    return Unit(note, saved=(changed(request),), credentials=(after,))


def fail(request: ProvisionRequest, credential: Credential, note: Note) -> Unit:
    """The device broker refuses this credential for good."""
    if request.phase is Phase.RENEWING:
        return retire(request, credential, note)
    state = progress(credential.state, Event.FAIL)
    return Unit(note, saved=(_step(request, Event.FAIL),), credentials=(_settled(credential, state, note.at),))


def confirm(
    request: ProvisionRequest,
    credential: Credential,
    former: Credential | None,
    keys_sealed: str | None,
    note: Note,
) -> Unit:
    """The device proved that it holds the credential; `former` is the one it replaces, which is retired."""
    proved = _settled(credential, progress(credential.state, Event.CONFIRM), note.at)
    ends = [credential.renew_on] if request.validity is None else [credential.renew_on, note.at + request.validity]
    proved = evolve(proved, due_on=min((end for end in ends if end is not None), default=None))
    saved = _step(
        request,
        Event.CONFIRM,
        proved_generation=credential.generation,
        rotate_wanted=False,
        keys_sealed=keys_sealed,
    )
    leaving = () if former is None else (_leaving(former, note.at),)
    return Unit(note, saved=(saved,), credentials=(*leaving, proved))


def age(request: ProvisionRequest, credential: Credential, note: Note) -> Unit:
    """The validity of a proved credential is over: the device's next claim renews it."""
    saved = changed(request)
    if request.phase is Phase.CONFIRMED and (request.reuse_key or credential.is_certificate):
        saved = changed(request, rotate_wanted=True, retry_count=0)
    return Unit(note, saved=(saved,), credentials=(evolve(credential, due_on=None),))


def retire(request: ProvisionRequest, credential: Credential, note: Note) -> Unit:
    """An unproved generation has to go: confirm time over, ack `failed`, another identity."""
    return Unit(note, saved=(_step(request, Event.RETIRE),), credentials=(_leaving(credential, note.at),))


def withdraw(
    request: ProvisionRequest, credentials: Iterable[Credential], now: Millis, **changes: object
) -> tuple[Saved, tuple[Credential, ...]]:
    """Everything of this request has to go: stop, revoke, reopen, overwrite."""
    leaving = tuple(_leaving(credential, now) for credential in credentials)
    return _step(request, Event.WITHDRAW, **changes), leaving


def retired(request: ProvisionRequest, credential: Credential, others: Iterable[Credential], note: Note) -> Unit:
    """It is out of the device broker and its sessions are closed. `others`: what of this request is not retired."""
    gone = _settled(credential, progress(credential.state, Event.RETIRED), note.at)
    changes: dict[str, object] = {}
    if request.phase is not Phase.RETIRING:
        event = Event.RETIRED
        if request.phase is Phase.RENEWING and request.retry_count >= request.retry_max_attempts:
            changes["rotate_wanted"] = False
    elif any(other.generation != credential.generation for other in others):
        event = Event.RETIRED
    else:
        event = resting(request, note.at)
        changes = {"stop_wanted": False, "proved_generation": None, "progress": None}
    return Unit(note, saved=(_step(request, event, **changes),), credentials=(gone,))


def resting(request: ProvisionRequest, now: Millis) -> Event:
    """Where a request goes once nothing of it is left at the device broker."""
    if request.stop_wanted:
        return Event.STOP
    if request.retry_count >= request.retry_max_attempts:
        return Event.ABANDON
    return Event.EXPIRE if is_lapsed(request, now) else Event.FREE


def expire(request: ProvisionRequest, note: Note) -> Unit:
    """The window of a PENDING request is over."""
    return Unit(note, saved=(_step(request, Event.EXPIRE),))


def stop_pending(request: ProvisionRequest, **changes: object) -> Saved:
    """A PENDING request is stopped, or replaced before any claim (`skipped=True`)."""
    return _step(request, Event.STOP, **changes)


def reopen(request: ProvisionRequest, keys_sealed: str | None) -> Saved:
    """A closed request starts over."""
    return _step(request, Event.REOPEN, **fresh(keys_sealed))


def fresh(keys_sealed: str | None) -> dict[str, object]:
    """What a reopened request forgets."""
    return {
        "keys_sealed": keys_sealed,
        "retry_count": 0,
        "rotate_wanted": False,
        "stop_wanted": False,
        "skipped": False,
        "progress": None,
        "last_refusal": None,
    }


def report(request: ProvisionRequest, status: JobStatus) -> Saved:
    """A device reports progress: the job shows it, the phase stays."""
    return changed(request, progress=status)


def is_closed(request: ProvisionRequest) -> bool:
    """Whether nothing is live and nothing moves."""
    return request.phase in CLOSED


def _settled(credential: Credential, state: State, now: Millis) -> Credential:
    return evolve(credential, state=state, secret_sealed=None, due_on=None, attempts=0, settled_on=now)


def _leaving(credential: Credential, now: Millis) -> Credential:
    state = progress(credential.state, Event.RETIRE)
    return evolve(credential, state=state, secret_sealed=None, due_on=now, attempts=0, settled_on=None)
