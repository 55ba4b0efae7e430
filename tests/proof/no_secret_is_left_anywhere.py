"""H-6: canary secrets are in none of the places where they must not be, in no spelling.

1. One program at log level debug meets everything: each mode, mistakes that carry secrets, revocation, a wrong login.
2. Hunted are activation keys, minted passwords, tokens, the provisioning logins, and the keys of the vault: in clear,
   percent-encoded, hex and base64; in logs, ledger and WAL while it runs and after its end, a backup, answers, metrics,
   arguments and environment of its processes.
3. Every other program that the test-suite starts is looked at in the same way when it stops (`tests/e2e/program.py`).
"""

from __future__ import annotations

import asyncio
import base64
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.e2e.independent import IndependentDevice, Mode, Wire
from tests.e2e.packets import RefusedError, Session
from tests.e2e.program import FLOOR_PASSWORD, FLOOR_USER, ROOT, Program, Site
from tests.e2e.secret_hunt import THEIR_OWN, files, left, processes
from tests.proof.scale import record, rounds

_SHORTEST = 16
"""Of a secret in a file of its own: a user name beside it is shorter."""

ROUNDS = rounds(1, 5, 100)
MODES: tuple[Mode, ...] = ("plain", "proof", "ctr", "hpke")
WIRES: tuple[Wire, ...] = ("json", "cbor")


def of_the_data_directory(data: Path) -> set[str | bytes]:
    """What the program keeps in files for its owner; keys are there in hex and are hunted as bytes as well."""
    held = [path for path in data.rglob("*") if path.is_file() and path.relative_to(data).parts[0] in THEIR_OWN]
    lines = {line for path in held for line in path.read_text().splitlines() if len(line) >= _SHORTEST}
    return lines | {bytes.fromhex(line) for line in lines if len(line) == 64}


async def meet_everything(site: Site, answers: list[tuple[str, bytes]]) -> None:
    """Hand-overs of each kind, and one device that is revoked and starts anew."""
    for mode in MODES:
        for wire in WIRES:
            device, request, credentials = await site.confirmed(mode=mode, wire=wire, version=5)
            async with await device.login(site.program.device_broker, credentials):
                await request.tell("revoke")
            site.program.secrets |= device.passwords
    device, request = await site.unit(mode="plain")
    await make_mistakes(site, device, answers)
    assert (await device.provision()).reason in ("offer", "slow-down")
    site.program.secrets |= device.passwords
    listed = await site.operator.http.get("/v2/provisionRequests")
    shown = await site.operator.http.get(request.path)
    answers += [("list", listed.content), ("request", shown.content)]


async def make_mistakes(site: Site, device: IndependentDevice, answers: list[tuple[str, bytes]]) -> None:
    """Messages, logins and forms that carry a secret where none belongs."""
    key = device.activation_key
    session = await device.connect()
    mistakes = (
        f'{{"requestId":"r-1","activationKey":"{key}","colour":"red"}}',
        f'{{"requestId":"r-1","activationKey":"{key} "}}',
        f'{{"requestId":"{key}/","activationKey":"{key}"',
        f'"{key}"',
    )
    for mistake in mistakes:
        await session.publish(device.topic("request"), mistake.encode(), 1)
    answers += [("reply", (await session.message()).payload) for _ in mistakes]
    for username, password in ((FLOOR_USER, FLOOR_PASSWORD + "!"), (key[:30], key)):
        for address in (site.program.endpoint, site.program.device_broker):
            with pytest.raises(RefusedError):
                await Session.login(address, device.client_id, username, password)
    form = await site.form("no/such/id") | {"activationKey": key}
    http = site.operator.http
    for said in (form, form | {"activationKey": [key]}, form | {"accountId": key}, {"password": key}):
        answer = await http.post("/v2/provisionRequests", json=said)
        assert answer.status_code in (400, 422)
        answers.append(("problem", answer.content))
    for path in ("/v2/provisionRequests/0", "/nowhere"):
        answer = await http.get(path, headers={"Authorization": f"Bearer {key}"})
        assert answer.status_code == 401
        answers.append(("problem", answer.content))


def back_up(program: Program, copy: Path) -> bytes:
    """A copy of the ledger of a running program."""
    command = [sys.executable, "-m", "broker", "--data-dir", str(program.data), "backup", str(copy)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return copy.read_bytes() + done.stdout + done.stderr


@pytest.mark.timeout(1200)
async def test_no_secret_is_left_anywhere(tmp_path: Path) -> None:
    program = Program(tmp_path / "data", {"PROVISIONER_LOG__LEVEL": "debug"})
    await asyncio.to_thread(program.start)
    answers: list[tuple[str, bytes]] = []
    places: list[tuple[str, bytes]] = []
    try:
        async with await Site.at(program) as site:
            for _ in range(ROUNDS):
                await meet_everything(site, answers)
            paths = ("/metrics", "/healthz", "/readyz", "/openapi.json", "/v2/users", "/v2/tokens")
            answers += [(path, (await site.operator.http.get(path)).content) for path in paths]
            places += processes(program.pid)
            places += [(f"{name}, running", content) for name, content in files(program.data)]
            places.append(("backup", await asyncio.to_thread(back_up, program, tmp_path / "copy.db")))
    finally:
        await asyncio.to_thread(program.stop)
    places += files(program.data)
    places += [("output", "".join(program.output).encode()), ("log", "".join(program.errors).encode())]
    secrets: set[str | bytes] = {*program.secrets, program.token, *of_the_data_directory(program.data)}
    assert len(secrets) >= ROUNDS * 2 * len(MODES) * len(WIRES)
    assert len(places) >= 8
    assert left(secrets, [*answers, *places]) == []
    record("canaries", "H-6", secrets=len(secrets), places=len(places) + len(answers), found=0)


@pytest.mark.parametrize("before", range(4))
def test_the_hunter_finds_a_secret_in_each_spelling(before: int) -> None:
    secret = "Kq7/+x~zP0aVn3:Lw9Yt"
    surrounded = b"u" * before + secret.encode() + b":v"
    for spelt in (
        surrounded,
        surrounded.hex().encode(),
        surrounded.hex().upper().encode(),
        quote(surrounded, safe="").encode(),
        base64.b64encode(surrounded),
        base64.urlsafe_b64encode(surrounded),
    ):
        assert left([secret], [("there", b"x=" + spelt)]) == ["there"]
        assert left([secret[::-1]], [("there", b"x=" + spelt)]) == []
