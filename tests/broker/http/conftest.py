"""A world of its own for every test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.broker.http.world import Operator, World


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = await World.on(tmp_path)
    yield world
    await world.close()


@pytest.fixture
async def admin(world: World) -> Operator:
    return await world.operator()
