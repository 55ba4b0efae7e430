"""Starts the real program: one for all tests that can share it, others where a test needs its own."""

from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path

import pytest

from tests.e2e.program import Program, Site, StartProgram


@pytest.fixture(scope="session")
def shared_program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    program = Program(tmp_path_factory.mktemp("shared") / "data").start()
    yield program
    program.stop()


@pytest.fixture
async def site(shared_program: Program) -> AsyncIterator[Site]:
    """The shared program with an operator; what the test opened is closed after it."""
    async with await Site.at(shared_program) as place:
        yield place


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
