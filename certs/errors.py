"""The error tree.

::

    CertsError              one sentence that says what to do; `code` is a stable word
    ├── BadCsr              the CSR cannot be used: the device is told `bad-csr`
    ├── UnsupportedKey      a kind of key not on offer (`supported` lists those): the device is told `unsupported`
    ├── UnusableAuthority   a CA certificate, key or file that must not be used: told to the operator
    ├── NotIssued           an order that our own rules forbid; nothing was signed
    └── NotTrusted          a certificate that a peer showed does not count
"""

from __future__ import annotations


class CertsError(Exception):
    """Root of everything this package raises on purpose."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class BadCsr(CertsError):
    """Codes: `too-big`, `encoding`, `structure`, `signature`, `weak-key`, `known-key`, `request`."""


class UnsupportedKey(CertsError):
    """Code `key`; `supported` names the algorithms on offer."""

    def __init__(self, detail: str, supported: tuple[str, ...]) -> None:
        super().__init__("key", detail)
        self.supported = supported


class UnusableAuthority(CertsError):
    """Codes: `ca chain constraints file key passphrase permissions strength usage validity`."""


class NotIssued(CertsError):
    """Codes: `issuer`, `name`, `validity`, or the name of the lint that failed."""


class NotTrusted(CertsError):
    """Codes: `encoding`, `issuer`, `signature`, `not-yet-valid`, `expired`, `purpose`, `profile`, `revoked`, `crl`."""
