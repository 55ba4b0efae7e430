"""The audit trail: what was decided, one line a decision, chained by hashes. Pure.

1. A line is written in the transaction of its decision, so there is none without the other; refusals come a moment
   later, as nothing depends on them.
2. Each line's digest is SHA-256 over the digest before and the line itself: whoever changes, drops or reorders one has
   to redo all that follow, and no longer meets a head that was noted elsewhere (the program logs it once an hour).
3. Lines hold names, numbers and our own words. Never a key, password, proof or CSR, and never a stranger's text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator

from provisioner.lifecycle import Phase
from provisioner.model import Entry, Line, ProvisionRequest
from provisioner.ports import Note, Unit

GENESIS = bytes(32)
"""Digest before the first line."""

_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=True)


class Broken(Exception):
    """The trail is not what was written; the text says where."""


def lines_of(unit: Unit) -> Iterator[Line]:
    """What a unit decided: a line for each request that it changes, adds or turns away."""
    for saved in unit.saved:
        yield _line(unit.note, saved.after, saved.before.phase)
    for request in unit.added:
        yield _line(unit.note, request, None)
    for turned in unit.turned:
        yield line_about(unit.note, turned.request)


def line_of(note: Note) -> Line:
    """A decision that is not about a request."""
    return Line(note.at, note.action, note.actor, note.source, None, "", None, None, None, note.cause)


def line_about(note: Note, request: ProvisionRequest) -> Line:
    """A decision about a request that changes nothing in it: a refusal, a key shown, a deletion."""
    return _line(note, request, request.phase)


def _line(note: Note, request: ProvisionRequest, before: Phase | None) -> Line:
    return Line(
        note.at,
        note.action,
        note.actor,
        note.source,
        request.id,
        request.client_id,
        request.generation or None,
        before,
        request.phase,
        note.cause,
    )


def digest(previous: bytes, seq: int, line: Line) -> bytes:
    """Digest of a line in its place."""
    text = _ENCODER.encode((seq, *line))
    return hashlib.sha256(previous + text.encode()).digest()


def verify(entries: Iterable[Entry], head: bytes | None = None) -> Entry | None:
    """Go through a whole trail, oldest first; its last entry. Raises `Broken`.

    `head`: a digest noted earlier, which has to be met on the way: a trail that was cut or rewritten misses it.
    """
    last: Entry | None = None
    met = head is None
    for seq, entry in enumerate(entries, start=1):
        if entry.seq != seq:
            raise Broken(f"line {seq} is missing: the next one there is {entry.seq}")
        expected = digest(GENESIS if last is None else last.digest, seq, entry.line)
        if expected != entry.digest:
            raise Broken(f"line {seq} is not what was written, or one before it is not")
        met = met or entry.digest == head
        last = entry
    if not met:
        raise Broken("the head that was noted is not in this trail: lines were cut off, or all was written anew")
    return last
