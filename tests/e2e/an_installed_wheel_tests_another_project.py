"""The pytest plug-in as others have it: from the wheel, in an environment without anything that only we need.

Nothing is downloaded: the environment gets links to those installed packages that the wheel and pytest require, and to
no other.
"""

import re
import subprocess
import sys
import venv
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

import pytest
from hatchling.build import build_wheel
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECT = ROOT / "examples" / "test-project"


def closure(names: list[str]) -> Iterator[Distribution]:
    """Installed distributions of these names, and what they require here."""
    seen: set[str] = set()
    waiting = names
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name in seen:
            continue
        seen.add(name)
        try:
            found = distribution(name)
        except PackageNotFoundError:
            continue  # for another system or another Python
        yield found
        for line in found.requires or []:
            requirement = Requirement(line)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting.append(requirement.name)


def link(distributions: Iterator[Distribution], folder: Path) -> set[str]:
    """Put links to their files into `folder`; returns the names."""
    names = set()
    for one in distributions:
        names.add(one.metadata["Name"].lower())
        for top in {file.parts[0] for file in one.files or [] if file.parts[0] not in ("..", "__pycache__")}:
            here = folder / top
            if not here.exists():
                here.symlink_to(Path(str(one.locate_file(top))))
    return names


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of the environment."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder / "venv", symlinks=True)
    executable = folder / "venv" / "bin" / "python"
    (site,) = (folder / "venv" / "lib").glob("python*/site-packages")
    linked = link((one for one in closure(["mqtt-provisioner", "pytest"]) if _is_foreign(one)), site)
    assert {"pytest", "pydantic", "amqtt"} <= linked
    assert not {"hypothesis", "pytest-asyncio", "pytest-xdist", "hatchling"} & linked
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        wheel = folder / build_wheel(str(folder))
    subprocess.run(
        [
            Path(sys.executable).with_name("uv"), "pip", "install", "--quiet", "--offline", "--no-deps", "--no-config",
            "--python", executable, wheel,
        ],
        check=True,
    )  # fmt: skip
    return executable


def _is_foreign(one: Distribution) -> bool:
    return one.metadata["Name"] != "mqtt-provisioner"


@pytest.mark.timeout(120)
def test_the_sample_project_passes(python: Path, tmp_path: Path) -> None:
    for file in (PROJECT / "pyproject.toml", *PROJECT.glob("test_*.py")):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    done = subprocess.run(
        [python, "-I", "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 passed" in done.stdout


def test_it_is_the_wheel_that_runs(python: Path, tmp_path: Path) -> None:
    found = subprocess.run(
        [
            python,
            "-I",
            "-c",
            "import broker.testing, broker.fleet.scenario as s; print(s.load('smoke').title, s.__file__)",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(python.parents[1]) in found.stdout


def test_the_five_lines_are_five() -> None:
    text = (PROJECT / "test_thermometer.py").read_text()
    (body,) = re.findall(r"def test_a_device_gets_its_credential.*?(?=\n\n)", text, re.DOTALL)
    assert len(body.splitlines()) == 5
    assert body in (ROOT / "docs" / "testing.md").read_text()
