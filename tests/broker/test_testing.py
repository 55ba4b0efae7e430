"""The pytest plug-in, in a session of its own."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=55, check=False)


def test_every_fixture_in_use() -> None:
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/broker/plugin_in_use.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout


def test_the_log_is_shown_with_a_test_that_failed(tmp_path: Path) -> None:
    failing = tmp_path / "test_it.py"
    failing.write_text(
        "def test_it(provision_request, device):\n"
        "    assert device(provision_request('dev-shown')).claim().reason == 'never'\n"
    )
    done = run(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "log_level=INFO", "--rootdir", str(tmp_path), str(failing)
    )
    assert done.returncode == 1
    assert "Captured log call" in done.stdout
    assert "provisioner" in done.stdout


def test_settings_that_cannot_be_used_are_told_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "import pytest\n"
        "@pytest.fixture(scope='session')\n"
        "def provisioner_settings():\n"
        "    return {'claim.confirm_tim': '60'}\n"
    )
    failing = tmp_path / "test_it.py"
    failing.write_text("def test_it(provisioner):\n    pass\n")
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path), str(failing))
    assert done.returncode == 1
    assert "RuntimeError: the provisioner does not start: " in done.stdout
    assert "confirm_tim" in done.stdout


def test_it_costs_nothing_where_it_is_not_used() -> None:
    heavy = (
        "import sys, broker.testing; print([m for m in ('pydantic', 'fastapi', 'amqtt', 'rich') if m in sys.modules])"
    )
    assert run("-c", heavy).stdout.strip() == "[]"
