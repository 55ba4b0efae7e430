"""Issuers' keys that stay in a token (PKCS#11): a key file then holds one line, a URI of RFC 7512 that says where.

    pkcs11:token=plant;object=devices?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=/etc/provisioner/pin

1. RSA alone. A certificate is made again from its order whenever a device asks again, and has to be the same bytes
   (`authority`, rule 3); a token draws new randomness for each ECDSA signature, for RSA (PKCS#1 v1.5) it needs none.
2. The PIN is in a file of its own that nobody else may read, never in the URI.
3. One session a token, for as long as the process lives: a token counts logins, and refuses the second.
4. The library is an extra (`mqtt-provisioner[pkcs11]`) and imported where there is such a key.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import unquote

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey, RSAPublicNumbers

from certs.errors import NotIssued, UnusableAuthority

SCHEME = "pkcs11:"

_ATTRIBUTE = re.compile(r"(?P<name>[a-z-]+)=(?P<value>[^;&?]+)")
_PATH, _QUERY = {"token", "object"}, {"module-path", "pin-source"}


@dataclass(frozen=True, slots=True)
class TokenUri:
    """Which key of which token, by whose library, and where the PIN is."""

    token: str
    label: str
    module: Path
    pin_file: Path


def parse_uri(text: str) -> TokenUri:
    """Read a URI of the form above; raises `UnusableAuthority`."""
    path, _, query = text.removeprefix(SCHEME).partition("?")
    found: dict[str, str] = {}
    for part, names in ((path.split(";"), _PATH), (query.split("&"), _QUERY)):
        for one in part:
            attribute = _ATTRIBUTE.fullmatch(one)
            if attribute is None or attribute["name"] not in names or attribute["name"] in found:
                _refuse_uri()
            found[attribute["name"]] = unquote(attribute["value"])
    if found.keys() != _PATH | _QUERY:
        _refuse_uri()
    pin_file = Path(found["pin-source"].removeprefix("file:"))
    return TokenUri(found["token"], found["object"], Path(found["module-path"]), pin_file)


def _refuse_uri() -> NoReturn:
    raise UnusableAuthority(
        "key", "write the token's URI as pkcs11:token=NAME;object=NAME?module-path=FILE&pin-source=FILE"
    )


class TokenKey(RSAPrivateKey):
    """An RSA key in a token; `uri` is the text that named it. It signs, and does nothing else."""

    def __init__(self, uri: str, private: Any, public: RSAPublicKey) -> None:
        self.uri = uri
        self._private = private
        self._public = public

    @property
    def key_size(self) -> int:
        """Bits of the modulus."""
        return self._public.key_size

    def public_key(self) -> RSAPublicKey:
        """The public half."""
        return self._public

    def sign(self, data: Any, padding: Any, algorithm: Any) -> bytes:  # noqa: ARG002  # there is one way (rule 1)
        """PKCS#1 v1.5 with SHA-256, which is how issuers with RSA keys sign; raises `NotIssued`."""
        from pkcs11 import Mechanism, PKCS11Error  # noqa: PLC0415  # rule 4

        try:
            return bytes(self._private.sign(bytes(data), mechanism=Mechanism.SHA256_RSA_PKCS))
        except PKCS11Error as error:
            raise NotIssued("issuer", f"the token does not sign ({type(error).__name__}): is it there?") from None

    def decrypt(self, ciphertext: Any, padding: Any) -> NoReturn:
        """Not with this key."""
        raise NotImplementedError

    def private_numbers(self) -> NoReturn:
        """They stay in the token."""
        raise NotImplementedError

    def private_bytes(self, encoding: Any, format: Any, encryption_algorithm: Any) -> NoReturn:  # noqa: A002  # as above it is named
        """They stay in the token."""
        raise NotImplementedError

    def __copy__(self) -> TokenKey:
        return self

    def __deepcopy__(self, memo: object) -> TokenKey:
        return self


def open_key(text: str, read_pin: Callable[[Path], bytes]) -> TokenKey:
    """The key that a URI names; raises `UnusableAuthority`. `read_pin` gives the first line of a file."""
    uri = parse_uri(text)
    pin = read_pin(uri.pin_file).decode("utf-8", "replace")
    try:
        from pkcs11 import Attribute, KeyType, ObjectClass, PKCS11Error  # noqa: PLC0415  # rule 4
    except ImportError:
        raise UnusableAuthority("key", "keys in tokens need a library: install mqtt-provisioner[pkcs11]") from None
    try:
        session = _session(uri.module, uri.token, pin)
        private = session.get_key(object_class=ObjectClass.PRIVATE_KEY, label=uri.label)
        public = session.get_key(object_class=ObjectClass.PUBLIC_KEY, label=uri.label)
        if private.key_type is not KeyType.RSA:
            raise UnusableAuthority(
                "strength", f"the key {uri.label!r} is none of RSA: only those sign the same way each time"
            )
        modulus, exponent = public[Attribute.MODULUS], public[Attribute.PUBLIC_EXPONENT]
    except (PKCS11Error, RuntimeError) as error:
        reason = type(error).__name__
        raise UnusableAuthority(
            "key", f"the key {uri.label!r} of token {uri.token!r} cannot be used ({reason}): look with pkcs11-tool"
        ) from None
    numbers = RSAPublicNumbers(int.from_bytes(exponent, "big"), int.from_bytes(modulus, "big"))
    return TokenKey(text, private, numbers.public_key())


@lru_cache(maxsize=8)
def _session(module: Path, token: str, pin: str) -> Any:
    import pkcs11  # noqa: PLC0415  # rule 4

    return pkcs11.lib(str(module)).get_token(token_label=token).open(user_pin=pin)
