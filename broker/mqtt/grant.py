"""Who may use the device broker, for what, and within which limits: the values between the guard and its user."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

_KIB: Final = 1024
_MIB: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Grant:
    """A login's rights: topic filters, for the client id of CONNECT.

    `username` is the login's own name, by which `kick` goes; the CONNECT may have had another name of it, or none where
    a certificate logged in.
    A topic may be published to inside one of `publish`, a filter subscribed to inside one of `subscribe`.
    """

    account: str
    username: str
    client_id: str
    publish: tuple[str, ...]
    subscribe: tuple[str, ...]


Authenticate = Callable[[str, bytes, str, str], Awaitable[Grant | None]]
"""User name, password, client id, source address -> Grant; None: refused; an exception: unavailable (CONNACK 3)."""

AuthenticateCertificate = Callable[[bytes, str, str], Awaitable[Grant | None]]
"""The certificate (DER) of the connection, client id, source address -> as `Authenticate`."""


@dataclass(frozen=True, slots=True)
class GuardLimits:
    """What a device can take; times are seconds, sizes are bytes."""

    connections: int = 2000
    connections_per_source: int = 1000
    connect_time: float = 5.0
    connect_size: int = 16 * _KIB
    login_time: float = 10.0
    # Refused logins are answered at multiples of this after their CONNECT, so that timing tells nothing.
    refusal_grid: float = 0.1
    keep_alive: float = 3600.0
    packet_size: int = 256 * _KIB
    # Answers (PUBACK, PINGRESP, …) that a client does not read; messages wait in its session instead.
    write_buffer: int = _MIB
    stall_time: float = 30.0
    subscriptions: int = 64
    queued_messages: int = 1000
    queued_bytes: int = _MIB
    inflight_messages: int = 32
    inflight_bytes: int = 256 * _KIB
    stored_sessions: int = 2000
    session_expiry: float = 86_400.0
    retained_messages: int = 10_000
    retained_bytes: int = 32 * _MIB
    retained_per_user: int = 100
    # Accepted from devices and not yet with their receivers.
    routed_messages: int = 256
    routed_bytes: int = 8 * _MIB
