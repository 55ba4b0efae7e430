"""Why a device does not get its credential: the tests of a claim, made without a claim and without side effects.

1. The tests and their order are those of `service` (claim) and `authentication`; `test_why` holds them to it: in every
   state the verdict here is what a right claim is answered.
2. What only a claim can show (its key, its proof, the facts it brings) is told as what it will be tested for.
3. Each test that fails has a cure. The last refusals of the device stand beside it, from the journal.
4. An operator is told of requests it may see; of strangers' claims, only one whose token sees everything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from provisioner import policy, transitions
from provisioner.administration import Administration
from provisioner.errors import Reason, Rejected
from provisioner.handover import Vault
from provisioner.keys import open_keys
from provisioner.lifecycle import Phase, State
from provisioner.model import Credential, Dossier, Entry, Millis, ProvisionRequest, Status
from provisioner.policy import Actor, parse_identifier
from provisioner.ports import DeviceBroker, Store

SHOWN = 20
"""Refusals told at most."""


@dataclass(frozen=True, slots=True)
class Test:
    """One test: `passed`, a sentence, and what to do about it. `reason`: what the device is answered otherwise."""

    __test__ = False
    """No test of pytest's."""

    name: str
    passed: bool
    detail: str
    cure: str = ""
    reason: Reason | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """All tests, in order, up to the first that fails; `reason` is what a right claim is answered now."""

    client_id: str
    request: ProvisionRequest | None
    reason: Reason
    tests: Sequence[Test]
    refusals: Sequence[Entry]


class WhyLedger(Protocol):
    """What is looked up by a client id alone."""

    async def find_of_client(self, client_id: str) -> Sequence[ProvisionRequest]:
        """Requests of this client id at any device broker, newest first, a few."""

    async def list_refusals(self, client_id: str, limit: int) -> Sequence[Entry]:
        """What the journal tells of refused messages of a client id lately, newest first."""


class Why:
    """See the module."""

    def __init__(
        self,
        ledger: WhyLedger,
        store: Store,
        vault: Vault,
        brokers: Mapping[str, DeviceBroker],
        administration: Administration,
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._vault = vault
        self._brokers = brokers
        self._administration = administration

    async def of_client(self, actor: Actor, client_id: str, now: Millis) -> Answer:
        """About a device, by its client id."""
        parse_identifier(client_id, "clientId")
        visible = await self._administration.visible(actor)
        found = [
            one for one in await self._ledger.find_of_client(client_id) if visible is None or one.account_id in visible
        ]
        if found:
            return await self._of(found[0], now)
        test = Test(
            "match",
            passed=False,
            detail="there is no request for this client id",
            cure=f"provisioner request create {client_id} --account ACCOUNT",
            reason=Reason.DENIED,
        )
        refusals = await self._ledger.list_refusals(client_id, SHOWN) if visible is None else ()
        return Answer(client_id, None, Reason.DENIED, (test,), refusals)

    async def of_request(self, actor: Actor, request_id: int, now: Millis) -> Answer:
        """About a request. Raises `NotFound`."""
        return await self._of(await self._administration.get_request(actor, request_id), now)

    async def _of(self, request: ProvisionRequest, now: Millis) -> Answer:
        name = request.client_id
        dossier = await self._store.find_claim(request.provision_username, name, "")
        tests: list[Test] = []
        for test in self._tests(request, dossier, now):
            tests.append(test)
            if not test.passed:
                break
        failed = next((test for test in tests if not test.passed), None)
        reason = failed.reason if failed is not None and failed.reason is not None else Reason.OFFER
        refusals = [
            entry
            for entry in await self._ledger.list_refusals(name, SHOWN)
            if entry.line.request_id in (None, request.id)
        ]
        return Answer(name, request, reason, tests, refusals)

    def _tests(self, request: ProvisionRequest, dossier: Dossier | None, now: Millis) -> list[Test]:
        newest = None if dossier is None else dossier.request
        tests = [
            _match(request, newest),
            self._key(request),
            _facts(request),
            _switch(request),
            _open(request),
        ]
        if dossier is None:
            return tests
        tests.append(_retiring(request, dossier))
        if request.phase is Phase.PENDING:
            tests += [_window(request, now), *_mint(request, dossier), self._broker(request), self._sealing(request)]
        elif request.phase is Phase.CONFIRMED:
            tests += [_rotate(request), *_mint(request, dossier), self._broker(request), self._sealing(request)]
        else:
            tests += [_offer(request, dossier, now), self._broker(request), self._sealing(request)]
        return tests

    def _key(self, request: ProvisionRequest) -> Test:
        if request.keys_sealed is None:
            return Test("authenticate", passed=True, detail="the request has no activation key; claims need TLS")
        detail = f"a claim must prove the activation key, as user {request.provision_username}"
        return Test("authenticate", passed=True, detail=detail)

    def _sealing(self, request: ProvisionRequest) -> Test:
        keys = open_keys(self._vault, request)
        if keys is not None and keys.seal is None:
            detail = "the activation key was wiped, so no offer can be sealed for the device"
            cure = f"provisioner request reopen {request.client_id} --new-key"
            return Test("seal", passed=False, detail=detail, cure=cure, reason=Reason.ABANDONED)
        return Test("seal", passed=True, detail="the offer can be sealed for the device")

    def _broker(self, request: ProvisionRequest) -> Test:
        broker = self._brokers.get(request.device_broker)
        if broker is None or broker.address(secure=request.secure_url) is None:
            scheme = "mqtts" if request.secure_url else "mqtt"
            return Test(
                "install",
                passed=False,
                detail=f"the device broker {request.device_broker} has no {scheme} address to tell the device",
                cure="set its listen or url in the settings, or change provisionSecureURL of the request",
                reason=Reason.UNAVAILABLE,
            )
        return Test("install", passed=True, detail=f"the device broker is {request.device_broker}")


def _match(request: ProvisionRequest, newest: ProvisionRequest | None) -> Test:
    user = request.provision_username
    if newest is None or newest.id != request.id:
        detail = f"a newer request for this client id and user {user} is looked at instead"
        cure = f"provisioner why {request.client_id}"
        return Test("match", passed=False, detail=detail, cure=cure, reason=Reason.DENIED)
    return Test("match", passed=True, detail=f"claims of user {user} find request {request.id}")


def _facts(request: ProvisionRequest) -> Test:
    facts = request.facts
    known = {
        "serialNumber": facts.serial_number,
        "macAddress": facts.mac_address,
        "vendor": facts.vendor,
        "brand": facts.brand,
        "model": facts.model,
    }
    told = ", ".join(f"{name} {value}" for name, value in known.items() if value is not None)
    if not told:
        return Test("facts", passed=True, detail="the request says nothing about the unit")
    detail = f"the unit must not say otherwise than {told}"
    if request.last_refusal is not None:
        before = json.loads(request.last_refusal).get("detail") or "a claim contradicted the request"
        detail += f"; refused last: {before}"
    return Test("facts", passed=True, detail=detail)


def _switch(request: ProvisionRequest) -> Test:
    if request.status is Status.DISABLED:
        cure = f"provisioner request enable {request.client_id}"
        return Test("enabled", passed=False, detail="it is switched off", cure=cure, reason=Reason.DISABLED)
    return Test("enabled", passed=True, detail="it is switched on")


def _open(request: ProvisionRequest) -> Test:
    if not transitions.is_closed(request):
        return Test("open", passed=True, detail=f"it is {request.phase}")
    reason = Reason.EXPIRED if request.phase is Phase.EXPIRED else Reason.ABANDONED
    why = {
        Phase.EXPIRED: "its window was over before the device was provisioned",
        Phase.ABANDONED: f"all {request.retry_max_attempts} attempts are used up",
        Phase.STOPPED: "an operator stopped it, or took its credential away",
        Phase.FAILED: "the device broker refused its credential for good",
    }[request.phase]
    later = " --expires WHEN" if request.phase is Phase.EXPIRED else ""
    cure = f"provisioner request reopen {request.client_id}{later}"
    return Test("open", passed=False, detail=why, cure=cure, reason=reason)


def _retiring(request: ProvisionRequest, dossier: Dossier) -> Test:
    if request.phase is Phase.RETIRING:
        detail = "a former credential is being taken out of the device broker" + _failed(dossier.credential)
        cure = "wait a moment; provisioner drift shows a device broker that is away"
        return Test("retired", passed=False, detail=detail, cure=cure, reason=Reason.WAIT)
    return Test("retired", passed=True, detail="no credential is being taken out")


def _window(request: ProvisionRequest, now: Millis) -> Test:
    try:
        policy.check_window(request, now)
    except Rejected as refusal:
        cure = "wait, or change activatesOn: provisioner request change"
        if refusal.reason is Reason.EXPIRED:
            cure = "give it a later expiresOn, or stop and reopen it with one"
        return Test("window", passed=False, detail=refusal.detail, cure=cure, reason=refusal.reason)
    end = "it never ends" if request.expires_on is None else f"it ends at {policy.iso(request.expires_on)}"
    return Test("window", passed=True, detail=f"its window is open; {end}")


def _rotate(request: ProvisionRequest) -> Test:
    if not request.rotate_wanted:
        cure = f"provisioner request rotate {request.client_id} lets it have a new one, reopen lets it start over"
        detail = f"the device has proved generation {request.proved_generation}"
        return Test("needed", passed=False, detail=detail, cure=cure, reason=Reason.ALREADY_PROVISIONED)
    return Test("needed", passed=True, detail="a new credential is wanted for it")


def _mint(request: ProvisionRequest, dossier: Dossier) -> list[Test]:
    used, most = transitions.attempts(request), request.retry_max_attempts
    left = Test("attempts", passed=True, detail=f"{used} of {most} attempts are used")
    if used >= most:
        cure = f"provisioner request stop {request.client_id}, then reopen it"
        detail = f"all {most} attempts are used up"
        left = Test("attempts", passed=False, detail=detail, cure=cure, reason=Reason.ABANDONED)
    free = Test("free", passed=True, detail="no other credential of this client id is in the way")
    if dossier.occupied:
        detail = "a credential of a former request for this client id is still being taken out"
        cure = "wait a moment; provisioner drift shows a device broker that is away"
        free = Test("free", passed=False, detail=detail, cure=cure, reason=Reason.WAIT)
    return [left, free]


def _offer(request: ProvisionRequest, dossier: Dossier, now: Millis) -> Test:
    credential = dossier.credential
    if credential is None or credential.state is State.MINTED:
        detail = "its credential is not in the device broker yet" + _failed(credential)
        cure = "wait a moment; provisioner drift shows more"
        return Test("offer", passed=False, detail=detail, cure=cure, reason=Reason.WAIT)
    if credential.state not in (State.INSTALLED, State.OFFERED) or credential.confirm_before <= now:
        detail = f"generation {credential.generation} was not confirmed in time, or is being taken out"
        return Test("offer", passed=False, detail=detail, cure="wait a moment", reason=Reason.WAIT)
    detail = f"generation {request.generation} is offered again until {policy.iso(credential.confirm_before)}"
    return Test("offer", passed=True, detail=detail)


def _failed(credential: Credential | None) -> str:
    """How often a job was tried in vain; each time has its line in the request's log."""
    if credential is None or not credential.attempts:
        return ""
    return f"; failed attempts: {credential.attempts}, provisioner request log {credential.client_id} tells why"
