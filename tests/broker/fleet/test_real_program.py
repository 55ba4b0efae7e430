"""The commands against the real program: two implementations of one contract have to agree."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.program import Program, fresh_name

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    running = Program(tmp_path_factory.mktemp("real") / "data").start()
    yield running
    running.stop()


def call(program: Program, *words: str, secrets: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "broker", "--data-dir", str(program.data), *words],
        cwd=ROOT,
        input=secrets,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@pytest.mark.parametrize(
    ("mode", "mqtt", "more"),
    [("proof", "5", []), ("plain", "3", []), ("ctr", "3", ["--cbor"]), ("hpke", "5", ["--cbor"])],
)
def test_one_device(program: Program, tmp_path: Path, mode: str, mqtt: str, more: list[str]) -> None:
    name, key, saved = fresh_name(), tmp_path / "key", tmp_path / "credential.json"
    made = call(program, "request", "create", name, "--account", "default", "--key-file", str(key))
    assert made.returncode == 0, made.stderr
    claimed = call(
        program, "device", "claim", name, "--mode", mode, "--mqtt", mqtt, *more, "--save", str(saved),
        secrets=key.read_text(),
    )  # fmt: skip
    assert claimed.returncode == 0, claimed.stderr
    credential = json.loads(saved.read_text())
    assert (credential["clientId"], credential["generation"], credential["coupling"]) == (name, 1, "STRICT")
    assert credential["password"] not in claimed.stdout + claimed.stderr


def test_a_second_claim_is_told_what_to_do(program: Program, tmp_path: Path) -> None:
    name, key = fresh_name(), tmp_path / "key"
    call(program, "request", "create", name, "--account", "default", "--key-file", str(key))
    first, second = (call(program, "device", "claim", name, secrets=key.read_text()) for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 1)
    assert "409 already-provisioned" in second.stderr
    assert "request rotate" in second.stderr


def test_a_wrong_key(program: Program) -> None:
    done = call(program, "device", "claim", "nobody-knows-me", secrets="0123456789abcdefghijklmnopqrstuv\n")
    assert done.returncode == 1
    assert "401 denied (trace " in done.stderr


def test_a_fleet(program: Program) -> None:
    done = call(program, "fleet", "run", "--count", "30", "--concurrency", "10", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["confirmed"], told["refused"]) == (30, {})


@pytest.mark.parametrize(
    "words", [["smoke", "--tls"], ["power-cuts"], ["impostors"], ["certificates"]], ids=lambda words: str(words[0])
)
def test_a_scenario_against_a_program_of_its_own(words: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "broker", "fleet", "run", *words, "--temporary", "--count", "20", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr + done.stdout
    told = json.loads(done.stdout)
    assert (told["confirmed"], told["impostors"].get("confirmed", 0)) == (20, 0)
    assert {check["result"] for check in told["checks"]} == {"passed"}


def test_the_demonstration() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "broker", "demo", "--count", "20", "--json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["confirmed"] == 20
    assert told["underAnotherClientId"] == [
        {"coupling": "STRICT", "admitted": False, "asExpected": True},
        {"coupling": "LOOSE", "admitted": True, "asExpected": True},
    ]
