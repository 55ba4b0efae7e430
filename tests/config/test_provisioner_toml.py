"""`provisioner.toml` and the models say the same, and the file reaches whoever installs the package."""

import json
import tomllib
import zipfile
from importlib import resources
from pathlib import Path

import pytest
from hatchling.build import build_wheel

from config.settings import Settings
from config.sources import load

TEXT = resources.files("config").joinpath("provisioner.toml").read_text(encoding="utf-8")
ROOT = Path(__file__).parents[2]


def test_every_setting_is_there_with_its_default_under_its_sentence() -> None:
    lines = TEXT.splitlines()
    at = 0
    for setting in load(None, {}).listed():
        section, _, key = setting.name.rpartition(".")
        if section and f"[{section}]" in lines[at:]:
            heading = lines.index(f"[{section}]", at)
            assert lines[heading - 1] == f"# {Settings.model_fields[section].description}"
            at = heading
        at = lines.index(f"{key} = {json.dumps(setting.default)}", at)
        assert lines[at - 1] == f"# {setting.description}"


def test_nothing_else_is_there() -> None:
    table = tomllib.loads(TEXT)
    names = {f"{key}.{inner}" for key, value in table.items() if isinstance(value, dict) for inner in value}
    names |= {key for key, value in table.items() if not isinstance(value, dict)}
    assert names == {setting.name for setting in load(None, {}).listed()}


def test_it_can_be_used_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "provisioner.toml"
    file.write_text(TEXT, encoding="utf-8")
    assert load(file, {}).settings == Settings()


def test_it_is_shipped_in_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    wheel = tmp_path / build_wheel(str(tmp_path))
    with zipfile.ZipFile(wheel) as archive:
        assert archive.read("config/provisioner.toml").decode() == TEXT
