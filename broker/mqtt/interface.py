"""What the endpoint asks of the rest of the program, and what it may be told to take; `endpoint` exports all of it."""

import enum
from collections import Counter
from dataclasses import dataclass, field
from typing import Literal, Protocol

from broker.mqtt.conversation import SessionLimits


class LoginVerdict(enum.Enum):
    """What became of a login. BUSY is said at once: 3 on MQTT 3.1.1, 0x97 on 5."""

    ADMITTED = enum.auto()
    REFUSED = enum.auto()
    BUSY = enum.auto()


@dataclass(frozen=True, slots=True)
class CertificateLogin:
    """A device's certificate was right: whose topics its session has, and the certificate's serial."""

    user: str
    serial: str


@dataclass(frozen=True, slots=True)
class Inbound:
    """A claim (`request`) or ack as it came in.

    `source` is the peer's IP address; `tls` says how it came, `secure` also holds for a loopback peer; `connection` is
    unique while the process lives; `reply_limit` is the payload bytes the client can take, None without limit;
    `certificate` is the serial of the certificate that logged in, None after a login by password.
    """

    user: str
    client_id: str
    kind: Literal["request", "ack"]
    payload: bytes = field(repr=False)
    source: str
    secure: bool
    tls: bool
    connection: int
    reply_limit: int | None
    certificate: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A reply. `proof` is the nonce that proved the key, or "plain"; None when nothing was proved.

    `copies` is 1 but where a server shall be unreliable on purpose (`chaos`).
    """

    payload: bytes = field(repr=False)
    content_type: str
    proof: str | None
    copies: int = 1


class Service(Protocol):
    """Decides; the endpoint only carries."""

    async def login(self, user: str, password: bytes, client_id: str) -> LoginVerdict:
        """Judge a login; what CONNECT did not have is empty. The endpoint hides how long a refusal took."""

    async def certificate_login(self, certificate: bytes, client_id: str) -> CertificateLogin | LoginVerdict:
        """Judge a login without a password by the certificate (DER) of its connection, whatever user CONNECT named."""

    async def answer(self, message: Inbound) -> Answer:
        """Answer a claim or ack. Does not raise, and observes `reply_limit`."""

    def bad_topic(self, user: str, client_id: str) -> Answer:
        """The `bad-request` reply for a 3.1.1 client that published to another topic."""


@dataclass(frozen=True, slots=True)
class EndpointLimits(SessionLimits):
    """What one endpoint may take; sizes in bytes, times in seconds. The defaults are the wire contract's."""

    max_connections: int = 10_000
    max_connections_per_source: int = 1_000
    unproved_per_source: int = 4
    unproved_per_client_id: int = 16
    proved_per_client_id: int = 4
    refusal_grid: float = 0.1
    """A refused login is answered at the next multiple of this after its CONNECT."""
    closing_time: float = 2.0
    """How long a client we are through with may take to read our last words and hang up."""
    write_buffer: int = 32_768
    """Unread replies above this stop us from reading."""


@dataclass(slots=True)
class Counters:
    """Counts since the start, for metrics; `open` is the number of connections now."""

    connections: int = 0
    open: int = 0
    admitted: int = 0
    messages: int = 0
    evicted: int = 0
    replaced: int = 0
    unsendable: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """By `Refusal`'s name in lower case."""
