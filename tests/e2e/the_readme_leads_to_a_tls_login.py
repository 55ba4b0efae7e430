"""The README's section on certificates, command by command, with nothing changed but the ports."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.program import ROOT
from tests.mosquitto import free_port
from tests.programs import needed

TITLE = "## A certificate instead of a password"
PATIENCE = 60.0
PORTS = ("1884", "8884", "8883", "1885")
PROVISIONER = '#!/bin/sh\nexec "{python}" -m broker "$@"\n'


@pytest.fixture
def blocks() -> list[str]:
    """The commands of the section, a block each, on ports that are free."""
    section = (ROOT / "README.md").read_text().partition(TITLE)[2].partition("\n## ")[0]
    found = re.findall(r"^```\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    ports = {port: str(free_port()) for port in PORTS}
    return [re.sub(r"\b(1884|8884|8883|1885)\b", lambda port: ports[port[0]], block) for block in found]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A shell's, in which `provisioner` is this one; the listeners that the section does not use get free ports."""
    for program, package in (("mosquitto", "mosquitto"), ("mosquitto_rr", "mosquitto-clients"), ("openssl", "openssl")):
        needed(program, package)
    command = tmp_path / "bin" / "provisioner"
    command.parent.mkdir()
    command.write_text(PROVISIONER.format(python=sys.executable))
    command.chmod(0o755)
    clean = {name: value for name, value in os.environ.items() if not name.startswith("PROVISIONER_")}
    return clean | {
        "PATH": f"{command.parent}:{clean['PATH']}:/usr/sbin",
        "PYTHONPATH": str(ROOT),
        "PROVISIONER_ENDPOINT__LISTEN": "127.0.0.1:0",
        "PROVISIONER_HTTP__LISTEN": "127.0.0.1:0",
    }


class Shell:
    """Somebody who follows the README in a folder."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.environment = environment

    def run(self, script: str, *, fails: bool = False) -> str:
        """Run a block to its end."""
        done = subprocess.run(
            ["bash", "-euc", script], cwd=self.folder, env=self.environment, capture_output=True, text=True,
            timeout=PATIENCE, check=False, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert (done.returncode != 0) is fails, f"{script}\n{done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    @contextmanager
    def terminal(self, script: str, until: str) -> Iterator[None]:
        """A block that stays, in a terminal of its own; it is there once it said `until`."""
        log = self.folder / f"{script.split(maxsplit=1)[0]}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-euc", f"exec {script}"], cwd=self.folder, env=self.environment, stdout=output,
                stderr=output, stdin=subprocess.DEVNULL,
            )  # fmt: skip
            try:
                limit = time.monotonic() + PATIENCE
                while until not in log.read_text():
                    assert process.poll() is None, log.read_text()
                    assert time.monotonic() < limit, log.read_text()
                    time.sleep(0.05)  # a file has nothing to wait for
                yield
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(PATIENCE)


def test_a_device_with_a_shell_gets_from_csr_to_login(
    blocks: list[str], environment: dict[str, str], tmp_path: Path
) -> None:
    once, serve, mosquitto, device = blocks
    folder = tmp_path / "walk"
    folder.mkdir()
    shell = Shell(folder, environment)
    shell.run(once)
    with shell.terminal(serve, '"event": "ready"'), shell.terminal(mosquitto, "running"):
        assert '"reason":"confirmed"' in shell.run(device).replace(" ", "")
        show = "provisioner --config provisioner.toml request show pump-7"
        assert "CONFIRMED" in shell.run(show)
        works = next(line for line in device.splitlines() if line.startswith("mosquitto_pub"))
        shell.run(works)
        shell.run("provisioner request revoke pump-7")
        limit = time.monotonic() + PATIENCE
        while "STOPPED" not in shell.run(show):
            assert time.monotonic() < limit
        shell.run(works, fails=True)
