"""What the reference device does, one behaviour of the wire contract each."""

import pytest

from broker.fleet.actions import Connect, Finish, Mode, Options, Publish, Step, Subscribe, Times
from broker.fleet.device import State
from broker.fleet.flash import MemoryFlash, load
from broker.fleet.keys import Keys
from broker.fleet.replies import Encoding
from tests.broker.fleet import double
from tests.broker.fleet.script import Stage

MODES = list(Mode)
TIMES = Times()
RETRIED = ["wait", "not-active", "slow-down", "unavailable"]
STOPPING = ["already-provisioned", "expired", "abandoned", "bad-request", "bad-csr", "unsupported", "too-large"]


def test_it_claims_only_after_suback() -> None:
    stage = Stage()
    stage.device.start(stage.now)
    assert stage.device.take() == [Connect()]
    stage.device.connected(stage.now)
    assert stage.device.take() == [Subscribe(f"prov/v1/factory/{double.CLIENT_ID}/reply")]
    stage.device.subscribed(stage.now)
    published = [action for action in stage.device.take() if isinstance(action, Publish)]
    assert [action.topic for action in published] == [f"prov/v1/factory/{double.CLIENT_ID}/request"]


@pytest.mark.parametrize("encoding", list(Encoding))
@pytest.mark.parametrize("mode", MODES)
def test_it_gets_its_credential(mode: Mode, encoding: Encoding) -> None:
    cbor = encoding is Encoding.CBOR
    stage = Stage(Options(mode, encoding)).start()
    assert (stage.published[0].payload[0] >= 0xA0) == cbor
    stage.offer(cbor=cbor)
    assert stage.steps[-1] == "stored"
    stage.let_in()
    assert stage.said["result"] == "stored"
    stage.answer("confirmed", cbor=cbor, generation=1)
    assert stage.device.state is State.CONFIRMED
    credential = load(stage.flash)
    assert credential is not None
    assert (credential.username, credential.password) == (f"p.acme.{double.CLIENT_ID}.g1", "secret-1")
    assert stage.steps == ["claim", "offer-opened", "stored", "logged-in", "ack", "confirmed"]
    assert stage.disconnects == 1


@pytest.mark.parametrize("mode", [Mode.PROOF, Mode.CTR, Mode.HPKE])
def test_a_device_able_to_make_proofs_never_sends_its_key(mode: Mode) -> None:
    stage = Stage(Options(mode)).start()
    stage.answer("unsupported", proved=False, supported=["plain"]).wait()
    stage.offer().let_in()
    assert all(double.KEY.encode() not in message.payload for message in stage.published)


def test_plain_mode_sends_the_key_itself() -> None:
    assert Stage(Options(Mode.PLAIN)).start().said["activationKey"] == double.KEY


def test_a_claim_says_what_the_unit_is() -> None:
    options = Options(accept=("password",), max_reply=4096, facts={"serialNumber": "S1", "batch": 7})
    claim = Stage(options).start().said
    assert (claim["accept"], claim["maxReply"]) == (["password"], 4096)
    assert claim["device"] == {"serialNumber": "S1", "batch": 7}
    proof = double.KEYS.prove_claim(claim["requestId"], claim["nonce"], accept=("password",))
    assert claim["proof"] == proof


# No reply --------------------------------------------------------------------------------------------------------


def test_no_reply_means_the_same_claim_again_after_a_growing_jittered_pause() -> None:
    stage = Stage().start()
    first = stage.said
    nonces = {first["nonce"]}
    for attempt in range(10):
        assert stage.pause == pytest.approx(TIMES.reply)
        stage.wait()
        assert 0 <= stage.pause <= min(TIMES.longest_pause, 5 * 2**attempt)
        stage.wait()
        assert {**stage.said, "nonce": "", "proof": ""} == {**first, "nonce": "", "proof": ""}
        nonces.add(stage.said["nonce"])
    assert len(nonces) == 11


def test_pauses_use_the_whole_range() -> None:
    pauses = sorted(Stage(seed=seed).start().wait().pause for seed in range(50))
    assert pauses[0] < 1
    assert pauses[-1] > 4


def test_the_reply_to_an_earlier_nonce_still_counts() -> None:
    stage = Stage().start()
    first = stage.said
    stage.wait().wait()
    assert stage.said["nonce"] != first["nonce"]
    stage.receive(double.offer(first))
    assert stage.device.state is State.STORED


def test_only_the_last_four_nonces_are_outstanding() -> None:
    stage = Stage().start()
    first = stage.said
    for _ in range(4):
        stage.wait().wait()
    stage.receive(double.offer(first))
    assert stage.device.state is State.CLAIMING


def test_a_lost_connection_means_the_same_claim_on_a_new_one() -> None:
    stage = Stage().start()
    request_id = stage.said["requestId"]
    stage.device.lost(stage.now)
    stage.settle()
    assert stage.pause <= 5
    stage.wait()
    assert (stage.connects, stage.said["requestId"]) == (2, request_id)


def test_a_connection_that_cannot_be_had_is_tried_again() -> None:
    stage = Stage()
    stage.device.start(stage.now)
    assert stage.device.take() == [Connect()]
    stage.device.lost(stage.now)
    stage.settle().wait()
    assert stage.said["requestId"] == stage.device.request_id


def test_losing_the_connection_does_not_shorten_a_pause() -> None:
    stage = Stage().start().answer("wait", retryAfter=40)
    due = stage.device.due
    stage.device.lost(stage.now)
    assert stage.device.due == due
    stage.wait()
    assert (stage.connects, len(stage.published)) == (2, 2)


def test_a_connection_that_stays_silent_twice_is_given_up() -> None:
    stage = Stage().start()
    request_id = stage.said["requestId"]
    stage.wait().wait()
    assert (len(stage.published), stage.connects, stage.disconnects) == (2, 1, 0)
    stage.wait()
    assert stage.disconnects == 1
    stage.wait()
    assert (len(stage.published), stage.connects) == (3, 2)
    assert stage.said["requestId"] == request_id


def test_a_reply_between_keeps_the_connection() -> None:
    stage = Stage().start()
    for _ in range(3):
        stage.wait().wait().answer("wait", retryAfter=2).wait()
    assert (stage.connects, stage.disconnects) == (1, 0)


def test_a_told_time_begins_the_pauses_anew() -> None:
    stage = Stage().start()
    for _ in range(6):
        stage.wait().wait()
    stage.answer("wait", retryAfter=2).wait().wait()
    assert stage.pause <= TIMES.first_pause


def test_its_times_can_be_scaled() -> None:
    stage = Stage(Options(times=Times(reply=0.5, first_pause=0.25, longest_pause=1, keep_connection=3))).start()
    assert stage.pause == pytest.approx(0.5)
    for attempt in range(4):
        stage.wait()
        assert stage.pause <= min(1, 0.25 * 2**attempt)
        stage.wait()


def test_ticking_early_does_nothing() -> None:
    stage = Stage().start().wait(TIMES.reply - 1)
    assert len(stage.published) == 1


# What is dropped -------------------------------------------------------------------------------------------------


def test_replies_that_are_not_ours_are_dropped() -> None:
    stage = Stage().start()
    claim = stage.said
    other = Keys.derive(b"another activation key", double.USER, double.CLIENT_ID)
    hostile = [
        double.offer(claim | {"requestId": "r-x"}),
        double.offer(claim | {"nonce": "A" * 22}),
        double.offer(claim, keys=other),
        double.offer(claim, alg="A256CTR-HS256"),
        double.offer(claim, clientId="somebody-else"),
        double.offer(claim, type="x509"),
        double.offer(claim, password=""),
        double.offer(claim, coupling="INHERITED"),
        double.offer(claim, generation=0),
        double.offer(claim, confirm="never"),
        double.offer(claim, cbor=True),
        double.reply(claim | {"requestId": "r-x"}, "abandoned"),
        double.reply(claim | {"nonce": "A" * 22}, "abandoned"),
        double.reply(claim, "abandoned").replace(b'"code": 410', b'"code": 409'),
        double.reply(claim, "wait", retryAfter=5).replace(b'"retryAfter": 5', b'"retryAfter": 6'),
        b"",
        b"[]",
        b"{",
        b'{"requestId": "r-1"}',
    ]
    before = (stage.device.due, stage.device.state)
    for payload in hostile:
        stage.receive(payload)
        assert (stage.device.due, stage.device.state) == before, payload
    assert stage.offer().device.state is State.STORED


def test_with_seal_to_only_hpke_is_opened() -> None:
    stage = Stage(Options(Mode.HPKE)).start()
    stage.receive(double.offer(stage.said, alg="A256GCM"))
    assert stage.device.state is State.CLAIMING
    assert stage.offer().device.state is State.STORED


def test_an_unsealed_offer_is_none_in_proof_mode() -> None:
    stage = Stage().start()
    body = double.offer_body(stage.said["requestId"])
    stage.receive(double.write(body | {"nonce": stage.said["nonce"]}))
    assert (stage.device.state, load(stage.flash)) == (State.CLAIMING, None)


def test_an_offer_is_taken_once() -> None:
    stage = Stage().start()
    payload = double.offer(stage.said)
    stage.receive(payload).receive(payload)
    assert stage.steps.count("stored") == 1


def test_a_proved_reply_counts_once() -> None:
    stage = Stage().start()
    payload = double.reply(stage.said, "wait", retryAfter=30)
    stage.receive(payload)
    due = stage.device.due
    stage.now += 5
    assert stage.receive(payload).device.due == due


@pytest.mark.parametrize("reason", sorted(double.CODES))
def test_an_unproved_reply_means_at_most_try_later(reason: str) -> None:
    stage = Stage().start()
    request_id = stage.said["requestId"]
    stage.answer(reason, proved=False, forget=True, retryAfter=86400)
    assert stage.device.state is State.CLAIMING
    assert stage.device.identity is not None
    assert stage.pause <= TIMES.longest_pause * 1.5
    stage.wait()
    assert stage.said["requestId"] == request_id


def test_an_unproved_reply_does_not_hide_the_true_one() -> None:
    stage = Stage().start()
    claim = stage.said
    stage.answer("denied", proved=False).receive(double.offer(claim))
    assert stage.device.state is State.STORED


def test_unproved_replies_do_not_prolong_a_pause() -> None:
    stage = Stage().start().answer("denied", proved=False)
    due = stage.device.due
    assert stage.answer("denied", proved=False).device.due == due


# The table of section 7 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", RETRIED)
def test_retry_after_is_obeyed_with_jitter(reason: str) -> None:
    stage = Stage().start()
    request_id = stage.said["requestId"]
    stage.answer(reason, retryAfter=20)
    assert 20 <= stage.pause <= 30
    assert stage.disconnects == 0
    stage.wait()
    assert (stage.said["requestId"], stage.connects) == (request_id, 1)


@pytest.mark.parametrize("reason", ["denied", "disabled"])
def test_any_refusal_may_tell_the_time(reason: str) -> None:
    stage = Stage().start().answer(reason, retryAfter=40)
    assert 40 <= stage.pause <= 60


def test_long_pauses_are_spent_disconnected() -> None:
    stage = Stage().start().answer("wait", retryAfter=3600)
    assert (stage.disconnects, stage.connects) == (1, 1)
    assert 3600 <= stage.pause <= 5400
    stage.wait()
    assert (stage.connects, len(stage.published)) == (2, 2)


@pytest.mark.parametrize("reason", ["denied", "disabled"])
def test_backing_off(reason: str) -> None:
    stage = Stage().start()
    for attempt in range(4):
        stage.answer(reason)
        assert stage.pause <= 5 * 2**attempt
        stage.wait()
    assert len({double.read(message.payload)["requestId"] for message in stage.published}) == 1


@pytest.mark.parametrize("reason", STOPPING)
def test_stopping(reason: str) -> None:
    stage = Stage().start().answer(reason)
    assert (stage.device.state, stage.device.due, stage.disconnects) == (State.STOPPED, None, 1)
    assert stage.device.identity is not None


def test_superseded_means_a_new_request_id() -> None:
    stage = Stage().start()
    request_id = stage.said["requestId"]
    stage.answer("superseded")
    assert stage.said["requestId"] != request_id


def test_superseded_again_and_again_is_no_tight_circle() -> None:
    stage = Stage().start().answer("superseded")
    for attempt in range(1, 4):
        stage.answer("superseded")
        assert stage.pause <= 5 * 2**attempt
        stage.wait()
    assert len(stage.published) == 5


def test_too_large_enlarges_the_buffer() -> None:
    stage = Stage(Options(max_reply=200)).start().answer("too-large", needed=900)
    assert stage.said["maxReply"] == 900
    assert stage.offer().device.state is State.STORED


def test_too_large_beyond_reason_stops() -> None:
    stage = Stage(Options(max_reply=200)).start().answer("too-large", needed=10_000_000)
    assert stage.device.state is State.STOPPED


@pytest.mark.parametrize("reason", STOPPING)
def test_in_plain_mode_a_final_refusal_is_asked_about_less_and_less(reason: str) -> None:
    stage = Stage(Options(Mode.PLAIN)).start()
    pauses = []
    for attempt in range(30):
        stage.answer(reason, proved=False)
        assert stage.device.state is State.CLAIMING
        assert stage.pause <= min(TIMES.longest_doubt, 5 * 2**attempt)
        pauses.append(stage.pause)
        stage.wait()
    assert max(pauses) > TIMES.longest_pause, "it rests longer than a device whose claims are not answered"
    why = [action.text for action in stage.log if isinstance(action, Step) and action.name == "pause"]
    assert set(why) == {f"{reason}, which plain mode cannot prove"}
    stage.offer()
    assert stage.device.state is State.STORED


def test_in_plain_mode_a_renewal_nobody_wants_costs_a_claim_an_hour_and_no_credential() -> None:
    stage = Stage(Options(Mode.PLAIN)).start().offer().let_in().answer("confirmed", proved=False, generation=1)
    stage.device.renew(stage.now)
    stage.settle()
    until, claims = stage.now + 86_400, len(stage.published)
    while stage.now < until:
        stage.answer("already-provisioned", proved=False).wait()
    assert len(stage.published) - claims < 80
    assert load(stage.flash) == stage.device.credential


@pytest.mark.parametrize("mode", [Mode.PROOF, Mode.CTR, Mode.HPKE])
def test_an_unproved_final_refusal_delays_a_device_that_can_have_proofs_no_longer_than_silence(mode: Mode) -> None:
    stage = Stage(Options(mode)).start()
    for _ in range(30):
        stage.answer("already-provisioned", proved=False)
        assert stage.pause <= TIMES.longest_pause
        stage.wait()


def test_an_unknown_reason_means_back_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(double.CODES, "from-the-future", 499)
    stage = Stage().start().answer("from-the-future")
    assert (stage.device.state, stage.pause <= 5) == (State.CLAIMING, True)


def test_forget() -> None:
    stage = Stage().start().offer().let_in().answer("confirmed", generation=1, forget=True)
    assert (stage.device.state, stage.device.identity) == (State.CONFIRMED, None)
    assert load(stage.flash) is not None
    stage.device.renew(stage.now)
    assert stage.settle().connects == 1


def test_the_key_is_kept_unless_told_to_forget() -> None:
    assert Stage().start().offer().let_in().answer("confirmed", generation=1).device.identity is not None


# After storing ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("finish", "confirm", "logins", "acks"),
    [
        (Finish.BOTH, "either", 1, 1),
        (Finish.LOGIN, "either", 1, 0),
        (Finish.ACK, "either", 0, 1),
        (Finish.LOGIN, "ack", 1, 1),
        (Finish.ACK, "login", 1, 1),
        (Finish.LOGIN, "login", 1, 0),
        (Finish.ACK, "ack", 0, 1),
    ],
)
def test_it_logs_in_or_acks_or_both(finish: Finish, confirm: str, logins: int, acks: int) -> None:
    stage = Stage(Options(finish=finish)).start().offer(confirm=confirm)
    if stage.logins:
        stage.let_in()
    if acks:
        stage.answer("confirmed", generation=1)
    assert (stage.device.state, stage.logins, len(stage.published) - 1) == (State.CONFIRMED, logins, acks)


def test_an_ack_is_repeated_until_it_is_answered() -> None:
    stage = Stage().start().offer().let_in()
    first = stage.said
    stage.wait().wait()
    assert stage.said["result"] == "stored"
    assert stage.said["nonce"] != first["nonce"]
    stage.answer("unavailable", retryAfter=5).wait()
    assert stage.answer("confirmed", generation=1).device.state is State.CONFIRMED


def test_an_ack_noted_where_only_a_login_confirms_is_enough() -> None:
    stage = Stage().start().offer(confirm="login").let_in().answer("noted")
    assert stage.device.state is State.CONFIRMED


def test_three_refused_logins_mean_failed_and_a_new_request_id() -> None:
    stage = Stage().start().offer()
    request_id = stage.said["requestId"]
    stage.turn_away().wait().turn_away().wait()
    assert (stage.logins, len(stage.published)) == (3, 1)
    stage.turn_away()
    assert (stage.said["result"], stage.said["generation"], stage.said["requestId"]) == ("failed", 1, request_id)
    stage.answer("noted")
    assert load(stage.flash) is None
    assert stage.said["requestId"] != request_id
    stage.offer(generation=2).let_in().answer("confirmed", generation=2)
    assert stage.device.state is State.CONFIRMED


@pytest.mark.parametrize("progress", [(), ("APPS_INSTALLING",)])
def test_a_superseded_renewal_gives_way_to_the_credential_before_it(progress: tuple[str, ...]) -> None:
    stage = Stage(Options(finish=Finish.ACK, progress=progress)).start().offer()
    if progress:
        stage.answer("noted")
    stage.answer("confirmed", generation=1)
    stage.device.renew(stage.now)
    stage.settle().offer(generation=2)
    assert stage.device.credential is not None
    assert stage.device.credential.generation == 2
    stage.answer("superseded", generation=2)
    assert stage.device.credential.generation == 1
    kept = load(stage.flash)
    assert kept is not None
    assert kept.generation == 1


def test_failed_after_confirmation_stops() -> None:
    stage = Stage().start().offer().turn_away().wait().turn_away().wait().turn_away().answer("already-provisioned")
    assert stage.device.state is State.STOPPED
    assert load(stage.flash) is not None


def test_an_unreachable_device_broker_is_no_refusal() -> None:
    stage = Stage().start().offer()
    for _ in range(2):
        stage.device.login_unreachable(stage.now)
        stage.settle().wait()
    assert (stage.logins, len(stage.published)) == (3, 1)
    stage.device.login_unreachable(stage.now)
    assert stage.settle().said["result"] == "stored"
    assert stage.answer("confirmed", generation=1).device.state is State.CONFIRMED


def test_where_a_login_must_confirm_it_is_tried_on_and_on() -> None:
    stage = Stage().start().offer(confirm="login")
    for attempt in range(1, 7):
        stage.device.login_unreachable(stage.now)
        stage.settle()
        if attempt == 3:
            stage.answer("noted")
        else:
            stage.wait()
    assert stage.logins == 7
    assert stage.let_in().device.state is State.CONFIRMED


def test_progress_is_reported_before_the_login() -> None:
    stage = Stage(Options(progress=("CONF_UPDATING", "CONF_UPDATED"))).start().offer()
    for status in ("CONF_UPDATING", "CONF_UPDATED"):
        assert (stage.said["result"], stage.said["status"]) == ("progress", status)
        stage.answer("noted")
    assert stage.logins == 1


# Flash -----------------------------------------------------------------------------------------------------------


class WornFlash(MemoryFlash):
    """Forgets the last byte of what it is given, as long as it is worn."""

    worn = True

    def write(self, slot: int, octets: bytes) -> None:
        super().write(slot, octets[:-1] if self.worn else octets)


def test_what_cannot_be_read_back_is_not_made_current() -> None:
    flash = WornFlash()
    stage = Stage(flash=flash).start().offer()
    assert (stage.device.state, flash.marked) == (State.CLAIMING, None)
    flash.worn = False
    stage.wait().offer()
    assert (stage.device.state, flash.marked) == (State.STORED, 0)


def test_after_a_restart_a_stored_credential_is_used() -> None:
    flash = Stage().start().offer().flash
    stage = Stage(flash=flash, seed=2).start()
    assert (stage.logins, stage.connects) == (1, 0)
    stage.let_in()
    assert (stage.said["result"], stage.said["generation"]) == ("stored", 1)
    assert stage.answer("confirmed", generation=1).device.state is State.CONFIRMED


def test_after_a_restart_half_a_record_is_none() -> None:
    flash = Stage().start().offer().flash
    flash.write(0, flash.read(0)[:-1])
    assert Stage(flash=flash, seed=2).start().logins == 0


def test_a_rotated_credential_that_is_refused_leaves_the_former_in_use() -> None:
    stage = Stage().start().offer().let_in().answer("confirmed", generation=1)
    stage.device.renew(stage.now)
    stage.settle().offer(generation=2)
    current = load(stage.flash)
    assert current is not None
    assert current.generation == 2
    stage.turn_away().wait().turn_away().wait().turn_away()
    stage.answer("noted")
    current = load(stage.flash)
    assert current is not None
    assert current.generation == 1
