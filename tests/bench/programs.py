"""What is measured: the null endpoint and the real program, each a process of its own, and the operator's part.

Everything listens on free loopback ports and is ended by its process id.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import psutil

from broker.beside.setup import Login
from tests.broker.mqtt.serving import contexts
from tests.mosquitto import BRIDGE, Mosquitto, bridge_settings, shipped

_ROOT = Path(__file__).parents[2]
_START_TIME = 60.0
_STOP_TIME = 20.0
_ROUND_TIME = 300.0
_CONNECTIONS = 8


@dataclass(frozen=True)
class Server:
    """A process that listens: the ports and the login devices use, the process, and what the operator needs.

    `samples` is where a sampled one writes the shares of its processor time.
    """

    port: int
    tls_port: int
    login: tuple[str, str]
    process: psutil.Process
    http: str = ""
    token: str = ""
    samples: Path | None = None

    def cpu(self) -> float:
        """Seconds of processor time it has used so far, all threads."""
        times = self.process.cpu_times()
        return times.user + times.system

    @asynccontextmanager
    async def sampling(self) -> AsyncIterator[dict[str, float]]:
        """Sample within the block; afterwards the dict has the shares by phase."""
        shares: dict[str, float] = {}
        assert self.samples
        self.samples.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR1)
        yield shares
        self.process.send_signal(signal.SIGUSR2)
        async with asyncio.timeout(_STOP_TIME):
            while not self.samples.exists():  # noqa: ASYNC110  a file has no event
                await asyncio.sleep(0.01)
        shares |= json.loads(self.samples.read_text())


@asynccontextmanager
async def null_endpoint(folder: Path, *, sampled: bool = False) -> AsyncIterator[Server]:
    """The yardstick, without and with TLS."""
    contexts(folder)
    samples = folder / "samples.json" if sampled else None
    async with _started(*_module("tests.bench.null_endpoint", samples), str(folder)) as (said, process):
        yield Server(said["port"], said["tlsPort"], ("factory", "password"), process, samples=samples)


@asynccontextmanager
async def provisioner(
    folder: Path,
    settings: Mapping[str, str] | None = None,
    *,
    soft_file_limit: int | None = None,
    sampled: bool = False,
) -> AsyncIterator[Server]:
    """The real program on an empty data directory in `folder`, without and with TLS."""
    contexts(folder)
    (folder / "server.key").chmod(0o600)
    environment = {
        "PROVISIONER_DATA_DIR": str(folder / "data"),
        "PROVISIONER_ENDPOINT__LISTEN": "127.0.0.1:0",
        "PROVISIONER_ENDPOINT__TLS_LISTEN": "127.0.0.1:0",
        "PROVISIONER_ENDPOINT__CERTIFICATE": str(folder / "server.pem"),
        "PROVISIONER_ENDPOINT__PRIVATE_KEY": str(folder / "server.key"),
        "PROVISIONER_DEVICE_BROKER__LISTEN": "127.0.0.1:0",
        "PROVISIONER_DEVICE_BROKER__TLS_LISTEN": "127.0.0.1:0",
        "PROVISIONER_DEVICE_BROKER__CERTIFICATE": str(folder / "server.pem"),
        "PROVISIONER_DEVICE_BROKER__PRIVATE_KEY": str(folder / "server.key"),
        "PROVISIONER_HTTP__LISTEN": "127.0.0.1:0",
    } | dict(settings or {})
    samples = folder / "samples.json" if sampled else None
    async with _started(
        *_module("broker", samples), "serve", settings=environment, log=folder / "log", soft_file_limit=soft_file_limit
    ) as (said, process):
        port, tls_port = (int(said[name].rpartition(":")[2]) for name in ("endpoint", "endpointTls"))
        user, password = (folder / "data" / "provision-login").read_text().splitlines()
        token = (folder / "data" / "admin-token").read_text().strip()
        yield Server(port, tls_port, (user, password), process, f"http://{said['http']}", token, samples)


@asynccontextmanager
async def null_bridge(folder: Path) -> AsyncIterator[Server]:
    """The yardstick beside a Mosquitto of its own."""
    devices = Login("factory", "password")
    mosquitto = Mosquitto(folder, shipped(folder, [devices], BRIDGE)).start()
    try:
        arguments = (str(mosquitto.port), BRIDGE.user, BRIDGE.password)
        async with _started("tests.bench.null_bridge", *arguments) as (_, process):
            yield Server(mosquitto.port, 0, (devices.user, devices.password), process)
    finally:
        mosquitto.stop()


@asynccontextmanager
async def bridged(folder: Path) -> AsyncIterator[Server]:
    """The real program on an empty data directory, beside a Mosquitto through which its devices come."""
    data = folder / "data"
    data.mkdir(mode=0o700)
    prepare = (sys.executable, "-m", "broker", "init", "--data-dir", str(data))
    process = await asyncio.create_subprocess_exec(*prepare, cwd=_ROOT, stderr=asyncio.subprocess.DEVNULL)
    if await process.wait():
        raise SystemExit("the data directory cannot be prepared")
    user, password = (data / "provision-login").read_text().splitlines()
    mosquitto = Mosquitto(folder, shipped(folder, [Login(user, password)], BRIDGE)).start()
    try:
        async with provisioner(folder, bridge_settings(mosquitto.port, mosquitto.folder)) as server:
            yield replace(server, port=mosquitto.port)
    finally:
        mosquitto.stop()


def _module(name: str, samples: Path | None) -> tuple[str, ...]:
    return (name,) if samples is None else ("tests.bench.sampled", str(samples), name)


@asynccontextmanager
async def _started(
    module: str,
    *arguments: str,
    settings: dict[str, str] | None = None,
    log: Path | None = None,
    soft_file_limit: int | None = None,
) -> AsyncIterator[tuple[dict[str, Any], psutil.Process]]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PROVISIONER_")}
    # A shell sets the limit and becomes the program: the process id stays.
    limited = () if soft_file_limit is None else ("sh", "-c", f'ulimit -S -n {soft_file_limit}; exec "$@"', "sh")
    with (log or Path(os.devnull)).open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *limited,
            sys.executable,
            "-m",
            module,
            *arguments,
            cwd=_ROOT,
            env=environment | (settings or {}),
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
        )
        try:
            assert process.stdout
            async with asyncio.timeout(_START_TIME):
                line = await process.stdout.readline()
            if not line:
                raise SystemExit(f"{module} does not start\n{_last_words(log)}")
            yield json.loads(line), psutil.Process(process.pid)
        finally:
            await _end(process)


def _last_words(log: Path | None) -> str:
    return log.read_text(errors="replace")[-2000:] if log else ""


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), _STOP_TIME)
        except TimeoutError:
            process.kill()
            await process.wait()


async def make_requests(
    server: Server, count: int, advance: Callable[[], None], kind: str = "password"
) -> list[tuple[str, str]]:
    """Make so many requests through the operator API; returns client ids and activation keys."""
    numbers = iter(range(count))
    made: list[tuple[str, str]] = []
    headers = {"Authorization": f"Bearer {server.token}"}
    async with httpx2.AsyncClient(base_url=server.http, headers=headers, timeout=30, trust_env=False) as http:
        account = (await http.get("/v2/accounts/default")).raise_for_status().json()["id"]

        async def work() -> None:
            for number in numbers:
                body = {
                    "accountId": account,
                    "clientId": f"bench-{kind}-{number:06}",
                    "credentialKind": kind,
                    "provisionUserUsername": server.login[0],
                    "deviceCredentialsTight": "STRICT",
                }
                answer = (await http.post("/v2/provisionRequests", json=body)).raise_for_status().json()
                made.append((answer["clientId"], answer["activationKey"]))
                advance()

        await asyncio.gather(*(work() for _ in range(_CONNECTIONS)))
    return made


async def generate(
    order: dict[str, Any], progress: Callable[[int], None], module: str = "tests.bench.generator"
) -> dict[str, Any]:
    """Run one round in a generator of its own; returns its last word."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        cwd=_ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        limit=2**26,
    )
    try:
        assert process.stdin
        assert process.stdout
        process.stdin.write(json.dumps(order).encode())
        process.stdin.close()
        said: dict[str, Any] = {}
        async with asyncio.timeout(_ROUND_TIME):
            async for line in process.stdout:
                said = json.loads(line)
                if "done" in said:
                    progress(said["done"])
            await process.wait()
        if process.returncode or "done" in said:
            raise SystemExit("the generator ended early")
        return said
    finally:
        await _end(process)
