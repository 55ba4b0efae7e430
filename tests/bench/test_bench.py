"""The bench itself: it measures the real program, and says so when an answer is not what it should be."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from broker.mqtt.framing import Decoder
from broker.mqtt.packets import Publish, parse
from tests.bench.generator import Job, build, is_right, reason
from tests.bench.report import Run, Series, print_table
from tests.broker.fleet import double

ROOT = Path(__file__).parents[2]


def test_a_small_run_measures_checks_and_draws(tmp_path: Path) -> None:
    line = ["--devices", "30", "--concurrency", "10", "--rounds", "1", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", *line], cwd=ROOT, capture_output=True, text=True, timeout=55, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Nothing failed" in done.stdout
    told = json.loads((tmp_path / "bench.json").read_text())
    assert told["handOver"]["perSecond"] > 0
    assert 0 < told["ratio"] < 1
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["bench.json", "bench.png"]


@pytest.fixture
def job() -> Job:
    return build("handover", double.USER, "password", double.CLIENT_ID, double.KEY)


def said(packet: bytes) -> dict[str, object]:
    (frame,) = Decoder().feed(packet)
    message = parse(frame, 4)
    assert isinstance(message, Publish)
    return double.read(message.payload)


def test_a_right_hand_over_is_found_right(job: Job) -> None:
    claim, ack = map(said, job.messages)
    job.replies = [double.offer(claim), double.reply(ack, "confirmed", generation=1)]
    assert is_right(job)


def test_a_wrong_one_is_found_wrong(job: Job) -> None:
    claim, ack = map(said, job.messages)
    offer, confirmed = double.offer(claim), double.reply(ack, "confirmed", generation=1)
    for replies in (
        [offer],
        [confirmed, offer],
        [offer, double.reply(ack, "confirmed", proved=False)],
        [double.offer(claim, generation=2), confirmed],
        [b"{}", confirmed],
    ):
        job.replies = replies
        assert not is_right(job)


def test_refusals_are_told_by_reason(job: Job) -> None:
    claim = said(job.messages[0])
    assert reason(double.reply(claim, "slow-down", retryAfter=5)) == "slow-down"
    assert reason(b"\xff") == "unreadable"


def test_failures_are_printed_and_counted(capsys: pytest.CaptureFixture[str]) -> None:
    null, ours = (
        Series(name, "", [rate], [0.0002], [0.0001], [0.01, 0.02]) for name, rate in (("a", 10.0), ("b", 4.0))
    )
    ours.failed, ours.wrong = Counter({"slow-down": 3}), 1
    run = Run(10, 2, null, ours)
    print_table(run)
    assert run.failures == 4
    assert run.ratio == pytest.approx(0.4)
    printed = capsys.readouterr().out
    assert "b: 3 x slow-down" in printed
    assert "reached" in printed
