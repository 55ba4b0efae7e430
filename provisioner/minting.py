"""What a claim gets: a password made here, or a certificate on the device's own key.

1. Which of the two the request prescribes; the claim only says whether it can take that (section 5).
2. The identity of a claim is `password` or its key (section 9, rule 3): the same one gets the same credential until it
   is confirmed. A key belongs to the generation it was first used for (rule 4), and to one device.
3. Nothing here is committed, and no certificate is signed before its order was: until then an offer carries a draft.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from certs.csr import Csr
from provisioner import policy
from provisioner.bursts import Burst
from provisioner.certification import Certification, Ordered
from provisioner.errors import Reason, Rejected, Unavailable
from provisioner.handover import Vault, new_password
from provisioner.jobs import LEASE
from provisioner.keys import secret_context
from provisioner.lifecycle import Phase, State
from provisioner.model import (
    CIK_IDENTITY,
    PASSWORD_IDENTITY,
    Certificate,
    Claim,
    Credential,
    DeviceCertificate,
    Dossier,
    Kind,
    Millis,
    Offer,
    Secret,
    evolve,
)
from provisioner.ports import Entropy, Store

NO_PASSWORD = Secret("")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a claim is for: its identity, and the CSR where that is a key."""

    identity: str
    csr: Csr | None = None

    def is_other_than(self, credential: Credential) -> bool:
        """Whether it is for another key than the one of this credential; secrets made here are all alike."""
        return (self.csr is not None or credential.is_certificate) and self.identity != credential.identity


CIK = Wanted(CIK_IDENTITY)
"""Exosite's Client Interface Key: 40 hex characters. Its device knows no user name but its own serial number."""

_MAKERS: Mapping[str, Callable[[Entropy], str]] = {
    PASSWORD_IDENTITY: new_password,
    CIK_IDENTITY: lambda entropy: entropy(20).hex(),
}


@dataclass(frozen=True, slots=True)
class Login:
    """What an offer carries: a password, or a certificate (a draft until `certificate` is committed)."""

    password: Secret = NO_PASSWORD
    shown: DeviceCertificate | None = None


@dataclass(frozen=True, slots=True)
class Minted:
    """A new generation and its login; `ordered` is to be committed with it."""

    credential: Credential
    login: Login
    ordered: Ordered | None = None


class Minting:
    """`certification` None: this installation issues no certificates."""

    def __init__(self, store: Store, vault: Vault, certification: Certification | None, entropy: Entropy) -> None:
        self._certificates = store.certificates
        self._vault = vault
        self._certification = certification
        self._parsed: Burst[bytes, Csr] = Burst(lambda csr: self._issuing().parse(csr))
        self._issued: Burst[Ordered, DeviceCertificate] = Burst(lambda ordered: self._issuing().issue(ordered))
        self._entropy = entropy

    async def wanted(self, claim: Claim, kind: Kind) -> Wanted:
        """What the claim is for. Raises `unsupported`, `bad-csr`, `Unavailable`."""
        policy.check_kind(claim, kind)
        if kind is Kind.PASSWORD or claim.csr is None:
            return Wanted(PASSWORD_IDENTITY)
        self._issuing()
        csr = await self._parsed.ask(claim.csr)
        return Wanted(csr.key_id, csr)

    async def check_key(self, wanted: Wanted, dossier: Dossier) -> None:
        """Whether this key may get a new generation: `superseded`, `already-provisioned`, `bad-csr`.

        The commit of the mint refuses a used one by itself; this tells why.
        """
        if wanted.csr is None or (used := await self._certificates.find_key(wanted.identity)) is None:
            return
        request = dossier.request
        if (used.device_broker, used.client_id) != (request.device_broker, request.client_id):
            raise Rejected(Reason.BAD_CSR, "another device has this key: generate a new one", step="mint")
        proved = request.phase in (Phase.CONFIRMED, Phase.RENEWING) and used.generation == request.proved_generation
        raise Rejected(
            Reason.ALREADY_PROVISIONED if proved else Reason.SUPERSEDED,
            "this key has had its certificate: generate a new one",
            step="mint",
            generation=used.generation,
        )

    def mint(self, dossier: Dossier, wanted: Wanted, now: Millis) -> Minted:
        """The next generation. Raises `bad-csr`, `Unavailable`."""
        credential = _next_generation(dossier, wanted, now)
        if wanted.csr is not None:
            ordered = self._issuing().order(credential, wanted.csr, now, dossier.request.validity)
            credential = evolve(credential, renew_on=_renew_on(ordered.certificate, now))
            return Minted(credential, Login(shown=self._issuing().draft(ordered)), ordered)
        password = Secret(_MAKERS[wanted.identity](self._entropy))
        credential = evolve(
            credential,
            secret_sealed=self._vault.seal(password.reveal().encode(), secret_context(credential)),
            secret_hash=self._vault.fingerprint(password.reveal(), f"{credential.device_broker}|{credential.username}"),
        )
        return Minted(credential, Login(password))

    async def completed(self, offer: Offer, minted: Minted) -> Offer:
        """The offer of what was committed: with the certificate itself. Raises `Unavailable`."""
        if minted.ordered is None:
            return offer
        return replace(offer, certificate=await self._issued.ask(minted.ordered))

    async def login_of(self, credential: Credential) -> Login | None:
        """What an offer of this credential carries, each time the same; None: it is not kept any more."""
        if not credential.is_certificate:
            if credential.secret_sealed is None:
                return None
            return Login(Secret(self._vault.open(credential.secret_sealed, secret_context(credential)).decode()))
        certificate = await self._certificates.find_of(credential)
        return None if certificate is None else Login(shown=self._issuing().issue(Ordered.again(certificate)))

    def _issuing(self) -> Certification:
        if self._certification is None:
            raise Unavailable("this provisioner issues no certificates", retry_after=policy.MAX_RETRY)
        return self._certification


def _renew_on(certificate: Certificate, now: Millis) -> Millis:
    """When two thirds of its life are over: then a device still has a third of it to be reached.

    Its life begins now; `notBefore` lies before that, for devices whose clock is late.
    """
    return now + (certificate.not_after - now) * 2 // 3


def _next_generation(dossier: Dossier, wanted: Wanted, now: Millis) -> Credential:
    request = dossier.request
    generation = dossier.last_generation + 1
    return Credential(
        device_broker=request.device_broker,
        client_id=request.client_id,
        generation=generation,
        request_id=request.id,
        account_name=request.account_name,
        username=policy.credential_username(request.account_name, request.client_id, generation),
        coupling=request.coupling,
        identity=wanted.identity,
        secret_sealed=None,
        secret_hash="",
        state=State.MINTED,
        minted_on=now,
        confirm_before=now + request.confirm_time,
        due_on=now + LEASE,
        topics=request.topics,
        bound_to=None if dossier.credential is None else dossier.credential.bound_to,
    )
