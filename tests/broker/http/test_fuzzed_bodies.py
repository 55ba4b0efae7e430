"""Whatever is sent, the answer is one of ours: never a 5xx, and never a refusal without a code."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.broker.http.world import PATH, World

JSON = {"content-type": "application/json"}

numbers = st.integers(-(2**70), 2**70) | st.floats()
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | numbers | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(
    [
        "accountId", "clientId", "provisionUserUsername", "provisionUserPassword", "generateActivationKey",
        "activationKey", "retryMaxAttempts", "activatesOn", "expiresOn", "overwriteIfDuplicate", "provisionSecureURL",
        "deviceCredentialsTight", "provisionedCredentialsTight", "confirm", "confirmTime", "configuration", "forget",
        "reuseKey", "serialNumber", "macAddress", "vendor", "brand", "model", "deviceName", "status", "optlock",
        "provisionJob", "id", "name", "kind", "parentId", "coupling", "quota", "displayName", "username", "password",
        "role", "unheard",
    ]
)  # fmt: skip
fields = st.dictionaries(names, values, max_size=6)
good = st.sampled_from(
    ["STRICT", "LOOSE", "INHERITED", "ENABLED", "ack", "TARGET", "viewer", "dev-1", 0, 1, 60, True, {}]
)
nearly = st.dictionaries(names, good | values, max_size=6)


class Room:
    """A world that one loop serves through all examples: making one for each would be all the test does."""

    def __init__(self, folder: Path) -> None:
        self._runner = asyncio.Runner()
        self._world = self._runner.run(World.on(folder))
        self._admin = self._runner.run(self._world.operator())
        created = self._runner.run(self._admin.create("fuzzed"))
        self.path = f"{PATH}/{created['id']}"
        self.form = self._admin.form("dev-1")

    def send(self, method: str, path: str, body: bytes = b"", query: dict[str, str] | None = None) -> Any:
        """The answer, checked."""
        headers = JSON if body else None
        answer = self._runner.run(self._admin.http.request(method, path, content=body, headers=headers, params=query))
        assert answer.status_code < 500, f"{method} {path} {body!r}: {answer.text}"
        if answer.status_code >= 400:
            problem = answer.json()
            assert problem["code"]
            assert problem["code"] != "internal"
        return answer

    def close(self) -> None:
        self._runner.run(self._world.close())
        self._runner.close()


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Room]:
    room = Room(tmp_path_factory.mktemp("fuzz"))
    yield room
    room.close()


calm = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@calm
@given(fields | nearly)
def test_creators_of_requests(room: Room, changed: dict[str, Any]) -> None:
    room.send("POST", PATH, json.dumps(room.form | changed).encode())


@calm
@given(fields | nearly)
def test_changes_of_requests(room: Room, changed: dict[str, Any]) -> None:
    optlock = room.send("GET", room.path).json()["optlock"]
    room.send("PUT", room.path, json.dumps({"optlock": optlock} | changed).encode())


@calm
@given(st.sampled_from(["/v2/accounts", "/v2/users", "/v2/tokens"]), fields | nearly)
def test_other_creators(room: Room, path: str, changed: dict[str, Any]) -> None:
    if not isinstance(changed.get("password"), str):  # a slow hash each time would be all this test does
        room.send("POST", path, json.dumps(changed).encode())


@calm
@given(st.sampled_from(["enable", "disable", "stop", "revoke", "rotate", "reopen"]), values | nearly)
def test_verbs(room: Room, verb: str, body: Any) -> None:
    room.send("POST", f"{room.path}/{verb}", json.dumps(body).encode())


@calm
@given(st.binary(max_size=100))
def test_bytes(room: Room, body: bytes) -> None:
    room.send("POST", PATH, body)


@calm
@given(
    st.dictionaries(
        st.sampled_from(["clientIDs", "statuses", "startDate", "offset", "limit", "x"]), st.text(max_size=20)
    )
)
def test_queries(room: Room, query: dict[str, str]) -> None:
    room.send("GET", PATH, query={name: _sendable(text) for name, text in query.items()})


@calm
@given(st.text(max_size=40))
def test_paths(room: Room, text: str) -> None:
    hexed = "".join(f"%{byte:02X}" for byte in _sendable(text).encode())
    for path in (f"{PATH}/{hexed}", f"/v2/accounts/{hexed}", f"/{hexed}"):
        room.send("GET", path)


def _sendable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
