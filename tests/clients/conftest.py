"""The real program, with the clients of `examples/clients/` before it."""

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.e2e.program import Program, Site


@pytest.fixture(scope="session")
def shared_program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    program = Program(tmp_path_factory.mktemp("clients") / "data").start()
    yield program
    program.stop()


@pytest.fixture
async def site(shared_program: Program) -> AsyncIterator[Site]:
    """The shared program with an operator."""
    async with await Site.at(shared_program) as place:
        yield place
