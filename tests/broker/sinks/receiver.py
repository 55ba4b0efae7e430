"""A webhook receiver on loopback: it keeps what it was sent and answers on cue.

It checks signatures as its users are told to (docs/events.md), with nothing of ours.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import re
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

SECRET = "whsec_" + base64.b64encode(b"a secret of thirty-two bytes ...").decode()
OK = b"HTTP/1.1 204 No Content\r\n\r\n"
NO = b"HTTP/1.1 500 Oh No\r\ncontent-length: 0\r\n\r\n"
AWAY = b"HTTP/1.1 503 Away\r\ncontent-length: 0\r\nretry-after: 7\r\n\r\n"
HANG = b""
BREAK = b"HTTP/1."


@dataclass
class Post:
    """What was sent."""

    headers: dict[str, str]
    body: bytes

    @property
    def event(self) -> dict[str, Any]:
        return dict(json.loads(self.body))

    def is_signed(self, secret: str = SECRET) -> bool:
        """As Standard Webhooks 1.0.0 says it."""
        key = base64.b64decode(secret.removeprefix("whsec_"))
        signed = f"{self.headers['webhook-id']}.{self.headers['webhook-timestamp']}.".encode() + self.body
        expected = "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
        return any(hmac.compare_digest(expected, given) for given in self.headers["webhook-signature"].split(" "))


@dataclass
class Receiver:
    """`answers` are used up one by one, then everything is taken."""

    port: int = 0
    answers: list[bytes] = field(default_factory=list)
    posts: asyncio.Queue[Post] = field(default_factory=asyncio.Queue)
    connections: int = 0
    _ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/events?site=1"

    async def next(self) -> Post:
        """The next thing sent."""
        return await asyncio.wait_for(self.posts.get(), 20)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                assert head.startswith("POST /events?site=1 HTTP/1.1\r\n")
                headers = {name.lower(): value for name, value in re.findall(r"(?m)^([^:\r\n]+): ([^\r\n]*)\r$", head)}
                body = await reader.readexactly(int(headers["content-length"]))
                self.posts.put_nowait(Post(headers, body))
                answer = self.answers.pop(0) if self.answers else OK
                if answer == HANG:
                    await self._ended.wait()
                    return
                writer.write(answer)
                if answer == BREAK:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            writer.close()


@asynccontextmanager
async def receiving(
    *answers: bytes, bound: socket.socket | None = None, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Receiver]:
    """A receiver that listens, on a socket that was bound before or one of its own."""
    listening = bound or socket.create_server(("127.0.0.1", 0))
    receiver = Receiver(listening.getsockname()[1], list(answers))
    server = await asyncio.start_server(receiver.serve, sock=listening, ssl=tls)
    try:
        yield receiver
    finally:
        receiver._ended.set()
        server.close()
