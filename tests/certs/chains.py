"""Chains that every verifier takes, and chains that none may take."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from certs.authority import Authority, Issuer
from certs.crl import Crl, Revocation, Revoked, create_crl
from certs.hierarchy import YEAR, Signer, create_issuer, create_root
from certs.keys import ED25519, P256, P384, RSA3072, algorithm_identifier, generate, spki_of
from certs.profile import VALIDITY, Device, Millis, Names, Purpose, Server, key_usage
from certs.trust import Trust
from tests.certs import forge
from tests.certs.forge import DAY, NOW, Recipe

CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH


@dataclass(frozen=True)
class Chain:
    """A leaf in DER, what is between it and the root, and what it is shown for."""

    root: x509.Certificate
    between: tuple[x509.Certificate, ...]
    leaf: bytes
    purpose: Purpose = Purpose.DEVICES
    crl: bytes | None = None

    def verify(self) -> None:
        """Our own verdict: raises `CertsError` unless it is good."""
        issuer = Issuer(self.purpose, self.root, self.between)
        crls = None if self.crl is None else {issuer.id: Crl(self.crl, issuer.certificate)}
        Trust([issuer]).verify(self.leaf, self.purpose, NOW, crls)


def chain(top: Signer, *below: Signer, **changes: object) -> Chain:
    """From the root down to the leaf."""
    *between, leaf = below
    made = Chain(
        top.certificate,
        tuple(one.certificate for one in reversed(between)),
        leaf.certificate.public_bytes(Encoding.DER),
    )
    return replace(made, **changes)  # type: ignore[arg-type]  # fields by name


# ---------------------------------------------------------------- good


def issued(
    names: Names,
    *,
    algorithms: tuple[str, str, str] = (P256, P256, P256),
    now: Millis = NOW,
    validity: Millis = VALIDITY,
    revoked: tuple[Revoked, ...] | None = None,
    permitted: tuple[str, ...] = (),
    excluded_hosts: tuple[str, ...] = (),
) -> Chain:
    """What our own authority makes for `names`; algorithms of root, issuer and leaf."""
    root = create_root("factory", generate(algorithms[0]), min(now, NOW), os.urandom, 40 * YEAR)
    purpose = Purpose.SERVERS if isinstance(names, Server) else Purpose.DEVICES
    options = {"permitted": permitted, "excluded_hosts": excluded_hosts}
    made = create_issuer(
        root,
        "factory",
        purpose,
        generate(algorithms[1]),
        min(now, NOW),
        os.urandom,
        validity=validity + YEAR,
        **options,
    )
    issuer = Issuer(purpose, root.certificate, [made.certificate], made.key)
    authority = Authority(
        root.certificate, [issuer], crl_url="http://crl.example/{issuer}", ocsp_url="http://o.example"
    )
    order = authority.order(names, spki_of(generate(algorithms[2]).public_key()), now, os.urandom, validity=validity)
    crl = None if revoked is None else create_crl(made, revoked, 7, now, now + 7 * DAY)
    return Chain(root.certificate, (made.certificate,), authority.issue(order).der, purpose, crl)


def brought(depth: int) -> Chain:
    """An issuer under authorities that an operator brought, `depth` of them between."""
    top = forge.root("corporate root").made()
    above, between = top, []
    for level in range(depth):
        recipe = forge.root(f"corporate {level}", path_length=depth - level)
        above = recipe.plus((x509.AuthorityKeyIdentifier.from_issuer_public_key(above.key.public_key()), False)).made(
            above
        )
        between.append(above)
    issuer = forge.issuer(above, CLIENT).made(above)
    return chain(top, *between, issuer, forge.device(issuer).made(issuer))


def good() -> Iterator[tuple[str, Callable[[], Chain]]]:
    dev = Device("acme", "dev-1")
    for algorithms in (
        *((one, one, one) for one in (P256, P384, ED25519)),
        *((ca, ca, leaf) for ca, leaf in ((P256, P384), (P256, ED25519), (P384, P256), (P384, ED25519))),
        *((ED25519, ED25519, leaf) for leaf in (P256, P384)),
        (P384, P256, P256),
        (ED25519, P256, P256),
        (P256, ED25519, P384),
        (RSA3072, RSA3072, P256),
        (P256, P256, RSA3072),
    ):
        yield "device-" + "-".join(algorithms), partial(issued, dev, algorithms=algorithms)
    for client_id in ("00:1A:2B:3C:4D:5E", "pump.7", "a", "x" * 64, "A-b_c.d:e", "192.168.0.1", "plant.example.com"):
        yield f"device-{client_id}", partial(issued, Device("acme", client_id))
    for account in ("acme", "a:b:c", "plant.7"):
        yield f"account-{account}", partial(issued, Device(account, None))
    yield "account-of-device", lambda: issued(Device("a:b", "c:d"))
    for names in (
        ("broker.example",),
        ("localhost", "127.0.0.1", "::1"),
        ("10.1.2.3",),
        ("fe80::1",),
        ("a.example", "b.example", "c.example"),
    ):
        yield f"server-{names[0]}", partial(issued, Server(names))
    yield "server-held-to-host", lambda: issued(Server(("mq.plant.example",)), permitted=("plant.example",))
    yield (
        "server-held-to-network",
        lambda: issued(Server(("mq.plant.example", "10.9.8.7")), permitted=("plant.example", "10.0.0.0/8")),
    )
    yield "device-beside-excluded-host", lambda: issued(Device("acme", "pump.7"), excluded_hosts=("broker.example",))
    yield "made-by-a-clock-four-minutes-early", lambda: issued(dev, now=NOW + 240_000)
    yield "last-hour", lambda: issued(dev, now=NOW - VALIDITY + 3_600_000)
    yield "until-after-2050", lambda: issued(dev, validity=30 * YEAR)
    yield "nothing-revoked", lambda: issued(dev, revoked=())
    yield "another-revoked", lambda: issued(dev, revoked=(Revoked(5, NOW), Revoked(1 << 128, NOW - DAY)))
    for depth in (0, 1, 2):
        yield f"brought-{depth}", partial(brought, depth)


# ---------------------------------------------------------------- bad


@dataclass(frozen=True)
class Site:
    """A sound root and issuers to go wrong with."""

    root: Signer
    devices: Signer
    servers: Signer

    @classmethod
    def made(cls) -> Site:
        root = forge.root(path_length=1).made()
        return cls(root, forge.issuer(root, CLIENT).made(root), forge.issuer(root, SERVER).made(root))

    def leaf(self, recipe: Recipe, **changes: object) -> Chain:
        return chain(self.root, self.devices, recipe.made(self.devices), **changes)

    def issuer(self, recipe: Recipe, **changes: object) -> Chain:
        made = recipe.made(self.root)
        return chain(self.root, made, forge.device(made).made(made), **changes)


UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), b"\x05\x00")


def _signed_by_namesake(site: Site) -> Chain:
    namesake = forge.issuer(site.root, CLIENT).made(site.root)
    recipe = forge.device(site.devices)
    return chain(site.root, site.devices, recipe.made(namesake))


def _other_root(site: Site) -> Chain:
    other = forge.root(path_length=1).made()
    return chain(other, site.devices, forge.device(site.devices).made(site.devices))


def _issuer_under_issuer(site: Site) -> Chain:
    below = forge.issuer(site.devices, CLIENT, "below").made(site.devices)
    return chain(site.root, site.devices, below, forge.device(below).made(below))


def _short_root(site: Site) -> Chain:
    top = forge.root("short", path_length=0).made()
    issuer = forge.issuer(top, CLIENT).made(top)
    return chain(top, issuer, forge.device(issuer).made(issuer))


def _old_root(site: Site) -> Chain:
    top = forge.root("old", path_length=1, begin=NOW - 9 * DAY, end=NOW - DAY).made()
    issuer = forge.issuer(top, CLIENT).made(top)
    return chain(top, issuer, forge.device(issuer).made(issuer))


def _device_as_issuer(site: Site) -> Chain:
    first = forge.device(site.devices).made(site.devices)
    return chain(site.root, site.devices, first, forge.device(first, "dev-2").made(first))


def _self_signed(site: Site) -> Chain:
    recipe = forge.device(site.devices)
    return chain(site.root, site.devices, recipe.made())


def _no_issuer(site: Site) -> Chain:
    other = forge.issuer(site.root, CLIENT, "another").made(site.root)
    return chain(site.root, other, forge.device(site.devices).made(site.devices))


def _changed_name(site: Site) -> Chain:
    made = site.leaf(forge.device(site.devices, "dev-1"))
    return replace(made, leaf=made.leaf.replace(b"dev-1", b"dev-2"))


def _rsa_site(**changes: Any) -> Callable[[Site], Chain]:
    def build(site: Site) -> Chain:
        recipe = forge.issuer(site.root, CLIENT, key=rsa.generate_private_key(65537, 3072))
        issuer = recipe.made(site.root)
        return chain(site.root, issuer, forge.device(issuer, **changes).made(issuer))

    return build


def _revoked(reason: Revocation) -> Callable[[Site], Chain]:
    def build(site: Site) -> Chain:
        made = forge.device(site.devices).made(site.devices)
        crl = create_crl(site.devices, [Revoked(made.certificate.serial_number, NOW - DAY, reason)], 1, NOW, NOW + DAY)
        return chain(site.root, site.devices, made, crl=crl)

    return build


def _held(recipe: Callable[[Signer], Recipe], *permitted: str) -> Callable[[Site], Chain]:
    def build(site: Site) -> Chain:
        key = generate(P256)
        issuer = create_issuer(
            site.root, "held", Purpose.SERVERS, key, NOW, os.urandom, permitted=permitted, validity=DAY
        )
        return chain(site.root, issuer, recipe(issuer).made(issuer), purpose=Purpose.SERVERS)

    return build


def _address_of_device(site: Site) -> Chain:
    issuer = create_issuer(site.root, "made", Purpose.DEVICES, generate(P256), NOW, os.urandom, validity=DAY)
    recipe = forge.leaf(issuer, CLIENT, "10.0.0.1", x509.IPAddress(ipaddress.ip_address("10.0.0.1")))
    return chain(site.root, issuer, recipe.made(issuer))


def _as_host(host: str) -> Callable[[Signer], Recipe]:
    return lambda above: forge.server(above, host)


def _as_address(address: str) -> Callable[[Signer], Recipe]:
    return lambda above: forge.leaf(above, SERVER, address, x509.IPAddress(ipaddress.ip_address(address)))


def _truncated(site: Site) -> Chain:
    made = site.leaf(forge.device(site.devices))
    return replace(made, leaf=made.leaf[:-20])


def bad() -> Iterator[tuple[str, str, Callable[[Site], Chain]]]:
    yield "signed-by-a-namesake-of-the-issuer", "signature", _signed_by_namesake
    yield "issuer-of-another-root-of-that-name", "chain", _other_root
    yield "self-signed", "signature", _self_signed
    yield "issuer-missing", "issuer", _no_issuer
    yield "device-acts-as-issuer", "ca", _device_as_issuer
    yield "expired", "expired", lambda s: s.leaf(forge.device(s.devices, end=NOW - 1000))
    yield "not-yet-valid", "not-yet-valid", lambda s: s.leaf(forge.device(s.devices, begin=NOW + DAY))
    yield (
        "ends-before-it-begins",
        "not-yet-valid",
        lambda s: s.leaf(forge.device(s.devices, begin=NOW + DAY, end=NOW - DAY)),
    )
    yield "issuer-expired", "expired", lambda s: s.issuer(forge.issuer(s.root, CLIENT, end=NOW - 1000))
    yield "issuer-not-yet-valid", "not-yet-valid", lambda s: s.issuer(forge.issuer(s.root, CLIENT, begin=NOW + DAY))
    yield "root-expired", "expired", _old_root
    yield (
        "issuer-is-no-authority",
        "ca",
        lambda s: s.issuer(
            forge.issuer(s.root, CLIENT).plus((x509.BasicConstraints(ca=False, path_length=None), True))
        ),
    )
    yield (
        "issuer-without-basic-constraints",
        "ca",
        lambda s: s.issuer(forge.issuer(s.root, CLIENT).without(x509.BasicConstraints)),
    )
    yield "issuer-of-version-1", "ca", lambda s: s.issuer(forge.issuer(s.root, CLIENT).with_(version=None))
    yield (
        "issuer-may-not-sign-certificates",
        "usage",
        lambda s: s.issuer(forge.issuer(s.root, CLIENT).plus((key_usage(), True))),
    )
    yield (
        "issuer-for-another-usage",
        "usage",
        lambda s: s.issuer(forge.issuer(s.root, ExtendedKeyUsageOID.EMAIL_PROTECTION)),
    )
    yield "issuer-under-issuer", "chain", _issuer_under_issuer
    yield "root-allows-no-issuer", "chain", _short_root
    yield (
        "issuer-names-another-root",
        "chain",
        lambda s: s.issuer(forge.issuer(s.root, CLIENT).with_(issuer_name="nobody")),
    )
    yield (
        "leaf-names-another-issuer",
        "signature",
        lambda s: s.leaf(forge.device(s.devices).with_(issuer_name="nobody")),
    )
    yield "bad-signature", "signature", lambda s: s.leaf(forge.device(s.devices).with_(sign=forge.flipped))
    yield "bad-signature-of-issuer", "chain", lambda s: s.issuer(forge.issuer(s.root, CLIENT).with_(sign=forge.flipped))
    yield "name-changed-afterwards", "signature", _changed_name
    yield "empty-signature", "signature", lambda s: s.leaf(forge.device(s.devices).with_(sign=lambda key, data: b""))
    yield (
        "two-signature-algorithms",
        "signature",
        lambda s: s.leaf(
            forge.device(s.devices).with_(outer_algorithm=algorithm_identifier(generate(P384).public_key()))
        ),
    )
    yield (
        "sha-1",
        "signature",
        lambda s: s.leaf(forge.device(s.devices).with_(algorithm=forge.SHA1_ECDSA, sign=forge.sha1)),
    )
    yield (
        "sha-1-of-issuer",
        "strength",
        lambda s: s.issuer(forge.issuer(s.root, CLIENT).with_(algorithm=forge.SHA1_ECDSA, sign=forge.sha1)),
    )
    yield "sha-1-with-rsa", "signature", _rsa_site(algorithm=forge.SHA1_RSA, sign=forge.sha1)
    yield "rsa-1024", "profile", lambda s: s.leaf(forge.device(s.devices, key=rsa.generate_private_key(65537, 1024)))
    yield (
        "rsa-1024-of-issuer",
        "strength",
        lambda s: s.issuer(forge.issuer(s.root, CLIENT, key=rsa.generate_private_key(65537, 1024))),
    )
    yield (
        "curve-of-192-bits",
        "profile",
        lambda s: s.leaf(forge.device(s.devices, key=ec.generate_private_key(ec.SECP192R1()))),
    )
    yield "address-excluded-for-devices", "profile", _address_of_device
    yield "host-beyond-constraint", "profile", _held(_as_host("broker.example"), "plant.example")
    yield "address-beyond-constraint", "profile", _held(_as_address("192.168.0.1"), "plant.example", "10.0.0.0/8")
    yield "address-of-the-other-version", "profile", _held(_as_address("fe80::1"), "plant.example", "10.0.0.0/8")
    yield "address-where-only-hosts", "profile", _held(_as_address("10.0.0.1"), "plant.example")
    yield "host-with-constraint-as-ending", "profile", _held(_as_host("notplant.example"), "plant.example")
    yield (
        "uri-constraint-on-devices",
        "constraints",
        lambda s: s.issuer(
            forge.issuer(s.root, CLIENT).plus(
                (x509.NameConstraints(None, [x509.UniformResourceIdentifier(".example")]), True)
            )
        ),
    )
    yield (
        "device-shown-as-server",
        "usage",
        lambda s: s.leaf(forge.device(s.devices), purpose=Purpose.SERVERS),
    )
    yield (
        "server-shown-as-device",
        "usage",
        lambda s: chain(s.root, s.servers, forge.server(s.servers).made(s.servers)),
    )
    yield (
        "server-by-device-issuer",
        "usage",
        lambda s: s.leaf(forge.server(s.devices), purpose=Purpose.SERVERS),
    )
    yield (
        "device-by-server-issuer",
        "usage",
        lambda s: chain(s.root, s.servers, forge.device(s.servers).made(s.servers)),
    )
    yield "unknown-critical-extension", "profile", lambda s: s.leaf(forge.device(s.devices).plus((UNKNOWN, True)))
    yield (
        "unknown-critical-extension-of-issuer",
        "ca",
        lambda s: s.issuer(forge.issuer(s.root, CLIENT).plus((UNKNOWN, True))),
    )
    yield "revoked", "revoked", _revoked(Revocation.UNSPECIFIED)
    yield "revoked-for-its-key", "revoked", _revoked(Revocation.KEY_COMPROMISE)
    yield "truncated", "encoding", _truncated
