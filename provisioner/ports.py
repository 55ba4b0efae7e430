"""What the decision needs from outside, and no verb more.

1. `Store` keeps the ledger. A `Unit` is committed whole or not at all, durably, before its call returns.
2. A unit's guards compare both `optlock`s as they were read; a stale unit changes nothing and returns False.
3. `DeviceBroker` returns from `install` only when a device could connect now, and is idempotent in every verb.
4. Each port raises `Unavailable` for any trouble of its own, and no foreign exception.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from provisioner.events import EventType, StoredEvent
from provisioner.model import (
    Account,
    Attachment,
    BrokerAddress,
    Certificate,
    Credential,
    Dossier,
    Entry,
    JobStatus,
    Label,
    LabelKind,
    Line,
    Millis,
    Offer,
    Policy,
    ProvisionRequest,
    Secret,
    Status,
    Token,
    User,
)

Entropy = Callable[[int], bytes]
"""`n` unpredictable bytes: `os.urandom`, or a seeded source in a simulation."""

Clock = Callable[[], Millis]
"""The wall clock of the edges that start work by themselves."""

Measure = Callable[[Offer, str], int]
"""Bytes of the reply that would carry this offer under this `alg` (empty: unsealed)."""


@dataclass(frozen=True, slots=True)
class Saved:
    """A request as it shall be; it is written only where both optlocks still are what they were in `before`."""

    before: ProvisionRequest
    after: ProvisionRequest


@dataclass(frozen=True, slots=True)
class Bound:
    """An authenticated requestId belongs to the generation it was first used for (section 9, rule 4)."""

    request_id: int
    text: str
    generation: int


@dataclass(frozen=True, slots=True)
class Note:
    """What the journal tells about a decision: `action` is one word, `cause` our own words, never a secret.

    `actor` is the operator's token id (None: a device or the provisioner itself), `source` a device's address.
    """

    at: Millis
    action: str
    actor: int | None = None
    source: str = ""
    cause: str = ""


@dataclass(frozen=True, slots=True)
class Suspicion:
    """Two units seem to have one activation key. `request` as it is after the unit, `detail` a sentence."""

    request: ProvisionRequest
    detail: str
    sources: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Turned:
    """A request that was not let in, as it would have been, and why: others are told, the ledger does not have it."""

    request: ProvisionRequest
    problem: str


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit of work: all of it or nothing."""

    note: Note
    saved: tuple[Saved, ...] = ()
    added: tuple[ProvisionRequest, ...] = ()
    credentials: tuple[Credential, ...] = ()
    bound: Bound | None = None
    suspicions: tuple[Suspicion, ...] = ()
    turned: tuple[Turned, ...] = ()
    certificates: tuple[Certificate, ...] = ()


@dataclass(frozen=True, slots=True)
class Listing:
    """Filters of a list; None filters nothing. `accounts` None: all. Times: overlap of the request's window."""

    accounts: tuple[int, ...] | None = None
    client_ids: tuple[str, ...] | None = None
    statuses: tuple[JobStatus, ...] | None = None
    status: Status | None = None
    start: Millis | None = None
    end: Millis | None = None
    offset: int = 0
    limit: int = 50


class LabelLedger(Protocol):
    """Tags and locations."""

    async def add(self, label: Label, note: Note) -> None:
        """Raises `Conflict` when its account has one of that kind and name."""

    async def find(self, kind: LabelKind | None = None, uids: Sequence[str] | None = None) -> Sequence[Label]:
        """Those of a kind, those of these uids, or all; oldest first."""

    async def delete(self, uid: str, note: Note) -> bool:
        """False: there is none."""


class PolicyLedger(Protocol):
    """Policies and their versions."""

    async def save(self, policy: Policy, note: Note) -> None:
        """A new policy, or its next version. Raises `Conflict`: the name is taken, or somebody was quicker."""

    async def find(self, uid: str | None = None, version: int | None = None) -> Sequence[Policy]:
        """Those in force, or that one; with `version` that one, in force or not. By name."""

    async def delete(self, uid: str, note: Note) -> bool:
        """It makes no more requests; False: it did not before."""


class Certificates(Protocol):
    """The certificates of the ledger. A retired credential's is revoked by the commit that retires it."""

    async def find(self, serial: str) -> tuple[Certificate, Credential] | None:
        """A certificate by its serial, with the credential that it is."""

    async def find_key(self, key_id: str) -> Certificate | None:
        """The only certificate there ever was for this key."""

    async def find_of(self, credential: Credential) -> Certificate | None:
        """The certificate of a credential."""

    async def list_revoked(self, issuer: str, now: Millis) -> Sequence[Certificate]:
        """What an issuer's revocation list has to tell at `now`: those that have not ended, by serial."""

    async def count_revoked(self) -> int:
        """How many were ever revoked: it goes up whenever a list is out of date."""

    async def list_issuers(self) -> Sequence[str]:
        """Key identifiers of all issuers of certificates that the ledger knows."""


class AttachmentLedger(Protocol):
    """Files that are kept for devices, and the tickets that were used."""

    async def add_piece(self, attachment_id: str, number: int, content: bytes) -> None:
        """One piece of what will be an attachment once `add` says so."""

    async def read_piece(self, attachment_id: str, number: int) -> bytes:
        """One piece of an attachment."""

    async def add(self, attachment: Attachment, note: Note) -> None:
        """Its pieces are there."""

    async def find(self, ids: Sequence[str] | None = None) -> Sequence[Attachment]:
        """Those of these ids, or all; oldest first."""

    async def delete(self, attachment_id: str, note: Note) -> bool:
        """With its pieces; False: there is none, or an open request encloses it."""

    async def prune(self) -> None:
        """At start: pieces that a dead process left without their attachment."""

    async def is_used(self, nonce: str) -> bool:
        """Whether a ticket was used."""

    async def use(self, nonce: str, expires_on: Millis, now: Millis) -> None:
        """A ticket is used, and those that are over are forgotten. Raises `Conflict`: it was used before."""


@dataclass(frozen=True, slots=True)
class LoginSeen:
    """A client id that a loose credential was used with, first and last."""

    client_id: str
    first_on: Millis
    last_on: Millis


@dataclass(frozen=True, slots=True)
class LooseCredential:
    """A loose credential in force that is bound to nothing; `own_id` is the client id it was made for."""

    account_id: int
    device_broker: str
    username: str
    request_id: int
    own_id: str
    seen: tuple[LoginSeen, ...]


@dataclass(frozen=True, slots=True)
class BoundCredential:
    """A loose credential and the one client id that may use it."""

    account_id: int
    device_broker: str
    username: str
    client_id: str


@dataclass(frozen=True, slots=True)
class Lock:
    """A batch of bindings; `undone_on` None: it holds."""

    id: int
    locked_on: Millis
    locked_by: int
    undone_on: Millis | None
    bound: tuple[BoundCredential, ...]


class SightingLedger(Protocol):
    """Who uses loose credentials, and what they were bound to."""

    async def add_sightings(self, seen: Sequence[tuple[str, str, str, Millis]], most: int) -> None:
        """(device broker, user name, client id, when); of one credential at most `most` ids are kept."""

    async def find_loose(self) -> Sequence[LooseCredential]:
        """By user name."""

    async def lock(
        self, batch: int, bindings: Sequence[tuple[LooseCredential, str]], note: Note
    ) -> tuple[BoundCredential, ...]:
        """Bind those that still are loose and in force."""

    async def undo(self, batch: int, note: Note) -> None:
        """Release what a batch bound, and the generations that followed."""

    async def is_bound(self, device_broker: str, client_id: str) -> bool:
        """Whether a loose credential in force is bound to this client id."""

    async def find_locks(self) -> Sequence[Lock]:
        """Newest first."""


class Store(Protocol):
    """The ledger."""

    @property
    def sightings(self) -> SightingLedger:
        """Its loose credentials."""

    @property
    def attachments(self) -> AttachmentLedger:
        """Its files."""

    @property
    def labels(self) -> LabelLedger:
        """Its tags and locations."""

    @property
    def policies(self) -> PolicyLedger:
        """Its policies."""

    @property
    def certificates(self) -> Certificates:
        """Those of its credentials that are certificates."""

    async def find_claim(self, user: str, client_id: str, request_id: str) -> Dossier | None:
        """Dossier of the newest request of (user, clientId), with what its requestId is bound to."""

    async def find_username(self, device_broker: str, username: str) -> Credential | None:
        """The credential of that user name."""

    async def find_live(self, device_broker: str, after: str, limit: int) -> Sequence[Credential]:
        """Credentials in force, by user name, those behind `after`."""

    async def find_request(self, request_id: int) -> Dossier | None:
        """Dossier of a request."""

    async def find_credentials(self, request_id: int) -> Sequence[Credential]:
        """All credentials of a request that are not retired, oldest first."""

    async def find_open(self, device_broker: str, client_id: str) -> Sequence[ProvisionRequest]:
        """Requests of a client id whose phase is not closed, oldest first."""

    async def find_twin(self, request: ProvisionRequest) -> ProvisionRequest | None:
        """An open request of another client id for what seems to be the same unit (serial number, MAC address)."""

    async def holds_client_id(self, device_broker: str, client_id: str, but_for: int) -> bool:
        """Whether a live credential of a request other than `but_for` was made for this client id."""

    async def commit(self, unit: Unit) -> bool:
        """Write a unit durably; False: something changed since it was read, or a key of its certificates is used."""

    async def lease_due(self, now: Millis, until: Millis, limit: int) -> Sequence[tuple[Credential, Dossier]]:
        """Take credentials whose `due_on` has come, and set it to `until`: nobody else gets them before."""

    async def release_leases(self) -> None:
        """At start: whatever was being worked on by a dead process is due at once."""

    async def recall(self, jobs: Millis, confirms: Millis) -> None:
        """Make due at once: installs and retirements due after `jobs`, confirm times that end after `confirms`."""

    async def find_lapsed(self, now: Millis, limit: int) -> Sequence[ProvisionRequest]:
        """PENDING requests whose window is over."""

    async def next_due(self) -> Millis | None:
        """When the next job is due, or the next window ends; None: nothing is waiting."""

    async def newest_id(self) -> int:
        """The largest id of anything; 0 where there is nothing."""

    async def list_requests(self, listing: Listing) -> tuple[Sequence[ProvisionRequest], bool]:
        """A page, newest first, and whether there are more behind it."""

    async def count_open(self, account_id: int) -> int:
        """Requests of an account whose phase is neither closed nor CONFIRMED."""

    async def delete_request(self, before: ProvisionRequest, note: Note) -> bool:
        """Delete a request (its credentials' names stay); False: it changed since it was read."""

    async def add_account(self, account: Account, note: Note) -> None:
        """Raises `Conflict` when the name is taken."""

    async def find_account(self, account_id: int) -> Account | None:
        """One account."""

    async def find_account_named(self, name: str) -> Account | None:
        """One account by name."""

    async def list_accounts(self) -> Sequence[Account]:
        """All of them, oldest first."""

    async def save_device_broker(self, account_id: int, device_broker: str, note: Note) -> None:
        """Where the devices of an account's future requests work."""

    async def add_user(self, user: User, note: Note) -> None:
        """Raises `Conflict` when the user name is taken."""

    async def find_user(self, username: str) -> User | None:
        """One provision user."""

    async def list_users(self) -> Sequence[User]:
        """All of them, oldest first."""

    async def save_user_password(self, user_id: int, password_hash: str, note: Note) -> None:
        """Replace a provision user's password."""

    async def add_token(self, token: Token, note: Note) -> None:
        """Raises `Conflict` when the name is taken."""

    async def find_token(self, token_hash: str) -> Token | None:
        """One token by its hash."""

    async def list_tokens(self) -> Sequence[Token]:
        """All of them, oldest first."""

    async def delete_token(self, token_id: int, note: Note) -> bool:
        """False: there is none."""

    async def record(self, lines: Sequence[Line]) -> None:
        """Append lines to the journal that belong to no unit, durably."""

    async def list_journal(self, request_id: int | None, after: int, limit: int) -> Sequence[Entry]:
        """Entries behind `after`, oldest first; of one request, or all."""

    async def head(self) -> Entry | None:
        """The newest entry of the journal."""

    async def check(self) -> None:
        """Raises `Unavailable` when the ledger cannot be written to."""


class Install(Enum):
    """What became of one credential."""

    DONE = "done"
    LATER = "later"  # the device broker is away or busy: try again
    NEVER = "never"  # it refuses for good


class Revoke(Enum):
    """What became of one user name that shall be refused."""

    CLOSED = "closed"  # it is refused, and no session of it is left
    OPEN = "open"  # it is refused, and a session it has may go on until it connects anew
    LATER = "later"  # the device broker is away or busy: try again


@dataclass(frozen=True, slots=True)
class ToInstall:
    """A credential on its way into a device broker."""

    credential: Credential
    password: Secret


@dataclass(frozen=True, slots=True)
class Probe:
    """What a look at a device broker found: its version in its own words, and what has to be cured, a sentence each."""

    version: str
    problems: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cost:
    """What changes cost there: sessions that may drop, seconds during which it serves nobody, rewrites of its list.

    `duration` is seconds until the last one is done.
    """

    sessions: int = 0
    stall: float = 0.0
    rewrites: int = 0
    duration: float = 0.0


class DeviceBroker(Protocol):
    """Puts credentials into a device broker, takes them out, kicks who uses them.

    `install` and `revoke` take many at once, may be called again for what was done, and bring nobody back who was
    revoked. Where the broker is away they say LATER; `probe` and `list` raise `Unavailable`.
    """

    name: str
    kind: str
    """The setting that chooses it."""
    sees_logins: bool
    asks_ledger: bool
    """It admits whom the ledger says is in force, at each login: nothing has to be installed, or can be missing."""
    binds_client_id: bool
    """It refuses a right password under a wrong client id, so a credential can be tight there."""
    templates: bool
    """Topic rights come from one rule with the client id in it, not from one for each credential."""
    prehashed: bool
    """It takes a hash, so no password leaves this process."""
    takes_passwords: bool
    """It admits by user name and password; else by a certificate alone."""
    takes_certificates: bool
    """It admits by a certificate of our authority."""
    kicks_live: bool
    """Revoking closes the session that is open."""
    persists: bool
    """What was installed is there after its restart."""

    def address(self, *, secure: bool) -> BrokerAddress | None:
        """What a device is told; None: there is no such (plain or TLS) address."""

    def objection(self, account: str, client_id: str) -> str | None:
        """Why a device of these names cannot work there, a sentence with the way out; None: it can."""

    def delay(self, username: str) -> float:
        """Seconds until this name, which was handed over, is expected to be installed; 0.0 where nothing waits."""

    def cost(self, installs: int, revokes: int) -> Cost:
        """What so many changes would cost there now."""

    async def probe(self) -> Probe:
        """Reach it, and check that it can be written to; changes nothing."""

    async def install(self, items: Sequence[ToInstall]) -> Sequence[Install]:
        """One outcome per item, in order; DONE means a device could connect now."""

    async def revoke(self, usernames: Sequence[str], *, kick: bool = True) -> Sequence[Revoke]:
        """Refuse these for good and, with `kick`, close their sessions; one outcome per name."""

    async def list(self) -> Sequence[str]:
        """Our user names that are there: in its own list, or, where it asks the ledger, with a session."""

    async def close(self) -> None:
        """Give up connections; what was not answered is LATER."""


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Which events; None filters nothing. Places in commit order are `after` < seq <= `upto`; times: made on."""

    after: int = 0
    upto: int = 2**63 - 1
    request_id: int | None = None
    accounts: tuple[int, ...] | None = None
    types: tuple[EventType, ...] | None = None
    start: Millis | None = None
    end: Millis | None = None


@dataclass(frozen=True, slots=True)
class DeadFilter:
    """Which dead letters; None filters nothing. `seqs` are places in commit order."""

    sink: str | None = None
    seqs: tuple[int, ...] | None = None
    accounts: tuple[int, ...] | None = None


@dataclass(frozen=True, slots=True)
class Leased:
    """An event that is ours to deliver now; `attempts` were made before."""

    event: StoredEvent
    attempts: int


@dataclass(frozen=True, slots=True)
class Postponed:
    """An event that was not delivered: again at `due_on`, or dead, or (neither) when its turn comes once more.

    `problem` says why, a sentence.
    """

    event: StoredEvent
    attempts: int
    due_on: Millis | None = None
    problem: str | None = None
    is_dead: bool = False


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that a sink gave up; `waiting` later events of its request wait behind it."""

    event: StoredEvent
    sink: str
    attempts: int
    dead_on: Millis
    problem: str
    waiting: int


@dataclass(frozen=True, slots=True)
class SinkState:
    """How far a sink is: events it has not delivered, those it gave up, and what was wrong last."""

    name: str
    waiting: int
    dead: int
    problem: str | None


class EventLog(Protocol):
    """The domain events of the ledger, and how far each sink is with them."""

    async def newest(self) -> int:
        """Place of the newest event in commit order; 0: there is none."""

    async def find(self, seq: int) -> StoredEvent | None:
        """One event."""

    async def list_events(
        self, wanted: EventFilter, limit: int, *, offset: int = 0, newest_first: bool = False
    ) -> Sequence[StoredEvent]:
        """At most `limit` of them."""

    async def open_sink(self, sink: str) -> None:
        """At start: a new sink begins behind the newest event; what a dead process was delivering is due at once."""

    async def next_delivery(self, sink: str) -> Millis | None:
        """When the next delivery is due, 0: at once, None: nothing waits."""

    async def lease(self, sink: str, now: Millis, until: Millis, limit: int) -> Sequence[Leased]:
        """Take what is due, some `limit` events in commit order, of each request the earliest undelivered ones."""

    async def settle(
        self, sink: str, delivered: Sequence[StoredEvent], others: Sequence[Postponed], now: Millis
    ) -> None:
        """Record what became of leased events, all in one; the earliest left of each request is due, unless put off."""

    async def list_dead(self, wanted: DeadFilter, limit: int, offset: int = 0) -> Sequence[DeadLetter]:
        """Dead letters, oldest first."""

    async def redrive(self, wanted: DeadFilter) -> int:
        """Give dead letters all their attempts again; how many."""

    async def discard(self, wanted: DeadFilter) -> int:
        """Give dead letters up for good, which frees what waits behind them; how many."""

    async def replay(self, sink: str, wanted: EventFilter, limit: int) -> int:
        """Let a sink deliver events again that it had taken, oldest first; how many."""

    async def list_sinks(self) -> Sequence[SinkState]:
        """Every sink there ever was."""

    async def prune(self, before: Millis, sinks: Sequence[str], limit: int) -> int:
        """Delete events made before then that `sinks` have delivered, at most `limit`; how many."""


class EventSink(Protocol):
    """Hands domain events to somebody outside, one by one."""

    name: str
    parallel: int

    async def deliver(self, event: StoredEvent) -> str | None:
        """None once the receiver has it; else why not, a sentence, and it will be tried again.

        Raises `Unavailable` when nobody is there to take anything: that is no failure of this event.
        """
