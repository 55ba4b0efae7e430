"""Activation keys at rest (wire contract, section 9, rule 8).

1. Until confirmation the activation key itself is kept sealed: an operator may have to print it again.
2. On confirmation it is wiped; `K_auth` stays for late acks, `K_seal` only where the request may reuse the key.
3. What is sealed is bound to its request.
"""

from __future__ import annotations

from collections.abc import Callable

from provisioner.handover import Keys, Vault, derive
from provisioner.model import Credential, ProvisionRequest, Secret

_WHOLE, _DERIVED, _AUTH_ONLY = b"A", b"K", b"k"
"""What follows: `K_auth`, `K_seal` and the key itself; `K_auth` and `K_seal`; `K_auth`."""


def _context(request_id: int) -> str:
    return f"request|{request_id}"


def secret_context(credential: Credential) -> str:
    """Where a minted password is sealed."""
    return f"credential|{credential.device_broker}|{credential.client_id}|{credential.generation}"


def seal_key(vault: Vault, request_id: int, activation_key: Secret, user: str, client_id: str) -> str:
    """Sealed form of a fresh activation key, with what is derived from it: claims need that each time."""
    text = activation_key.reveal()
    keys = derive(text, user, client_id)
    return vault.seal(_WHOLE + keys.auth + (keys.seal or b"") + text.encode(), _context(request_id))


def open_keys(vault: Vault, request: ProvisionRequest) -> Keys | None:
    """The derived keys; None: a keyless request, or one whose key was wiped."""
    if request.keys_sealed is None:
        return None
    opened = vault.open(request.keys_sealed, _context(request.id))
    return Keys(opened[1:33], None if opened[:1] == _AUTH_ONLY else opened[33:65])


def reveal_key(vault: Vault, request: ProvisionRequest) -> Secret | None:
    """The activation key; None once it was wiped."""
    if request.keys_sealed is None:
        return None
    opened = vault.open(request.keys_sealed, _context(request.id))
    return Secret(opened[65:].decode()) if opened[:1] == _WHOLE else None


def wipe_key(vault: Vault, request: ProvisionRequest, keys: Keys | None = None) -> str | None:
    """Sealed form of what stays after confirmation; `keys` where they were opened already."""
    if request.keys_sealed is None:
        return None
    keys = keys or open_keys(vault, request)
    if keys is None:
        return None
    if request.reuse_key and keys.seal is not None:
        return vault.seal(_DERIVED + keys.auth + keys.seal, _context(request.id))
    return vault.seal(_AUTH_ONLY + keys.auth, _context(request.id))


class Decoy:
    """A request that nobody has: checking a key against it takes what checking a real one takes."""

    def __init__(self, vault: Vault, entropy: Callable[[int], bytes]) -> None:
        self._vault = vault
        self._sealed = vault.seal(_DERIVED + entropy(96), _context(0))

    def open(self) -> Keys:
        """Keys that fit no activation key."""
        opened = self._vault.open(self._sealed, _context(0))
        return Keys(opened[1:33], opened[33:65])
