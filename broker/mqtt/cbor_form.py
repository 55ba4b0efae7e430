"""The form of CBOR that a claim may have (RFC 8949), checked before a decoder sees it.

1. Maps, arrays, text, integers, floats and booleans; definite or indefinite length.
2. No byte strings, no null or undefined, no other simple values, nothing behind the one item. No tags: a decoder would
   build dates, numbers of any size and references out of them.
3. At most two levels, and at most 1,024 items and chunks: 8 KiB of one-byte ones would keep us busy.
"""

from __future__ import annotations

_BREAK = 0xFF
_MAX_DEPTH = 2
_MAX_HEADS = 1024
_TEXT, _ARRAY, _MAP, _SIMPLE = 3, 4, 5, 7
_FLOATS = {25: 2, 26: 4, 27: 8}


def check_cbor_form(data: bytes) -> int:
    """How many pairs all maps in `data` have together; raises ValueError for any other form."""
    walker = _Walker(data)
    walker.item(depth=1)
    if walker.position != len(data):
        raise ValueError("bytes behind the map")
    return walker.pairs


class _Walker:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0
        self.pairs = 0
        self._heads = 0

    def item(self, depth: int) -> None:
        major, minor = self._head()
        if major in (0, 1):
            self._length(minor)
        elif major == _TEXT:
            self._text(minor)
        elif major in (_ARRAY, _MAP):
            if depth > _MAX_DEPTH:
                raise ValueError("nested too deeply")
            self._items(major, minor, depth)
        elif major == _SIMPLE and minor in (20, 21):
            pass
        elif major == _SIMPLE and minor in _FLOATS:
            self._skip(_FLOATS[minor])
        else:
            raise ValueError("a type that no claim has")

    def _head(self) -> tuple[int, int]:
        if self.position >= len(self._data):
            raise ValueError("cut short")
        self._heads += 1
        if self._heads > _MAX_HEADS:
            raise ValueError("too many items")
        byte = self._data[self.position]
        self.position += 1
        return byte >> 5, byte & 0x1F

    def _length(self, minor: int) -> int:
        if minor < 24:
            return minor
        if minor > 27:
            raise ValueError("a reserved length")
        size = 1 << (minor - 24)
        start = self.position
        self._skip(size)
        return int.from_bytes(self._data[start : self.position], "big")

    def _skip(self, size: int) -> None:
        if size > len(self._data) - self.position:
            raise ValueError("cut short")
        self.position += size

    def _text(self, minor: int) -> None:
        if minor != 31:
            self._skip(self._length(minor))
            return
        while not self._at_break():
            major, chunk = self._head()
            if major != _TEXT or chunk == 31:
                raise ValueError("a chunk of another type")
            self._skip(self._length(chunk))

    def _items(self, major: int, minor: int, depth: int) -> None:
        count = None if minor == 31 else self._length(minor)
        seen = 0
        while seen != count and not (count is None and self._at_break()):
            seen += 1
            if major == _MAP:
                self.pairs += 1
                if self._data[self.position : self.position + 1] and self._data[self.position] >> 5 != _TEXT:
                    raise ValueError("a name that is no text")
                self.item(depth + 1)
            self.item(depth + 1)

    def _at_break(self) -> bool:
        if self._data[self.position : self.position + 1] == bytes([_BREAK]):
            self.position += 1
            return True
        return False
