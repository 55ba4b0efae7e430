"""What listens is tested on both event loops: asyncio's own, and uvloop, which the program runs on."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

_BOTH_LOOPS = (
    "test_endpoint.py",
    "test_third_party_clients.py",
    "test_frame_socket.py",
    "test_amqtt_faults.py",
    "test_router.py",
    "test_guard.py",
    "test_embedded.py",
    "test_device_broker_interoperability.py",
)


def pytest_asyncio_loop_factories(item: pytest.Item) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    if item.path.name in _BOTH_LOOPS:
        return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
    return {"asyncio": asyncio.new_event_loop}
