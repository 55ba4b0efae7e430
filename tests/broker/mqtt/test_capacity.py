"""Seats: who is let in, who makes room, and who is replaced."""

import pytest

from broker.mqtt.capacity import PLAIN, Capacity, Seat
from broker.mqtt.connection import _address, _network
from broker.mqtt.interface import EndpointLimits

LIMITS = EndpointLimits(max_connections=4, max_connections_per_source=3)
HERE, THERE = "192.0.2.1", "192.0.2.2"


def crowd(*sources: str, limits: EndpointLimits = LIMITS) -> tuple[Capacity[str], list[Seat[str]]]:
    """Connections that arrived in this order and are still silent; their owners are called by number."""
    capacity = Capacity[str](limits)
    seats = []
    for number, source in enumerate(sources):
        seat, evicted = capacity.arrive(str(number), source)
        assert evicted is None
        seats.append(seat)
    return capacity, seats


def test_the_longest_silent_of_the_same_source_makes_room() -> None:
    capacity, (first, *_) = crowd(HERE, HERE, HERE)
    capacity.speak(first)
    seat, evicted = capacity.arrive("new", HERE)
    assert evicted == "1"
    assert not seat.surplus


def test_a_full_source_takes_nothing_from_others() -> None:
    capacity, seats = crowd(THERE, HERE, HERE, HERE)
    for seat in seats[1:]:
        capacity.speak(seat)
    newcomer, evicted = capacity.arrive("new", HERE)
    assert evicted is None
    assert newcomer.surplus
    assert not capacity.has_room(newcomer, "factory", "dev-1")


def test_the_longest_silent_of_all_makes_room_in_a_full_house() -> None:
    capacity, _ = crowd(HERE, HERE, THERE, THERE)
    _, evicted = capacity.arrive("new", "192.0.2.3")
    assert evicted == "0"
    _, evicted = capacity.arrive("newer", "192.0.2.4")
    assert evicted == "1"


def test_a_surplus_connection_is_the_next_to_make_room() -> None:
    capacity, seats = crowd(HERE, HERE, THERE, THERE)
    for seat in seats:
        capacity.speak(seat)
    surplus, _ = capacity.arrive("surplus", "192.0.2.3")
    assert surplus.surplus
    _, evicted = capacity.arrive("next", "192.0.2.4")
    assert evicted == "surplus"


def test_leaving_frees_the_seat() -> None:
    capacity, seats = crowd(HERE, HERE, HERE)
    for seat in seats:
        capacity.speak(seat)
    capacity.leave(seats[0])
    seat, evicted = capacity.arrive("new", HERE)
    assert (seat.surplus, evicted) == (False, None)


def admitted(capacity: Capacity[str], seat: Seat[str], client_id: str = "dev-1") -> bool:
    capacity.speak(seat)
    let_in, _ = capacity.admit(seat, "factory", client_id)
    return let_in


def sixteen(per_source: int) -> tuple[Capacity[str], list[str]]:
    """All unproved places of one id taken, so many from each source; their owners, oldest first."""
    capacity = Capacity[str](EndpointLimits())
    owners = [f"{source}/{number}" for number in range(per_source) for source in range(16 // per_source)]
    for owner in owners:
        seat, _ = capacity.arrive(owner, f"192.0.2.{owner.partition('/')[0]}")
        assert capacity.admit(seat, "factory", "dev-1") == (True, None)
    return capacity, owners


def newcomer(capacity: Capacity[str], source: str) -> tuple[bool, str | None]:
    seat, _ = capacity.arrive("new", source)
    return capacity.admit(seat, "factory", "dev-1")


def test_four_unproved_per_source() -> None:
    capacity, _ = sixteen(4)
    assert newcomer(capacity, "192.0.2.0") == (False, None)
    for _ in range(4):
        assert newcomer(capacity, "192.0.2.100")[0]
    assert newcomer(capacity, "192.0.2.100") == (False, None)


def test_where_sixteen_are_unproved_the_source_that_has_most_gives_its_oldest() -> None:
    capacity, owners = sixteen(4)
    assert [newcomer(capacity, f"192.0.2.{100 + n}") for n in range(5)] == [(True, owner) for owner in owners[:4]] + [
        (True, owners[4])
    ]
    unproved = [seat for seat in capacity._identities["factory", "dev-1"] if not seat.proved]
    assert len(unproved) == 16


def test_of_sixteen_sources_the_oldest_session_gives_way_and_the_newest_stays() -> None:
    capacity, owners = sixteen(1)
    assert newcomer(capacity, "192.0.2.100") == (True, owners[0])
    assert newcomer(capacity, "192.0.2.100") == (False, None), "the same source again throws nobody out"
    assert newcomer(capacity, "192.0.2.101") == (True, owners[1])


def test_who_proved_gives_way_to_nobody_who_has_not() -> None:
    capacity, owners = sixteen(4)
    for seat in list(capacity._identities["factory", "dev-1"])[:4]:
        assert capacity.prove(seat, "factory", "dev-1", f"nonce of {seat.owner}") is None
    for number in range(4):
        assert newcomer(capacity, f"192.0.2.{100 + number}") == (True, None)
    assert newcomer(capacity, "192.0.2.110") == (True, owners[4])


def test_who_proved_does_not_count_as_unproved() -> None:
    capacity, seats = crowd(*[HERE] * 6, limits=EndpointLimits(unproved_per_source=1))
    assert admitted(capacity, seats[0])
    assert not admitted(capacity, seats[1])
    assert capacity.prove(seats[0], "factory", "dev-1", "nonce") is None
    assert admitted(capacity, seats[1])
    assert not admitted(capacity, seats[2])
    capacity.leave(seats[1])
    assert admitted(capacity, seats[2])
    assert admitted(capacity, seats[3], "dev-2")


@pytest.mark.parametrize("proof", ["fresh", PLAIN])
def test_a_newly_proved_session_replaces_the_one_proved_longest_ago(proof: str) -> None:
    capacity, seats = crowd(*[HERE] * 4, limits=EndpointLimits(proved_per_client_id=2))
    for seat in seats:
        assert admitted(capacity, seat)
    assert capacity.prove(seats[1], "factory", "dev-1", "one") is None
    assert capacity.prove(seats[0], "factory", "dev-1", "two") is None
    assert capacity.prove(seats[2], "factory", "dev-1", proof) == "1"
    assert capacity.prove(seats[2], "factory", "dev-1", "again") is None
    capacity.leave(seats[1])
    assert capacity.prove(seats[3], "factory", "dev-1", PLAIN) == "0"


def test_a_replayed_nonce_proves_nothing_even_of_a_session_that_left() -> None:
    capacity, seats = crowd(*[HERE] * 2, limits=EndpointLimits(proved_per_client_id=1))
    for seat in seats:
        assert admitted(capacity, seat)
    capacity.leave(seats[0])
    assert capacity.prove(seats[0], "factory", "dev-1", "nonce") is None
    assert capacity.prove(seats[1], "factory", "dev-1", "nonce") is None
    assert not seats[1].proved
    assert capacity.prove(seats[1], "factory", "dev-1", "other") is None
    assert seats[1].proved


def test_nonces_are_remembered_per_id_and_not_for_ever() -> None:
    capacity, (seat, _) = crowd(HERE, HERE)
    assert admitted(capacity, seat)
    for number in range(100):
        capacity.prove(seat, "factory", "dev-1", f"nonce-{number}")
    for number in range(10_000):
        capacity.prove(seat, "factory", f"dev-{number}", "nonce-99")
    assert sum(len(nonces) for nonces in capacity._nonces.values()) <= 8192 * 16
    assert len(capacity._nonces) == 8192


def test_an_empty_house_remembers_nothing_but_nonces() -> None:
    capacity, seats = crowd(HERE, HERE, THERE)
    for seat in seats[:2]:
        admitted(capacity, seat)
    capacity.prove(seats[0], "factory", "dev-1", "nonce")
    for seat in seats:
        capacity.leave(seat)
    assert (capacity._taken, capacity._silent, capacity._sources, capacity._identities) == (0, {}, {}, {})


@pytest.mark.parametrize(
    ("peer", "address", "network"),
    [
        (("192.0.2.1", 1), "192.0.2.1", "192.0.2.1"),
        (("::ffff:192.0.2.1", 1, 0, 0), "192.0.2.1", "192.0.2.1"),
        (("2001:db8::1", 1, 0, 0), "2001:db8::1", "20010db800000000::/64"),
        (("2001:db8::2:0:0:1", 1, 0, 0), "2001:db8::2:0:0:1", "20010db800000000::/64"),
        (("fe80::1%eth0", 1, 0, 2), "fe80::1", "fe80000000000000::/64"),
        (None, "", ""),
    ],
)
def test_a_source_is_an_ipv4_address_or_an_ipv6_network(
    peer: tuple[object, ...] | None, address: str, network: str
) -> None:
    assert _address(peer) == address
    assert _network(address) == network
