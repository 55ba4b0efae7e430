"""Exosite's provisioning API: `/provision/activate` for devices, `/provision/manage/model/` for vendors.

1. A device gets one of four answers: 200 and its CIK as text; 403 wrong vendor and model; 404 unknown serial number;
   409 not enabled, expired or activated already. What is missing, doubled or malformed is unknown. Besides, as of any
   HTTP server: 413, 426 (no TLS), 429 (too many guesses), 503 (later), the last two with `Retry-After`.
2. Answers are text and CSV, as Exosite's are; what went wrong is a sentence (`manners`). What was done is 205 without a
   body.
3. A vendor is an account: that of the token, or the one that the header `X-Exosite-Vendor` names.
"""

from __future__ import annotations

import csv
import io
import ipaddress
from collections.abc import Mapping
from typing import Annotated, Any
from urllib.parse import parse_qsl

from fastapi import APIRouter, Header, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from broker.http.bodies import Digits, Number
from broker.http.calls import Asked
from broker.http.doors import Doors, Opened
from broker.http.gate import ACTIVATE, check_json
from provisioner.errors import Invalid, Rejected
from provisioner.model import Origin
from provisioner.policy import iso
from provisioner.ranges import SerialRange, parse_range
from provisioner.serials import MOST_RANGES, Model, NotActivatable, SerialState, UnknownModel, UnknownSerial

_FAILURE: dict[int | str, dict[str, Any]] = {
    "default": {"description": "a sentence", "content": {"text/plain": {"schema": {"type": "string"}}}}
}
router = APIRouter(tags=["Exosite"], responses=_FAILURE)

MANAGE = "/provision/manage/model"
_CSV = "text/csv; charset=utf-8"
_FORM = "application/x-www-form-urlencoded"
_MOST_FIELDS = 20_000
_LONGEST_FIELD = 256

Vendor = Annotated[str | None, Header(alias="X-Exosite-Vendor", max_length=255)]
Offset = Annotated[int, Query(ge=0, le=2**53 - 1), Digits]
Limit = Annotated[int, Query(ge=1, le=1000), Digits]


def _form_of(**fields: str) -> dict[str, Any]:
    """How a form is described in OpenAPI."""
    properties = {name: {"type": "string", "description": text} for name, text in fields.items()}
    return {
        "requestBody": {"content": {_FORM: {"schema": {"type": "object", "properties": properties}}}, "required": True}
    }


_ACTIVATION = _form_of(vendor="name of the vendor", model="name of the model", sn="serial number")
_TEXTS: dict[int | str, dict[str, Any]] = {
    200: {"description": "the CIK: 40 hex characters", "content": {"text/plain": {"schema": {"type": "string"}}}},
    403: {"description": "the vendor and model pair is invalid"},
    404: {"description": "the serial number is unknown"},
    409: {"description": "not enabled, expired, or activated already"},
    426: {"description": "use HTTPS"},
    429: {"description": "too many unknown serial numbers; see `Retry-After`"},
}


# -- for devices -------------------------------------------------------------------------------------------------------


@router.post(ACTIVATE, responses=_TEXTS, openapi_extra=_ACTIVATION, summary="Activate a device")
async def activate(request: Request, doors: Opened) -> Response:
    """Needs no token: the serial number of an enabled device, within a day, once."""
    origin = _origin(request)
    if not (origin.secure or doors.allow_plain_without_tls):
        return _text(426, "Use HTTPS: the answer is a secret.", upgrade="TLS/1.2", connection="Upgrade")
    form = _activation_form(await request.body(), request.headers.get("content-type", ""))
    vendor, model, serial_number = (form.get(name, "") for name in ("vendor", "model", "sn"))
    try:
        secret = await doors.serials.activate(vendor, model, serial_number, origin, request.app.state.clock())
    except UnknownModel:
        return _text(403, "The vendor and model pair is invalid.")
    except UnknownSerial:
        return _text(404, "The serial number is unknown.")
    except NotActivatable:
        return _text(409, "The device is not enabled, its time is over, or it was activated already.")
    except Rejected as refusal:
        status = 429 if refusal.reason.code == 429 else 503
        return _text(status, "Come again later.", **{"retry-after": str(refusal.retry_after or 5)})
    return _text(200, secret.reveal())


def _origin(request: Request) -> Origin:
    host, port = (request.client.host, request.client.port) if request.client else ("", 0)
    tls = request.url.scheme == "https"
    return Origin(host, port, secure=tls or _is_loopback(host), tls=tls)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _activation_form(body: bytes, media_type: str) -> Mapping[str, str]:
    """Fields that are there once; of anything that is no form, none."""
    if media_type.partition(";")[0].strip().lower() != _FORM:
        return {}
    try:
        pairs = _pairs(body, 20)
    except Invalid:
        return {}
    names = [name for name, _ in pairs]
    return {name: value for name, value in pairs if names.count(name) == 1}


def _pairs(body: bytes, most: int) -> list[tuple[str, str]]:
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=most)
    except ValueError:
        raise Invalid("malformed-form", f"send a form in UTF-8 with at most {most} fields") from None
    if any(len(name) > _LONGEST_FIELD or len(value) > _LONGEST_FIELD for name, value in pairs):
        raise Invalid("malformed-form", f"a field of this form has at most {_LONGEST_FIELD} characters")
    return pairs


def _text(status: int, text: str = "", **headers: str) -> Response:
    return Response(text, status, headers, media_type="text/plain; charset=utf-8")


# -- for vendors -------------------------------------------------------------------------------------------------------


class _Range(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)

    format: str = Field(max_length=16)
    length: Number | None = None
    casing: str | None = Field(default=None, max_length=16)
    first: Number
    last: Number

    def inside(self, at: int) -> SerialRange:
        try:
            return parse_range(self.format, self.length, self.casing, self.first, self.last, f"ranges.{at}")
        except Invalid as refusal:  # the answer is text alone, so the text says where
            raise Invalid(refusal.code, f"`{refusal.field}`: {refusal.detail}", field=refusal.field) from None


class _Ranges(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)

    ranges: list[_Range] = Field(max_length=MOST_RANGES)


async def _model(call: Asked, doors: Doors, named: str | None, name: str) -> Model:
    vendor = await doors.serials.vendor(call.actor, named)
    return await doors.serials.get_model(vendor, name)


@router.get(f"{MANAGE}/", summary="List the vendor's models")
async def list_models(call: Asked, doors: Opened, vendor: Vendor = None) -> Response:
    """A name a line."""
    models = await doors.serials.list_models(await doors.serials.vendor(call.actor, vendor))
    return _table([model.name] for model in models)


@router.post(
    f"{MANAGE}/",
    status_code=205,
    openapi_extra=_form_of(model="name of the new model", user="provision user of its requests; absent: the oldest"),
    summary="Create a model",
)
async def create_model(call: Asked, doors: Opened, request: Request, vendor: Vendor = None) -> Response:
    """409 where the vendor has one of that name. Exosite's `rid` and `options[]` are read over."""
    form = _fields(await request.body(), {"model", "user", "rid", "options[]"})
    if not form.get("model"):
        raise Invalid("no-model", "give the name of the model", field="model")
    account = await doors.serials.vendor(call.actor, vendor)
    await doors.serials.create_model(call.actor, account, form["model"], form.get("user"), call.now)
    return Response(status_code=205)


@router.delete(f"{MANAGE}/{{model}}", status_code=205, summary="Delete a model")
async def delete_model(call: Asked, doors: Opened, model: str, vendor: Vendor = None) -> Response:
    """With its serial numbers, which can activate no more; devices that did go on working."""
    await doors.serials.delete_model(call.actor, await _model(call, doors, vendor, model), call.now)
    return Response(status_code=205)


@router.get(f"{MANAGE}/{{model}}/", summary="List serial numbers of a model")
async def list_serials(
    call: Asked,
    doors: Opened,
    model: str,
    vendor: Vendor = None,
    show: Annotated[str | None, Query(max_length=16, description="`ranges`: those instead, as JSON")] = None,
    offset: Offset = 0,
    limit: Limit = 1000,
) -> Response:
    """Single ones: serial number, request id (empty: never enabled) and extra text a line."""
    found = await _model(call, doors, vendor, model)
    if show == "ranges":
        ranges = [_range_entity(one) for one in await doors.serials.list_ranges(found)]
        return Response(_Shown(ranges=ranges).model_dump_json(exclude_none=True), media_type="application/json")
    if show is not None:
        raise Invalid("invalid-show", "show must be ranges here, or absent", field="show")
    page = await doors.serials.list_serials(found, offset, limit, call.now)
    return _table([one.serial_number, _rid(one), one.extra] for one in page)


@router.post(
    f"{MANAGE}/{{model}}/",
    status_code=205,
    openapi_extra=_form_of(sn="serial number (or `sn[]`, repeated)", extra="text beside it", delete="true: remove"),
    summary="Add serial numbers to a model, or remove them",
)
async def change_serials(call: Asked, doors: Opened, model: str, request: Request, vendor: Vendor = None) -> Response:
    """A form, CSV (serial number, extra text), or JSON with `ranges`. All are added, or none and 409."""
    found = await _model(call, doors, vendor, model)
    body, kind = await request.body(), _media_type(request)
    if kind == _FORM:
        pairs = _pairs(body, _MOST_FIELDS)
        fields = _fields(body, {"sn", "sn[]", "extra", "delete"})
        numbers = [value for name, value in pairs if name in ("sn", "sn[]")]
        if fields.get("delete", "true") != "true":
            raise Invalid("invalid-delete", "delete must be true, or absent", field="delete")
        if not numbers:
            raise Invalid("no-serial", "give sn, or sn[] for each of several", field="sn")
        if "delete" in fields:
            await doors.serials.remove(call.actor, found, numbers, (), call.now)
        else:
            serials = [(number, fields.get("extra", "")) for number in numbers]
            await doors.serials.add(call.actor, found, serials, (), call.now)
        return Response(status_code=205)
    serials, ranges = _serials(body, kind)
    await doors.serials.add(call.actor, found, serials, ranges, call.now)
    return Response(status_code=205)


@router.delete(f"{MANAGE}/{{model}}/", status_code=205, summary="Remove serial numbers from a model")
async def remove_serials(call: Asked, doors: Opened, model: str, request: Request, vendor: Vendor = None) -> Response:
    """CSV with a serial number a line, or JSON with `ranges`."""
    found = await _model(call, doors, vendor, model)
    serials, ranges = _serials(await request.body(), _media_type(request))
    await doors.serials.remove(call.actor, found, [number for number, _ in serials], ranges, call.now)
    return Response(status_code=205)


@router.get(f"{MANAGE}/{{model}}/{{sn}}", summary="Show a serial number")
async def get_serial(
    call: Asked,
    doors: Opened,
    model: str,
    sn: str,
    vendor: Vendor = None,
    show: Annotated[str | None, Query(max_length=16, description="`log`: the activation log instead")] = None,
) -> Response:
    """Its state, request id and extra text; 204: never enabled. `show=log`: time, address, what happened."""
    found = await _model(call, doors, vendor, model)
    if show == "log":
        entries = await doors.serials.log(call.actor, found, sn, call.now)
        lines = [
            (iso(entry.line.at), entry.line.source, _told(entry.line.action, entry.line.cause)) for entry in entries
        ]
        return _table(lines) if lines else Response(status_code=204)
    if show is not None:
        raise Invalid("invalid-show", "show must be log here, or absent", field="show")
    state = await doors.serials.get(found, sn, call.now)
    if state.request is None:
        return Response(status_code=204)
    return _table([[state.standing.value, _rid(state), state.extra]])


@router.post(
    f"{MANAGE}/{{model}}/{{sn}}",
    openapi_extra=_form_of(
        enable="true: let it activate within 24 hours",
        owner="with enable: the vendor, by name",
        oldsn="with enable: the serial number whose place it takes",
        disable="true: take its credential away",
    ),
    responses={205: {"description": "done"}},
    summary="Enable, remap or disable a serial number",
)
async def change_serial(
    call: Asked, doors: Opened, model: str, sn: str, request: Request, vendor: Vendor = None
) -> Response:
    """`enable=true&owner=…` answers 200 and the id of its request; the others 205."""
    form = _fields(await request.body(), {"enable", "owner", "oldsn", "disable"})
    found = await _model(call, doors, vendor, model)
    match form:
        case {"disable": "true", **rest} if not rest:
            await doors.serials.disable(call.actor, found, sn, call.now)
        case {"enable": "true", "oldsn": former, **rest} if not rest:
            await doors.serials.remap(call.actor, found, sn, former, call.now)
        case {"enable": "true", "owner": owner, **rest} if not rest:
            if owner not in ("", found.vendor):
                raise Invalid("invalid-owner", "owner must be the vendor's own name", field="owner")
            enabled = await doors.serials.enable(call.actor, found, sn, call.now)
            return _table([[str(enabled.id)]])
        case {"enable": "true", **rest} if not rest:
            await doors.serials.enable(call.actor, found, sn, call.now)
        case _:
            raise Invalid("invalid-verb", "send enable=true, with owner or oldsn or neither, or disable=true")
    return Response(status_code=205)


@router.delete(f"{MANAGE}/{{model}}/{{sn}}", status_code=205, summary="Remove a serial number")
async def remove_serial(call: Asked, doors: Opened, model: str, sn: str, vendor: Vendor = None) -> Response:
    """It can activate no more; a credential that it has stays."""
    found = await _model(call, doors, vendor, model)
    await doors.serials.remove(call.actor, found, [sn], (), call.now)
    return Response(status_code=205)


# -- shared ------------------------------------------------------------------------------------------------------------


class _Shown(BaseModel):
    ranges: list[dict[str, object]]


def _range_entity(one: SerialRange) -> dict[str, object]:
    told: dict[str, object] = {"format": one.format.value}
    if one.format.value.startswith("base"):
        told["length"] = one.length
    if one.format.value != "base10":
        told["casing"] = one.casing.value
    return told | {"first": one.first, "last": one.last}


def _fields(body: bytes, known: set[str]) -> dict[str, str]:
    """A form's fields, the last of repeated ones. Raises `Invalid` for a field that the call does not have."""
    fields = dict(_pairs(body, _MOST_FIELDS))
    if unknown := sorted(set(fields) - known):
        shown = ascii(unknown[0][:64])[1:-1]
        raise Invalid("unknown-field", f"{shown} is no field of this call; leave it out", field=shown)
    return fields


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _serials(body: bytes, kind: str) -> tuple[list[tuple[str, str]], list[SerialRange]]:
    """Serial numbers with the text beside each, or ranges, as the media type says."""
    if kind == "text/csv":
        return _csv(body), []
    if kind in ("application/javascript", "application/json"):
        check_json(body)
        try:
            sent = _Ranges.model_validate_json(body)
        except ValidationError as error:
            where = ".".join(str(part) for part in error.errors()[0]["loc"])
            raise Invalid("invalid", f"`{where}`: {error.errors()[0]['msg'].lower()}", field=where) from None
        return [], [one.inside(at) for at, one in enumerate(sent.ranges)]
    raise Invalid("unsupported-media-type", f"send {_FORM}, text/csv, or application/json with ranges")


def _csv(body: bytes) -> list[tuple[str, str]]:
    try:
        rows = [row for row in csv.reader(io.StringIO(body.decode("utf-8-sig"), newline=""), strict=True) if row]
    except (UnicodeDecodeError, csv.Error):
        raise Invalid("malformed-csv", "send CSV in UTF-8: a serial number and its extra text a line") from None
    for number, row in enumerate(rows, start=1):
        if len(row) > 2:
            raise Invalid("malformed-csv", f"line {number} has more than a serial number and its extra text")
    return [(row[0].strip(), row[1].strip() if len(row) > 1 else "") for row in rows]


def _table(rows: Any) -> Response:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return Response(text.getvalue(), media_type=_CSV)


def _rid(state: SerialState) -> str:
    return "" if state.request is None else str(state.request.id)


def _told(action: str, cause: str) -> str:
    return f"{action}: {cause}" if cause else action
