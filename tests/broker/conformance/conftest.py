"""Examinations take minutes of a device's time; here they take none."""

import asyncio
from collections.abc import Callable, Mapping

import pytest

from tests.broker.conformance.warp import WarpLoop


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"warp": WarpLoop if item.path.name == "test_examination.py" else asyncio.new_event_loop}
