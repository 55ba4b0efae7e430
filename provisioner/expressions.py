"""EnOS's search expressions: `sn LIKE 'A%' and batchOrder >= 3 and deviceData.scale IN (1, 2)`. Pure.

1. Terms are joined by `and`; words are written in any case. Each field has the operators that EnOS's document gives it.
2. A text stands in quotes and a number does not; what is of another type is not equal.
3. LIKE has `%` for any characters and `_` for one; without either it finds the text anywhere.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

LONGEST = 2048
"""Characters of an expression."""


class Malformed(Exception):
    """The text says what to write instead."""


class Operator(StrEnum):
    """How a value is compared."""

    IN = "in"
    NOT = "not"
    LIKE = "like"
    LESS = "<"
    AT_MOST = "<="
    MORE = ">"
    AT_LEAST = ">="
    ABSENT = "absent"


@dataclass(frozen=True, slots=True)
class Term:
    """One comparison; `=` is an IN of one value. `field` is one of EnOS's, for master data `deviceData.NAME`."""

    field: str
    operator: Operator
    values: tuple[str | int | float, ...] = ()


class _Kind(NamedTuple):
    words: tuple[str, ...]
    types: tuple[type, ...]


_ALIKE = ("=", "in")
_NUMBERS = _Kind(("=", "!=", "<", "<=", ">", ">=", "in"), (int,))
_NAMES = _Kind(_ALIKE, (str,))
_MASTER_DATA = _Kind((*_ALIKE, "is null"), (str, int, float))
_FIELDS: Mapping[str, _Kind] = {
    "sn": _Kind((*_ALIKE, "like"), (str,)),
    "groupId": _NAMES,
    "regionId": _NAMES,
    "productKey": _NAMES,
    "status": _NAMES,
    "batchOrder": _NUMBERS,
    "createTime": _NUMBERS,
}
_OPERATORS = {"=": Operator.IN, "in": Operator.IN, "!=": Operator.NOT, "is null": Operator.ABSENT}
_MASTER_DATUM = re.compile(r"deviceData\.(?:[A-Za-z][A-Za-z0-9_]{0,63}|\*)")
_FIELD = re.compile(r"\s*([A-Za-z][A-Za-z0-9_.]*\*?)")
_OPERATOR = re.compile(r"\s*(!=|<=|>=|=|<|>|in\b|like\b|is\s+null\b)", re.IGNORECASE)
_VALUE = re.compile(r"""\s*(?:"([^"]*)"|'([^']*)'|(-?[0-9]{1,16}(?:\.[0-9]{1,16})?)\b)""")
_AND = re.compile(r"\s+and\b", re.IGNORECASE)
_SIGNS = {sign: re.compile(rf"\s*{re.escape(sign)}") for sign in "(),"}


def parse_expression(text: str) -> tuple[Term, ...]:
    """The terms; none: everything is found. Raises `Malformed`."""
    if len(text) > LONGEST:
        raise Malformed(f"an expression has at most {LONGEST} characters")
    if not text.strip():
        return ()
    reader = _Reader(text)
    terms = [reader.term()]
    while reader.take(_AND):
        terms.append(reader.term())
    reader.end()
    return tuple(terms)


class _Reader:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self._text, self._at)
        if found is not None:
            self._at = found.end()
        return found

    def end(self) -> None:
        if self._text[self._at :].strip():
            raise Malformed("join terms by `and`; there is nothing else")

    def term(self) -> Term:
        field = self.take(_FIELD)
        kind = None if field is None else _kind(field[1])
        if field is None or kind is None:
            raise Malformed(f"a term begins with one of {', '.join(_FIELDS)} or deviceData.NAME")
        found = self.take(_OPERATOR)
        word = "" if found is None else " ".join(found[1].lower().split())
        if word not in kind.words:
            raise Malformed(f"{field[1]} has {', '.join(kind.words).upper()}")
        values = () if word == "is null" else self._several() if word == "in" else (self._value(),)
        if not all(isinstance(value, kind.types) for value in values):
            raise Malformed(f"a value of {field[1]} is a {'number' if str not in kind.types else 'text in quotes'}")
        return Term(field[1], _OPERATORS.get(word) or Operator(word), tuple(values))

    def _several(self) -> list[str | int | float]:
        if not self.take(_SIGNS["("]):
            raise Malformed("write values of IN as ('a', 'b')")
        values = [self._value()]
        while self.take(_SIGNS[","]):
            values.append(self._value())
        if not self.take(_SIGNS[")"]):
            raise Malformed("write values of IN as ('a', 'b')")
        return values

    def _value(self) -> str | int | float:
        found = self.take(_VALUE)
        if found is None:
            raise Malformed("write a value as 'text' or as a number")
        if found[3] is None:
            return found[1] if found[1] is not None else found[2]
        return float(found[3]) if "." in found[3] else int(found[3])


def _kind(field: str) -> _Kind | None:
    return _MASTER_DATA if _MASTER_DATUM.fullmatch(field) else _FIELDS.get(field)
