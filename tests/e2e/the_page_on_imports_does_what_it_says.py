"""docs/imports.md, executed; and what it gave out is claimed with and logs in at the device broker."""

import asyncio
import csv
import io
import json
import os
import re
import subprocess
import sys

from tests.e2e.independent import IndependentDevice
from tests.e2e.program import ROOT, Program, StartProgram
from tests.programs import needed

PAGE = (ROOT / "docs" / "imports.md").read_text(encoding="utf-8")


def run_page(program: Program) -> str:
    """What its commands print, run in the folder of the data directory."""
    folder = program.data.parent
    commands = folder / "bin"
    commands.mkdir()
    command = commands / "provisioner"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m broker "$@" --data-dir {program.data}\n')
    command.chmod(0o700)
    script = "set -eu\n" + "".join(re.findall(r"(?ms)^```sh\n(.*?)^```$", PAGE))
    for written, meant in (("http://127.0.0.1:8080", program.http), ("data/admin-token", program.data / "admin-token")):
        script = script.replace(written, str(meant))
    environment = {"PATH": f"{commands}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=50, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


async def test_imported_devices_claim_and_log_in(start_program: StartProgram) -> None:
    needed("curl", "curl")
    program = start_program()
    printed = await asyncio.to_thread(run_page, program)
    answer = json.loads(printed[printed.index('{"Success"') :])
    (element,) = answer["Element"]
    assert (answer["Success"], element["Status"]) == (True, "Provisioned")
    result = (program.data.parent / "result.csv").read_text()
    rows = [*csv.DictReader(io.StringIO(result)), element]
    program.secrets |= {program.token, *(row["ActivationCode"] for row in rows)}
    user, password = (program.data / "provision-login").read_text().split()
    program.secrets.add(password)
    assert [row["ClientId"] for row in rows[:2]] == ["hall-1", "hall-2"]
    for row in rows:
        device = IndependentDevice(lambda: program.endpoint, user, password, row["ClientId"], row["ActivationCode"])
        async with device:
            offer = await device.provision()
            session = await device.login(program.device_broker, offer.credentials)
            await session.close()
            program.secrets |= device.passwords
