"""EnOS's device provisioning: devices are registered in groups, then allocated to an organisation.

1. A registered device is a provision request of the group's account, switched off. Allocating hands it over to the
   organisation's account, switches it on and opens its window; the device then claims as any other does.
2. What EnOS keeps beside a request (group, batch, master data, times) is its `record`, JSON, committed with it.
3. A device of an organisation that is allocated to another one is reprovisioned, as its group says: `unsupported`
   refuses, `migrate` keeps its master data, `initialise` begins with those it was registered with. The former
   credential is taken out.
4. A serial number is generated here and unique in the installation; it is the client id.
"""

from __future__ import annotations

import json
from base64 import b32encode
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Protocol

from provisioner import policy
from provisioner.administration import Administration
from provisioner.creation import NewRequest
from provisioner.errors import Conflict, Forbidden, Invalid, NotFound, ProvisionerError, Refused
from provisioner.expressions import Operator, Term
from provisioner.lifecycle import CLOSED, Phase
from provisioner.masterdata import LONGEST_TEXT, Datum, DoesNotFit, check_data, is_localized, merged, parse_schema
from provisioner.model import Account, AccountKind, Facts, Labels, Millis, ProvisionRequest, Role, Status
from provisioner.policy import Actor, check_role
from provisioner.ports import Note

MOST_CREATED = 1000
"""Devices that one call registers, at most."""

_TRIES = 8
_LARGEST = 16_384
_MAY_ALLOCATE = (Role.PREPARER, Role.INSTALLER)


class NoOrganization(ProvisionerError):
    """The organisation, or the serial number, is missing, blank or invalid (35400)."""


class NoGroup(ProvisionerError):
    """The registration group or its master data group does not exist (35404)."""


class NotVerified(ProvisionerError):
    """The serial number does not exist or is invalid, or the master data do not fit (35601); the text says which."""


class Reprovisioning(StrEnum):
    """What becomes of a device that is allocated to another organisation."""

    UNSUPPORTED = "unsupported"
    MIGRATE = "migrate"
    INITIALISE = "initialise"


@dataclass(frozen=True, slots=True)
class MasterDataGroup:
    """A schema that registration groups share; `schema` without what is built in."""

    id: str
    account_id: int
    name: str
    schema: Mapping[str, Datum]


@dataclass(frozen=True, slots=True)
class Group:
    """A registration group: what is common to the devices registered in it."""

    id: str
    account_id: int
    name: str
    master_data_group: str | None
    product_key: str
    region_id: str
    policy_uid: str
    reprovisioning: Reprovisioning


@dataclass(frozen=True, slots=True)
class Record:
    """What EnOS keeps of a device beside its request. `moved_at`: the generation it had when it was reprovisioned."""

    group_id: str
    home: str
    product_key: str
    region_id: str
    batch_order: int
    batch_tag: dict[str, Any]
    description: str
    initial: dict[str, Any]
    data: dict[str, Any]
    allocated_on: Millis | None = None
    allocate_error: str | None = None
    moved_at: int | None = None


class DpsLedger(Protocol):
    """Where groups are kept, and how devices are found."""

    async def add_master_data_group(self, group: MasterDataGroup, note: Note) -> None:
        """Raises `Conflict`."""

    async def find_master_data_groups(self, group_id: str | None = None) -> Sequence[MasterDataGroup]:
        """That one, or all."""

    async def delete_master_data_group(self, group_id: str, note: Note) -> None:
        """Groups that name it allocate no more."""

    async def add_group(self, group: Group, note: Note) -> None:
        """Raises `Conflict`."""

    async def find_groups(self, group_id: str | None = None) -> Sequence[Group]:
        """That one, or all."""

    async def delete_group(self, group_id: str, note: Note) -> None:
        """Its devices are allocated no more."""

    async def next_batch(self, group_id: str) -> int:
        """The number of the next batch of a group."""

    async def find_devices(
        self, wanted: Sequence[Term], accounts: Sequence[int] | None, offset: int, limit: int
    ) -> Sequence[ProvisionRequest]:
        """Registered devices that fit every term, newest first."""

    async def find_times(self, request_ids: Sequence[int]) -> Mapping[int, tuple[Millis | None, Millis | None]]:
        """When a request was last confirmed, and last closed."""


@dataclass(frozen=True, slots=True)
class Registration:
    """What `create` says about its devices."""

    count: int
    description: str = ""
    batch_tag: dict[str, Any] | None = None
    data: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Device:
    """A registered device as EnOS shows it; `finished_on`, `discarded_on`: None unless it is so now."""

    request: ProvisionRequest
    record: Record
    finished_on: Millis | None
    discarded_on: Millis | None


class Dps:
    """EnOS's use cases."""

    def __init__(self, ledger: DpsLedger, administration: Administration) -> None:
        self._ledger = ledger
        self._administration = administration

    # -- groups --------------------------------------------------------------------------------------------------------

    async def create_master_data_group(
        self, actor: Actor, account: int | str, name: str, schema: Mapping[str, Mapping[str, Any]], now: Millis
    ) -> MasterDataGroup:
        """A schema for registration groups. Raises `Invalid`, `NotFound`."""
        check_role(actor)
        owner = await self._target(actor, account)
        policy.parse_identifier(name, "name")
        try:
            parsed = parse_schema(schema)
        except DoesNotFit as error:
            raise Invalid("invalid-schema", str(error), field="schema") from None
        group = MasterDataGroup(self._administration.new_uid(), owner.id, name, parsed)
        await self._ledger.add_master_data_group(group, Note(now, "create-master-data", actor.token_id, cause=name))
        return group

    async def create_group(self, actor: Actor, account: int | str, new: Group, now: Millis) -> Group:
        """A registration group of an account; `id` and `account_id` of `new` are made. Raises `Invalid`, `NotFound`."""
        check_role(actor)
        owner = await self._target(actor, account)
        policy.parse_identifier(new.name, "name")
        for text, name in ((new.product_key, "productKey"), (new.region_id, "regionId")):
            policy.parse_identifier(text, name)
        ruled = await self._administration.policies.of_account(owner.id, new.policy_uid)
        if ruled.rules.username is None:
            raise Invalid("no-user", "the policy of a group must name a provisionUserUsername", field="policyUid")
        if new.master_data_group is not None:
            found = await self._ledger.find_master_data_groups(new.master_data_group)
            if not found or found[0].account_id not in await self._administration.above(owner.id):
                raise NotFound("no-such-group", "there is no such master data group")
        group = replace(new, id=self._administration.new_uid(), account_id=owner.id)
        await self._ledger.add_group(group, Note(now, "create-group", actor.token_id, cause=group.name))
        return group

    async def list_groups(self, actor: Actor) -> tuple[Sequence[Group], Sequence[MasterDataGroup]]:
        """Those of the accounts that the operator sees."""
        visible = await self._administration.visible(actor)
        groups, schemas = await self._ledger.find_groups(), await self._ledger.find_master_data_groups()
        return (
            [one for one in groups if visible is None or one.account_id in visible],
            [one for one in schemas if visible is None or one.account_id in visible],
        )

    async def delete_group(self, actor: Actor, group_id: str, now: Millis) -> None:
        """Delete a group, of either kind: devices are registered in it and allocated from it no more."""
        check_role(actor)
        groups, schemas = await self.list_groups(actor)
        note = Note(now, "delete-group", actor.token_id, cause=group_id)
        if any(one.id == group_id for one in groups):
            await self._ledger.delete_group(group_id, note)
        elif any(one.id == group_id for one in schemas):
            await self._ledger.delete_master_data_group(group_id, note)
        else:
            raise NotFound("no-such-group", "there is no such group")

    async def _target(self, actor: Actor, account: int | str) -> Account:
        found = await self._administration.get_account(actor, account)
        if found.kind is not AccountKind.TARGET:
            raise Invalid("not-a-target-account", "accountId must be a TARGET account", field="accountId")
        return found

    # -- devices -------------------------------------------------------------------------------------------------------

    async def create(
        self, actor: Actor, org_id: object, group_id: str, new: Registration, now: Millis
    ) -> Sequence[str]:
        """Register devices, all or none; their serial numbers. Raises `NoOrganization`, `NoGroup`, `NotVerified`."""
        check_role(actor, Role.PREPARER)
        account = await self.organization(actor, org_id)
        group = await self._group(group_id)
        if group.account_id != account.id:
            raise NoGroup
        await self._check_data(group, new.data)
        tag = new.batch_tag or {"defaultValue": "", "i18nValue": {}}
        if not is_localized(tag) or len(new.description) > LONGEST_TEXT or not new.description.isprintable():
            raise NotVerified(f"batchTag must be a localized text, desc at most {LONGEST_TEXT} printable characters")
        record = Record(
            group_id=group.id,
            home=account.name,
            product_key=group.product_key,
            region_id=group.region_id,
            batch_order=await self._ledger.next_batch(group.id),
            batch_tag=tag,
            description=new.description,
            initial=merged({}, new.data),
            data=merged({}, new.data),
        )
        news = [self._registered(account, group, record) for _ in range(new.count)]
        created = await self._administration.create_requests(actor, account, news, now)
        return [one.request.client_id for one in created]

    def _registered(self, account: Account, group: Group, record: Record) -> NewRequest:
        serial_number = b32encode(bytes.fromhex(self._administration.new_uid())[:10]).decode()
        return NewRequest(
            account=account.id,
            client_id=serial_number,
            facts=Facts(serial_number=serial_number),
            labels=Labels(policy_uid=group.policy_uid),
            status=Status.DISABLED,
            record=_text(record),
        )

    async def get(self, actor: Actor, org_id: object, serial_number: object) -> Device:
        """One device. Raises `NoOrganization`, `NotVerified`."""
        await self.organization(actor, org_id)
        return (await self._shown([await self._find(actor, serial_number)]))[0]

    async def search(
        self, actor: Actor, org_id: object, wanted: Sequence[Term], offset: int, limit: int
    ) -> tuple[Sequence[Device], bool]:
        """A page of devices, newest first, and whether there are more.

        Those of an organisation and what is below it; None: of all that the operator sees. Raises `NoOrganization`.
        """
        if org_id is not None:
            actor = replace(actor, account_id=(await self.organization(actor, org_id)).id)
        visible = await self._administration.visible(actor)
        accounts = None if visible is None else sorted(visible)
        found = await self._ledger.find_devices(wanted, accounts, offset, limit + 1)
        return await self._shown(found[:limit]), len(found) > limit

    async def allocate(
        self, actor: Actor, org_id: object, serial_number: object, said: Mapping[str, Any], now: Millis
    ) -> Device:
        """Bind a registered device to an organisation and open its window.

        Raises `NoOrganization`, `NoGroup`, `NotVerified`; what was wrong with a known device stays on it.
        """
        check_role(actor, *_MAY_ALLOCATE)
        account = await self.organization(actor, org_id)
        if not isinstance(serial_number, str) or not serial_number.strip():
            raise NoOrganization
        for _ in range(_TRIES):
            request = await self._find(actor, serial_number)
            record = record_of(request)
            group = await self._group(record.group_id)
            try:
                await self._check_data(group, said)
                moved = self._moved(request, record, group, account)
                data = merged(record.initial if moved is not None and _begins_anew(group) else record.data, said)
                record = replace(record, data=data, allocated_on=now, allocate_error=None, moved_at=moved)
                return await self._hand_over(actor, request, account, record, Status.ENABLED, now)
            except NotVerified as refusal:
                await self._note_refusal(actor, request, str(refusal), now)
                raise
            except Conflict as conflict:
                if conflict.code != "busy":
                    await self._note_refusal(actor, request, conflict.detail, now)
                    raise NotVerified(conflict.detail) from None
        raise Conflict("busy", "this device is being changed right now; try again")

    @staticmethod
    def _moved(request: ProvisionRequest, record: Record, group: Group, account: Account) -> int | None:
        """The generation that stays behind where the device is reprovisioned. Raises `NotVerified`."""
        if request.account_id == account.id or record.allocated_on is None or request.generation == 0:
            return record.moved_at
        if group.reprovisioning is Reprovisioning.UNSUPPORTED:
            raise NotVerified("the device is allocated already, and its group does not support reprovisioning")
        return request.generation

    async def reset(self, actor: Actor, org_id: object, serial_number: object, now: Millis) -> Device:
        """Take a device back from its organisation, with its credential: it is as it was when it was registered."""
        check_role(actor)
        await self.organization(actor, org_id)
        request = await self._find(actor, serial_number)
        record = record_of(request)
        home = await self._administration.get_account(actor, record.home)
        record = replace(record, data=record.initial, allocated_on=None, allocate_error=None, moved_at=None)
        return await self._hand_over(actor, request, home, record, Status.DISABLED, now)

    async def replace(
        self, actor: Actor, org_id: object, serial_number: object, successor: object, now: Millis
    ) -> Device:
        """Give a new device the master data, batch tag and description of one, which is deleted.

        Raises `NotFound` (35404), `Invalid` (35400: another group), `Conflict` (35603: allocated already).
        """
        check_role(actor)
        await self.organization(actor, org_id)
        try:
            former, after = await self._find(actor, serial_number), await self._find(actor, successor)
        except NotVerified:
            raise NotFound("sn-not-found", "Sn not found") from None
        ours, theirs = record_of(former), record_of(after)
        if ours.group_id != theirs.group_id or former.id == after.id:
            raise Invalid("another-group", "Target device and replacement device should belong to the same group")
        if theirs.allocated_on is not None:
            raise Conflict("allocated", "Replacement device is allocated")
        copied = replace(
            theirs, data=ours.data, initial=ours.data, batch_tag=ours.batch_tag, description=ours.description
        )
        note = Note(now, "replace", actor.token_id, cause=f"{former.client_id} by {after.client_id}")
        changed = await self._administration.succeed(actor, former, after, {"record": _text(copied)}, note, record=None)
        return (await self._shown([changed]))[0]

    # -- shared --------------------------------------------------------------------------------------------------------

    async def organization(self, actor: Actor, org_id: object) -> Account:
        """The account of an orgId: its name, uid or id. Raises `NoOrganization`."""
        if not isinstance(org_id, str) or not org_id.strip():
            raise NoOrganization
        for account in await self._administration.list_accounts(actor):
            if org_id in (account.name, account.uid, str(account.id)) and account.kind is AccountKind.TARGET:
                return account
        raise NoOrganization

    async def _find(self, actor: Actor, serial_number: object) -> ProvisionRequest:
        if not isinstance(serial_number, str) or not policy.is_identifier(serial_number):
            raise NotVerified("the serial number is malformed")
        found = await self._ledger.find_devices([Term("sn", Operator.IN, (serial_number,))], None, 0, 1)
        visible = await self._administration.visible(actor)
        if not found or (visible is not None and found[0].account_id not in visible):
            raise NotVerified("there is no such serial number")
        return found[0]

    async def _group(self, group_id: str) -> Group:
        found = await self._ledger.find_groups(group_id)
        if not found:
            raise NoGroup
        return found[0]

    async def _check_data(self, group: Group, data: Mapping[str, Any]) -> None:
        schema: Mapping[str, Datum] = {}
        if group.master_data_group is not None:
            found = await self._ledger.find_master_data_groups(group.master_data_group)
            if not found:
                raise NoGroup
            schema = found[0].schema
        try:
            check_data(data, schema)
        except DoesNotFit as error:
            raise NotVerified(str(error)) from None

    async def _hand_over(
        self, actor: Actor, request: ProvisionRequest, account: Account, record: Record, status: Status, now: Millis
    ) -> Device:
        text = _text(record)
        as_preparer = actor if actor.role is Role.ADMIN else replace(actor, role=Role.PREPARER)
        moved = await self._administration.move(as_preparer, request, account, {"record": text, "status": status}, now)
        return (await self._shown([moved]))[0]

    async def _note_refusal(self, actor: Actor, request: ProvisionRequest, problem: str, now: Millis) -> None:
        record = replace(record_of(request), allocate_error=problem)
        as_admin = replace(actor, role=Role.ADMIN)
        try:
            await self._administration.update_request(
                as_admin, request.id, request.optlock, {"record": _text(record)}, now
            )
        except Refused:
            return  # it was changed meanwhile: what is there is newer than this

    async def _shown(self, requests: Sequence[ProvisionRequest]) -> Sequence[Device]:
        times = await self._ledger.find_times([one.id for one in requests])
        return [_device(one, *times.get(one.id, (None, None))) for one in requests]


def _begins_anew(group: Group) -> bool:
    return group.reprovisioning is Reprovisioning.INITIALISE


def _text(record: Record) -> str:
    text = json.dumps(asdict(record), separators=(",", ":"), ensure_ascii=False)
    if len(text.encode()) > _LARGEST:
        raise NotVerified(f"the master data of a device must fit {_LARGEST} bytes")
    return text


def record_of(request: ProvisionRequest) -> Record:
    """What EnOS keeps of it. Raises `Forbidden`: it was registered behind another door."""
    if request.record is None:
        raise Forbidden("not-registered", "this request was not made by EnOS's door")
    return Record(**json.loads(request.record))


def _device(request: ProvisionRequest, confirmed_on: Millis | None, closed_on: Millis | None) -> Device:
    record = record_of(request)
    is_finished = current_status(request, record) == "finished"
    is_discarded = current_status(request, record) == "discarded"
    return Device(request, record, confirmed_on if is_finished else None, closed_on if is_discarded else None)


def current_status(request: ProvisionRequest, record: Record) -> str:
    """`currentStatus` (domain, table of phases)."""
    if request.phase in CLOSED:
        return "discarded"
    if record.allocated_on is None:
        return "created"
    if request.phase is Phase.PENDING:
        return "allocated" if request.status is Status.ENABLED else "created"
    return "connected" if request.proved_generation is None else "finished"


def allocate_status(record: Record) -> str:
    """`allocateStatus`."""
    return "init" if record.allocated_on is None else "allocated"


def connect_status(request: ProvisionRequest, record: Record) -> str:
    """`connectStatus`."""
    closed_unclaimed = request.phase is Phase.EXPIRED or request.start_on is None
    if record.allocated_on is None or request.phase is Phase.PENDING or closed_unclaimed:
        return "init"
    return "connected"


def is_reprovisioning(request: ProvisionRequest, record: Record) -> bool:
    """Whether it was allocated to another organisation and has not called in since."""
    return record.moved_at is not None and record.moved_at == request.generation
