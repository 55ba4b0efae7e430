"""A provisioner of its own for one command: a process on free loopback ports, in a folder that goes with it."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from broker.cli.output import Failed
from broker.datadir import DataDir

_START_TIME = 30.0
_STOP_TIME = 15.0


@contextmanager
def temporary_provisioner(settings: Mapping[str, str] | None = None) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Its data directory and its ready line; `settings` are more variables. Raises `Failed`."""
    with TemporaryDirectory(prefix="provisioner-") as folder, _program(Path(folder), settings or {}) as program:
        yield program


def provision_login(data_dir: Path) -> tuple[str, str]:
    """User and password that its devices start with."""
    user, password = (DataDir(data_dir).load_secret("provision-login") or "\n").split("\n")[:2]
    return user, password


@contextmanager
def _program(folder: Path, settings: Mapping[str, str]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A process, ended by its id."""
    data_dir = folder / "data"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PROVISIONER_")}
    environment |= {
        "PROVISIONER_DATA_DIR": str(data_dir),
        "PROVISIONER_ENDPOINT__LISTEN": "127.0.0.1:0",
        "PROVISIONER_DEVICE_BROKER__LISTEN": "127.0.0.1:0",
        "PROVISIONER_HTTP__LISTEN": "127.0.0.1:0",
    }
    log = folder / "log"
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "broker", "serve"],
            cwd=folder,
            env={**environment, **settings},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
        try:
            yield data_dir, _ready(process, log)
        finally:
            _end(process)


def _ready(process: subprocess.Popen[bytes], log: Path) -> dict[str, Any]:
    """Wait for the ready line."""
    output = process.stdout
    limit = time.monotonic() + _START_TIME
    while output is not None and select.select([output], [], [], max(0.0, limit - time.monotonic()))[0]:
        line = output.readline()
        if not line:
            break
        said = json.loads(line)
        if isinstance(said, dict) and said.get("event") == "ready":
            return said
    last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
    raise Failed(f"The provisioner does not start: {last[0] if last else 'it says nothing'}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_STOP_TIME)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
