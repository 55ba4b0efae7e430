"""The issuer of devices is rotated under a running server: nobody notices over TLS, old and new count side by side."""

import asyncio
import subprocess
import sys
from pathlib import Path

from tests.e2e.a_certificate_is_a_login import Place, operator, place  # noqa: F401  # fixtures
from tests.e2e.program import Operator
from tests.e2e.shelldevice import ShellDevice, ran

ROOT = Path(__file__).parents[2]


def command(place: Place, *words: str) -> None:  # noqa: F811  # not the fixture: what it gives
    """Run a command of the program on its data directory."""
    subprocess.run(
        [sys.executable, "-m", "broker", *words, "--data-dir", str(place.program.data)],
        check=True,
        capture_output=True,
        cwd=ROOT,
        timeout=50,
    )


def issuer_of(device: ShellDevice, number: int) -> str:
    return ran("openssl", "x509", "-in", device.path(number, "crt"), "-noout", "-issuer")


def is_good(place: Place, device: ShellDevice, number: int) -> None:  # noqa: F811  # as above
    chain = device.path(number, "crt")
    lists = ("-crl_check", "-CRLfile", place.program.data / "ca" / "crl.pem")
    ran("openssl", "verify", "-purpose", "sslclient", *lists, "-CAfile", place.trusted, "-untrusted", chain, chain)


async def test_devices_of_the_old_and_of_the_new_issuer_work_side_by_side(
    place: Place,  # noqa: F811  # the fixture
    operator: Operator,  # noqa: F811  # the fixture
) -> None:
    request, first = await place.request(operator, "dev-1")
    await asyncio.to_thread(first.claim, 1, request.key)
    assert await asyncio.to_thread(first.works, 1)
    session = await asyncio.to_thread(first.listens, 1)

    await asyncio.to_thread(command, place, "ca", "rotate", "--for", "devices")
    later, second = await place.request(operator, "dev-2")
    await asyncio.to_thread(second.claim, 1, later.key)
    assert issuer_of(second, 1) != issuer_of(first, 1)
    assert await asyncio.to_thread(second.works, 1)
    assert session.client.is_connected()
    assert await asyncio.to_thread(first.works, 1)  # anew, which ends the session of the same client id
    for device in (first, second):
        await asyncio.to_thread(is_good, place, device, 1)

    # The renewal of the first comes from the new issuer.
    await asyncio.to_thread(first.make_key, 2)
    await asyncio.to_thread(first.claim, 2, None, 1)
    assert issuer_of(first, 2) == issuer_of(second, 1)
    assert await asyncio.to_thread(first.works, 2)
    assert not await asyncio.to_thread(first.works, 1)
