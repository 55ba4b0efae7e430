"""The two flash slots of a device (wire contract, section 10), and a place for the key it claims with.

1. A new record goes to the slot that is not current, is read back, and only then made current: whatever happens
   meanwhile, the former one is still there.
2. A record carries the digest of its own bytes, so half a write is seen as none.
3. A key is written before the first claim with it (section 5), and is part of the record once it has its certificate.
4. What was replaced stays readable until the next record needs its slot: a device can go back to it.
"""

import hashlib
import json
from dataclasses import asdict
from typing import Final, Protocol

from broker.fleet.replies import Credential

_KEY: Final = 2


class Flash(Protocol):
    """Two slots and a mark that says which is current; `marked` is None on a unit fresh from the factory.

    Slot 2 holds the key of a claim under way. `forgotten`: the provisioning login and the activation key are wiped.
    """

    marked: int | None
    forgotten: bool

    def read(self, slot: int) -> bytes:
        """Return what a slot holds, empty if nothing."""

    def write(self, slot: int, octets: bytes) -> None:
        """Replace what a slot holds."""


class MemoryFlash:
    """Flash of a simulated unit."""

    def __init__(self) -> None:
        self.marked: int | None = None
        self.forgotten = False
        self._slots = [b"", b"", b""]

    def read(self, slot: int) -> bytes:
        """Return what the slot holds."""
        return self._slots[slot]

    def write(self, slot: int, octets: bytes) -> None:
        """Replace what the slot holds."""
        self._slots[slot] = octets


def load(flash: Flash) -> Credential | None:
    """Return the current credential, None if there is none or it is damaged."""
    return None if flash.marked is None else _unpack(flash.read(flash.marked))


def store(flash: Flash, credential: Credential) -> bool:
    """Write to the free slot, read back, make current; False leaves the current one as it was."""
    slot = 0 if flash.marked is None else 1 - flash.marked
    octets = _pack(credential)
    flash.write(slot, octets)
    if flash.read(slot) != octets:
        return False
    flash.marked = slot
    return True


def load_key(flash: Flash) -> bytes:
    """Return the key of a claim under way, empty if there is none."""
    return flash.read(_KEY)


def store_key(flash: Flash, pem: bytes) -> bool:
    """Write the key of a claim under way and read it back; False if it is not there."""
    flash.write(_KEY, pem)
    return flash.read(_KEY) == pem


def go_back(flash: Flash) -> None:
    """Make the former credential current again, or none if there was none."""
    if flash.marked is not None:
        other = 1 - flash.marked
        flash.marked = other if _unpack(flash.read(other)) else None


def _pack(credential: Credential) -> bytes:
    octets = json.dumps(asdict(credential)).encode()
    return hashlib.sha256(octets).digest() + octets


def _unpack(octets: bytes) -> Credential | None:
    digest, body = octets[:32], octets[32:]
    if hashlib.sha256(body).digest() != digest:
        return None
    found = json.loads(body)
    return Credential(**{**found, "publish": tuple(found["publish"]), "subscribe": tuple(found["subscribe"])})
