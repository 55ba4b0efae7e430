"""The fifteen MQTT packets as values, the same for 3.1.1 and 5; what only MQTT 5 has is empty in 3.1.1."""

from dataclasses import dataclass, field

from broker.mqtt.properties import Properties
from broker.mqtt.wire import V311


@dataclass(frozen=True, slots=True)
class Will:
    """The message a server publishes when the client is lost (section 3.1.3)."""

    topic: str
    payload: bytes
    qos: int = 0
    retain: bool = False
    properties: Properties = field(default_factory=Properties)


@dataclass(frozen=True, slots=True)
class Connect:
    """The first packet of a client. `version` is 4 or 5; `keep_alive` is in seconds, 0 is none."""

    client_id: str
    version: int = V311
    clean_start: bool = True
    keep_alive: int = 0
    username: str | None = None
    password: bytes | None = field(default=None, repr=False)
    will: Will | None = None
    properties: Properties = field(default_factory=Properties)


@dataclass(frozen=True, slots=True)
class Connack:
    """The answer to CONNECT; `code` is a `ReturnCode` in 3.1.1 and a `ReasonCode` in 5."""

    code: int = 0
    session_present: bool = False
    properties: Properties = field(default_factory=Properties)


@dataclass(frozen=True, slots=True)
class Publish:
    """A message; `packet_id` is 0 exactly when `qos` is 0."""

    topic: str
    payload: bytes
    qos: int = 0
    packet_id: int = 0
    retain: bool = False
    dup: bool = False
    properties: Properties = field(default_factory=Properties)


@dataclass(frozen=True, slots=True)
class Puback:
    """QoS 1: received. The reason code is 0 in 3.1.1."""

    packet_id: int
    code: int = 0
    properties: Properties = field(default_factory=Properties)


@dataclass(frozen=True, slots=True)
class Pubrec:
    """QoS 2, first answer."""

    packet_id: int
    code: int = 0
    properties: Properties = field(default_factory=Properties)


@dataclass(frozen=True, slots=True)
class Pubrel:
    """QoS 2, release by the sender."""

    packet_id: int
    code: int = 0
    properties: Properties = field(default_factory=Properties)


@dataclass(frozen=True, slots=True)
class Pubcomp:
    """QoS 2, complete."""

    packet_id: int
    code: int = 0
    properties: Properties = field(default_factory=Properties)


@dataclass(frozen=True, slots=True)
class Subscription:
    """One topic filter with its options; all but `qos` are of MQTT 5 and 0 in 3.1.1."""

    topic_filter: str
    qos: int = 0
    no_local: bool = False
    retain_as_published: bool = False
    retain_handling: int = 0


@dataclass(frozen=True, slots=True)
class Subscribe:
    """One or more topic filters."""

    packet_id: int
    subscriptions: tuple[Subscription, ...]
    properties: Properties = field(default_factory=Properties)


@dataclass(frozen=True, slots=True)
class Suback:
    """One code per topic filter: the granted QoS, or 0x80 and above."""

    packet_id: int
    codes: tuple[int, ...]
    properties: Properties = field(default_factory=Properties)


@dataclass(frozen=True, slots=True)
class Unsubscribe:
    """One or more topic filters to forget."""

    packet_id: int
    topic_filters: tuple[str, ...]
    properties: Properties = field(default_factory=Properties)


@dataclass(frozen=True, slots=True)
class Unsuback:
    """The answer to UNSUBSCRIBE; `codes` is empty in 3.1.1."""

    packet_id: int
    codes: tuple[int, ...] = ()
    properties: Properties = field(default_factory=Properties)


@dataclass(frozen=True, slots=True)
class Pingreq:
    """The client is alive."""


@dataclass(frozen=True, slots=True)
class Pingresp:
    """So is the server."""


@dataclass(frozen=True, slots=True)
class Disconnect:
    """The last packet; in 3.1.1 only clients send it, without code."""

    code: int = 0
    properties: Properties = field(default_factory=Properties)


@dataclass(frozen=True, slots=True)
class Auth:
    """A step of enhanced authentication, MQTT 5 only."""

    code: int = 0
    properties: Properties = field(default_factory=Properties)


Packet = (
    Connect
    | Connack
    | Publish
    | Puback
    | Pubrec
    | Pubrel
    | Pubcomp
    | Subscribe
    | Suback
    | Unsubscribe
    | Unsuback
    | Pingreq
    | Pingresp
    | Disconnect
    | Auth
)
