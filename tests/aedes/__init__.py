"""aedes as a third broker for the bridge: a JavaScript program on a free loopback port, ended by its process id."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from broker.beside.setup import Login
from tests.mosquitto import BRIDGE
from tests.programs import needed

_FOLDER = Path(__file__).parent


@contextmanager
def aedes(*devices: Login, checks_ids: bool = True) -> Iterator[int]:
    """Start it with these logins and the bridge's; its port. The test is left out where npm never installed it."""
    node = needed("node", "nodejs")
    if not (_FOLDER / "node_modules" / "aedes").is_dir():
        needed("npm", "npm")
        pytest.fail("aedes is not installed: make setup")
    users = {login.user: login.password for login in (*devices, BRIDGE)}
    told = {"users": users, "bridge": BRIDGE.user, "root": "prov/v1", "checksIds": checks_ids}
    process = subprocess.Popen(
        [node, str(_FOLDER / "broker.js"), json.dumps(told)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout
    try:
        line = process.stdout.readline()
        assert line, "aedes does not start"
        yield int(json.loads(line)["port"])
    finally:
        process.terminate()
        process.wait(10)
        process.stdout.close()
