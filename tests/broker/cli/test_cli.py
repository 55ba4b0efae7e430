"""The command as a program: what it prints where, and how it ends."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from broker.cli import _hoisted
from broker.cli.output import Failed, printable, read_secret
from provisioner import __version__

Call = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).parents[3]


@pytest.fixture
def call(tmp_path: Path) -> Call:
    """Run the command in an empty folder."""

    def run(*words: object, **variables: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("PROVISIONER_")}
        return subprocess.run(
            [sys.executable, "-m", "broker", *map(str, words)],
            env=clean | {"PYTHONPATH": str(ROOT), "COLUMNS": "200"} | variables,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )

    return run


def test_help_lists_every_group_without_importing_it(call: Call) -> None:
    done = call("--help")
    assert done.returncode == 0
    for group in ("serve", "init", "config", "account", "user", "token", "request", "device", "fleet", "demo"):
        assert f" {group} " in done.stdout
    script = (
        "import sys; sys.argv = ['provisioner', '--help']\n"
        "from broker.__main__ import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'amqtt', 'fastapi', 'uvicorn', 'aiosqlite', 'cryptography', 'httpx2', 'argon2', 'structlog'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, timeout=30)


def test_the_version_is_one(call: Call) -> None:
    assert call("--version").stdout == f"provisioner {__version__}\n"


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["confg"], "Did you mean 'config'?"),
        (["config", "chek"], "No such command 'chek'"),
        (["--data-dri", "x", "config", "check"], "No such option: --data-dri"),
        (["config", "check", "--config"], "requires an argument"),
    ],
)
def test_a_wrong_call_is_exit_code_2_with_a_hint(call: Call, words: list[str], hint: str) -> None:
    done = call(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert hint in done.stderr


def test_where_to_look_may_stand_anywhere() -> None:
    front = ["--data-dir", "d", "--config=f"]
    assert _hoisted(["config", "show", "--data-dir", "d", "--config=f", "--json"]) == [
        *front,
        "config",
        "show",
        "--json",
    ]
    assert _hoisted([*front, "config"]) == [*front, "config"]
    assert _hoisted(["request", "--", "--config", "x"]) == ["request", "--", "--config", "x"]
    assert _hoisted(["config", "check", "--config"]) == ["--config"]


def test_good_settings_are_exit_code_0(call: Call, tmp_path: Path) -> None:
    done = call("config", "check")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "The settings are fine.\n")
    assert list(tmp_path.iterdir()) == []


def test_every_problem_of_the_settings_is_told_and_exit_code_is_2(call: Call, tmp_path: Path) -> None:
    (tmp_path / "p.toml").write_text("[http]\nlistn = 1\n[device_broker]\nca = 'none.pem'\n")
    done = call("config", "check", "--config", "p.toml", PROVISIONER_LOG__LEVL="x")
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "http.listn in p.toml is not a setting: did you mean http.listen?",
        "PROVISIONER_LOG__LEVL is not a setting: did you mean PROVISIONER_LOG__LEVEL?",
    ]
    (tmp_path / "p.toml").write_text("[device_broker]\nca = 'none.pem'\n")
    done = call("--config", "p.toml", "config", "check", "--json")
    assert done.returncode == 2
    assert json.loads(done.stdout) == {
        "problems": ["device_broker.ca none.pem cannot be read: No such file or directory."]
    }


def test_the_settings_in_effect_are_shown_with_their_origin(call: Call) -> None:
    done = call("config", "show", "--data-dir", "d", PROVISIONER_HTTP__LISTEN="[::1]:0")
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["data_dir", "d", "option"] in rows
    assert ["http.listen", "[::1]:0", "PROVISIONER_HTTP__LISTEN"] in rows
    assert ["claim.allow_keyless", "false", "default"] in rows
    shown = json.loads(call("config", "show", "--json").stdout)
    assert shown["endpoint.listen"] == "127.0.0.1:1884"
    assert shown["claim.allow_keyless"] is False


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--chaos-seed", "7"), "it is for --chaos: give that as well"),
        (("--chaos", "--chaos-seed", "-1"), '--chaos-seed is "-1": write a whole number from 0 to 4294967296'),
    ],
)
def test_a_seed_of_chaos_that_cannot_be_used(call: Call, words: tuple[str, ...], sentence: str) -> None:
    done = call("serve", *words)
    assert (done.returncode, done.stdout) != (0, "")
    assert sentence in done.stderr


def test_bad_settings_end_any_other_command_with_a_sentence(call: Call) -> None:
    done = call("config", "show", PROVISIONER_DATADIR="x")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "provisioner: PROVISIONER_DATADIR is not a setting: did you mean PROVISIONER_DATA_DIR?\n"


def test_a_fault_of_ours_names_its_place_without_a_traceback() -> None:
    script = (
        "import broker.__main__ as program\ndef app(**_): raise KeyError('x\\x1b')\nprogram.app = app\nprogram.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=False, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("provisioner: this is a fault of ours, please report it: KeyError('x\\x1b') at ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("text", "secret"), [("one\n", "one"), ("one\r\ntwo\n", "one"), ("a b ", "a b ")])
def test_a_secret_is_the_first_line_of_its_file(tmp_path: Path, text: str, secret: str) -> None:
    file = tmp_path / "key"
    file.write_bytes(text.encode())
    assert read_secret("Key", file) == secret


def test_a_secret_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "long").write_text("x" * 5000)
    (tmp_path / "binary").write_bytes(b"\xff\n")
    for name, sentence in {
        "empty": "Key is empty",
        "long": "Key is longer than 4096 characters",
        "binary": "binary cannot be read: it is not UTF-8 text",
        "none": "none cannot be read: No such file or directory",
    }.items():
        with pytest.raises(Failed, match=sentence):
            read_secret("Key", tmp_path / name)


def test_cells_are_harmless() -> None:
    assert printable("a\x1b[31m\nb") == "a?[31m?b"
    assert (printable(None), printable(True), printable(0)) == ("", "yes", "0")
