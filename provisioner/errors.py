"""The error tree.

::

    ProvisionerError
    ├── Rejected            we refuse, the device is told: a `Reason` of the wire contract, section 7
    ├── Unavailable         we failed (storage or device broker away): the device may try later
    └── Refused             an operator's call cannot be done; `code` is stable, `detail` says what to change
        ├── Invalid         a value is wrong (`field` names it)
        ├── NotFound        no such entity, or none this operator may see
        ├── Conflict        it contradicts what is there (`current` may show that)
        ├── Forbidden       the operator's role does not allow it
        └── QuotaExceeded   the account's quota of open requests is used up

Anything else that escapes is our own fault: the edge logs it once with its traceback and withholds the detail.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from provisioner.handover import Conversation


class Reason(StrEnum):
    """The words of the wire contract, section 7; `code` is the number that goes with each."""

    OFFER = "offer"
    CONFIRMED = "confirmed"
    NOTED = "noted"
    WAIT = "wait"
    BAD_REQUEST = "bad-request"
    DENIED = "denied"
    DISABLED = "disabled"
    NOT_ACTIVE = "not-active"
    ALREADY_PROVISIONED = "already-provisioned"
    SUPERSEDED = "superseded"
    EXPIRED = "expired"
    ABANDONED = "abandoned"
    TOO_LARGE = "too-large"
    UNSUPPORTED = "unsupported"
    BAD_CSR = "bad-csr"
    SLOW_DOWN = "slow-down"
    UNAVAILABLE = "unavailable"

    @property
    def code(self) -> int:
        """The reply's `code`."""
        return _CODES[self]


_CODES = {
    Reason.OFFER: 200,
    Reason.CONFIRMED: 200,
    Reason.NOTED: 200,
    Reason.WAIT: 202,
    Reason.BAD_REQUEST: 400,
    Reason.DENIED: 401,
    Reason.DISABLED: 403,
    Reason.NOT_ACTIVE: 403,
    Reason.ALREADY_PROVISIONED: 409,
    Reason.SUPERSEDED: 409,
    Reason.EXPIRED: 410,
    Reason.ABANDONED: 410,
    Reason.TOO_LARGE: 413,
    Reason.UNSUPPORTED: 415,
    Reason.BAD_CSR: 422,
    Reason.SLOW_DOWN: 429,
    Reason.UNAVAILABLE: 503,
}


class ProvisionerError(Exception):
    """Root of everything this package raises on purpose.

    `conversation` is set once the key of the message was proved: only then the device learns `detail`, and the reply
    carries a proof.
    """

    conversation: Conversation | None = None


class Rejected(ProvisionerError):
    """A claim or ack is refused or put off; every field becomes a member of the reply.

    `step` is where it stopped (`parse match authenticate window mint install confirm`), `retry_after` whole
    seconds 1-86400, `needed` bytes (too-large), `supported` what is on offer instead (unsupported).
    """

    def __init__(
        self,
        reason: Reason,
        detail: str = "",
        *,
        step: str = "",
        retry_after: int | None = None,
        generation: int | None = None,
        needed: int | None = None,
        supported: tuple[str, ...] = (),
    ) -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail
        self.step = step
        self.retry_after = retry_after
        self.generation = generation
        self.needed = needed
        self.supported = supported


class Unavailable(ProvisionerError):
    """We could not do our part: `retry_after` whole seconds until it is worth another try."""

    def __init__(self, detail: str, *, retry_after: int = 5) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after


class Refused(ProvisionerError):
    """An operator's call cannot be done. `code` is stable, `detail` one sentence that says what to change."""

    def __init__(self, code: str, detail: str, *, field: str | None = None, current: Any = None) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.field = field
        self.current = current


def sentence(detail: str) -> str:
    """A detail is a clause; this is the sentence of it. A field's name keeps its small letter."""
    first = detail.partition(" ")[0]
    return (detail[:1].upper() + detail[1:] if first.islower() else detail).rstrip(".") + "."


class Invalid(Refused):
    """A value is wrong; `field` names it as the operator wrote it."""


class NotFound(Refused):
    """No such entity, or none this operator may see: the two look alike on purpose."""


class Conflict(Refused):
    """It contradicts what is there; `current` may show what that is."""


class Forbidden(Refused):
    """The operator's role does not allow it."""


class QuotaExceeded(Refused):
    """The account's quota of open requests is used up."""
