"""The slow broker: one node for all tests of a session."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.broker.devicebrokers.rabbit import Rabbit


@pytest.fixture(scope="session")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rabbit]:
    """A RabbitMQ that asks the webhook first and its own database then."""
    node = Rabbit(tmp_path_factory.mktemp("rabbit"), asks=True)
    with ThreadPoolExecutor(1) as aside:  # the loop of the test that asks first runs already
        try:
            aside.submit(lambda: asyncio.run(node.start())).result()
            yield node
        finally:
            aside.submit(lambda: asyncio.run(node.end())).result()
