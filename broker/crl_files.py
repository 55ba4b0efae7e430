"""Revocation lists on the disk, for brokers that read files.

    ca/ISSUER.crl   one list, DER, by the issuer's key identifier
    ca/crl.pem      all of them, PEM, as Mosquitto's `crlfile`; also where the setting `authority.crl_file` says

1. A file is replaced whole: who reads it gets the former list or the new one. It holds no secret, all may read it.
2. A list that cannot be written is logged and tried again with the next; devices are not kept waiting for it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import structlog

from broker.datadir import sync
from certs.authority import Issuer
from certs.crl import Crl, pem_of
from certs.errors import NotTrusted

_log = structlog.get_logger(__name__)


class CrlFiles:
    """`bundle` is where the operator wants all lists as well."""

    def __init__(self, folder: Path, bundle: Path | None) -> None:
        self._folder = folder
        self._bundles = [folder / "crl.pem"] if bundle is None else [folder / "crl.pem", bundle]

    def publish(self, lists: Mapping[str, bytes]) -> None:
        """Write them all."""
        files = {self._folder / f"{issuer}.crl": der for issuer, der in lists.items()}
        pem = "".join(pem_of(der) for der in lists.values()).encode()
        for file, contents in (files | dict.fromkeys(self._bundles, pem)).items():
            try:
                _replace(file, contents)
            except OSError as error:
                _log.error("revocation list not written", file=str(file), reason=error.strerror)

    def numbers(self, issuers: Sequence[Issuer]) -> dict[str, int]:
        """The number of the last list of each issuer."""
        found = {}
        for issuer in issuers:
            try:
                found[issuer.id] = Crl((self._folder / f"{issuer.id}.crl").read_bytes(), issuer.certificate).number
            except (OSError, NotTrusted):
                continue  # the first one, or a damaged file: the clock decides
        return found


def _replace(file: Path, contents: bytes) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644), "wb") as stream:
            stream.write(contents)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    finally:
        temporary.unlink(missing_ok=True)
    sync(file.parent)
