"""Plays the device's part of a transcript to a server, and tells where its answers differ from the recorded ones.

1. What was redacted is made anew from the identity at hand: nonces, proofs, keys. requestIds are fresh as well, the
   same one wherever the transcript has the same one, so that a transcript can be played any number of times.
2. Two answers are alike if they have the same members, and the same value in those the contract decides on
   (`_DECIDING`); names, times, texts and numbers of this installation may differ.
3. It ends at the first step that cannot be played, and says so: a difference like any other.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Mapping
from typing import Any, Final

from broker.fleet import keys
from broker.fleet.actions import Identity
from broker.fleet.keys import Keys, NotForUs, OpeningKey, encode64
from broker.fleet.link import Link, Login, Lost, Refused
from broker.fleet.replies import Credential, Unreadable, parse_offer, parse_url, read_map, write_map
from broker.fleet.transcript import Step, Transcript
from broker.fleet.unit import Endpoint, trusting
from broker.mqtt.packets import V311

_DECIDING: Final = frozenset({"code", "reason", "alg", "forget", "confirm", "type", "coupling", "supported"})
_NAMING: Final = frozenset({"requestId", "nonce"})
_DECORATION: Final = frozenset({"detail"})  # the first thing to go in a refusal that grew too long

_REFUSED: Final = 0x80


class Replay:
    """One performance. `differences` are sentences, one each, in the order of the steps; empty: as recorded."""

    def __init__(
        self, transcript: Transcript, identity: Identity, endpoint: Endpoint, *, root: str = "prov/v1"
    ) -> None:
        self.differences: list[str] = []
        self.answers = 0
        """How many steps of the server were compared."""
        self._transcript, self._identity, self._endpoint = transcript, identity, endpoint
        self._root = f"{root}/{identity.user}/{identity.client_id}/"
        self._keys = Keys.derive(identity.activation_key.encode(), identity.user, identity.client_id)
        self._opening_key = OpeningKey(secrets.token_bytes(32))
        self._fresh: dict[str, str] = {}
        self._links: dict[str, Link] = {}
        self._code = 0
        self._credential: Credential | None = None

    async def run(self, *, patience: float = 15.0) -> None:
        """Play it; each step gets `patience` seconds."""
        steps = self._transcript.steps
        try:
            for number, step in enumerate(steps, 1):
                try:
                    async with asyncio.timeout(patience):
                        await (self._perform(step) if step.sender == "device" else self._compare(number, step))
                except (TimeoutError, Lost, NotForUs, Unreadable, _Stuck) as error:
                    why = str(error) or f"nothing within {patience:g} s"
                    self.differences.append(f"step {number}, {step.packet}, cannot be played: {why}")
                    return
        finally:
            for on in tuple(self._links):
                await self._hang_up(on)

    # The device's part -------------------------------------------------------------------------------------------

    async def _perform(self, step: Step) -> None:
        match step.packet:
            case "CONNECT":
                await self._hang_up(step.on)
                await (self._connect() if step.on == "provisioning" else self._log_in())
            case "SUBSCRIBE":
                try:
                    await self._link(step).subscribe(self._root + "reply")
                    self._code = 1
                except Refused as error:
                    self._code = error.code
            case "PUBLISH":
                topic = str(step.said.get("topic"))
                body = self._written(topic, step.body)
                self._link(step).publish(self._root + topic, write_map(body, self._transcript.encoding))
            case _:
                await self._hang_up(step.on)

    async def _connect(self) -> None:
        identity, endpoint = self._identity, self._endpoint
        login = Login(identity.client_id, identity.user, identity.password)
        await self._open("provisioning", Link.open(endpoint.address, login, version=endpoint.version, tls=endpoint.tls))

    async def _log_in(self) -> None:
        credential = self._credential
        if credential is None:
            raise _Stuck("there was no offer")
        login = Login(credential.client_id, credential.username, credential.password)
        address = parse_url(credential.url)
        tls = trusting(credential) if address.tls else None
        await self._open("issued", Link.open(address, login, version=V311, tls=tls))

    async def _open(self, on: str, opening: Awaitable[Link]) -> None:
        try:
            self._links[on] = await opening
            self._code = 0
        except Refused as error:
            self._code = error.code

    async def _hang_up(self, on: str) -> None:
        link = self._links.pop(on, None)
        if link is not None:
            await link.close()

    def _link(self, step: Step) -> Link:
        link = self._links.get(step.on)
        if link is None:
            raise _Stuck("there is no connection")
        return link

    def _written(self, topic: str, recorded: Mapping[str, Any]) -> dict[str, Any]:
        """The recorded message with everything redacted made anew."""
        body = dict(recorded)
        if "csr" in body:
            raise _Stuck("a certificate request is not played")
        request_id = body["requestId"] = self._anew(str(body.get("requestId")), "r-" + secrets.token_hex(4))
        if "activationKey" in body:
            body["activationKey"] = self._identity.activation_key
        if "sealTo" in body:
            body["sealTo"] = self._opening_key.public
        if topic == "ack" and self._credential is not None:
            body["generation"] = self._credential.generation
        if "nonce" in body:
            nonce = body["nonce"] = self._anew(str(body["nonce"]), encode64(secrets.token_bytes(16)))
            body["proof"] = self._proof(topic, request_id, nonce, body)
        return body

    def _proof(self, topic: str, request_id: str, nonce: str, body: Mapping[str, Any]) -> str:
        if topic == "ack":
            return self._keys.prove_ack(
                request_id, nonce, int(body.get("generation", 0)), str(body.get("result")), str(body.get("status", ""))
            )
        parts = {"seal_to": str(body.get("sealTo", "")), "alg": str(body.get("alg", ""))}
        return self._keys.prove_claim(request_id, nonce, accept=body.get("accept", ()), **parts)

    def _anew(self, recorded: str, fresh: str) -> str:
        return self._fresh.setdefault(recorded, fresh)

    # The server's part -------------------------------------------------------------------------------------------

    async def _compare(self, number: int, step: Step) -> None:
        self.answers += 1
        where = f"step {number}, {step.packet}"
        if step.packet in ("CONNACK", "SUBACK"):
            # The codes of 3.1.1 and 5 differ, the granted QoS may: yes or no is what counts.
            limit = 1 if step.packet == "CONNACK" else _REFUSED
            said = int(step.said.get("code", 0))
            if (self._code < limit) != (said < limit):
                self.differences.append(f"{where}: code 0x{self._code:02X} instead of 0x{said:02X}")
        elif step.packet == "PUBLISH":
            body = read_map(await self._link(step).receive(), self._transcript.encoding)
            self._differ(f"{where}, {step.said.get('topic')}", step.body, body)
            self._take_offer(where, step.said.get("inside"), body)

    def _take_offer(self, where: str, recorded: Any, body: Mapping[str, Any]) -> None:
        if body.get("reason") != "offer":
            return
        inside = body
        if "sealed" in body:
            inside = read_map(self._opened(body), self._transcript.encoding)
            if isinstance(recorded, Mapping):
                self._differ(f"{where}, inside", recorded, inside)
        self._credential = parse_offer(inside, self._identity.client_id)

    def _opened(self, body: Mapping[str, Any]) -> bytes:
        sealed, exchange = str(body["sealed"]), (str(body.get("requestId")), str(body.get("nonce")))
        match body.get("alg"):
            case keys.A256GCM:
                return self._keys.open_gcm(sealed, *exchange)
            case keys.A256CTR_HS256:
                return self._keys.open_ctr(sealed, *exchange)
            case _:
                return self._keys.open_hpke(sealed, str(body.get("mac", "")), *exchange, self._opening_key)

    def _differ(self, where: str, recorded: Mapping[str, Any], found: Mapping[str, Any]) -> None:
        for key in sorted((recorded.keys() | found.keys()) - _DECORATION):
            if key not in found:
                self.differences.append(f"{where}: {key} is missing")
            elif key not in recorded:
                self.differences.append(f"{where}: {key} is new")
            elif key in _NAMING and self._fresh.get(str(recorded[key]), found[key]) != found[key]:
                self.differences.append(f"{where}: {key} is that of another message")
            elif key in _DECIDING and recorded[key] != found[key]:
                self.differences.append(f"{where}: {key} is {found[key]!r} instead of {recorded[key]!r}")
            elif isinstance(recorded[key], Mapping) and isinstance(found[key], Mapping):
                self._differ(f"{where}: {key}", recorded[key], found[key])


class _Stuck(Exception):
    """The step has lost its ground."""
