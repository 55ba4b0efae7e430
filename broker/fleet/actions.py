"""What a device is, and what it asks its surroundings to do.

`device` speaks in these actions; `unit` carries them out with real connections, tests with none.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from broker.fleet.replies import Credential, Encoding, Reply


class Mode(StrEnum):
    """How a device shows its key, and how its offer comes back."""

    PLAIN = "plain"
    PROOF = "proof"
    CTR = "ctr"
    HPKE = "hpke"


class Finish(StrEnum):
    """What the device does once its credential is stored; what the offer's `confirm` needs is done in any case."""

    LOGIN = "login"
    ACK = "ack"
    BOTH = "both"


@dataclass(frozen=True, slots=True)
class Identity:
    """What the factory wrote: the provisioning login, the client id, the activation key."""

    user: str
    password: str = field(repr=False)
    client_id: str
    activation_key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Times:
    """How patient a device is, seconds; the defaults are the contract's (section 10).

    `reply` is waited for, then the pause doubles from `first_pause` to `longest_pause`, or to `longest_doubt` after a
    refusal that no repetition helps and nobody can prove; one above `keep_connection` is spent disconnected. `opening`
    is what a connection, its login and its SUBSCRIBE get each.
    """

    reply: float = 10.0
    first_pause: float = 5.0
    longest_pause: float = 300.0
    longest_doubt: float = 3_600.0
    keep_connection: float = 60.0
    opening: float = 10.0


@dataclass(frozen=True, slots=True)
class Options:
    """How this unit is built. `progress` are the statuses it reports after storing; `facts` go into `device`.

    `csr`: it makes a key of its own for each credential and asks for a certificate on it.
    """

    mode: Mode = Mode.PROOF
    encoding: Encoding = Encoding.JSON
    finish: Finish = Finish.BOTH
    csr: bool = False
    accept: tuple[str, ...] = ()
    max_reply: int | None = None
    facts: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    progress: tuple[str, ...] = ()
    root: str = "prov/v1"
    times: Times = field(default_factory=Times)


@dataclass(frozen=True, slots=True)
class Connect:
    """Open a provisioning session; report `connected`, then `subscribed` when asked, or `lost`."""


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Subscribe at QoS 1 and wait for SUBACK; report `subscribed`, or `lost` if refused."""

    topic_filter: str


@dataclass(frozen=True, slots=True)
class Publish:
    """Send at QoS 1."""

    topic: str
    payload: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Close the provisioning session; nothing is reported back."""


@dataclass(frozen=True, slots=True)
class Login:
    """Log in at the device broker; report `login_accepted`, `login_refused` or `login_unreachable`."""

    credential: Credential


@dataclass(frozen=True, slots=True)
class Step:
    """Something worth telling: `name` is one word, `reply` what the provisioner said, `seconds` a pause."""

    name: str
    text: str = ""
    reply: Reply | None = None
    seconds: float = 0.0


Action = Connect | Subscribe | Publish | Disconnect | Login | Step
