"""The hand-overs of `examples/transcripts/`, played to the real program: it answers as when they were recorded."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.program import FLOOR_PASSWORD, FLOOR_USER, ROOT, Program, Site

TRANSCRIPTS = ROOT / "examples" / "transcripts"
HAND_OVERS = sorted(TRANSCRIPTS.glob("hand-over-*.jsonl"))


def call(program: Program, *words: str, secrets: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "broker", "--data-dir", str(program.data), "device", *words, "--user", FLOOR_USER],
        cwd=ROOT,
        input=secrets,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def test_there_is_one_for_each_mode() -> None:
    assert [file.stem.removeprefix("hand-over-") for file in HAND_OVERS] == ["ctr", "hpke", "plain", "proof"]


@pytest.mark.parametrize("file", HAND_OVERS, ids=lambda file: file.stem)
async def test_the_program_answers_as_recorded(site: Site, file: Path) -> None:
    request = await site.request(forget=True)
    words = ("replay", str(file), "--client-id", request.client_id)
    done = call(site.program, *words, secrets=f"{request.key}\n{FLOOR_PASSWORD}\n")
    assert done.returncode == 0, done.stderr
    assert "is as recorded: 5 answers were compared" in done.stderr
    assert await request.phase() == "CONFIRMED"
    again = call(site.program, *words, secrets=f"{request.key}\n{FLOOR_PASSWORD}\n")
    assert again.returncode == 1
    assert "reason is 'already-provisioned' instead of 'offer'" in again.stderr


async def test_a_claim_is_recorded_and_can_be_played(site: Site, tmp_path: Path) -> None:
    first, second = await site.request(), await site.request()
    file = tmp_path / "first.jsonl"
    secrets = f"{first.key}\n{FLOOR_PASSWORD}\n"
    done = call(site.program, "claim", first.client_id, "--record", str(file), "--show-password", secrets=secrets)
    assert done.returncode == 0, done.stderr
    text = file.read_text()
    password = next(line.split()[-1] for line in done.stdout.splitlines() if line.startswith("password"))
    site.program.secrets.add(password)
    assert not any(secret in text for secret in (first.key, FLOOR_PASSWORD, password))
    secrets = f"{second.key}\n{FLOOR_PASSWORD}\n"
    done = call(site.program, "replay", str(file), "--client-id", second.client_id, secrets=secrets)
    assert done.returncode == 0, done.stderr


async def test_a_refused_claim_is_recorded_too(site: Site, tmp_path: Path) -> None:
    request = await site.request()
    await request.tell("disable")
    file = tmp_path / "refused.jsonl"
    secrets = f"{request.key}\n{FLOOR_PASSWORD}\n"
    done = call(site.program, "claim", request.client_id, "--record", str(file), secrets=secrets)
    assert done.returncode == 1
    assert '"reason": "disabled"' in file.read_text()
