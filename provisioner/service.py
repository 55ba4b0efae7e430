"""The path of a claim: match, authenticate, check, mint, install, offer; then ack or first login, and confirmed.

1. Verify first, then limit: see `authentication`.
2. Each use case reads one dossier, decides, and commits one unit guarded by what it read. A stale unit changes nothing
   and the use case starts over: so duplicates, two workers and the operator's hand make one mint (section 9, rule 3).
3. Nothing leaves before it is committed (rule 1), no offer before the credential works (rule 2).
4. A requestId belongs to the generation it was first used for; once that is retired it changes nothing (rule 4).
5. Every decision leaves a line in the journal: with its unit, or a moment later where it was a refusal.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from provisioner import policy, transitions
from provisioner.admission import Admission
from provisioner.authentication import Authentication
from provisioner.certification import Certification
from provisioner.clones import CloneAction, CloneRule, CloneWatch
from provisioner.confirmation import Confirmation
from provisioner.device_logins import DeviceLogins
from provisioner.errors import ProvisionerError, Reason, Rejected, Unavailable
from provisioner.handover import Conversation, Keys, Vault, csr_hash
from provisioner.jobs import Jobs
from provisioner.journal import line_about
from provisioner.lifecycle import LIVE, Phase, State
from provisioner.logins import Logins
from provisioner.minting import CIK, Minting, Wanted
from provisioner.model import (
    PROGRESS,
    Ack,
    CertificateSession,
    Claim,
    Confirm,
    Credential,
    DeviceRights,
    Dossier,
    Millis,
    Offer,
    Origin,
    ProvisionRequest,
    Result,
    Secret,
    Status,
    Taken,
    evolve,
)
from provisioner.offered import Offered
from provisioner.offering import Offering
from provisioner.ports import Bound, DeviceBroker, Entropy, Measure, Note, Saved, Store, Suspicion, Unit
from provisioner.terms import admits_serial_numbers

T = TypeVar("T")

_TRIES = 16
_REMIND = 60_000
"""Milliseconds between two notes of the same refusal on a request."""

_KEPT = frozenset(
    (
        Reason.DENIED,
        Reason.DISABLED,
        Reason.NOT_ACTIVE,
        Reason.EXPIRED,
        Reason.ABANDONED,
        Reason.TOO_LARGE,
        Reason.UNSUPPORTED,
        Reason.BAD_CSR,
    )
)
"""Refusals of a proved claim that its operator has to know of."""

_SOON = 2
"""`retryAfter` of a `wait` that usually ends in a moment, seconds."""

_NO_KEYS = Keys(b"", None)
"""Of a conversation in which nothing is proved."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator of this installation decided; times in seconds where not said otherwise."""

    install_wait: float = 5.0
    allow_plain_without_tls: bool = False
    allow_keyless: bool = False
    refuse_unknown: bool = False
    clones: CloneRule = field(default_factory=CloneRule)


def _there(found: T | None) -> T:
    """What authentication or the lifecycle guarantees to exist; its absence is our own fault."""
    if found is None:
        raise LookupError("the ledger contradicts itself")
    return found


class _Stale(Exception):
    """Somebody else changed what was read: decide again."""


class Provisioner:
    """What devices may ask for. `now` is epoch milliseconds everywhere."""

    def __init__(
        self,
        store: Store,
        vault: Vault,
        brokers: Mapping[str, DeviceBroker],
        jobs: Jobs,
        logins: Logins,
        admission: Admission,
        rules: Rules,
        measure: Measure,
        entropy: Entropy,
        certification: Certification | None = None,
    ) -> None:
        self._store = store
        self._vault = vault
        self._brokers = brokers
        self._jobs = jobs
        self._logins = logins
        self._rules = rules
        self.offering = Offering(brokers, measure)
        self._clones = CloneWatch(rules.clones)
        self._authentication = Authentication(
            vault,
            admission,
            entropy,
            jobs.tell,
            allow_plain_without_tls=rules.allow_plain_without_tls,
            allow_keyless=rules.allow_keyless,
        )
        self._minting = Minting(store, vault, certification, entropy)
        self._confirmation = Confirmation(store, vault, jobs, self._authentication.forget)
        self._offered = Offered()
        self._device_logins = DeviceLogins(store, vault, self._confirmation, certification)

    # -- logins --------------------------------------------------------------------------------------------------------

    async def login(self, user: str, password: bytes, client_id: str) -> bool:
        """Whether this provisioning login is admitted for this client id. Raises `Unavailable`."""
        if not await self._logins.verify(user, password):
            return False
        return not self._rules.refuse_unknown or await self._store.find_claim(user, client_id, "") is not None

    async def device_login(
        self, device_broker: str, username: str, password: bytes, client_id: str, now: Millis, source: str = ""
    ) -> DeviceRights | None:
        """What a login at the device broker may do there; None: refused. The first one confirms (section 8).

        `source` is the device's IP address, empty where its broker does not tell.
        """
        return await self._device_logins.by_password(device_broker, username, password, client_id, now, source)

    def watch_logins(self, seen: Callable[[Credential, str, Millis], None]) -> None:
        """Have `seen` called with each credential that logs in where devices work, its client id, and when."""
        self._device_logins.on_login = seen

    async def device_rights(self, device_broker: str, username: str, client_id: str) -> DeviceRights | None:
        """What a device may do that its broker has logged in; None: nothing, or nothing any more."""
        return await self._device_logins.logged_in(device_broker, username, client_id)

    async def certificate_login(
        self, device_broker: str, certificate: bytes, client_id: str, now: Millis, source: str = ""
    ) -> DeviceRights | None:
        """What a device may do at the device broker that showed this certificate in the TLS handshake; None: refused.

        `certificate` is the peer's own, DER, as the TLS library gives it once the peer proved its key; whether it is
        ours, valid now and in force is decided here, so a listener need not know any revocation list. STRICT: only
        with the client id it names. The first login confirms (section 8). The user name of the rights is what a
        `DeviceBroker` is told to `revoke`: give it to the session, so that it can be closed.
        """
        return await self._device_logins.by_certificate(device_broker, certificate, client_id, now, source)

    async def login_by_certificate(
        self, certificate: bytes, client_id: str | None, now: Millis
    ) -> CertificateSession | None:
        """The provisioning session of a device that showed this certificate (DER) where devices claim; None: refused.

        It needs no user name and no password: `user` is whose topics the session has. `client_id` None: the one that
        the certificate was made for. Messages of the session carry `serial` in `Origin.certificate`, and then need
        neither key nor proof; whether the certificate still counts is looked up with each claim. In CONFIRMED its
        claim is a renewal (section 5).
        """
        return await self._device_logins.to_claim(certificate, client_id, now)

    # -- claim ---------------------------------------------------------------------------------------------------------

    async def claim(self, claim: Claim, now: Millis) -> Offer:
        """The offer for a claim. Raises `Rejected` and `Unavailable`, with the conversation once the key was proved."""
        self._authentication.check_mode(claim, claim.origin)
        for _ in range(_TRIES):
            dossier = await self._store.find_claim(claim.user, claim.client_id, claim.request_id)
            certified = await self._is_certified(claim.origin, dossier, now)
            conversation = self._authentication.authenticate_claim(claim, dossier, now, certified=certified)
            request = _there(dossier).request
            try:
                await self._watch_for_clones(claim, request, now)
                return await self._decide(claim, _there(dossier), conversation, now, certified=certified)
            except _Stale:
                continue
            except ProvisionerError as error:
                error.conversation = conversation
                note = Note(now, "claim", source=claim.origin.source)
                if not await self._keep_refusal(error, request, note):
                    self._tell_refusal(error, request, note)
                raise
        raise Unavailable("this request is being changed too often", retry_after=_SOON)

    async def _is_certified(self, origin: Origin, dossier: Dossier | None, now: Millis | None = None) -> bool:
        """Whether the session logged in with a certificate of this request; with `now`, one that is still in force.

        An ack may have to be repeated after it retired the very certificate that the session logged in with.
        """
        if origin.certificate is None or dossier is None:
            return False
        found = await self._store.certificates.find(origin.certificate)
        if found is None or found[1].request_id != dossier.request.id:
            return False
        return now is None or (found[1].state in LIVE and now < found[0].not_after)

    # -- activation ----------------------------------------------------------------------------------------------------

    async def activate(self, request_id: int, origin: Origin, now: Millis, *, may_repeat: bool) -> Secret:
        """The secret of a unit that a door admits without an activation key (Exosite). Raises as `claim` does.

        `may_repeat`: until the secret was used, the same source address gets it again. Otherwise, and where a device
        broker does not see logins, the answer itself confirms: nothing else would.
        """
        for _ in range(_TRIES):
            found = _there(await self._store.find_request(request_id))
            claim = _activation(found, origin)
            dossier = await self._store.find_claim(claim.user, claim.client_id, claim.request_id) or found
            try:
                policy.check_kind(claim, dossier.request.kind)
                if not admits_serial_numbers(self._brokers.get(dossier.request.device_broker)):
                    raise Rejected(Reason.UNSUPPORTED, "its device broker admits no serial number", step="mint")
                self._check_first(dossier, request_id, may_repeat=may_repeat)
                conversation = Conversation(claim.user, claim.client_id, claim.request_id, None, _NO_KEYS)
                offer = await self._decide(claim, dossier, conversation, now, wanted=CIK)
                if not may_repeat or offer.confirm is Confirm.ACK:
                    await self._confirm_activation(offer, request_id, Note(now, "activate", source=origin.source))
            except _Stale:
                continue
            except ProvisionerError as error:
                self._tell_refusal(error, dossier.request, Note(now, "activate", source=origin.source))
                raise
            return offer.password
        raise Unavailable("this request is being changed too often", retry_after=_SOON)

    @staticmethod
    def _check_first(dossier: Dossier, request_id: int, *, may_repeat: bool) -> None:
        """Whoever activates first has it; a claim in the same words is the same unit at the same address."""
        request = dossier.request
        if request.id != request_id:
            raise Rejected(Reason.SUPERSEDED, "a newer request took its place", step="match")
        is_under_way = request.phase in (Phase.MINTED, Phase.INSTALLED, Phase.OFFERED)
        is_same = dossier.bound_generation == request.generation
        if is_under_way and not (is_same and (may_repeat or request.phase is not Phase.OFFERED)):
            raise Rejected(Reason.ALREADY_PROVISIONED, "it was activated already", step="mint")

    async def _confirm_activation(self, offer: Offer, request_id: int, note: Note) -> None:
        dossier = _there(await self._store.find_request(request_id))
        credential = _there(dossier.credential)
        if credential.generation == offer.generation and credential.state is State.OFFERED:
            await self._confirm(dossier.request, credential, note)

    async def _decide(
        self,
        claim: Claim,
        dossier: Dossier,
        conversation: Conversation,
        now: Millis,
        *,
        certified: bool = False,
        wanted: Wanted | None = None,
    ) -> Offer:
        request = dossier.request
        policy.check_facts(request.facts, claim.device)
        if request.status is Status.DISABLED:
            raise Rejected(Reason.DISABLED, "this request is switched off", step="window")
        self._check_open(request)
        self._check_not_superseded(dossier)
        if request.phase is Phase.RETIRING:
            raise self._wait("the former credential is being taken out", "mint")
        if request.phase is Phase.PENDING:
            return await self._mint(claim, dossier, conversation, now, wanted)
        if request.phase is Phase.CONFIRMED or dossier.bound_generation == request.proved_generation is not None:
            if not (request.rotate_wanted or certified) or dossier.bound_generation is not None:
                raise Rejected(Reason.ALREADY_PROVISIONED, step="mint", generation=request.proved_generation)
            if request.phase is Phase.CONFIRMED:
                return await self._mint(claim, dossier, conversation, now, wanted)
        return await self._offer_again(claim, dossier, conversation, now, wanted)

    async def _watch_for_clones(self, claim: Claim, request: ProvisionRequest, now: Millis) -> None:
        """Raise the alarm where this key seems to be in two hands; switch the request off where that is the rule."""
        if request.phase in (Phase.CONFIRMED, Phase.RENEWING):
            return
        suspicion = self._clones.suspects(request.id, claim.origin.source, claim.seal_to or csr_hash(claim.csr), now)
        if suspicion is None:
            return
        detail, sources = suspicion
        after = request
        if self._rules.clones.action is CloneAction.QUARANTINE:
            after = evolve(request, status=Status.DISABLED, optlock=request.optlock + 1, modified_on=now)
        note = Note(now, "clone-suspected", source=claim.origin.source, cause=detail)
        unit = Unit(note, saved=(Saved(request, after),), suspicions=(Suspicion(after, detail, sources),))
        await self._store.commit(unit)
        if after is not request:
            raise _Stale

    def _tell_refusal(self, error: ProvisionerError, request: ProvisionRequest, note: Note) -> None:
        cause = error.reason if isinstance(error, Rejected) else Reason.UNAVAILABLE
        self._jobs.tell(line_about(replace(note, cause=cause), request))

    async def _keep_refusal(self, error: ProvisionerError, request: ProvisionRequest, note: Note) -> bool:
        """The last refused attempt stays on the request, for its operator to see; whether that was written just now.

        One that says the same is written once a minute: a device that goes on asking is no load.
        """
        if not isinstance(error, Rejected) or error.reason not in _KEPT:
            return False
        before = json.loads(request.last_refusal or '{"on": 0}')
        is_same = (before.get("reason"), before.get("detail")) == (error.reason, error.detail)
        if is_same and note.at < before["on"] + _REMIND:
            return False
        told = json.dumps({"on": note.at, "reason": error.reason, "detail": error.detail})
        saved = transitions.changed(request, last_refusal=told)
        cause = "the unit's facts contradict the request" if error.reason is Reason.DENIED else error.reason
        try:
            return await self._store.commit(Unit(replace(note, cause=cause), saved=(saved,)))
        except Unavailable:
            return False

    @staticmethod
    def _check_open(request: ProvisionRequest) -> None:
        if request.phase is Phase.EXPIRED:
            raise Rejected(Reason.EXPIRED, "the window of this request is over", step="window")
        if transitions.is_closed(request):
            raise Rejected(Reason.ABANDONED, f"this request is {request.phase}", step="window")

    @staticmethod
    def _check_not_superseded(dossier: Dossier) -> None:
        bound, request, newest = dossier.bound_generation, dossier.request, dossier.credential
        if bound is None or bound == request.proved_generation:
            return
        alive = newest is not None and newest.state not in (State.RETIRING, State.RETIRED)
        if bound != request.generation or not alive:
            raise Rejected(
                Reason.SUPERSEDED, "this requestId belongs to a retired generation", step="mint", generation=bound
            )

    async def _mint(
        self, claim: Claim, dossier: Dossier, conversation: Conversation, now: Millis, wanted: Wanted | None
    ) -> Offer:
        request = dossier.request
        if request.phase is Phase.PENDING:
            if policy.is_lapsed(request, now):
                await self._commit(transitions.expire(request, Note(now, "expire", cause="the window is over")))
            policy.check_window(request, now)
        if transitions.attempts(request) >= request.retry_max_attempts:
            raise Rejected(Reason.ABANDONED, "the attempts of this request are used up", step="window")
        wanted = wanted or await self._minting.wanted(claim, request.kind)
        if dossier.occupied:
            raise self._wait("a former credential of this device is being taken out", "mint")
        minted = self._minting.mint(dossier, wanted, now)
        credential, ordered = minted.credential, minted.ordered
        offer = await self.offering.make(claim, request, credential, minted.login, conversation, now)
        bound = Bound(request.id, claim.request_id, credential.generation)
        if ordered is not None or self._asks_ledger(request):
            cause = "minted, offered" if ordered is None else f"certificate {ordered.certificate.serial}, offered"
            note = Note(now, "claim", source=claim.origin.source, cause=cause)
            certificates = () if ordered is None else (ordered.certificate,)
            unit = transitions.mint_and_offer(request, credential, bound, note, certificates)
            try:
                await self._commit(unit)
            except _Stale:
                await self._check_key(wanted, dossier)
                raise
            self._jobs.due_by(credential.confirm_before)
            self._note_offered(claim, unit)
            return await self._minting.completed(offer, minted)
        note = Note(now, "claim", source=claim.origin.source, cause="minted")
        unit = transitions.mint(request, credential, bound, note)
        await self._commit(unit)
        patience, password = self._rules.install_wait, minted.login.password
        installed = await self._jobs.await_install(unit.saved[0].after, credential, password, now, patience)
        if installed is None:
            raise self._wait_for_install(credential)
        self._note_offered(claim, installed)
        return offer

    async def _check_key(self, wanted: Wanted, dossier: Dossier) -> None:
        """Where nothing else made the unit stale, the key did: it has had a certificate."""
        fresh = await self._store.find_request(dossier.request.id)
        if fresh is not None and fresh.request == dossier.request:
            await self._minting.check_key(wanted, dossier)

    def _note_offered(self, claim: Claim, unit: Unit) -> None:
        """What the ack of this offer will be about."""
        self._authentication.note_offered(claim, unit.saved[0].after.id)
        self._offered.note(claim, unit)

    def _asks_ledger(self, request: ProvisionRequest) -> bool:
        broker = self._brokers.get(request.device_broker)
        return broker is not None and broker.asks_ledger

    async def _offer_again(
        self, claim: Claim, dossier: Dossier, conversation: Conversation, now: Millis, wanted: Wanted | None
    ) -> Offer:
        request, credential = dossier.request, _there(dossier.credential)
        wanted = wanted or await self._minting.wanted(claim, request.kind)
        if wanted.is_other_than(credential) and credential.state is not State.RETIRING:
            await self._minting.check_key(wanted, dossier)
            raise await self._retire(claim, request, credential, "the device claims with another key", now)
        if credential.state is State.MINTED:
            await self._jobs.await_install(request, credential, None, now, self._rules.install_wait)
            if (fresh := await self._store.find_request(request.id)) is not None and fresh.request != request:
                raise _Stale
            raise self._wait_for_install(credential)
        if credential.state not in (State.INSTALLED, State.OFFERED):
            raise self._wait("the former credential is being taken out", "mint")
        if credential.confirm_before <= now:
            raise await self._retire(claim, request, credential, "the confirm time is over", now)
        login = await self._minting.login_of(credential)
        if login is None:
            raise self._wait("the former credential is being taken out", "mint")
        confirm_before = self._extended(request, credential, now)
        offered = evolve(credential, confirm_before=confirm_before)
        offer = await self.offering.make(claim, request, offered, login, conversation, now)
        bound = None
        if dossier.bound_generation is None:
            bound = Bound(request.id, claim.request_id, credential.generation)
        if bound or credential.state is State.INSTALLED or confirm_before != credential.confirm_before:
            note = Note(now, "claim", source=claim.origin.source, cause="offered again")
            await self._commit(transitions.offer(request, credential, confirm_before, bound, note))
        self._authentication.note_offered(claim, request.id)
        return offer

    async def _retire(
        self, claim: Claim, request: ProvisionRequest, credential: Credential, cause: str, now: Millis
    ) -> Rejected:
        """Take out a generation that is not proved; the answer meanwhile."""
        await self._commit(
            transitions.retire(request, credential, Note(now, "retire", source=claim.origin.source, cause=cause))
        )
        self._jobs.wake()
        return self._wait(cause, "confirm")

    @staticmethod
    def _extended(request: ProvisionRequest, credential: Credential, now: Millis) -> Millis:
        """Confirm time after one more proved message (section 9, rule 9)."""
        longest = credential.minted_on + transitions.CONFIRM_LIMIT
        return max(credential.confirm_before, min(now + request.confirm_time, longest))

    def _wait_for_install(self, credential: Credential) -> Rejected:
        """For as long as the device broker's queue says; where it is away, a moment."""
        broker = self._brokers.get(credential.device_broker)
        seconds = 0 if broker is None else math.ceil(broker.delay(credential.username))
        return self._wait("the device broker is not ready", "install", max(_SOON, min(policy.MAX_RETRY, seconds)))

    @staticmethod
    def _wait(detail: str, step: str, seconds: int = _SOON) -> Rejected:
        return Rejected(Reason.WAIT, detail, step=step, retry_after=seconds)

    async def _commit(self, unit: Unit) -> None:
        if not await self._store.commit(unit):
            raise _Stale

    # -- ack -----------------------------------------------------------------------------------------------------------

    async def ack(self, ack: Ack, now: Millis) -> Taken:
        """What an ack came to. Raises `Rejected` and `Unavailable`, with the conversation once the key was proved."""
        self._authentication.check_mode(ack, ack.origin)
        for _ in range(_TRIES):
            offered = self._offered.take(ack)
            dossier = offered or await self._store.find_claim(ack.user, ack.client_id, ack.request_id)
            certified = await self._is_certified(ack.origin, dossier)
            conversation = self._authentication.prove_ack(ack, dossier, certified=certified)
            if conversation is None:
                if offered is None:
                    self._authentication.refuse(ack, "ack", dossier, now)
                continue
            try:
                reason = await self._settle(ack, _there(dossier), conversation.keys, now)
            except _Stale:
                continue
            except ProvisionerError as error:
                if offered is not None:
                    continue
                error.conversation = conversation
                self._tell_refusal(error, _there(dossier).request, Note(now, "ack", source=ack.origin.source))
                raise
            forget = reason is Reason.CONFIRMED and _there(dossier).request.forget
            return Taken(reason, ack.generation, conversation, forget)
        raise Unavailable("this request is being changed too often", retry_after=_SOON)

    async def _settle(self, ack: Ack, dossier: Dossier, keys: Keys, now: Millis) -> Reason:
        request, newest = dossier.request, dossier.credential
        if ack.generation == request.proved_generation and request.phase in (Phase.CONFIRMED, Phase.RENEWING):
            return await self._settle_proved(ack, request, now)
        if newest is None or ack.generation != newest.generation:
            if ack.generation > dossier.last_generation:
                raise Rejected(Reason.BAD_REQUEST, "no such generation was offered", step="confirm")
            raise Rejected(Reason.SUPERSEDED, "that generation is retired", step="confirm", generation=ack.generation)
        if newest.state is State.RETIRED or (newest.state is State.RETIRING and ack.result is not Result.FAILED):
            raise Rejected(Reason.SUPERSEDED, "that generation is retired", step="confirm", generation=ack.generation)
        if newest.state is State.RETIRING:
            return Reason.NOTED
        if newest.state is not State.OFFERED:
            raise Rejected(Reason.BAD_REQUEST, "no such generation was offered", step="confirm")
        if ack.result is Result.STORED:
            if request.confirm is Confirm.LOGIN:
                raise self._wait("a login at the device broker confirms", "confirm")
            note = Note(now, "ack", source=ack.origin.source, cause="stored")
            await self._confirm(request, newest, note, keys)
            return Reason.CONFIRMED
        if ack.result is Result.FAILED:
            note = Note(now, "ack", source=ack.origin.source, cause="failed at the device")
            await self._commit(transitions.retire(request, newest, note))
            self._jobs.wake()
            return Reason.NOTED
        return await self._note_progress(ack, request, newest, now)

    async def _confirm(
        self, request: ProvisionRequest, credential: Credential, note: Note, keys: Keys | None = None
    ) -> None:
        if not await self._confirmation.confirm(request, credential, note, keys):
            raise _Stale

    async def _settle_proved(self, ack: Ack, request: ProvisionRequest, now: Millis) -> Reason:
        if ack.result is Result.STORED:
            return Reason.CONFIRMED
        if ack.result is Result.FAILED:
            raise Rejected(Reason.ALREADY_PROVISIONED, step="confirm", generation=request.proved_generation)
        await self._commit(Unit(_progress_note(ack, now), saved=(self._progress(ack, request),)))
        return Reason.NOTED

    async def _note_progress(self, ack: Ack, request: ProvisionRequest, credential: Credential, now: Millis) -> Reason:
        confirm_before = self._extended(request, credential, now)
        moved = evolve(credential, confirm_before=confirm_before, due_on=confirm_before)
        saved = (self._progress(ack, request),)
        await self._commit(Unit(_progress_note(ack, now), saved=saved, credentials=(moved,)))
        return Reason.NOTED

    @staticmethod
    def _progress(ack: Ack, request: ProvisionRequest) -> Saved:
        if ack.status not in PROGRESS:
            raise Rejected(Reason.BAD_REQUEST, "progress needs a status", step="parse")
        return transitions.report(request, ack.status)


def _activation(found: Dossier, origin: Origin) -> Claim:
    """An activation as a claim: its requestId is the generation it is about and the address that asks."""
    request = found.request
    is_under_way = request.phase in (Phase.MINTED, Phase.INSTALLED, Phase.OFFERED)
    generation = request.generation if is_under_way else found.last_generation + 1
    text = f"activate:{generation}:{origin.source}"
    return Claim(request.provision_username, request.client_id, text, origin)


def _progress_note(ack: Ack, now: Millis) -> Note:
    return Note(now, "ack", source=ack.origin.source, cause=ack.status or "")
