"""What is told of rows: a verdict for each, and one sentence over all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from provisioner.elements import Element
from provisioner.errors import sentence


class RowStatus(StrEnum):
    """What became of a row."""

    NOT_PROCESSED = "NotProcessed"
    VALID = "Valid"
    INVALID = "Invalid"
    PROVISIONED = "Provisioned"
    FAILED = "Failed"


class EntityState(StrEnum):
    """What became, or would become, of a user, group, company or device that a row names."""

    UNKNOWN = "Unknown"
    EXISTING = "Existing"
    NEW = "New"
    UPDATED = "Updated"


@dataclass(slots=True)
class Verdict:
    """What became of one row. `element` None: it could not be read."""

    number: int
    element: Element | None
    status: RowStatus = RowStatus.NOT_PROCESSED
    info: str = ""
    user_state: EntityState = EntityState.UNKNOWN
    group_state: EntityState = EntityState.UNKNOWN
    company_state: EntityState = EntityState.UNKNOWN
    device_state: EntityState = EntityState.UNKNOWN
    device_id: str | None = None
    client_id: str | None = None
    device_name: str | None = None
    username: str | None = None
    activation_code: str | None = None

    def turn(self, status: RowStatus, problem: str) -> None:
        """`problem` is why."""
        self.status, self.info = status, sentence(problem)

    def close(self) -> None:
        """Nothing more becomes of this row: where no device was made, there is no id of it and no code."""
        if self.status is not RowStatus.PROVISIONED and self.device_state is EntityState.NEW:
            self.device_id = self.username = self.activation_code = None
            self.client_id = None if self.element is None else self.element.client_id


def summary(verdicts: Iterable[Verdict]) -> str:
    """How many rows ended how, in the order of a row's life."""
    counts = Counter(verdict.status for verdict in verdicts)
    return ", ".join(f"{counts[status]} {status}" for status in RowStatus if counts[status]) or "no rows"
