"""What a session (`protocol`) and its caller say to each other: limits, events, and why a CONNECT is refused."""

import enum
from dataclasses import dataclass, field
from typing import Literal

from broker.mqtt.wire import ReasonCode


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """What one session may take; sizes in bytes, times in seconds. The defaults are the wire contract's."""

    max_packet: int = 16384
    connect_time: float = 5.0
    first_claim_time: float = 10.0
    idle_time: float = 120.0
    session_time: float = 600.0
    packets_per_second: float = 10.0
    in_flight: int = 4

    @property
    def server_keep_alive(self) -> int:
        """Seconds such that one and a half of them are the idle limit (MQTT 5 section 3.2.2.3.14)."""
        return int(self.idle_time / 1.5)


class Refusal(enum.Enum):
    """Why a CONNECT is refused: 3.1.1 return code, 5 reason code, words (contract, section 4)."""

    VERSION = (1, ReasonCode.UNSUPPORTED_PROTOCOL_VERSION, "MQTT 3.1.1 or 5 is spoken here")
    CLIENT_ID = (2, ReasonCode.CLIENT_IDENTIFIER_NOT_VALID, "client id is empty or outside the grammar")
    WILL = (5, ReasonCode.NOT_AUTHORIZED, "a Will is not accepted")
    METHOD = (5, ReasonCode.BAD_AUTHENTICATION_METHOD, "enhanced authentication is not offered")
    FULL = (3, ReasonCode.QUOTA_EXCEEDED, "too many connections, try later")
    DRAINING = (3, ReasonCode.SERVER_UNAVAILABLE, "shutting down, try later")
    LOGIN = (5, ReasonCode.NOT_AUTHORIZED, "not authorized")

    def __init__(self, return_code: int, reason_code: ReasonCode, words: str) -> None:
        self.return_code = return_code
        self.reason_code = reason_code
        self.words = words


@dataclass(frozen=True, slots=True)
class Login:
    """A CONNECT waits for `Session.admit` or `Session.refuse`; what was missing is empty."""

    user: str
    password: bytes = field(repr=False)
    client_id: str


@dataclass(frozen=True, slots=True)
class Message:
    """A claim or ack waits for `Session.reply`. `reply_limit` is the payload bytes the client can take, if it said."""

    kind: Literal["request", "ack"]
    payload: bytes = field(repr=False)
    reply_limit: int | None
    correlation: bytes | None


@dataclass(frozen=True, slots=True)
class BadTopic:
    """A 3.1.1 client published to a topic not its own and waits for `Session.reply_and_end`."""


Event = Login | Message | BadTopic


class ReplyTooLarge(Exception):
    """A packet exceeds the client's Maximum Packet Size; nothing was sent (MQTT-3.1.2-24)."""
