"""Authorities that tests share; their keys are made once, their times are the tests' own."""

from __future__ import annotations

import os

import pytest

from certs.authority import Authority, Issuer
from certs.hierarchy import Signer, create_issuer, create_root
from certs.keys import P256, generate
from certs.profile import Purpose
from tests.certs.forge import NOW


@pytest.fixture(scope="session")
def root() -> Signer:
    return create_root("factory", generate(P256), NOW, os.urandom)


@pytest.fixture(scope="session")
def device_issuer(root: Signer) -> Issuer:
    made = create_issuer(
        root, "factory", Purpose.DEVICES, generate(P256), NOW, os.urandom, excluded_hosts=["broker.example"]
    )
    return Issuer(Purpose.DEVICES, root.certificate, [made.certificate], made.key)


@pytest.fixture(scope="session")
def server_issuer(root: Signer) -> Issuer:
    made = create_issuer(root, "factory", Purpose.SERVERS, generate(P256), NOW, os.urandom)
    return Issuer(Purpose.SERVERS, root.certificate, [made.certificate], made.key)


@pytest.fixture(scope="session")
def authority(root: Signer, device_issuer: Issuer, server_issuer: Issuer) -> Authority:
    return Authority(root.certificate, [device_issuer, server_issuer])
