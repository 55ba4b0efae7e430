"""The certificate that our own listeners show where no file is named for it: ordered from our authority.

1. The order is in the file, with the key, before anything is signed. Whoever crashes in between signs the same order
   again, so there is never a server's certificate that nobody knows of.
2. It is renewed, with a new key, when two thirds of its life are over, when its names are others, and when there is a
   newer issuer for servers.
3. One file for all listeners, 0600: the order as a comment, the private key, the chain; TLS libraries read it as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import structlog

from broker.datadir import DataDir
from certs.authority import Authority
from certs.errors import CertsError
from certs.keys import P256, generate, private_pem, public_of_pem, spki_of
from certs.order import Order
from certs.profile import Millis, Purpose, Server
from provisioner.errors import Unavailable
from provisioner.ports import Entropy

FILE = "server.pem"
_COMMENT = "# order: "

_log = structlog.get_logger(__name__)


class ServerCertificate:
    """One certificate for `names` (DNS names and IP addresses), kept as `file` in the data directory."""

    def __init__(
        self, directory: DataDir, authority: Callable[[], Authority], names: tuple[str, ...], entropy: Entropy
    ) -> None:
        self.file: Path = directory.path / FILE
        self._directory = directory
        self._authority = authority
        self._server = Server(names)
        self._entropy = entropy
        self._serial = ""

    def is_this(self, serial: str) -> bool:
        """Whether it has this serial (34 hex digits)."""
        return serial == self._serial

    def renew(self, now: Millis) -> tuple[bool, Millis]:
        """See to it that there is a good one: whether a new one was made, and when to look again.

        Raises `Unavailable` when the authority cannot make one, and `Unusable` for a file that others may read.
        """
        try:
            known, text = self._load()
            if known is not None and self._is_good(known, now):
                self._serial = known.serial_hex
                if (whole := self._signed(known, text)) == text:
                    return False, _due(known)
                self._directory.save_secret(FILE, whole)
                return True, _due(known)
            order, text = self._order(now)
            self._directory.save_secret(FILE, text)
            self._directory.save_secret(FILE, self._signed(order, text))
        except CertsError as error:
            raise Unavailable(f"no certificate for our own listeners: {error.detail}", retry_after=60) from None
        self._serial = order.serial_hex
        _log.info("server certificate", serial=order.serial_hex, names=self._server.names, not_after=order.not_after)
        return True, _due(order)

    def _load(self) -> tuple[Order | None, str]:
        """What is kept: its order, and all of the text; None where there is nothing that can be gone on with."""
        text = self._directory.load_secret(FILE) or ""
        comment, _, rest = text.partition("\n")
        try:
            order = Order.decode(comment.removeprefix(_COMMENT))
            return (order if public_of_pem(rest) == order.public_key else None), text
        except (ValueError, KeyError, TypeError, CertsError):
            return None, ""

    def _is_good(self, order: Order, now: Millis) -> bool:
        newest = self._authority().current(Purpose.SERVERS, now)
        return order.names == self._server and order.issuer == newest.id and order.not_before <= now < _due(order)

    def _order(self, now: Millis) -> tuple[Order, str]:
        key = generate(P256)
        order = self._authority().order(self._server, spki_of(key.public_key()), now, self._entropy)
        return order, f"{_COMMENT}{order.encode()}\n{private_pem(key)}".removesuffix("\n")

    def _signed(self, order: Order, text: str) -> str:
        """The text with its chain, if that is missing."""
        return text if "CERTIFICATE" in text else f"{text}\n{self._authority().issue(order).pem}".removesuffix("\n")


def _due(order: Order) -> Millis:
    return order.not_before + (order.not_after - order.not_before) * 2 // 3
