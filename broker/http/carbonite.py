"""ProvisionEntities, and imports: many devices in one call, a verdict for each (`provisioner.bulk` has the rules).

1. `/v2/provisionEntities` takes the seed's input and answers like its `BaseServiceResult`: `Success`, `Message`, and an
   `Element` for each row. What is wrong with a row is that row's `Info`; what is wrong with the call is told in that
   form, under its HTTP status (`manners`), and then no row was looked at.
2. `/v2/imports` is the same engine for files: a batch that can be undone, sent in pieces.
3. A row's cells are read one by one (`provisioner.elements`), so that one mistyped cell does not refuse the others.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from broker.http.bodies import MAX_NUMBER, Body, Digits, Text
from broker.http.calls import Asked
from broker.http.doors import Opened
from broker.http.entities import Entity
from broker.http.manners import PROVISION_ENTITIES
from provisioner.bulk import MOST_ROWS, Options
from provisioner.devices import Contact, Device, Group
from provisioner.elements import LONGEST, NOBODY, OURS, TEXTS
from provisioner.errors import Invalid, NotFound
from provisioner.model import ProvisionRequest
from provisioner.verdicts import RowStatus, Verdict

router = APIRouter(tags=["ProvisionEntities"])
IMPORTS = "/v2/imports"

_GUID = re.compile(r"[0-9A-Fa-f]{8}-?(?:[0-9A-Fa-f]{4}-?){3}[0-9A-Fa-f]{12}")
_SAID = {name: inside for name, inside in TEXTS.items() if name not in OURS}
Row = dict[str, Any]


def _uid(text: str | None) -> str | None:
    if text is None or text == NOBODY:
        return None
    if not _GUID.fullmatch(text):
        raise ValueError("must be a GUID")
    return text.replace("-", "").lower()


class ProvisionEntitiesInput(BaseModel):
    """The seed's input. A row's fields are those of the seed's ProvisionElement, and ours."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)

    HaltOnProvisioningError: bool = False
    ProceedOnValidationError: bool = False
    ValidateOnly: bool = False
    PartnerId: Annotated[str | None, Field(max_length=64), AfterValidator(_uid)] = None
    ProvisionElements: list[Row] = Field(max_length=MOST_ROWS)


class ProvisionElement(BaseModel):
    """A row as it is answered: what was said, and what became of it."""

    Id: int
    Status: RowStatus
    Info: str
    UserState: str
    Email: str | None
    FirstName: str | None
    LastName: str | None
    UserCustom1: str | None
    UserCustom2: str | None
    UserCustom3: str | None
    UserGroupState: str
    UserGroup: str | None
    CompanyState: str
    CompanyName: str | None
    DeviceState: str
    DeviceName: str | None
    DeviceId: str | None
    PolicyName: str | None
    CurrentStorageGB: int | None
    DeviceCustom1: str | None
    DeviceCustom2: str | None
    DeviceCustom3: str | None
    SendActivationEmail: bool | None
    Username: str | None
    ActivationCode: str | None
    ClientId: str | None
    SerialNumber: str | None
    MacAddress: str | None
    Brand: str | None
    Model: str | None


class ProvisionEntitiesResult(BaseModel):
    """The seed's result: an element for each row, in order."""

    Success: bool
    Message: str
    Element: list[ProvisionElement]


_ANSWERS: dict[int | str, dict[str, Any]] = {
    "default": {"model": ProvisionEntitiesResult, "description": "the same, with no `Element`: no row was looked at"}
}


@router.post(
    PROVISION_ENTITIES, response_model=ProvisionEntitiesResult, responses=_ANSWERS, summary="Add or change many devices"
)
async def provision_entities(call: Asked, doors: Opened, body: ProvisionEntitiesInput) -> Response:
    """One device for each element; see the flags. A row is done whole or not at all."""
    options = Options(body.HaltOnProvisioningError, body.ProceedOnValidationError, body.ValidateOnly)
    try:
        outcome = await doors.bulk.provision(call.actor, body.PartnerId, body.ProvisionElements, options, call.now)
    except NotFound as refusal:  # what is not there is a value of the body, not the path
        raise Invalid(refusal.code, refusal.detail, field="PartnerId") from None
    elements = [shown(verdict, row) for verdict, row in zip(outcome.verdicts, body.ProvisionElements, strict=True)]
    return _json({"Success": outcome.success, "Message": outcome.message, "Element": elements})


def shown(verdict: Verdict, row: Mapping[str, Any]) -> dict[str, object]:
    """A verdict as the seed's ProvisionElement; what could not be read is shown as it was sent, where it can be."""
    said = verdict.element
    if said is None:
        text = {name: _text_of(row.get(name)) for name in TEXTS}
    else:
        text = dict(zip(TEXTS, _TEXTS_OF(said), strict=True))
    return {
        "Id": verdict.number,
        "Status": verdict.status,
        "Info": verdict.info,
        "UserState": verdict.user_state,
        "Email": text["Email"],
        "FirstName": text["FirstName"],
        "LastName": text["LastName"],
        "UserCustom1": text["UserCustom1"],
        "UserCustom2": text["UserCustom2"],
        "UserCustom3": text["UserCustom3"],
        "UserGroupState": verdict.group_state,
        "UserGroup": text["UserGroup"],
        "CompanyState": verdict.company_state,
        "CompanyName": text["CompanyName"],
        "DeviceState": verdict.device_state,
        "DeviceName": verdict.device_name or text["DeviceName"],
        "DeviceId": verdict.device_id or text["DeviceId"],
        "PolicyName": text["PolicyName"],
        "CurrentStorageGB": None if said is None else said.current_storage_gb,
        "DeviceCustom1": text["DeviceCustom1"],
        "DeviceCustom2": text["DeviceCustom2"],
        "DeviceCustom3": text["DeviceCustom3"],
        "SendActivationEmail": None if said is None else said.send_activation_email,
        "Username": verdict.username,
        "ActivationCode": verdict.activation_code,
        "ClientId": verdict.client_id or text["ClientId"],
        "SerialNumber": text["SerialNumber"],
        "MacAddress": text["MacAddress"],
        "Brand": text["Brand"],
        "Model": text["Model"],
    }


_TEXTS_OF = attrgetter(*TEXTS.values())


def _text_of(value: object) -> str | None:
    return value if isinstance(value, str) and len(value) <= LONGEST and value.isprintable() else None


def _json(value: object) -> Response:
    return Response(json.dumps(value, ensure_ascii=False), media_type="application/json")


# -- imports -----------------------------------------------------------------------------------------------------------


class ImportCreator(Body):
    """A new import. `accountId`: under which account its companies are; absent: the token's."""

    name: Text
    account_id: int | None = Field(default=None, ge=0, le=MAX_NUMBER)


class Rows(Body):
    """A piece of an import, or of its dry run; `first` is the number of the first row."""

    rows: list[Row] = Field(max_length=MOST_ROWS)
    first: int = Field(default=1, ge=0, le=MAX_NUMBER)
    account_id: int | None = Field(default=None, ge=0, le=MAX_NUMBER)
    halt_on_error: bool = False
    update: bool = Field(default=False, description="change devices that are there already")


class ImportEntity(Entity):
    """An import; `rows`: those that could be undone."""

    id: int
    name: str
    account_id: int | None
    created_on: int
    created_by: int
    rows: int = 0


class ImportList(Entity):
    """The newest imports."""

    imported: list[ImportEntity] = Field(alias="import")


class RowList(Entity):
    """A verdict for each row."""

    success: bool
    message: str
    row: list[ProvisionElement]


class KeptRow(Entity):
    """A row that was not undone: its device claimed since, or was changed."""

    number: int
    device_id: str
    request_id: int


class UndoEntity(Entity):
    """A piece of an undoing; with `before`, call again with that."""

    undone: int
    kept: list[KeptRow]
    before: int | None


class DeviceList(Entity):
    """Devices by id; with `limitExceeded`, there are more behind the last."""

    limit_exceeded: bool
    device: list[dict[str, Any]]


ImportId = Annotated[int, Path(ge=0, le=MAX_NUMBER), Digits]
_After = Annotated[str, Query(max_length=64, description="only devices behind this DeviceId")]
_Limit = Annotated[int, Query(ge=1, le=1000), Digits]


@router.post(IMPORTS, status_code=201, summary="Begin an import")
async def create_import(call: Asked, doors: Opened, body: ImportCreator) -> ImportEntity:
    """It has no rows yet."""
    batch = await doors.batches.create(call.actor, body.name, body.account_id, call.now)
    return ImportEntity(**batch._asdict())


@router.get(IMPORTS, summary="List imports")
async def list_imports(call: Asked, doors: Opened) -> ImportList:
    """Newest first."""
    found = await doors.batches.list(call.actor)
    return ImportList(imported=[ImportEntity(**batch._asdict(), rows=rows) for batch, rows in found])


@router.post(f"{IMPORTS}/check", response_model=RowList, summary="Try rows without importing them")
async def check_rows(call: Asked, doors: Opened, body: Rows) -> Response:
    """A dry run: a verdict for each row, and nothing is changed."""
    return await _rows(call, doors, body, None)


@router.post(f"{IMPORTS}/{{import_id}}/rows", response_model=RowList, summary="Import rows")
async def import_rows(call: Asked, doors: Opened, import_id: ImportId, body: Rows) -> Response:
    """Valid rows are provisioned, whatever is wrong with others, unless `haltOnError`."""
    return await _rows(call, doors, body, import_id)


async def _rows(call: Asked, doors: Opened, body: Rows, import_id: int | None) -> Response:
    batch = None if import_id is None else await doors.batches.get(call.actor, import_id)
    if batch is not None and body.account_id not in (None, batch.account_id):
        raise Invalid("other-account", "this import is of another account", field="accountId")
    options = Options(
        halt_on_provisioning_error=body.halt_on_error,
        proceed_on_validation_error=not body.halt_on_error,
        validate_only=batch is None,
        may_update=body.update,
        needs_email=False,
    )
    partner = body.account_id if batch is None else batch.account_id
    outcome = await doors.bulk.provision(
        call.actor, partner, body.rows, options, call.now, batch=batch, first=body.first
    )
    told = [shown(verdict, row) for verdict, row in zip(outcome.verdicts, body.rows, strict=True)]
    return _json({"success": outcome.success, "message": outcome.message, "row": told})


@router.post(f"{IMPORTS}/{{import_id}}/undo", summary="Take an import back")
async def undo_import(
    call: Asked,
    doors: Opened,
    import_id: ImportId,
    before: Annotated[int, Query(ge=0, le=MAX_NUMBER, description="rows in front of this number"), Digits] = MAX_NUMBER,
) -> UndoEntity:
    """Some hundred rows at a time, the last first. Devices that claimed, or were changed since, stay."""
    found = await doors.batches.undo(call.actor, import_id, before, call.now)
    kept = [KeptRow(number=row.number, device_id=row.device_id, request_id=row.request_id) for row in found.kept]
    return UndoEntity(undone=found.undone, kept=kept, before=found.before)


@router.get(f"{IMPORTS}/{{import_id}}/devices", summary="Devices of an import")
async def import_devices(
    call: Asked, doors: Opened, import_id: ImportId, after: _After = "", limit: _Limit = 1000
) -> DeviceList:
    """As rows that could be imported again; without activation codes."""
    return _page(await doors.batches.devices(call.actor, import_id, after, limit + 1), limit)


@router.get("/v2/devices", summary="Devices that were imported")
async def list_devices(call: Asked, doors: Opened, after: _After = "", limit: _Limit = 1000) -> DeviceList:
    """As rows that could be imported again; without activation codes."""
    return _page(await doors.batches.devices(call.actor, None, after, limit + 1), limit)


def _page(found: Sequence[tuple[Device, ProvisionRequest, Group, Contact | None]], limit: int) -> DeviceList:
    return DeviceList(limit_exceeded=len(found) > limit, device=[_exported(*one) for one in found[:limit]])


def _exported(device: Device, request: ProvisionRequest, group: Group, contact: Contact | None) -> dict[str, object]:
    person = contact or Contact(0, 0, "")
    return {
        "Email": person.email,
        "FirstName": person.first_name,
        "LastName": person.last_name,
        "UserCustom1": person.custom1,
        "UserCustom2": person.custom2,
        "UserCustom3": person.custom3,
        "UserGroup": group.name,
        "CompanyName": request.account_name,
        "DeviceName": request.device_name,
        "DeviceId": device.device_id,
        "PolicyName": device.policy_name,
        "CurrentStorageGB": device.storage_gb,
        "DeviceCustom1": device.custom1,
        "DeviceCustom2": device.custom2,
        "DeviceCustom3": device.custom3,
        "ClientId": request.client_id,
        "SerialNumber": request.facts.serial_number,
        "MacAddress": request.facts.mac_address,
        "Brand": request.facts.brand,
        "Model": request.facts.model,
        "Phase": request.phase.value,
    }
