"""Where secrets might be left, and how they might be spelt there."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Iterator
from pathlib import Path
from urllib.parse import quote

import psutil

THEIR_OWN = ("admin-token", "provision-login", "keys")
"""What a data directory keeps secrets in, readable by its owner alone."""

_SHORTEST = 8


def spellings(secret: str | bytes) -> set[bytes]:
    """The secret in clear, percent-encoded, in hex, and in base64 from each place of a group of three."""
    data = secret.encode() if isinstance(secret, str) else secret
    found = {data, quote(data, safe="").encode(), data.hex().encode(), data.hex().upper().encode()}
    for before in range(3):
        # What surrounds it in one text changes the characters at both ends.
        start, size = -(-before * 4 // 3), len(data) // 3 * 4 - 4
        for encoded in (base64.b64encode(bytes(before) + data), base64.urlsafe_b64encode(bytes(before) + data)):
            found.add(encoded[start : start + size])
    return {one for one in found if len(one) >= _SHORTEST}


def files(data: Path) -> Iterator[tuple[str, bytes]]:
    """All in a data directory but what is there to hold secrets: ledger, its WAL, and whatever else."""
    for path in sorted(data.rglob("*")):
        if path.is_file() and path.relative_to(data).parts[0] not in THEIR_OWN:
            yield path.name, path.read_bytes()


def processes(pid: int) -> Iterator[tuple[str, bytes]]:
    """Arguments and environment of a process and its children, as everybody on the machine may see the former."""
    for process in (psutil.Process(pid), *psutil.Process(pid).children(recursive=True)):
        yield "arguments", "\0".join(process.cmdline()).encode()
        yield "environment", "\0".join(f"{name}={value}" for name, value in process.environ().items()).encode()


def left(secrets: Iterable[str | bytes], places: Iterable[tuple[str, bytes]]) -> list[str]:
    """The places that hold one of the secrets in any spelling; the secret itself is not told."""
    hunted = [one for secret in secrets if secret for one in spellings(secret)]
    return [name for name, content in places if any(one in content for one in hunted)]
