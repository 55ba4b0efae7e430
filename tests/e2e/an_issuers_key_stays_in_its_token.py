"""The program with an issuer whose key is in a token: rotated to, signing for devices, and found again at a start."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from tests.e2e.a_certificate_is_a_login import TLS, Place
from tests.e2e.program import ROOT, Operator, StartProgram
from tests.e2e.shelldevice import ran
from tests.softhsm import PIN, make_token, uri_file


async def test_a_token_signs_for_devices(start_program: StartProgram, tmp_path: Path) -> None:
    folder = tmp_path / "token"
    folder.mkdir()
    hsm = {"SOFTHSM2_CONF": str(await asyncio.to_thread(make_token, folder))}
    place = Place(start_program(TLS | hsm), tmp_path)
    place.program.secrets.add(PIN)
    rotate = [sys.executable, "-m", "broker", "ca", "rotate", "--key", str(uri_file(tmp_path, folder))]
    environment = os.environ | hsm | {"PYTHONPATH": str(ROOT)}
    words = [*rotate, "--data-dir", str(place.program.data)]
    await asyncio.to_thread(subprocess.run, words, check=True, capture_output=True, env=environment)
    for client_id in ("dev-1", "dev-2"):
        operator = Operator(place.program)
        request, device = await place.request(operator, client_id)
        assert (await asyncio.to_thread(device.claim, 1, request.key))["reason"] == "offer"
        told = await asyncio.to_thread(ran, "openssl", "x509", "-in", device.path(1, "crt"), "-noout", "-text")
        assert "sha256WithRSAEncryption" in told
        assert await asyncio.to_thread(device.works, 1)
        await operator.close()
        place.program.stop()
        place.program.start()
