"""What no provisioner says, one thing after the other.

Behind each comes a good `wait`, so that it costs a device that keeps the contract nothing but time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from broker.conformance.sheet import Check
from broker.conformance.story import Heard, Story
from provisioner.errors import Reason

_OVERSIZED = 12_000
_ROOM = 400
"""Bytes that topic and members need besides the padding."""


@dataclass(frozen=True, slots=True)
class _Evil:
    """Something bad to say; `needs_proofs`: in plain mode it would be right."""

    check: Check
    what: str
    make: Callable[[Heard], bytes]
    needs_proofs: bool = True


class Hostile(Story):
    """See the module."""

    what = "what no provisioner says"

    async def tell(self) -> None:
        """Tell it."""
        await self._begin()
        heard = await self._claim("it does not claim")
        for evil in self._evils():
            if evil.needs_proofs and heard.claim.nonce is None:
                self._sheet.skipped(evil.check, "it claims in plain mode, which has no proofs and seals")
            else:
                heard = await self._offend(evil, heard)
        self._say(heard.line, self._desk.offer(heard.claim, self._credential), "offer")
        if not (await self._finish()).confirmed:
            self._sheet.failed(Check.CONTRACT, "after hostile replies it did not take a good offer")

    def _evils(self) -> list[_Evil]:
        desk, credential = self._desk, self._credential
        generation = credential.generation
        return [
            _Evil(Check.SEALED_WRONG, "an offer sealed wrongly", lambda one: desk.sealed_wrong(one.claim, credential)),
            _Evil(Check.UNPROVED, "`abandoned` without proof", lambda one: desk.unproved(one.claim, Reason.ABANDONED)),
            _Evil(
                Check.UNPROVED,
                "`unsupported` without proof",
                lambda one: desk.unproved(one.claim, Reason.UNSUPPORTED, supported=["plain"]),
            ),
            _Evil(
                Check.UNPROVED,
                "`confirmed` and `forget` without proof",
                lambda one: desk.unproved(one.claim, Reason.CONFIRMED, generation=generation, forget=True),
            ),
            _Evil(Check.OVERSIZED, "an oversized reply", self._oversized, needs_proofs=False),
            _Evil(Check.GARBAGE, "bytes that are no message", lambda _: bytes(range(256)), needs_proofs=False),
        ]

    def _oversized(self, heard: Heard) -> bytes:
        most = heard.line.largest_reply
        return self._desk.oversized(heard.claim, _OVERSIZED if most is None else min(_OVERSIZED, max(0, most - _ROOM)))

    async def _offend(self, evil: _Evil, heard: Heard) -> Heard:
        mark = len(self._bench.seen)
        self._say(heard.line, evil.make(heard), evil.what)
        self._say(heard.line, self._desk.wait(heard.claim, 1), "wait 1 s")
        back = await self._next_claim()
        if back is None:
            self._sheet.failed(evil.check, f"after {evil.what} it never claimed again")
            return await self._revived(f"after {evil.what} it does not claim any more")
        if acted := self._acted(mark):
            self._sheet.failed(evil.check, f"after {evil.what} it {acted}")
        elif heard.claim.nonce is not None and back.claim.nonce is None:
            self._sheet.failed(evil.check, f"after {evil.what} it sent its activation key itself")
        else:
            self._sheet.passed(evil.check, "it came to nothing: the device claimed again")
        return back
