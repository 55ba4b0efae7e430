"""The authority's folder: the only file here that touches the disk.

::

    root.pem               the root's certificate
    root.key               its key; may be taken away, and is missed only when an issuer is made
    devices-1.pem, .key    an issuer, its certificate first, then what is between it and the root; numbered by age
    servers-1.pem, .key    likewise

1. Keys are PKCS#8 PEM, 0600, and refused when others may read them; so is a folder that others may write to. With a
   passphrase (a file of its own, 0600) they are encrypted.
2. A file appears whole or not at all, is on the disk before anything relies on it, and never replaces another: it is
   written under another name, synced, linked, and the folder is synced. A key is there before its certificate, so a
   crash leaves at most a key that nothing names; the next issuer passes over its number.
3. An issuer without key (it was destroyed) still has its certificates trusted, and signs nothing.
4. A key file may hold the URI of a key in a token instead (`token`): then the key never is on the disk.
5. What is loaded is checked as if it came from a stranger: the folder may have been edited.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from certs.authority import Authority, Issuer
from certs.errors import UnusableAuthority
from certs.hierarchy import YEAR, Signer, check_path, check_validity, create_issuer, create_root
from certs.keys import P256, PrivateKey, generate, spki_of
from certs.profile import Millis, Purpose
from certs.token import SCHEME, TokenKey, open_key

MAX_FILE = 64 * 1024
"""Bytes of a certificate or key file."""

_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_ISSUER = re.compile(r"(devices|servers)-([1-9][0-9]{0,5})\.(?:pem|key)")


class Keystore:
    """A folder as above. All methods raise `UnusableAuthority`, with a sentence that says which file and what to do."""

    def __init__(self, folder: Path, passphrase: bytes | None = None) -> None:
        self.folder = folder
        self._passphrase = passphrase

    def __repr__(self) -> str:
        return f"Keystore({str(self.folder)!r})"

    def exists(self) -> bool:
        """Whether there is a root."""
        return (self.folder / "root.pem").exists()

    def create(
        self,
        label: str,
        now: Millis,
        entropy: Callable[[int], bytes],
        *,
        algorithm: str = P256,
        validity: Millis = 20 * YEAR,
    ) -> None:
        """Make a root; issuers follow by `add_issuer`."""
        self.import_root(create_root(label, generate(algorithm), now, entropy, validity), now)

    def import_root(self, root: Signer | x509.Certificate, now: Millis) -> None:
        """Take over a root, with or without its key."""
        self._make_folder()
        certificate = root if isinstance(root, x509.Certificate) else root.certificate
        check_path((certificate,), None)
        check_validity((certificate,), now)
        if self.exists():
            raise UnusableAuthority(
                "file", f"{self.folder / 'root.pem'} exists: choose another folder for a new authority"
            )
        if isinstance(root, Signer):
            _check_pair(certificate, root.key, self.folder / "root.key")
            # The key of a root that a crash left without certificate belongs to nothing.
            (self.folder / "root.key").unlink(missing_ok=True)
            self._save("root.key", self._key_pem(root.key))
        self._save("root.pem", certificate.public_bytes(Encoding.PEM))

    def add_issuer(
        self,
        label: str,
        purpose: Purpose,
        now: Millis,
        entropy: Callable[[int], bytes],
        *,
        algorithm: str = P256,
        validity: Millis = YEAR,
        excluded_hosts: Sequence[str] = (),
        permitted: Sequence[str] = (),
        key: PrivateKey | None = None,
    ) -> Issuer:
        """Make an issuer, the first or the next; needs the root's key. Those before it stay (`authority`, rule 4).

        `key` is the issuer's; None: a new one.
        """
        root = Signer(self.load_root(), self.load_key("root.key"))
        _check_pair(root.certificate, root.key, self.folder / "root.key")
        made = create_issuer(
            root,
            label,
            purpose,
            key or generate(algorithm),
            now,
            entropy,
            validity=validity,
            excluded_hosts=excluded_hosts,
            permitted=permitted,
        )
        return self.import_issuer(purpose, [made.certificate], made.key, now)

    def import_issuer(
        self, purpose: Purpose, chain: Sequence[x509.Certificate], key: PrivateKey, now: Millis
    ) -> Issuer:
        """Take over an issuer (its certificate first, the root last or left out) that hangs on the root here."""
        root = self.load_root()
        below = [one for one in chain if one != root]
        if not below:
            raise UnusableAuthority("chain", "there is no issuer in the chain: the root does not sign devices")
        issuer = Issuer(purpose, root, below, key)
        check_validity(issuer.path, now)
        if any(issuer.id == other.id for other in self._issuers(root)):
            raise UnusableAuthority("file", "that issuer is here already: nothing to do")
        number = max((number for _, number in self._numbers()), default=0) + 1
        self._save(f"{purpose}-{number}.key", self._key_pem(key))
        self._save(f"{purpose}-{number}.pem", issuer.pem.encode("ascii"))
        return issuer

    def load(self, *, crl_url: str = "", ocsp_url: str = "") -> Authority:
        """The authority as it stands on the disk."""
        root = self.load_root()
        return Authority(root, list(self._issuers(root)), crl_url=crl_url, ocsp_url=ocsp_url)

    def load_root(self) -> x509.Certificate:
        """The root's certificate."""
        self._check_folder()
        return load_certificates(self.folder / "root.pem")[0]

    def load_key(self, name: str) -> PrivateKey:
        """A key of this folder, by its file name."""
        return load_key(self.folder / name, self._passphrase)

    def _issuers(self, root: x509.Certificate) -> Iterator[Issuer]:
        for purpose, number in self._numbers():
            name = f"{purpose}-{number}"
            if (self.folder / f"{name}.pem").exists():
                key = self.load_key(f"{name}.key") if (self.folder / f"{name}.key").exists() else None
                yield Issuer(purpose, root, load_certificates(self.folder / f"{name}.pem"), key)

    def _numbers(self) -> list[tuple[Purpose, int]]:
        found = {match.groups() for one in self.folder.iterdir() if (match := _ISSUER.fullmatch(one.name))}
        return sorted(((Purpose(purpose), int(number)) for purpose, number in found), key=lambda one: one[1])

    def _key_pem(self, key: PrivateKey) -> bytes:
        if isinstance(key, TokenKey):
            return key.uri.encode("utf-8")
        encryption = NoEncryption() if self._passphrase is None else BestAvailableEncryption(self._passphrase)
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)

    def _make_folder(self) -> None:
        try:
            self.folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise UnusableAuthority(
                "file", f"{self.folder} cannot be made ({error.strerror}): choose another"
            ) from None
        self._check_folder()
        _sync(self.folder.parent)

    def _check_folder(self) -> None:
        try:
            found = self.folder.stat()
        except OSError as error:
            raise UnusableAuthority(
                "file", f"{self.folder} cannot be read ({error.strerror}): make an authority"
            ) from None
        if not stat.S_ISDIR(found.st_mode):
            raise UnusableAuthority("file", f"{self.folder} is no folder: choose another path")
        if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
            raise UnusableAuthority(
                "permissions", f"{self.folder} may be written to by others: chmod 700 {self.folder}"
            )

    def _save(self, name: str, contents: bytes) -> None:
        temporary = self.folder / f".{name}.{os.getpid()}"
        try:
            temporary.unlink(missing_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(contents)
                stream.flush()
                os.fsync(descriptor)
            (self.folder / name).hardlink_to(temporary)
            temporary.unlink()
            _sync(self.folder)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise UnusableAuthority("file", f"{self.folder / name} cannot be written ({error.strerror})") from None


def load_certificates(path: Path) -> list[x509.Certificate]:
    """One or more certificates in PEM; raises `UnusableAuthority`."""
    try:
        return x509.load_pem_x509_certificates(_contents(path, secret=False))
    except (ValueError, x509.InvalidVersion):
        raise UnusableAuthority("file", f"{path} holds no certificate: give a PEM file") from None


def load_key(path: Path, passphrase: bytes | None = None) -> PrivateKey:
    """A private key, in PEM or by the URI of a token, that nobody else may read; raises `UnusableAuthority`."""
    contents = _contents(path, secret=True)
    if contents.startswith(SCHEME.encode()):
        return open_key(contents.decode("utf-8", "replace").strip(), load_passphrase)
    try:
        key = load_pem_private_key(contents, passphrase)
    except TypeError:
        needed = "is not encrypted: leave the passphrase out" if passphrase else "is encrypted: give its passphrase"
        raise UnusableAuthority("passphrase", f"{path} {needed}") from None
    except (ValueError, UnsupportedAlgorithm):
        raise UnusableAuthority(
            "key", f"{path} holds no private key that opens: give a PEM file and its passphrase"
        ) from None
    if not isinstance(key, EllipticCurvePrivateKey | Ed25519PrivateKey | RSAPrivateKey):
        raise UnusableAuthority("strength", f"{path} is a key of a kind that does not sign here: take P-256 or Ed25519")
    return key


def load_passphrase(path: Path) -> bytes:
    """The first line of a file that nobody else may read; raises `UnusableAuthority`."""
    passphrase = _contents(path, secret=True).partition(b"\n")[0].removesuffix(b"\r")
    if not passphrase:
        raise UnusableAuthority("passphrase", f"{path} is empty: put the passphrase in its first line")
    return passphrase


def _contents(path: Path, *, secret: bool) -> bytes:
    try:
        with path.open("rb") as stream:
            found = os.fstat(stream.fileno())
            if secret and found.st_mode & _OTHERS:
                raise UnusableAuthority("permissions", f"{path} may be read by others: chmod 600 {path}")
            contents = stream.read(MAX_FILE + 1)
    except OSError as error:
        raise UnusableAuthority("file", f"{path} cannot be read ({error.strerror})") from None
    if len(contents) > MAX_FILE:
        raise UnusableAuthority("file", f"{path} has more than {MAX_FILE} bytes: give the right file")
    return contents


def _check_pair(certificate: x509.Certificate, key: PrivateKey, path: Path) -> None:
    if spki_of(key.public_key()) != spki_of(certificate.public_key()):  # type: ignore[arg-type]  # check_path admits no other kind of key
        raise UnusableAuthority("key", f"{path} does not belong to its certificate: give the one that does")


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
