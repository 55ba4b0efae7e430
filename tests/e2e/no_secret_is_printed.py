"""Keys, passwords and tokens stay out of stdout and stderr, whatever is done with them."""

import asyncio
import stat

import pytest

from tests.e2e import independent as wire
from tests.e2e.packets import EndedError, RefusedError, Session
from tests.e2e.program import FLOOR_PASSWORD, FLOOR_USER, Site, StartProgram


async def test_no_secret_is_printed_by_a_program_that_met_everything(start_program: StartProgram) -> None:
    program = start_program()
    async with await Site.at(program) as site:
        for mode in ("plain", "proof", "ctr", "hpke"):
            for encoding in ("json", "cbor"):
                device, request, credentials = await site.confirmed(mode=mode, wire=encoding, version=5)
                async with await device.login(program.device_broker, credentials):
                    await request.tell("revoke")
        device, _ = await site.unit(mode="plain")
        session = await device.connect()
        key = device.activation_key
        mistakes = [
            f'{{"requestId":"r-1","activationKey":"{key}","colour":"red"}}',
            f'{{"requestId":"r-1","activationKey":"{key} "}}',
            f'{{"requestId":"r-1","activationKey":"{key}"',
            f'{{"activationKey":"{key}"}}',
            f'"{key}"',
        ]
        for mistake in mistakes:
            await session.publish(device.topic("request"), mistake.encode(), 1)
            await session.message()
        for username, password in ((FLOOR_USER, FLOOR_PASSWORD + "!"), (FLOOR_PASSWORD, FLOOR_USER), (key, key)):
            async with await Session.open(program.endpoint) as wrong:
                assert (await wrong.connect(device.client_id, username, password)).code == 5
        async with await Session.open(program.device_broker) as wrong:
            with pytest.raises((AssertionError, EndedError)):
                assert (await wrong.connect(device.client_id, FLOOR_USER, key)).code == 0
        async with await Session.open(program.endpoint) as elsewhere:
            await elsewhere.connect(device.client_id, FLOOR_USER, FLOOR_PASSWORD)
            await elsewhere.publish(f"prov/v1/{FLOOR_USER}/other/request", wire.encode(device.claim_body(), "json"))
            await elsewhere.ended()
        # Forms with mistakes carry secrets too.
        form = await site.form("no/such/id") | {"activationKey": key}
        assert (await site.operator.http.post("/v2/provisionRequests", json=form)).status_code in {400, 422}
        assert (
            await site.operator.http.get("/v2/provisionRequests", headers={"Authorization": f"Bearer {key}"})
        ).status_code == 401
    # stop() looks for every secret that was seen, and for tracebacks.
    assert len(program.secrets) >= 8 * 2 + 2
    await asyncio.to_thread(program.stop)
    assert "ready" in "".join(program.output)


async def test_the_admin_token_is_for_its_owner_alone(site: Site) -> None:
    path = site.program.data / "admin-token"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(path.read_text().strip()) >= 22


async def test_secrets_do_not_stand_in_the_data_directory_in_the_clear(start_program: StartProgram) -> None:
    """Rule 8: sealed under a key outside the database, so that no file shows a secret as it is."""
    program = start_program()
    async with await Site.at(program) as site:
        device, _ = await site.unit(confirm="ack")
        offer = await device.provision()
        done, _, credentials = await site.confirmed()
    hunted = {
        device.activation_key,
        done.activation_key,
        offer.credentials["password"],
        credentials["password"],
        FLOOR_PASSWORD,
    }
    await asyncio.to_thread(program.stop)
    for path in program.data.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not [secret for secret in hunted if secret.encode() in content], path.name


async def test_a_wrong_login_at_the_device_broker_tells_nothing(site: Site) -> None:
    device, _, credentials = await site.confirmed()
    for instead in ({"password": "x"}, {"username": "nobody-at-all"}):
        with pytest.raises(RefusedError) as refused:
            await device.login(site.program.device_broker, credentials | instead)
        assert refused.value.code in {4, 5}
