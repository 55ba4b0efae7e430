"""A token in software, as others would set it up: SoftHSM with two keys in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.programs import needed

MODULE = Path("/usr/lib/softhsm/libsofthsm2.so")
PIN = "4711-in-a-file"

_KEYS = f"""
import pkcs11, pkcs11.util.ec
token = pkcs11.lib({str(MODULE)!r}).get_token(token_label="plant")
with token.open(user_pin={PIN!r}, rw=True) as session:
    session.generate_keypair(pkcs11.KeyType.RSA, 3072, label="devices", store=True)
    curve = {{pkcs11.Attribute.EC_PARAMS: pkcs11.util.ec.encode_named_curve_parameters("secp256r1")}}
    session.create_domain_parameters(pkcs11.KeyType.EC, curve, local=True).generate_keypair(label="curve", store=True)
"""


def make_token(folder: Path) -> Path:
    """A token `plant` with the keys `devices` (RSA) and `curve` (P-256), its PIN in `pin`; returns SOFTHSM2_CONF."""
    program = needed("softhsm2-util", "softhsm2")
    (folder / "tokens").mkdir()
    configuration, pin = folder / "softhsm2.conf", folder / "pin"
    configuration.write_text(f"directories.tokendir = {folder / 'tokens'}\nobjectstore.backend = file\n")
    pin.touch(mode=0o600)
    pin.write_text(PIN + "\n")
    environment = os.environ | {"SOFTHSM2_CONF": str(configuration)}
    words = ["--init-token", "--free", "--label", "plant", "--pin", PIN, "--so-pin", "12345678"]
    subprocess.run([program, *words], check=True, capture_output=True, env=environment)
    subprocess.run([sys.executable, "-c", _KEYS], check=True, capture_output=True, env=environment)
    return configuration


def uri_file(folder: Path, token: Path, label: str = "devices", name: str = "plant", pin: Path | None = None) -> Path:
    """A key file that says where the key is; `token` is the folder of `make_token`."""
    file = folder / f"{label}.uri"
    file.touch(mode=0o600)
    where = f"module-path={MODULE}&pin-source={pin or token / 'pin'}"
    file.write_text(f"pkcs11:token={name};object={label}?{where}\n")
    return file
