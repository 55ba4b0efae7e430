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
from tests.bench.report import Costs, Pair, Run, Series, print_report
from tests.broker.fleet import double

ROOT = Path(__file__).parents[2]


@pytest.mark.timeout(300)
def test_a_small_run_measures_checks_and_draws(tmp_path: Path) -> None:
    line = ["--devices", "30", "--concurrency", "10", "--rounds", "1", "--herd", "30", "--out", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench", *line], cwd=ROOT, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Nothing failed" in done.stdout
    told = json.loads((tmp_path / "bench.json").read_text())
    for how in ("plain", "tls", "certificate"):
        assert told[how]["handOver"]["perSecond"] > 0
        assert told[how]["ratio"] > 0
        assert told[how]["nullEndpoint"]["failed"] == told[how]["handOver"]["failed"] == {}
    # So few cycles may end between two samples: what each phase took is for a real run to say.
    for phases in told["serverCpuUsByPhase"].values():
        assert {"sockets", "crypto", "commit"} <= phases.keys()
        assert min(phases.values()) >= 0
    assert (told["herd"]["confirmed"], told["herd"]["answered"]) == (30, told["herd"]["claims"])
    assert told["herd"]["openFiles"] > 0
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
    plain, tls = (
        Pair("P-1", 0.33, null, ours),
        Pair("P-3", 0.8, null, Series("c", "", [7.0], [0.0003], [0.0001], [0.3])),
    )
    certificate = Pair("P-4", 0.8, ours, Series("d", "", [3.0], [0.0003], [0.0001], [0.3]))
    bridge = Pair("P-2", 0.6, null, Series("e", "", [6.5], [0.0003], [0.0001], [0.3]))
    run = Run(10, 2, plain, tls, certificate, [Costs("plain", {"commit": 0.000_123})], bridge=bridge)
    print_report(run)
    assert run.failures == 4
    assert run.plain.ratio == pytest.approx(0.4)
    printed = capsys.readouterr().out
    assert "b: 3 x slow-down" in printed
    assert "ratio 0.40 (at least 0.33)  reached" in printed
    assert "ratio 0.70 (at least 0.8)  missed" in printed
    assert "ratio 0.65 (at least 0.6)  reached" in printed
    assert "ratio 0.75 (at least 0.8)  missed" in printed
    assert "123 µs" in printed
