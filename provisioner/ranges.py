"""Ranges of serial numbers: decimal, hexadecimal, and the three spellings of a 48-bit MAC (Exosite's `ranges`).

1. A serial number is in a range only in the one spelling that the range has: length, letter case and separators count.
2. A range is two numbers, however many serial numbers lie between them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from provisioner.errors import Invalid

_LONGEST = 18
"""Digits of a decimal or hexadecimal serial number; what fits a signed 64-bit number of the ledger and 2^53 of JSON."""

_MOST = 2**53 - 1


class Format(StrEnum):
    """How numbers of a range are written."""

    BASE10 = "base10"
    BASE16 = "base16"
    MAC_COLONS = "mac:48"
    MAC_DASHES = "mac-48"
    MAC_DOTS = "mac.48"


class Casing(StrEnum):
    """Letters of hexadecimal digits."""

    UPPER = "upper"
    LOWER = "lower"


_MAC_FORMS = {
    Format.MAC_COLONS: re.compile(r"(?:[0-9A-Fa-f]{2}:){5}[0-9A-Fa-f]{2}"),
    Format.MAC_DASHES: re.compile(r"(?:[0-9A-Fa-f]{2}-){5}[0-9A-Fa-f]{2}"),
    Format.MAC_DOTS: re.compile(r"(?:[0-9A-Fa-f]{4}\.){2}[0-9A-Fa-f]{4}"),
}
_HEX = re.compile(r"[0-9A-Fa-f]+")
_DECIMAL = re.compile(r"[0-9]+")


@dataclass(frozen=True, slots=True)
class SerialRange:
    """Serial numbers from `first` to `last`, both in it; `length` in digits (12 for MACs)."""

    format: Format
    length: int
    casing: Casing
    first: int
    last: int

    def __contains__(self, serial_number: object) -> bool:
        number = self._number(serial_number) if isinstance(serial_number, str) else None
        return number is not None and self.first <= number <= self.last

    def __len__(self) -> int:
        return self.last - self.first + 1

    def spell(self, number: int) -> str:
        """A number of the range as a serial number."""
        if self.format is Format.BASE10:
            return f"{number:0{self.length}d}"
        digits = f"{number:0{self.length}x}"
        if self.casing is Casing.UPPER:
            digits = digits.upper()
        step, separator = {
            Format.MAC_COLONS: (2, ":"),
            Format.MAC_DASHES: (2, "-"),
            Format.MAC_DOTS: (4, "."),
        }.get(self.format, (len(digits), ""))
        return separator.join(digits[at : at + step] for at in range(0, len(digits), step))

    def _number(self, text: str) -> int | None:
        if self.format is Format.BASE10:
            return int(text) if len(text) == self.length and _DECIMAL.fullmatch(text) else None
        form = _MAC_FORMS.get(self.format)
        if form is not None and not form.fullmatch(text):
            return None
        digits = re.sub(r"[:.\-]", "", text) if form is not None else text
        if len(digits) != self.length or not _HEX.fullmatch(digits):
            return None
        cased = digits.upper() if self.casing is Casing.UPPER else digits.lower()
        return int(digits, 16) if cased == digits else None


def parse_range(
    form: str, length: int | None, casing: str | None, first: int, last: int, field: str = "ranges"
) -> SerialRange:
    """A range as an operator gives it. Raises `Invalid`."""
    if form not in set(Format):
        raise Invalid("invalid-range", f"format must be one of {', '.join(Format)}", field=f"{field}.format")
    kind = Format(form)
    is_mac = kind in _MAC_FORMS
    if casing is not None and casing not in set(Casing):
        raise Invalid("invalid-range", "casing must be upper or lower", field=f"{field}.casing")
    if is_mac:
        digits, base = 12, 16
        if length not in (None, digits):
            raise Invalid("invalid-range", "a MAC has no length of its own; leave it out", field=f"{field}.length")
    else:
        base = 10 if kind is Format.BASE10 else 16
        if length is None or not 1 <= length <= _LONGEST:
            raise Invalid("invalid-range", f"length must be 1 to {_LONGEST} digits", field=f"{field}.length")
        digits = length
    if not 0 <= first <= last:
        raise Invalid("invalid-range", "first must not be above last, nor negative", field=f"{field}.first")
    if last >= base**digits or last > _MOST:
        raise Invalid("invalid-range", f"last does not fit {digits} digits", field=f"{field}.last")
    if kind is Format.BASE10:
        return SerialRange(kind, digits, Casing.LOWER, first, last)
    if casing is None:
        raise Invalid("invalid-range", "casing is missing: upper or lower", field=f"{field}.casing")
    return SerialRange(kind, digits, Casing(casing), first, last)
