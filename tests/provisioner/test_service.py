"""The path of a claim: each refusal reason, each rule of the hand-over, against a real store."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from dataclasses import replace
from pathlib import Path

import pytest

from provisioner.admission import Rate, WrongKeyRates
from provisioner.errors import Invalid, Reason, Rejected
from provisioner.lifecycle import Phase
from provisioner.model import (
    Claim,
    Confirm,
    Coupling,
    Facts,
    JobStatus,
    Offer,
    Origin,
    ProvisionRequest,
    Result,
    Secret,
    Status,
    job_status,
)
from provisioner.ports import Install
from provisioner.service import Rules
from tests.provisioner.conftest import ADMIN, LOCAL, START, SimpleDevice, World, build

HOUR = 3_600_000


async def rejected(answer: Awaitable[object]) -> Rejected:
    with pytest.raises(Rejected) as caught:
        await answer
    return caught.value


async def reason_of(answer: Awaitable[object]) -> Reason:
    return (await rejected(answer)).reason


async def test_a_device_gets_its_credential_and_confirms_it(world: World) -> None:
    created = await world.request()
    device = world.device(created)
    offer = await device.claim()
    assert (offer.username, offer.generation, offer.coupling) == ("p.acme.dev-1.g1", 1, Coupling.STRICT)
    assert world.broker.live == [offer.username]
    taken = await device.ack()
    assert taken.reason is Reason.CONFIRMED
    request = await world.read(created.request.id)
    assert (request.phase, job_status(request)) == (Phase.CONFIRMED, JobStatus.COMPLETED)
    assert (await device.ack()).reason is Reason.CONFIRMED
    assert await reason_of(device.claim("r-9")) is Reason.ALREADY_PROVISIONED


async def test_the_plain_key_is_as_good_as_a_proof(world: World) -> None:
    device = world.device(await world.request())
    assert (await device.claim_plain()).generation == 1
    device.key = device.key[:-1] + ("A" if device.key[-1] != "A" else "B")
    assert await reason_of(device.claim_plain()) is Reason.DENIED


async def test_plain_claims_need_a_line_nobody_can_listen_on(world: World) -> None:
    device = world.device(await world.request())
    device.origin = Origin("192.0.2.1", 1, secure=False)
    refusal = await rejected(device.claim_plain())
    assert (refusal.reason, refusal.supported) == (Reason.UNSUPPORTED, ("proof",))
    assert (await device.claim()).generation == 1


async def test_a_wrong_key_and_an_unknown_device_look_alike(world: World) -> None:
    device = world.device(await world.request())
    device.key = "x" * 32
    wrong = await rejected(device.claim())
    unknown = await rejected(replace(device, client_id="nobody").claim())
    assert (wrong.reason, wrong.detail, wrong.conversation) == (unknown.reason, unknown.detail, unknown.conversation)
    assert wrong.reason is Reason.DENIED


async def test_the_same_claim_gets_the_same_credential(world: World) -> None:
    device = world.device(await world.request())
    offers = [await device.claim(request_id) for request_id in ("r-1", "r-1", "r-2")]
    assert len({(offer.username, offer.password.reveal()) for offer in offers}) == 1
    assert world.broker.live == [offers[0].username]


async def test_duplicates_at_once_make_one_mint(world: World) -> None:
    created = await world.request()
    device = world.device(created)
    outcomes = await asyncio.gather(*(device.claim(f"r-{n % 3}") for n in range(24)))
    assert {offer.username for offer in outcomes} == {"p.acme.dev-1.g1"}
    assert (await world.read(created.request.id)).retry_count == 1


async def test_the_window_gates_the_start(world: World) -> None:
    created = await world.request(activates_on=world.now + HOUR, expires_on=world.now + HOUR + 1000)
    device = world.device(created)
    early = await rejected(device.claim())
    assert (early.reason, early.retry_after) == (Reason.NOT_ACTIVE, 3600)
    world.now += HOUR
    offer = await device.claim()
    world.now += 1001
    assert (await device.claim()).password == offer.password
    assert (await device.ack()).reason is Reason.CONFIRMED


async def test_after_the_window_a_request_expires(world: World) -> None:
    created = await world.request(expires_on=world.now + HOUR)
    world.now += HOUR
    assert await reason_of(world.device(created).claim()) is Reason.EXPIRED
    assert (await world.read(created.request.id)).phase is Phase.EXPIRED
    assert await reason_of(world.device(created).claim()) is Reason.EXPIRED


async def test_the_window_ends_without_a_claim_too(world: World) -> None:
    created = await world.request(expires_on=world.now + 30_000)
    assert await world.jobs.step(world.now) == world.now + 30_000
    world.now += 30_000
    await world.run_jobs()
    assert job_status(await world.read(created.request.id)) is JobStatus.FAILED


async def test_a_request_switched_off_refuses_claims_but_takes_acks(world: World) -> None:
    created = await world.request()
    device = world.device(created)
    await device.claim()
    await world.administration.disable(ADMIN, created.request.id, world.now)
    assert await reason_of(device.claim()) is Reason.DISABLED
    assert (await device.ack()).reason is Reason.CONFIRMED


async def test_contradicting_facts_are_denied_and_noted(world: World) -> None:
    facts = Facts(serial_number="S1", mac_address="00:1A:2B:3C:4D:5E")
    created = await world.request(facts=facts)
    device = world.device(created)
    assert await reason_of(device.claim(device={"serialNumber": "S2"})) is Reason.DENIED
    assert "serialNumber" in str((await world.read(created.request.id)).last_refusal)
    assert (await device.claim(device={"serialNumber": "S1", "macAddress": "001a2b3c4d5e"})).generation == 1


async def test_what_is_not_on_offer_is_unsupported(world: World) -> None:
    device = world.device(await world.request())
    for fields in ({"accept": ("x509",)}, {"csr": b"0"}):
        refusal = await rejected(device.claim(**fields))
        assert (refusal.reason, refusal.supported) == (Reason.UNSUPPORTED, ("password",))
    assert (await device.claim(accept=("x509", "password"), csr=b"0")).generation == 1


async def test_a_reply_that_would_not_fit_mints_nothing(world: World) -> None:
    created = await world.request()
    refusal = await rejected(world.device(created).claim(max_reply=100))
    assert (refusal.reason, refusal.needed) == (Reason.TOO_LARGE, 900)
    assert (await world.read(created.request.id)).phase is Phase.PENDING


async def test_wrong_keys_are_slowed_down_and_the_right_one_never(tmp_path: Path) -> None:
    world = await build(tmp_path, rates=WrongKeyRates(per_id=Rate(3, 6)))
    try:
        device = world.device(await world.request())
        thief = replace(device, key="x" * 32)
        reasons = [await reason_of(thief.claim()) for _ in range(5)]
        assert reasons == [Reason.DENIED] * 3 + [Reason.SLOW_DOWN] * 2
        assert (await rejected(thief.claim())).retry_after == 10
        assert (await device.claim()).generation == 1
    finally:
        await world.store.close()


async def test_an_unconfirmed_offer_is_retired_and_its_request_id_superseded(world: World) -> None:
    created = await world.request()
    device = world.device(created)
    first = await device.claim()
    world.now = first.confirm_before
    await world.run_jobs()
    assert world.broker.live == []
    assert (await world.read(created.request.id)).phase is Phase.PENDING
    assert await reason_of(device.claim("r-1")) is Reason.SUPERSEDED
    assert await reason_of(device.ack(1)) is Reason.SUPERSEDED
    second = await device.claim("r-2")
    assert (second.generation, second.username) == (2, "p.acme.dev-1.g2")
    assert await world.login(first) is None


async def test_a_proved_claim_moves_the_confirm_time_at_most_a_day(world: World) -> None:
    device = world.device(await world.request())
    minted = world.now
    ends = []
    for _ in range(60):
        ends.append((await device.claim()).confirm_before)
        world.now = min(ends[-1] - 1, world.now + HOUR // 2)
    assert ends[1] == ends[0] + HOUR // 2
    assert max(ends) == minted + 24 * HOUR


async def test_a_failed_login_at_the_device_broker_gets_another_generation(world: World) -> None:
    device = world.device(await world.request())
    await device.claim()
    assert (await device.ack(1, Result.FAILED)).reason is Reason.NOTED
    assert await reason_of(device.claim("r-2")) is Reason.WAIT
    assert (await device.ack(1, Result.FAILED)).reason is Reason.NOTED
    await world.run_jobs()
    assert (await device.claim("r-2")).generation == 2
    assert await reason_of(device.ack(1, Result.FAILED)) is Reason.SUPERSEDED


async def test_attempts_are_used_up_by_mints_alone(world: World) -> None:
    created = await world.request(retry_max_attempts=2)
    device = world.device(created)
    for generation in (1, 2):
        await device.claim(f"r-{generation}")
        await device.ack(generation, Result.FAILED)
        await world.run_jobs()
    assert await reason_of(device.claim("r-3")) is Reason.ABANDONED
    assert job_status(await world.read(created.request.id)) is JobStatus.ABANDONED
    await world.administration.reopen(ADMIN, created.request.id, world.now)
    assert (await device.claim("r-4")).generation == 3


async def test_progress_shows_in_the_job_and_moves_no_phase(world: World) -> None:
    created = await world.request()
    device = world.device(created)
    await device.claim()
    assert (await device.ack(1, Result.PROGRESS, status=JobStatus.CONF_UPDATING)).reason is Reason.NOTED
    request = await world.read(created.request.id)
    assert (request.phase, job_status(request)) == (Phase.OFFERED, JobStatus.CONF_UPDATING)
    await device.ack()
    assert (await device.ack(1, Result.PROGRESS, status=JobStatus.CONF_UPDATED)).reason is Reason.NOTED
    assert job_status(await world.read(created.request.id)) is JobStatus.COMPLETED
    assert await reason_of(device.ack(1, Result.FAILED)) is Reason.ALREADY_PROVISIONED


async def test_an_ack_of_what_was_never_offered_is_refused(world: World) -> None:
    device = world.device(await world.request())
    assert await reason_of(device.ack(1)) is Reason.BAD_REQUEST
    await device.claim()
    assert await reason_of(device.ack(2)) is Reason.BAD_REQUEST


async def test_an_ack_is_decided_upon_what_is_there_not_upon_what_was_offered(world: World) -> None:
    created = await world.request()
    device = world.device(created)
    await device.claim()
    await world.administration.stop(ADMIN, created.request.id, world.now)
    assert await reason_of(device.ack(1)) is Reason.SUPERSEDED
    assert (await world.read(created.request.id)).phase is not Phase.CONFIRMED


async def test_a_proved_ack_where_only_a_login_confirms_finds_out_what_changed(world: World) -> None:
    created = await world.request(confirm=Confirm.LOGIN)
    device = world.device(created)
    offer = await device.claim()
    assert await world.login(offer) is not None
    assert (await device.ack(1)).reason is Reason.CONFIRMED


async def test_a_strangers_ack_is_denied_and_the_devices_own_confirms(world: World) -> None:
    created = await world.request()
    device = world.device(created)
    await device.claim()
    stranger = replace(device, key="ABCDEFGHJKLMNPQRSTUVWXYZ23")
    assert await reason_of(stranger.ack(1)) is Reason.DENIED
    assert await reason_of(stranger.ack(1)) is Reason.DENIED
    assert (await device.ack(1)).reason is Reason.CONFIRMED
    assert (await device.ack(1)).reason is Reason.CONFIRMED


async def test_the_first_login_confirms(world: World) -> None:
    created = await world.request()
    offer = await world.device(created).claim()
    assert await world.login(offer, client_id="dev-2") is None
    assert (await world.read(created.request.id)).phase is Phase.OFFERED
    rights = await world.login(offer)
    assert rights is not None
    assert rights.grant.publish == ("acme/dev-1/#",)
    assert (await world.read(created.request.id)).phase is Phase.CONFIRMED
    assert await world.login(replace(offer, password=Secret("wrong"))) is None


async def test_the_journal_tells_where_the_first_login_came_from(world: World) -> None:
    created = await world.request()
    offer = await world.device(created).claim()
    login = offer.username, offer.password.reveal().encode(), "dev-1"
    assert await world.provisioner.device_login("embedded", *login, world.now, "192.0.2.7") is not None
    told = [entry.line for entry in await world.store.list_journal(created.request.id, 0, 100)]
    assert [line.source for line in told if line.action == "login"] == ["192.0.2.7"]


@pytest.mark.parametrize(
    ("confirm", "by_login", "by_ack"),
    [(Confirm.LOGIN, True, False), (Confirm.ACK, False, True), (Confirm.EITHER, True, True)],
)
async def test_each_request_says_what_confirms_it(world: World, confirm: Confirm, by_login: bool, by_ack: bool) -> None:
    for number, way in enumerate(("login", "ack")):
        created = await world.request(f"dev-{number}", confirm=confirm)
        device = world.device(created, f"dev-{number}")
        offer = await device.claim()
        if way == "login":
            assert await world.login(offer) is not None
        elif by_ack:
            await device.ack()
        else:
            assert await reason_of(device.ack()) is Reason.WAIT
        confirmed = (await world.read(created.request.id)).phase is Phase.CONFIRMED
        assert confirmed == (by_login if way == "login" else by_ack)


async def test_a_loose_credential_serves_any_id_nobody_else_holds(world: World) -> None:
    loose = await world.device(await world.request(coupling=Coupling.LOOSE)).claim()
    await world.device(await world.request("dev-2"), "dev-2").claim()
    rights = await world.login(loose, client_id="gateway-7")
    assert rights is not None
    assert rights.grant.subscribe == ("acme/gateway-7/#",)
    assert await world.login(loose, client_id="dev-2") is None
    assert await world.login(loose, client_id="a/b") is None


async def test_an_install_that_takes_long_is_waited_for_and_then_offered(tmp_path: Path) -> None:
    world = await build(tmp_path, Rules(install_wait=0.01))
    try:
        world.broker.gate = asyncio.Event()
        created = await world.request()
        device = world.device(created)
        assert await reason_of(device.claim()) is Reason.WAIT
        assert (await world.read(created.request.id)).phase is Phase.MINTED
        world.broker.gate.set()
        await world.jobs.close()
        assert (await world.read(created.request.id)).phase is Phase.INSTALLED
        assert (await device.claim()).generation == 1
        assert len(world.broker.live) == 1
    finally:
        await world.store.close()


async def test_a_device_broker_that_is_away_is_tried_again(world: World) -> None:
    world.broker.outcome = Install.LATER
    created = await world.request()
    device = world.device(created)
    assert await reason_of(device.claim()) is Reason.WAIT
    assert await reason_of(device.claim()) is Reason.WAIT
    world.broker.outcome = Install.DONE
    world.now += 60_000
    await world.run_jobs()
    assert (await device.claim()).generation == 1


async def test_a_device_broker_that_refuses_for_good_fails_the_request(world: World) -> None:
    world.broker.outcome = Install.NEVER
    created = await world.request()
    device = world.device(created)
    assert await reason_of(device.claim()) is Reason.WAIT
    assert (await world.read(created.request.id)).phase is Phase.FAILED
    assert await reason_of(device.claim()) is Reason.ABANDONED


async def test_a_retirement_that_fails_is_tried_until_it_is_done(world: World) -> None:
    created = await world.request()
    device = world.device(created)
    await device.claim()
    world.broker.revokes = False
    await device.ack(1, Result.FAILED)
    await world.run_jobs()
    assert (await world.read(created.request.id)).phase is Phase.RETIRING
    assert await reason_of(device.claim("r-2")) is Reason.WAIT
    world.broker.revokes = True
    world.now += 60_000
    await world.run_jobs()
    assert (await device.claim("r-2")).generation == 2


async def test_rotation_keeps_the_old_credential_until_the_new_one_is_proved(world: World) -> None:
    created = await world.request()
    device = world.device(created)
    first = await device.claim()
    await device.ack()
    await world.administration.rotate(ADMIN, created.request.id, world.now)
    assert await reason_of(device.claim("r-1")) is Reason.ALREADY_PROVISIONED
    second = await device.claim("r-2")
    assert (second.generation, (await world.read(created.request.id)).phase) == (2, Phase.RENEWING)
    assert await world.login(first) is not None
    assert (await device.claim("r-2")).password == second.password
    assert (await device.ack(2, request_id="r-2")).reason is Reason.CONFIRMED
    await world.run_jobs()
    assert await world.login(first) is None
    assert await world.login(second) is not None
    assert world.broker.live == [second.username]
    assert await reason_of(device.claim("r-1")) is Reason.SUPERSEDED


async def test_a_renewal_that_fails_leaves_the_proved_credential(world: World) -> None:
    created = await world.request()
    device = world.device(created)
    first = await device.claim()
    await device.ack()
    await world.administration.rotate(ADMIN, created.request.id, world.now)
    second = await device.claim("r-2")
    world.now = second.confirm_before
    await world.run_jobs()
    assert (await world.read(created.request.id)).phase is Phase.CONFIRMED
    assert await world.login(first) is not None
    assert await world.login(second) is None
    assert (await device.ack(1)).reason is Reason.CONFIRMED
    assert (await device.claim("r-3")).generation == 3


async def renewing(world: World, **fields: int) -> tuple[ProvisionRequest, SimpleDevice, Offer]:
    """A confirmed device whose operator wants it to have another credential; the offer is that of the first."""
    created = await world.request("dev-1", **fields)
    device = world.device(created)
    first = await device.claim()
    await device.ack()
    return await world.administration.rotate(ADMIN, created.request.id, world.now), device, first


async def test_a_renewal_that_is_stopped_leaves_the_proved_credential(world: World) -> None:
    request, device, first = await renewing(world)
    second = await device.claim("r-2")
    await world.administration.stop(ADMIN, request.id, world.now)
    await world.run_jobs()
    assert (await world.read(request.id)).phase is Phase.CONFIRMED
    assert (await world.login(first) is None, await world.login(second) is None) == (False, True)
    assert await reason_of(device.claim("r-3")) is Reason.ALREADY_PROVISIONED


async def test_a_renewal_that_the_device_broker_refuses_leaves_the_proved_credential(world: World) -> None:
    request, device, first = await renewing(world)
    world.broker.outcome = Install.NEVER
    assert await reason_of(device.claim("r-2")) is Reason.WAIT
    await world.run_jobs()
    assert (await world.read(request.id)).phase is Phase.CONFIRMED
    assert await world.login(first) is not None


async def test_a_renewal_whose_attempts_are_used_up_is_over_and_the_proved_credential_stays(world: World) -> None:
    request, device, first = await renewing(world, retry_max_attempts=1)
    second = await device.claim("r-2")
    world.now = second.confirm_before
    await world.run_jobs()
    assert not (await world.read(request.id)).rotate_wanted
    assert await reason_of(device.claim("r-3")) is Reason.ALREADY_PROVISIONED
    assert await world.login(first) is not None


async def test_a_validity_that_ends_during_a_renewal_changes_nothing(world: World) -> None:
    request, device, first = await renewing(world, validity=86_400_000)
    world.now += 86_400_000 - 1
    second = await device.claim("r-2")
    world.now += 2
    await world.run_jobs()
    assert (await world.read(request.id)).phase is Phase.RENEWING
    assert await world.login(first) is not None
    assert await world.login(second) is not None


async def test_a_broker_that_asks_once_more_hears_what_a_device_may_do_while_it_may(world: World) -> None:
    created = await world.request()
    offer = await world.device(created).claim()
    rights = await world.provisioner.device_rights("embedded", offer.username, "dev-1")
    assert rights is not None
    assert (rights.account, rights.grant.publish) == ("acme", ("acme/dev-1/#",))
    for username, client_id in ((offer.username, "dev-2"), ("p.acme.dev-9.g1", "dev-9")):
        assert await world.provisioner.device_rights("embedded", username, client_id) is None
    await world.administration.stop(ADMIN, created.request.id, world.now)
    assert await world.provisioner.device_rights("embedded", offer.username, "dev-1") is None


async def test_progress_without_a_status_is_refused(world: World) -> None:
    device = world.device(await world.request())
    await device.claim()
    assert await reason_of(device.ack(result=Result.PROGRESS)) is Reason.BAD_REQUEST


async def test_revoke_and_reopen(world: World) -> None:
    created = await world.request()
    device = world.device(created)
    first = await device.claim()
    await device.ack()
    await world.administration.revoke(ADMIN, created.request.id, world.now)
    assert await world.login(first) is None
    await world.run_jobs()
    assert job_status(await world.read(created.request.id)) is JobStatus.STOPPED
    assert await reason_of(device.claim("r-2")) is Reason.ABANDONED
    await world.administration.reopen(ADMIN, created.request.id, world.now)
    assert (await device.claim("r-3")).generation == 2


async def test_a_confirmed_request_reopens_through_retirement(world: World) -> None:
    created = await world.request()
    device = world.device(created)
    first = await device.claim()
    await device.ack()
    await world.administration.reopen(ADMIN, created.request.id, world.now)
    assert await reason_of(device.claim("r-2")) is Reason.WAIT
    await world.run_jobs()
    assert await world.login(first) is None
    assert (await device.claim("r-2")).generation == 2


async def test_generations_go_on_when_the_request_is_deleted_or_replaced(world: World) -> None:
    created = await world.request()
    await world.device(created).claim()
    replaced = await world.request(overwrite=True)
    device = world.device(replaced)
    assert await reason_of(device.claim("r-1")) is Reason.WAIT
    await world.run_jobs()
    assert (await device.claim("r-1")).generation == 2
    await world.administration.stop(ADMIN, replaced.request.id, world.now)
    await world.run_jobs()
    await world.administration.delete_request(ADMIN, replaced.request.id, world.now)
    again = await world.request()
    assert (await world.device(again).claim("r-1")).generation == 3


async def test_the_key_is_wiped_on_confirmation(world: World) -> None:
    created = await world.request(reuse_key=False)
    device = world.device(created)
    await device.claim()
    assert await world.administration.reveal_key(ADMIN, created.request.id, world.now) == created.activation_key
    await device.ack()
    with pytest.raises(Exception, match="not kept"):
        await world.administration.reveal_key(ADMIN, created.request.id, world.now)
    assert (await device.ack()).reason is Reason.CONFIRMED
    await world.administration.revoke(ADMIN, created.request.id, world.now)
    await world.run_jobs()
    with pytest.raises(Exception, match="generateActivationKey"):
        await world.administration.reopen(ADMIN, created.request.id, world.now)
    reopened = await world.administration.reopen(ADMIN, created.request.id, world.now, generate_key=True)
    assert (await world.device(reopened).claim("r-2")).generation == 2


async def test_keyless_requests_need_the_setting_and_tls(tmp_path: Path) -> None:
    world = await build(tmp_path, Rules(allow_keyless=True))
    try:
        await world.request(generate_key=False)
        claim = Claim("factory", "dev-1", "r-1", LOCAL)
        assert await reason_of(world.provisioner.claim(claim, world.now)) is Reason.UNSUPPORTED
        tls = replace(claim, origin=replace(LOCAL, tls=True))
        offer: Offer = await world.provisioner.claim(tls, world.now)
        assert offer.generation == 1
    finally:
        await world.store.close()


async def test_a_request_with_a_key_is_not_taken_without_it(world: World) -> None:
    await world.request()
    claim = Claim("factory", "dev-1", "r-1", replace(LOCAL, tls=True))
    assert await reason_of(world.provisioner.claim(claim, world.now)) is Reason.BAD_REQUEST


async def test_a_restart_goes_on_where_it_was(tmp_path: Path) -> None:
    world = await build(tmp_path)
    created = await world.request()
    device = world.device(created)
    world.broker.outcome = Install.LATER
    assert await reason_of(device.claim()) is Reason.WAIT
    await world.store.close()
    again = await build(tmp_path)
    try:
        await again.run_jobs()
        assert again.broker.live == ["p.acme.dev-1.g1"]
        assert (await again.device(created).claim()).generation == 1
    finally:
        await again.store.close()


async def test_status_stays_the_operators_switch(world: World) -> None:
    created = await world.request(status=Status.DISABLED)
    assert await reason_of(world.device(created).claim()) is Reason.DISABLED
    await world.administration.enable(ADMIN, created.request.id, world.now)
    assert (await world.device(created).claim()).generation == 1


async def test_an_ack_of_a_former_requests_generation_is_superseded(world: World) -> None:
    device = world.device(await world.request())
    await device.claim()
    await device.ack()
    replaced = await world.request(overwrite=True, generate_key=False, activation_key=Secret(device.key))
    assert replaced.request.generation == 0
    for result in (Result.STORED, Result.FAILED):
        assert await reason_of(device.ack(1, result)) is Reason.SUPERSEDED
    assert await reason_of(device.ack(2)) is Reason.BAD_REQUEST


async def test_an_offer_asks_for_an_ack_where_logins_cannot_be_seen(world: World) -> None:
    device = world.device(await world.request())
    assert (await device.claim()).confirm is Confirm.EITHER
    world.broker.sees_logins = False
    assert (await device.claim()).confirm is Confirm.ACK


async def test_a_waiting_request_cannot_be_left_without_attempts(world: World) -> None:
    created = await world.request(retry_max_attempts=3)
    device = world.device(created)
    await device.claim()
    await device.ack(result=Result.FAILED)
    await world.run_jobs()
    waiting = await world.read(created.request.id)
    assert (waiting.phase, waiting.retry_count) == (Phase.PENDING, 1)
    changes = {"retry_max_attempts": 1}
    with pytest.raises(Invalid, match="must be more than the 1 attempts made"):
        await world.administration.update_request(ADMIN, waiting.id, waiting.optlock, changes, world.now)
    assert (await device.claim("r-2")).generation == 2


async def test_the_last_refused_attempt_stays_on_the_request(world: World) -> None:
    created = await world.request(activates_on=START + 60_000)
    device = world.device(created)

    async def kept(reason: Reason, accept: tuple[str, ...] = ()) -> dict[str, object]:
        with pytest.raises(Rejected) as caught:
            await device.claim(accept=accept)
        assert caught.value.reason is reason
        told: dict[str, object] = json.loads((await world.read(created.request.id)).last_refusal or "{}")
        return told

    first = await kept(Reason.NOT_ACTIVE)
    assert (first["on"], first["reason"]) == (START, "not-active")
    world.now = START + 59_000
    assert await kept(Reason.NOT_ACTIVE) == first
    await world.administration.disable(ADMIN, created.request.id, world.now)
    assert await kept(Reason.DISABLED) == {
        "on": world.now,
        "reason": "disabled",
        "detail": "this request is switched off",
    }
    world.now += 60_000
    assert (await kept(Reason.DISABLED))["on"] == world.now
    await world.administration.enable(ADMIN, created.request.id, world.now)
    assert (await kept(Reason.UNSUPPORTED, accept=("x509",)))["reason"] == "unsupported"
    with pytest.raises(Rejected):
        await SimpleDevice(world, "dev-1", "x" * 32).claim()
    assert json.loads((await world.read(created.request.id)).last_refusal or "{}")["reason"] == "unsupported"
    await device.claim()
