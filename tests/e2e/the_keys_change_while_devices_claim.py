"""The keys of the ledger change by command: while the server runs, while it does not, and where others keep them."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.e2e.program import ROOT, Program, Site, StartProgram


def provisioner(data: Path, *words: str, settings: Mapping[str, str] | None = None, code: int = 0) -> Any:
    """Run a command; the JSON it printed, or what it said."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PROVISIONER_")}
    done = subprocess.run(
        [sys.executable, "-m", "broker", *words, "--data-dir", data],
        cwd=ROOT, env=environment | dict(settings or {}), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr
    return json.loads(done.stdout) if "--json" in words else done.stderr


def keys_in(data: Path) -> set[str]:
    return {file.name for file in (data / "keys").iterdir()}


async def test_while_the_server_runs_and_while_it_does_not(start_program: StartProgram) -> None:
    program = start_program()
    async with await Site.at(program) as site:
        offered, request = await site.unit()
        offer = await offered.provision()
        later = [await site.unit() for _ in range(3)]
        rotated = await asyncio.to_thread(provisioner, program.data, "keys", "rotate", "--json")
        assert (rotated["epoch"], rotated["done"]) == (2, True)
        assert keys_in(program.data) == {"vault-2", "pepper"}
        again = await offered.provision()
        assert again.credentials == offer.credentials
        assert (await offered.ack("stored", again.generation)).reason == "confirmed"
        for device, _ in later:
            await device.provision()
    program.stop()
    assert "vault-3" in provisioner(program.data, "keys", "rotate", "--keep-old")
    shown = provisioner(program.data, "keys", "show", "--json")
    assert [(one["epoch"], one["state"]) for one in shown] == [(1, "RETIRED"), (2, "KEPT"), (3, "IN_USE")]
    assert "destroyed" in provisioner(program.data, "keys", "retire", "2")
    assert keys_in(program.data) == {"vault-3", "pepper"}
    program.start()
    async with await Site.at(program) as site:
        device = site.device(request.client_id, request.key)
        await (await device.login(program.device_broker, offer.credentials)).close()
        for _, known in later:
            await site.device(known.client_id, known.key).provision()


async def test_where_a_command_or_systemd_has_the_keys(tmp_path: Path) -> None:
    vault, folder = tmp_path / "vault", tmp_path / "credentials"
    folder.mkdir()
    names = {"vault-1": os.urandom(32).hex(), "pepper": os.urandom(32).hex()}
    for name, text in names.items():
        (folder / name).write_text(text)
    vault.write_text("".join(f"{name} {text}\n" for name, text in names.items()))
    by_command = {"PROVISIONER_VAULT__SOURCE": "command", "PROVISIONER_VAULT__COMMAND": f"cat '{vault}'"}
    by_systemd = {"PROVISIONER_VAULT__SOURCE": "credentials", "CREDENTIALS_DIRECTORY": str(folder)}
    program = Program(tmp_path / "data", by_command).start()
    try:
        assert keys_in(program.data) == set()
        async with await Site.at(program) as site:
            device, request = await site.unit()
            offer = await device.provision()
        program.stop()
        said = provisioner(program.data, "keys", "rotate", code=1, settings=by_command)
        assert "keep a new key vault-2 beside the others" in said.lower()
        program.settings = by_systemd
        (folder / "vault-2").write_text(os.urandom(32).hex())
        said = provisioner(program.data, "keys", "rotate", settings=by_systemd)
        assert "vault-1 is not needed any more: remove it" in said
        (folder / "vault-1").unlink()
        program.start()
        async with await Site.at(program) as site:
            again = await site.device(request.client_id, request.key).provision()
            assert again.credentials == offer.credentials
        program.stop()
        (folder / "vault-2").unlink()
        (folder / "vault-3").write_text(os.urandom(32).hex())
        assert "needs key vault-2" in provisioner(program.data, "keys", "show", code=1, settings=by_systemd)
    finally:
        program.stop()
