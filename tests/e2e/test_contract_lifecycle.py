"""Sections 8 and 9 of the contract: confirmation, retirement, and every way round the table of phases."""

import asyncio
import contextlib
import time
from collections.abc import Mapping
from typing import Any

import pytest

from tests.e2e.independent import IndependentDevice, Mode
from tests.e2e.packets import RefusedError
from tests.e2e.program import Request, Site

MODES: list[Mode] = ["plain", "proof", "ctr", "hpke"]


async def admits(site: Site, device: IndependentDevice, credentials: Mapping[str, Any]) -> bool:
    """Whether the device broker lets the device in with this credential."""
    try:
        session = await device.login(site.program.device_broker, credentials)
    except RefusedError:
        return False
    await session.disconnect()
    return True


async def refused_soon(site: Site, device: IndependentDevice, credentials: Mapping[str, Any]) -> None:
    """Log in until it is refused; only for requests that no login confirms."""
    limit = time.monotonic() + 10
    while await admits(site, device, credentials):
        assert time.monotonic() < limit, "the credential still works"
        await asyncio.sleep(0.02)


# --- confirmation -----------------------------------------------------------------------------------------------------


async def test_an_ack_confirms_where_either_will_do(site: Site) -> None:
    device, request = await site.unit(confirm="either")
    await device.claim()
    assert (await device.ack("stored", 1)).reason == "confirmed"
    assert await request.phase() == "CONFIRMED"


async def test_a_login_confirms_where_either_will_do(site: Site) -> None:
    device, request = await site.unit()
    offer = await device.claim()
    assert offer.offer
    assert offer.offer["confirm"] == "either"
    assert await admits(site, device, offer.credentials)
    now = await request.until("CONFIRMED")
    assert now["provisionJob"]["status"] == "COMPLETED"
    assert (await device.claim()).reason == "already-provisioned"
    assert (await device.ack("stored", 1)).reason == "confirmed"


async def test_a_login_confirms_where_login_is_asked_for(site: Site) -> None:
    device, request = await site.unit(confirm="login")
    offer = await device.claim()
    assert offer.offer
    assert offer.offer["confirm"] == "login"
    assert await admits(site, device, offer.credentials)
    await request.until("CONFIRMED")


async def test_an_ack_does_not_confirm_where_a_login_is_asked_for(site: Site) -> None:
    device, request = await site.unit(confirm="login")
    offer = await device.claim()
    assert (await device.ack("stored", 1)).reason != "confirmed"
    assert await request.phase() == "OFFERED"
    assert (await device.claim()).generation == 1
    assert await admits(site, device, offer.credentials)
    await request.until("CONFIRMED")
    assert (await device.ack("stored", 1)).reason == "confirmed"


async def test_a_login_does_not_confirm_where_an_ack_is_asked_for(site: Site) -> None:
    device, request = await site.unit(confirm="ack")
    offer = await device.claim()
    async with await device.login(site.program.device_broker, offer.credentials) as work:
        await work.ping()
        assert await request.phase() == "OFFERED"
        assert (await device.claim()).generation == 1
        assert (await device.ack("stored", 1)).reason == "confirmed"
        await work.ping()
    assert await request.phase() == "CONFIRMED"


async def test_a_refused_login_confirms_nothing(site: Site) -> None:
    device, request = await site.unit()
    offer = await device.claim()
    wrong = [{"password": "wrong"}, {"clientId": "another"}, {"username": offer.credentials["username"] + "x"}]
    for instead in wrong:
        assert not await admits(site, device, offer.credentials | instead)
    assert await request.phase() == "OFFERED"
    assert (await device.claim()).generation == 1


async def test_a_loose_credential_is_confirmed_by_use_under_another_client_id(site: Site) -> None:
    device, request = await site.unit(deviceCredentialsTight="LOOSE", confirm="login")
    offer = await device.claim()
    assert await admits(site, device, offer.credentials | {"clientId": f"{device.client_id}-renamed"})
    await request.until("CONFIRMED")


async def test_an_ack_of_a_generation_that_never_was_confirms_nothing(site: Site) -> None:
    device, request = await site.unit()
    for generation in (0, 1, 2):
        assert (await device.ack("stored", generation)).code >= 400
    await device.claim()
    for generation in (0, 2, 2**53, -1):
        assert (await device.ack("stored", generation)).code >= 400
    assert await request.phase() == "OFFERED"
    assert (await device.claim()).generation == 1


# --- repetition -------------------------------------------------------------------------------------------------------


async def test_the_same_claim_gets_the_same_credential_sealed_anew(site: Site) -> None:
    device, request = await site.unit()
    body = device.claim_body()
    replies = [await device.exchange("request", body) for _ in range(3)] + [await device.claim() for _ in range(3)]
    assert len({str(reply.credentials) for reply in replies}) == 1
    assert {reply.generation for reply in replies} == {1}
    assert len({reply.body["sealed"] for reply in replies}) == 6
    assert len({reply.body["sealed"][:16] for reply in replies}) == 6, "an iv was used twice"
    assert (await request.job())["retryCount"] == 1


async def test_another_request_id_gets_the_same_credential_until_it_is_confirmed(site: Site) -> None:
    device, request = await site.unit()
    replies = [await device.claim(f"r-{number}") for number in range(5)]
    assert len({str(reply.credentials) for reply in replies}) == 1
    now = await request.read()
    assert (now["generation"], now["provisionJob"]["retryCount"]) == (1, 1)


@pytest.mark.endpoint_only("one client id twice")
async def test_claims_at_the_same_moment_mint_one_credential(site: Site) -> None:
    device, request = await site.unit()
    async with contextlib.AsyncExitStack() as stack:
        sessions = [await stack.enter_async_context(await device.open()) for _ in range(4)]
        bodies = [device.claim_body(f"r-{number}") for number in range(4)]
        replies = await asyncio.gather(
            *(device.exchange("request", body, session=session) for body, session in zip(bodies, sessions, strict=True))
        )
    offers = [reply for reply in replies if reply.reason != "wait"]
    assert offers
    assert len({str(reply.credentials) for reply in offers}) == 1
    now = await request.read()
    assert (now["generation"], now["provisionJob"]["retryCount"]) == (1, 1)


async def test_every_claim_moves_the_end_of_the_offer(site: Site) -> None:
    device, _ = await site.unit()
    ends = []
    for _ in range(3):
        offer = (await device.claim()).offer
        assert offer
        ends.append(offer["confirmBefore"])
        await asyncio.sleep(0.005)  # The end has a resolution of one millisecond.
    assert ends == sorted(set(ends))


async def test_every_request_id_of_a_retired_generation_is_superseded(site: Site) -> None:
    device, request = await site.unit()
    for request_id in ("r-1", "r-1b", "r-1c"):
        assert (await device.claim(request_id)).generation == 1
    await device.ack("failed", 1, request_id="r-1b")
    await request.until("PENDING")
    for request_id in ("r-1", "r-1b", "r-1c"):
        assert (await device.claim(request_id)).reason == "superseded"
    assert await request.phase() == "PENDING", "a replayed claim minted"
    assert (await device.claim("r-2")).generation == 2
    for request_id in ("r-1", "r-1b", "r-1c"):
        assert (await device.claim(request_id)).reason == "superseded"
    assert (await device.claim("r-2")).generation == 2


async def test_a_request_id_that_was_refused_is_not_used_up(site: Site) -> None:
    device, request = await site.unit()
    await request.tell("disable")
    assert (await device.claim("r-1")).reason == "disabled"
    await request.tell("enable")
    assert (await device.claim("r-1")).generation == 1


# --- retirement -------------------------------------------------------------------------------------------------------


async def test_a_failed_credential_is_removed_before_the_next_is_offered(site: Site) -> None:
    device, _ = await site.unit(confirm="ack")
    old = await device.claim()
    await device.ack("failed", 1)
    new = await device.provision("r-2")
    assert (old.generation, new.generation) == (1, 2)
    assert not await admits(site, device, old.credentials)
    assert await admits(site, device, new.credentials)


async def test_an_offer_nobody_confirms_is_withdrawn_and_the_device_is_not_locked_out(site: Site) -> None:
    device, request = await site.unit(confirm="ack", confirmTime=1)
    offer = await device.claim()
    assert offer.offer
    assert 900 <= offer.offer["confirmBefore"] - offer.offer["serverTime"] <= 7000
    async with await device.login(site.program.device_broker, offer.credentials) as work:
        await work.ended()
    await refused_soon(site, device, offer.credentials)
    now = await request.until("PENDING")
    assert now["provisionJob"]["status"] == "CREATED"
    assert (await device.ack("stored", 1)).reason == "superseded"
    assert (await device.claim("r-1")).reason == "superseded"
    second = await device.provision("r-2")
    assert second.generation == 2
    assert (await device.ack("stored", 2)).reason == "confirmed"
    assert await admits(site, device, second.credentials)


async def test_an_offer_nobody_confirms_is_expired_when_the_window_is_over(site: Site) -> None:
    device, request = await site.unit(confirm="ack", confirmTime=1, expiresOn=int((time.time() + 0.9) * 1000))
    assert (await device.claim()).generation == 1
    await request.until("EXPIRED")
    assert (await device.claim("r-2")).reason == "expired"


async def test_the_window_gates_the_start_and_not_the_end(site: Site) -> None:
    device, request = await site.unit(expiresOn=int((time.time() + 0.6) * 1000))
    first = await device.claim()
    await asyncio.sleep(0.7)
    again = await device.claim()
    assert again.credentials == first.credentials
    assert (await device.ack("stored", 1)).reason == "confirmed"
    assert await request.phase() == "CONFIRMED"


async def test_stopping_an_offer_takes_it_back(site: Site) -> None:
    device, request = await site.unit(confirm="ack")
    offer = await device.claim()
    async with await device.login(site.program.device_broker, offer.credentials) as work:
        await request.tell("stop")
        await work.ended()
    await request.until("STOPPED")
    assert not await admits(site, device, offer.credentials)
    assert (await device.ack("stored", 1)).reason == "superseded"
    assert (await device.claim("r-2")).reason == "abandoned"


async def test_progress_keeps_an_offer_alive(site: Site) -> None:
    device, request = await site.unit(confirm="ack", confirmTime=2)
    await device.claim()
    for status in ("APPS_INSTALLING", "APPS_INSTALLED", "CONF_UPDATING", "CONF_UPDATED"):
        await asyncio.sleep(0.7)  # Together longer than the offer would live without a word.
        assert (await device.ack("progress", 1, status)).reason == "noted"
    assert (await device.ack("stored", 1)).reason == "confirmed"
    assert (await request.read())["generation"] == 1


async def test_wrong_keys_use_up_no_attempts(site: Site) -> None:
    device, request = await site.unit(retryMaxAttempts=1)
    thief = site.device(device.client_id, "not-the-key-of-this-device")
    for number in range(3):
        assert (await thief.claim(f"r-{number}")).reason == "denied"
    assert (await request.job())["retryCount"] == 0
    assert (await device.claim()).generation == 1


async def test_the_last_attempt_may_be_repeated_and_confirmed(site: Site) -> None:
    device, _ = await site.unit(retryMaxAttempts=1)
    offers = [await device.claim(request_id) for request_id in ("r-1", "r-1", "r-2")]
    assert {offer.generation for offer in offers} == {1}
    assert (await device.ack("stored", 1)).reason == "confirmed"


# --- after confirmation -----------------------------------------------------------------------------------------------


@pytest.mark.endpoint_only("plain")
async def test_a_key_that_may_not_be_used_again_still_proves_who_was_provisioned(site: Site) -> None:
    for mode in MODES:
        device, _, _ = await site.confirmed(mode=mode, reuseKey=False)
        assert (await device.claim("r-2")).reason == "already-provisioned"
        assert (await device.ack("stored", 1)).reason == "confirmed"


async def test_revoke_ends_the_credential_for_good(site: Site) -> None:
    device, request, credentials = await site.confirmed()
    async with await device.login(site.program.device_broker, credentials) as work:
        await request.tell("revoke")
        await work.ended()
    now = await request.until("STOPPED")
    assert now["provisionJob"]["status"] == "STOPPED"
    assert not await admits(site, device, credentials)
    assert (await device.claim("r-2")).reason == "abandoned"
    assert (await device.ack("stored", 1)).reason == "superseded"


async def test_reopen_after_confirmation_starts_again_with_the_next_generation(site: Site) -> None:
    device, request, credentials = await site.confirmed()
    async with await device.login(site.program.device_broker, credentials) as work:
        await request.tell("reopen")
        await work.ended()
    now = await request.until("PENDING")
    assert now["provisionJob"]["retryCount"] == 0
    assert not await admits(site, device, credentials)
    assert (await device.claim("r-1")).reason == "superseded"
    second = await device.provision("r-2")
    assert second.generation == 2
    assert (await device.ack("stored", 2)).reason == "confirmed"
    assert await admits(site, device, second.credentials)


@pytest.mark.parametrize("end", ["STOPPED", "ABANDONED", "EXPIRED"])
async def test_reopen_leads_out_of_every_end(site: Site, end: str) -> None:
    fields: dict[str, Any] = {
        "ABANDONED": {"retryMaxAttempts": 1},
        "EXPIRED": {"expiresOn": int((time.time() + 0.3) * 1000)},
    }
    device, request = await site.unit(**fields.get(end, {}))
    generation = 0
    if end == "STOPPED":
        await request.tell("stop")
    if end == "ABANDONED":
        generation = (await device.claim("r-0")).generation
        await device.ack("failed", 1, request_id="r-0")
    await request.until(end)
    if end == "EXPIRED":
        await request.change(expiresOn=int((time.time() + 3600) * 1000))
    await request.tell("reopen")
    assert (await request.until("PENDING"))["provisionJob"]["retryCount"] == 0
    offer = await device.provision("r-1")
    assert offer.generation == generation + 1
    assert (await device.ack("stored", offer.generation)).reason == "confirmed"


async def rotated(site: Site, **fields: Any) -> tuple[IndependentDevice, Request, dict[str, Any], dict[str, Any]]:
    """A confirmed device that was offered its next credential."""
    device, request, old = await site.confirmed(confirm="ack", **fields)
    assert (await device.claim("r-2")).reason == "already-provisioned"
    await request.tell("rotate")
    assert await request.phase() == "CONFIRMED"
    offer = await device.provision("r-3")
    assert offer.generation == 2
    now = await request.read()
    assert (now["phase"], now["provisionJob"]["status"]) == ("RENEWING", "COMPLETED")
    return device, request, old, offer.credentials


async def test_rotate_replaces_a_credential_without_a_gap(site: Site) -> None:
    device, request, old, new = await rotated(site)
    assert await admits(site, device, old)
    assert await admits(site, device, new)
    assert (await device.claim()).credentials == new
    async with await device.login(site.program.device_broker, old) as work:
        assert (await device.ack("stored", 2)).reason == "confirmed"
        await work.ended()
    await request.until("CONFIRMED")
    await refused_soon(site, device, old)
    assert await admits(site, device, new)
    assert (await device.ack("stored", 2)).reason == "confirmed"
    assert (await device.ack("stored", 1, request_id="r-1")).reason == "superseded"
    assert (await device.claim("r-4")).reason == "already-provisioned"


async def test_a_renewal_that_fails_leaves_the_former_credential_alone(site: Site) -> None:
    device, request, old, new = await rotated(site)
    async with await device.login(site.program.device_broker, old) as work:
        assert (await device.ack("failed", 2)).reason == "noted"
        await request.until("CONFIRMED")
        await work.ping()
    await refused_soon(site, device, new)
    assert await admits(site, device, old)
    assert (await device.ack("stored", 2)).reason == "superseded"
    assert (await device.ack("stored", 1, request_id="r-1")).reason == "confirmed"


async def test_a_renewal_nobody_confirms_leaves_the_former_credential_alone(site: Site) -> None:
    device, request, old, new = await rotated(site, confirmTime=1)
    await request.until("CONFIRMED")
    await refused_soon(site, device, new)
    assert await admits(site, device, old)


async def test_revoke_while_renewing_takes_both(site: Site) -> None:
    device, request, old, new = await rotated(site)
    await request.tell("revoke")
    await request.until("STOPPED", patience=5)
    assert [await admits(site, device, credentials) for credentials in (old, new)] == [False, False]


# --- the generation number --------------------------------------------------------------------------------------------


@pytest.mark.endpoint_only("one client id twice")
async def test_generations_go_on_counting_in_a_new_request(site: Site) -> None:
    device, request, first = await site.confirmed(confirm="ack")
    await request.tell("revoke")
    await request.until("STOPPED")
    await site.operator.ask("DELETE", request.path)
    again = await site.request(device.client_id)
    renewed = site.device(device.client_id, again.key)
    offer = await renewed.provision()
    assert offer.generation == 2
    assert offer.credentials["username"] != first["username"]
    assert not await admits(site, device, first)
    assert (await device.claim("r-9")).reason == "denied", "the key of the deleted request"


@pytest.mark.endpoint_only("one client id twice")
async def test_a_new_request_while_one_is_confirmed_is_a_conflict_unless_it_overwrites(site: Site) -> None:
    device, request, old = await site.confirmed(confirm="ack")
    form = await site.form(device.client_id)
    refused = await site.operator.http.post("/v2/provisionRequests", json=form)
    assert refused.status_code == 409
    async with await device.login(site.program.device_broker, old) as work:
        again = await site.request(device.client_id, overwriteIfDuplicate=True)
        await work.ended()
    assert again.id != request.id
    renewed = site.device(device.client_id, again.key)
    offer = await renewed.provision()
    assert offer.generation == 2
    assert not await admits(site, device, old)
    assert await admits(site, renewed, offer.credentials)
    assert (await device.claim("r-9")).reason == "denied"


async def test_a_request_replaced_before_any_claim_is_skipped(site: Site) -> None:
    device, request = await site.unit()
    again = await site.request(device.client_id, overwriteIfDuplicate=True)
    assert (await request.job())["status"] == "SKIPPED"
    assert (await device.claim()).reason == "denied"
    assert (await site.device(device.client_id, again.key).claim()).generation == 1


async def test_a_client_id_belongs_to_one_account(site: Site) -> None:
    device, _, _ = await site.confirmed()
    form = await site.form(device.client_id, "south")
    refused = await site.operator.http.post("/v2/provisionRequests", json=form)
    assert refused.status_code == 409
