"""The grammars, and the small checks."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from provisioner import policy
from provisioner.errors import Forbidden, Invalid, Reason, Rejected
from provisioner.model import Coupling, Facts, Role
from provisioner.policy import Actor

HOSTILE = [
    "", " ", "+", "#", "a/b", "a+b", "a#", "-a", ".a", "_a", ":a", "a b", "a\n", "a\x00", "ä", "a\u2028", "%c", "$SYS",
    "a" * 129, ".*", "dA|x", "..", "a\\b", "a'b", 'a"b', "a;b", "\u0430", "\ufeffa", "a\r\nb", "\x1b[31m",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_ids_are_refused(text: str) -> None:
    assert not policy.is_identifier(text)
    assert not policy.is_request_id(text)
    with pytest.raises(Invalid, match="clientId"):
        policy.parse_identifier(text, "clientId")


@pytest.mark.parametrize("text", ["a", "0", "00:1A:2B:3C:4D:5E", "dev-1_x.y:z", "a" * 128])
def test_ids_of_real_devices_are_taken(text: str) -> None:
    assert policy.parse_identifier(text, "clientId") == text


NAMES = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,12}", fullmatch=True)


@given(NAMES, NAMES, NAMES, NAMES, st.integers(1, 99), st.integers(1, 99))
def test_no_two_devices_share_a_user_name(one: str, two: str, three: str, four: str, g: int, h: int) -> None:
    assume((one, two, g) != (three, four, h))
    first = policy.credential_username(one, two, g)
    assert first != policy.credential_username(three, four, h)


def test_user_names_of_neighbouring_dots_differ() -> None:
    names = {
        policy.credential_username(*pair, 1) for pair in (("a", "b.c"), ("a.b", "c"), ("a.", "b.c"), ("a..b", "c"))
    }
    assert len(names) == 4


def test_a_user_name_over_255_bytes_is_refused_at_creation() -> None:
    policy.check_username_fits("a" * 64, "c" * 128)
    with pytest.raises(Invalid, match="255"):
        policy.check_username_fits("a" * 128, "c" * 128)


@pytest.mark.parametrize("key", ["x" * 32, "0123456789012345678901", "abababababababababababababab", "short"])
def test_keys_that_can_be_guessed_are_refused(key: str) -> None:
    with pytest.raises(Invalid, match="activationKey"):
        policy.parse_activation_key(key)


@pytest.mark.parametrize(
    "key", ["0123456789ABCDEFGHIJKLMNOPQRSTUV", "a3f9c1e07b5d2846a3f9c1e07b5d2846", "Xq7!pR2m#Lw9@Zt4&Kd8vb"]
)
def test_keys_with_112_bits_are_taken(key: str) -> None:
    assert policy.parse_activation_key(key) == key


def test_macs_compare_in_one_form() -> None:
    for spelling in ("00:1a:2b:3c:4d:5e", "00-1A-2B-3C-4D-5E", "001A.2B3C.4D5E", "001a2b3c4d5e"):
        assert policy.normal_mac(spelling) == "001A2B3C4D5E"
        policy.check_facts(Facts(mac_address="00:1A:2B:3C:4D:5E"), {"macAddress": spelling})
    assert policy.normal_mac("00:1a:2b") is None
    with pytest.raises(Rejected) as caught:
        policy.check_facts(Facts(mac_address="00:1A:2B:3C:4D:5E"), {"macAddress": "00:00:00:00:00:00"})
    assert caught.value.reason is Reason.DENIED


def test_facts_nobody_wrote_down_contradict_nothing() -> None:
    policy.check_facts(Facts(), {"serialNumber": "S1", "firmware": "2"})
    policy.check_facts(Facts(serial_number="7"), {"serialNumber": 7})


def test_coupling_resolves_to_the_account_and_then_to_strict() -> None:
    assert policy.resolve_coupling(Coupling.LOOSE, Coupling.STRICT) is Coupling.LOOSE
    assert policy.resolve_coupling(Coupling.INHERITED, Coupling.LOOSE) is Coupling.LOOSE
    assert policy.resolve_coupling(Coupling.INHERITED, Coupling.INHERITED) is Coupling.STRICT


def test_retry_times_stay_in_what_the_wire_allows() -> None:
    assert policy.seconds_until(1000, 2000) == 1
    assert policy.seconds_until(1001, 0) == 2
    assert policy.seconds_until(10**12, 0) == 86_400


def test_roles_allow_what_they_name_and_an_admin_everything() -> None:
    policy.check_role(Actor(1, Role.ADMIN))
    policy.check_role(Actor(1, Role.PREPARER), Role.PREPARER)
    for role in (Role.VIEWER, Role.INSTALLER):
        with pytest.raises(Forbidden, match="preparer or admin"):
            policy.check_role(Actor(1, role), Role.PREPARER)
