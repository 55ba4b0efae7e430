"""One provisioning, step by step, in a file that may be shown to anybody: JSON, one step a line.

The first line is the head: `{"transcript": 1, "about", "user", "clientId", "encoding"}`. Each further line is a packet,
`{"at": seconds, "from": "device" | "server", "on": "provisioning" | "issued", "packet", …}`; `on` is the connection, by
the login it is made with. CONNACK and SUBACK have their `code`, SUBSCRIBE and PUBLISH the last level of their `topic`,
PUBLISH its `body`, and `inside`, what a sealed body held. PUBACK and PINGREQ mean nothing in the contract and are left
out.

1. What is kept is listed; anything else is replaced by its name in angle brackets, so that what a later version adds is
   no leak. Operators' `configuration` is never kept.
2. Nonces are numbered in the order of their first use: `<nonce 2>` in a reply names the message it answers.
3. Reading is as strict as reading from the wire: `Unreadable`, naming the line.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from broker.fleet.link import Tap
from broker.fleet.replies import Encoding, Unreadable, read_map
from broker.mqtt.packets import Connack, Connect, Disconnect, Packet, Publish, Suback, Subscribe

VERSION: Final = 1
_KEPT: Final = frozenset({
    "requestId", "code", "reason", "retryAfter", "generation", "forget", "detail", "step", "alg", "needed",
    "supported", "accept", "maxReply", "result", "status", "confirm", "credentials", "type", "coupling", "clientId",
    "username", "broker", "url", "account", "topics", "publish", "subscribe",
})  # fmt: skip
_PACKETS: Final = {
    "device": {"CONNECT", "SUBSCRIBE", "PUBLISH", "DISCONNECT"},
    "server": {"CONNACK", "SUBACK", "PUBLISH", "DISCONNECT"},
}


@dataclass(frozen=True, slots=True)
class Step:
    """One packet."""

    sender: str
    on: str
    packet: str
    said: Mapping[str, Any]
    at: float = 0.0

    @property
    def body(self) -> Mapping[str, Any]:
        """Of a PUBLISH."""
        found = self.said.get("body", {})
        return found if isinstance(found, Mapping) else {}


@dataclass(frozen=True, slots=True)
class Transcript:
    """A whole one."""

    user: str
    client_id: str
    encoding: Encoding = Encoding.JSON
    about: str = ""
    steps: tuple[Step, ...] = field(default=())


class Recorder:
    """Writes a transcript while a unit runs. `opened` gives what is inside a sealed reply, None if it does not open."""

    def __init__(
        self, user: str, client_id: str, encoding: Encoding, opened: Callable[[bytes], bytes | None], about: str = ""
    ) -> None:
        self._head = {"transcript": VERSION, "about": about, "user": user, "clientId": client_id, "encoding": encoding}
        self._encoding, self._opened = encoding, opened
        self._nonces: dict[str, str] = {}
        self._steps: list[dict[str, Any]] = []
        self._clock: Callable[[], float] | None = None
        self._started = 0.0

    def start(self, clock: Callable[[], float]) -> None:
        """From now on steps are timed by this clock, in seconds."""
        self._clock, self._started = clock, clock()

    def tap(self, login: str) -> Tap:
        """Record one connection."""

        def listen(sender: str, packet: Packet) -> None:
            said = self._told(sender, packet)
            if said is not None:
                at = self._clock() - self._started if self._clock else 0.0
                self._steps.append({"at": round(at, 3), "from": sender, "on": login, **said})

        return listen

    def text(self) -> str:
        """The file."""
        return "\n".join(json.dumps(line, ensure_ascii=False) for line in (self._head, *self._steps))

    def _told(self, sender: str, packet: Packet) -> dict[str, Any] | None:
        said: dict[str, Any] | None = None
        match packet:
            case Connect():
                said = {"packet": "CONNECT", "version": packet.version}
            case Connack():
                said = {"packet": "CONNACK", "code": packet.code}
            case Subscribe():
                said = {"packet": "SUBSCRIBE", "topic": _last_level(packet.subscriptions[0].topic_filter)}
            case Suback():
                said = {"packet": "SUBACK", "code": packet.codes[0] if packet.codes else 0x80}
            case Publish():
                said = {"packet": "PUBLISH", "topic": _last_level(packet.topic)} | self._bodies(sender, packet.payload)
            case Disconnect():
                said = {"packet": "DISCONNECT"}
        return said

    def _bodies(self, sender: str, payload: bytes) -> dict[str, Any]:
        encoding = self._encoding
        try:
            body = read_map(payload, encoding)
        except Unreadable:
            return {"body": f"<{len(payload)} bytes>"}
        said: dict[str, Any] = {"body": self._redacted(body)}
        if sender == "server" and "sealed" in body:
            inside = self._opened(payload)
            said["inside"] = "<closed>" if inside is None else self._redacted(read_map(inside, encoding))
        return said

    def _redacted(self, body: Mapping[str, Any]) -> dict[str, Any]:
        return {key: self._shown(key, value) for key, value in body.items()}

    def _shown(self, key: str, value: Any) -> Any:
        if key == "nonce" and isinstance(value, str):
            return self._nonces.setdefault(value, f"<nonce {len(self._nonces) + 1}>")
        if key not in _KEPT:
            return f"<{key}>"
        return self._redacted(value) if isinstance(value, Mapping) else value


def parse_transcript(text: str) -> Transcript:
    """Read a transcript; raises Unreadable, which names the line."""
    lines = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    try:
        number, line = lines[0]
        head = _mapping(line)
        if head["transcript"] != VERSION:
            raise Unreadable(f"line 1: a transcript of version {head['transcript']!r} is not known here")
        encoding = Encoding(head.get("encoding", Encoding.JSON))
        steps = []
        for number, line in lines[1:]:  # noqa: B007  # told below
            steps.append(_step(_mapping(line)))
        return Transcript(str(head["user"]), str(head["clientId"]), encoding, str(head.get("about", "")), tuple(steps))
    except IndexError:
        raise Unreadable("the file is empty") from None
    except (KeyError, TypeError, ValueError):
        raise Unreadable(f"line {number} is no line of a transcript") from None


def _mapping(line: str) -> dict[str, Any]:
    found = json.loads(line)
    if not isinstance(found, dict):
        raise TypeError
    return found


def _step(said: dict[str, Any]) -> Step:
    sender, on, packet = said.pop("from"), said.pop("on"), said.pop("packet")
    if packet not in _PACKETS[sender] or on not in ("provisioning", "issued"):
        raise ValueError
    return Step(sender, on, packet, said, float(said.pop("at", 0.0)))


def _last_level(topic: str) -> str:
    return topic.rpartition("/")[2]
