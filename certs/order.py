"""What an authority is asked for: everything that is in a certificate, to be written down before anything is signed."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from certs.profile import Device, Millis, Names, Responder, Server

_encode = json.JSONEncoder(separators=(",", ":")).encode
_KINDS = {kind.__name__: kind for kind in (Device, Server, Responder)}


@dataclass(frozen=True, slots=True)
class Order:
    """Everything that is in a certificate. `issuer` is the key identifier (hex) of who signs, `public_key` DER (SPKI).

    `encode` gives the text to commit before `issue`, `decode` turns it back.
    """

    issuer: str
    serial: int
    names: Names
    public_key: bytes = field(repr=False)
    not_before: Millis
    not_after: Millis
    crl_url: str = ""
    ocsp_url: str = ""

    @property
    def serial_hex(self) -> str:
        """The serial as ledgers, CRLs and tools spell it: 34 lower-case hex digits."""
        return f"{self.serial:034x}"

    def encode(self) -> str:
        """One line of JSON; nothing in it is secret."""
        names = {slot: getattr(self.names, slot) for slot in self.names.__slots__}
        return _encode(
            {
                "issuer": self.issuer,
                "serial": self.serial_hex,
                "kind": type(self.names).__name__,
                "names": names,
                "publicKey": self.public_key.hex(),
                "notBefore": self.not_before,
                "notAfter": self.not_after,
                "crlUrl": self.crl_url,
                "ocspUrl": self.ocsp_url,
            }
        )

    @classmethod
    def decode(cls, text: str) -> Order:
        """The order that `encode` wrote; raises ValueError, KeyError or TypeError for other text."""
        found = json.loads(text)
        names: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in found["names"].items()
        }
        return cls(
            found["issuer"],
            int(found["serial"], 16),
            _KINDS[found["kind"]](**names),
            bytes.fromhex(found["publicKey"]),
            found["notBefore"],
            found["notAfter"],
            found["crlUrl"],
            found["ocspUrl"],
        )
