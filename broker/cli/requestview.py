"""Provision requests as people read them at the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from broker.cli.client import Api
from broker.cli.output import emit
from broker.cli.times import moment

COLUMNS = {
    "id": "id",
    "client id": "clientId",
    "account": "account",
    "status": "status",
    "phase": "phase",
    "job": "job",
    "attempts": "attempts",
    "expires": "expires",
}
DETAILS = COLUMNS | {
    "activates": "activates",
    "provision user": "provisionUserUsername",
    "coupling": "provisionedCredentialsTight",
    "kind": "credentialKind",
    "confirm": "confirm",
    "generation": "generation",
    "serial number": "serialNumber",
    "MAC address": "macAddress",
    "device name": "deviceName",
    "tags": "tags",
    "location": "locationUid",
    "policy": "policyUid",
    "last refusal": "refusal",
    "created": "created",
    "modified": "modified",
    "activation key": "activationKey",
}


async def rows(api: Api, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Requests as people read them: account names, times of the day, one word a cell."""
    return [_row(one) for one in await api.with_names(found)]


def _row(request: dict[str, Any]) -> dict[str, Any]:
    job = request["provisionJob"]
    refusal = request.get("unsuccessfulRegisterAttemptStatus") or {}
    return request | {
        "job": job["status"],
        "attempts": f"{job['retryCount']} of {job['retryMaxAttempts']}",
        "activates": moment(request.get("activatesOn")),
        "expires": moment(request.get("expiresOn")),
        "created": moment(request["createdOn"]),
        "modified": moment(request["modifiedOn"]),
        "tags": " ".join(request["tagUids"]) or None,
        "refusal": " ".join(f"{name}={value}" for name, value in refusal.items()) or None,
    }


def print_request(row: dict[str, Any], columns: Mapping[str, str] = DETAILS) -> None:
    """One request, without the fields that it does not have."""
    emit(row, {heading: key for heading, key in columns.items() if row.get(key) is not None}, as_json=False)
