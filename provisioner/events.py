"""What a committed unit of work means to others: domain events in signageOS's words.

1. An event belongs to a step of one request and is written in the transaction of that step (`events_of`), so no change
   goes without its event and no event tells of a change that was not made.
2. A step tells at most one event of the recipe, the strongest of Failed, Invalid, Applied and Updated. Beside it stands
   what happened to the credential (`CredentialRevoked`) or is suspected of it (`CloneSuspected`).
3. `facts` is what may change later, as it was after the step; what never changes (uids of accounts and of the request)
   is joined to it on delivery, so the path of a claim builds a few members and no envelope.
4. Envelope and payload have the seed's members in the seed's order: an optional one is absent rather than null,
   `brand` is always there, and the uids of an owner are null when there is none.
5. An id is the place in commit order and 64 random bits: ids sort as things happened, the same event has the same id
   in every delivery, and a ledger restored from a backup does not use one again for something else.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from provisioner.errors import Invalid
from provisioner.lifecycle import CLOSED, Phase
from provisioner.model import NO_LABELS, Labels, Millis, ProvisionRequest

if TYPE_CHECKING:
    from provisioner.ports import Saved, Unit


class EventType(StrEnum):
    """What can happen, as `type` tells it."""

    CREATED = "Device.ProvisioningRecipeCreated"
    UPDATED = "Device.ProvisioningRecipeUpdated"
    APPLIED = "Device.ProvisioningRecipeApplied"
    FAILED = "Device.ProvisioningRecipeFailed"
    INVALID = "Device.ProvisioningRecipeInvalid"
    CREDENTIAL_REVOKED = "Device.CredentialRevoked"
    CREDENTIAL_EXPIRING = "Device.CredentialExpiring"
    CLONE_SUSPECTED = "Device.CloneSuspected"


class RecipeStatus(StrEnum):
    """Where a provisioning recipe stands, in signageOS's words."""

    PENDING = "Pending"
    APPLIED = "Applied"
    FAILED = "Failed"
    INVALID = "Invalid"


class DomainEvent(NamedTuple):
    """What happened to one request; `originator_id` is the operator token that did it (None: no operator).

    A tuple, in the order of the parameters of `add_event`: a hand-over pays for it.
    """

    type: EventType
    request_id: int
    account_id: int
    made_on: Millis
    originator_id: int | None
    facts: str


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as the ledger gives it back, with what was joined to it.

    `seq` counts commits, `nonce` is 64 random bits (signed). `account_uid` and `parent_uid` tell the owner,
    `originator_uid` the account of the operator's token (None: it sees everything).
    """

    seq: int
    nonce: int
    type: str
    request_id: int
    account_id: int
    made_on: Millis
    originator_id: int | None
    facts: str
    account_name: str
    account_uid: str
    parent_uid: str | None
    originator_uid: str | None

    @property
    def id(self) -> str:
        """The `id` of the envelope: 32 hex digits."""
        return f"{self.seq:016x}{self.nonce & _MASK:016x}"


_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False)
_MASK = 2**64 - 1
_ID = re.compile(r"[0-7][0-9a-f]{15}[0-9a-f]{16}")
_UNREACHED = frozenset((Phase.PENDING, Phase.MINTED, Phase.INSTALLED, Phase.OFFERED, Phase.RETIRING))
_PROVED = frozenset((Phase.CONFIRMED, Phase.RENEWING))


def parse_event_id(text: str) -> tuple[int, int]:
    """(seq, nonce) of an event's id. Raises `Invalid`."""
    if not _ID.fullmatch(text):
        raise Invalid("invalid-event-id", "an event id has 32 lower-case hex digits", field="id")
    nonce = int(text[16:], 16)
    return int(text[:16], 16), nonce - (2**64 if nonce >> 63 else 0)


def recipe_uid(request_id: int) -> str:
    """The `uid` of a request: its id in 32 hex digits."""
    return f"{request_id:032x}"


def recipe_status(request: ProvisionRequest) -> RecipeStatus:
    """Status of a request (domain, table of phases)."""
    if request.phase in _UNREACHED:
        return RecipeStatus.PENDING
    if request.phase in _PROVED:
        return RecipeStatus.APPLIED
    return RecipeStatus.INVALID if request.skipped else RecipeStatus.FAILED


# -- what a unit means -------------------------------------------------------------------------------------------------


def events_of(unit: Unit) -> Iterator[DomainEvent]:
    """The events of a committed unit, in the order in which they happened."""
    for saved in unit.saved:
        yield from _events_of_step(unit, saved)
    for request in unit.added:
        yield _event(EventType.CREATED, request, unit)
    for turned in unit.turned:
        yield _event(EventType.INVALID, turned.request, unit, errorMessage=turned.problem)
    for suspicion in unit.suspicions:
        more = _credential(suspicion.request) | {"detail": suspicion.detail, "sources": suspicion.sources}
        yield _event(EventType.CLONE_SUSPECTED, suspicion.request, unit, **more)


def _events_of_step(unit: Unit, saved: Saved) -> Iterator[DomainEvent]:
    before, after = saved.before, saved.after
    if after.phase is Phase.RETIRING and before.phase in _PROVED:
        yield _event(EventType.CREDENTIAL_REVOKED, after, unit, **_credential(before))
    if after.rotate_wanted and not before.rotate_wanted and unit.note.actor is None:
        yield _event(EventType.CREDENTIAL_EXPIRING, after, unit, **_credential(before))
    if after.phase in CLOSED and before.phase not in CLOSED:
        kind = EventType.INVALID if recipe_status(after) is RecipeStatus.INVALID else EventType.FAILED
        yield _event(kind, after, unit, errorMessage=_failure(before, after))
    elif after.phase is Phase.CONFIRMED and after.proved_generation != before.proved_generation:
        yield _event(EventType.APPLIED, after, unit)
    elif after.optlock != before.optlock:
        yield _event(EventType.UPDATED, after, unit)


def _event(kind: EventType, request: ProvisionRequest, unit: Unit, **more: object) -> DomainEvent:
    facts = _ENCODER.encode(_facts(request) | more)
    return DomainEvent(kind, request.id, request.account_id, unit.note.at, unit.note.actor, facts)


def _facts(request: ProvisionRequest) -> dict[str, object]:
    """Members of the payload that may be different tomorrow."""
    unit = request.facts
    optional = {
        "serialNumber": unit.serial_number,
        "macAddress": unit.mac_address,
        "model": unit.model,
        "deviceName": request.device_name,
    }
    told: dict[str, object] = {"status": recipe_status(request), "brand": unit.brand or unit.vendor or ""}
    told |= {name: value for name, value in optional.items() if value is not None}
    if request.labels is not NO_LABELS:
        told |= _told_labels(request.labels)
    if request.last_refusal is not None:
        refusal = json.loads(request.last_refusal)
        told["unsuccessfulRegisterAttemptStatus"] = {"warningMessage": refusal.get("detail") or refusal["reason"]}
    return told


def _told_labels(labels: Labels) -> dict[str, object]:
    said = {
        "confirmedOwnership": labels.confirmed_ownership,
        "tagUids": labels.tag_uids or None,
        "policyUid": labels.policy_uid,
        "locationUid": labels.location_uid,
    }
    return {name: value for name, value in said.items() if value is not None}


def _credential(request: ProvisionRequest) -> dict[str, object]:
    """Which credential of which device: our own events tell it."""
    return {"clientId": request.client_id, "generation": request.proved_generation or request.generation}


def _failure(before: ProvisionRequest, after: ProvisionRequest) -> str:
    """Why it ended, for `errorMessage`."""
    match after.phase:
        case Phase.EXPIRED:
            return "The window ended before the device was provisioned."
        case Phase.ABANDONED:
            return f"All {after.retry_max_attempts} attempts are used up."
        case Phase.FAILED:
            return "The device broker refuses the credential for good."
    if after.skipped:
        return "Another request replaced it before any claim."
    if before.proved_generation is not None:
        return "Its credential was revoked."
    return "It was stopped by an operator."


# -- what is delivered -------------------------------------------------------------------------------------------------

_OPTIONAL = (  # but for `brand`, which `_facts` always has
    "confirmedOwnership",
    "serialNumber",
    "macAddress",
    "model",
    "brand",
    "tagUids",
    "deviceName",
    "policyUid",
    "locationUid",
    "unsuccessfulRegisterAttemptStatus",
    "errorMessage",
)
_OURS = ("clientId", "generation", "detail", "sources")


def envelope(event: StoredEvent) -> dict[str, Any]:
    """The event as others read it. Whoever owns the device is the organization it is provisioned for: the account."""
    facts = json.loads(event.facts)
    originator: dict[str, object] = {
        "accountId": event.originator_id,
        "organizationUid": event.originator_uid,
        "policyUid": facts.get("policyUid"),
    }
    told = payload(
        event.type,
        facts,
        uid=recipe_uid(event.request_id),
        organization_uid=event.account_uid,
        owner=(event.account_uid, event.parent_uid),
        originator={name: value for name, value in originator.items() if value is not None},
    )
    return {"id": event.id, "kind": "domain", "type": event.type, "payload": told}


def payload(
    kind: str,
    facts: Mapping[str, Any],
    *,
    uid: str,
    organization_uid: str,
    owner: tuple[str | None, str | None],
    originator: Mapping[str, Any],
) -> dict[str, Any]:
    """The payload in the seed's form and order; `owner` is (organization, parent company)."""
    told: dict[str, Any] = {
        "owner": {"ownershipType": "organization", "organizationUid": owner[0], "parentCompanyUid": owner[1]},
        "organizationUid": organization_uid,
        "status": facts["status"],
    }
    told |= {name: facts[name] for name in _OPTIONAL if name in facts}
    told["uid"] = uid
    if originator:
        told["originator"] = dict(originator)
    told |= {name: facts[name] for name in _OURS if name in facts}
    return told | {"type": kind}


def body(event: StoredEvent) -> bytes:
    """The envelope as sinks send it: UTF-8 JSON, the same bytes in every delivery."""
    return _ENCODER.encode(envelope(event)).encode()
