"""Activation keys at rest (wire contract, section 9, rule 8).

1. Until confirmation the activation key itself is kept sealed: an operator may have to print it again.
2. On confirmation it is wiped; `K_auth` stays for late acks, `K_seal` only where the request may reuse the key.
3. What is sealed is bound to its request.
"""

from __future__ import annotations

import os

from provisioner.handover import Keys, Vault, derive
from provisioner.model import ProvisionRequest, Secret

_WHOLE, _DERIVED, _AUTH_ONLY = b"A", b"K", b"k"


def _context(request_id: int) -> str:
    return f"request|{request_id}"


def seal_key(vault: Vault, request_id: int, activation_key: Secret) -> str:
    """Sealed form of a fresh activation key."""
    return vault.seal(_WHOLE + activation_key.reveal().encode(), _context(request_id))


def open_keys(vault: Vault, request: ProvisionRequest) -> Keys | None:
    """The derived keys; None: a keyless request, or one whose key was wiped."""
    if request.keys_sealed is None:
        return None
    opened = vault.open(request.keys_sealed, _context(request.id))
    if opened[:1] == _WHOLE:
        return derive(opened[1:].decode(), request.provision_username, request.client_id)
    return Keys(opened[1:33], opened[33:65] if opened[:1] == _DERIVED else None)


def reveal_key(vault: Vault, request: ProvisionRequest) -> Secret | None:
    """The activation key; None once it was wiped."""
    if request.keys_sealed is None:
        return None
    opened = vault.open(request.keys_sealed, _context(request.id))
    return Secret(opened[1:].decode()) if opened[:1] == _WHOLE else None


def wipe_key(vault: Vault, request: ProvisionRequest) -> str | None:
    """Sealed form of what stays after confirmation."""
    keys = open_keys(vault, request)
    if keys is None:
        return None
    if request.reuse_key and keys.seal is not None:
        return vault.seal(_DERIVED + keys.auth + keys.seal, _context(request.id))
    return vault.seal(_AUTH_ONLY + keys.auth, _context(request.id))


class Decoy:
    """A request that nobody has: checking a key against it takes what checking a real one takes."""

    def __init__(self, vault: Vault) -> None:
        self._vault = vault
        self._sealed = vault.seal(_WHOLE + os.urandom(32).hex()[:32].encode(), _context(0))

    def open(self, user: str, client_id: str) -> Keys:
        """Keys that fit no activation key."""
        return derive(self._vault.open(self._sealed, _context(0))[1:].decode(), user, client_id)
