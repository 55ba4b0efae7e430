"""What a linter says of the shell client."""

import subprocess

from tests.clients.examples import CLIENTS
from tests.programs import needed


def test_shellcheck_finds_nothing() -> None:
    command = [needed("shellcheck", "shellcheck"), str(CLIENTS / "shell" / "provision.sh")]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout
