"""What a provision request may say, whoever says it: pure checks that creation, change and policies share.

Each raises `Invalid` and names the field as the operator wrote it.
"""

from __future__ import annotations

import json

from provisioner.errors import Invalid
from provisioner.model import Confirm, Facts, Millis
from provisioner.policy import normal_mac
from provisioner.ports import DeviceBroker

LONGEST_CONFIRM = 24 * 3600
"""Seconds."""

LARGEST_CONFIGURATION = 8192
"""Bytes of JSON."""


def check_window(activates_on: Millis | None, expires_on: Millis | None) -> None:
    """A window starts before it ends."""
    if activates_on is not None and expires_on is not None and expires_on <= activates_on:
        raise Invalid("invalid-window", "expiresOn must be after activatesOn", field="expiresOn")


def check_attempts(attempts: int) -> None:
    """How often a device may be given a credential that it does not confirm."""
    if not 1 <= attempts <= 1000:
        raise Invalid("invalid-attempts", "retryMaxAttempts must be 1 to 1000", field="retryMaxAttempts")


def check_mac(facts: Facts) -> None:
    """A MAC address in any common spelling."""
    if facts.mac_address is not None and normal_mac(facts.mac_address) is None:
        raise Invalid("invalid-mac-address", "macAddress must have twelve hex digits", field="macAddress")


def check_confirm_time(seconds: int) -> None:
    """How long a device has to prove that it holds its credential."""
    if not 1 <= seconds <= LONGEST_CONFIRM:
        raise Invalid("invalid-confirm-time", "confirmTime must be 1 to 86400 seconds", field="confirmTime")


def check_confirm(broker: DeviceBroker | None, confirm: Confirm) -> None:
    """A login confirms only where logins can be seen."""
    if confirm is Confirm.LOGIN and (broker is None or not broker.sees_logins):
        raise Invalid(
            "logins-not-seen", "logins at this device broker cannot be seen; use confirm ack", field="confirm"
        )


def check_secure(broker: DeviceBroker | None, *, secure: bool) -> None:
    """The device broker has an address of the kind that the device is to be told."""
    if broker is not None and broker.address(secure=secure) is None:
        wanted, setting = ("mqtts", "tls_listen") if secure else ("mqtt", "listen")
        raise Invalid(
            "no-such-url",
            f"the device broker has no {wanted} address; set device_broker.{setting}, or change provisionSecureURL",
            field="provisionSecureURL",
        )


def configuration_text(value: object) -> str:
    """JSON text of a configuration."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    if len(text.encode()) > LARGEST_CONFIGURATION:
        raise Invalid("configuration-too-large", "configuration must fit 8192 bytes of JSON", field="configuration")
    return text
