"""A real Mosquitto for a test: on a free loopback port, in a folder of its own, ended by its process id."""

from __future__ import annotations

import base64
import getpass
import hashlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from broker.beside.setup import BRIDGE_USER, Kind, Login, plan
from tests.programs import needed

_START_TIME = 10.0
_STOP_TIME = 10.0


def free_port() -> int:
    """A port nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Mosquitto:
    """One broker over `folder`; it can be killed and started again on the same port and files.

    `settings` are of its configuration, lines or texts of several, beside listener, user and pid file; `top` goes
    before those. Starting and ending it take a moment, in which nothing else can run.
    """

    def __init__(self, folder: Path, *settings: str, top: str = "") -> None:
        self.folder = folder
        self.port = free_port()
        self.conf = folder / "mosquitto.conf"
        self.log = folder / "mosquitto.log"
        self.pid_file = folder / "mosquitto.pid"
        # It would give its rights away to a user who may not read this folder.
        who = f"user {getpass.getuser()}" if os.geteuid() == 0 else ""
        own = (top, who, "persistence false", "log_dest stderr", f"pid_file {self.pid_file}")
        self.conf.write_text("\n".join((*own, f"listener {self.port} 127.0.0.1", *settings, "")))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"mqtt://127.0.0.1:{self.port}"

    @property
    def address(self) -> tuple[str, int]:
        """The same for sockets."""
        return "127.0.0.1", self.port

    def start(self) -> Self:
        """Start and wait until it takes connections."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen([needed("mosquitto", "mosquitto"), "-c", self.conf], stderr=log)
        limit = time.monotonic() + _START_TIME
        while time.monotonic() < limit and self._process.poll() is None:
            try:
                socket.create_connection(self.address, timeout=1).close()
            except ConnectionRefusedError:
                time.sleep(0.01)  # a program has no event for it
            else:
                return self
        self.kill()
        raise AssertionError(f"Mosquitto does not start:\n{self.log.read_text()[-2000:]}")

    def reload(self) -> None:
        """Have it read its password and ACL files again."""
        assert self._process
        self._process.send_signal(signal.SIGHUP)

    def freeze(self) -> None:
        """Let it take nothing and say nothing any more, with its connections open; `kill` ends that."""
        assert self._process
        self._process.send_signal(signal.SIGSTOP)

    def kill(self) -> None:
        """End it without a chance to tidy up."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it as an init system would."""
        self._end(signal.SIGTERM)

    def restart(self) -> None:
        """Kill it and start it again."""
        self.kill()
        self.start()

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            process.wait(_STOP_TIME)


def password_line(username: str, password: str) -> str:
    """As `mosquitto_passwd` writes it."""
    salt = os.urandom(12)
    key = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 101, 64)
    return f"{username}:$7$101${base64.b64encode(salt).decode()}${base64.b64encode(key).decode()}\n"


DYNSEC_ADMIN = ("provisioner-admin", "a-password-for-control")


def dynsec_lines(folder: Path) -> tuple[str, ...]:
    """Settings of the dynamic security plug-in with a fresh list of its own, which `DYNSEC_ADMIN` may change."""
    [plugin] = Path("/usr/lib").glob("*/mosquitto_dynamic_security.so")
    program = needed("mosquitto_ctrl", "mosquitto")
    file = folder / "dynsec.json"
    subprocess.run([program, "dynsec", "init", str(file), *DYNSEC_ADMIN], check=True, capture_output=True)
    return "per_listener_settings false", f"plugin {plugin}", f"plugin_opt_config_file {file}"


def shipped(folder: Path, logins: Sequence[Login], bridge: Login, root: str = "prov/v1") -> str:
    """Settings for a Mosquitto in `folder`: the templates we ship, as `provisioner broker setup` fills them in."""
    told = plan(Kind.MOSQUITTO, root, bridge, logins[0], os.urandom, folder=str(folder))
    for file in told.files:
        (folder / file.name).write_text(file.text)
    passwords = folder / "provisioner.passwords"
    for login in logins[1:]:
        more = plan(Kind.MOSQUITTO, root, bridge, login, os.urandom, folder=str(folder))
        passwords.write_text(passwords.read_text() + more.files[2].text.splitlines()[1] + "\n")
    conf = (folder / "provisioner.conf").read_text()
    return "".join(f"{line}\n" for line in conf.splitlines() if not line.startswith("listener "))


BRIDGE = Login(BRIDGE_USER, "the-bridge-password-9")
"""Who the bridge is at a broker of the tests."""


def bridge_settings(port: int, folder: Path, bridge: Login = BRIDGE) -> dict[str, str]:
    """The environment that has a program serve the bridge at the broker on this port; its login is kept in `folder`."""
    file = folder / "bridge-login"
    file.touch(mode=0o600)
    file.write_text(f"{bridge.user}\n{bridge.password}\n")
    return {"PROVISIONER_BRIDGE__URL": f"mqtt://127.0.0.1:{port}", "PROVISIONER_BRIDGE__LOGIN_FILE": str(file)}
