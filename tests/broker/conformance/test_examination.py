"""The good device passes; each faulty one fails for its own reason and for no other."""

import pytest

from broker.conformance.sheet import Check
from broker.fleet.actions import Finish, Mode, Options
from broker.fleet.replies import Encoding
from broker.reports.verdict import Result
from tests.broker.conformance import workshop
from tests.broker.conformance.workshop import Make, examined


def failed(verdicts: object) -> dict[str, str]:
    return {one.name: one.said for one in verdicts if one.result is Result.FAILED}  # type: ignore[attr-defined]


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("mode", [Mode.PROOF, Mode.CTR, Mode.HPKE])
async def test_the_good_device_passes(mode: Mode, version: int) -> None:
    done = await examined(options=Options(mode), version=version)
    assert {one.name: one.said for one in done.verdicts if one.result is not Result.PASSED} == {}
    assert [one.name for one in done.verdicts] == [check.value for check in Check]


async def test_a_good_device_in_plain_mode_is_not_asked_for_proofs() -> None:
    done = await examined(options=Options(Mode.PLAIN))
    assert failed(done.verdicts) == {}
    assert {one.name for one in done.verdicts if one.result is Result.SKIPPED} == {
        Check.SEALED_WRONG,
        Check.UNPROVED,
        Check.FORGETS,
    }


async def test_a_good_device_need_not_ack() -> None:
    done = await examined(options=Options(finish=Finish.LOGIN))
    assert failed(done.verdicts) == {}
    assert {one.name for one in done.verdicts if one.result is Result.SKIPPED} == {Check.FORGETS}


async def test_cbor_is_understood() -> None:
    assert failed((await examined(options=Options(encoding=Encoding.CBOR))).verdicts) == {}


@pytest.mark.parametrize(
    ("make", "check", "words"),
    [
        (workshop.Hasty, Check.SUBSCRIBES, "it published before it subscribed"),
        (workshop.Renaming, Check.REPEATS, "its repeat has another requestId"),
        (workshop.Impatient, Check.RETRY_AFTER, "told to wait 3 s, it came back after 0.0"),
        (workshop.Marching, Check.JITTER, "a herd of them would stay together"),
        (workshop.Remembering, Check.LATE, "a reply to an earlier nonce or to another requestId stopped it"),
        (workshop.Restless, Check.DUPLICATE, "the offer came twice, and it claimed again"),
        (workshop.SealBlind, Check.SEALED_WRONG, "after an offer sealed wrongly it never claimed again"),
        (workshop.Credulous, Check.UNPROVED, "after `abandoned` without proof it never claimed again"),
        (workshop.Small, Check.OVERSIZED, "after an oversized reply it never claimed again"),
        (workshop.Forgetful, Check.STORES, "it claimed again: what it said it had stored was gone"),
        (workshop.Nameless, Check.NEW_IDENTITY, "never logged in at the device broker with its new credential"),
        (workshop.Clinging, Check.FORGETS, "it used the provisioning login again after a power cut"),
        (workshop.Brittle, Check.CUT_CLAIM, "it never came back"),
    ],
)
async def test_a_faulty_device_fails_for_its_reason(make: Make, check: Check, words: str) -> None:
    found = failed((await examined(make)).verdicts)
    assert words in found.get(check, ""), found
    assert set(found) == {check}


async def test_the_story_tells_what_happened_and_no_secret() -> None:
    story = "\n".join((await examined()).story)
    for words in (
        "the device is fresh from the factory: what no provisioner says",
        "connect as factory, client id 00:1A:2B:3C:4D:5E, MQTT 5",
        "subscribe prov/v1/factory/00:1A:2B:3C:4D:5E/reply",
        "replies: wait 3 s",
        "power fails: it had acked `stored`",
        "connect as p.bench.00:1A:2B:3C:4D:5E.g3",
    ):
        assert words in story
    assert workshop.SUBJECT.password not in story
    assert workshop.SUBJECT.activation_key not in story
