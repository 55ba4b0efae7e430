"""The endpoint over real sockets: what it carries, whom it lets in, and how it ends; on both event loops."""

import asyncio
import time
from pathlib import Path
from typing import cast

import pytest
from structlog.testing import capture_logs

from broker.mqtt.endpoint import Endpoint, EndpointLimits
from broker.mqtt.packets import (
    V5,
    V311,
    Connack,
    Connect,
    Disconnect,
    Pingreq,
    Pingresp,
    Properties,
    Puback,
    Publish,
    Will,
    encode,
)
from broker.mqtt.topics import UnknownTopic
from broker.tls import server_context
from tests.broker.mqtt.serving import BOTH, PATIENCE, Answering, Client, contexts, served, until, until_still
from tests.pki import Pki

both = pytest.mark.parametrize("version", BOTH)
QUICK = EndpointLimits(packets_per_second=1e6)


# What it carries.


@both
async def test_a_claim_is_answered_on_its_own_connection(version: int) -> None:
    async with served() as world:
        first, second = await world.admitted(version), await world.admitted(version)
        assert await first.answered(b"one") == b"one"
        assert await second.answered(b"two") == b"two"
        assert await first.answered(b"three", "ack") == b"three"
        one, two, three = world.service.inbound
        assert (one.user, one.client_id, one.kind, one.source) == ("factory", "dev-1", "request", "127.0.0.1")
        assert (one.secure, one.tls, one.reply_limit) == (True, False, None)
        assert (three.kind, three.connection) == ("ack", one.connection)
        assert two.connection != one.connection


@both
async def test_everything_at_once_is_answered_in_order(version: int) -> None:
    async with served() as world:
        client = await world.open(version)
        client.connect()
        client.say(Publish(client.topic("request"), b"claim", 1, 5), Pingreq())
        heard = [type(await client.hear()) for _ in range(4)]
        assert heard == [Connack, Puback, Pingresp, Publish]


@both
async def test_tls_carries_the_same(version: int, tmp_path: Path) -> None:
    server, trust, _ = contexts(tmp_path)
    async with served() as world:
        port = await world.endpoint.start("127.0.0.1", 0, server)
        assert port != world.port
        client = await world.open_at(port, version, trust=trust)
        await client.admitted()
        assert await client.answered(b"x" * 10_000) == b"x" * 10_000
        assert (world.service.inbound[0].tls, world.service.inbound[0].secure) == (True, True)


@both
async def test_a_certificate_logs_in_where_there_is_no_password(version: int, tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    device, ours = pki.device("acme", "dev-1"), pki.server()
    tls = server_context(ours.chain, ours.key, pki.authority.root_pem)
    # One unproved session of an id is all there may be, and somebody with the shared login has it.
    async with served(EndpointLimits(unproved_per_source=1, unproved_per_client_id=1)) as world:
        port = await world.endpoint.start("127.0.0.1", 0, tls)
        await world.admitted(version)
        client = await world.open_at(port, version, trust=pki.client(device))
        client.say(Connect("dev-1", version))
        connack = await client.hear()
        assert isinstance(connack, Connack)
        assert connack.code == 0
        assert await client.answered(b"renew") == b"renew"
        assert (world.service.shown, world.service.inbound[0].certificate) == ([(device.der, "dev-1")], "17")
        assert world.service.inbound[0].user == "factory"  # not what CONNECT said, which was nothing
        other = await world.open_at(port, version, "dev-2", pki.client(device))
        other.say(Connect("dev-2", version))
        assert await other.told_refusal() in (5, 0x87)
        logins = len(world.service.logins)
        by_password = await world.open_at(port, version, "dev-3", pki.client(device))
        await by_password.admitted()
        await by_password.answered()
        assert world.service.inbound[-1].certificate is None
        assert len(world.service.logins) == logins + 1


@both
async def test_a_session_with_a_certificate_replaces_the_oldest(version: int, tmp_path: Path) -> None:
    pki = Pki(tmp_path)
    device, ours = pki.device("acme", "dev-1"), pki.server()
    async with served(EndpointLimits(proved_per_client_id=1)) as world:
        tls = server_context(ours.chain, ours.key, pki.authority.root_pem)
        port = await world.endpoint.start("127.0.0.1", 0, tls)
        sessions = []
        for _ in range(2):
            client = await world.open_at(port, version, trust=pki.client(device))
            client.say(Connect("dev-1", version))
            await client.hear()
            sessions.append(client)
        if version == V5:
            assert (await sessions[0].hear()) == Disconnect(
                0x97, Properties(reason_string="a newer session of this client id proved its key")
            )
        assert await sessions[0].hears_nothing_more()
        assert await sessions[1].answered(b"renew") == b"renew"


async def test_plain_bytes_on_the_tls_port_are_nobody(tmp_path: Path) -> None:
    server, _, _ = contexts(tmp_path)
    async with served() as world:
        client = await world.open_at(await world.endpoint.start("127.0.0.1", 0, server))
        client.connect()
        assert await client.hears_nothing_more()
        assert world.endpoint.counters.connections == 0


async def test_a_bad_topic_of_311_is_answered_and_ends() -> None:
    async with served() as world:
        client = await world.admitted()
        client.say(Publish("other", b"x"))
        assert await client.hear() == Publish(client.topic("reply"), b"bad-request of dev-1")
        assert await client.hears_nothing_more()


async def test_the_service_hears_what_the_client_can_take() -> None:
    async with served() as world:
        client = await world.open(V5)
        await client.admitted(Properties(maximum_packet_size=1000))
        await client.answered()
        limit = world.service.inbound[0].reply_limit
        assert limit is not None
        assert 900 < limit < 1000


async def test_a_reply_the_client_cannot_take_is_not_sent() -> None:
    async with served() as world:
        client = await world.open(V5)
        await client.admitted(Properties(maximum_packet_size=1000))
        client.claim(b"large")
        disconnect = await client.hear()
        assert isinstance(disconnect, Disconnect)
        assert disconnect.code == 0x95
        assert world.endpoint.counters.unsendable == 1


@both
async def test_a_service_that_raises_ends_only_that_session(version: int) -> None:
    with capture_logs() as logs:
        async with served() as world:
            unlucky, other = await world.admitted(version), await world.admitted(version)
            unlucky.claim(b"fail")
            if version == V5:
                disconnect = await unlucky.hear()
                assert isinstance(disconnect, Disconnect)
                assert disconnect.code == 0x80
            assert await unlucky.hears_nothing_more()
            assert await other.answered() == b"claim"
    (failure,) = [line for line in logs if line["event"] == "service failed"]
    assert isinstance(failure["exc_info"], ValueError)
    assert "claim" not in str(logs)


# Logging in.


@both
async def test_a_refused_login_leaves_on_the_grid(version: int) -> None:
    async with served(EndpointLimits(refusal_grid=0.03)) as world:
        for password in (b"wrong", b"", None):
            client = await world.open(version)
            start = time.monotonic()
            client.connect(password)
            assert await client.told_refusal() == (0x87 if version == V5 else 5)
            assert time.monotonic() - start >= 0.028
        assert [password for _, password, _ in world.service.logins] == [b"wrong", b"", b""]
        assert world.endpoint.counters.refused == {"login": 3}


@both
async def test_all_but_wrong_logins_are_answered_at_once(version: int) -> None:
    async with served(EndpointLimits(refusal_grid=1000)) as world:
        assert await (await world.admitted(version)).answered() == b"claim"
        world.service.busy = True
        assert await (await world.open(version)).refused() == (0x97 if version == V5 else 3)


@both
async def test_a_user_outside_the_grammar_is_refused_like_any_other(version: int) -> None:
    async with served(EndpointLimits(refusal_grid=0.03)) as world:
        client = await world.open(version)
        client.say(Connect("dev-1", version, username="a/b", password=b"pw"))
        assert await client.told_refusal() == (0x87 if version == V5 else 5)
        assert world.service.logins == [("a/b", b"pw", "dev-1")]


@both
async def test_a_refused_client_hears_why_whatever_it_sent_behind(version: int) -> None:
    async with served() as world:
        client = await world.open(version)
        client.say(Connect("dev-1", version, will=Will("t", b"")), *[Pingreq()] * 5000)
        assert await client.told_refusal() == (0x87 if version == V5 else 5)
        assert world.service.logins == []


# Who may be connected.


@both
async def test_few_sessions_of_one_id_may_be_unproved(version: int) -> None:
    async with served() as world:
        clients = [await world.admitted(version) for _ in range(4)]
        assert await (await world.open(version)).refused() == (0x97 if version == V5 else 3)
        await (await world.admitted(version, "dev-2")).answered()
        await clients[0].answered(b"prove:nonce-1")
        await world.admitted(version)
        assert world.endpoint.counters.refused == {"full": 1}


@both
async def test_a_newly_proved_session_replaces_the_oldest_and_a_replay_nobody(version: int) -> None:
    async with served() as world:
        proved = []
        for number in range(4):
            proved.append(await world.admitted(version))
            await proved[-1].answered(b"prove:nonce-%d" % number)
        replay = await world.admitted(version)
        await replay.answered(b"prove:nonce-2")
        for client in proved:
            await client.answered()
        await replay.answered(b"prove:nonce-fresh")
        if version == V5:
            disconnect = await proved[0].hear()
            assert isinstance(disconnect, Disconnect)
            assert disconnect.code == 0x97
        assert await proved[0].hears_nothing_more()
        for client in (*proved[1:], replay):
            await client.answered()
        assert world.endpoint.counters.replaced == 1


@both
async def test_a_full_house_tells_who_speaks_to_come_later(version: int) -> None:
    async with served(EndpointLimits(max_connections=2)) as world:
        await world.admitted(version, "dev-1")
        await world.admitted(version, "dev-2")
        assert await (await world.open(version, "dev-3")).refused() == (0x97 if version == V5 else 3)


async def test_silence_makes_room_for_who_speaks() -> None:
    async with served(EndpointLimits(max_connections_per_source=3)) as world:
        silent = [await world.open() for _ in range(3)]
        speaking = await world.admitted()
        assert await silent[0].hears_nothing_more()
        await speaking.answered()
        assert world.endpoint.counters.evicted == 1


async def test_an_answer_being_made_keeps_its_seat_though_the_client_left() -> None:
    async with served(EndpointLimits(unproved_per_source=1)) as world:
        world.service.gate.clear()
        client = await world.admitted()
        client.claim()
        await world.service.until_arrived(1)
        client.writer.close()
        await until(lambda: world.endpoint.counters.open == 0)
        assert await (await world.open()).refused() == 3
        world.service.gate.set()
        await (await world.admitted()).answered()


# Bounds.


async def test_a_flood_of_claims_waits_at_the_door() -> None:
    async with served(QUICK) as world:
        world.service.gate.clear()
        client = await world.admitted()
        client.say(*[Publish(client.topic("request"), bytes(1000))] * 500)
        await world.service.until_arrived(4)
        for _ in range(100):
            await asyncio.sleep(0)
        assert len(world.service.inbound) == 4
        world.service.gate.set()
        for _ in range(500):
            assert isinstance(await client.hear(), Publish)


async def test_a_client_that_does_not_read_is_not_read() -> None:
    async with served(QUICK) as world:
        client = await world.admitted()
        cast("asyncio.Transport", client.writer.transport).pause_reading()
        packet = encode(Publish(client.topic("request"), b"large"), V311)
        client.write(packet * 20_000)
        # Some answers fill the buffers of both sides; the last claim has to wait.
        await world.service.until_arrived(10)
        await until_still(lambda: len(world.service.inbound))
        assert len(world.service.inbound) < 20_000
        client.writer.transport.abort()


async def test_a_connection_without_connect_is_closed() -> None:
    async with served(EndpointLimits(connect_time=0.02)) as world:
        client = await world.open()
        client.write(encode(Connect("dev-1"), V311)[:-1])
        assert await client.hears_nothing_more()


@both
async def test_above_the_rate_packets_are_taken_later_and_none_is_lost(version: int) -> None:
    async with served(EndpointLimits(packets_per_second=100)) as world:
        client = await world.admitted(version)
        start = time.monotonic()
        client.say(*[Pingreq()] * 110)
        for _ in range(110):
            await client.hear()
        assert time.monotonic() - start > 0.09


async def test_a_client_that_never_hangs_up_is_cut_off() -> None:
    async with served(EndpointLimits(closing_time=0.02)) as world:
        client = await world.open()
        client.say(Connect("", V311))
        connack = await client.hear()
        assert isinstance(connack, Connack)
        await until(lambda: world.endpoint.counters.open == 0)


async def test_a_client_that_sends_on_after_the_end_is_cut_off() -> None:
    async with served(EndpointLimits(closing_time=1000)) as world:
        client = await world.open()
        client.write(encode(Connect("", V311), V311) + bytes(300_000))
        await until(lambda: world.endpoint.counters.connections == 1 and world.endpoint.counters.open == 0)


# Draining.


@both
async def test_draining_answers_first_and_says_goodbye(version: int) -> None:
    async with served() as world:
        idle, busy, late = await world.admitted(version), await world.admitted(version), await world.open(version)
        world.service.gate.clear()
        busy.claim(b"in flight")
        await world.service.until_arrived(1)
        drain = asyncio.create_task(world.endpoint.drain(PATIENCE))
        await goodbye(idle, version)
        assert await late.refused() == (0x88 if version == V5 else 3)
        newcomer = await world.open(version)
        assert await newcomer.refused() == (0x88 if version == V5 else 3)
        world.service.gate.set()
        reply = await busy.hear()
        assert isinstance(reply, Publish)
        assert reply.payload == b"in flight"
        await goodbye(busy, version)
        await drain
        with pytest.raises(OSError):  # noqa: PT011  the text is the system's
            await world.open(version)
        assert world.endpoint.counters.open == 0


async def test_draining_ends_though_an_answer_does_not() -> None:
    async with served(EndpointLimits(closing_time=0.02)) as world:
        world.service.gate.clear()
        client, silent = await world.admitted(V5), await world.open()
        client.claim()
        await world.service.until_arrived(1)
        await asyncio.wait_for(world.endpoint.drain(0.02), PATIENCE)
        await goodbye(client, V5)
        assert await silent.hears_nothing_more()


# Starting.


async def test_a_root_that_is_no_topic_is_refused() -> None:
    with pytest.raises(UnknownTopic):
        Endpoint(Answering(), root="a/#")


async def test_an_address_that_is_taken_is_an_error() -> None:
    async with served() as world:
        with pytest.raises(OSError, match="in use"):
            await world.endpoint.start("127.0.0.1", world.port)


async def test_counters_count() -> None:
    async with served() as world:
        client = await world.admitted()
        await client.answered()
        counters = world.endpoint.counters
        assert (counters.connections, counters.open, counters.admitted, counters.messages) == (1, 1, 1, 1)
        client.say(Disconnect())
        assert await client.hears_nothing_more()
        await until(lambda: counters.open == 0)


async def goodbye(client: Client, version: int) -> None:
    """The client hears that the server shuts down, as far as its version can say so."""
    if version == V5:
        disconnect = await client.hear()
        assert isinstance(disconnect, Disconnect)
        assert disconnect.code == 0x8B
    assert await client.hears_nothing_more()
