"""What must hold after each step: the rules of the wire contract, section 9.

They are read off the committed ledger, the list of the device broker, the flash of devices and each reply that leaves.
Nothing here asks the service what it thinks: a row, a list and a flash are compared with what they were a step before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from provisioner.model import Offer, Taken
    from tests.simulation.world import World

UNPROVED = ("MINTED", "INSTALLED", "OFFERED")
CLOSED = ("EXPIRED", "ABANDONED", "STOPPED", "FAILED")
_ORDER = ("MINTED", "INSTALLED", "OFFERED", "CONFIRMED", "RETIRING", "RETIRED")
_DAY = 24 * 3_600_000


class Broken(AssertionError):
    """A rule does not hold: which, and how."""

    def __init__(self, rule: str, how: str) -> None:
        super().__init__(f"{rule}: {how}")
        self.rule = rule


class Row(NamedTuple):
    """A generation as it is committed."""

    client_id: str
    generation: int
    request_id: int
    username: str
    state: str
    has_secret: int
    secret_hash: str
    minted_on: int
    confirm_before: int


class Asked(NamedTuple):
    """A request as it is committed."""

    id: int
    client_id: str
    phase: str
    status: str
    generation: int
    proved: int | None
    retry_count: int
    retry_max: int
    activates_on: int | None
    expires_on: int | None
    rotate_wanted: int
    reuse_key: int
    keys_sealed: str | None


_ROWS = """SELECT client_id, generation, request_id, username, state, secret_sealed IS NOT NULL, secret_hash, minted_on,
                  confirm_before FROM credential"""
_ASKED = """SELECT id, client_id, phase, status, generation, proved_generation, retry_count, retry_max_attempts,
                   activates_on, expires_on, rotate_wanted, reuse_key, keys_sealed FROM request"""
_BOUND = "SELECT request_id, text, generation FROM bound_request_id"

Name = tuple[str, int]


@dataclass(frozen=True)
class Cause:
    """Why something may happen now: what is under way for a client id."""

    operator: bool
    failed: bool
    claimed_on: tuple[int, ...]


class Rules:
    """See the module."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.rows: dict[Name, Row] = {}
        self.asked: dict[int, Asked] = {}
        self.bound: dict[tuple[int, str], int] = {}
        self._names: dict[str, Name] = {}
        self._offered: set[Name] = set()
        self._proved: set[Name] = set()

    # -- the ledger ----------------------------------------------------------------------------------------------------

    def check_ledger(self) -> None:
        """Something was committed."""
        ledger = self._world.disk.ledger
        rows = {(row[0], row[1]): Row(*row) for row in ledger.execute(_ROWS)}
        asked = {row[0]: Asked(*row) for row in ledger.execute(_ASKED)}
        bound = {(row[0], row[1]): row[2] for row in ledger.execute(_BOUND)}
        self._check_bound(bound, asked)
        for name, row in rows.items():
            before = self.rows.get(name)
            if before == row:
                continue
            if before is None:
                self._check_mint(row, rows, asked, bound)
            else:
                self._check_step(before, row, rows)
            self._check_secret(row)
        if not self.rows.keys() <= rows.keys():
            raise Broken("rule 5", f"rows are gone: {self.rows.keys() - rows.keys()}")
        for request in asked.values():
            self._check_request(request, rows)
        for gone in self.asked.keys() - asked.keys():
            if not self._cause(self.asked[gone].client_id).operator:
                raise Broken("rule 5", f"request {gone} is gone and nobody deleted it")
        self.rows, self.asked, self.bound = rows, asked, bound
        self._check_room()
        self.check_admitted()

    def _check_bound(self, bound: dict[tuple[int, str], int], asked: dict[int, Asked]) -> None:
        for key, generation in self.bound.items():
            if bound.get(key) != generation and key[0] in asked:
                raise Broken("rule 4", f"requestId {key[1]} of generation {generation} belongs to {bound.get(key)} now")
        for key in bound.keys() - self.bound.keys():
            if key[1].startswith("forged"):
                raise Broken("rule 7", f"requestId {key[1]} was bound without a right key")

    def _check_mint(
        self, row: Row, rows: dict[Name, Row], asked: dict[int, Asked], bound: dict[tuple[int, str], int]
    ) -> None:
        told = f"{row.client_id} generation {row.generation}"
        if row.state == "OFFERED" and self._world.brokers.asks_ledger:
            self._offered.add((row.client_id, row.generation))
        elif row.state != "MINTED":
            raise Broken("rule 2", f"{told} appears as {row.state}")
        last = max((generation for client_id, generation in self.rows if client_id == row.client_id), default=0)
        if row.generation != last + 1:
            raise Broken("rule 5", f"{told} comes after {last}")
        if row.username in self._names:
            raise Broken("rule 5", f"{told} takes the name {row.username} again")
        self._names[row.username] = (row.client_id, row.generation)
        request, before = asked[row.request_id], self.asked[row.request_id]
        self._check_others(row, rows, before)
        if not any(key[0] == row.request_id and generation == row.generation for key, generation in bound.items()):
            raise Broken("rule 4", f"{told} was minted for a requestId of another generation")
        if request.retry_count != before.retry_count + 1 or request.retry_count > before.retry_max:
            raise Broken("rule 7", f"{told}: retryCount {before.retry_count} became {request.retry_count}")
        self._check_may_start(told, before)

    def _check_others(self, row: Row, rows: dict[Name, Row], before: Asked) -> None:
        for other in rows.values():
            if other.client_id != row.client_id or other.generation == row.generation or other.state == "RETIRED":
                continue
            renewed = other.state == "CONFIRMED" and other.request_id == row.request_id and before.rotate_wanted
            if not renewed:
                raise Broken(
                    "rule 3", f"{row.client_id} generation {row.generation} beside {other.generation} ({other.state})"
                )

    def _check_may_start(self, told: str, before: Asked) -> None:
        times = self._cause(before.client_id).claimed_on
        if before.status != "ENABLED":
            raise Broken("rule 9", f"{told} was minted for a request that is {before.status}")
        start, end = before.activates_on or 0, before.expires_on or 2**53
        if before.phase == "PENDING" and not any(start <= now < end for now in times):
            raise Broken("rule 9", f"{told} was minted outside the window {start} to {end}, for claims of {times}")

    def _check_step(self, before: Row, row: Row, rows: dict[Name, Row]) -> None:
        told = f"{row.client_id} generation {row.generation}"
        fixed = ("request_id", "username", "secret_hash", "minted_on")
        if any(getattr(before, name) != getattr(row, name) for name in fixed):
            raise Broken("rule 3", f"{told} became another credential")
        if _ORDER.index(row.state) < _ORDER.index(before.state):
            raise Broken("rule 5", f"{told} went from {before.state} back to {row.state}")
        if row.confirm_before > row.minted_on + _DAY:
            raise Broken("rule 9", f"{told} may be confirmed later than a day after its mint")
        name = (row.client_id, row.generation)
        if row.state == "OFFERED":
            self._offered.add(name)
        if row.state in ("CONFIRMED", "INSTALLED", "OFFERED") and not self._world.brokers.admits(row.username):
            raise Broken("rule 2", f"{told} is {row.state} and the device broker does not admit it")
        if row.state == before.state:
            return
        if row.state == "CONFIRMED":
            self._proved.add(name)
            self._check_confirmed(told, before, row)
        elif row.state == "RETIRING":
            self._check_retiring(told, before, rows)

    def _check_confirmed(self, told: str, before: Row, row: Row) -> None:
        if before.state != "OFFERED":
            raise Broken("rule 2", f"{told} was confirmed as {before.state}")
        if not self._world.units[row.client_id].had(row.username):
            raise Broken("rule 8", f"{told} was confirmed, and the device never stored it")

    def _check_retiring(self, told: str, before: Row, rows: dict[Name, Row]) -> None:
        cause = self._cause(before.client_id)
        if cause.operator:
            return
        if before.state == "CONFIRMED":
            later = (rows[name] for name in rows if name[0] == before.client_id and name[1] > before.generation)
            if not any(row.state == "CONFIRMED" for row in later):
                raise Broken("rule 6", f"{told} was proved and has to go, and nobody asked for it")
        elif (
            not cause.failed
            and not self._world.brokers.refused(before.username)
            and self._world.latest < before.confirm_before
        ):
            raise Broken("rule 9", f"{told} has to go before its confirm time is over")

    @staticmethod
    def _check_secret(row: Row) -> None:
        if bool(row.has_secret) != (row.state in UNPROVED):
            has = "has" if row.has_secret else "has not"
            raise Broken("rule 8", f"{row.client_id} generation {row.generation} is {row.state} and {has} its password")

    def _check_request(self, request: Asked, rows: dict[Name, Row]) -> None:
        before = self.asked.get(request.id)
        if before is not None and request.retry_count > before.retry_count:
            minted = (request.client_id, request.generation)
            if minted in self.rows:
                raise Broken("rule 7", f"retryCount of {request.client_id} went up without a mint")
        if request.phase in (*CLOSED, "PENDING"):
            left = [row for row in rows.values() if row.request_id == request.id and row.state != "RETIRED"]
            if left:
                raise Broken(
                    "rule 5", f"{request.client_id} is {request.phase} and {left[0].generation} is not retired"
                )
        elif request.phase in UNPROVED:
            row = rows[request.client_id, request.generation]
            if row.state != request.phase:
                raise Broken("lifecycle", f"{request.client_id} is {request.phase}, its credential {row.state}")
        elif request.phase in ("CONFIRMED", "RENEWING"):
            row = rows[request.client_id, request.proved or 0]
            if row.state != "CONFIRMED":
                raise Broken("rule 6", f"{request.client_id} is {request.phase}, its proved credential {row.state}")
        if before is None or (before.keys_sealed, before.phase) != (request.keys_sealed, request.phase):
            self._check_key(request)

    def _check_key(self, request: Asked) -> None:
        kept = self._world.kept_key(request.id, request.keys_sealed)
        if request.phase in ("CONFIRMED", "RENEWING"):
            wanted = b"K" if request.reuse_key else b"k"
            if kept != wanted:
                raise Broken("rule 8", f"{request.client_id} is {request.phase} and keeps its key as {kept!r}")
        elif request.phase in ("PENDING", *UNPROVED) and kept == b"k":
            raise Broken("rule 6", f"{request.client_id} is {request.phase} and its sealing key was wiped")

    def _check_room(self) -> None:
        unproved: set[str] = set()
        for row in self.rows.values():
            if row.state in UNPROVED:
                if row.client_id in unproved:
                    raise Broken("rule 5", f"{row.client_id} has two unproved generations")
                unproved.add(row.client_id)

    def _cause(self, client_id: str) -> Cause:
        return self._world.cause(client_id)

    # -- the device broker ---------------------------------------------------------------------------------------------

    def check_admitted(self) -> None:
        """What the device broker admits changed, or what the ledger says about it."""
        admitted: dict[str, list[int]] = {}
        for username in self._world.brokers.listed():
            name = self._names.get(username)
            if name is None:
                raise Broken("rule 1", f"{username} was installed before it was committed")
            if self.rows[name].state == "RETIRED":
                raise Broken("rule 5", f"{username} is retired, and the device broker admits it")
            admitted.setdefault(name[0], []).append(name[1])
        for client_id, generations in admitted.items():
            unproved = [one for one in generations if (client_id, one) not in self._proved]
            if len(unproved) > 1 or len(generations) > 2:
                raise Broken("rule 5", f"the device broker admits {client_id} as {generations}")
        for request in self.asked.values():
            if request.phase in ("CONFIRMED", "RENEWING"):
                row = self.rows[request.client_id, request.proved or 0]
                if not self._world.brokers.admits(row.username):
                    raise Broken("rule 6", f"{row.username} is proved, and the device broker refuses it")

    # -- what leaves ---------------------------------------------------------------------------------------------------

    def check_offer(self, offer: Offer) -> None:
        """An offer leaves."""
        name = (offer.client_id, offer.generation)
        row = self.rows.get(name)
        if row is None or row.username != offer.username:
            raise Broken("rule 1", f"{offer.username} was offered before it was committed")
        if name not in self._offered:
            raise Broken("rule 1", f"{offer.username} was offered before OFFERED was committed")
        if self._world.fingerprint(offer) != row.secret_hash:
            raise Broken("rule 3", f"{offer.username} was offered with another password")
        if row.state in UNPROVED and not self._world.brokers.admits(row.username):
            raise Broken("rule 2", f"{offer.username} was offered before the device broker admits it")

    def check_taken(self, client_id: str, taken: Taken) -> None:
        """An ack was answered."""
        if taken.reason == "confirmed" and (client_id, taken.generation) not in self._proved:
            raise Broken("rule 1", f"{client_id} heard that {taken.generation} is confirmed before it was committed")

    def check_right_key(self, client_id: str, reason: Any) -> None:
        """A claim or ack with the right key was refused so."""
        if reason in ("denied", "slow-down"):
            raise Broken("rule 7", f"{client_id} has the right key and was told {reason}")


__all__ = ["CLOSED", "UNPROVED", "Asked", "Broken", "Cause", "Row", "Rules"]
