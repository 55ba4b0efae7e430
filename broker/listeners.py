"""The TLS of our own listeners, each with its name: from the files that the settings name, else from our authority.

1. `reload` (SIGHUP) reads everything again. A certificate that cannot be used is told, and the former stays.
2. `step` renews what comes from the authority before it ends, and follows the authority: clients are asked for
   certificates of all its valid issuers, those of a new one from the next look on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from ssl import SSLContext

import structlog

from broker.datadir import Unusable
from broker.servercertificate import ServerCertificate
from broker.tls import ServerTls, server_context
from provisioner.errors import Unavailable
from provisioner.model import Millis
from provisioner.ports import Clock

_log = structlog.get_logger(__name__)

Pair = tuple[Path, Path]
"""PEM files: a chain, its own certificate first, and its key."""


class Listeners:
    """`files` tells for each listener its files, None for `own`; `trusted` the authorities of clients (PEM).

    `client_ca` has the listeners whose clients are no devices, with the file of those clients' authorities, if there is
    one. Raises `Unavailable` and `Unusable` when there is no certificate to begin with, OSError for files.
    """

    def __init__(
        self,
        files: Mapping[str, Pair | None],
        own: ServerCertificate,
        trusted: Callable[[Millis], str],
        client_ca: Mapping[str, Path | None],
        clock: Clock,
    ) -> None:
        self.own = own
        self._uses_own = None in files.values()
        self._trusted = trusted
        self._clock = clock
        self._trust = trusted(clock())
        if self._uses_own:
            own.renew(clock())
        self._client_ca = client_ca
        self._tls = {name: ServerTls(self._loader(name, pair or (own.file, own.file))) for name, pair in files.items()}

    def context(self, name: str) -> SSLContext:
        """What that listener listens with."""
        return self._tls[name].context

    def reload(self) -> None:
        """Read everything again, for the connections to come; what cannot be used is told, and the former stays."""
        now = self._clock()
        try:
            self._renew(now)
        except Unavailable as error:
            _log.error("certificate not renewed, the former one stays", reason=error.detail)
        self._load(now)

    async def step(self, now: Millis) -> Millis | None:
        """Renew and follow; when to come back at the latest. Raises `Unavailable`."""
        changed, due = self._renew(now)
        if changed or self._trusted(now) != self._trust:
            self._load(now)
        return due

    def _renew(self, now: Millis) -> tuple[bool, Millis | None]:
        """Whether our own certificate is another one now, and when to look again. Raises `Unavailable`."""
        try:
            return self.own.renew(now) if self._uses_own else (False, None)
        except Unusable as error:
            raise Unavailable(str(error), retry_after=60) from None

    def _load(self, now: Millis) -> None:
        self._trust = self._trusted(now)
        for name, one in self._tls.items():
            try:
                one.reload()
            except OSError as error:  # an SSLError is one, too
                reason = getattr(error, "reason", None) or error.strerror or str(error)
                _log.error("certificate not reloaded, the former one stays", listener=name, reason=reason)
            else:
                _log.info("certificate reloaded", listener=name)

    def _loader(self, name: str, pair: Pair) -> Callable[[], SSLContext]:
        return lambda: server_context(*pair, self._trust_of(name))

    def _trust_of(self, name: str) -> str:
        if name not in self._client_ca:
            return self._trust
        file = self._client_ca[name]
        return "" if file is None else file.read_text(encoding="utf-8", errors="replace")
