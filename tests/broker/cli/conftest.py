"""What tests of commands share."""

from tests.broker.cli.test_operator_commands import call, data, own_log, server

__all__ = ["call", "data", "own_log", "server"]
