"""
The real program as a subprocess, and an operator at its HTTP door.

1. A `Program` is started as its users start it, `python -m broker serve` with settings in the environment, and ended by
   its process id.
2. Its output is read to the end. A traceback, a forgotten task or a secret in it fails the test that stops it.
3. An `Operator` holds no rule of the program: it fills in forms and checks that they were taken.
"""

import asyncio
import itertools
import json
import os
import queue
import secrets
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

import httpx2

from tests.e2e.independent import IndependentDevice, Mode, Version, Wire
from tests.e2e.packets import Address
from tests.e2e.secret_hunt import files, left

ROOT = Path(__file__).parents[2]
START_PATIENCE = 60.0
STOP_PATIENCE = 20.0
ALARMS = (
    "Traceback (most recent call last)", "Task was destroyed", "was never awaited", "was never retrieved",
    "ResourceWarning", "Unclosed", "Fatal Python error", '"exc_type"',
)  # fmt: skip
FLOOR_USER, FLOOR_PASSWORD = "factory-floor", "the-line-password-7"

# Nothing here speaks TLS, and without this every client would load the certificate store anew: longer than most tests.
_NO_CERTIFICATES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

_names = itertools.count(1)
_sources = itertools.count(0)


def fresh_name(kind: str = "dev") -> str:
    """A client id or account name nobody used before in this run."""
    return f"{kind}-{next(_names)}-{secrets.token_hex(3)}"


def fresh_mac() -> str:
    """A MAC address nobody used before in this run: one unit has one open request."""
    return ":".join(f"{byte:02X}" for byte in (0x02, *secrets.token_bytes(5)))


def fresh_source() -> str:
    """A loopback address of one's own: what others did wrong is then counted elsewhere."""
    number = next(_sources)
    return f"127.{1 + number // 60000}.{number // 250 % 240}.{1 + number % 250}"


def _address(value: str) -> Address:
    host, _, port = value.rpartition(":")
    return host.strip("[]"), int(port)


class Program:
    """One provisioner with its data directory; it can be ended and started again on it."""

    def __init__(
        self,
        data: Path,
        settings: Mapping[str, str] | None = None,
        command: Sequence[str] = ("-m", "broker", "serve"),
    ) -> None:
        self.data = data
        self.command = command
        self.settings = dict(settings or {})
        self.secrets: set[str] = set()
        """Whatever must not be printed."""
        self.ready: dict[str, Any] = {}
        self.accounts: dict[str, int] = {}
        self.output: list[str] = []
        self.errors: list[str] = []
        self._process: subprocess.Popen[str] | None = None
        self._readers: list[threading.Thread] = []

    def __repr__(self) -> str:
        return f"Program({self.ready})"

    @property
    def endpoint(self) -> Address:
        """Where fresh devices go."""
        return _address(self.ready["endpoint"])

    @property
    def device_broker(self) -> Address:
        """Where provisioned devices work."""
        return _address(self.ready["deviceBroker"])

    @property
    def http(self) -> str:
        """The base of the operator API."""
        return f"http://{self.ready['http']}"

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        assert self._process
        return self._process.pid

    @property
    def token(self) -> str:
        """The administrator's token."""
        token = (self.data / "admin-token").read_text().strip()
        self.secrets.add(token)
        return token

    def prepare(self) -> tuple[str, str]:
        """Do what the first start does, and return the provisioning login it made."""
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        command = [sys.executable, "-m", "broker", "init", "--data-dir", str(self.data)]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=START_PATIENCE)
        user, password = (self.data / "provision-login").read_text().split("\n")[:2]
        self.secrets.add(password)
        return user, password

    def start(self) -> Self:
        """Start and wait for the ready line."""
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("PROVISIONER_", "COVERAGE_", "PYTEST_"))
        }
        environment |= {
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "PROVISIONER_DATA_DIR": str(self.data),
            "PROVISIONER_ENDPOINT__LISTEN": "127.0.0.1:0",
            "PROVISIONER_DEVICE_BROKER__LISTEN": "127.0.0.1:0",
            "PROVISIONER_HTTP__LISTEN": "127.0.0.1:0",
        }
        self._process = subprocess.Popen(
            [sys.executable, *self.command],
            cwd=self.data.parent,
            env=environment | self.settings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        lines: queue.Queue[str | None] = queue.Queue()
        assert self._process.stdout
        assert self._process.stderr
        self._readers = [
            threading.Thread(target=_drain, args=(self._process.stdout, self.output, lines), daemon=True),
            threading.Thread(target=_drain, args=(self._process.stderr, self.errors, None), daemon=True),
        ]
        for reader in self._readers:
            reader.start()
        try:
            self.ready = self._await_ready(lines)
        except BaseException:
            self.kill()
            raise
        return self

    def _await_ready(self, lines: "queue.Queue[str | None]") -> dict[str, Any]:
        limit = time.monotonic() + START_PATIENCE
        while True:
            try:
                line = lines.get(timeout=max(0.0, limit - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                raise AssertionError("the program does not get ready:\n" + "".join(self.output + self.errors))
            try:
                said = json.loads(line)
            except ValueError:
                continue
            if isinstance(said, dict) and said.get("event") == "ready":
                return said

    def kill(self) -> None:
        """End it without a chance to tidy up."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it as an init system would, and look at what it said in its life."""
        code = self._end(signal.SIGTERM)
        said = "".join(self.output + self.errors)
        assert code == 0, f"exit code {code}:\n{said[-4000:]}"
        alarms = [line[:2000] for line in self.output + self.errors if any(alarm in line for alarm in ALARMS)]
        assert not alarms, "alarming lines in the output:\n" + "".join(alarms[:5])
        places = [("the output", said.encode()), *files(self.data)]
        assert (found := left(self.secrets, places)) == [], f"a secret in {', '.join(found)}"

    def _end(self, how: signal.Signals) -> int | None:
        if self._process is None:
            return 0
        process, self._process = self._process, None
        process.send_signal(how)
        try:
            code = process.wait(STOP_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            code = None
        for reader in self._readers:
            reader.join(STOP_PATIENCE)
        for stream in (process.stdout, process.stderr):
            if stream:
                stream.close()
        return code


def _drain(stream: IO[str], kept: list[str], lines: "queue.Queue[str | None] | None") -> None:
    for line in stream:
        kept.append(line)
        if lines is not None:
            lines.put(line)
    if lines is not None:
        lines.put(None)


StartProgram = Callable[..., Program]
"""Starts a program of one's own, with further settings if given."""


class Operator:
    """Somebody with a token at the operator API. Close it after use."""

    def __init__(self, program: Program, token: str | None = None) -> None:
        self.program = program
        headers = {"Authorization": f"Bearer {token or program.token}"}
        self.http = httpx2.AsyncClient(
            base_url=program.http, headers=headers, timeout=20, trust_env=False, verify=_NO_CERTIFICATES
        )

    async def close(self) -> None:
        """Close the connections."""
        await self.http.aclose()

    async def ask(self, method: str, path: str, wanted: tuple[int, ...] = (200, 201, 202, 204), **more: Any) -> Any:
        """Send a request, insist on one of the wanted statuses and return the JSON of the answer, if there is any."""
        answer = await self.http.request(method, path, **more)
        assert answer.status_code in wanted, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    async def account(self, name: str, kind: str = "TARGET") -> int:
        """Make an account and return its id."""
        return int((await self.ask("POST", "/v2/accounts", json={"name": name, "kind": kind}))["id"])


@dataclass
class Request:
    """A ProvisionRequest from the operator's side."""

    operator: Operator
    id: int
    key: str
    client_id: str
    created: dict[str, Any]

    @property
    def path(self) -> str:
        """Where it is."""
        return f"/v2/provisionRequests/{self.id}"

    async def read(self) -> dict[str, Any]:
        """What it says now."""
        return dict(await self.operator.ask("GET", self.path))

    async def phase(self) -> str:
        """Its phase."""
        return str((await self.read())["phase"])

    async def job(self) -> dict[str, Any]:
        """Its ProvisionJob."""
        return dict((await self.read())["provisionJob"])

    async def tell(self, verb: str, wanted: tuple[int, ...] = (200, 201, 202, 204)) -> None:
        """Say enable, disable, reopen, stop, revoke or rotate."""
        await self.operator.ask("POST", f"{self.path}/{verb}", wanted)

    async def change(self, **fields: Any) -> dict[str, Any]:
        """PUT with the current optlock."""
        now = await self.read()
        return dict(await self.operator.ask("PUT", self.path, json={"optlock": now["optlock"]} | fields))

    async def until(self, *phases: str, patience: float = 10.0) -> dict[str, Any]:
        """Look until it is in one of the phases; HTTP has nothing to wait for."""
        limit = time.monotonic() + patience
        while (now := await self.read())["phase"] not in phases:
            assert time.monotonic() < limit, f"phase {now['phase']} instead of {phases}"
            await asyncio.sleep(0.02)
        return now


@dataclass
class Site:
    """A program, its operator and the devices of a test."""

    program: Program
    operator: Operator
    devices: list[IndependentDevice] = field(default_factory=list)
    through: Address | None = None
    """Another's broker that devices claim through, instead of at the endpoint."""

    @classmethod
    async def at(cls, program: Program) -> Self:
        """Go to a running program."""
        return cls(program, Operator(program))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close every connection that was opened through here."""
        for device in self.devices:
            await device.close()
            self.program.secrets |= device.passwords
        await self.operator.close()

    async def account(self, name: str) -> int:
        """The id of a target account; made when it is asked for first."""
        known = self.program.accounts
        if name not in known:
            known[name] = await self.operator.account(name)
        return known[name]

    async def request(self, client_id: str | None = None, account: str = "north", **fields: Any) -> Request:
        """Prepare a request, with a generated key unless `fields` say otherwise."""
        client_id = client_id or fresh_name()
        body = await self.form(client_id, account) | fields
        created = await self.operator.ask("POST", "/v2/provisionRequests", json=body)
        key = created.get("activationKey") or fields.get("activationKey", "")
        self.program.secrets |= {key, FLOOR_PASSWORD} - {""}
        return Request(self.operator, created["id"], key, client_id, created)

    async def form(self, client_id: str, account: str = "north") -> dict[str, Any]:
        """What a request needs at least."""
        return {
            "accountId": await self.account(account),
            "clientId": client_id,
            "provisionUserUsername": FLOOR_USER,
            "provisionUserPassword": FLOOR_PASSWORD,
            "generateActivationKey": True,
            "provisionSecureURL": False,
            "deviceCredentialsTight": "STRICT",
        }

    def device(
        self,
        client_id: str,
        key: str,
        *,
        mode: Mode = "proof",
        version: Version = 4,
        wire: Wire = "json",
        source: str | None = None,
    ) -> IndependentDevice:
        """A device that was flashed with this key."""
        device = IndependentDevice(
            lambda: self.through or self.program.endpoint,
            FLOOR_USER,
            FLOOR_PASSWORD,
            client_id,
            key,
            mode=mode,
            version=version,
            wire=wire,
            source=source or fresh_source(),
        )
        self.devices.append(device)
        return device

    async def unit(
        self,
        *,
        mode: Mode = "proof",
        version: Version = 4,
        wire: Wire = "json",
        account: str = "north",
        **fields: Any,
    ) -> tuple[IndependentDevice, Request]:
        """Prepare a request and the device it is for."""
        request = await self.request(account=account, **fields)
        return self.device(request.client_id, request.key, mode=mode, version=version, wire=wire), request

    async def confirmed(self, **fields: Any) -> tuple[IndependentDevice, Request, dict[str, Any]]:
        """Prepare a device, hand its credential over and confirm it by ack."""
        device, request = await self.unit(**fields)
        offer = await device.provision()
        assert (await device.ack("stored", offer.generation)).reason == "confirmed"
        return device, request, offer.credentials
