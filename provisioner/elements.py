"""Rows of ProvisionEntities and of imports, as they were sent: one device each.

1. Names are the seed's. What the seed gives out only (`Status`, `Info`, `…State`, `ActivationCode`) is not looked at.
2. None leaves a value as it is, an empty text blanks it; where the seed gives an empty text a meaning, `rowplans` does.
3. A value of the wrong type or length is an error of its row alone: `parse_element` raises `Invalid` for it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from provisioner.errors import Invalid
from provisioner.policy import is_identifier, normal_mac

NOBODY = "00000000-0000-0000-0000-000000000000"
"""`Guid.Empty`: a new device."""

_GUID = re.compile(r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
_EMAIL = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){0,8}")
"""What an HTML form takes for an e-mail address, bounded; no quoted local parts, no address literals."""

LONGEST = 255
_MOST_GB = 2**31 - 1
"""The seed's `int`."""


class Element(NamedTuple):
    """One row as it was sent. None: not said. A tuple: a frozen dataclass takes three times as long to make."""

    email: str | None = None
    first_name: str | None = None
    last_name: str | None = None
    user_custom1: str | None = None
    user_custom2: str | None = None
    user_custom3: str | None = None
    user_group: str | None = None
    company_name: str | None = None
    device_name: str | None = None
    device_id: str | None = None
    policy_name: str | None = None
    current_storage_gb: int | None = None
    device_custom1: str | None = None
    device_custom2: str | None = None
    device_custom3: str | None = None
    send_activation_email: bool | None = None
    client_id: str | None = None
    serial_number: str | None = None
    mac_address: str | None = None
    brand: str | None = None
    model: str | None = None

    @property
    def is_new(self) -> bool:
        """Whether a new device is asked for."""
        return self.device_id == NOBODY


TEXTS = {
    "Email": "email",
    "FirstName": "first_name",
    "LastName": "last_name",
    "UserCustom1": "user_custom1",
    "UserCustom2": "user_custom2",
    "UserCustom3": "user_custom3",
    "UserGroup": "user_group",
    "CompanyName": "company_name",
    "DeviceName": "device_name",
    "DeviceId": "device_id",
    "PolicyName": "policy_name",
    "DeviceCustom1": "device_custom1",
    "DeviceCustom2": "device_custom2",
    "DeviceCustom3": "device_custom3",
    "ClientId": "client_id",
    "SerialNumber": "serial_number",
    "MacAddress": "mac_address",
    "Brand": "brand",
    "Model": "model",
}
"""Fields of the seed, and ours behind `DeviceCustom3`, by the names inside."""

OURS = ("ClientId", "SerialNumber", "MacAddress", "Brand", "Model")
"""Fields that the seed does not have; without `ClientId` a device's client id is its `DeviceId`."""

ANSWERED = (
    "Id", "Status", "Info", "UserState", "UserGroupState", "CompanyState", "DeviceState", "Username",
    "ActivationCode",
)  # fmt: skip
"""Fields that are given out only. `Id` is the number of the row."""

_REQUIRED = {
    "UserGroup": "user_group",
    "CompanyName": "company_name",
    "DeviceId": "device_id",
    "PolicyName": "policy_name",
    "SendActivationEmail": "send_activation_email",
}


def parse_element(row: Mapping[str, object], *, needs_email: bool = True) -> Element:
    """A row, its values within their types and bounds. Raises `Invalid`, which names the field."""
    said: dict[str, object] = {}
    for name, value in row.items():
        inside = TEXTS.get(name)
        if inside is not None:
            if value is not None:
                said[inside] = _text(name, value)
        elif name == "CurrentStorageGB":
            said["current_storage_gb"] = _storage(value)
        elif name == "SendActivationEmail":
            said["send_activation_email"] = _flag(value)
        elif name not in ANSWERED:
            shown = ascii(str(name)[:32])[1:-1]
            raise Invalid("unknown-field", f"{shown} is no field of a row; leave it out", field=shown)
    element = Element(**said)  # type: ignore[arg-type]  # each was checked above
    for name, inside in _REQUIRED.items():
        if getattr(element, inside) is None:
            raise Invalid("missing", f"{name} is required", field=name)
    if element.email is None and (needs_email or element.send_activation_email):
        raise Invalid("missing", "Email is required", field="Email")
    _check(element)
    return element


def _check(element: Element) -> None:
    if element.email is not None and not _EMAIL.fullmatch(element.email):
        raise Invalid("invalid-email", "Email must be an address such as name@example.com", field="Email")
    if not _GUID.fullmatch(element.device_id or ""):
        raise Invalid("invalid-device-id", "DeviceId must be a GUID; all zeros make a new device", field="DeviceId")
    if element.is_new and not element.current_storage_gb:
        raise Invalid("missing", "CurrentStorageGB is required for a new device", field="CurrentStorageGB")
    if element.client_id is not None and not is_identifier(element.client_id):
        raise Invalid(
            "invalid-identifier",
            "ClientId must start with a letter or digit and have at most 128 characters of A-Z a-z 0-9 . _ : -",
            field="ClientId",
        )
    if element.mac_address and normal_mac(element.mac_address) is None:
        raise Invalid("invalid-mac-address", "MacAddress must have twelve hex digits", field="MacAddress")


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise Invalid("invalid", f"{name} must be a text", field=name)
    if len(value) > LONGEST or not value.isprintable():
        raise Invalid("invalid", f"{name} must have at most {LONGEST} printable characters", field=name)
    return value.lower() if name in ("Email", "DeviceId") else value


def _storage(value: object) -> int | None:
    """The seed's `int` cannot be null: 0 says nothing as well."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= _MOST_GB:
        raise Invalid("invalid", "CurrentStorageGB must be a whole number of GB", field="CurrentStorageGB")
    return value or None


def _flag(value: object) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise Invalid("invalid", "SendActivationEmail must be true or false", field="SendActivationEmail")
    return value
