"""Four rooms and one arrow, `broker -> provisioner -> certs`; `config` is read by the composition root alone.

The rules are read off the syntax trees, so an import inside a function counts as well as one at the top.
"""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("broker", "provisioner", "certs", "config")


@dataclass(frozen=True)
class Import:
    """One imported module and the file that imports it."""

    file: str
    line: int
    module: str

    @property
    def top(self) -> str:
        return self.module.partition(".")[0]

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def imports_of(source: str, file: str) -> Iterator[Import]:
    """Every module that `source` imports, however it does."""
    for node in ast.walk(ast.parse(source, file)):
        match node:
            case ast.Import(names=names):
                yield from (Import(file, node.lineno, alias.name) for alias in names)
            case ast.ImportFrom(module=str(module), names=names, level=0):
                # `from broker import app` imports the module broker.app
                yield from (Import(file, node.lineno, f"{module}.{alias.name}") for alias in names)
            case ast.ImportFrom(level=level):
                raise AssertionError(
                    f"{file}:{node.lineno} is a relative import of level {level}: spell the whole name"
                )
            case ast.Call(func=ast.Name(id="__import__") | ast.Attribute(attr="import_module"), args=[first, *_]):
                yield Import(file, node.lineno, _text(first))


def _text(node: ast.expr) -> str:
    """The known beginning of a text, literal or formatted."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=[ast.Constant(value=str(text)), *_]):
            return text.rstrip(".")
    raise AssertionError(f"line {node.lineno}: an import whose name cannot be read hides from this test")


def everything() -> list[Import]:
    return [
        one
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
        for one in imports_of(path.read_text(encoding="utf-8"), path.relative_to(ROOT).as_posix())
    ]


IMPORTS = everything()


def within(file: str, *places: str) -> bool:
    """Whether `file` is one of `places`, or below one that ends with a slash."""
    return any(file.startswith(place) if place.endswith("/") else file == place for place in places)


def offenders(modules: set[str], *places: str) -> list[str]:
    """Imports of `modules` anywhere but in `places`."""
    return [str(one) for one in IMPORTS if one.top in modules and not within(one.file, *places)]


@pytest.mark.parametrize(
    ("room", "allowed"),
    [
        ("broker", {"broker", "provisioner", "certs", "config"}),
        ("provisioner", {"provisioner", "certs"}),
        ("certs", {"certs"}),
        ("config", {"config"}),
    ],
)
def test_the_arrow_points_one_way(room: str, allowed: set[str]) -> None:
    ours = [one for one in IMPORTS if one.file.startswith(f"{room}/") and one.top in ROOMS]
    assert [str(one) for one in ours if one.top not in allowed] == []


def test_config_is_read_by_the_composition_root_alone() -> None:
    assert offenders({"config"}, "config/", "broker/app.py", "broker/wiring.py") == []


def test_only_the_mqtt_rooms_know_mqtt_libraries() -> None:
    places = ("broker/mqtt/", "broker/devicebrokers/", "broker/fleet/", "broker/sinks/mqtt.py")
    assert offenders({"aiomqtt", "amqtt", "paho"}, *places) == []


def test_only_the_store_knows_sql() -> None:
    assert offenders({"aiosqlite", "asyncpg", "apsw", "sqlite3"}, "provisioner/store/") == []


def test_cryptography_is_known_where_secrets_are_made() -> None:
    assert offenders({"cryptography"}, "certs/", "provisioner/handover.py", "broker/fleet/") == []
    fleet = {one.file for one in IMPORTS if one.top == "cryptography" and one.file.startswith("broker/fleet/")}
    assert fleet <= {"broker/fleet/device_key.py", "broker/fleet/keys.py"}  # the reference device


def test_tls_is_set_up_in_one_place() -> None:
    # Clients of TLS may name its errors; contexts for our own listeners are built in `broker/tls.py`.
    places = (
        "broker/beside/", "broker/mqtt/", "broker/devicebrokers/", "broker/fleet/", "broker/cli/", "broker/sinks/",
        "broker/mail.py", "broker/conformance/bench.py",
    )  # fmt: skip
    ours = (
        "config/files.py",
        "broker/app.py",
        "broker/wiring.py",
        "broker/listeners.py",
        "broker/tls.py",
        "broker/http/server.py",
    )
    assert offenders({"ssl"}, *ours, *places) == []


def test_only_passwords_are_hashed_slowly() -> None:
    assert offenders({"argon2"}, "provisioner/passwords.py") == []


def test_pydantic_stands_at_the_edges() -> None:
    assert offenders({"pydantic", "pydantic_core", "pydantic_settings"}, "config/", "broker/") == []


def test_the_decision_knows_no_edge() -> None:
    edges = {"fastapi", "starlette", "uvicorn", "httpx2", "typer", "rich", "structlog", "prometheus_client", "cbor2"}
    assert offenders(edges, "broker/") == []


def test_the_decision_reads_no_clock() -> None:
    assert offenders({"time"}, "broker/") == []


def test_the_fleet_uses_the_public_contract_only() -> None:
    codec = {"broker.mqtt.framing", "broker.mqtt.packets", "broker.mqtt.packet_types", "broker.mqtt.properties"}
    codec |= {"broker.mqtt.wire"}
    ours = [one for one in IMPORTS if one.file.startswith("broker/fleet/") and one.top in ROOMS]
    assert [
        str(one)
        for one in ours
        if not one.module.startswith("broker.fleet") and one.module.rpartition(".")[0] not in codec | {"broker.mqtt"}
    ] == []


def test_no_room_is_named_like_a_standard_module() -> None:
    assert not set(ROOMS) & sys.stdlib_module_names


@pytest.mark.parametrize(
    ("source", "module"),
    [
        ("import a.b", "a.b"),
        ("from a import b", "a.b"),
        ("def f():\n    import a", "a"),
        ("import importlib\nimportlib.import_module('a')", "a"),
        ("import importlib\nimportlib.import_module(f'broker.cli.{name}')", "broker.cli"),
        ("__import__('a')", "a"),
    ],
)
def test_an_import_cannot_hide(source: str, module: str) -> None:
    assert module in [one.module for one in imports_of(source, "x.py")]


def test_a_relative_import_is_refused() -> None:
    with pytest.raises(AssertionError, match="spell the whole name"):
        list(imports_of("from . import a", "x.py"))
