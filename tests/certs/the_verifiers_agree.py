"""OpenSSL and GnuTLS agree with us on which chains are good, and say so of each by name (H-9)."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from certs.errors import CertsError
from certs.profile import Purpose
from tests.certs.chains import Chain, Site, bad, good
from tests.certs.forge import pem
from tests.programs import needed

GOOD, BAD = dict(good()), {name: (code, build) for name, code, build in bad()}
OPENSSL = {Purpose.DEVICES: "sslclient", Purpose.SERVERS: "sslserver"}
GNUTLS = {Purpose.DEVICES: "1.3.6.1.5.5.7.3.2", Purpose.SERVERS: "1.3.6.1.5.5.7.3.1"}


def run(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, timeout=20, check=False).returncode == 0


def leaf_pem(chain: Chain) -> bytes:
    body = base64.encodebytes(chain.leaf)
    return b"-----BEGIN CERTIFICATE-----\n" + body + b"-----END CERTIFICATE-----\n"


def by_openssl(chain: Chain, folder: Path) -> bool:
    write(chain, folder)
    lists = ("-crl_check", "-CRLfile", f"{folder}/crl.pem") if chain.crl else ()
    return run(
        *(needed("openssl", "openssl"), "verify", "-x509_strict", "-auth_level", "2"),
        *("-purpose", OPENSSL[chain.purpose], *lists),
        *("-CAfile", f"{folder}/root.pem", "-untrusted", f"{folder}/between.pem", f"{folder}/leaf.pem"),
    )


def by_gnutls(chain: Chain, folder: Path) -> bool:
    write(chain, folder)
    lists = ("--load-crl", f"{folder}/crl.pem") if chain.crl else ()
    return run(
        *(needed("certtool", "gnutls-bin"), "--verify", "--verify-profile", "medium"),
        *("--verify-purpose", GNUTLS[chain.purpose], *lists),
        *("--load-ca-certificate", f"{folder}/root.pem", "--infile", f"{folder}/chain.pem"),
    )


def write(chain: Chain, folder: Path) -> None:
    (folder / "root.pem").write_bytes(pem(chain.root))
    (folder / "between.pem").write_bytes(pem(*chain.between))
    (folder / "leaf.pem").write_bytes(leaf_pem(chain))
    (folder / "chain.pem").write_bytes(leaf_pem(chain) + pem(*chain.between))
    if chain.crl:
        body = base64.encodebytes(chain.crl)
        (folder / "crl.pem").write_bytes(b"-----BEGIN X509 CRL-----\n" + body + b"-----END X509 CRL-----\n")


@pytest.fixture(scope="module")
def site() -> Site:
    return Site.made()


@pytest.mark.parametrize("build", GOOD.values(), ids=GOOD)
def test_all_take_a_good_chain(build: Callable[[], Chain], tmp_path: Path) -> None:
    chain = build()
    chain.verify()
    assert (by_openssl(chain, tmp_path), by_gnutls(chain, tmp_path)) == (True, True)


@pytest.mark.parametrize(("code", "build"), BAD.values(), ids=BAD)
def test_all_refuse_a_bad_chain(code: str, build: Callable[[Site], Chain], site: Site, tmp_path: Path) -> None:
    chain = build(site)
    with pytest.raises(CertsError) as refused:
        chain.verify()
    assert refused.value.code == code
    assert (by_openssl(chain, tmp_path), by_gnutls(chain, tmp_path)) == (False, False)


def test_there_are_forty_of_each() -> None:
    assert len(GOOD) >= 40
    assert len(BAD) >= 40
