"""A real Mosquitto on loopback, started and ended by the test that needs it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import getpass
import hashlib
import os
import socket
import subprocess
from pathlib import Path

from tests.programs import needed

PATIENCE = 15.0
DYNSEC_ADMIN = ("provisioner-admin", "a-password-for-control")


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def password_line(username: str, password: str) -> str:
    """As `mosquitto_passwd` writes it."""
    salt = os.urandom(12)
    key = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, 101, 64)
    return f"{username}:$7$101${base64.b64encode(salt).decode()}${base64.b64encode(key).decode()}\n"


def dynsec_lines(folder: Path) -> tuple[str, ...]:
    """Configuration of the dynamic security plug-in with a fresh list of its own, which `DYNSEC_ADMIN` may change."""
    [plugin] = Path("/usr/lib").glob("*/mosquitto_dynamic_security.so")
    program = needed("mosquitto_ctrl", "mosquitto")
    file = folder / "dynsec.json"
    subprocess.run([program, "dynsec", "init", str(file), *DYNSEC_ADMIN], check=True, capture_output=True)
    return "per_listener_settings false", f"plugin {plugin}", f"plugin_opt_config_file {file}"


class Mosquitto:
    """One broker over `folder`; `lines` are its configuration beside listener, user and pid file, `top` goes first."""

    def __init__(self, folder: Path, *lines: str, top: str = "") -> None:
        self.program = needed("mosquitto", "mosquitto")
        self.folder = folder
        self.port = free_port()
        self.pid_file = folder / "mosquitto.pid"
        self._process: subprocess.Popen[bytes] | None = None
        self._log = folder / "mosquitto.log"
        self._file = folder / "mosquitto.conf"
        own = (
            top,
            f"listener {self.port} 127.0.0.1",
            f"user {getpass.getuser()}",
            f"pid_file {self.pid_file}",
            "allow_anonymous false",
            "persistence false",
        )
        self._file.write_text("\n".join((*own, *lines)) + "\n")

    async def start(self) -> None:
        """Start it and wait until it listens."""
        process = self._spawn()
        async with asyncio.timeout(PATIENCE):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.close()
                    return
                assert process.poll() is None, self._log.read_text()
                await asyncio.sleep(0.01)

    def _spawn(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen([self.program, "-c", str(self._file)], stdout=log, stderr=log)
        return self._process

    async def kill(self) -> None:
        """End it without a chance to tidy up."""
        if self._process is not None:
            process, self._process = self._process, None
            process.kill()
            await asyncio.to_thread(process.wait)

    async def stop(self) -> None:
        """End it as an init system would."""
        if self._process is not None:
            process, self._process = self._process, None
            process.terminate()
            await asyncio.to_thread(process.wait)

    async def restart(self) -> None:
        """Kill it and start it again."""
        await self.kill()
        await self.start()

    @property
    def is_alive(self) -> bool:
        """Whether its process runs."""
        return self._process is not None and self._process.poll() is None
