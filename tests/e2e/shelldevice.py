"""A device made of other people's programs: openssl, mosquitto_rr and mosquitto_pub, over TLS."""

from __future__ import annotations

import json
import queue
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from tests.e2e.packets import Address
from tests.e2e.program import Program, Request, _address
from tests.programs import needed

PATIENCE = 30.0


def ran(*words: str | Path, code: int | None = 0) -> str:
    """Run a program to its end and return what it printed; `code` None: whatever its exit code is."""
    done = subprocess.run(
        [needed(str(words[0]), str(words[0])), *map(str, words[1:])],
        capture_output=True, text=True, timeout=PATIENCE, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert code is None or done.returncode == code, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def endpoint_tls(program: Program) -> Address:
    """Where devices claim with TLS."""
    return _address(program.ready["endpointTls"])


def device_broker_tls(program: Program) -> Address:
    """Where devices work with TLS."""
    return _address(program.ready["deviceBrokerTls"])


class Listening:
    """A paho client that subscribed to its own topics and does not come back once it is thrown out."""

    def __init__(self, device: ShellDevice, chain: Path, key: Path, address: Address | None = None) -> None:
        self.client = paho.Client(CallbackAPIVersion.VERSION2, device.client_id, reconnect_on_failure=False)
        self.client.tls_set(str(device.trusted), str(chain), str(key))
        subscribed: queue.Queue[object] = queue.Queue()
        self._gone: queue.Queue[object] = queue.Queue()
        self.heard: list[bytes] = []
        self.client.on_message = lambda _client, _data, message: self.heard.append(message.payload)
        self.client.on_subscribe = lambda *_: subscribed.put(None)
        self.client.on_disconnect = lambda *_: self._gone.put(None)
        self.client.connect(*(address or device_broker_tls(device.program)))
        self.client.loop_start()
        self.client.subscribe(f"default/{device.client_id}/#", 1)
        subscribed.get(timeout=PATIENCE)

    def is_there(self) -> bool:
        """Whether the session has lasted."""
        return self._gone.empty()

    def leave(self) -> None:
        """End it."""
        self.client.disconnect()
        self.client.loop_stop()

    def thrown_out(self) -> None:
        """Wait until the broker ended the session."""
        self._gone.get(timeout=PATIENCE)
        self.client.loop_stop()


@dataclass
class ShellDevice:
    """One device with its folder; `use` numbers the certificate that it shows."""

    folder: Path
    program: Program
    client_id: str
    trusted: Path
    user: str = "factory"
    offers: list[dict[str, Any]] = field(default_factory=list)
    request: Request = field(init=False)

    def make_key(self, number: int) -> Path:
        """A key of its own, and a CSR for it."""
        key, csr = self.path(number, "key"), self.path(number, "csr")
        ran("openssl", "ecparam", "-genkey", "-name", "prime256v1", "-noout", "-out", key)
        ran("openssl", "req", "-new", "-key", key, "-subj", f"/CN={self.client_id}", "-out", csr)
        return csr

    def path(self, number: int, kind: str) -> Path:
        """Its files."""
        return self.folder / f"{self.client_id}.{number}.{kind}".replace(":", "-")

    def ask(self, what: dict[str, Any], kind: str = "request", use: int | None = None) -> dict[str, Any]:
        """Send a claim or an ack and return the reply; logged in with certificate `use`, else with the shared login."""
        host, port = endpoint_tls(self.program)
        base = f"prov/v1/{self.user}/{self.client_id}"
        password = (self.program.data / "provision-login").read_text().splitlines()[1]
        self.program.secrets.add(password)
        login = ["-u", self.user, "-P", password] if use is None else self._shown(use)
        told = ran(
            "mosquitto_rr", "-h", host, "-p", str(port), "--cafile", self.trusted, "-i", self.client_id, *login,
            "-q", "1", "-W", "10", "-t", f"{base}/{kind}", "-e", f"{base}/reply", "-m", json.dumps(what),
        )  # fmt: skip
        return dict(json.loads(told))

    def claim(self, number: int, key: str | None = None, use: int | None = None) -> dict[str, Any]:
        """Claim a certificate on key `number`; what was offered is stored."""
        claim = {"requestId": f"r-{number}", "csr": self.path(number, "csr").read_text()}
        reply = self.ask(claim | ({} if key is None else {"activationKey": key}), use=use)
        if reply["reason"] == "offer":
            self.path(number, "crt").write_text(reply["credentials"]["certificate"])
            self.offers.append(reply)
        return reply

    def ack(self, number: int, generation: int, key: str | None = None, use: int | None = None) -> dict[str, Any]:
        """Tell that it is stored."""
        ack = {"requestId": f"r-{number}", "generation": generation, "result": "stored"}
        return self.ask(ack | ({} if key is None else {"activationKey": key}), "ack", use)

    def works(self, number: int, client_id: str | None = None, address: Address | None = None) -> bool:
        """Whether a message published with certificate `number` is taken where devices work."""
        host, port = address or device_broker_tls(self.program)
        name = client_id or self.client_id
        words = [
            needed("mosquitto_pub", "mosquitto-clients"), "-h", host, "-p", str(port), "--cafile", self.trusted,
            *self._shown(number), "-i", name, "-q", "1", "-t", f"default/{name}/hello", "-m", "hi",
        ]  # fmt: skip
        return subprocess.run(words, capture_output=True, timeout=PATIENCE, check=False).returncode == 0

    def listens(self, number: int, address: Address | None = None) -> Listening:
        """A session that stays, with certificate `number`."""
        return Listening(self, self.path(number, "crt"), self.path(number, "key"), address)

    def _shown(self, number: int) -> list[str | Path]:
        return ["--cert", self.path(number, "crt"), "--key", self.path(number, "key")]
