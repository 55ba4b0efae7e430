"""Pure checks. `check_` returns nothing or raises, `is_` answers, `parse_` returns a value or raises.

1. Grammars are those of the wire contract, section 2, and hold behind every door.
2. The order of checks in a claim is the service's; each check here looks at one thing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from provisioner.errors import Forbidden, Invalid, Reason, Rejected
from provisioner.model import Claim, Coupling, Facts, Kind, Millis, ProvisionRequest, Role

_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")
_NONCE = re.compile(r"[A-Za-z0-9_-]{22,43}")
_ACTIVATION_KEY = re.compile(r"[\x21-\x7e]{22,128}")
_MAC = re.compile(r"[0-9A-Fa-f]{12}")

MAX_RETRY = 86_400
"""Longest `retryAfter`, seconds."""

USERNAME_LIMIT = 255
"""Bytes of a device credential's user name."""


def is_identifier(text: str) -> bool:
    """Whether this is a client id, user name or account name."""
    return _IDENTIFIER.fullmatch(text) is not None


def is_request_id(text: str) -> bool:
    """Whether this is a device's requestId."""
    return _REQUEST_ID.fullmatch(text) is not None


def is_nonce(text: str) -> bool:
    """Whether this is a nonce."""
    return _NONCE.fullmatch(text) is not None


def is_activation_key(text: str) -> bool:
    """Whether this has the form of an activation key."""
    return _ACTIVATION_KEY.fullmatch(text) is not None


def parse_identifier(text: str, field: str) -> str:
    """`text`, or `Invalid` naming `field`."""
    if not is_identifier(text):
        raise Invalid(
            "invalid-identifier",
            f"{field} must start with a letter or digit and have at most 128 characters of A-Z a-z 0-9 . _ : -",
            field=field,
        )
    return text


def parse_activation_key(text: str) -> str:
    """An activation key given by an operator; `Invalid` where it is malformed or can be guessed.

    112 bits at least (NIST SP 800-63B, section 5.2.2). What a person typed has no known entropy, so it is bounded
    from above: length times the bits of the alphabet it draws on, and a text of few distinct characters is refused.
    """
    if not is_activation_key(text):
        raise Invalid(
            "invalid-activation-key", "activationKey must have 22 to 128 printable characters", field="activationKey"
        )
    alphabet = 10 * bool(re.search(r"[0-9]", text))
    alphabet += 26 * bool(re.search(r"[a-z]", text)) + 26 * bool(re.search(r"[A-Z]", text))
    alphabet += 32 * bool(re.search(r"[^0-9A-Za-z]", text))
    hexadecimal = 16 if re.fullmatch(r"[0-9a-f]+|[0-9A-F]+", text) else alphabet
    bits = len(text) * (min(alphabet, hexadecimal).bit_length() - 0.5)
    if bits < 112 or len(set(text)) < 8:
        raise Invalid(
            "weak-activation-key",
            "activationKey must hold at least 112 bits; leave it out and set generateActivationKey instead",
            field="activationKey",
        )
    return text


def normal_mac(text: str) -> str | None:
    """Twelve upper-case hex digits of a MAC in any common spelling; None where it is none."""
    digits = re.sub(r"[:.\-]", "", text)
    return digits.upper() if _MAC.fullmatch(digits) else None


_SAME_NAMED = {
    "serialNumber": "serial_number",
    "macAddress": "mac_address",
    "vendor": "vendor",
    "brand": "brand",
    "model": "model",
}


def check_facts(facts: Facts, device: Mapping[str, object]) -> None:
    """What a claim says about the unit must not contradict the request: `denied`."""
    for key, name in _SAME_NAMED.items():
        ours, theirs = getattr(facts, name), device.get(key)
        if ours is None or theirs is None:
            continue
        same = str(theirs) == ours
        if key == "macAddress":
            same = normal_mac(str(theirs)) == normal_mac(ours)
        if not same:
            raise Rejected(Reason.DENIED, f"the unit's {key} is not the one of its request", step="match")


def seconds_until(then: Millis, now: Millis) -> int:
    """Whole seconds to wait, within what `retryAfter` may say."""
    return max(1, min(MAX_RETRY, -((now - then) // 1000)))


def check_window(request: ProvisionRequest, now: Millis) -> None:
    """The window gates the start only (section 9, rule 9): `not-active`, `expired`."""
    if request.activates_on is not None and now < request.activates_on:
        raise Rejected(
            Reason.NOT_ACTIVE,
            f"the window opens at {iso(request.activates_on)}",
            step="window",
            retry_after=seconds_until(request.activates_on, now),
        )
    if is_lapsed(request, now):
        raise Rejected(Reason.EXPIRED, "the window of this request is over", step="window")


def is_lapsed(request: ProvisionRequest, now: Millis) -> bool:
    """Whether the window is over."""
    return request.expires_on is not None and now >= request.expires_on


def check_kind(claim: Claim, kind: Kind) -> None:
    """Whether the claim asks for what the request prescribes (section 5): `unsupported`."""
    if claim.accept and kind not in claim.accept:
        detail = f"this request prescribes {kind}: accept that"
    elif kind is Kind.X509 and claim.csr is None:
        detail = "this request prescribes a certificate: send a csr"
    elif kind is Kind.PASSWORD and claim.csr is not None and not claim.accept:
        detail = "this request prescribes a password: leave out csr, or accept password as well"
    else:
        return
    raise Rejected(Reason.UNSUPPORTED, detail, step="mint", supported=(kind.value,))


def resolve_coupling(asked: Coupling, account: Coupling) -> Coupling:
    """INHERITED resolves to the account's coupling, and that to STRICT."""
    if asked is not Coupling.INHERITED:
        return asked
    return Coupling.STRICT if account is Coupling.INHERITED else account


def credential_username(account: str, client_id: str, generation: int) -> str:
    """User name of one generation: `p.{account}.{clientId}.g{generation}`.

    Dots of the account are doubled. A client id starts with a letter or digit, so the first odd run of dots is the
    border, and no two pairs of account and client id share a name.
    """
    return f"p.{account.replace('.', '..')}.{client_id}.g{generation}"


def check_username_fits(account: str, client_id: str) -> None:
    """A user name has at most 255 bytes, with room for nine digits of generation."""
    if len(credential_username(account, client_id, 999_999_999)) > USERNAME_LIMIT:
        raise Invalid(
            "name-too-long",
            "clientId and account name together are too long for a user name of 255 bytes; shorten one of them",
            field="clientId",
        )


@dataclass(frozen=True, slots=True)
class Actor:
    """An authenticated operator. `account_id` None sees everything, else that account and its children."""

    token_id: int
    role: Role
    account_id: int | None = None


def check_role(actor: Actor, *allowed: Role) -> None:
    """Whether the operator's role is among those allowed; an admin may do everything. `Forbidden` otherwise."""
    if actor.role is Role.ADMIN or actor.role in allowed:
        return
    raise Forbidden("forbidden", f"the role {actor.role} may not do this; it needs {' or '.join((*allowed, 'admin'))}")


def iso(when: Millis) -> str:
    """RFC 3339 text of a time, seconds, UTC."""
    return datetime.fromtimestamp(when / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
