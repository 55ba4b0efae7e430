"""What a provision request may say, whoever says it: pure checks that creation, change and policies share.

Each raises `Invalid` and names the field as the operator wrote it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from certs.errors import NotIssued
from certs.profile import Device
from provisioner.errors import Invalid
from provisioner.model import Account, Confirm, Coupling, Facts, Kind, Millis
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


def check_unit(facts: Facts, device_name: str | None) -> None:
    """What is said about a unit can be shown to people; a MAC address is one, in any common spelling."""
    said = {
        "serialNumber": facts.serial_number,
        "vendor": facts.vendor,
        "brand": facts.brand,
        "model": facts.model,
        "deviceName": device_name,
    }
    for name, text in said.items():
        if text is not None and not text.isprintable():
            raise Invalid("invalid-text", f"{name} must have printable characters only", field=name)
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


def check_certificate(account: str, client_id: str, coupling: Coupling, *, secure: bool) -> None:
    """A certificate's CN, the client id or (LOOSE) the account's name, has at most 64 characters (RFC 5280)."""
    try:
        Device(account, client_id if coupling is Coupling.STRICT else None)
    except NotIssued:
        which, field = ("clientId", "clientId") if coupling is Coupling.STRICT else ("the account's name", "accountId")
        raise Invalid(
            "name-too-long",
            f"{which} is too long for a certificate, which names 64 characters at most; shorten it or use a password",
            field=field,
        ) from None
    if not secure:
        raise Invalid(
            "certificate-needs-tls", "a certificate is shown in TLS: set provisionSecureURL", field="provisionSecureURL"
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


def check_device_broker(brokers: Mapping[str, DeviceBroker], account: Account, client_id: str) -> None:
    """The account's device broker is set up, and a device of this name can work at it."""
    broker = brokers.get(account.device_broker)
    if broker is None:
        raise Invalid(
            "no-such-device-broker",
            f"the device broker {account.device_broker} of account {account.name} is not set up; "
            f"move the account to {' or '.join(sorted(brokers))}",
            field="accountId",
        )
    if (objection := broker.objection(account.name, client_id)) is not None:
        raise Invalid("client-id-unfit", objection, field="clientId")


def check_tight(broker: DeviceBroker | None, coupling: Coupling) -> None:
    """A tight credential is promised only where the device broker itself refuses a wrong client id."""
    if coupling is Coupling.STRICT and broker is not None and not broker.binds_client_id:
        raise Invalid(
            "tight-not-held",
            f"the device broker {broker.name} ({broker.kind}) admits a right password under any client id, so a "
            "credential cannot be tight there; ask for a loose one (deviceCredentialsTight LOOSE), or move the account "
            "to a device broker of kind embedded, webhook or mosquitto-dynsec",
            field="deviceCredentialsTight",
        )


def admits_serial_numbers(broker: DeviceBroker | None) -> bool:
    """Whether a device can log in with its serial number and its CIK there (Exosite).

    That is a name of the device's own; into a list of somebody else's broker go only names under our prefix.
    """
    return broker is None or broker.asks_ledger


def check_serial_numbers(broker: DeviceBroker | None) -> None:
    """A CIK is promised only where it can be used."""
    if broker is not None and not admits_serial_numbers(broker):
        raise Invalid(
            "serial-login-not-held",
            f"the device broker {broker.name} ({broker.kind}) admits the user names we put into it, and a CIK is used "
            "under the device's serial number; move the vendor's account to a device broker of kind embedded or "
            "webhook, or let devices claim over MQTT",
        )


def check_kind(broker: DeviceBroker | None, kind: Kind) -> None:
    """A password is promised only where it can be used, and so is a certificate."""
    if kind is Kind.PASSWORD and broker is not None and not broker.takes_passwords:
        raise Invalid(
            "certificates-only",
            f"the device broker {broker.name} ({broker.kind}) admits by certificate alone; set credentialKind to x509",
            field="credentialKind",
        )
    if kind is Kind.X509 and broker is not None and not broker.takes_certificates:
        raise Invalid(
            "passwords-only",
            f"the device broker {broker.name} ({broker.kind}) admits by password alone; set credentialKind to "
            "password, or move the account to a device broker of kind embedded or mosquitto-certificates",
            field="credentialKind",
        )


def check_loose(broker: DeviceBroker | None, coupling: Coupling) -> None:
    """A loose credential is promised only where the client id is free."""
    if broker is not None and not broker.takes_passwords and coupling is not Coupling.STRICT:
        raise Invalid(
            "loose-not-held",
            f"the device broker {broker.name} ({broker.kind}) takes the client id from the certificate, so loose ones "
            "would all be one; ask for a tight one (deviceCredentialsTight STRICT)",
            field="deviceCredentialsTight",
        )


def configuration_text(value: object) -> str:
    """JSON text of a configuration."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    if len(text.encode()) > LARGEST_CONFIGURATION:
        raise Invalid("configuration-too-large", "configuration must fit 8192 bytes of JSON", field="configuration")
    return text
