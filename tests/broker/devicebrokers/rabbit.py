"""A real RabbitMQ on loopback with MQTT, management and the HTTP authentication backend; slow to start, so shared."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from pathlib import Path

import httpx2

from tests.mosquitto import free_port
from tests.programs import needed

START_PATIENCE = 150.0
ADMIN = ("admin", "admin-password")
SECRET = "the-shared-secret-of-the-webhook"
_SERVER = "/usr/lib/rabbitmq/bin/rabbitmq-server"


class Rabbit:
    """One node over `folder`. Users of its own database get in, and those of the webhook at `webhook_port`."""

    def __init__(self, folder: Path, *, asks: bool) -> None:
        needed("rabbitmq-server", "rabbitmq-server")
        self.folder = folder
        self.port, self.management_port, self.webhook_port = free_port(), free_port(), free_port()
        self._epmd: subprocess.Popen[bytes] | None = None
        self._node: subprocess.Popen[bytes] | None = None
        self._log = folder / "rabbitmq.log"
        epmd_port = free_port()
        self._environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(epmd_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"node{epmd_port}@localhost",
            "RABBITMQ_DIST_PORT": str(free_port()),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_LOGS": "-",
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none",
        }
        plugins = "rabbitmq_mqtt,rabbitmq_management" + (",rabbitmq_auth_backend_http" if asks else "")
        (folder / "plugins").write_text(f"[{plugins}].\n")
        (folder / "rabbitmq.conf").write_text("\n".join([*self._lines(), *(self._asking() if asks else ())]) + "\n")

    def _lines(self) -> list[str]:
        return [
            "listeners.tcp = none",
            f"mqtt.listeners.tcp.1 = 127.0.0.1:{self.port}",
            "mqtt.allow_anonymous = false",
            "management.tcp.ip = 127.0.0.1",
            f"management.tcp.port = {self.management_port}",
            "loopback_users = none",
            f"default_user = {ADMIN[0]}",
            f"default_pass = {ADMIN[1]}",
            "default_user_tags.administrator = true",
            "log.console.level = warning",
        ]

    def _asking(self) -> list[str]:
        where = f"http://127.0.0.1:{self.webhook_port}/plant/{SECRET}"
        return [
            "auth_backends.1 = http",
            "auth_backends.2 = internal",
            "auth_http.http_method = post",
            *(f"auth_http.{call}_path = {where}/{call}" for call in ("user", "vhost", "resource", "topic")),
        ]

    @property
    def api(self) -> str:
        """Base of the management API."""
        return f"http://127.0.0.1:{self.management_port}"

    async def start(self) -> None:
        """Start the node and wait until its management answers."""
        self._spawn()
        async with asyncio.timeout(START_PATIENCE), httpx2.AsyncClient(auth=ADMIN, trust_env=False) as http:
            while True:
                with contextlib.suppress(httpx2.HTTPError):
                    answer = await http.get(f"{self.api}/api/overview")
                    if answer.status_code == 200 and any(
                        one["protocol"] == "mqtt" for one in answer.json().get("listeners", [])
                    ):
                        return
                assert self._node is not None
                assert self._node.poll() is None, self._log.read_text()
                await asyncio.sleep(0.05)

    async def define(self, definitions: str) -> None:
        """Take these definitions (JSON) beside those it has."""
        async with httpx2.AsyncClient(auth=ADMIN, trust_env=False) as http:
            headers = {"content-type": "application/json"}
            answer = await http.post(f"{self.api}/api/definitions", content=definitions, headers=headers)
            assert answer.status_code == 204, answer.text

    def _spawn(self) -> None:
        with self._log.open("ab") as log:
            if self._epmd is None:
                epmd = needed("epmd", "erlang-base")
                self._epmd = subprocess.Popen([epmd], env=self._environment, stdout=log, stderr=log)
            self._node = subprocess.Popen(
                [_SERVER],
                env=self._environment,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    async def kill(self) -> None:
        """End the node without a chance to tidy up; the group has no other process than those of this node."""
        if self._node is not None:
            node, self._node = self._node, None
            os.killpg(node.pid, signal.SIGKILL)
            await asyncio.to_thread(node.wait)

    async def stop(self) -> None:
        """End the node as an init system would."""
        if self._node is not None:
            node, self._node = self._node, None
            node.terminate()
            await asyncio.to_thread(node.wait)

    async def restart(self) -> None:
        """Kill it and start it again."""
        await self.kill()
        await self.start()

    async def end(self) -> None:
        """End everything that was started."""
        await self.kill()
        if self._epmd is not None:
            self._epmd.kill()
            await asyncio.to_thread(self._epmd.wait)

    @property
    def is_alive(self) -> bool:
        """Whether its process runs."""
        return self._node is not None and self._node.poll() is None
