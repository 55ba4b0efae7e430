"""TLS of our own listeners: the certificate they show, the client certificates they ask for, and how both change.

1. A listener keeps one context for good. Each handshake is handed on to the context in force, through the hook that
   TLS has for server names, so a certificate can change while the listener stays and no connection is dropped.
2. What is new is loaded beside what is in force and takes its place whole; what cannot be loaded changes nothing.
3. A client certificate is asked for and never demanded. One of other roots, or one that is over, ends the handshake;
   what one of ours is worth is not decided here (`certs.trust`, and the ledger).
4. Sessions are not resumed: a resumed one would bring a certificate that was looked at some time ago. Devices come once
   in a life, and two tickets for each cost a tenth of its handshake.
"""

from __future__ import annotations

import ssl
from asyncio import BaseTransport
from collections.abc import Callable
from pathlib import Path


class ServerTls:
    """A listener's TLS; `context` is what it listens with, `load` makes the context that handshakes are to get."""

    def __init__(self, load: Callable[[], ssl.SSLContext]) -> None:
        self._load = load
        self._in_force = load()
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        self.context.num_tickets = 0
        self.context.options |= ssl.OP_NO_TICKET
        self.context.sni_callback = self._hand_on
        self._settle()

    def reload(self) -> None:
        """Load again, for the handshakes to come. Raises what `load` raises, and then changes nothing."""
        self._in_force = self._load()
        self._settle()

    def _settle(self) -> None:
        # Whether to ask for a certificate is settled before the name of the server is known.
        self.context.verify_mode = self._in_force.verify_mode

    def _hand_on(self, connection: ssl.SSLObject, _name: str | None, _context: ssl.SSLContext) -> None:
        connection.context = self._in_force


def server_context(chain: Path, private_key: Path, trusted: str = "") -> ssl.SSLContext:
    """What handshakes get: our chain and key (PEM files), and the authorities of clients (PEM), which are then asked.

    Raises OSError and ssl.SSLError, which is one, when the files cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # An encrypted key would otherwise ask at the terminal.
    context.load_cert_chain(chain, private_key, password="")
    if trusted:
        context.load_verify_locations(cadata=trusted)
        context.verify_mode = ssl.CERT_OPTIONAL
    return context


def client_certificate(transport: BaseTransport) -> bytes:
    """The certificate (DER) that the peer of a connection holds the key of; empty without one, and without TLS."""
    connection: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    shown = None if connection is None else connection.getpeercert(binary_form=True)
    return shown or b""
