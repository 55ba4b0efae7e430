"""Activation by vendor, model and serial number: Exosite's way, over the same requests as every other.

1. A vendor is an account, by its name. A model belongs to a vendor and knows serial numbers: single ones with a text
   beside each, and ranges. Knowing one makes no request: a vendor may know sixteen million MAC addresses.
2. Enabling a serial number makes its request, or opens it again: the client id is the serial number, the window is a
   day (`WINDOW`). Out of a hand-over under way, or confirmed, it starts over: that gives the device a new secret.
3. Whoever calls in with an enabled serial number first gets the secret. Until the secret was used, the same source
   address may ask again and gets the same one; a lost answer is no support case.
4. A remap stops the former unit for good in the commit that lets the new one activate: two are never admitted for one
   place, and no crash leaves it to nobody.
5. The secret is used under the serial number, a name of the device's own. A broker into whose list we put names gets
   only those under our prefix, so nothing is promised there: a model needs a device broker that asks the ledger.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Protocol

from provisioner import policy
from provisioner.administration import Administration
from provisioner.admission import Admission
from provisioner.creation import NewRequest
from provisioner.errors import Conflict, Forbidden, Invalid, NotFound, Reason, Rejected
from provisioner.lifecycle import CLOSED, Phase
from provisioner.model import Account, AccountKind, Entry, Facts, Millis, Origin, ProvisionRequest, Role, Secret, Status
from provisioner.policy import Actor, check_role
from provisioner.ports import Note, Store
from provisioner.ranges import SerialRange
from provisioner.service import Provisioner
from provisioner.terms import check_serial_numbers

WINDOW = 24 * 3_600_000
"""From enabling to expiry (the seed: "after 24 hours"), milliseconds."""

MOST_RANGES = 1000
"""Ranges of one model: each look-up of a serial number may have to go through all of them."""

_TRIES = 8
_LONGEST_EXTRA = 255
_MAY_ENABLE = (Role.PREPARER, Role.INSTALLER)


class Standing(StrEnum):
    """Where a serial number stands: the seed's three states, and the one before them."""

    NOT_ENABLED = "Not Enabled"
    PENDING = "Pending Activation"
    ACTIVATED = "Activated"
    EXPIRED = "Expired"


class UnknownModel(Exception):
    """There is no such vendor, or it has no such model (403)."""


class UnknownSerial(Exception):
    """The model does not know this serial number (404)."""


class NotActivatable(Exception):
    """Not enabled, expired, or activated already (409); the text says which."""


@dataclass(frozen=True, slots=True)
class Model:
    """A vendor's model; `username` is the provision user of its requests."""

    id: int
    account_id: int
    vendor: str
    device_broker: str
    name: str
    username: str
    created_on: Millis
    created_by: int


class SerialLedger(Protocol):
    """Where models and their serial numbers are kept."""

    async def add_model(self, model: Model, user_id: int, note: Note) -> None:
        """Raises `Conflict` when the vendor has one of that name."""

    async def find_models(self, vendor: str, name: str | None = None) -> Sequence[Model]:
        """The model of that name, or all of a vendor."""

    async def delete_model(self, model: Model, note: Note) -> None:
        """With all that it knows."""

    async def add_serials(
        self, model: Model, serials: Sequence[tuple[str, str]], ranges: Sequence[SerialRange], note: Note
    ) -> None:
        """All of them or, raising `Conflict`, none."""

    async def delete_serials(
        self, model: Model, serial_numbers: Sequence[str], ranges: Sequence[SerialRange], note: Note
    ) -> None:
        """Those that there are."""

    async def find_extra(self, model: Model, serial_number: str) -> str | None:
        """The text beside a single serial number; None: there is none."""

    async def list_serials(self, model: Model, offset: int, limit: int) -> Sequence[tuple[str, str]]:
        """A page of single serial numbers and the text beside each, in order."""

    async def list_ranges(self, model: Model) -> Sequence[SerialRange]:
        """All of them."""

    async def find_newest(
        self, device_broker: str, account_id: int, client_ids: Sequence[str]
    ) -> Sequence[ProvisionRequest]:
        """The newest request of each of these client ids in one account."""


@dataclass(frozen=True, slots=True)
class SerialState:
    """A serial number as an operator sees it. `request` None: it was never enabled."""

    serial_number: str
    extra: str
    standing: Standing
    request: ProvisionRequest | None


class Serials:
    """`may_repeat`: until its secret was used, a unit may ask for it again from the same address."""

    def __init__(
        self,
        ledger: SerialLedger,
        store: Store,
        administration: Administration,
        provisioner: Provisioner,
        admission: Admission,
        *,
        may_repeat: bool = True,
    ) -> None:
        self._ledger = ledger
        self._store = store
        self._administration = administration
        self._provisioner = provisioner
        self._admission = admission
        self._may_repeat = may_repeat

    # -- activation ----------------------------------------------------------------------------------------------------

    async def activate(self, vendor: str, model: str, serial_number: str, origin: Origin, now: Millis) -> Secret:
        """The secret of a unit that calls in, minted now or a moment ago.

        Raises `UnknownModel`, `UnknownSerial`, `NotActivatable`; `Rejected` (`slow-down`, after too many guesses) and
        `Unavailable`.
        """
        found = await self._find_model(vendor, model)
        if found is None:
            self._count_guess(vendor, serial_number, origin, now)
            raise UnknownModel
        if not await self._knows(found, serial_number):
            self._count_guess(vendor, serial_number, origin, now)
            raise UnknownSerial
        request = await self._newest(found, serial_number)
        if request is None:
            raise NotActivatable("it was never enabled")
        try:
            return await self._provisioner.activate(request.id, origin, now, may_repeat=self._may_repeat)
        except Rejected as refusal:
            # A device broker that is not ready is no answer about the unit.
            if refusal.reason is Reason.WAIT and refusal.step == "install":
                raise
            raise NotActivatable(refusal.detail or str(refusal.reason)) from None

    def _count_guess(self, vendor: str, serial_number: str, origin: Origin, now: Millis) -> None:
        """Only what is unknown is limited: a unit that is known is never refused because of others."""
        self._admission.check_failure(vendor, serial_number, origin.source, origin.connection, now)

    async def _find_model(self, vendor: str, name: str) -> Model | None:
        if not (policy.is_identifier(vendor) and policy.is_identifier(name)):
            return None
        found = await self._ledger.find_models(vendor, name)
        return found[0] if found else None

    async def _knows(self, model: Model, serial_number: str) -> bool:
        return await self._extra(model, serial_number) is not None

    async def _extra(self, model: Model, serial_number: str) -> str | None:
        """The text beside a serial number that the model knows, empty for one of a range; None: unknown."""
        if not policy.is_identifier(serial_number):
            return None
        extra = await self._ledger.find_extra(model, serial_number)
        if extra is None and any(serial_number in one for one in await self._ledger.list_ranges(model)):
            return ""
        return extra

    async def _newest(self, model: Model, serial_number: str) -> ProvisionRequest | None:
        found = await self._ledger.find_newest(model.device_broker, model.account_id, [serial_number])
        return next((request for request in found if _is_of(request, model)), None)

    # -- models --------------------------------------------------------------------------------------------------------

    async def vendor(self, actor: Actor, named: str | None) -> Account:
        """The account an operator speaks for: the one it names, else its token's. Raises `Invalid`, `NotFound`."""
        if named is None and actor.account_id is None:
            raise Invalid("no-vendor", "name the vendor in the header X-Exosite-Vendor; this token is bound to none")
        wanted: int | str | None = actor.account_id if named is None else named
        account = await self._administration.get_account(actor, wanted if wanted is not None else 0)
        if account.kind is not AccountKind.TARGET:
            raise Invalid("not-a-target-account", "a vendor must be a TARGET account")
        return account

    async def create_model(self, actor: Actor, vendor: Account, name: str, username: str | None, now: Millis) -> None:
        """A new model; its requests get the provision user of that name, else the oldest one. Raises `Conflict`."""
        check_role(actor, Role.PREPARER)
        check_serial_numbers(self._administration.device_broker(vendor.device_broker))
        policy.parse_identifier(name, "model")
        users = await self._store.list_users()
        user = next((one for one in users if username in (None, one.username)), None)
        if user is None:
            raise Invalid("unknown-user", "there is no such provision user; make it first", field="user")
        model = Model(
            self._administration.next_id(now),
            vendor.id,
            vendor.name,
            vendor.device_broker,
            name,
            user.username,
            now,
            actor.token_id,
        )
        note = Note(now, "create-model", actor.token_id, cause=f"{vendor.name} {name}")
        try:
            await self._ledger.add_model(model, user.id, note)
        except Conflict:
            raise Conflict("name-taken", f"the model {name} is there already", field="model") from None

    async def list_models(self, vendor: Account) -> Sequence[Model]:
        """All of a vendor, by name."""
        return await self._ledger.find_models(vendor.name)

    async def get_model(self, vendor: Account, name: str) -> Model:
        """One model. Raises `NotFound`."""
        found = await self._find_model(vendor.name, name)
        if found is None:
            raise NotFound("no-such-model", "there is no such model")
        return found

    async def delete_model(self, actor: Actor, model: Model, now: Millis) -> None:
        """Delete a model and what it knows: its units can activate no more; those that did go on working."""
        check_role(actor)
        await self._ledger.delete_model(model, Note(now, "delete-model", actor.token_id, cause=_named(model)))

    # -- serial numbers ------------------------------------------------------------------------------------------------

    async def add(
        self,
        actor: Actor,
        model: Model,
        serials: Sequence[tuple[str, str]],
        ranges: Sequence[SerialRange],
        now: Millis,
    ) -> None:
        """Let a model know serial numbers, all or none. Raises `Invalid`, `Conflict` where one is known already."""
        check_role(actor, Role.PREPARER)
        for number, extra in serials:
            policy.parse_identifier(number, "sn")
            policy.check_username_fits(model.vendor, number)
            if len(extra) > _LONGEST_EXTRA or not extra.isprintable():
                raise Invalid(
                    "invalid-extra", f"extra must be at most {_LONGEST_EXTRA} printable characters", field="extra"
                )
        known = await self._ledger.list_ranges(model)
        if len(known) + len(ranges) > MOST_RANGES:
            raise Invalid("too-many-ranges", f"a model has at most {MOST_RANGES} ranges", field="ranges")
        if any(number in one for number, _ in serials for one in known):
            raise Conflict("serial-known", "one of these serial numbers is in a range already; nothing was added")
        if any(_overlap(one, other) for one in ranges for other in known):
            raise Conflict("serial-known", "one of these ranges overlaps one that is there; nothing was added")
        if any(_overlap(one, other) for at, one in enumerate(ranges) for other in ranges[:at]):
            raise Invalid("overlapping-ranges", "these ranges overlap; nothing was added", field="ranges")
        note = self._note(actor, "add-serials", model, serials, ranges, now)
        try:
            await self._ledger.add_serials(model, serials, ranges, note)
        except Conflict:
            told = "one of these is known already, or is there twice; nothing was added"
            raise Conflict("serial-known", told) from None

    async def remove(
        self, actor: Actor, model: Model, numbers: Sequence[str], ranges: Sequence[SerialRange], now: Millis
    ) -> None:
        """Let a model forget serial numbers: they can activate no more; a credential that one has stays."""
        check_role(actor, Role.PREPARER)
        pairs = [(number, "") for number in numbers]
        await self._ledger.delete_serials(
            model, numbers, ranges, self._note(actor, "remove-serials", model, pairs, ranges, now)
        )

    @staticmethod
    def _note(
        actor: Actor,
        action: str,
        model: Model,
        serials: Sequence[tuple[str, str]],
        ranges: Sequence[SerialRange],
        now: Millis,
    ) -> Note:
        count = len(serials) + sum(len(one) for one in ranges)
        return Note(now, action, actor.token_id, cause=f"{_named(model)}: {count}")

    async def list_serials(self, model: Model, offset: int, limit: int, now: Millis) -> Sequence[SerialState]:
        """A page of single serial numbers, in order."""
        page = await self._ledger.list_serials(model, offset, limit)
        found = await self._ledger.find_newest(model.device_broker, model.account_id, [number for number, _ in page])
        requests = {request.client_id: request for request in found if _is_of(request, model)}
        return [_state(number, extra, requests.get(number), now) for number, extra in page]

    async def list_ranges(self, model: Model) -> Sequence[SerialRange]:
        """All of them."""
        return await self._ledger.list_ranges(model)

    async def get(self, model: Model, serial_number: str, now: Millis) -> SerialState:
        """One serial number. Raises `NotFound`."""
        extra = await self._extra(model, serial_number)
        if extra is None:
            raise NotFound("no-such-serial", "the model does not know this serial number; add it first")
        return _state(serial_number, extra, await self._newest(model, serial_number), now)

    async def log(self, actor: Actor, model: Model, serial_number: str, now: Millis) -> Sequence[Entry]:
        """What was decided about a serial number's newest request, oldest first."""
        request = (await self.get(model, serial_number, now)).request
        if request is None:
            return ()
        await self._administration.get_request(actor, request.id)
        return await self._store.list_journal(request.id, 0, 1000)

    # -- verbs ---------------------------------------------------------------------------------------------------------

    async def enable(self, actor: Actor, model: Model, serial_number: str, now: Millis) -> ProvisionRequest:
        """Let a unit activate within a day from now, whatever became of it before."""
        check_role(actor, *_MAY_ENABLE)
        self._check_held(model)
        state = await self.get(model, serial_number, now)
        if state.request is None:
            new = _new(model, serial_number, None, now)
            return (await self._administration.create_request(_as_preparer(actor), new, now)).request
        return await self._open_again(actor, state.request, now)

    async def remap(self, actor: Actor, model: Model, serial_number: str, former: str, now: Millis) -> ProvisionRequest:
        """Let a new unit take the place of `former`, whose credential goes: same name, configuration and rules."""
        check_role(actor)
        self._check_held(model)
        if former == serial_number:
            raise Invalid("same-serial", "sn and oldsn are the same; leave out oldsn to enable it again", field="oldsn")
        window: dict[str, object] = {"status": Status.ENABLED, "activates_on": now, "expires_on": now + WINDOW}
        note = Note(now, "remap", actor.token_id, cause=f"{former} by {serial_number}")
        for _ in range(_TRIES):
            state = await self.get(model, serial_number, now)
            replaced = await self._newest(model, former)
            if replaced is None:
                raise NotFound("no-such-serial", "the old serial number was never enabled")
            successor = state.request or _new(model, serial_number, replaced, now)
            try:
                return await self._administration.succeed(actor, replaced, successor, window, note)
            except Conflict as conflict:
                if conflict.code != "busy":
                    raise
        raise _busy()

    def _check_held(self, model: Model) -> None:
        check_serial_numbers(self._administration.device_broker(model.device_broker))

    async def disable(self, actor: Actor, model: Model, serial_number: str, now: Millis) -> None:
        """Take a unit's credential away; it has to be enabled again before it can activate."""
        check_role(actor, *_MAY_ENABLE)
        state = await self.get(model, serial_number, now)
        if state.request is not None:
            await self._administration.end(actor, state.request, now)

    async def _open_again(self, actor: Actor, request: ProvisionRequest, now: Millis) -> ProvisionRequest:
        window = {"activates_on": now, "expires_on": now + WINDOW}
        for _ in range(_TRIES):
            if request.phase is not Phase.PENDING:
                reopened = await self._administration.reopen(
                    _as_preparer(actor), request.id, now, again=True, activates_on=now, expires_on=now + WINDOW
                )
                return reopened.request
            try:
                return await self._administration.update_request(
                    _as_preparer(actor), request.id, request.optlock, {"status": Status.ENABLED, **window}, now
                )
            except Conflict:
                request = await self._administration.get_request(actor, request.id)
        raise _busy()


def _busy() -> Conflict:
    return Conflict("busy", "this serial number is being changed right now; try again")


def _new(model: Model, serial_number: str, like: ProvisionRequest | None, now: Millis) -> NewRequest:
    """The request of a unit that is enabled for the first time; `like`: the one whose place it takes."""
    new = NewRequest(
        account=model.account_id,
        client_id=serial_number,
        username=model.username,
        activates_on=now,
        expires_on=now + WINDOW,
        facts=Facts(serial_number=serial_number, vendor=model.vendor, model=model.name),
    )
    if like is None:
        return new
    return replace(
        new,
        coupling=like.coupling,
        configuration=json.loads(like.configuration),
        device_name=like.device_name,
        secure_url=like.secure_url,
        retry_max_attempts=like.retry_max_attempts,
    )


def _as_preparer(actor: Actor) -> Actor:
    """Enabling is an installer's verb here, whatever it takes inside."""
    if actor.role is Role.VIEWER:
        raise Forbidden("forbidden", "the role viewer may not do this")
    return actor if actor.role is Role.ADMIN else replace(actor, role=Role.PREPARER)


def _is_of(request: ProvisionRequest, model: Model) -> bool:
    """A request of this vendor and model, wherever it was made."""
    return (request.facts.vendor, request.facts.model) == (model.vendor, model.name)


def _named(model: Model) -> str:
    return f"{model.vendor} {model.name}"


def _overlap(one: SerialRange, other: SerialRange) -> bool:
    alike = (one.format, one.length, one.casing) == (other.format, other.length, other.casing)
    return alike and one.first <= other.last and other.first <= one.last


def _state(number: str, extra: str, request: ProvisionRequest | None, now: Millis) -> SerialState:
    return SerialState(number, extra, standing(request, now), request)


def standing(request: ProvisionRequest | None, now: Millis) -> Standing:
    """Where a serial number stands (domain, table of phases)."""
    if request is None:
        return Standing.NOT_ENABLED
    if request.phase in CLOSED:
        return Standing.EXPIRED
    if request.phase is not Phase.PENDING:
        return Standing.ACTIVATED
    if policy.is_lapsed(request, now):
        return Standing.EXPIRED
    if request.status is Status.DISABLED or (request.activates_on is not None and now < request.activates_on):
        return Standing.NOT_ENABLED
    return Standing.PENDING
