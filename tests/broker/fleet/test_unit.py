"""Devices with real connections, alone and in a swarm, against a server of a few lines."""

import secrets
from typing import Any

import pytest

from broker.fleet.actions import Finish, Identity, Mode, Options, Step
from broker.fleet.device import Device
from broker.fleet.flash import MemoryFlash, load
from broker.fleet.replies import Address, Encoding
from broker.fleet.swarm import Swarm, Tally
from broker.fleet.unit import Endpoint, Outcome, Unit
from broker.mqtt.packets import Connack, Connect
from tests.broker.fleet import double
from tests.broker.fleet.tiny import Tiny

IDENTITY = Identity(double.USER, "provisioning-password", double.CLIENT_ID, double.KEY)


class Hasty:
    """Entropy that makes every pause the shortest possible: the nonces stay different."""

    def __call__(self, size: int) -> bytes:
        return bytes(6) if size == 6 else secrets.token_bytes(size)


def unit(tiny: Tiny | Address, options: Options | None = None, *, version: int = 5, **more: Any) -> Unit:
    address = tiny.address if isinstance(tiny, Tiny) else tiny
    device = Device(IDENTITY, options or Options(), MemoryFlash(), Hasty())
    return Unit(device, Endpoint(address, version), **more)


@pytest.mark.parametrize("encoding", list(Encoding))
@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("mode", list(Mode))
async def test_a_whole_hand_over(mode: Mode, version: int, encoding: Encoding) -> None:
    steps: list[Step] = []
    cbor = encoding is Encoding.CBOR
    async with Tiny() as tiny:

        def answer(topic: str, message: dict[str, Any]) -> list[bytes]:
            if topic.endswith("/ack"):
                return [double.reply(message, "confirmed", generation=1, cbor=cbor)]
            return [double.offer(message, url=tiny.url, cbor=cbor)]

        tiny.answer = answer
        outcome = await unit(tiny, Options(mode, encoding), version=version, observe=steps.append).run()
    assert outcome.is_confirmed
    assert outcome.credential is not None
    assert outcome.credential.password == "secret-1"
    assert [step.name for step in steps] == [
        "connect",
        "subscribe",
        "claim",
        "offer-opened",
        "stored",
        "logged-in",
        "ack",
        "confirmed",
    ]
    first, second = tiny.connects
    assert (first.username, first.version) == ("factory", version)
    assert (second.client_id, second.username, second.version) == (double.CLIENT_ID, outcome.credential.username, 4)


async def test_a_refusal_that_repeating_cannot_help_ends_it() -> None:
    async with Tiny() as tiny:
        tiny.answer = lambda _topic, message: [double.reply(message, "denied", proved=False, trace="t-1")]
        outcome = await unit(tiny).run()
    assert (outcome.reason, outcome.credential) == ("denied", None)
    assert outcome.reply is not None
    assert outcome.reply.trace == "t-1"


async def test_a_stop_ends_it() -> None:
    async with Tiny() as tiny:
        tiny.answer = lambda _topic, message: [double.reply(message, "abandoned", detail="attempts used up")]
        outcome = await unit(tiny).run()
    assert outcome.reason == "abandoned"


async def test_wait_is_waited_for() -> None:
    async with Tiny() as tiny:
        tiny.answer = lambda _topic, message: [double.reply(message, "wait", retryAfter=1)]
        device = Device(IDENTITY, Options(), MemoryFlash(), Hasty())

        def observe(step: Step) -> None:
            if step.name == "pause":
                tiny.answer = tiny.be_kind
                device.due = 0.0  # the clock of the loop is far beyond

        outcome = await Unit(device, Endpoint(tiny.address), observe=observe).run()
    assert (outcome.is_confirmed, len(tiny.connects)) == (True, 2)


async def test_a_wait_beyond_its_patience_ends_it_at_once() -> None:
    async with Tiny() as tiny:
        tiny.answer = lambda _topic, message: [double.reply(message, "not-active", retryAfter=3600)]
        outcome = await unit(tiny, patience=30).run()
    assert (outcome.reason, outcome.seconds < 10) == ("not-active", True)
    assert outcome.reply is not None
    assert outcome.reply.retry_after == 3600


async def test_no_answer_at_all_is_a_timeout() -> None:
    async with Tiny() as tiny:
        tiny.answer = lambda *_: []
        outcome = await unit(tiny, patience=0.1).run()
    assert outcome.reason == "timeout"


async def test_a_connection_that_ends_is_made_again() -> None:
    async with Tiny() as tiny:

        def answer(topic: str, message: dict[str, Any]) -> list[bytes] | None:
            tiny.answer = tiny.be_kind
            return None

        tiny.answer = answer
        outcome = await unit(tiny).run()
    assert (outcome.is_confirmed, len(tiny.connects)) == (True, 3)
    claims = [message for topic, message in tiny.messages if topic.endswith("/request")]
    assert claims[0]["requestId"] == claims[1]["requestId"]


async def test_a_busy_server_is_asked_again() -> None:
    async with Tiny() as tiny:

        def connack(_: Connect) -> Connack:
            return Connack(0x97 if len(tiny.connects) < 4 else 0)

        tiny.connack = connack
        outcome = await unit(tiny).run()
    assert (outcome.is_confirmed, len(tiny.connects)) == (True, 5)


async def test_a_wrong_provisioning_login_ends_it() -> None:
    async with Tiny() as tiny:
        tiny.connack = lambda _: Connack(0x87)
        outcome = await unit(tiny).run()
    assert (outcome.reason, outcome.text) == ("refused", "the login is not accepted (CONNACK 0x87)")


async def test_a_subscription_that_is_refused_ends_it() -> None:
    async with Tiny() as tiny:
        tiny.suback = 0x87
        outcome = await unit(tiny).run()
    assert (outcome.reason, outcome.text) == ("refused", "SUBSCRIBE is refused (0x87): not yours")


async def test_nobody_there() -> None:
    async with Tiny() as tiny:
        address = tiny.address
    assert (await unit(address).run()).reason == "lost"
    assert (await unit(address, stubborn=True, patience=0.05).run()).reason == "timeout"


async def test_a_login_refused_three_times_is_told_and_claimed_anew() -> None:
    async with Tiny() as tiny:

        def connack(connect: Connect) -> Connack:
            return Connack(5 if connect.username != "factory" and len(tiny.messages) < 3 else 0)

        def answer(topic: str, message: dict[str, Any]) -> list[bytes]:
            if message.get("result") == "failed":
                return [double.reply(message, "noted")]
            return tiny.be_kind(topic, message) or []

        tiny.connack, tiny.answer = connack, answer
        outcome = await unit(tiny, version=4).run()
    assert outcome.is_confirmed
    said = [message.get("result", "claim") for _, message in tiny.messages]
    assert said == ["claim", "failed", "claim", "stored"]


async def test_an_absent_device_broker_does_not_hold_up_the_ack() -> None:
    async with Tiny() as tiny, Tiny() as gone:
        url = gone.url
        gone._server.close()
        tiny.answer = lambda topic, message: (
            [double.reply(message, "confirmed", generation=1)]
            if topic.endswith("/ack")
            else [double.offer(message, url=url)]
        )
        outcome = await unit(tiny).run()
    assert outcome.is_confirmed


async def test_an_offer_may_come_with_a_ca_that_is_none() -> None:
    async with Tiny() as tiny:
        tiny.answer = lambda topic, message: (
            [double.reply(message, "confirmed", generation=1)]
            if topic.endswith("/ack")
            else [double.offer(message, url="mqtts://127.0.0.1:1", ca="no certificate")]
        )
        assert (await unit(tiny).run()).is_confirmed


# Many ------------------------------------------------------------------------------------------------------------


async def test_a_swarm_is_counted() -> None:
    # Keys are derived per client id, so the server answers for one id; the others hear nothing they believe.
    outcomes: list[Outcome] = []
    async with Tiny() as tiny:
        swarm = Swarm(Endpoint(tiny.address), Options(finish=Finish.ACK), concurrency=3)
        tally = await swarm.run([IDENTITY] * 7, 7, lambda outcome, _: outcomes.append(outcome))
    assert (tally.confirmed, tally.done, len(outcomes)) == (7, 7, 7)
    assert tally.rate > 0
    p50, p99 = tally.percentile(50), tally.percentile(99)
    assert p50 is not None
    assert p99 is not None
    assert 0 < p50 <= p99


async def test_refusals_are_counted_by_reason() -> None:
    async with Tiny() as tiny:
        tiny.answer = lambda _topic, message: [double.reply(message, "denied", proved=False)]
        tally = await Swarm(Endpoint(tiny.address)).run([IDENTITY] * 4, 4)
    assert (tally.confirmed, dict(tally.refused)) == (0, {"denied": 4})
    assert (tally.percentile(50), tally.rate) == (None, 0.0)


async def test_no_more_than_so_many_at_once() -> None:
    outcomes: list[Outcome] = []
    at_once: list[int] = []
    async with Tiny() as tiny:

        def connack(_: Connect) -> Connack:
            at_once.append(len(tiny.connects) - len(outcomes))
            return Connack()

        tiny.connack = connack
        swarm = Swarm(Endpoint(tiny.address, 4), Options(finish=Finish.ACK), concurrency=2, spread=0.05)
        tally = await swarm.run([IDENTITY] * 10, 10, lambda outcome, _: outcomes.append(outcome))
    assert (tally.confirmed, max(at_once) <= 2) == (10, True)


def test_percentiles_are_latencies_that_occurred() -> None:
    tally = Tally(latencies=[0.4, 0.1, 0.3, 0.2])
    assert [tally.percentile(percent) for percent in (0, 25, 50, 75, 99, 100)] == [0.1, 0.1, 0.2, 0.3, 0.4, 0.4]


def test_flash_of_a_unit_is_its_own() -> None:
    assert load(MemoryFlash()) is None
