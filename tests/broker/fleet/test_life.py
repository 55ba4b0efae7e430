"""A unit over its power cuts, and the roads it takes, against a server of a few lines."""

import asyncio
import secrets
from pathlib import Path
from typing import Any

import pytest

from broker.fleet.actions import Finish, Identity, Mode, Options, Step, Times
from broker.fleet.faults import Weather
from broker.fleet.life import live
from broker.fleet.lot import Board, Cut, Lot, PowerCut, Role
from broker.fleet.replies import Address
from broker.fleet.roads import Roads
from broker.fleet.swarm import Swarm, Tally
from broker.fleet.unit import Endpoint, Outcome
from tests.broker.fleet import double
from tests.broker.fleet.tiny import Tiny
from tests.broker.mqtt.serving import contexts

IDENTITY = Identity(double.USER, "provisioning-password", double.CLIENT_ID, double.KEY)
HASTY = Options(times=Times(first_pause=0.01, longest_pause=0.05))


async def through(tiny: Tiny, lot: Lot, *, blackout: float | None = None) -> tuple[Outcome, list[str]]:
    steps: list[str] = []

    def observe(step: Step) -> None:
        steps.append(step.name)

    return await live(lot, Endpoint(tiny.address), Roads(), 20.0, blackout, observe), steps


@pytest.mark.parametrize("cut", list(Cut))
async def test_a_power_cut_anywhere_is_outlived(cut: Cut) -> None:
    async with Tiny() as tiny:
        outcome, steps = await through(tiny, Lot(IDENTITY, options=HASTY, cuts=frozenset({cut}), off=0.0))
    assert outcome.is_confirmed
    assert outcome.credential is not None
    assert steps.count("power-cut") == 1
    # What was stored before the cut is not claimed again, what was not is.
    assert steps.count("claim") == (2 if cut in (Cut.CLAIM, Cut.UNWRITTEN, Cut.HALF_WRITTEN, Cut.UNMARKED) else 1)


async def test_power_cuts_everywhere_are_outlived() -> None:
    async with Tiny() as tiny:
        outcome, steps = await through(tiny, Lot(IDENTITY, options=HASTY, cuts=frozenset(Cut), off=0.0))
    assert outcome.is_confirmed
    assert steps.count("power-cut") == len(Cut)


async def test_what_was_said_before_a_cut_has_left_and_no_goodbye_follows() -> None:
    async with Tiny() as tiny:
        lot = Lot(IDENTITY, options=HASTY, cuts=frozenset({Cut.CLAIM}), off=0.0)
        await through(tiny, lot)
    claims = [message for topic, message in tiny.messages if topic.endswith("/request")]
    assert len(claims) == 2
    kinds = [type(packet).__name__ for packet in tiny.packets]
    assert kinds[kinds.index("Publish") + 1] == "Connect"


async def test_a_blackout_takes_everybody_once() -> None:
    async with Tiny() as tiny:
        silent = tiny.answer
        tiny.answer = lambda *_: []
        loop = asyncio.get_running_loop()
        lot = Lot(IDENTITY, options=HASTY, off=0.0)
        loop.call_later(0.05, lambda: setattr(tiny, "answer", silent))
        outcome, steps = await through(tiny, lot, blackout=loop.time() + 0.1)
    assert (outcome.is_confirmed, steps.count("power-cut")) == (True, 1)


async def test_patience_is_not_given_anew_by_a_power_cut() -> None:
    async with Tiny() as tiny:
        lot = Lot(IDENTITY, cuts=frozenset({Cut.CONNECT}), off=3600.0)
        outcome, _ = await through(tiny, lot)
    assert (outcome.is_confirmed, outcome.reason) == (False, "timeout")


async def test_full_flash_is_tried_again() -> None:
    async with Tiny() as tiny:
        outcome, steps = await through(tiny, Lot(IDENTITY, options=HASTY, full_writes=2))
    assert outcome.is_confirmed
    assert (steps.count("flash-failed"), steps.count("claim")) == (2, 3)


@pytest.mark.parametrize("rate", [0.5, 2.0])
async def test_a_wrong_clock_changes_pauses_and_nothing_else(rate: float) -> None:
    async with Tiny() as tiny:
        kind = tiny.answer

        def answer(*_: object) -> list[bytes]:
            tiny.answer = kind
            return []

        tiny.answer = answer
        loop = asyncio.get_running_loop()
        began = loop.time()
        options = Options(times=Times(reply=0.2, first_pause=0.01))
        outcome, _ = await through(tiny, Lot(IDENTITY, options=options, clock_rate=rate))
    assert outcome.is_confirmed
    assert loop.time() - began >= 0.19 / rate


def test_a_board_cuts_once() -> None:
    board = Board(Lot(IDENTITY, cuts=frozenset({Cut.CLAIM})))
    with pytest.raises(PowerCut):
        board.pass_by("claim")
    board.pass_by("claim")
    board.pass_by("confirmed")


# Roads ------------------------------------------------------------------------------------------------------------


async def test_logins_meet_the_weather_as_well() -> None:
    async with Tiny() as tiny, Tiny() as works:
        tiny.answer = lambda topic, message: (
            [double.reply(message, "confirmed", generation=1)]
            if topic.endswith("/ack")
            else [double.offer(message, url=works.url)]
        )
        async with Roads(Weather(jitter=0.001, resets=0, half_open=0, dribbles=1, drip=0)) as roads:
            tally = await Swarm(Endpoint(tiny.address)).live([Lot(IDENTITY)], roads, Tally())
            assert await roads.to_device_broker(works.address) != works.address
            assert roads.toll.connections.total() == 2
    assert tally.confirmed == 1
    assert len(works.connects) == 1


async def test_a_road_may_be_left_straight() -> None:
    here = Address("127.0.0.1", 1883)
    async with Roads(Weather(), to_device_broker=False) as roads:
        assert await roads.to_device_broker(here) == here
    assert await Roads().to_provisioner(here) == here


async def test_nothing_inside_tls_can_be_lost() -> None:
    async with Roads(Weather(lost=0.5)) as roads:
        with pytest.raises(ValueError, match="inside TLS"):
            await roads.to_provisioner(Address("127.0.0.1", 1, tls=True))


async def test_certificates_are_checked_for_the_server_that_was_meant(tmp_path: Path) -> None:
    server, client, _ = contexts(tmp_path)
    async with Tiny(server) as tiny:
        tiny.answer = lambda topic, message: (
            [double.reply(message, "confirmed", generation=1)] if topic.endswith("/ack") else [double.offer(message)]
        )
        endpoint = Endpoint(Address("localhost", tiny.port, tls=True), tls=client)
        async with Roads(Weather(doubled=0, lost=0, overtaken=0, resets=0, half_open=0, jitter=0.001)) as roads:
            lot = Lot(IDENTITY, options=Options(Mode.PROOF, finish=Finish.ACK))
            tally = await Swarm(endpoint, patience=10).live([lot], roads, Tally())
    assert tally.confirmed == 1


# Figures ----------------------------------------------------------------------------------------------------------


async def test_impostors_and_clones_are_counted_apart() -> None:
    async with Tiny() as tiny:

        def answer(topic: str, message: dict[str, Any]) -> list[bytes]:
            proved = message.get("proof")
            keys = double.KEYS
            nonce, request_id = message.get("nonce", ""), message["requestId"]
            right = topic.endswith("/ack") or proved == keys.prove_claim(request_id, nonce)
            return (tiny.be_kind(topic, message) or []) if right else [double.reply(message, "denied", proved=False)]

        tiny.answer = answer
        wrong = Identity(IDENTITY.user, IDENTITY.password, IDENTITY.client_id, secrets.token_hex(16))
        crowd = [Lot(IDENTITY), Lot(IDENTITY, role=Role.CLONE), Lot(wrong, role=Role.IMPOSTOR)]
        tally = await Swarm(Endpoint(tiny.address)).live(crowd, Roads(), Tally())
    assert (tally.confirmed, tally.done) == (1, 1)
    assert (dict(tally.clones), dict(tally.impostors)) == ({"confirmed": 1}, {"denied": 1})
    assert len(tally.arrivals) == 1
    assert tally.steps["claim"] == 3
    assert tally.replies["denied"] == 1
