"""Passwords of the provisioning logins.

1. A password that people chose is kept as Argon2id (OWASP profile: 19 MiB, t=2, p=1), a generated one as a keyed hash:
   with 140 bits no slow hash is needed (NIST SP 800-63B, section 5.1.2).
2. A slow verification runs in a thread, one at a time: a storm of CONNECTs must not take the machine.
3. What verified once is remembered under a keyed hash in memory, so each further CONNECT costs microseconds. Those who
   come with the same login while it is being verified share that verification: a herd after a start is one of them.
4. Unknown user and wrong password cost the same: an unknown user has a hash that fits nothing, and both run the slow
   verification wherever any user has a slow hash.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections import OrderedDict
from collections.abc import Callable

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError

from provisioner.errors import Unavailable

_HASHER = PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)
_REMEMBERED = 1024
_WAITING = 32

GENERATED = "hmac-sha256:"


class Passwords:
    """Hashes and verifies. `entropy` gives the process-wide key of the memory of verified passwords."""

    def __init__(self, entropy: Callable[[int], bytes]) -> None:
        self._entropy = entropy
        self._key = entropy(32)
        self._nobody = self.hash_generated(entropy(32).hex())
        self._verified: OrderedDict[bytes, None] = OrderedDict()
        self._slot = asyncio.Semaphore(1)
        self._waiting = 0
        self._verifying: dict[bytes, asyncio.Task[bool]] = {}
        self._decoy: str | None = None

    def hash_generated(self, password: str) -> str:
        """Stored form of a generated password (112 bits and more)."""
        salt = self._entropy(16)
        return f"{GENERATED}{salt.hex()}:{hmac.digest(salt, password.encode(), 'sha256').hex()}"

    async def hash_chosen(self, password: str) -> str:
        """Stored form of a password that a person chose."""
        async with self._slot:
            return await asyncio.to_thread(_HASHER.hash, password)

    async def verify(self, stored: str | None, password: bytes, *, slow_refusals: bool) -> bool:
        """Whether `password` is the one behind `stored` (None: no such user).

        `slow_refusals`: some user has a slow hash, so every refusal has to take as long as one. Raises `Unavailable`
        when too many verifications wait already.
        """
        if stored is None:
            stored = self._nobody
        # Each CONNECT comes by here: `hmac.digest` would let go of the interpreter, and wait for the ledger's threads.
        memory = hmac.new(self._key, stored.encode() + b"|" + hashlib.sha256(password).digest(), "sha256").digest()
        if memory in self._verified:
            return True
        if stored.startswith(GENERATED):
            salt, _, digest = stored.removeprefix(GENERATED).partition(":")
            good = hmac.compare_digest(hmac.digest(bytes.fromhex(salt), password, "sha256").hex(), digest)
            if not good and slow_refusals:
                await self._slow(None, password)
        else:
            good = await self._shared(memory, stored, password)
        if good:
            self._verified[memory] = None
            if len(self._verified) > _REMEMBERED:
                self._verified.popitem(last=False)
        return good

    async def _shared(self, memory: bytes, stored: str, password: bytes) -> bool:
        task = self._verifying.get(memory)
        if task is None:
            task = self._verifying[memory] = asyncio.create_task(self._slow(stored, password))
            task.add_done_callback(lambda _: self._verifying.pop(memory))
        return await asyncio.shield(task)

    async def _slow(self, stored: str | None, password: bytes) -> bool:
        if self._waiting >= _WAITING:
            raise Unavailable("too many logins are being verified", retry_after=2)
        self._waiting += 1
        try:
            async with self._slot:
                if stored is None:
                    if self._decoy is None:
                        self._decoy = await asyncio.to_thread(_HASHER.hash, self._entropy(16))
                    await asyncio.to_thread(_matches, self._decoy, password)
                    return False
                return await asyncio.to_thread(_matches, stored, password)
        finally:
            self._waiting -= 1


def _matches(stored: str, password: bytes) -> bool:
    try:
        return _HASHER.verify(stored, password)
    except (Argon2Error, InvalidHashError):
        return False
