"""Unpredictable bytes in small portions.

A system call for each nonce, IV and password costs a hand-over six of them, some 30 us each on a virtual machine. So
this asks for 4 KiB at a time; what was handed out is not kept.
"""

from __future__ import annotations

import os

_PORTION = 4096


class Pool:
    """`os.urandom` for one process and one thread; called with a number of bytes up to 4096."""

    def __init__(self) -> None:
        self._bytes = b""
        self._taken = 0

    def __call__(self, count: int) -> bytes:
        """So many fresh bytes."""
        end = self._taken + count
        if end > len(self._bytes):
            self._bytes = os.urandom(_PORTION)
            self._taken, end = 0, count
        taken = self._bytes[self._taken : end]
        self._taken = end
        return taken
