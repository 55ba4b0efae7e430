"""What answers at the provision broker: one message in, one reply out, one log line.

1. The clock is read once per message; everything below gets that `now`.
2. A refusal that proves nothing leaves at the next multiple of 100 ms after its message came: how long the look-up and
   the comparison took tells nothing about which devices exist.
3. What nobody expected is `unavailable` to the device, and one traceback in the log.
4. The log line has no key, password, proof or CSR: it is made of names and of our own words.
5. A claim that would wait too long is answered `slow-down` before anything is looked up, whoever sent it (`backlog`).
   Acks are always taken: they end hand-overs that were begun.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable

import structlog

from broker.mqtt import messages
from broker.mqtt.backlog import Backlog, BacklogLimits
from broker.mqtt.interface import Answer, CertificateLogin, Inbound, LoginVerdict
from broker.mqtt.messages import CONTENT_TYPE, Body
from provisioner.errors import ProvisionerError, Reason, Rejected, Unavailable
from provisioner.model import Claim, Millis, Offer, Origin, Taken
from provisioner.ports import Entropy
from provisioner.service import Provisioner

log = structlog.get_logger(__name__)


class Responder:
    """The endpoint's `Service` around a `Provisioner`. `clock` is the wall clock in epoch milliseconds."""

    def __init__(self, provisioner: Provisioner, clock: Callable[[], Millis], entropy: Entropy) -> None:
        self._provisioner = provisioner
        self._clock = clock
        self._entropy = entropy
        self._backlog = Backlog(BacklogLimits(), entropy)
        self.refusal_grid = 0.1
        """Seconds; see rule 2."""
        # Bound once: a logger that binds per line costs as much as the line.
        self._log = log.bind()
        self.answered: Counter[tuple[str, str]] = Counter()
        """Replies by (kind, reason), for metrics."""

    async def login(self, user: str, password: bytes, client_id: str) -> LoginVerdict:
        """See `Service`."""
        try:
            admitted = await self._provisioner.login(user, password, client_id)
        except Unavailable:
            return LoginVerdict.BUSY
        except Exception:
            log.exception("login", action="login", client_id=client_id)
            return LoginVerdict.BUSY
        return LoginVerdict.ADMITTED if admitted else LoginVerdict.REFUSED

    async def certificate_login(self, certificate: bytes, client_id: str) -> CertificateLogin | LoginVerdict:
        """See `Service`."""
        try:
            session = await self._provisioner.login_by_certificate(certificate, client_id, self._clock())
        except Unavailable:
            return LoginVerdict.BUSY
        except Exception:
            log.exception("login", action="login", client_id=client_id)
            return LoginVerdict.BUSY
        return LoginVerdict.REFUSED if session is None else CertificateLogin(session.user, session.serial)

    async def answer(self, message: Inbound) -> Answer:
        """See `Service`."""
        began = time.monotonic()
        trace = self._entropy(4).hex()
        body = Body(message.payload)
        outcome = await self.outcome(message, body, trace)
        reason = _reason(outcome)
        if isinstance(outcome, ProvisionerError) and outcome.conversation is None and reason in _UNPROVED:
            await asyncio.sleep(self.refusal_grid - (time.monotonic() - began) % self.refusal_grid)
        self.answered[message.kind, reason] += 1
        payload = messages.encode(outcome, body, trace, self._entropy)
        self._log.info(
            "answered",
            action="claim" if message.kind == "request" else "ack",
            user=message.user,
            client_id=message.client_id,
            request_id=body.request_id,
            reason=reason.value,
            step=getattr(outcome, "step", "") or None,
            source=message.source,
            trace=trace,
            duration_ms=round((time.monotonic() - began) * 1000, 1),
        )
        return Answer(payload, CONTENT_TYPE[body.encoding], _proof(outcome))

    async def outcome(self, message: Inbound, body: Body, trace: str) -> Offer | Taken | ProvisionerError:
        """What a message came to; does not raise."""
        origin = Origin(message.source, message.connection, message.secure, message.tls, message.certificate)
        now = self._clock()
        try:
            body.read(message.payload)
            if message.kind == "request":
                claim = messages.parse_claim(body, message.user, message.client_id, origin, message.reply_limit)
                return await self.claim(claim, now)
            return await self._provisioner.ack(messages.parse_ack(body, message.user, message.client_id, origin), now)
        except ProvisionerError as error:
            # Its frames hold what was read; letting go of that takes a moment, which must not come behind the grid.
            return error.with_traceback(None)
        except Exception:
            log.exception("internal", action=message.kind, client_id=message.client_id, trace=trace)
            return Unavailable("internal", retry_after=30)

    async def claim(self, claim: Claim, now: Millis) -> Offer:
        """Rule 5, for claims that come in by another door as well. Raises `Rejected`, `Unavailable`."""
        if again := self._backlog.take(time.monotonic()):
            raise Rejected(Reason.SLOW_DOWN, retry_after=again)
        try:
            return await self._provisioner.claim(claim, now)
        finally:
            self._backlog.end(time.monotonic())

    def bad_topic(self, user: str, client_id: str) -> Answer:
        """See `Service`."""
        trace = self._entropy(4).hex()
        self._log.info("answered", action="publish", user=user, client_id=client_id, reason="bad-request", trace=trace)
        refusal = Rejected(Reason.BAD_REQUEST, step="match")
        return Answer(messages.encode(refusal, Body(b""), trace, self._entropy), CONTENT_TYPE["json"], None)


_UNPROVED = frozenset((Reason.DENIED, Reason.SLOW_DOWN))


def _reason(outcome: Offer | Taken | ProvisionerError) -> Reason:
    if isinstance(outcome, Offer):
        return Reason.OFFER
    if isinstance(outcome, (Taken, Rejected)):
        return outcome.reason
    return Reason.UNAVAILABLE


def _proof(outcome: Offer | Taken | ProvisionerError) -> str | None:
    conversation = outcome.conversation
    if conversation is None:
        return None
    return conversation.nonce or "plain"
