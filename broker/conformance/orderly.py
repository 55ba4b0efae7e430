"""Replies withheld, late and doubled, `wait` again and again; then a good end with `forget`, and a power cut."""

from __future__ import annotations

from typing import Final

from broker.conformance.answers import Claimed
from broker.conformance.line import Side
from broker.conformance.sheet import Check
from broker.conformance.story import Ending, Heard, Story, Unreached, is_connect, is_publish, is_subscribe
from broker.mqtt.packets import Subscribe
from provisioner.errors import Reason

_WAITS: Final = 5
_EARLY: Final = 0.98
"""Clocks differ a little."""
_LEAST_SPREAD: Final = 0.05
"""Of `retryAfter`: five pauses with half of it as jitter lie closer together once in two thousand examinations."""


class Orderly(Story):
    """See the module."""

    what = "replies withheld, late and doubled, then a good end"

    async def tell(self) -> None:
        """Tell it."""
        await self._begin(suback_delay=self._pace.suback_delay)
        first = await self._see_subscription()
        second = await self._see_repeat(first)
        third = await self._see_waits(second)
        last = await self._see_late_reply(first, third)
        offer = self._desk.offer(last.claim, self._credential)
        for _ in range(2):
            self._say(last.line, offer, "offer")
        end = await self._finish(forget=True, doubled=True)
        badly = "it claimed again" if end.claims else "it never confirmed"
        self._sheet.judge(
            Check.DUPLICATE,
            end.confirmed and not end.claims,
            "offer and confirmation came twice, and it went on as after one",
            f"the offer came twice, and {badly}",
        )
        if not end.confirmed:
            raise Unreached("it did not confirm its credential")
        await self._see_new_life(end, proved=last.claim.nonce is not None)

    async def _see_subscription(self) -> Heard:
        seen = await self._bench.next(lambda one: is_subscribe(one) or is_publish(one), self._pace.patience)
        if seen is None:
            raise Unreached("it neither subscribes nor publishes at the provision broker")
        subscribed = isinstance(seen.packet, Subscribe)
        if isinstance(seen.packet, Subscribe):
            filters = [one.topic_filter for one in seen.packet.subscriptions]
            if filters != [self._desk.reply_topic]:
                told = f"it subscribed to {', '.join(filters)}; its own topic is {self._desk.reply_topic}"
                self._sheet.failed(Check.CONTRACT, told)
        early = seen if not subscribed else await self._bench.next(is_publish, self._pace.suback_delay * _EARLY)
        self._sheet.judge(
            Check.SUBSCRIBES,
            early is None,
            "it waited for SUBACK before its claim",
            "it published before SUBACK came" if subscribed else "it published before it subscribed",
        )
        self._bench.suback_delay = 0.0
        if early is not None and (claim := self._read_claim(early)) is not None:
            return Heard(early.at, early.line, claim)
        return await self._claim("it does not claim after SUBACK")

    async def _see_repeat(self, first: Heard) -> Heard:
        second = await self._claim("it claims once, and never again when no reply comes", Check.REPEATS)
        after = second.at - first.at
        badly = _differing(first.claim, second.claim)
        if not badly and after < self._pace.reply * _EARLY:
            badly = f"it repeated after {after:.1f} s, without waiting {self._pace.reply:g} s for a reply"
        self._sheet.judge(Check.REPEATS, not badly, f"it repeated the claim after {after:.1f} s", badly)
        return second

    async def _see_waits(self, heard: Heard) -> Heard:
        wanted, gaps = self._pace.retry_after, []
        for _ in range(_WAITS):
            request_id, sent = heard.claim.request_id, self._bench.now()
            self._say(heard.line, self._desk.wait(heard.claim, wanted), f"wait {wanted} s")
            heard = await self._claim("told to wait, it does not come back", Check.RETRY_AFTER)
            gaps.append(heard.at - sent)
            if heard.claim.request_id != request_id:
                self._sheet.failed(Check.REPEATS, "after `wait` it came back with another requestId")
        told = f"told to wait {wanted} s, it came back after {', '.join(f'{gap:.2f}' for gap in gaps)} s"
        if self._sheet.judge(Check.RETRY_AFTER, min(gaps) >= wanted * _EARLY, told, told):
            herd = f"{told}: a herd of them would stay together (0-50 % are to be added)"
            self._sheet.judge(Check.JITTER, max(gaps) - min(gaps) >= wanted * _LEAST_SPREAD, told, herd)
        else:
            self._sheet.skipped(Check.JITTER, "it does not wait at all")
        return heard

    async def _see_late_reply(self, first: Heard, heard: Heard) -> Heard:
        mark = len(self._bench.seen)
        self._say(
            heard.line, self._desk.other_request(heard.claim, Reason.ABANDONED), "abandoned, to another requestId"
        )
        if first.claim.nonce is not None:
            self._say(heard.line, self._desk.refusal(first.claim, Reason.ABANDONED), "abandoned, to its first nonce")
        self._say(heard.line, self._desk.wait(heard.claim, 1), "wait 1 s")
        back = await self._next_claim()
        self._sheet.judge(
            Check.LATE,
            back is not None and not self._acted(mark),
            "replies to an earlier nonce and to another requestId changed nothing",
            "a reply to an earlier nonce or to another requestId stopped it",
        )
        return back or await self._revived("it does not claim any more after a late reply")

    async def _see_new_life(self, end: Ending, *, proved: bool) -> None:
        """After confirmation with `forget`, and after a power cut behind that."""
        logged_in = end.logged_in or await self._login()
        mark = await self._cycle("it is confirmed")
        again = await self._login()
        await self._bench.next(lambda _: False, self._pace.quiet)
        badly = (
            "it logged in at the device broker with something else than its new credential"
            if end.strange
            else "it was confirmed and never logged in at the device broker with its new credential"
            if not logged_in
            else "after a power cut it did not log in at the device broker again"
        )
        good = logged_in and again and not end.strange
        self._sheet.judge(Check.NEW_IDENTITY, good, "it logged in at the device broker, after a power cut too", badly)
        if not proved:
            self._sheet.skipped(Check.FORGETS, "in plain mode nothing is proved, so nothing makes it forget")
            return
        if not end.acked:
            self._sheet.skipped(Check.FORGETS, "it never acks, so nobody can tell it to forget")
            return
        used = [one for one in self._bench.since(mark) if one.side is Side.CLAIMS and is_connect(one)]
        self._sheet.judge(
            Check.FORGETS,
            not used,
            "told to forget, it did not use the provisioning login any more",
            "told to forget, it used the provisioning login again after a power cut",
        )


def _differing(first: Claimed, second: Claimed) -> str:
    """Why the second is no repeat of the first, empty if it is one."""
    if first.request_id != second.request_id:
        return f"its repeat has another requestId: {second.request_id} after {first.request_id}"
    if first.identity != second.identity:
        return "its repeat asks for a certificate on another key"
    if first.nonce is not None and first.nonce == second.nonce:
        return "its repeat has the same nonce"
    return ""
