"""Pages of docs/ executed: a device is registered through each door, claims, and logs in; policies rule a request."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.program import ROOT, StartProgram
from tests.programs import needed


@pytest.mark.parametrize(("page", "last"), [("everyware", "COMPLETED"), ("enos", "finished"), ("policies", None)])
def test_the_page_does_what_it_says(start_program: StartProgram, tmp_path: Path, page: str, last: str | None) -> None:
    needed("curl", "curl")
    program = start_program()
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    script = "set -eu\n" + "".join(re.findall(r"(?ms)^```sh\n(.*?)^```$", text))
    script = script.replace("http://127.0.0.1:8080", program.http).replace("data/admin-token", "$DATA/admin-token")
    script = script.replace("provisioner ", 'provisioner --data-dir "$DATA" ')
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "DATA": str(program.data)}
    done = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert last is None or done.stdout.splitlines()[-1] == last
