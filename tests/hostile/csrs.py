"""Certificate requests that get no certificate, each with the code it is refused with (H-2).

They are made anew from fixed scalars and fixed places to damage; only the primes of the two weak RSA keys, which take
long to find, are in a file.
"""

from __future__ import annotations

import base64
import ipaddress
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID as Usage

from certs import der
from certs.keys import ED25519, P256, P384, algorithm_identifier, generate, signature_of
from certs.profile import key_usage, subject_of
from tests.certs.forge import SHA1_ECDSA, request, sha1, text

P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
EXTENSION_REQUEST = x509.ObjectIdentifier("1.2.840.113549.1.9.14")
CHALLENGE = x509.ObjectIdentifier("1.2.840.113549.1.9.7")


@dataclass(frozen=True)
class Hostile:
    """A request as a device would send it; `rsa` where only a policy that takes RSA would look closer."""

    name: str
    text: str
    code: str
    rsa: bool = False


def assembled(
    key: Any,
    *,
    version: bytes = b"\x02\x01\x00",
    subject: bytes | None = None,
    spki: bytes | None = None,
    attributes: bytes = b"",
    algorithm: bytes | None = None,
    signature: bytes | None = None,
    tail: bytes = b"",
) -> bytes:
    """A request put together by hand, honest where nothing else is said."""
    public = key.public_key()
    info = der.sequence(
        version,
        subject_of("dev-1").public_bytes() if subject is None else subject,
        spki or public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        der.tlv(0xA0, attributes),
    )
    signed = signature_of(key, info) if signature is None else signature
    return der.sequence(info, algorithm or algorithm_identifier(public), der.tlv(0x03, b"\x00", signed)) + tail


def everything() -> list[Hostile]:
    return [*keys(), *weak_keys(), *signatures(), *structures(), *encodings(), *requests()]


def keys() -> Iterator[Hostile]:
    """Kinds of keys that are not on offer."""
    curves: list[ec.EllipticCurve] = [ec.SECP224R1(), ec.SECP521R1(), ec.SECP192R1(), ec.SECP256K1()]
    curves += [ec.BrainpoolP256R1(), ec.BrainpoolP384R1(), ec.BrainpoolP512R1()]
    for curve in curves:
        yield Hostile(f"curve-{curve.name}", text(request(ec.generate_private_key(curve))), "key")
    yield Hostile("ed448", text(request(ed448.Ed448PrivateKey.generate())), "key")
    for size in (1024, 2048):
        made = request(rsa.generate_private_key(65537, size))
        yield Hostile(f"rsa-{size}", text(made), "key")
        yield Hostile(f"rsa-{size}-where-rsa-is-taken", text(made), "key", rsa=True)
    yield Hostile("rsa-3072-where-it-is-not-taken", text(request(rsa_key(*primes("roca")))), "key")
    yield Hostile("rsa-exponent-17", text(request(rsa_key(*primes("roca"), exponent=17))), "key", rsa=True)
    yield Hostile("dsa", text(request(dsa.generate_private_key(1024))), "key")
    ours = generate(P256)
    point = ours.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    x25519 = der.sequence(der.sequence(bytes.fromhex("06032b656e")), der.tlv(3, b"\x00", bytes(32)))
    unheard = der.sequence(der.sequence(bytes.fromhex("06032b0601")), der.tlv(3, b"\x00", bytes(32)))
    yield Hostile("x25519", text(assembled(ours, spki=x25519)), "key")
    yield Hostile("unheard-of-algorithm", text(assembled(ours, spki=unheard)), "key")
    parameters = der.sequence(der.integer(1), der.sequence(bytes.fromhex("06072a8648ce3d0101"), der.integer(23)))
    ec_key = bytes.fromhex("06072a8648ce3d0201")
    named = bytes.fromhex("06082a8648ce3d030107")
    for name, curve_der, shown, code in (
        ("curve-by-parameters", parameters, point, "structure"),
        ("curve-null", b"\x05\x00", point, "key"),
        ("curve-absent", b"", point, "structure"),
        ("point-at-infinity", named, b"\x00", "key"),
        ("point-off-the-curve", named, point[:-1] + bytes([point[-1] ^ 1]), "key"),
        ("point-all-zero", named, b"\x04" + bytes(64), "key"),
        ("point-too-short", named, point[:-1], "key"),
        ("point-hybrid", named, bytes([6 + (point[-1] & 1)]) + point[1:], "structure"),
        ("point-of-p-384-on-p-256", named, b"\x04" + bytes(range(96)), "key"),
    ):
        spki = der.sequence(der.sequence(ec_key, curve_der), der.tlv(3, b"\x00", shown))
        yield Hostile(name, text(assembled(ours, spki=spki)), code)


def weak_keys() -> Iterator[Hostile]:
    """Keys that everybody holds."""
    for scalar in (1, 2, 3, 64, -1, -2):
        key = ec.derive_private_key(scalar % P256_ORDER, ec.SECP256R1())
        yield Hostile(f"p-256-private-key-{scalar}", text(request(key)), "weak-key")
    yield Hostile("p-384-private-key-1", text(request(ec.derive_private_key(1, ec.SECP384R1()))), "weak-key")
    for source, number, curve in (
        ("rfc-9500", "e6cb5bdd80aa45ae9c95e8c15476679ffec953c16851e711e743939589c64fc1", ec.SECP256R1()),
        (
            "rfc-9500",
            "e2563328dfabf68188606b91324281c1d58a4456431b09d510b35fecc9f307ca1822846fa2671371a9a81bac0e35749d",
            ec.SECP384R1(),
        ),
        ("rfc-7517", base64.urlsafe_b64decode("870MB6gfuTJ4HtUnUvYMyJpr5eUZNP4Bk43bVdj3eAE=").hex(), ec.SECP256R1()),
        ("rfc-7515", base64.urlsafe_b64decode("jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI=").hex(), ec.SECP256R1()),
    ):
        known: Any = ec.derive_private_key(int(number, 16), curve)
        yield Hostile(f"published-{source}-{curve.name}", text(request(known)), "weak-key")
    for test, seed in enumerate(
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
        ),
        1,
    ):
        key_8032 = ed25519.Ed25519PrivateKey.from_private_bytes(bytes.fromhex(seed))
        yield Hostile(f"published-rfc-8032-test-{test}", text(request(key_8032)), "weak-key")
    yield from small_orders()
    for name in ("fermat", "roca"):
        yield Hostile(f"rsa-{name}", text(request(rsa_key(*primes(name)))), "weak-key", rsa=True)


def small_orders() -> Iterator[Hostile]:
    """Ed25519 points under which anybody can prove possession: with S = 0 and R = A or 0 some message verifies."""
    ours = generate(ED25519)
    order_8 = "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"
    prefix = der.sequence(bytes.fromhex("06032b6570"))
    for name, point in (
        ("identity", bytes([1]) + bytes(31)),
        ("order-4", bytes(32)),
        ("order-8", bytes.fromhex(order_8)),
        ("order-8-negative", bytes.fromhex(order_8[:-2] + "85")),
    ):
        for attempt in range(64):  # A has order 8 at most, so one subject in eight makes the proof hold
            forged = assembled(
                ours,
                subject=subject_of(f"dev-{attempt}").public_bytes(),
                spki=der.sequence(prefix, der.tlv(3, b"\x00", point)),
                signature=(bytes([1]) + bytes(31)) + bytes(32),
            )
            if x509.load_der_x509_csr(forged).is_signature_valid:
                yield Hostile(f"ed25519-{name}-proof-forged", text(forged), "weak-key")
                break
        else:
            yield Hostile(f"ed25519-{name}", text(forged), "signature")


def primes(name: str) -> tuple[int, int]:
    p, q = json.loads((Path(__file__).parent / "rsa_primes.json").read_text(encoding="ascii"))[name]
    return int(p, 16), int(q, 16)


def rsa_key(p: int, q: int, exponent: int = 65537) -> rsa.RSAPrivateKey:
    public = rsa.RSAPublicNumbers(exponent, p * q)
    d = pow(exponent, -1, (p - 1) * (q - 1))
    numbers = rsa.RSAPrivateNumbers(p, q, d, d % (p - 1), d % (q - 1), pow(q, -1, p), public)
    return numbers.private_key(unsafe_skip_rsa_key_validation=True)


def signatures() -> Iterator[Hostile]:
    """Proofs of possession that prove nothing."""
    for algorithm in (P256, P384, ED25519):
        key, other = generate(algorithm), generate(algorithm)
        size = 64 if algorithm == ED25519 else 96
        for name, signature in (
            ("by-another-key", signature_of(other, b"x")),
            ("of-another-text", signature_of(key, b"x")),
            ("empty", b""),
            ("zeros", bytes(size)),
            ("ones", b"\xff" * size),
            ("r-and-s-zero", der.sequence(der.integer(0), der.integer(0))),
            ("r-and-s-one", der.sequence(der.integer(1), der.integer(1))),
            ("r-and-s-order", der.sequence(der.integer(P256_ORDER), der.integer(P256_ORDER))),
        ):
            yield Hostile(f"{algorithm}-signature-{name}", text(assembled(key, signature=signature)), "signature")
        honest = request(key).public_bytes(Encoding.DER)
        yield Hostile(
            f"{algorithm}-signature-damaged", text(honest[:-9] + bytes([honest[-9] ^ 1]) + honest[-8:]), "signature"
        )
        yield Hostile(f"{algorithm}-subject-changed", text(honest.replace(b"dev-1", b"dev-2")), "signature")
        wrong = algorithm_identifier(generate(P384 if algorithm != P384 else P256).public_key())
        yield Hostile(f"{algorithm}-signature-of-another-algorithm", text(assembled(key, algorithm=wrong)), "signature")
    key = generate(P256)
    info = x509.load_der_x509_csr(assembled(key)).tbs_certrequest_bytes
    yield Hostile("sha-1", text(assembled(key, algorithm=SHA1_ECDSA, signature=sha1(key, info))), "signature")
    unheard = der.sequence(bytes.fromhex("06032b0601"))
    yield Hostile("unheard-of-signature-algorithm", text(assembled(key, algorithm=unheard)), "signature")
    honest = request(key).public_bytes(Encoding.DER)
    bits = len(honest) * 8
    for place in range(40):
        bit = place * bits // 40 + place
        damaged = bytearray(honest)
        damaged[bit // 8] ^= 1 << bit % 8
        yield Hostile(f"bit-flipped-after-{place}-fortieths", text(bytes(damaged)), "*")


def structures() -> Iterator[Hostile]:
    """Bytes that are no PKCS#10, or more of it than anybody needs."""
    key = generate(P256)
    honest = request(key).public_bytes(Encoding.DER)
    mark = len(honest) - len(x509.load_der_x509_csr(honest).signature) - 3  # where the BIT STRING begins
    for part in range(1, 20):
        yield Hostile(f"cut-after-{part}-twentieths", text(honest[: len(honest) * part // 20]), "structure")
    for name, broken in (
        ("nothing", b""),
        ("empty-sequence", b"\x30\x00"),
        ("null", b"\x05\x00"),
        ("zeros", bytes(300)),
        ("ones", b"\xff" * 300),
        ("junk-after", honest + b"\x00"),
        ("twice", honest + honest),
        ("length-of-four-gigabytes", b"\x30\x84\xff\xff\xff\xff" + honest[4:]),
        ("length-of-128-bytes", b"\x30\xff" + honest[2:]),
        ("indefinite-length", b"\x30\x80" + honest[4:] + b"\x00\x00"),
        ("length-not-shortest", b"\x30\x83\x00" + honest[2:]),
        ("nested-1000-deep", _nested(1000)),
        ("wrapped", der.sequence(honest)),
        ("version-1", assembled(key, version=b"\x02\x01\x01")),
        ("version-negative", assembled(key, version=b"\x02\x01\xff")),
        ("version-huge", assembled(key, version=b"\x02\x10" + b"\x7f" * 16)),
        ("version-missing", assembled(key, version=b"")),
        ("subject-missing", assembled(key, subject=b"")),
        ("signature-not-a-bit-string", honest[:mark] + b"\x04" + honest[mark + 1 :]),
        ("private-key", key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())),
        ("public-key", key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)),
    ):
        yield Hostile(f"der-{name}", text(broken), "structure")
    challenge = der.sequence(der.object_identifier(CHALLENGE), der.tlv(0x31, der.tlv(0x0C, b"secret")))
    several = [challenge.replace(b"secret", b"%06d" % number) for number in range(9)]
    yield Hostile("nine-attributes", text(assembled(key, attributes=b"".join(several))), "structure")
    many = b"".join(
        der.sequence(der.object_identifier(CHALLENGE), der.tlv(0x31, der.tlv(0x0C, b""))) for _ in range(120)
    )
    yield Hostile("attribute-bomb", text(assembled(key, attributes=many)), "structure")
    no_value = der.sequence(der.object_identifier(EXTENSION_REQUEST), b"\x31\x00")
    yield Hostile("extensions-without-value", text(assembled(key, attributes=no_value)), "structure")
    ping = der.extension(
        x509.Extension(x509.TLSFeature.oid, False, x509.TLSFeature([x509.TLSFeatureType.status_request]))
    )
    yield Hostile("extension-twice", text(_asking(key, ping + ping)), "structure")
    odd = b"".join(
        der.sequence(
            der.object_identifier(x509.ObjectIdentifier(f"1.3.6.1.4.1.55555.{number}")), der.tlv(4, b"\x05\x00")
        )
        for number in range(100)
    )
    yield Hostile("extension-bomb", text(_asking(key, odd)), "structure")
    names = x509.SubjectAlternativeName([x509.DNSName(f"{number}.example") for number in range(100)])
    yield Hostile("name-bomb", text(request(key, extensions=[(names, False)])), "structure")
    broken_names = der.sequence(
        der.object_identifier(x509.SubjectAlternativeName.oid), der.tlv(4, b"\x30\x05\x82\x09ab")
    )
    yield Hostile("names-cut-short", text(_asking(key, broken_names)), "structure")
    wide = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATIONAL_UNIT_NAME, "x" * 60) for _ in range(60)])
    yield Hostile("subject-bomb", text(request(key, wide)), "too-big")


def _asking(key: Any, extensions: bytes) -> bytes:
    value = der.tlv(0x31, der.sequence(extensions))
    return assembled(key, attributes=der.sequence(der.object_identifier(EXTENSION_REQUEST), value))


def _nested(depth: int) -> bytes:
    made = b""
    for _ in range(depth):
        made = der.sequence(made)
        if len(made) > 2900:
            break
    return made


def encodings() -> Iterator[Hostile]:
    """Text that is neither PEM nor base64, or more than one thing."""
    made = request()
    plain = text(made)
    pem = made.public_bytes(Encoding.PEM).decode()
    for label in (
        "CERTIFICATE",
        "PRIVATE KEY",
        "EC PRIVATE KEY",
        "PUBLIC KEY",
        "X509 CRL",
        "PKCS7",
        "certificate request",
    ):
        yield Hostile(f"label-{label}", pem.replace("CERTIFICATE REQUEST", label), "encoding")
    other = request().public_bytes(Encoding.PEM).decode()
    for name, sent in (
        ("two-requests", pem + other),
        ("junk-before", "hello\n" + pem),
        ("junk-after", pem + "hello\n"),
        ("key-after", pem + "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"),
        ("headers", pem.replace("-----\n", "-----\nProc-Type: 4,ENCRYPTED\n\n", 1)),
        ("no-end", pem.split("-----END")[0]),
        ("no-begin", pem.split("-----\n", 1)[1]),
        ("labels-differ", pem.replace("END CERTIFICATE", "END NEW CERTIFICATE")),
        ("dashes", "-" * 200),
        ("only-labels", "-----BEGIN CERTIFICATE REQUEST-----\n-----END CERTIFICATE REQUEST-----\n"),
        ("nul-inside", plain[:50] + "\x00" + plain[51:]),
        ("newlines-inside", plain[:64] + "\n" + plain[64:]),
        ("blank-inside", plain[:50] + " " + plain[50:]),
        ("byte-order-mark", "\ufeff" + plain),
        ("full-width-letters", plain.replace("M", "\uff2d", 1)),
        ("lone-surrogate", plain[:50] + "\ud800" + plain[51:]),
        ("padding-missing", (plain + "==").rstrip("=")[:-1]),
        ("padding-inside", plain[:48] + "==" + plain[50:]),
        ("url-alphabet", "_" + plain[1:]),
        ("pem-in-base64-url", base64.urlsafe_b64encode(pem.encode() + b"\xff\xff\xff").decode()),
        ("json", '{"csr": "' + plain + '"}'),
        ("html", "<script>alert(1)</script>"),
        ("escape-codes", "\x1b[2J\x1b[31m" + plain),
        ("sql", "'; DROP TABLE credentials; --"),
    ):
        yield Hostile(name, sent, "encoding")
    yield Hostile("pem-in-base64", base64.b64encode(pem.encode()).decode(), "structure")
    yield Hostile("one-over-the-limit", "A" * 4097, "too-big")
    yield Hostile("a-megabyte", "A" * 1_000_000, "too-big")
    yield Hostile("a-megabyte-of-blanks-around", " " * 1_000_000 + pem, "too-big")
    yield Hostile("a-megabyte-of-dashes", "-" * 1_000_000, "too-big")
    yield Hostile("blanks-and-newlines", "\n \n" * 1000, "encoding")


def requests() -> Iterator[Hostile]:
    """Sound requests for what a device never gets."""
    key = generate(P256)
    critical_unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), b"\x05\x00")
    network = x509.IPAddress(ipaddress.ip_network("10.0.0.0/8"))
    asked: list[tuple[str, x509.ExtensionType, bool]] = [
        ("authority", x509.BasicConstraints(ca=True, path_length=None), True),
        ("authority-not-critical", x509.BasicConstraints(ca=True, path_length=None), False),
        ("authority-with-path", x509.BasicConstraints(ca=True, path_length=3), True),
        ("signing-certificates", key_usage(signs_certificates=True), True),
        ("constraints", x509.NameConstraints([network], None), True),
        ("unknown-critical", critical_unknown, True),
        *(
            (f"usage-{name}", x509.ExtendedKeyUsage([oid]), False)
            for name, oid in (
                ("server", Usage.SERVER_AUTH),
                ("any", Usage.ANY_EXTENDED_KEY_USAGE),
                ("code", Usage.CODE_SIGNING),
                ("mail", Usage.EMAIL_PROTECTION),
                ("time", Usage.TIME_STAMPING),
                ("ocsp", Usage.OCSP_SIGNING),
            )
        ),
        ("usages-client-and-server", x509.ExtendedKeyUsage([Usage.CLIENT_AUTH, Usage.SERVER_AUTH]), False),
        *(
            (f"name-{name}", x509.SubjectAlternativeName(names), False)
            for name, names in (
                ("of-another-device", [x509.UniformResourceIdentifier("urn:prov:acme:dev-2")]),
                ("of-another-account", [x509.UniformResourceIdentifier("urn:prov:other:dev-1")]),
                ("of-the-account", [x509.UniformResourceIdentifier("urn:prov:acme")]),
                ("own-and-another", [x509.DNSName("dev-1"), x509.DNSName("dev-2")]),
                ("own-in-capitals", [x509.DNSName("DEV-1")]),
                ("of-the-broker", [x509.DNSName("broker.example")]),
                ("wildcard", [x509.DNSName("*")]),
                ("address", [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
                ("mail", [x509.RFC822Name("root@example.com")]),
                ("directory", [x509.DirectoryName(subject_of("dev-1"))]),
                ("registered", [x509.RegisteredID(x509.ObjectIdentifier("1.2.3"))]),
                ("other", [x509.OtherName(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2.3"), b"\x0c\x05admin")]),
                ("url", [x509.UniformResourceIdentifier("https://broker.example/dev-1")]),
            )
        ),
    ]
    for name, value, critical in asked:
        yield Hostile(f"asks-for-{name}", text(request(key, extensions=[(value, critical)])), "request")
    crl_only = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
    yield Hostile("asks-for-signing-crls", text(request(key, extensions=[(crl_only, True)])), "request")
    sha512 = request(key, extensions=[(x509.BasicConstraints(ca=True, path_length=0), True)], digest=hashes.SHA512())
    yield Hostile("asks-for-authority-with-sha-512", text(sha512), "request")
