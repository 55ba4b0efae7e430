"""The HTTP listener: uvicorn inside our own loop.

1. Our signals stay ours: uvicorn installs no handler. It writes no access log: a log needs no paths and queries.
2. A stop is quick: no new connection, two seconds for what is being answered, 503 for what is not done then.
3. With TLS, a handshake has as long as a head; the client's certificate, if it shows one, goes into the scope in the
   way of ASGI's TLS extension (`client_cert_chain`), to be judged by whoever asks for it.
4. The head of a message is at most 16 KiB and complete within ten seconds: uvicorn itself sets no bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import uvicorn
from fastapi import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from broker.http.problems import answer, bare_answer
from broker.tls import client_certificate
from provisioner.errors import Unavailable

MAX_HEAD = 16 * 1024
HEAD_SECONDS = 10.0
MAX_CONNECTIONS = 512
GRACE_SECONDS = 2
_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class HttpServer:
    """One listener for one ASGI application; start it once, stop it once."""

    def __init__(self, app: ASGIApp, grace_seconds: int = GRACE_SECONDS, tls: ssl.SSLContext | None = None) -> None:
        config = uvicorn.Config(
            _answering_when_cancelled(app),
            http=_BoundedProtocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_graceful_shutdown=grace_seconds,
            ssl_context_factory=None if tls is None else lambda _config, _default: tls,
        )
        self._server = _Server(config)
        self._serving: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> int:
        """Listen on every address of `host`; returns the port (0 picks one). `OSError` when it cannot be had."""
        sockets = await _bind(host, port)
        self._serving = asyncio.create_task(self._server.serve(sockets), name="http")
        await self._server.up.wait()
        return int(sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Close the listener and, after at most the grace time, every connection."""
        if self._serving is None:
            return
        self._server.end()
        await self._serving
        self._serving = None
        state = self._server.server_state
        await asyncio.gather(*state.tasks, return_exceptions=True)
        for connection in list(state.connections):
            connection.transport.abort()


class _Server(uvicorn.Server):
    """Uvicorn's server without its signal handlers, and woken by events instead of ten times a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()
        self._ending = asyncio.Event()

    def end(self) -> None:
        self.should_exit = True
        self._ending.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        # As uvicorn's own, whose TLS handshakes may take a minute.
        config, loop = self.config, asyncio.get_running_loop()
        self.servers = [
            await loop.create_server(
                lambda: _BoundedProtocol(config, self.server_state, {}),
                sock=one,
                ssl=config.ssl,
                backlog=config.backlog,
                ssl_handshake_timeout=HEAD_SECONDS if config.ssl else None,
            )
            for one in sockets or ()
        ]
        self.started = True
        self.up.set()

    async def main_loop(self) -> None:
        while not await self.on_tick(0):  # renews the Date header
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._ending.wait()


class _BoundedProtocol(HttpToolsProtocol):
    """Uvicorn's protocol with bounds on the head of a message (module docstring, rule 3)."""

    _waited = 0
    """Bytes that came while the head was incomplete."""
    _too_long = False
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn's own
        super().connection_made(transport)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._deadline is None or self.transport.is_closing():
            return
        self._waited += len(data)
        if self._waited > MAX_HEAD:
            self._too_long = True
            self._refuse()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        if shown := client_certificate(self.transport):
            chain = (ssl.DER_cert_to_PEM_cert(shown),)
            self.scope.setdefault("extensions", {})["tls"] = {"client_cert_chain": chain}
        self._expect_head()

    def on_headers_complete(self) -> None:
        self._end_head()
        self._too_long = len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > MAX_HEAD
        if self._too_long:
            raise ValueError("the head is too long")  # the parser stops here, and uvicorn asks for a 400
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._end_head()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002  # ours says more
        self._refuse()

    def _expect_head(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _end_head(self) -> None:
        self._waited = 0
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self) -> None:
        self._end_head()
        # Behind an answer that is still being written there is no place for another one.
        if self.cycle is None or self.cycle.response_complete:  # type: ignore[redundant-expr]  # None at first
            self.transport.write(
                bare_answer(431, "headers-too-large", f"Send at most {MAX_HEAD} bytes of request line and headers.")
                if self._too_long
                else bare_answer(400, "malformed-http", "Send well-formed HTTP/1.1.")
            )
        self.transport.close()


def shown_certificate(scope: Scope) -> bytes:
    """The certificate (DER) that the client of a call showed; empty without one."""
    chain = scope.get("extensions", {}).get("tls", {}).get("client_cert_chain", ())
    return ssl.PEM_cert_to_DER_cert(chain[0]) if chain else b""


def _answering_when_cancelled(app: ASGIApp) -> ASGIApp:
    """`app`, telling the client when a stop cuts its call off; uvicorn would print a traceback instead.

    An answer that was begun, a stream of events, is ended where it is.
    """

    async def run(scope: Scope, receive: Receive, send: Send) -> None:
        is_begun = False

        async def watched(message: Message) -> None:
            nonlocal is_begun
            is_begun = True
            await send(message)

        try:
            await app(scope, receive, watched)
        except asyncio.CancelledError:
            if is_begun:
                await send({"type": "http.response.body", "body": b""})
                return
            stopping = Unavailable("The server is stopping; ask again when it is back.")
            await answer(Request(scope), stopping)(scope, receive, send)

    return run


async def _bind(host: str, port: int) -> list[socket.socket]:
    """Listening sockets for every address of `host`, all on one port."""
    found: list[Any] = await asyncio.get_running_loop().getaddrinfo(
        host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    bound: list[socket.socket] = []
    missing: OSError | None = None
    for family, _, _, _, address in found:
        try:
            bound.append(socket.create_server((address[0], port), family=family))
        except OSError as error:
            if error.errno in _ABSENT:  # a name may stand for an address this machine lacks
                missing = error
                continue
            for listener in bound:
                listener.close()
            raise
        port = bound[-1].getsockname()[1]
    if missing is not None and not bound:
        raise missing
    return bound
