"""Starts the real program: one for all tests that can share it, others where a test needs its own.

The modules of `BRIDGED` hold what must be true wherever a device claims: their tests run at the endpoint and, but for
those marked `endpoint_only`, once more through the bridge and a real Mosquitto with the templates we ship.
"""

from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import pytest

from broker.beside.setup import Login
from tests.e2e.program import FLOOR_PASSWORD, FLOOR_USER, Program, Site, StartProgram
from tests.mosquitto import BRIDGE, Mosquitto, bridge_settings, shipped

BRIDGED = {"test_contract_claims", "test_contract_handover", "test_contract_lifecycle", "test_contract_reasons"}


@pytest.fixture(scope="session")
def shared_program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    program = Program(tmp_path_factory.mktemp("shared") / "data").start()
    yield program
    program.stop()


@pytest.fixture(scope="session")
def bridged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Program, Mosquitto]]:
    """A second program, and the Mosquitto through which devices reach it."""
    folder = tmp_path_factory.mktemp("mosquitto")
    program = Program(tmp_path_factory.mktemp("bridged") / "data")
    logins = [Login(*program.prepare()), Login(FLOOR_USER, FLOOR_PASSWORD)]
    broker = Mosquitto(folder, shipped(folder, logins, BRIDGE)).start()
    program.settings |= bridge_settings(broker.port, broker.folder)
    program.start()
    yield program, broker
    program.stop()
    broker.stop()


@pytest.fixture
async def site(request: pytest.FixtureRequest) -> AsyncIterator[Site]:
    """A shared program with an operator; what the test opened is closed after it."""
    through = getattr(request, "param", "endpoint")
    if through == "endpoint":
        program, address = request.getfixturevalue("shared_program"), None
    else:
        program, mosquitto = request.getfixturevalue("bridged")
        address = mosquitto.address
    async with await Site.at(program) as place:
        place.through = address
        yield place


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize by the way devices take."""
    if "site" in metafunc.fixturenames and metafunc.module.__name__.rpartition(".")[2] in BRIDGED:
        only = metafunc.definition.get_closest_marker("endpoint_only") is not None
        metafunc.parametrize("site", ["endpoint"] if only else ["endpoint", "bridge"], indirect=True)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Plain claims are refused on the bridge: what a test would do with one there is no case of it."""
    cases = [item for item in items if getattr(item, "callspec", None) is not None and _is_plain_on_bridge(item)]
    if cases:
        config.hook.pytest_deselected(items=cases)
        items[:] = [item for item in items if item not in cases]


def _is_plain_on_bridge(item: pytest.Item) -> bool:
    params: dict[str, object] = item.callspec.params  # type: ignore[attr-defined]  # pytest's functions have it
    return params.get("site") == "bridge" and params.get("mode") == "plain"


@pytest.fixture
def start_program(tmp_path: Path) -> Iterator[StartProgram]:
    """Start further programs, each on a data directory of its own; they are stopped and looked at after the test."""
    started: list[Program] = []

    def start(settings: Mapping[str, str] | None = None) -> Program:
        program = Program(tmp_path / f"data-{len(started)}", settings)
        started.append(program)
        return program.start()

    yield start
    for program in started:
        program.stop()


@pytest.fixture(scope="session")
def rough_program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    program = Program(tmp_path_factory.mktemp("rough") / "data").start()
    yield program
    program.stop()


@pytest.fixture
async def rough_site(rough_program: Program) -> AsyncIterator[Site]:
    """A program for tests that use up its patience or its storage, away from those that need both."""
    async with await Site.at(rough_program) as place:
        yield place
