"""Settings, from a TOML file and from the environment: any bytes and any texts.

1. Nothing is raised but `SettingsError`; each of its problems is one printable line of bearable length.
2. What is accepted is still accepted when it is written down and read again, and is the same then.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path

from config.settings import Settings
from config.sources import SettingsError, known, load, variable

_FOLDER = Path(tempfile.mkdtemp(prefix="settings-"))
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)
_FILE = _FOLDER / "provisioner.toml"
_LONGEST = 600
SEEDS = [
    b"\0data_dir = 'x'\n[endpoint]\nlisten = '127.0.0.1:1884'\nidle_time = 60\n[claim]\nallow_keyless = true\n",
    b"\0[device_broker]\nkind = 'embedded'\nlisten = '[::1]:0'\nurl = 'mqtt://a:1'\nca = ''\n[http]\nlisten='a:1'\n",
    b"\1endpoint.listen=127.0.0.1:1\nclaim.confirm_time=60\nlog.level=debug\nendpoint.root_topic=a/b",
    b"\1device_broker.secure_url=mqtts://[::1]:8883\nprovision_account=x\nwrong_keys.overall=1e3",
]
TOKENS = [name.encode() for name in known()] + [
    b"[", b"]]", b"{", b"'", b'"""', b"inf", b"nan", b"-1", b"1e400", b"0x10", b"1979-05-27", b"\0", b"\n", b"=",
    b"mqtt://", b"mqtts://u:p@h", b"[::1%eth0]:1", b"65536", "\u0661".encode(), "\u202e".encode(), b"\xff",
]  # fmt: skip


def try_one(data: bytes) -> None:
    """First byte: a file, or lines of `name=value` for the environment."""
    if not data:
        return
    environ: dict[str, str] = {}
    file = None
    if data[0] & 1:
        for line in data[1:].decode("utf-8", "surrogateescape").split("\n")[:50]:
            name, _, value = line.partition("=")
            environ[variable(name) if name in known() else f"PROVISIONER_{name}"] = value
    else:
        file = _FILE
        file.write_bytes(data[1:])
    environ.pop("PROVISIONER_CONFIG", None)
    try:
        loaded = load(file, environ)
    except SettingsError as error:
        _check_problems(error.problems)
        return
    assert Settings.model_validate(loaded.settings.model_dump(mode="json")) == loaded.settings
    assert len(loaded.listed()) == len(known())


def _check_problems(problems: tuple[str, ...]) -> None:
    assert problems
    for problem in problems:
        told = problem.replace(str(_FILE), "FILE")
        assert told.isprintable(), repr(told)
        assert len(told) < _LONGEST, told
        assert told.endswith((".", "?")), told
