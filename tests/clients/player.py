"""Plays the server's part of a transcript, provision broker and device broker on one port, to a client.

1. The device's messages must come as the transcript has them: topic, members, the same requestId and a fresh nonce
   where it says so, a proof that is right. How often a client connects is its own affair.
2. What the transcript has redacted is made anew: `<proof>` and `<sealed>` are right, `<wrong proof>` and
   `<sealed for another>` are not.
3. `after` in a device's step are the seconds between which it may come.
"""

import asyncio
import contextlib
import json
import os
from pathlib import Path
from typing import Any, Final, Self

from broker.fleet.keys import Keys, encode64
from broker.fleet.transcript import Step, parse_transcript
from broker.mqtt.packets import (
    Connack,
    Connect,
    Decoder,
    Packet,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Suback,
    Subscribe,
    encode,
    parse,
)
from tests.broker.fleet import double

SLACK: Final = 5.0
"""Seconds a client may need beyond its pause: programs start slowly on a busy machine."""
OTHER_KEYS: Final = Keys.derive(b"Z" * 32, double.USER, double.CLIENT_ID)
PASSWORD: Final = "provisioning-password"
_OPTIONAL: Final = {"alg", "sealTo", "maxReply", "device", "accept"}


class Player:
    """One performance of a file; `faults` are sentences, empty if the client kept to the transcript."""

    def __init__(self, file: Path) -> None:
        text = file.read_text(encoding="utf-8")
        self.head = json.loads(text.splitlines()[0])
        self.faults: list[str] = []
        self.received = self.sent = 0
        """Bytes of MQTT on connections with the provisioning login, from the client and to it."""
        self._steps = [step for step in parse_transcript(text).steps if _is_played(step)]
        self._names: dict[str, str] = {}
        self._asked: dict[str, dict[str, Any]] = {}
        self._may_log_in = False
        self._spoke = 0.0
        self._talks: set[asyncio.Task[Any]] = set()

    @property
    def is_over(self) -> bool:
        """Whether everything was said."""
        return not self._steps

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = int(self._server.sockets[0].getsockname()[1])
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._talks:
            task.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._talks.add(task)
        try:
            with contextlib.suppress(ConnectionError, asyncio.CancelledError):
                await self._talk(reader, writer)
        finally:
            self._talks.discard(task)
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decoder, version, subscribed, provisioning = Decoder(), 4, False, False
        while data := await reader.read(65536):
            for frame in decoder.feed(data):
                packet = parse(frame, version)
                answers: list[Packet] = []
                match packet:
                    case Connect():
                        version, provisioning = packet.version, packet.username == double.USER
                        answers = [Connack(code=self._log_in(packet))]
                    case Subscribe():
                        subscribed = True
                        answers = [Suback(packet.packet_id, (packet.subscriptions[0].qos,))]
                    case Publish(topic=topic) if not topic.startswith("prov/v1/"):
                        answers = [Puback(packet.packet_id)] if packet.qos else []
                    case Publish():
                        if not subscribed:
                            self.faults.append("it published before it had subscribed")
                        answers = [Puback(packet.packet_id)] if packet.qos else []
                        answers += self._answer(packet.topic.rpartition("/")[2], json.loads(packet.payload))
                    case Pingreq():
                        answers = [Pingresp()]
                octets = b"".join(encode(answer, version) for answer in answers)
                writer.write(octets)
                if provisioning:
                    self.received += len(frame.raw)
                    self.sent += len(octets)

    # What the device does ---------------------------------------------------------------------------------------------

    def _log_in(self, packet: Connect) -> int:
        if packet.client_id != double.CLIENT_ID:
            self.faults.append(f"it connects as {packet.client_id}")
        if packet.username == double.USER:
            return 0 if packet.password == PASSWORD.encode() else 5
        if self._steps and self._steps[0].packet == "CONNECT":
            self._steps.pop(0)
            code = int(self._steps.pop(0).said["code"])
            self._may_log_in = code == 0
            return code
        if not self._may_log_in:
            self.faults.append(f"it logs in as {packet.username} out of turn")
        return 0

    def _answer(self, topic: str, body: dict[str, Any]) -> list[Packet]:
        if not self._steps or self._steps[0].packet != "PUBLISH" or self._steps[0].said["topic"] != topic:
            wanted = self._steps[0] if self._steps else "nothing more"
            self.faults.append(f"it says {topic} {body.get('result', '')} out of turn, instead of {wanted}")
            return []
        step = self._steps.pop(0)
        self._check(topic, step, body)
        replies: list[Packet] = []
        while self._steps and self._steps[0].sender == "server" and self._steps[0].packet == "PUBLISH":
            payload = self._written(self._steps.pop(0))
            replies.append(Publish(f"prov/v1/{double.USER}/{double.CLIENT_ID}/reply", payload))
        self._spoke = asyncio.get_running_loop().time()
        return replies

    def _check(self, topic: str, step: Step, body: dict[str, Any]) -> None:
        recorded = dict(step.body)
        extra = set(body) - set(recorded) - (_OPTIONAL if topic == "request" else {"detail"})
        if extra or set(recorded) - set(body):
            self.faults.append(f"the {topic} has {sorted(body)} instead of {sorted(recorded)}")
            return
        for key, value in recorded.items():
            if key in ("requestId", "nonce"):
                self._check_name(key, str(value), body[key])
            elif not str(value).startswith("<") and value != body[key]:
                self.faults.append(f"{key} of the {topic} is {body[key]!r} instead of {value!r}")
        if "proof" in body and body["proof"] != _proof(topic, body):
            self.faults.append(f"the proof of the {topic} is wrong")
        if "activationKey" in body and body["activationKey"] != double.KEY:
            self.faults.append("the activation key is wrong")
        if "after" in step.said:
            least, most = step.said["after"]
            waited = asyncio.get_running_loop().time() - self._spoke
            if not least - 0.05 <= waited <= most + SLACK:
                self.faults.append(f"it came after {waited:.2f} s instead of {least} to {most} s")
        self._asked[str(recorded.get("nonce", recorded["requestId"]))] = body

    def _check_name(self, key: str, recorded: str, found: str) -> None:
        if recorded in self._names:
            if self._names[recorded] != found:
                self.faults.append(f"{key} is another one where the transcript has {recorded} again")
        elif found in self._names.values():
            self.faults.append(f"{key} is an old one where the transcript has {recorded} for the first time")
        self._names[recorded] = found

    # What the server says ---------------------------------------------------------------------------------------------

    def _written(self, step: Step) -> bytes:
        body = step.said["body"]
        if not isinstance(body, dict):
            return b"x" * int(body.strip("<> bytes"))
        asked = self._asked[str(body.get("nonce", body["requestId"]))]
        if body.get("reason") == "offer":
            inside = step.said.get("inside", body)
            changes: dict[str, Any] = {
                "url": f"mqtt://127.0.0.1:{self.port}",
                "generation": inside["generation"],
            }
            if "sealed" not in body:
                plain = double.offer_body(asked["requestId"], **changes)
                return double.write(plain | ({"nonce": asked["nonce"]} if "nonce" in body else {}))
            keys = double.KEYS if body["sealed"] == "<sealed>" else OTHER_KEYS
            return double.offer(asked, keys=keys, **changes)
        parts = {key: body[key] for key in ("generation", "retryAfter", "forget", "step") if key in body}
        written = double.reply(asked, body["reason"], proved=body.get("proof") == "<proof>", **parts)
        if body.get("proof") == "<wrong proof>":
            return double.write(json.loads(written) | {"proof": encode64(os.urandom(32))})
        return written


def _is_played(step: Step) -> bool:
    """A client may connect to the endpoint as often as it likes, and say goodbye or not."""
    return step.packet == "PUBLISH" or (step.on == "issued" and step.packet in ("CONNECT", "CONNACK"))


def _proof(topic: str, body: dict[str, Any]) -> str:
    if topic == "ack":
        return double.KEYS.prove_ack(body["requestId"], body["nonce"], body["generation"], body["result"])
    parts = {"seal_to": body.get("sealTo", ""), "accept": body.get("accept", ()), "alg": body.get("alg", "")}
    return double.KEYS.prove_claim(body["requestId"], body["nonce"], **parts)
