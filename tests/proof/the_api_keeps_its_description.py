"""Whatever the API says of itself in OpenAPI holds: schemathesis sends what the document allows, and what it does not.

Each answer is checked against the document: a status and a media type that it names, a body that fits, and never a
5xx. Every operation of every door is asked, but for the stream of events, which never ends.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.broker.cli.test_operator_commands import Server
from tests.proof.scale import record, rounds

EXAMPLES = rounds(2, 40, 1000)
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
ENDLESS = "/v2/events/stream"
calm = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    derandomize=True,
    phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("ledger"))
    yield server
    server.close()


@pytest.mark.timeout(120 + 60 * EXAMPLES)
def test_every_answer_is_described(server: Server) -> None:
    headers = {"Authorization": f"Bearer {server.run(server.world.token())}"}
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    asked, sent, broken = 0, 0, []
    for found in schema.get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()
        if operation.path == ENDLESS:
            continue
        asked += 1

        @calm
        @given(case=operation.as_strategy())
        def holds(case: Case[Any]) -> None:
            nonlocal sent
            sent += 1
            case.call_and_validate(headers=headers, checks=CHECKS)

        try:
            holds()
        except AssertionError as error:
            broken.append(f"{operation.label}: {error}")
        except BaseExceptionGroup as errors:
            broken.append(f"{operation.label}: {errors.exceptions[0]}")
    assert asked > 60
    record("openapi", "issue 6", operations=asked, calls=sent, broken=len(broken))
    assert broken == [], "\n\n".join(broken)
