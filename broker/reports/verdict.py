"""What was checked and how it came out."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Result(StrEnum):
    """How a check came out; `skipped`: it could not be made, and `said` tells why."""

    PASSED = "passed"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One check: `name` a few words, `said` a sentence with what was seen, `seconds` it took where that is known."""

    name: str
    result: Result
    said: str
    seconds: float = 0.0

    @classmethod
    def of(cls, name: str, passed: bool, said: str) -> "Verdict":  # noqa: FBT001  # the check's own answer
        """Passed or failed."""
        return cls(name, Result.PASSED if passed else Result.FAILED, said)


def is_good(verdicts: Iterable[Verdict]) -> bool:
    """Whether nothing failed."""
    return all(verdict.result is not Result.FAILED for verdict in verdicts)
