"""From the first claim to `already-provisioned`, in every mode, version and encoding of the contract."""

import asyncio
import secrets
from typing import Any

import pytest

from tests.e2e import independent as wire
from tests.e2e.packets import RefusedError
from tests.e2e.program import FLOOR_PASSWORD, FLOOR_USER, Site, fresh_mac, fresh_name
from tests.programs import needed

MODES: list[wire.Mode] = ["plain", "proof", "ctr", "hpke"]


@pytest.mark.parametrize("encoding", ["json", "cbor"])
@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("mode", MODES)
async def test_a_device_gets_a_working_credential_and_confirms_it(
    site: Site, mode: wire.Mode, version: wire.Version, encoding: wire.Wire
) -> None:
    device, request = await site.unit(
        mode=mode, version=version, wire=encoding, confirm="ack", configuration={"interval": 30}
    )

    offer = await device.provision()
    assert offer.offer
    assert (offer.generation, offer.offer["confirm"], offer.offer["configuration"]) == (1, "ack", {"interval": 30})
    async with await device.login(site.program.device_broker, offer.credentials) as work:
        topics = offer.offer["topics"]
        assert await work.subscribe(*((name, 1) for name in topics["subscribe"])) == [1] * len(topics["subscribe"])
        await work.publish(topics["publish"][0].replace("#", "hello"), b"first words", 1)
        assert (await work.message()).payload == b"first words"
        await work.disconnect()

    assert (await request.read())["phase"] == "OFFERED"
    confirmed = await device.ack("stored", 1)
    again = await device.ack("stored", 1)
    assert [confirmed.reason, again.reason] == ["confirmed", "confirmed"]
    assert confirmed.body.get("forget", False) == again.body.get("forget", False) is False
    assert (await device.claim("r-2")).reason == "already-provisioned"
    now = await request.read()
    assert (now["phase"], now["provisionJob"]["status"], now["generation"]) == ("CONFIRMED", "COMPLETED", 1)


@pytest.mark.parametrize("mode", MODES)
async def test_the_offer_says_what_section_7_shows(site: Site, mode: wire.Mode) -> None:
    device, request = await site.unit(mode=mode, confirmTime=600)
    reply = await device.provision()
    offer = reply.offer
    assert offer
    assert offer["broker"]["account"] == "north"
    assert offer["broker"]["url"].startswith("mqtt://")
    assert offer["credentials"]["coupling"] == "STRICT"
    assert offer["topics"] == {
        "publish": [f"north/{request.client_id}/#"],
        "subscribe": [f"north/{request.client_id}/#"],
    }
    assert 590_000 <= offer["confirmBefore"] - offer["serverTime"] <= 660_000
    assert abs(offer["serverTime"] - request.created["createdOn"]) < 60_000
    assert (offer["confirm"], offer["configuration"]) == ("either", {})


@pytest.mark.parametrize("mode", ["proof", "ctr", "hpke"])
async def test_a_proved_claim_is_never_answered_in_the_clear(site: Site, mode: wire.Mode) -> None:
    device, _ = await site.unit(mode=mode)
    reply = await device.provision()
    assert reply.credentials["password"].encode() not in reply.message.payload
    assert reply.credentials["username"].encode() not in reply.message.payload


async def test_a_key_chosen_by_the_operator_works(site: Site) -> None:
    key = f"~!{secrets.token_urlsafe(24)}|%"
    device, request = await site.unit(generateActivationKey=False, activationKey=key)
    assert request.key == key
    assert (await device.provision()).generation == 1


async def test_a_generated_key_has_32_letters_and_digits(site: Site) -> None:
    request = await site.request()
    assert len(request.key) == 32
    assert request.key.isascii()
    assert request.key.isalnum()


async def test_a_mac_address_is_a_client_id(site: Site) -> None:
    device, _, credentials = await site.confirmed(client_id="00:1A:2B:3C:4D:5E")
    async with await device.login(site.program.device_broker, credentials):
        pass


async def test_ids_of_full_length_are_taken(site: Site) -> None:
    device, _ = await site.unit(client_id="x" * 128)
    device.request_id = "y" * 64
    assert (await device.claim(nonce="n" * 43)).generation == 1


async def test_client_ids_are_compared_byte_for_byte(site: Site) -> None:
    request = await site.request("Unit-A")
    assert (await site.device("unit-a", request.key).claim()).reason == "denied"
    assert (await site.device("Unit-A", request.key).claim()).generation == 1


async def test_a_loose_request_is_offered_as_loose(site: Site) -> None:
    device, _ = await site.unit(deviceCredentialsTight="LOOSE")
    assert (await device.provision()).credentials["coupling"] == "LOOSE"


async def test_inherited_coupling_is_resolved_before_the_device_sees_it(site: Site) -> None:
    device, _ = await site.unit(deviceCredentialsTight="INHERITED")
    assert (await device.provision()).credentials["coupling"] == "STRICT"


async def test_facts_that_agree_do_no_harm(site: Site) -> None:
    serial_number, mac = fresh_name("SN"), fresh_mac()
    device, _ = await site.unit(serialNumber=serial_number, macAddress=mac.lower(), brand="Acme", model="Box")
    facts: dict[str, Any] = {
        "serialNumber": serial_number,
        "macAddress": mac.replace(":", ""),
        "brand": "Acme",
        "model": "Box",
        "firmware": 7,
    }
    assert (await device.claim(device=facts)).generation == 1


async def test_32_facts_of_every_type_are_heard(site: Site) -> None:
    for encoding in ("json", "cbor"):
        device, _ = await site.unit(wire=encoding)
        facts = {
            f"fact{number}": [number, number + 0.5, f"é{number}", number % 3 == 0][number % 4] for number in range(32)
        }
        assert (await device.claim(device=facts)).generation == 1


async def test_qos_0_claims_and_acks_count_as_much(site: Site) -> None:
    for version in (4, 5):
        device, _ = await site.unit(version=version)
        offer = await device.claim(qos=0)
        assert (await device.ack("stored", offer.generation, qos=0)).reason == "confirmed"


@pytest.mark.endpoint_only("plain")
async def test_the_same_device_may_change_its_mode_and_encoding_between_claims(site: Site) -> None:
    request = await site.request()
    seen = set()
    for mode in ("plain", "proof", "ctr", "hpke"):
        for encoding in ("json", "cbor"):
            offer = await site.device(request.client_id, request.key, mode=mode, wire=encoding, version=5).claim()
            seen.add((offer.generation, offer.credentials["username"], offer.credentials["password"]))
    assert len(seen) == 1


async def test_many_devices_are_handed_over_at_once(site: Site) -> None:
    modes = MODES if site.through is None else MODES[1:]
    units = [await site.unit(mode=modes[number % len(modes)], version=5 if number % 2 else 4) for number in range(20)]
    offers = await asyncio.gather(*(device.provision() for device, _ in units))
    acks = await asyncio.gather(*(device.ack("stored", 1) for device, _ in units))
    assert {ack.reason for ack in acks} == {"confirmed"}
    assert (
        len({offer.credentials["username"] for offer in offers})
        == len({offer.credentials["password"] for offer in offers})
        == 20
    )


@pytest.mark.parametrize(("flag", "version"), [("311", 4), ("5", 5)])
@pytest.mark.endpoint_only("plain")
async def test_a_shell_script_with_mosquitto_rr_is_a_device(site: Site, flag: str, version: wire.Version) -> None:
    device, _ = await site.unit(mode="plain", version=version)
    claim = device.claim_body()
    host, port = site.program.endpoint
    process = await asyncio.create_subprocess_exec(
        *[
            needed("mosquitto_rr", "mosquitto-clients"),
            "-V",
            flag,
            "-h",
            host,
            "-p",
            str(port),
            "-i",
            device.client_id,
            "-u",
            FLOOR_USER,
            "-P",
            FLOOR_PASSWORD,
        ],
        *[
            "-q",
            "1",
            "-W",
            "10",
            "-t",
            device.topic("request"),
            "-e",
            device.topic("reply"),
            "-m",
            wire.encode(claim, "json").decode(),
        ],
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    offer = wire.decode(out, "json")
    wire.check_offer(offer, "r-1", device.client_id)
    site.program.secrets.add(offer["credentials"]["password"])
    assert (await device.ack("stored", offer["generation"])).reason == "confirmed"


async def test_an_offered_credential_is_no_login_for_the_endpoint(site: Site) -> None:
    device, _, credentials = await site.confirmed()
    other = site.device(device.client_id, device.activation_key)
    other.user, other.password = credentials["username"], credentials["password"]
    with pytest.raises(RefusedError) as refused:
        await other.open()
    assert refused.value.code == 5


async def test_the_provisioning_login_is_no_login_for_the_device_broker(site: Site) -> None:
    device, _ = await site.unit()
    with pytest.raises(RefusedError):
        await device.login(
            site.program.device_broker,
            {"clientId": device.client_id, "username": FLOOR_USER, "password": FLOOR_PASSWORD},
        )
