"""The checks of an examination and how they came out."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

from broker.reports.verdict import Result, Verdict


class Check(StrEnum):
    """Everything that is looked at, in the order of the report."""

    CONTRACT = "speaks by the contract"
    SUBSCRIBES = "subscribes before it publishes"
    REPEATS = "repeats the same claim"
    RETRY_AFTER = "honours retryAfter"
    JITTER = "adds jitter to retryAfter"
    LATE = "survives a late reply"
    DUPLICATE = "survives a duplicate reply"
    SEALED_WRONG = "survives an offer that is sealed wrongly"
    UNPROVED = "believes no reply without proof"
    OVERSIZED = "survives an oversized reply"
    GARBAGE = "survives what is no message"
    STORES = "stores before it acks"
    CUT_CONNECT = "survives a power cut after CONNECT"
    CUT_SUBSCRIBE = "survives a power cut after SUBSCRIBE"
    CUT_CLAIM = "survives a power cut after its claim"
    CUT_OFFER = "survives a power cut after the offer"
    CUT_CONFIRMED = "survives a power cut after confirmation"
    NEW_IDENTITY = "reconnects with the new identity"
    FORGETS = "forgets the provisioning login"


class Sheet:
    """Verdicts as they come; a check that failed stays failed, one nobody got to is skipped."""

    def __init__(self) -> None:
        self._verdicts: dict[Check, Verdict] = {}

    def passed(self, check: Check, said: str) -> None:
        """It did well."""
        self._put(check, Result.PASSED, said)

    def failed(self, check: Check, said: str) -> None:
        """It did not."""
        self._put(check, Result.FAILED, said)

    def judge(self, check: Check, good: bool, well: str, badly: str) -> bool:  # noqa: FBT001  # the question itself
        """Either; returns `good`."""
        self._put(check, Result.PASSED if good else Result.FAILED, well if good else badly)
        return good

    def skipped(self, check: Check, said: str) -> None:
        """It could not be asked."""
        self._put(check, Result.SKIPPED, said)

    def is_failed(self, check: Check) -> bool:
        """Whether it failed already."""
        found = self._verdicts.get(check)
        return found is not None and found.result is Result.FAILED

    def verdicts(self, why_not: str) -> Sequence[Verdict]:
        """All checks; `why_not` tells why some were not reached."""
        return [
            self._verdicts.get(check, Verdict(check.value, Result.SKIPPED, f"not reached: {why_not}"))
            for check in Check
        ]

    def _put(self, check: Check, result: Result, said: str) -> None:
        if not self.is_failed(check):
            self._verdicts[check] = Verdict(check.value, result, said)
