"""Who may be connected: seats by source address and by client id, no sockets.

1. Connecting costs an attacker nothing, so where all seats are taken, the connection that has been silent longest makes
   room: one of the same source when that has too many, else of any. Silent is who has not completed CONNECT. Only when
   everybody has spoken, a newcomer is told to come later.
2. A (user, clientId) is a claim, not an identity: several sessions live side by side. Those that have not proved a key
   are few per source and per id; those that have are few per id, and a newly proved one replaces the oldest.
3. Whoever knows a leaked login could take all unproved places of an id from a few addresses and keep its device out.
   So where they are taken, the source that has most of them gives its oldest to a newcomer whose own source has fewer.
4. A nonce proves once: a replay of it takes nobody's place. Nonces are remembered per (user, clientId), the latest of
   the latest; one forgotten gains a replay no more than a seat.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

from broker.mqtt.interface import EndpointLimits

PLAIN: Final = "plain"
"""The proof of a plain claim: the key itself, which has no nonce and cannot be told from a replay."""

_REMEMBERED_IDS: Final = 8192
_REMEMBERED_NONCES: Final = 16

Owner = TypeVar("Owner")


@dataclass(slots=True, eq=False)
class Seat(Generic[Owner]):
    """One connection's place. `surplus` means that it came when all was full and is to be refused."""

    owner: Owner
    source: str
    surplus: bool = False
    identity: tuple[str, str] | None = None
    proved: bool = False


@dataclass(slots=True, eq=False)
class _Source(Generic[Owner]):
    count: int = 0
    silent: dict[Seat[Owner], None] = field(default_factory=dict)


class _Unproved(Generic[Owner]):
    """The unproved sessions of one (user, clientId), oldest first."""

    def __init__(self, seats: Iterable[Seat[Owner]]) -> None:
        self.seats = [seat for seat in seats if not seat.proved]
        self._counts = Counter(seat.source for seat in self.seats)

    def of(self, source: str) -> int:
        """How many a source has."""
        return self._counts[source]

    def yields_to(self, source: str) -> bool:
        """Whether some source has more than this one."""
        return max(self._counts.values(), default=0) > self._counts[source]

    @property
    def oldest_of_most(self) -> Seat[Owner]:
        """The oldest session of the source that has most of them."""
        most = max(self._counts.values())
        return next(seat for seat in self.seats if self._counts[seat.source] == most)


class Capacity(Generic[Owner]):
    """The seats of one endpoint; `Owner` is whatever the caller knows a connection by."""

    def __init__(self, limits: EndpointLimits) -> None:
        self._limits = limits
        self._taken = 0
        self._silent: dict[Seat[Owner], None] = {}
        self._sources: dict[str, _Source[Owner]] = {}
        self._identities: dict[tuple[str, str], list[Seat[Owner]]] = {}
        self._nonces: OrderedDict[tuple[str, str], tuple[str, ...]] = OrderedDict()

    def arrive(self, owner: Owner, source: str) -> tuple[Seat[Owner], Owner | None]:
        """Seat a new connection; the second value, if any, must be thrown out and then leaves as usual."""
        seat = Seat(owner, source)
        here = self._sources.setdefault(source, _Source())
        victim = None
        if here.count >= self._limits.max_connections_per_source:
            victim = next(iter(here.silent), None)
            seat.surplus = victim is None
        elif self._taken >= self._limits.max_connections:
            victim = next(iter(self._silent), None)
            seat.surplus = victim is None
        if victim is not None:
            self._hush(victim)
        self._taken += 1
        here.count += 1
        here.silent[seat] = self._silent[seat] = None
        return seat, None if victim is None else victim.owner

    def speak(self, seat: Seat[Owner]) -> None:
        """The connection completed its CONNECT and makes room for nobody any more."""
        self._hush(seat)

    def has_room(self, seat: Seat[Owner], user: str, client_id: str, *, proved: bool = False) -> bool:
        """Whether one more session of this user and client id may begin, which has `proved` its key by its login."""
        if seat.surplus or proved:
            return not seat.surplus
        seats = self._identities.get((user, client_id))
        if seats is None:
            return True
        unproved = _Unproved(seats)
        if unproved.of(seat.source) >= self._limits.unproved_per_source:
            return False
        return len(unproved.seats) < self._limits.unproved_per_client_id or unproved.yields_to(seat.source)

    def admit(self, seat: Seat[Owner], user: str, client_id: str, *, proved: bool = False) -> tuple[bool, Owner | None]:
        """Begin a session if there still is room; return whether, and the session that made room, if any.

        That one must be ended and then leaves as usual.
        """
        if not self.has_room(seat, user, client_id, proved=proved):
            return False, None
        identity = (user, client_id)
        unproved = _Unproved(self._identities.get(identity, []))
        crowded = not proved and len(unproved.seats) >= self._limits.unproved_per_client_id
        displaced = unproved.oldest_of_most if crowded else None
        if displaced is not None:
            self._forget(displaced)
        seat.identity = identity
        self._identities.setdefault(identity, []).append(seat)
        return True, None if displaced is None else displaced.owner

    def prove(self, seat: Seat[Owner], user: str, client_id: str, proof: str) -> Owner | None:
        """A key was proved by this nonce (or `PLAIN`); return the session that is replaced, if any.

        The nonce is remembered even when the connection has left meanwhile.
        """
        fresh = proof == PLAIN or self._remember((user, client_id), proof)
        if not fresh or seat.proved or seat.identity is None:
            return None
        seats = self._identities[seat.identity]
        # Proved seats stand in the order in which they proved.
        seats.remove(seat)
        seats.append(seat)
        seat.proved = True
        proved = [other for other in seats if other.proved]
        if len(proved) <= self._limits.proved_per_client_id:
            return None
        self._forget(proved[0])
        return proved[0].owner

    def leave(self, seat: Seat[Owner]) -> None:
        """Give the seat back, once."""
        self._hush(seat)
        self._forget(seat)
        self._taken -= 1
        here = self._sources[seat.source]
        here.count -= 1
        if not here.count:
            del self._sources[seat.source]

    def _hush(self, seat: Seat[Owner]) -> None:
        if self._silent.pop(seat, seat) is None:
            del self._sources[seat.source].silent[seat]

    def _forget(self, seat: Seat[Owner]) -> None:
        if seat.identity is not None:
            seats = self._identities[seat.identity]
            seats.remove(seat)
            if not seats:
                del self._identities[seat.identity]
            seat.identity = None

    def _remember(self, identity: tuple[str, str], nonce: str) -> bool:
        known = self._nonces.get(identity, ())
        if nonce in known:
            return False
        self._nonces[identity] = (*known, nonce)[-_REMEMBERED_NONCES:]
        self._nonces.move_to_end(identity)
        if len(self._nonces) > _REMEMBERED_IDS:
            self._nonces.popitem(last=False)
        return True
