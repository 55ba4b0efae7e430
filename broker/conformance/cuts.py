"""Power fails after each step of the hand-over."""

from __future__ import annotations

from broker.conformance.bench import Seen
from broker.conformance.sheet import Check
from broker.conformance.story import Ending, Story, Unreached, is_alive, is_connect, is_publish, is_subscribe


class Cuts(Story):
    """See the module."""

    what = "power cuts after each step"

    async def tell(self) -> None:
        """Tell it."""
        await self._begin()
        for check, what, step in (
            (Check.CUT_CONNECT, "it has sent CONNECT", is_connect),
            (Check.CUT_SUBSCRIBE, "it has sent SUBSCRIBE", is_subscribe),
            (Check.CUT_CLAIM, "it has sent its claim", is_publish),
        ):
            self._bench.freeze_at(step)
            if await self._bench.next(step, self._pace.patience) is None:
                raise Unreached(f"there is no moment when {what}")
            await self._cycle(what)
            await self._see_back(check)
        heard = await self._claim("it does not claim after a power cut", Check.CUT_CLAIM)
        self._say(heard.line, self._desk.offer(heard.claim, self._credential), "offer")
        await self._cycle("an offer was sent to it")
        await self._see_back(Check.CUT_OFFER)
        await self._see_stored()
        if not (await self._finish()).confirmed:
            raise Unreached("after power cuts it did not confirm its credential")
        await self._see_confirmed()

    async def _see_back(self, check: Check) -> None:
        mark = len(self._bench.seen)
        back = await self._bench.next(is_alive, self._pace.patience)
        if not self._sheet.judge(check, back is not None, "it came back and went on", "it never came back"):
            raise Unreached("it does not come back from a power cut")
        self._bench.rewind(mark)

    async def _see_stored(self) -> None:
        """Until it says that it stored; then power fails before it hears anything."""
        self._bench.freeze_at(self._is_ack)
        promised = await self._promise()
        if promised is None:
            self._sheet.failed(Check.CUT_OFFER, "it came back, and neither acked nor logged in")
            raise Unreached("it neither acks nor logs in after an offer")
        mark = await self._cycle(promised)
        seen = await self._bench.next(lambda one: self._is_message(one) or self._is_login(one), self._pace.patience)
        lost = seen is not None and self._is_claim(seen)
        why = "it claimed again: what it said it had stored was gone" if lost else "it never came back"
        self._sheet.judge(
            Check.STORES,
            seen is not None and not lost,
            f"power failed when {promised}, and it still had its credential",
            f"power failed when {promised}, and {why}",
        )
        self._bench.rewind(mark)

    async def _promise(self) -> str | None:
        """Serve it until it acks, or has logged in and does not ack; what it did then."""
        end = Ending()
        while (seen := await self._next_deed(self._pace.quiet if end.logged_in else self._pace.patience)) is not None:
            if self._is_ack(seen):
                return "it had acked `stored`"
            self._answer(seen, end)
        return "it had logged in at the device broker" if end.logged_in else None

    async def _see_confirmed(self) -> None:
        mark = await self._cycle("it is confirmed")
        await self._login()
        seen: list[Seen] = self._bench.since(mark)
        claimed = any(self._is_claim(one) for one in seen)
        badly = "it claimed again" if claimed else "it never came back"
        self._sheet.judge(
            Check.CUT_CONFIRMED,
            any(is_alive(one) for one in seen) and not claimed,
            "it went on with the credential it had",
            f"confirmed, and after a power cut {badly}",
        )
