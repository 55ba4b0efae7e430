"""Rule 6: from every state an honest device can still be provisioned, whichever message was lost."""

import pytest

from tests.e2e import independent as wire
from tests.e2e.program import Site

EVERY_MODE = pytest.mark.parametrize("mode", ["plain", "proof", "ctr", "hpke"])


@EVERY_MODE
async def test_the_reply_to_a_claim_is_lost(site: Site, mode: wire.Mode) -> None:
    device, request = await site.unit(mode=mode)
    for _ in range(3):
        session = await device.open()
        await session.publish(device.topic("request"), wire.encode(device.claim_body(), "json"), 1)
        await session.close()
    offer = await device.provision()
    assert offer.generation == 1
    assert (await request.job())["retryCount"] == 1
    assert (await device.ack("stored", 1)).reason == "confirmed"


@EVERY_MODE
async def test_the_connection_is_lost_before_the_puback(site: Site, mode: wire.Mode) -> None:
    device, _ = await site.unit(mode=mode)
    session = await device.open()
    await session.send(session.publish_packet(device.topic("request"), wire.encode(device.claim_body(), "json"), 1))
    await session.close()
    assert (await device.provision()).generation == 1


@EVERY_MODE
async def test_the_reply_to_an_ack_is_lost(site: Site, mode: wire.Mode) -> None:
    device, request = await site.unit(mode=mode)
    await device.provision()
    session = await device.open()
    await session.publish(device.topic("ack"), wire.encode(device.ack_body("stored", 1), "json"), 1)
    await session.close()
    await device.close()
    assert (await device.ack("stored", 1)).reason == "confirmed"
    assert await request.phase() == "CONFIRMED"


@EVERY_MODE
async def test_the_ack_is_lost_and_the_device_claims_again(site: Site, mode: wire.Mode) -> None:
    device, _ = await site.unit(mode=mode)
    first = await device.provision()
    await device.close()
    again = await device.provision()
    assert again.credentials == first.credentials
    assert (await device.ack("stored", 1)).reason == "confirmed"


async def test_the_reply_to_a_failed_ack_is_lost(site: Site) -> None:
    device, request = await site.unit()
    await device.provision()
    session = await device.open()
    await session.publish(device.topic("ack"), wire.encode(device.ack_body("failed", 1), "json"), 1)
    await session.close()
    await request.until("PENDING")
    assert (await device.ack("failed", 1)).reason in {"noted", "superseded"}
    assert (await device.provision("r-2")).generation == 2


async def test_a_device_that_forgot_everything_but_its_key_is_provisioned(site: Site) -> None:
    """A power cut before the new flash slot was made current: a new requestId, the same credential."""
    device, _ = await site.unit()
    first = await device.provision()
    reborn = site.device(device.client_id, device.activation_key, mode="hpke", wire="cbor", version=5)
    second = await reborn.provision("after-the-power-cut")
    assert (second.generation, second.credentials) == (1, first.credentials)
    assert (await reborn.ack("stored", 1)).reason == "confirmed"
    assert (await device.ack("stored", 1)).reason == "confirmed", "the late ack of the first life"


async def test_a_device_whose_login_is_refused_gets_another_credential(site: Site) -> None:
    device, request = await site.unit()
    generations = []
    for attempt in range(1, 5):
        offer = await device.provision(f"r-{attempt}")
        generations.append(offer.generation)
        if attempt < 4:
            assert (await device.ack("failed", offer.generation)).reason == "noted"
    assert generations == [1, 2, 3, 4]
    assert (await device.ack("stored", 4)).reason == "confirmed"
    assert (await request.job())["retryCount"] == 4


async def test_a_delayed_claim_of_an_earlier_generation_takes_nothing_away(site: Site) -> None:
    device, request = await site.unit()
    delayed = device.claim_body("r-1")
    await device.provision("r-1")
    await device.ack("failed", 1)
    second = await device.provision("r-2")
    assert (await device.exchange("request", delayed)).reason == "superseded"
    assert (await device.claim("r-2")).credentials == second.credentials
    assert (await device.ack("stored", 2)).reason == "confirmed"
    assert (await device.exchange("request", delayed)).reason in {"superseded", "already-provisioned"}
    assert await request.phase() == "CONFIRMED"


async def test_a_delayed_failed_ack_takes_nothing_away(site: Site) -> None:
    device, request = await site.unit()
    await device.provision("r-1")
    late = device.ack_body("failed", 1)
    await device.ack("failed", 1)
    second = await device.provision("r-2")
    assert (await device.exchange("ack", late)).reason in {"superseded", "noted"}
    assert (await request.read())["generation"] == 2
    assert (await device.claim()).credentials == second.credentials
    assert (await device.ack("stored", 2)).reason == "confirmed"
    assert (await device.exchange("ack", late)).reason in {"superseded", "noted"}
    assert await request.phase() == "CONFIRMED"
