"""The reference device: what a unit does with the wire contract, as a pure state machine.

No socket, no clock, no randomness: what happened comes in through the methods below, with `now` in seconds of any
steady clock; what to do next comes out of `take()`; `due` says when `tick` is wanted; `entropy` is given.

1. One exchange at a time: a message is sent, and repeated with the same requestId and a fresh nonce until its reply.
   Replies to one of its last four nonces count, each once; everything else is dropped (section 7).
2. A reply without a valid proof means at most "try later", and for hardly longer than our own longest pause. Only in
   plain mode, where the checked server certificate vouches for it, it may also be an offer, or end an exchange.
   It never makes the device stop, forget, switch mode or send its key. One that would end it, had it a proof, is worth
   pauses that grow to `Times.longest_doubt` in plain mode, where no proof will ever come.
3. A sealed offer is its own proof; one that is not sealed as we asked is none.
4. The new credential is written to the free slot, read back, then made current (`flash`). The former one becomes
   current again only after the device broker itself refused the new one three times, or the new one is superseded.
5. A unit that asks for certificates makes a key for each, and stores it before the first claim with it: after a restart
   half-way it claims with the same key, so it gets the same certificate.
6. A connection on which two messages in a row found no reply is given up: it may be open at this end only.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal

from broker.fleet import flash as slots
from broker.fleet.actions import (
    Action,
    Connect,
    Disconnect,
    Finish,
    Identity,
    Login,
    Mode,
    Options,
    Publish,
    Step,
    Subscribe,
)
from broker.fleet.device_key import SEED_SIZE, DeviceKey
from broker.fleet.keys import NotForUs, encode64
from broker.fleet.messages import Messages
from broker.fleet.replies import Credential, Reply, Unreadable, parse_reply

LOGIN_ATTEMPTS: Final = 3
LARGEST_REPLY: Final = 65_536
_NONCES: Final = 4
_NO_USE: Final = frozenset(
    ("already-provisioned", "expired", "abandoned", "bad-request", "bad-csr", "unsupported", "too-large")
)
"""Refusals that no repetition helps: an operator has to act, or this firmware has to be changed."""
_SILENT_MESSAGES: Final = 2


class State(StrEnum):
    """Where the device is."""

    OFF = "off"
    CLAIMING = "claiming"
    STORED = "stored"
    CONFIRMED = "confirmed"
    STOPPED = "stopped"


@dataclass(slots=True)
class _Exchange:
    """One message on its way to its reply: a claim (`result` empty) or an ack."""

    result: str = ""
    status: str = ""
    nonces: tuple[str, ...] = ()
    attempts: int = 0
    """Tries in vain since the last reply that told us when to come back."""


@dataclass(slots=True)
class _Todo:
    """What is still to be done with, and what is known about, the stored credential."""

    progress: tuple[str, ...]
    logged_in: bool = False
    acked: bool = False
    confirmed: bool = False
    refusals: int = 0
    unreached: int = 0


class Device:
    """One unit. `identity` is None once it was told to forget it; `credential` is the one in current use."""

    def __init__(
        self, identity: Identity, options: Options, flash: slots.Flash, entropy: Callable[[int], bytes]
    ) -> None:
        self.identity: Identity | None = None if flash.forgotten else identity
        self.credential: Credential | None = slots.load(flash)
        self.request_id = ""
        self.state = State.OFF
        self.due: float | None = None
        self.times = options.times
        self._options = options
        self._messages = Messages(identity, options, entropy)
        self._max_reply = options.max_reply
        self._flash = flash
        self._entropy = entropy
        self._exchange: _Exchange | None = None
        self._link: Literal["down", "opening", "up"] = "down"
        self._unanswered = 0
        self._on_due: Callable[[float], None] | None = None
        self._actions: list[Action] = []
        self._claims_in_vain = 0
        self._todo = _Todo(options.progress)

    def take(self) -> list[Action]:
        """Return what is to be done now, in order, and forget it."""
        actions, self._actions = self._actions, []
        return actions

    def peek(self, payload: bytes) -> bytes | None:
        """What is inside a sealed reply, None if it is not for us; for whoever keeps a record, nothing happens."""
        try:
            return self._messages.open(parse_reply(payload, self._options.encoding))
        except (Unreadable, NotForUs):
            return None

    # What happened -----------------------------------------------------------------------------------------------

    def start(self, now: float) -> None:
        """Power on: use what flash holds, or claim."""
        if self.credential is None:
            self._claim_anew(now)
        else:
            self.request_id = self.credential.request_id
            self._go_on(now)

    def renew(self, now: float) -> None:
        """Claim once more although there is a credential, because the operator asked for a rotation."""
        self._claim_anew(now)

    def tick(self, now: float) -> None:
        """Time has passed; does nothing before `due`."""
        if self.due is not None and now >= self.due and self._on_due is not None:
            on_due = self._on_due
            self._set_timer(None, None)
            on_due(now)

    def connected(self, _now: float) -> None:
        """CONNACK 0 arrived."""
        self._actions.append(Subscribe(self._messages.topics + "reply"))

    def subscribed(self, now: float) -> None:
        """SUBACK granted the reply topic."""
        self._link = "up"
        self._unanswered = 0
        if self.due is None:
            self._send(now)

    def lost(self, now: float) -> None:
        """The provisioning session could not be had, or is gone."""
        self._link = "down"
        if not self._is_pausing():
            self._back_off(now)

    def receive(self, payload: bytes, now: float) -> None:
        """Something arrived on the reply topic."""
        exchange = self._exchange
        try:
            reply = parse_reply(payload, self._options.encoding)
            if exchange is None or reply.request_id != self.request_id:
                return
            self._unanswered = 0
            if self._options.mode is Mode.PLAIN:
                self._take_plain(exchange, reply, now)
            elif reply.nonce in exchange.nonces:
                self._take_proved(exchange, reply, now)
        except (Unreadable, NotForUs):
            return

    def login_accepted(self, now: float) -> None:
        """The device broker let us in."""
        self._todo.logged_in = True
        self._actions.append(Step("logged-in"))
        self._go_on(now)

    def login_refused(self, now: float, why: str = "") -> None:
        """The device broker said no to this login."""
        self._todo.refusals += 1
        self._actions.append(Step("login-refused", why))
        if self._todo.refusals < LOGIN_ATTEMPTS:
            self._pause(now, self._jittered(self._todo.refusals - 1), self._go_on)
        else:
            self._begin(_Exchange("failed"), now)

    def login_unreachable(self, now: float, why: str = "") -> None:
        """The device broker could not be asked: that says nothing about the credential.

        After three times the device counts as one that cannot log in (section 8) and tells at least that it stored.
        """
        self._todo.unreached += 1
        self._actions.append(Step("login-unreachable", why))
        if self._todo.unreached == LOGIN_ATTEMPTS and not self._todo.acked:
            self._begin(_Exchange("stored"), now)
        else:
            self._pause(now, self._jittered(self._todo.unreached - 1), self._go_on)

    # Replies -----------------------------------------------------------------------------------------------------

    def _take_plain(self, exchange: _Exchange, reply: Reply, now: float) -> None:
        if reply.reason == "offer" and not exchange.result:
            self._store(self._messages.read_offer(reply), now)
        elif not self._end_exchange(exchange, reply, now, proved=False):
            self._doubt(reply, now)

    def _take_proved(self, exchange: _Exchange, reply: Reply, now: float) -> None:
        if reply.sealed is not None:
            if not exchange.result:
                self._store(self._messages.read_offer(reply), now)
        elif reply.proof is None:
            self._doubt(reply, now)
        else:
            self._messages.check(reply.proof, reply)
            # Answered: what comes for this nonce or an older one is a replay.
            exchange.nonces = exchange.nonces[exchange.nonces.index(reply.nonce or "") + 1 :]
            if not self._end_exchange(exchange, reply, now, proved=True):
                self._obey(reply, now)

    def _store(self, credential: Credential, now: float) -> None:
        if credential.request_id != self.request_id:
            raise Unreadable
        self._actions.append(Step("offer-opened"))
        if not slots.store(self._flash, credential):
            self._actions.append(Step("flash-failed"))
            self._back_off(now)
            return
        if credential.private_key is not None:
            slots.store_key(self._flash, b"")  # it is in the record now; the next claim takes a new one
        self.credential = credential
        self.state = State.STORED
        self._claims_in_vain = 0
        self._todo = _Todo(self._options.progress)
        self._actions.append(Step("stored", f"generation {credential.generation}"))
        self._end(now)

    def _end_exchange(self, exchange: _Exchange, reply: Reply, now: float, *, proved: bool) -> bool:
        """Act on a reply that ends what we asked; False if it is none of those."""
        match exchange.result, reply.reason:
            case "stored", "confirmed":
                self._todo.acked = self._todo.confirmed = True
                if reply.forget and proved:
                    self.identity, self._flash.forgotten = None, True
                self._end(now)
            case "stored", "noted":
                self._todo.acked = True
                self._end(now)
            case "progress", "noted":
                self._todo.progress = self._todo.progress[1:]
                self._end(now)
            case ("failed", "noted") | ("failed" | "stored" | "progress", "superseded"):
                slots.go_back(self._flash)
                self.credential = slots.load(self._flash)
                self._claim_anew(now)
            case _, "superseded":
                self._claim_anew(now)
            case _:
                return False
        return True

    def _obey(self, reply: Reply, now: float) -> None:
        """Act on a proved refusal (the table of section 7)."""
        self._actions.append(Step("refused", reply=reply))
        match reply.reason:
            case "too-large" if self._max_reply and self._max_reply < (reply.needed or 0) <= LARGEST_REPLY:
                self._max_reply = reply.needed
                self._send(now)
            case reason if reason in _NO_USE:
                self._halt(State.STOPPED, reply.reason)
            case _ if reply.retry_after is not None:
                if self._exchange is not None:
                    self._exchange.attempts = 0
                self._pause(now, reply.retry_after * (1 + self._random() / 2), self._send)
            case _:
                self._back_off(now)

    def _doubt(self, reply: Reply, now: float) -> None:
        """Anybody may have written this: at most try later. Its nonce stays good for the true reply."""
        if self._is_pausing():
            return
        self._actions.append(Step("refused", reply=reply))
        if self._options.mode is Mode.PLAIN and reply.reason in _NO_USE:
            self._back_off(now, self.times.longest_doubt, f"{reply.reason}, which plain mode cannot prove")
        elif reply.retry_after is None:
            self._back_off(now)
        else:
            self._pause(now, min(reply.retry_after, self.times.longest_pause) * (1 + self._random() / 2), self._send)

    # What to do next ---------------------------------------------------------------------------------------------

    def _go_on(self, now: float) -> None:
        """Do the next thing with the stored credential: report progress, log in, ack, be happy."""
        credential, todo, finish = self.credential, self._todo, self._options.finish
        if credential is None:
            return
        login_needed = credential.confirm == "login" or (finish is not Finish.ACK and not todo.confirmed)
        ack_needed = (credential.confirm == "ack" or finish is not Finish.LOGIN) and self.identity is not None
        if todo.progress and self.identity is not None:
            self._begin(_Exchange("progress", todo.progress[0]), now)
        elif login_needed and not todo.logged_in:
            self._actions.append(Login(credential))
        elif ack_needed and not todo.acked:
            self._begin(_Exchange("stored"), now)
        else:
            self._halt(State.CONFIRMED)

    def _claim_anew(self, now: float) -> None:
        """Claim with a new requestId; at once the first time, so that no reply makes us claim in a tight circle."""
        self.request_id = "r-" + self._entropy(8).hex()
        self.state = State.CLAIMING
        self._claims_in_vain += 1
        if self._options.csr and not self._take_key():
            self._exchange = None
            self._actions.append(Step("flash-failed"))
            self._pause(now, self._jittered(self._claims_in_vain), self._claim_anew)
            return
        self._begin(_Exchange(attempts=max(0, self._claims_in_vain - 2)), now, pause=self._claims_in_vain > 2)

    def _take_key(self) -> bool:
        """Claim with the key that was stored for a claim before the power went, else with a new one, stored first."""
        messages = self._messages
        messages.device_key = DeviceKey.load(slots.load_key(self._flash)) if messages.device_key is None else None
        if messages.device_key is None:
            messages.device_key = DeviceKey.made_from(self._entropy(SEED_SIZE))
        return slots.store_key(self._flash, messages.device_key.pem.encode())

    def _begin(self, exchange: _Exchange, now: float, *, pause: bool = False) -> None:
        self._exchange = exchange
        self._set_timer(None, None)
        if pause:
            self._back_off(now)
        else:
            self._send(now)

    def _end(self, now: float) -> None:
        self._exchange = None
        self._set_timer(None, None)
        self._go_on(now)

    def _halt(self, state: State, why: str = "") -> None:
        self.state = state
        self._exchange = None
        self._set_timer(None, None)
        self._actions.append(Step(str(state), why))
        self._hang_up()

    def _send(self, now: float) -> None:
        exchange = self._exchange
        if exchange is None or self.identity is None:
            return
        if self._link == "down":
            self._link = "opening"
            self._actions.append(Connect())
        elif self._link == "up":
            nonce = encode64(self._entropy(16))
            exchange.nonces = (*exchange.nonces, nonce)[-_NONCES:]
            self._actions += self._written(exchange, nonce)
            self._set_timer(now + self.times.reply, self._miss_reply)

    def _written(self, exchange: _Exchange, nonce: str) -> tuple[Publish, Step]:
        messages, result, status = self._messages, exchange.result, exchange.status
        if not result:
            claim = messages.claim(self.request_id, nonce, self._max_reply)
            return Publish(messages.topics + "request", claim), Step("claim", self.request_id)
        generation = self.credential.generation if self.credential else 0
        ack = messages.ack(self.request_id, nonce, generation, result, status)
        return Publish(messages.topics + "ack", ack), Step("ack", f"{result} {status}".strip())

    # Time --------------------------------------------------------------------------------------------------------

    def _miss_reply(self, now: float) -> None:
        self._unanswered += 1
        if self._unanswered >= _SILENT_MESSAGES:
            self._hang_up()
        self._back_off(now)

    def _back_off(self, now: float, longest: float | None = None, why: str = "") -> None:
        exchange = self._exchange
        if exchange is not None:
            exchange.attempts += 1
            self._pause(now, self._jittered(exchange.attempts - 1, longest), self._send, why)

    def _pause(self, now: float, seconds: float, then: Callable[[float], None], why: str = "") -> None:
        self._actions.append(Step("pause", why, seconds=seconds))
        if seconds > self.times.keep_connection:
            self._hang_up()
        self._set_timer(now + seconds, then)

    def _hang_up(self) -> None:
        if self._link != "down":
            self._link = "down"
            self._actions.append(Disconnect())

    def _is_pausing(self) -> bool:
        # Bound methods compare by object and function; what else is waited for than a reply is the end of a pause.
        return self.due is not None and self._on_due != self._miss_reply

    def _set_timer(self, due: float | None, on_due: Callable[[float], None] | None) -> None:
        self.due, self._on_due = due, on_due

    def _jittered(self, attempt: int, longest: float | None = None) -> float:
        """Full jitter under the first pause x 2^attempt, at most the longest."""
        longest = self.times.longest_pause if longest is None else longest
        return self._random() * min(longest, self.times.first_pause * 2.0 ** min(attempt, 16))

    def _random(self) -> float:
        return int.from_bytes(self._entropy(6)) / 2**48
