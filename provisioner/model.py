"""The values every room speaks in: frozen, plain, without behaviour that needs the outside.

1. Times are whole milliseconds since the Unix epoch (`Millis`), UTC, as the seeds and the wire have them.
2. Names are the seeds' names in snake case; the doors spell them their own way.
3. A secret is never a plain `str` or `bytes` in a value that may be logged: it is a `Secret`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, TypeVar

from provisioner.errors import Reason
from provisioner.handover import Conversation
from provisioner.lifecycle import Phase, State

Millis = int
"""Milliseconds since 1970-01-01T00:00:00Z."""


class Secret:
    """Text that must not show up anywhere by accident: `repr` and `str` hide it, `reveal` gives it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The text itself."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(…)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


class AccountKind(StrEnum):
    """PROVISION: devices start here. TARGET: owns devices afterwards."""

    PROVISION = "PROVISION"
    TARGET = "TARGET"


class Coupling(StrEnum):
    """STRICT (tight): only its client id may use a credential. LOOSE: any of the account. INHERITED: the account's."""

    STRICT = "STRICT"
    LOOSE = "LOOSE"
    INHERITED = "INHERITED"


class Status(StrEnum):
    """The operator's switch; not progress."""

    ENABLED = "ENABLED"
    DISABLED = "DISABLED"


class Kind(StrEnum):
    """What a request prescribes: a password that is minted here, or a certificate on the device's own key."""

    PASSWORD = "password"  # noqa: S105 - a kind of credential
    X509 = "x509"


CIK_IDENTITY = "cik"
PASSWORD_IDENTITY = "password"  # noqa: S105 - the wire contract's name of an identity (section 9, rule 3)


class Confirm(StrEnum):
    """What proves that the device holds its credential: its first login, its ack `stored`, or either."""

    LOGIN = "login"
    ACK = "ack"
    EITHER = "either"


class JobStatus(StrEnum):
    """Everyware's thirteen job statuses."""

    CREATED = "CREATED"
    STARTED = "STARTED"
    RUNNING = "RUNNING"
    APPS_INSTALLING = "APPS_INSTALLING"
    APPS_INSTALLED = "APPS_INSTALLED"
    CONF_UPDATING = "CONF_UPDATING"
    CONF_UPDATED = "CONF_UPDATED"
    STOPPING = "STOPPING"
    STOPPED = "STOPPED"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    ABANDONED = "ABANDONED"
    SKIPPED = "SKIPPED"


PROGRESS = (JobStatus.APPS_INSTALLING, JobStatus.APPS_INSTALLED, JobStatus.CONF_UPDATING, JobStatus.CONF_UPDATED)
"""What an ack `progress` may report."""


class Role(StrEnum):
    """What an operator token allows, from least to most (see `policy.check_role`)."""

    VIEWER = "viewer"
    PREPARER = "preparer"
    INSTALLER = "installer"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Account:
    """A tenant."""

    id: int
    uid: str
    name: str
    display_name: str
    kind: AccountKind
    parent_id: int | None
    coupling: Coupling
    device_broker: str
    quota: int | None
    created_on: Millis
    created_by: int
    modified_on: Millis
    modified_by: int
    optlock: int = 1


class LabelKind(StrEnum):
    """What a label says: what a device is for, or where it is."""

    TAG = "tag"
    LOCATION = "location"


@dataclass(frozen=True, slots=True)
class Label:
    """A tag or a location of an account and all below it; `account_id` None: of all."""

    uid: str
    kind: LabelKind
    account_id: int | None
    name: str
    created_on: Millis
    created_by: int


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that is kept for devices; `account_id` None: for those of all accounts. `sha256`: hex digits."""

    id: str
    account_id: int | None
    name: str
    size: int
    sha256: str
    created_on: Millis
    created_by: int


@dataclass(frozen=True, slots=True)
class Attached:
    """An attachment as an offer tells it: its content, or where it may be fetched, once, until `expires_on`."""

    type: str
    name: str
    size: int
    sha256: str
    content: bytes | None = None
    url: str | None = field(default=None, repr=False)
    expires_on: Millis | None = None


@dataclass(frozen=True, slots=True)
class PolicyRules:
    """The rules; None says nothing. `confirm_time`, `window` and `validity` in seconds.

    `window`: from the start of a request to its end. `validity`: after that a proved credential is renewed. `topics`:
    see `topics`. `kinds`: those a request may have, the first where it does not say. `configuration`: JSON text of the
    template. `storage_ceiling_gb`: what a device may ask for at most.
    """

    username: str | None = None
    coupling: Coupling = Coupling.INHERITED
    kinds: tuple[Kind, ...] = (Kind.PASSWORD,)
    validity: int | None = None
    confirm: Confirm | None = None
    confirm_time: int | None = None
    retry_max_attempts: int | None = None
    window: int | None = None
    secure_url: bool | None = None
    topics: str | None = None
    configuration: str | None = None
    storage_ceiling_gb: int | None = None


@dataclass(frozen=True, slots=True)
class Policy:
    """One version of a policy; `account_id` None: for all."""

    uid: str
    version: int
    account_id: int | None
    name: str
    rules: PolicyRules
    created_on: Millis
    created_by: int


@dataclass(frozen=True, slots=True)
class User:
    """A login devices start with; `password_hash` is never the password (see `passwords`)."""

    id: int
    account_id: int
    username: str
    password_hash: str = field(repr=False)
    created_on: Millis
    created_by: int


@dataclass(frozen=True, slots=True)
class Token:
    """An operator's bearer token, stored hashed. It sees `account_id` and its children; None: everything."""

    id: int
    name: str
    role: Role
    account_id: int | None
    token_hash: str = field(repr=False)
    created_on: Millis


@dataclass(frozen=True)
class Facts:
    """What a request says about the unit; a claim's `device` must not contradict it."""

    serial_number: str | None = None
    mac_address: str | None = None
    vendor: str | None = None
    brand: str | None = None
    model: str | None = None


@dataclass(frozen=True)
class Labels:
    """What a request is told onwards with, and never decided on; uids have 32 hex digits.

    `policy_uid` and `policy_version` name the policy it was made by. `confirmed_ownership`: whether the owner said so.
    """

    tag_uids: tuple[str, ...] = ()
    location_uid: str | None = None
    policy_uid: str | None = None
    policy_version: int | None = None
    confirmed_ownership: bool | None = None


NO_LABELS = Labels()


@dataclass(frozen=True)
class ProvisionRequest:
    """The pending permission for one device, with its job: the seed's ProvisionRequest and ProvisionJob.

    `topics` see `topics`; `validity`: how long after its confirmation a credential is renewed; `record`
    is what another product's door keeps beside it (`dps`).
    `optlock` counts the operator's changes, `job_optlock` those of the hand-over. `generation` is the newest minted
    for this request (0: none), `proved_generation` the one a device last proved.
    """

    id: int
    job_id: int
    account_id: int
    account_name: str
    client_id: str
    provision_user_id: int
    provision_username: str
    device_broker: str
    status: Status
    activates_on: Millis | None
    expires_on: Millis | None
    secure_url: bool
    coupling: Coupling
    confirm: Confirm
    confirm_time: Millis
    configuration: str
    facts: Facts
    device_name: str | None
    forget: bool
    reuse_key: bool
    retry_max_attempts: int
    keys_sealed: str | None = field(repr=False)
    phase: Phase = Phase.PENDING
    generation: int = 0
    proved_generation: int | None = None
    retry_count: int = 0
    rotate_wanted: bool = False
    stop_wanted: bool = False
    skipped: bool = False
    progress: JobStatus | None = None
    start_on: Millis | None = None
    last_refusal: str | None = None
    created_on: Millis = 0
    created_by: int = 0
    modified_on: Millis = 0
    modified_by: int = 0
    optlock: int = 1
    job_optlock: int = 1
    labels: Labels = NO_LABELS
    topics: str | None = None
    validity: Millis | None = None
    kind: Kind = Kind.PASSWORD
    record: str | None = None
    attachments: str | None = None


@dataclass(frozen=True)
class Credential:
    """One generation of a device credential. `due_on` is when a job looks at it next (None: nothing to do).

    `identity` is `password`, `cik`, or the `key_id` of the device's key (section 9, rule 3): then there is a
    `Certificate`, and `renew_on` is when the device should ask for the next one.
    """

    device_broker: str
    client_id: str
    generation: int
    request_id: int
    account_name: str
    username: str
    coupling: Coupling
    identity: str
    secret_sealed: str | None = field(repr=False)
    secret_hash: str = field(repr=False)
    state: State
    minted_on: Millis
    confirm_before: Millis
    due_on: Millis | None
    attempts: int = 0
    settled_on: Millis | None = None
    topics: str | None = None
    bound_to: str | None = None
    renew_on: Millis | None = None

    @property
    def is_certificate(self) -> bool:
        """Whether it is a certificate; else a secret that was made here."""
        return self.identity not in (PASSWORD_IDENTITY, CIK_IDENTITY)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What is remembered of a certificate: the order it is made from, whose it is, and whether it still counts.

    `serial` has 34 hex digits, `issuer` is the key identifier of who signs and `key_id` the SHA-256 of the device's
    public key, both in hex; `order_text` is an `Order` of `certs`, encoded. `revoked_on` is set once, with the commit
    that retires the credential.
    """

    serial: str
    device_broker: str
    client_id: str
    generation: int
    request_id: int
    issuer: str
    key_id: str
    order_text: str = field(repr=False)
    not_before: Millis
    not_after: Millis
    revoked_on: Millis | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class DeviceCertificate:
    """A certificate as a device gets it: `pem` is the chain below the root, leaf first."""

    pem: str = field(repr=False)
    not_before: Millis
    not_after: Millis


@dataclass(frozen=True, slots=True)
class Dossier:
    """Everything one decision about a device needs, read in one go.

    `credential` is the request's newest generation. `bound_generation` is the one the message's requestId was first
    used for (None: never seen). `last_generation` is the highest ever for this client id on its device broker,
    or what a lost ledger may have minted (`restore`), if that is more.
    `occupied`: a credential of this client id that is neither retired nor one of (`generation`, `proved_generation`)
    still exists, so nothing new may be minted yet.
    """

    request: ProvisionRequest
    credential: Credential | None
    bound_generation: int | None
    last_generation: int
    occupied: bool


SHARED = 0
"""The connection number of what came through somebody else's broker: whose address and TLS nobody here has seen."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a message came from: peer address, connection number (or `SHARED`), and whether nobody could listen.

    `certificate` is the serial of the certificate of ours that the session logged in with (`login_by_certificate`).
    """

    source: str
    connection: int
    secure: bool
    tls: bool = False
    certificate: str | None = None


@dataclass(frozen=True, slots=True)
class Proof:
    """A message's HMAC proof and the nonce it is over; `proof` is the 32 bytes."""

    nonce: str
    proof: bytes


@dataclass(frozen=True, slots=True)
class Claim:
    """A device asks for its credential (wire contract, section 5), every field within its grammar.

    `key` is the activation key (plain mode), `proof` proof mode; both None: keyless. `seal_to` is the text as sent,
    `alg` the empty string when absent, `csr` DER. `encoding` is `json` or `cbor`: the reply comes in the same.
    """

    user: str
    client_id: str
    request_id: str
    origin: Origin
    key: Secret | None = None
    proof: Proof | None = None
    seal_to: str = ""
    alg: str = ""
    csr: bytes | None = None
    accept: tuple[str, ...] = ()
    max_reply: int | None = None
    device: Mapping[str, str | int | float | bool] = field(default_factory=dict)
    encoding: str = "json"


class Result(StrEnum):
    """What an ack reports."""

    STORED = "stored"
    FAILED = "failed"
    PROGRESS = "progress"


@dataclass(frozen=True, slots=True)
class Ack:
    """A device reports what became of its credential (wire contract, section 8)."""

    user: str
    client_id: str
    request_id: str
    generation: int
    result: Result
    origin: Origin
    status: JobStatus | None = None
    key: Secret | None = None
    proof: Proof | None = None
    encoding: str = "json"


@dataclass(frozen=True, slots=True)
class Grant:
    """Topic rights of a device: filters it may publish to and subscribe to."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class BrokerAddress:
    """Where the device works afterwards: `url` is `mqtt://host:port` or `mqtts://host:port`; `ca` PEM or None."""

    url: str
    ca: str | None = None


@dataclass(frozen=True, slots=True)
class Offer:
    """Here is the credential: what the reply `offer` tells (wire contract, section 7).

    With a certificate there is no password: it is empty.
    """

    request_id: str
    generation: int
    server_time: Millis
    confirm_before: Millis
    confirm: Confirm
    coupling: Coupling
    client_id: str
    username: str
    password: Secret
    account: str
    broker: BrokerAddress
    grant: Grant
    configuration: str
    conversation: Conversation
    certificate: DeviceCertificate | None = None
    attachments: tuple[Attached, ...] = ()


@dataclass(frozen=True, slots=True)
class Taken:
    """An ack was taken: `confirmed` or `noted` (wire contract, section 7)."""

    reason: Reason
    generation: int
    conversation: Conversation
    forget: bool = False


@dataclass(frozen=True, slots=True)
class DeviceRights:
    """What a login at the device broker may do there."""

    account: str
    username: str
    client_id: str
    grant: Grant


@dataclass(frozen=True, slots=True)
class CertificateSession:
    """A provisioning session of a device that showed its certificate: `user` is whose topics it has.

    `is_offered`: nothing has confirmed this generation yet.
    """

    user: str
    client_id: str
    serial: str
    generation: int
    is_offered: bool


class Line(NamedTuple):
    """One decision in the journal.

    `request_id` None and `client_id` empty: not about a device. `before` and `phase` are the request's, `actor` is an
    operator's token id.
    """

    at: Millis
    action: str
    actor: int | None
    source: str
    request_id: int | None
    client_id: str
    generation: int | None
    before: str | None
    phase: str | None
    cause: str


class Entry(NamedTuple):
    """A line in its place: `seq` counts from 1 without gaps, `digest` 32 bytes."""

    seq: int
    line: Line
    digest: bytes


Evolving = TypeVar("Evolving", ProvisionRequest, Credential)


def evolve(value: Evolving, **changes: object) -> Evolving:
    """`dataclasses.replace` for the two values a claim changes a dozen times: that one takes 30 us, this one 2.

    They have no `__slots__` and no `__post_init__`, so their attributes are all there is. Raises `TypeError` for an
    unknown field, as `replace` does.
    """
    fields = value.__dict__.copy()
    fields.update(changes)
    if len(fields) != len(value.__dict__):
        raise TypeError(f"{type(value).__name__} has no {', '.join(changes.keys() - value.__dict__.keys())}")
    return made(type(value), fields)


def made(kind: type[Evolving], fields: dict[str, object]) -> Evolving:
    """A value of all its fields, as its constructor would make it in twenty times the time; see `evolve`."""
    value = object.__new__(kind)
    object.__setattr__(value, "__dict__", fields)
    return value


def topic_rights(account: str, client_id: str) -> Grant:
    """Topics of a device: everything under `{account}/{clientId}/` (domain, coupling)."""
    own = (f"{account}/{client_id}/#",)
    return Grant(publish=own, subscribe=own)


_PHASE_STATUS = {
    Phase.PENDING: JobStatus.CREATED,
    Phase.MINTED: JobStatus.STARTED,
    Phase.INSTALLED: JobStatus.RUNNING,
    Phase.OFFERED: JobStatus.RUNNING,
    Phase.RETIRING: JobStatus.STOPPING,
    Phase.CONFIRMED: JobStatus.COMPLETED,
    Phase.RENEWING: JobStatus.COMPLETED,
    Phase.EXPIRED: JobStatus.FAILED,
    Phase.ABANDONED: JobStatus.ABANDONED,
    Phase.STOPPED: JobStatus.STOPPED,
    Phase.FAILED: JobStatus.FAILED,
}


def job_status(request: ProvisionRequest) -> JobStatus:
    """Everyware's job status of a request (wire contract, section 9, column *job status*)."""
    if request.skipped and request.phase is Phase.STOPPED:
        return JobStatus.SKIPPED
    if request.phase is Phase.OFFERED and request.progress is not None:
        return request.progress
    return _PHASE_STATUS[request.phase]
