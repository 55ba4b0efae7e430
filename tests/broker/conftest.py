"""What tests of the edges share."""

import logging
from collections.abc import Iterator

import pytest
import structlog


@pytest.fixture
def log_undone() -> Iterator[None]:
    """Whatever the test does to the process's logging is undone after it."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before
    structlog.reset_defaults()
