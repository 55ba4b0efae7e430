"""What becomes of the session that a device has open with a credential that is taken away, in words for operators.

1. Only the device broker can close it, and not every one can (`DeviceBroker.kicks_live`); where it stays, the answer
   to `revoke` and `rotate` says so, and what ends it.
"""

from __future__ import annotations

from dataclasses import dataclass

from provisioner.model import ProvisionRequest
from provisioner.ports import DeviceBroker


@dataclass(frozen=True, slots=True)
class LiveSession:
    """`closes`: the device broker closes it; `detail` is a sentence or two."""

    closes: bool
    detail: str


def after_revoke(request: ProvisionRequest, broker: DeviceBroker | None) -> LiveSession:
    """Of a request just revoked. `broker`: where its device works; None: the settings have it no more."""
    if broker is not None and broker.kicks_live:
        return LiveSession(closes=True, detail=f"Device broker {broker.name} closes the session that is open.")
    return _stays(request, broker, "the session that is open")


def after_rotate(request: ProvisionRequest, broker: DeviceBroker | None) -> LiveSession:
    """Of a request just set to rotate; `broker` as above. The credential it has is good until the next is confirmed."""
    if broker is not None and broker.kicks_live:
        detail = f"Device broker {broker.name} closes sessions of the present credential once the next is confirmed."
        return LiveSession(closes=True, detail=detail)
    return _stays(request, broker, "sessions of the present credential when the next is confirmed")


def _stays(request: ProvisionRequest, broker: DeviceBroker | None, which: str) -> LiveSession:
    if broker is None:
        detail = f"Device broker {request.device_broker} is in the settings no more, so nobody closes {which}."
        return LiveSession(closes=False, detail=detail)
    ends = "It ends when the device leaves or the broker closes it by hand"
    asked = "; until then the broker lets it use no topic that it asks us about" if broker.asks_ledger else ""
    return LiveSession(closes=False, detail=f"Device broker {broker.name} cannot close {which}. {ends}{asked}.")
