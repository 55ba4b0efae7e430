"""docs/events.md, executed: its receiver, its settings and commands, and what it says is printed."""

import os
import queue
import re
import shlex
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.broker.sinks.receiver import SECRET
from tests.e2e.program import ROOT, Program, StartProgram

PAGE = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")


def block(language: str, containing: str) -> str:
    """The fenced block in this language that has a text in it."""
    found = re.findall(r"(?ms)^```(\w*)\n(.*?)^```$", PAGE)
    return str(next(text for written, text in found if written == language and containing in text))


@contextmanager
def documented_receiver(secret_file: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, "queue.Queue[str]"]]:
    """The receiver of the page; only the port is one that is free, and its lines go to a queue."""
    printed: queue.Queue[str] = queue.Queue()
    space: dict[str, Any] = {"print": lambda *words, flush: printed.put(" ".join(words))}
    monkeypatch.setattr(sys, "argv", ["receiver.py", str(secret_file), "0"])
    text, serve = block("python", "class Receiver").rstrip().rsplit("\n", 1)
    assert re.fullmatch(r"HTTPServer\(.*, Receiver\)\.serve_forever\(\)", serve)
    exec(compile(text, "receiver.py", "exec"), space)
    server = HTTPServer(("127.0.0.1", 0), space["Receiver"])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_port, printed
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    file = tmp_path / "webhook.secret"
    file.touch(0o600)
    file.write_text(SECRET + "\n")
    return file


def run(program: Program, line: str) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PROVISIONER_")}
    done = subprocess.run(
        [sys.executable, "-m", "broker", *shlex.split(line)[1:], "--data-dir", str(program.data)],
        cwd=program.data.parent,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # a script of twenty lines leaves that to its end
def test_the_worked_example_prints_what_it_says(
    start_program: StartProgram, secret_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = block("sh", "WEBHOOK_URL").splitlines()
    exported = dict(line.removeprefix("export ").split("=", 1) for line in lines if line.startswith("export "))
    with documented_receiver(secret_file, monkeypatch) as (port, printed):
        exported["PROVISIONER_EVENTS__WEBHOOK_URL"] = exported["PROVISIONER_EVENTS__WEBHOOK_URL"].replace(
            ":9000", f":{port}"
        )
        exported["PROVISIONER_EVENTS__WEBHOOK_SECRET_FILE"] = str(secret_file)
        program = start_program(exported)
        for line in lines:
            if line.startswith("provisioner ") and not line.endswith("&"):
                run(program, line)
        expected = block("", "RecipeCreated Pending").splitlines()
        assert [printed.get(timeout=20) for _ in expected] == expected


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_the_documented_receiver_refuses_what_is_not_signed(secret_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with documented_receiver(secret_file, monkeypatch) as (port, printed):
        for timestamp in ("1800000000", "1"):
            headers = {"webhook-id": "0" * 32, "webhook-timestamp": timestamp, "webhook-signature": "v1,AAAA v1,x"}
            request = urllib.request.Request(f"http://127.0.0.1:{port}/", b"{}", headers)  # loopback
            with pytest.raises(urllib.error.HTTPError) as caught:
                urllib.request.urlopen(request, timeout=10)
            assert caught.value.code == 401
            caught.value.close()
        assert printed.empty()
