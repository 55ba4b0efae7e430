"""Master data of devices, typed: EnOS's `deviceData`, checked against a schema.

1. A schema names identifiers and the type of each: Integer, String, Enum, Date, Number, StringArray, I18n.
2. The identifiers of EnOS's own sample are built in; a schema adds to them.
3. null empties a value. What is not named, or does not fit, is refused with the identifier's name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date
from enum import StrEnum
from typing import Any

LONGEST_TEXT = 512
MOST_ITEMS = 64
MOST_IDENTIFIERS = 256
_IDENTIFIER = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_LOCALE = re.compile(r"[a-z]{2}_[A-Z]{2}")


class DataType(StrEnum):
    """What a value of master data may be."""

    INTEGER = "Integer"
    STRING = "String"
    ENUM = "Enum"
    DATE = "Date"
    NUMBER = "Number"
    STRING_ARRAY = "StringArray"
    I18N = "I18n"


class DoesNotFit(Exception):
    """A value does not fit its schema; the text names the identifier and says what it may be."""


@dataclass(frozen=True, slots=True)
class Datum:
    """One identifier of a schema; `options` are the words of an Enum."""

    type: DataType
    options: tuple[str, ...] = ()


Schema = Mapping[str, Datum]


def _all(kind: DataType, *names: str) -> dict[str, Datum]:
    return {name: Datum(kind) for name in names}


BUILT_IN: Schema = {
    **_all(DataType.DATE, "date"),
    **_all(DataType.INTEGER, "seqNo", "topoSize", "scale"),
    **_all(DataType.NUMBER, "capacity", "capacity_rated", "max_capacity"),
    **_all(DataType.STRING_ARRAY, "optIndex", "optSN"),
    **_all(DataType.I18N, "deviceName"),
    **_all(
        DataType.STRING,
        "commDeviceSn", "timezone", "optModel", "deviceSn", "orgId", "assetId", "parentDeviceSn", "optVersion",
        "tokenReplacing", "modelID", "version", "modelName", "regionId", "regcode", "tokenInUse",
    ),
    "enum": Datum(DataType.ENUM, ("DISTRIBUTED", "CENTRALIZED")),
}  # fmt: skip


def parse_schema(said: Mapping[str, Mapping[str, Any]]) -> dict[str, Datum]:
    """A schema's own identifiers. Raises `DoesNotFit`."""
    if len(said) > MOST_IDENTIFIERS:
        raise DoesNotFit(f"a schema has at most {MOST_IDENTIFIERS} identifiers of its own")
    schema = {}
    for name, one in said.items():
        if not _IDENTIFIER.fullmatch(name) or name in BUILT_IN:
            raise DoesNotFit("an identifier has letters, digits and _, and is none of those built in")
        kind, options = DataType(one["type"]), tuple(one.get("options", ()))
        if (kind is DataType.ENUM) != bool(options) or len(options) > MOST_ITEMS:
            raise DoesNotFit(f"{name}: an Enum has 1 to {MOST_ITEMS} options, any other type has none")
        if not all(_is_text(option) for option in options):
            raise DoesNotFit(f"{name}: an option is a text of at most {LONGEST_TEXT} printable characters")
        schema[name] = Datum(kind, options)
    return schema


def check_data(data: Mapping[str, Any], schema: Schema) -> None:
    """Whether every value fits; `schema` without what is built in. Raises `DoesNotFit`."""
    for name, value in data.items():
        datum = BUILT_IN.get(name) or schema.get(name)
        if datum is None:
            raise DoesNotFit(f"{_shown(name)} is no master data of this group")
        if value is not None and not _CHECKS[datum.type](value, datum):
            words = f" of {', '.join(datum.options)}" if datum.options else ""
            raise DoesNotFit(f"{_shown(name)} must be of type {datum.type}{words or _BOUNDS.get(datum.type, '')}")


def merged(before: Mapping[str, Any], said: Mapping[str, Any]) -> dict[str, Any]:
    """What was there, with what is said now; null takes a value out."""
    return {name: value for name, value in {**before, **said}.items() if value is not None}


def is_localized(value: Any) -> bool:
    """Whether it is `{"defaultValue": text, "i18nValue": {"en_US": text, …}}`."""
    if not isinstance(value, dict) or value.keys() != {"defaultValue", "i18nValue"}:
        return False
    others = value["i18nValue"]
    return (
        _is_text(value["defaultValue"])
        and isinstance(others, dict)
        and len(others) <= MOST_ITEMS
        and all(_LOCALE.fullmatch(name) and _is_text(text) for name, text in others.items())
    )


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**53


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= LONGEST_TEXT and value.isprintable()


def _is_date(value: Any) -> bool:
    try:
        return isinstance(value, str) and date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False


def _shown(name: str) -> str:
    return ascii(name[:64])[1:-1]


_PRINTABLE = f", at most {LONGEST_TEXT} printable characters"
_BOUNDS = dict.fromkeys((DataType.STRING, DataType.STRING_ARRAY, DataType.I18N), _PRINTABLE)
_CHECKS: Mapping[DataType, Callable[[Any, Datum], bool]] = {
    DataType.INTEGER: lambda value, _: _is_integer(value),
    DataType.STRING: lambda value, _: _is_text(value),
    DataType.ENUM: lambda value, datum: isinstance(value, str) and value in datum.options,
    DataType.DATE: lambda value, _: _is_date(value),
    DataType.NUMBER: lambda value, _: _is_integer(value) or isinstance(value, float),
    DataType.STRING_ARRAY: lambda value, _: (
        isinstance(value, list) and len(value) <= MOST_ITEMS and all(map(_is_text, value))
    ),
    DataType.I18N: lambda value, _: is_localized(value),
}
