"""EnOS's device provisioning API: `/dps-service/v2.5/pvs/device`, and what its console does under `/v2/dps`.

1. The verb is the query's `action`: `allocate create search reset replace` with POST, `get` with GET.
2. Bodies are read as they come: what is missing, mistyped or unknown is answered with EnOS's codes (`enosanswers`).
3. `orgId` is the name of a TARGET account, or its uid or id.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field
from starlette.exceptions import HTTPException

from broker.http.bodies import MAX_NUMBER, Creator, Id, Text, Uid, Word
from broker.http.calls import Asked, Call
from broker.http.doors import Opened
from broker.http.enosanswers import PREFIX, refused, told
from broker.http.entities import Entity
from provisioner.dps import (
    MOST_CREATED,
    Device,
    Dps,
    Group,
    MasterDataGroup,
    NoOrganization,
    NotVerified,
    Registration,
    Reprovisioning,
    allocate_status,
    connect_status,
    current_status,
    is_reprovisioning,
)
from provisioner.errors import Conflict, Invalid, NotFound
from provisioner.expressions import Malformed, parse_expression
from provisioner.masterdata import DataType

router = APIRouter(tags=["EnOS"])

PATH = f"{PREFIX}v2.5/pvs/device"
MOST_FOUND = 1000

_ANSWER: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "`code` 0 and `data`, or one of EnOS's codes: 35400, 35404, 35601 …",
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["code", "msg", "requestId", "data"],
                    "properties": {
                        "code": {"type": "integer"},
                        "msg": {"type": "string"},
                        "requestId": {"type": "string"},
                        "data": {},
                    },
                }
            }
        },
    },
    "default": {"description": "the same form, with 99 and the HTTP status as its `code`"},
}
_BODY = {"requestBody": {"content": {"application/json": {"schema": {"type": "object"}}}}}

OrgId = Annotated[str | None, Query(alias="orgId", max_length=255)]
Said = dict[str, Any]
Verb = Callable[[Call, Dps, str | None, Said], Awaitable[Response]]


# -- devices -----------------------------------------------------------------------------------------------------------


@router.post(PATH, responses=_ANSWER, openapi_extra=_BODY, summary="Register, allocate, search, reset, replace")
async def act_on_devices(
    request: Request, call: Asked, doors: Opened, action: Annotated[str, Query()], org_id: OrgId = None
) -> Response:
    """`action` says what: `allocate`, `create`, `search`, `reset` or `replace`."""
    verb = _VERBS.get(action)
    if verb is None:
        raise Invalid("unknown-action", f"action must be one of {', '.join(_VERBS)}", field="action")
    body = await request.body()
    said = json.loads(body) if body else {}
    if not isinstance(said, dict):
        raise Invalid("invalid", "send a JSON object as the body")
    return await verb(call, doors.dps, org_id, said)


@router.get(PATH, responses=_ANSWER, summary="Show a device")
async def get_device(
    call: Asked,
    doors: Opened,
    action: Annotated[str, Query()],
    org_id: OrgId = None,
    sn: Annotated[str | None, Query(max_length=255)] = None,
) -> Response:
    """`action` is `get`."""
    if action != "get":
        raise HTTPException(405)
    if not sn or not sn.strip():
        raise NoOrganization
    return told(_device(await doors.dps.get(call.actor, org_id, sn)))


async def _allocate(call: Call, dps: Dps, org_id: str | None, said: Said) -> Response:
    data = said.get("deviceData")
    if said.keys() - {"sn", "deviceData"} or not isinstance(data, dict | None):
        await dps.organization(call.actor, org_id)
        raise NotVerified("the body has sn and deviceData, an object")
    return told(_device(await dps.allocate(call.actor, org_id, said.get("sn"), data or {}, call.now)))


async def _create(call: Call, dps: Dps, org_id: str | None, said: Said) -> Response:
    group_id, count = said.get("groupId"), said.get("count")
    if unknown := said.keys() - {"groupId", "count", "desc", "batchTag", "deviceData"}:
        return refused(99400, _unknown(unknown))
    if not isinstance(group_id, str) or not group_id.strip():
        return refused(99400, "Invalid Argument groupId:groupId is missing")
    if count is None:
        return refused(99400, "Invalid Argument count:count is missing")
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MOST_CREATED:
        return refused(99400, f"count of PvsDeviceCreateInfo must between 1 to {MOST_CREATED}")
    data, tag, description = said.get("deviceData"), said.get("batchTag"), said.get("desc")
    if not isinstance(data, dict | None) or not isinstance(tag, dict | None) or not isinstance(description, str | None):
        return refused(99400, "Invalid Argument: desc is a text, batchTag and deviceData are objects")
    new = Registration(count, description or "", tag, data or {})
    return told(list(await dps.create(call.actor, org_id, group_id, new, call.now)))


async def _search(call: Call, dps: Dps, org_id: str | None, said: Said) -> Response:
    page = said.get("pagination") or {}
    if unknown := said.keys() - {"expression", "pagination"}:
        return refused(99400, _unknown(unknown))
    expression = said.get("expression")
    if not isinstance(expression, str) or not isinstance(page, dict):
        return refused(99400, "Invalid Argument expression:expression is missing")
    number, size = page.get("pageNo", 1), page.get("pageSize", 10)
    if not _is_count(number, MAX_NUMBER // MOST_FOUND) or not _is_count(size, MOST_FOUND):
        return refused(99400, f"Invalid Argument pagination: pageNo from 1, pageSize from 1 to {MOST_FOUND}")
    try:
        wanted = parse_expression(expression)
    except Malformed as error:
        return refused(99400, f"Invalid Argument expression: {error}")
    found, more = await dps.search(call.actor, org_id, wanted, (number - 1) * size, size)
    return told({"items": [_device(one) for one in found], "pageNo": number, "pageSize": size, "hasMore": more})


async def _reset(call: Call, dps: Dps, org_id: str | None, said: Said) -> Response:
    if not said.get("sn") or said.keys() - {"sn"}:
        raise NoOrganization
    return told(_device(await dps.reset(call.actor, org_id, said["sn"], call.now)))


async def _replace(call: Call, dps: Dps, org_id: str | None, said: Said) -> Response:
    if not said.get("sn") or not said.get("replacementSn") or said.keys() - {"sn", "replacementSn"}:
        raise NoOrganization
    try:
        return told(_device(await dps.replace(call.actor, org_id, said["sn"], said["replacementSn"], call.now)))
    except NotFound as error:
        return refused(35404, error.detail)
    except Invalid as error:
        return refused(35400, error.detail)
    except Conflict as error:
        if error.code != "allocated":
            raise
        return refused(35603, error.detail)


_VERBS: dict[str, Verb] = {
    "allocate": _allocate,
    "create": _create,
    "search": _search,
    "reset": _reset,
    "replace": _replace,
}


def _unknown(names: Iterable[str]) -> str:
    return f"Invalid Argument {ascii(min(names)[:64])[1:-1]}: it is unknown"


def _is_count(value: object, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def _device(device: Device) -> dict[str, Any]:
    """EnOS's PvsDevice."""
    request, record = device.request, device.record
    return {
        "sn": request.client_id,
        "groupId": record.group_id,
        "regionId": record.region_id,
        "orgId": request.account_name,
        "productKey": record.product_key,
        "batchOrder": record.batch_order,
        "batchTag": record.batch_tag,
        "deviceData": record.data,
        "desc": record.description,
        "status": {
            "currentStatus": current_status(request, record),
            "connectedTime": request.start_on if record.allocated_on is not None else None,
            "allocatedTime": record.allocated_on,
            "finishedTime": device.finished_on,
            "discardedTime": device.discarded_on,
        },
        "reprovisioning": is_reprovisioning(request, record),
        "allocateErrorMsg": record.allocate_error,
        "createBy": str(request.created_by),
        "createTime": request.created_on,
        "updateBy": str(request.modified_by),
        "updateTime": request.modified_on,
        "manufacturerOrgId": record.home,
        "connectStatus": connect_status(request, record),
        "allocateStatus": allocate_status(record),
    }


# -- groups ------------------------------------------------------------------------------------------------------------


class DatumForm(Creator):
    """An identifier of a schema."""

    type: Annotated[DataType, Word]
    options: list[Text] = Field(default_factory=list, max_length=64, description="words of an Enum")


class MasterDataGroupCreator(Creator):
    """A schema of master data."""

    account_id: Id
    name: Text
    # A field `schema` would hide a method of pydantic's.
    identifiers: dict[str, DatumForm] = Field(default_factory=dict, alias="schema", max_length=256)


class GroupCreator(Creator):
    """A registration group; its policy names the provision user."""

    account_id: Id
    name: Text
    policy_uid: Uid
    master_data_group_id: Uid | None = None
    product_key: Text
    region_id: Text
    reprovisioning: Annotated[Reprovisioning, Word] = Reprovisioning.UNSUPPORTED


class DatumEntity(Entity):
    """An identifier of a schema."""

    type: DataType
    options: list[str]


class MasterDataGroupEntity(Entity):
    """A schema of master data, without what is built in."""

    id: str
    account_id: int
    name: str
    identifiers: dict[str, DatumEntity] = Field(alias="schema")


class GroupEntity(Entity):
    """A registration group."""

    group_id: str
    account_id: int
    name: str
    policy_uid: str
    master_data_group_id: str | None
    product_key: str
    region_id: str
    reprovisioning: Reprovisioning


class GroupList(Entity):
    """The groups of the accounts that an operator sees."""

    group: list[GroupEntity]
    master_data_group: list[MasterDataGroupEntity]


def _group_entity(group: Group) -> GroupEntity:
    return GroupEntity(
        group_id=group.id,
        account_id=group.account_id,
        name=group.name,
        policy_uid=group.policy_uid,
        master_data_group_id=group.master_data_group,
        product_key=group.product_key,
        region_id=group.region_id,
        reprovisioning=group.reprovisioning,
    )


def _schema_entity(group: MasterDataGroup) -> MasterDataGroupEntity:
    schema = {name: DatumEntity(type=one.type, options=list(one.options)) for name, one in group.schema.items()}
    return MasterDataGroupEntity(id=group.id, account_id=group.account_id, name=group.name, identifiers=schema)


@router.post(
    "/v2/dps/masterDataGroups",
    status_code=201,
    response_model_exclude_none=True,
    summary="Create a schema of master data",
)
async def create_master_data_group(call: Asked, doors: Opened, body: MasterDataGroupCreator) -> MasterDataGroupEntity:
    """Its identifiers come beside those that are built in."""
    said = {name: {"type": one.type, "options": one.options} for name, one in body.identifiers.items()}
    return _schema_entity(
        await doors.dps.create_master_data_group(call.actor, body.account_id, body.name, said, call.now)
    )


@router.post("/v2/dps/groups", status_code=201, response_model_exclude_none=True, summary="Create a registration group")
async def create_group(call: Asked, doors: Opened, body: GroupCreator) -> GroupEntity:
    """What is common to the devices that are registered in it."""
    new = Group(
        id="",
        account_id=0,
        name=body.name,
        master_data_group=body.master_data_group_id,
        product_key=body.product_key,
        region_id=body.region_id,
        policy_uid=body.policy_uid,
        reprovisioning=body.reprovisioning,
    )
    return _group_entity(await doors.dps.create_group(call.actor, body.account_id, new, call.now))


@router.get("/v2/dps/groups", response_model_exclude_none=True, summary="List groups")
async def list_groups(call: Asked, doors: Opened) -> GroupList:
    """Of both kinds."""
    groups, schemas = await doors.dps.list_groups(call.actor)
    return GroupList(
        group=[_group_entity(one) for one in groups], master_data_group=[_schema_entity(one) for one in schemas]
    )


@router.delete("/v2/dps/groups/{group_id}", status_code=204, summary="Delete a group")
async def delete_group(call: Asked, doors: Opened, group_id: Uid) -> None:
    """Of either kind; its devices are allocated no more (35404)."""
    await doors.dps.delete_group(call.actor, group_id, call.now)
