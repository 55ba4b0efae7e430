"""Section 7 of the contract: every reason, provoked from outside."""

import asyncio
import base64
import hashlib
import secrets
import socket
import sqlite3
import time
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tests.e2e import independent as wire
from tests.e2e import packets as mqtt
from tests.e2e.independent import IndependentDevice
from tests.e2e.packets import Session
from tests.e2e.program import Program, Request, Site, StartProgram, fresh_mac, fresh_name

PROVING = pytest.mark.parametrize("mode", ["plain", "proof", "ctr", "hpke"])
WRONG_KEY = "wrong-key-wrong-key-wrong-key-00"


def in_ms(seconds: float) -> int:
    return int((time.time() + seconds) * 1000)


def proved(reply: wire.Reply, device: IndependentDevice) -> bool:
    """Whether the reply is proved as far as the device's mode has proofs."""
    return reply.proved or device.mode == "plain"


@PROVING
async def test_offer_is_200_and_confirmed_is_200_without_forget(site: Site, mode: wire.Mode) -> None:
    device, _ = await site.unit(mode=mode)
    offer = await device.claim()
    assert (offer.code, offer.reason) == (200, "offer")
    confirmed = await device.ack("stored", 1)
    assert (confirmed.code, confirmed.reason, proved(confirmed, device)) == (200, "confirmed", True)
    assert confirmed.body.get("forget", False) is False
    assert confirmed.body.get("generation", 1) == 1


@PROVING
async def test_confirmed_tells_to_forget_where_the_operator_asked_for_it(site: Site, mode: wire.Mode) -> None:
    device, _ = await site.unit(mode=mode, forget=True)
    await device.claim()
    for _ in range(2):
        confirmed = await device.ack("stored", 1)
        assert (confirmed.reason, confirmed.body["forget"], proved(confirmed, device)) == ("confirmed", True, True)


@PROVING
async def test_progress_is_noted_and_shown_by_the_job(site: Site, mode: wire.Mode) -> None:
    device, request = await site.unit(mode=mode)
    await device.claim()
    for status in ("APPS_INSTALLING", "APPS_INSTALLED", "CONF_UPDATING", "CONF_UPDATED"):
        noted = await device.ack("progress", 1, status)
        assert (noted.code, noted.reason, proved(noted, device)) == (200, "noted", True)
        now = await request.read()
        assert (now["phase"], now["provisionJob"]["status"]) == ("OFFERED", status)
    await device.ack("stored", 1)
    assert (await device.ack("progress", 1, "CONF_UPDATED")).reason == "noted"
    now = await request.read()
    assert now["phase"] == "CONFIRMED"


@PROVING
async def test_failed_is_noted_and_the_next_claim_gets_the_next_generation(site: Site, mode: wire.Mode) -> None:
    device, request = await site.unit(mode=mode)
    first = await device.claim()
    noted = await device.ack("failed", 1)
    assert (noted.code, noted.reason, proved(noted, device)) == (200, "noted", True)
    second = await device.provision("r-2")
    assert second.generation == 2
    assert second.credentials["username"] != first.credentials["username"]
    assert second.credentials["password"] != first.credentials["password"]
    assert (await request.job())["retryCount"] == 2


async def test_while_a_credential_is_being_retired_a_claim_has_to_wait(site: Site) -> None:
    """
    `wait` is a matter of luck from outside: the claim is sent right behind the ack that retires.

    Either answer is right; what comes as `wait` has to be proved and to tell when to come again, and an offer is of the
    next generation unless the claim was worked on first.
    """
    for number in range(6):
        device, _ = await site.unit(version=5 if number % 2 else 4)
        await device.claim()
        session = await device.connect()
        ack, claim = device.ack_body("failed", 1), device.claim_body("r-2")
        await session.send(
            session.publish_packet(device.topic("ack"), wire.encode(ack, "json"))
            + session.publish_packet(device.topic("request"), wire.encode(claim, "json"))
        )
        replies = {}
        for _ in range(2):
            got = await session.message()
            nonce = wire.decode(got.payload, "json")["nonce"]
            replies[nonce] = device.read(got, ack if nonce == ack["nonce"] else claim)
        answer = replies[claim["nonce"]]
        assert replies[ack["nonce"]].reason == "noted"
        if answer.reason == "wait":
            assert (answer.code, answer.proved) == (202, True)
            answer = await device.provision("r-2")
        # A claim that was worked on before the ack is a repeat of generation 1, and its requestId went with it.
        assert answer.generation in {1, 2}
        if answer.generation == 2:
            assert (await device.ack("stored", 2, request_id="r-2")).reason == "confirmed"


class Answer:
    """A refusal as bytes, with what may differ taken out."""

    def __init__(self, payload: bytes, encoding: wire.Wire) -> None:
        body = wire.decode(payload, encoding)
        self.reason = body["reason"]
        self.trace = len(str(body.pop("trace", "")))
        self.order = list(body)
        self.body = body
        self.size = len(payload)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Answer) and vars(self) == vars(other)

    __hash__ = None  # type: ignore[assignment]  # answers are only compared

    def __repr__(self) -> str:
        return f"{self.body}, {self.size} bytes"


async def answer_to(device: IndependentDevice, last: str, body: dict[str, Any]) -> Answer:
    session = await device.connect()
    await session.publish(device.topic(last), wire.encode(body, device.wire), 1)
    return Answer((await session.message()).payload, device.wire)


@pytest.mark.parametrize("encoding", ["json", "cbor"])
@PROVING
async def test_a_wrong_key_and_no_such_request_are_denied_in_the_same_bytes(
    site: Site, mode: wire.Mode, encoding: wire.Wire
) -> None:
    request = await site.request()
    known = site.device(request.client_id, WRONG_KEY, mode=mode, wire=encoding)
    unknown = site.device(fresh_name(), WRONG_KEY, mode=mode, wire=encoding)
    for last in ("request", "ack"):
        answers = []
        for device in (known, unknown):
            # Ids and nonce are the same on purpose: whatever then differs is an oracle.
            more = {} if mode == "plain" else {"nonce": f"{last}-the-same-for-the-two"}
            body = device.claim_body(**more) if last == "request" else device.ack_body("stored", 1)
            answers.append(await answer_to(device, last, body | more))
        assert answers[0] == answers[1]
        assert answers[0].body | {"requestId": "r-1", "code": 401, "reason": "denied"} == answers[0].body
        assert not {"detail", "generation", "proof", "supported"} & answers[0].body.keys()
    assert await request.phase() == "PENDING"


@pytest.mark.parametrize("state", ["offered", "confirmed", "disabled", "stopped", "expired", "not active"])
async def test_a_wrong_key_is_denied_alike_in_every_state(site: Site, state: str) -> None:
    device, request = await _in_state(site, state)
    known = site.device(device.client_id, WRONG_KEY)
    unknown = site.device(fresh_name(), WRONG_KEY)
    for last in ("request", "ack"):
        answers = []
        for other in (known, unknown):
            body = (
                other.claim_body(nonce="n" * 22)
                if last == "request"
                else other.ack_body("stored", 1) | {"nonce": "n" * 22}
            )
            answers.append(await answer_to(other, last, body))
        assert answers[0] == answers[1]
        assert answers[0].reason == "denied"
    assert await request.phase() == {"offered": "OFFERED", "confirmed": "CONFIRMED", "stopped": "STOPPED"}.get(
        state, "EXPIRED" if state == "expired" else "PENDING"
    )


async def _in_state(site: Site, state: str) -> tuple[IndependentDevice, Request]:
    fields: dict[str, dict[str, Any]] = {
        "expired": {"expiresOn": in_ms(0.3)},
        "not active": {"activatesOn": in_ms(3600)},
    }
    device, request = await site.unit(**fields.get(state, {}))
    if state in {"offered", "confirmed"}:
        await device.provision()
    if state == "confirmed":
        await device.ack("stored", 1)
    if state == "disabled":
        await request.tell("disable")
    if state == "stopped":
        await request.tell("stop")
        await request.until("STOPPED")
    if state == "expired":
        await request.until("EXPIRED")
    return device, request


@PROVING
@pytest.mark.parametrize(
    "facts",
    [
        {"serialNumber": "SN-other"},
        {"macAddress": "00:1A:2B:3C:4D:00"},
        {"brand": "Other"},
        {"model": "Other"},
        {"serialNumber": 5},
        {"firmware": "1.0", "serialNumber": "SN-other"},
    ],
    ids=str,
)
async def test_facts_that_contradict_the_request_are_denied(site: Site, mode: wire.Mode, facts: dict[str, Any]) -> None:
    client_id = fresh_name()
    device, request = await site.unit(
        mode=mode,
        client_id=client_id,
        serialNumber=f"SN-{client_id}",
        macAddress=fresh_mac(),
        brand="Acme",
        model="Box",
    )
    denied = await device.claim(device=facts)
    assert (denied.code, denied.reason) == (401, "denied")
    assert "detail" not in denied.body
    assert proved(denied, device), "once the key was proved, every unsealed reply carries a proof"
    assert await request.phase() == "PENDING"
    assert (await device.claim()).generation == 1


@PROVING
async def test_a_request_that_is_switched_off_is_disabled(site: Site, mode: wire.Mode) -> None:
    device, request = await site.unit(mode=mode)
    await request.tell("disable")
    disabled = await device.claim()
    assert (disabled.code, disabled.reason, proved(disabled, device)) == (403, "disabled", True)
    now = await request.read()
    assert (now["status"], now["phase"], now["provisionJob"]["retryCount"]) == ("DISABLED", "PENDING", 0)
    await request.tell("enable")
    assert (await device.claim()).generation == 1


async def test_acks_count_while_the_request_is_switched_off(site: Site) -> None:
    device, request = await site.unit()
    await device.claim()
    await request.tell("disable")
    assert (await device.claim()).reason == "disabled"
    assert (await device.ack("progress", 1, "APPS_INSTALLED")).reason == "noted"
    assert (await device.ack("stored", 1)).reason == "confirmed"
    assert await request.phase() == "CONFIRMED"


@PROVING
async def test_before_it_is_active_a_claim_is_told_when_to_come_again(site: Site, mode: wire.Mode) -> None:
    device, request = await site.unit(mode=mode, activatesOn=in_ms(3600))
    early = await device.claim()
    assert (early.code, early.reason, proved(early, device)) == (403, "not-active", True)
    assert 3000 <= early.retry_after <= 3600 + 60
    assert await request.phase() == "PENDING"


async def test_a_far_activation_is_cut_to_a_day(site: Site) -> None:
    device, _ = await site.unit(activatesOn=in_ms(30 * 86400))
    assert (await device.claim()).retry_after == 86400


async def test_once_it_is_active_the_same_claim_is_offered(site: Site) -> None:
    device, _ = await site.unit(activatesOn=in_ms(0.5))
    assert (await device.claim()).reason == "not-active"
    limit = time.monotonic() + 5
    while (reply := await device.claim()).reason == "not-active":
        assert time.monotonic() < limit
        await asyncio.sleep(0.1)
    assert reply.generation == 1


@PROVING
async def test_after_confirmation_a_claim_is_already_provisioned(site: Site, mode: wire.Mode) -> None:
    device, _, _ = await site.confirmed(mode=mode)
    for request_id in ("r-1", "r-2"):
        again = await device.claim(request_id)
        assert (again.code, again.reason, proved(again, device)) == (409, "already-provisioned", True)
    failed = await device.ack("failed", 1)
    assert (failed.code, failed.reason) == (409, "already-provisioned")
    assert (await device.ack("stored", 1)).reason == "confirmed"


@PROVING
async def test_what_belongs_to_a_retired_generation_is_superseded(site: Site, mode: wire.Mode) -> None:
    device, request = await site.unit(mode=mode)
    await device.claim("r-1")
    await device.ack("failed", 1)
    await request.until("PENDING")
    assert (await device.claim("r-2")).generation == 2
    for reply in (await device.claim("r-1"), await device.ack("stored", 1), await device.ack("failed", 1)):
        assert (reply.code, reply.reason, proved(reply, device)) == (409, "superseded", True)
    assert (await request.read())["generation"] == 2
    assert (await device.ack("stored", 2, request_id="r-2")).reason == "confirmed"


@PROVING
async def test_after_its_window_a_request_is_expired(site: Site, mode: wire.Mode) -> None:
    device, request = await site.unit(mode=mode, expiresOn=in_ms(0.3))
    now = await request.until("EXPIRED")
    assert now["provisionJob"]["status"] == "FAILED"
    late = await device.claim()
    assert (late.code, late.reason, proved(late, device)) == (410, "expired", True)
    assert (await request.read())["generation"] == 0


@PROVING
async def test_when_the_attempts_are_used_up_a_request_is_abandoned(site: Site, mode: wire.Mode) -> None:
    device, request = await site.unit(mode=mode, retryMaxAttempts=2)
    for attempt in (1, 2):
        assert (await device.provision(f"r-{attempt}")).generation == attempt
        await device.ack("failed", attempt)
    now = await request.until("ABANDONED")
    assert (now["provisionJob"]["status"], now["provisionJob"]["retryCount"]) == ("ABANDONED", 2)
    last = await device.claim("r-3")
    assert (last.code, last.reason, proved(last, device)) == (410, "abandoned", True)


@PROVING
async def test_a_request_that_was_stopped_is_abandoned_too(site: Site, mode: wire.Mode) -> None:
    device, request = await site.unit(mode=mode)
    await request.tell("stop")
    now = await request.until("STOPPED")
    assert now["provisionJob"]["status"] == "STOPPED"
    stopped = await device.claim()
    assert (stopped.code, stopped.reason, proved(stopped, device)) == (410, "abandoned", True)


def csr_of(client_id: str) -> tuple[str, str, str]:
    """A CSR as PEM, as base64 of its DER, and the hash of the DER."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, client_id)])
    made = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(name)
        .sign(ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    )
    der = made.public_bytes(Encoding.DER)
    return made.public_bytes(Encoding.PEM).decode(), base64.b64encode(der).decode(), hashlib.sha256(der).hexdigest()


@PROVING
async def test_a_kind_of_credential_that_is_not_on_offer_is_unsupported(site: Site, mode: wire.Mode) -> None:
    device, request = await site.unit(mode=mode)
    pem, der, digest = csr_of(device.client_id)
    claims: list[dict[str, Any]] = [
        {"accept": ["x509"]},
        {"csr": pem, "csr_hash": digest},
        {"csr": der, "csr_hash": digest},
    ]
    for claim in claims:
        refused = await device.claim(**claim)
        assert (refused.code, refused.reason) == (415, "unsupported")
        assert "password" in refused.body["supported"]
        assert "x509" not in refused.body["supported"]
    assert await request.phase() == "PENDING"
    assert (await device.claim(accept=["x509", "password"])).generation == 1


async def test_a_key_in_the_clear_from_beyond_this_machine_is_unsupported(start_program: StartProgram) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # Only asks the routing table; nothing is sent.
        except OSError:
            pytest.skip("this machine has no address but loopback")
        outside = probe.getsockname()[0]
    program = start_program({"PROVISIONER_ENDPOINT__LISTEN": f"{outside}:0"})
    async with await Site.at(program) as site:
        device, request = await site.unit(mode="plain")
        device.source = outside
        refused = await device.claim()
        assert (refused.code, refused.reason, refused.body["supported"]) == (415, "unsupported", ["proof"])
        assert await request.phase() == "PENDING"
        careful = site.device(device.client_id, device.activation_key, source=outside)
        assert (await careful.claim()).generation == 1


async def test_many_wrong_keys_are_slowed_down_and_the_right_one_is_not(rough_site: Site) -> None:
    device, request = await rough_site.unit()
    replies: list[wire.Reply] = []
    for _ in range(40):
        # A few wrong keys per connection: a connection is read slowly when it sends much.
        thief = rough_site.device(device.client_id, WRONG_KEY, source="127.0.0.66")
        replies += [await thief.claim(f"r-{number}") for number in range(5)]
        await thief.close()
        if replies[-1].reason == "slow-down":
            break
    assert replies[0].reason == "denied"
    assert {reply.reason for reply in replies} == {"denied", "slow-down"}
    assert (replies[-1].code, replies[-1].proved) == (429, False)
    assert replies[-1].retry_after >= 1
    # From the very same address, for the very same id: a right key is never refused for the failures of others.
    device.source = "127.0.0.66"
    assert (await device.claim()).generation == 1
    assert (await device.ack("stored", 1)).reason == "confirmed"
    assert await request.phase() == "CONFIRMED"


async def test_slow_down_tells_as_little_as_denied(rough_site: Site) -> None:
    request = await rough_site.request()
    last = []
    for client_id, source in ((request.client_id, "127.0.0.77"), (fresh_name(), "127.0.0.88")):
        for _ in range(40):
            thief = rough_site.device(client_id, WRONG_KEY, source=source)
            for _ in range(5):
                answer = await answer_to(thief, "request", thief.claim_body())
            await thief.close()
            if answer.reason == "slow-down":
                break
        last.append(answer)
    for answer in last:
        assert answer.reason == "slow-down"
        assert set(answer.body) <= {"requestId", "nonce", "code", "reason", "retryAfter", "step"}
    assert last[0].body.get("step") == last[1].body.get("step")
    assert last[0].order == last[1].order


def _databases(program: Program) -> list[str]:
    found = [path for path in program.data.rglob("*") if path.is_file() and path.stat().st_size >= 100]
    return [str(path) for path in found if path.read_bytes()[:15] == b"SQLite format 3"]


async def test_while_its_storage_is_locked_a_claim_is_told_to_come_again(rough_site: Site) -> None:
    """Somebody else holds the write lock of the database, as a badly made backup does."""
    device, request = await rough_site.unit()
    locks = [sqlite3.connect(name, isolation_level=None) for name in _databases(rough_site.program)]
    assert locks, "no database in the data directory"
    try:
        for lock in locks:
            try:
                lock.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                pytest.skip("the program keeps its database to itself")
        session = await device.connect()
        body = device.claim_body()
        await session.publish(device.topic("request"), wire.encode(body, "json"), 1)
        reply = device.read(await session.message(30), body)
        assert (reply.code, reply.reason) == (503, "unavailable")
        assert reply.retry_after >= 1
    finally:
        for lock in locks:
            lock.close()
    assert await request.phase() == "PENDING"
    assert (await device.provision()).generation == 1


async def test_refusals_name_the_claim_they_answer(site: Site) -> None:
    """Also between several that are on their way at once on one connection."""
    device, request = await site.unit(version=5)
    await request.tell("disable")
    session: Session = await device.connect()
    bodies = [device.claim_body(f"r-{number}") for number in range(4)]
    for number, body in enumerate(bodies):
        given = {mqtt.CORRELATION_DATA: bytes([number])}
        await session.send(session.publish_packet(device.topic("request"), wire.encode(body, "json"), given=given))
    for _ in bodies:
        got = await session.message()
        sent = bodies[got.properties[mqtt.CORRELATION_DATA][0]]
        assert device.read(got, sent).reason == "disabled"


async def test_a_proof_for_one_device_is_worth_nothing_for_another(site: Site) -> None:
    key = secrets.token_urlsafe(24)
    first, _ = await site.unit(generateActivationKey=False, activationKey=key)
    second, request = await site.unit(generateActivationKey=False, activationKey=key)
    borrowed = first.claim_body()
    answer = await answer_to(site.device(second.client_id, WRONG_KEY), "request", borrowed)
    assert answer.reason == "denied"
    assert await request.phase() == "PENDING"


@pytest.mark.parametrize(
    "changed",
    [
        {"requestId": "r-other"},
        {"nonce": "n" * 22},
        {"proof": "A" * 43},
        {"alg": "A256CTR-HS256"},
        {"accept": ["password"]},
        {"sealTo": wire.b64(b"\x09" * 32)},
    ],
    ids=str,
)
async def test_whatever_the_proof_covers_cannot_be_changed_on_the_way(site: Site, changed: dict[str, Any]) -> None:
    device, request = await site.unit()
    answer = await answer_to(device, "request", device.claim_body() | changed)
    assert answer.reason == "denied"
    assert await request.phase() == "PENDING"


@pytest.mark.parametrize(
    "changed",
    [{"requestId": "r-other"}, {"nonce": "n" * 22}, {"generation": 2}, {"result": "failed"}, {"proof": "A" * 43}],
    ids=str,
)
async def test_whatever_the_proof_of_an_ack_covers_cannot_be_changed_on_the_way(
    site: Site, changed: dict[str, Any]
) -> None:
    device, request = await site.unit()
    await device.claim()
    answer = await answer_to(device, "ack", device.ack_body("stored", 1) | changed)
    assert answer.reason == "denied"
    assert await request.phase() == "OFFERED"


async def test_the_proof_of_a_claim_is_no_proof_of_an_ack(site: Site) -> None:
    device, request = await site.unit()
    await device.claim()
    claim = device.claim_body()
    answer = await answer_to(
        device, "ack", device.ack_body("stored", 1) | {"nonce": claim["nonce"], "proof": claim["proof"]}
    )
    assert answer.reason == "denied"
    assert await request.phase() == "OFFERED"
