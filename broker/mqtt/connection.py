"""One socket around one session: moves bytes, asks the service, keeps the clock.

1. Nothing is decided here: `protocol` knows the conversation, `capacity` who may have it, the service what is answered.
2. All connections of an endpoint share one receive buffer: the event loop fills it and hands it over in one go.
3. A connection that we end is told why, then given a moment to read that and hang up: closing with unread data in the
   socket would reset it, and the last words would be lost.
4. A CONNECT without a password on a connection that showed a client certificate is a login by that certificate. Such a
   session has proved its key: it is not counted among those that have not, and may replace the oldest that has.
5. A message is answered to the end even if its sender is gone; until then the connection's seat stays taken.
"""

import asyncio
import ipaddress
import math
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import Any, Final, cast

import structlog

from broker.mqtt.capacity import PLAIN, Capacity, Seat
from broker.mqtt.conversation import BadTopic, Event, Login, Message, Refusal, ReplyTooLarge
from broker.mqtt.interface import Counters, EndpointLimits, Inbound, LoginVerdict, Service
from broker.mqtt.packets import ReasonCode
from broker.mqtt.protocol import HUNG_UP, Session
from broker.mqtt.topics import Topics
from broker.tls import client_certificate
from provisioner.policy import is_identifier

_RECEIVE_BUFFER: Final = 16_384
# What a client we are through with may still send before it is cut off.
_DISCARDED_AT_MOST: Final = 65_536

_PROVED: Final = "a newer session of this client id proved its key"
_CROWDED: Final = "too many sessions of this client id have not proved its key"

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class Shared:
    """What the connections of one endpoint have in common."""

    service: Service
    limits: EndpointLimits
    topics: Topics
    capacity: "Capacity[Connection]"
    counters: Counters = field(default_factory=Counters)
    connections: "set[Connection]" = field(default_factory=set)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    buffer: memoryview = field(default_factory=lambda: memoryview(bytearray(_RECEIVE_BUFFER)))
    all_gone: asyncio.Event = field(default_factory=asyncio.Event)
    draining: bool = False
    closed: bool = False


class Connection(asyncio.BufferedProtocol):
    """The endpoint's side of one connection; asyncio calls the public methods named after its protocol."""

    __slots__ = (
        "_certificate",
        "_choked",
        "_discarded",
        "_leaving",
        "_loop",
        "_lost",
        "_number",
        "_paused",
        "_pending",
        "_seat",
        "_secure",
        "_serial",
        "_session",
        "_shared",
        "_source",
        "_timer",
        "_timer_due",
        "_tls",
        "_transport",
    )

    _transport: asyncio.Transport
    _seat: "Seat[Connection]"
    _session: Session

    def __init__(self, shared: Shared, loop: asyncio.AbstractEventLoop, number: int) -> None:
        self._shared = shared
        self._loop = loop
        self._number = number
        self._source = ""
        self._certificate = b""
        self._serial: str | None = None
        self._tls = self._secure = self._paused = self._choked = self._leaving = self._lost = False
        self._discarded = 0
        self._pending = 0
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = math.inf

    # asyncio's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a seat and begin to listen."""
        self._transport = cast("asyncio.Transport", transport)
        shared = self._shared
        self._source = _address(transport.get_extra_info("peername"))
        self._tls = transport.get_extra_info("sslcontext") is not None
        self._certificate = client_certificate(transport)
        self._secure = self._tls or _is_loopback(self._source)
        self._transport.set_write_buffer_limits(high=shared.limits.write_buffer)
        self._session = Session(shared.topics, shared.limits, self._loop.time())
        self._seat, evicted = shared.capacity.arrive(self, _network(self._source))
        if evicted is not None:
            shared.counters.evicted += 1
            evicted.abort()
        if shared.closed:
            self.abort()
        shared.connections.add(self)
        shared.all_gone.clear()
        shared.counters.connections += 1
        shared.counters.open += 1
        self._set_timer(self._session.next_deadline)

    def get_buffer(self, _sizehint: int) -> memoryview:
        """Lend the shared buffer: it is emptied before another connection can ask for it."""
        return self._shared.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Hand what was received to the session."""
        if self._leaving:
            self._discarded += nbytes
            if self._discarded > _DISCARDED_AT_MOST:
                self._transport.abort()
            return
        self._handle(self._session.receive(self._shared.buffer[:nbytes].tobytes(), self._loop.time()))

    def eof_received(self) -> None:
        """Let the transport close: a client that hangs up half-way hears no reply."""

    def pause_writing(self) -> None:
        """Stop reading while the client does not read our replies."""
        self._choked = True
        self._regulate()

    def resume_writing(self) -> None:
        """Read on."""
        self._choked = False
        self._regulate()

    def connection_lost(self, _error: Exception | None) -> None:
        """Give the seat back, unless an answer is still being made."""
        self._lost = self._leaving = True
        self._set_timer(math.inf)
        self._shared.connections.discard(self)
        self._shared.counters.open -= 1
        if not self._shared.connections:
            self._shared.all_gone.set()
        if not self._pending:
            self._release()

    # The endpoint's side.

    def abort(self) -> None:
        """Cut the connection at once."""
        self._transport.abort()

    def drain(self) -> None:
        """End the session as soon as nothing is being answered; one that has not logged in is left to its CONNECT."""
        if not self._leaving and not self._pending and self._seat.identity is not None:
            self._session.disconnect(ReasonCode.SERVER_SHUTTING_DOWN, "shutting down, try later")
            self._flush()

    def hang_up(self) -> None:
        """End now, with last words where there is a session to hear them."""
        self.drain()
        if not self._leaving:
            self.abort()

    def replace(self, why: str) -> None:
        """End the session in favour of another one of its client id."""
        self._session.disconnect(ReasonCode.QUOTA_EXCEEDED, why)
        self._flush()

    # The session's side.

    def _handle(self, events: list[Event]) -> None:
        if events:
            self._dispatch(events)
        if self._session.in_flight:
            # Behind the first step of what was just started: a PUBACK and a ready reply leave in one packet.
            self._loop.call_soon(self._flush)
        else:
            self._flush()

    def _dispatch(self, events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Message):
                self._shared.counters.messages += 1
                self._start(self._answer(event))
            elif isinstance(event, Login):
                self._on_login(event)
            else:
                self._on_bad_topic(event)

    def _on_login(self, login: Login) -> None:
        shared = self._shared
        shared.capacity.speak(self._seat)
        if shared.draining:
            self._session.refuse(Refusal.DRAINING)
        elif not shared.capacity.has_room(
            self._seat, login.user, login.client_id, proved=self._is_by_certificate(login)
        ):
            self._session.refuse(Refusal.FULL)
        else:
            self._start(self._log_in(login))

    def _is_by_certificate(self, login: Login) -> bool:
        return bool(self._certificate) and not login.password

    def _on_bad_topic(self, _event: BadTopic) -> None:
        session = self._session
        answer = self._shared.service.bad_topic(session.user, session.client_id)
        session.reply_and_end(answer.payload, answer.content_type)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._pending += 1
        task = self._loop.create_task(work)
        self._shared.tasks.add(task)
        task.add_done_callback(self._shared.tasks.discard)

    def _finish(self) -> None:
        """Write what one piece of work led to; the last thing it does."""
        self._pending -= 1
        self._flush()
        if self._shared.draining:
            self.drain()
        if self._lost and not self._pending:
            self._release()

    def _release(self) -> None:
        self._shared.capacity.leave(self._seat)
        # The seat knows its owner: without this, memory would wait for the cycle collector.
        del self._seat

    def _fail(self, error: Exception) -> None:
        log.error("service failed", exc_info=error, source=self._source, connection=self._number)
        self._session.disconnect(ReasonCode.UNSPECIFIED_ERROR, "internal error, try later")

    async def _log_in(self, login: Login) -> None:
        arrived = self._loop.time()
        try:
            verdict = await self._judge(login)
            if verdict is LoginVerdict.REFUSED or not is_identifier(self._session.user):
                # Unknown user and wrong password leave at the same time, however long each took.
                grid = self._shared.limits.refusal_grid
                steps = math.floor((self._loop.time() - arrived) / grid) + 1
                await asyncio.sleep(arrived + steps * grid - self._loop.time())
                self._session.refuse(Refusal.LOGIN)
            elif verdict is LoginVerdict.BUSY:
                self._session.refuse(Refusal.FULL)
            elif not self._leaving:
                self._admit()
        except Exception as error:  # noqa: BLE001  whatever a service does wrong is logged, and ends this session only
            self._fail(error)
        finally:
            self._finish()

    async def _judge(self, login: Login) -> LoginVerdict:
        service = self._shared.service
        if not self._is_by_certificate(login):
            return await service.login(login.user, login.password, login.client_id)
        outcome = await service.certificate_login(self._certificate, login.client_id)
        if isinstance(outcome, LoginVerdict):
            return outcome
        self._session.user, self._serial = outcome.user, outcome.serial
        return LoginVerdict.ADMITTED

    def _admit(self) -> None:
        shared, session, proved = self._shared, self._session, self._serial is not None
        if shared.draining:
            session.refuse(Refusal.DRAINING)
            return
        admitted, displaced = shared.capacity.admit(self._seat, session.user, session.client_id, proved=proved)
        if displaced is not None:
            shared.counters.replaced += 1
            displaced.replace(_CROWDED)
        if not admitted:
            session.refuse(Refusal.FULL)
            return
        shared.counters.admitted += 1
        if proved:
            self._prove(PLAIN)
        self._dispatch(session.admit(self._loop.time()))

    async def _answer(self, message: Message) -> None:
        session, shared = self._session, self._shared
        try:
            answer = await shared.service.answer(
                Inbound(
                    session.user,
                    session.client_id,
                    message.kind,
                    message.payload,
                    self._source,
                    self._secure,
                    self._tls,
                    self._number,
                    message.reply_limit,
                    self._serial,
                )
            )
            if answer.proof is not None:
                self._prove(answer.proof)
            now = self._loop.time()
            self._dispatch(session.reply(message, answer.payload, answer.content_type, now, answer.copies))
        except ReplyTooLarge:
            shared.counters.unsendable += 1
            session.disconnect(ReasonCode.PACKET_TOO_LARGE, "reply is larger than the client takes")
        except Exception as error:  # noqa: BLE001  as above
            self._fail(error)
        finally:
            self._finish()

    def _prove(self, proof: str) -> None:
        replaced = self._shared.capacity.prove(self._seat, self._session.user, self._session.client_id, proof)
        if replaced is not None:
            self._shared.counters.replaced += 1
            replaced.replace(_PROVED)

    # The transport's side.

    def _flush(self) -> None:
        if self._leaving:
            return
        data = self._session.data_to_send()
        if data:
            self._transport.write(data)
        if self._session.ended is not None:
            self._leave()
            return
        if self._paused or not self._session.wants_data:
            self._regulate()
        due = self._session.next_deadline
        if due < self._timer_due:
            self._set_timer(due)

    def _regulate(self) -> None:
        pause = not self._leaving and (self._choked or not self._session.wants_data)
        if pause is self._paused or self._transport.is_closing():
            return
        self._paused = pause
        if pause:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()

    def _leave(self) -> None:
        self._leaving = True
        refusal = self._session.refused
        if refusal is not None:
            self._shared.counters.refused[refusal.name.lower()] += 1
            log.debug("connect refused", reason=refusal.words, source=self._source, connection=self._number)
        hung_up = self._session.ended is HUNG_UP
        if hung_up or not self._transport.can_write_eof():
            self._transport.close()
        else:
            self._regulate()
            self._transport.write_eof()
        if not hung_up or self._transport.get_write_buffer_size():
            self._set_timer(self._loop.time() + self._shared.limits.closing_time)

    def _set_timer(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_due = due
        self._timer = None if due == math.inf else self._loop.call_at(due, self._on_timer)

    def _on_timer(self) -> None:
        # The loop may be early by its clock's grain; the session must not be.
        now = max(self._loop.time(), self._timer_due)
        self._timer, self._timer_due = None, math.inf
        if self._leaving:
            self._transport.abort()
        else:
            self._handle(self._session.tick(now))


def _address(peer: Any) -> str:
    """Return the peer's IP address, without scope, IPv4 as IPv4 even on a socket for both; empty if it is gone."""
    address = str(peer[0]) if peer else ""
    return address.partition("%")[0].removeprefix("::ffff:")


def _network(address: str) -> str:
    """Return what counts as one source: an IPv4 address, or the /64 that one IPv6 subscriber has to itself."""
    return f"{int(ipaddress.IPv6Address(address)) >> 64:x}::/64" if ":" in address else address


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"
