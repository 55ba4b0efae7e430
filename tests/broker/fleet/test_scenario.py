"""Scenarios: what may stand in one, and what it deals to devices."""

import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.fleet import scenario
from broker.fleet.actions import Finish, Identity, Mode
from broker.fleet.arrivals import Curve, arrivals
from broker.fleet.lot import Cut, Lot, Role
from broker.fleet.replies import Encoding
from broker.fleet.scenario import SHIPPED, NotAScenario, Scenario


def people(count: int) -> list[Identity]:
    return [Identity("factory", "password", f"dev-{number}", f"key-of-{number}-0123456789") for number in range(count)]


def lots(count: int, **tables: Any) -> list[Lot]:
    return list(Scenario.model_validate(tables).lots(people(count), "prov/v1"))


@pytest.mark.parametrize("name", SHIPPED)
def test_what_is_shipped_can_be_loaded(name: str) -> None:
    found = scenario.load(name)
    assert found.title
    assert found.description
    assert found == scenario.parse(scenario.text_of(name))


def test_the_folder_holds_what_is_listed() -> None:
    folder = Path(scenario.__file__).with_name("scenarios")
    assert sorted(file.stem for file in folder.iterdir()) == sorted(SHIPPED)


def test_f6_is_what_the_target_says() -> None:
    found = scenario.load("bad-network")
    network = found.network
    assert (found.devices.count, network.jitter, network.resets) == (5_000, 2.0, 0.1)
    assert min(network.half_open, network.dribbles, network.doubled, network.overtaken) > 0
    assert (network.device_broker, found.thresholds.confirmed) == (True, 1.0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[devices]\ncont = 3", "devices.cont is not known; there are count, at_once, patience, modes"),
        ("sed = 3", "sed is not known; there are title, description, seed"),
        ("[devices]\ncount = 0", "devices.count: input should be greater than or equal to 1"),
        ("[devices]\nmodes = ['magic']", "devices.modes.0: input should be 'plain', 'proof', 'ctr' or 'hpke'"),
        ("[devices]\nmodes = []", "devices.modes: tuple should have at least 1 item"),
        ("[devices.times]\nreplay = 1", "devices.times.replay is not known; there are reply, first_pause"),
        ("[arrival]\ncurve = 'sine'", "arrival.curve: input should be 'at-once', 'trickle', 'poisson' or 'herd'"),
        ("[network]\nlost = 1.1", "network.lost: input should be less than or equal to 1"),
        ("[network]\nlost = nan", "network.lost: input should be a finite number"),
        ("[network]\nlost = 0.6\ndoubled = 0.6", "network: doubled, lost and overtaken are shares of messages"),
        ("[network]\nresets = 0.6\ndribbles = 0.6", "network: resets, half_open and dribbles are shares of conn"),
        ("[devices", "it is no TOML"),
    ],
)
def test_a_mistake_is_a_sentence(text: str, words: str) -> None:
    with pytest.raises(NotAScenario) as caught:
        scenario.parse(text)
    (problem,) = caught.value.problems
    assert problem.startswith(words)
    assert "\n" not in problem


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(NotAScenario) as caught:
        scenario.parse("[devices]\ncount = 0\npatience = -1")
    assert len(caught.value.problems) == 2


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotAScenario, match="what is shipped is bad-network, certificates, herd"):
        scenario.load("smok")
    with pytest.raises(NotAScenario, match="cannot be read: No such file"):
        scenario.load(str(tmp_path / "mine.toml"))
    (tmp_path / "mine.toml").write_bytes(b"\xff")
    with pytest.raises(NotAScenario, match="not UTF-8"):
        scenario.load(str(tmp_path / "mine.toml"))


def test_a_change_is_checked_as_well() -> None:
    with pytest.raises(NotAScenario, match=r"devices\.count"):
        Scenario().changed("devices", count=0)
    assert Scenario().changed("devices", count=7).devices.count == 7
    assert Scenario().changed(seed=9).seed == 9


def test_lists_are_dealt_in_turn() -> None:
    found = lots(
        6, devices={"modes": ["proof", "hpke"], "mqtt": ["5", "3.1.1", "5"], "encodings": ["cbor"], "finish": ["ack"]}
    )
    assert [lot.options.mode for lot in found] == [Mode.PROOF, Mode.HPKE] * 3
    assert [lot.options.csr for lot in lots(3, devices={"kinds": ["x509", "password"]})] == [True, False, True]
    assert [lot.version for lot in found] == [5, 4, 5] * 2
    assert {(lot.options.encoding, lot.options.finish) for lot in found} == {(Encoding.CBOR, Finish.ACK)}


def test_the_same_seed_deals_the_same() -> None:
    tables: dict[str, Any] = {
        "arrival": {"curve": "herd", "seconds": 5.0},
        "trouble": {"power_cuts": 0.3, "full_flash": 0.3, "skewed_clocks": 0.3, "clones": 0.3, "impostors": 0.3},
    }
    assert lots(50, **tables) == lots(50, **tables)
    assert lots(50, **tables) != lots(50, seed=2, **tables)


def test_troubles_strike_their_share() -> None:
    found = lots(
        2000,
        trouble={"power_cuts": 0.5, "full_flash": 0.2, "skewed_clocks": 0.1, "clones": 0.1, "impostors": 0.3},
    )
    roles = Counter(lot.role for lot in found)
    genuine = [lot for lot in found if lot.role is Role.GENUINE]
    assert roles[Role.GENUINE] == 2000
    assert 150 < roles[Role.CLONE] < 250
    assert 500 < roles[Role.IMPOSTOR] < 700
    assert 900 < sum(lot.cuts == frozenset(Cut) for lot in genuine) < 1100
    assert 300 < sum(lot.full_writes > 0 for lot in genuine) < 500
    assert 150 < sum(lot.clock_rate != 1.0 for lot in genuine) < 250


def test_an_impostor_has_another_key_and_a_clone_the_same() -> None:
    genuine, clone, impostor = lots(1, trouble={"clones": 1, "impostors": 1})
    assert clone.identity == genuine.identity
    assert impostor.identity.client_id == genuine.identity.client_id
    assert impostor.identity.activation_key != genuine.identity.activation_key
    assert (clone.cuts, impostor.cuts) == (frozenset(), frozenset())


def test_a_good_network_needs_no_proxy() -> None:
    assert Scenario().network.weather(1) is None
    weather = Scenario.model_validate({"network": {"lost": 0.1}}).network.weather(7)
    assert weather is not None
    assert (weather.seed, weather.lost, weather.jitter) == (7, 0.1, 0.0)


@given(
    curve=st.sampled_from(Curve),
    count=st.integers(1, 300),
    seconds=st.floats(0, 1000),
    seed=st.integers(0, 1000),
)
def test_arrivals_are_in_order_and_in_time(curve: Curve, count: int, seconds: float, seed: int) -> None:
    times = arrivals(curve, count, seconds, random.Random(seed))
    assert len(times) == count
    assert list(times) == sorted(times)
    assert min(times) >= 0
    if curve is not Curve.POISSON:
        assert max(times) <= seconds
    if curve is Curve.AT_ONCE:
        assert set(times) == {0.0}


def test_poisson_has_its_mean_rate() -> None:
    times = arrivals(Curve.POISSON, 20_000, 100.0, random.Random(1))
    assert 97 < times[-1] < 103


def test_a_herd_comes_in_the_middle() -> None:
    times = arrivals(Curve.HERD, 10_000, 10.0, random.Random(1))
    assert sum(3 < time < 7 for time in times) > 7_000
