"""The API as a whole: what answers openly, what it says of itself, problems without a route, and a real socket."""

import logging
from typing import Any

import httpx2
import pytest
from structlog.testing import capture_logs

from broker.http.server import HttpServer
from provisioner import __version__
from provisioner.model import Role
from tests.broker.http.world import PATH, Operator, World

METHODS = ("get", "post", "delete")
ROUTES = {
    ("post", PATH), ("get", PATH), ("get", f"{PATH}/{{request_id}}"), ("put", f"{PATH}/{{request_id}}"),
    ("delete", f"{PATH}/{{request_id}}"), ("get", f"{PATH}/{{request_id}}/activationKey"),
    *(("post", f"{PATH}/{{request_id}}/{verb}") for verb in ("enable", "disable", "reopen", "stop")),
    *(("post", f"{PATH}/{{request_id}}/{verb}") for verb in ("revoke", "rotate")),
    ("post", "/v2/accounts"), ("get", "/v2/accounts"), ("get", "/v2/accounts/{name_or_id}"),
    ("post", "/v2/accounts/{account_id}/move"),
    ("post", "/v2/users"), ("get", "/v2/users"), ("post", "/v2/users/{user_id}/password"),
    ("post", "/v2/tokens"), ("get", "/v2/tokens"), ("delete", "/v2/tokens/{token_id}"),
    ("get", "/v2/events"), ("get", "/v2/events/stream"), ("get", "/v2/events/sinks"), ("get", "/v2/events/dead"),
    ("post", "/v2/events/dead/redrive"), ("delete", "/v2/events/dead/{sink}/{event_id}"),
    ("post", "/v2/events/replay"),
    ("post", "/v2/tags"),
    ("get", "/v2/tags"),
    ("delete", "/v2/tags/{uid}"),
    ("post", "/v2/locations"),
    ("get", "/v2/locations"),
    ("delete", "/v2/locations/{uid}"),
    ("post", "/v2/policies"),
    ("get", "/v2/policies"),
    ("get", "/v2/policies/{uid}"),
    ("put", "/v2/policies/{uid}"),
    ("delete", "/v2/policies/{uid}"),
    ("get", "/v2/policies/{uid}/versions/{version}"),
    ("get", "/dps-service/v2.5/pvs/device"),
    ("post", "/dps-service/v2.5/pvs/device"),
    ("get", "/v2/dps/groups"),
    ("post", "/v2/dps/groups"),
    ("post", "/v2/dps/masterDataGroups"),
    ("delete", "/v2/dps/groups/{group_id}"),
    ("post", "/v2/attachments"),
    ("get", "/v2/attachments"),
    ("delete", "/v2/attachments/{attachment_id}"),
    ("get", "/v2/attachments/download/{ticket}"),
    ("get", "/v2/learning"),
    ("get", "/v2/learning/locks"),
    ("post", "/v2/learning/locks"),
    ("post", "/v2/learning/locks/{lock_id}/undo"),
    ("get", "/v2/keys"), ("post", "/v2/keys/rotate"), ("post", "/v2/keys/{epoch}/retire"),
    ("get", "/v2/deviceBrokers"), ("get", "/v2/deviceBrokers/plan"),
    ("get", "/healthz"), ("get", "/readyz"), ("get", "/v2/journal"),
    ("get", "/v2/drift"),
    ("post", "/v2/drift/apply"),
    ("get", "/v2/provisionRequests/{request_id}/log"),
    ("get", "/metrics"),
    ("get", "/v2/why"), ("get", "/v2/provisionRequests/{request_id}/why"),
    ("post", "/v2/provisionEntities"), ("get", "/v2/devices"), ("get", "/v2/imports"), ("post", "/v2/imports"),
    ("post", "/v2/imports/check"), ("post", "/v2/imports/{import_id}/rows"), ("post", "/v2/imports/{import_id}/undo"),
    ("get", "/v2/imports/{import_id}/devices"),
    ("post", "/provision/activate"), ("get", "/provision/manage/model/"), ("post", "/provision/manage/model/"),
    ("delete", "/provision/manage/model/{model}"),
    *((method, "/provision/manage/model/{model}/") for method in METHODS),
    *((method, "/provision/manage/model/{model}/{sn}") for method in METHODS),
}  # fmt: skip


async def test_health_needs_no_token(world: World) -> None:
    assert await world.visitor().get("/healthz") == {"status": "up"}


async def test_readiness_names_what_is_missing(world: World) -> None:
    visitor = world.visitor()
    assert await visitor.get("/readyz") == {"ready": True, "store": True, "endpoint": True}
    world.ready["store"] = False
    answer = await visitor.http.get("/readyz")
    assert (answer.status_code, answer.json()) == (503, {"ready": False, "store": False, "endpoint": True})


async def test_metrics_need_any_valid_token(world: World) -> None:
    await world.visitor().refused(401, "unauthenticated", "GET", "/metrics")
    answer = await (await world.operator(Role.VIEWER, "acme")).http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert 'provisioner_claims_total{reason="denied"} 1.0' in answer.text
    assert "provisioner_job_failures_total 0.0" in answer.text
    assert "provisioner_connections 3.0" in answer.text


async def test_the_api_describes_itself(world: World) -> None:
    described = await world.visitor().get("/openapi.json")
    assert described["info"]["version"] == __version__
    found = {(method, path) for path, methods in described["paths"].items() for method in methods}
    assert found == ROUTES
    create = described["paths"][PATH]["post"]
    assert create["security"] == [{"HTTPBearer": []}]
    assert "requestBody" in create
    assert set(create["responses"]) == {"201", "default"}
    assert "application/problem+json" in create["responses"]["default"]["content"]
    fields = described["components"]["schemas"]["RequestEntity"]["properties"]
    assert {"optlock", "provisionSecureURL", "provisionedCredentialsTight", "provisionJob"} <= fields.keys()
    names = [operation["operationId"] for path in described["paths"].values() for operation in path.values()]
    assert len(set(names)) == len(names)


async def test_there_are_no_pages_that_load_from_elsewhere(admin: Operator) -> None:
    for path in ("/docs", "/redoc", "/docs/oauth2-redirect"):
        await admin.refused(404, "no-such-path", "GET", path)


@pytest.mark.parametrize(
    "path", ["/", "/v2", "/v2/accounts/", "/v2/provisionRequests/1/why/not", "/v3/accounts", "/%2e%2e/x"]
)
async def test_an_unknown_path_is_a_problem(admin: Operator, path: str) -> None:
    await admin.refused(404, "no-such-path", "GET", path)


async def test_an_unknown_method_is_told_the_known_ones(admin: Operator) -> None:
    answer = await admin.http.patch(PATH)
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, POST")
    assert (answer.json()["code"], answer.json()["detail"]) == ("method-not-allowed", "This path takes GET, POST.")
    assert (await admin.http.request("BREW", f"{PATH}/1")).headers["allow"] == "DELETE, GET, PUT"


async def test_a_fault_of_ours_is_logged_once_and_withheld(world: World) -> None:
    async def broken() -> dict[str, bool]:
        raise LookupError("the drawer is empty")

    world.app.state.readiness = broken
    with capture_logs() as logs:
        problem = await world.visitor().refused(500, "internal", "GET", "/readyz")
    assert "drawer" not in problem["detail"]
    assert [entry["event"] for entry in logs] == ["http failed"]


@pytest.mark.parametrize(
    "body",
    [None, [], "x", 1, True, {"optlock": None}, {"optlock": {}}],
)
async def test_a_body_of_another_shape_is_a_problem(admin: Operator, body: Any) -> None:
    created = await admin.create()
    answer = await admin.http.put(f"{PATH}/{created['id']}", json=body)
    assert (answer.status_code, answer.json()["code"]) == (400, "invalid")


async def test_field_names_come_back_harmless(admin: Operator) -> None:
    problem = await admin.refused(
        400, "invalid", "POST", "/v2/tokens", {"name": "x", "role": "viewer", "\x1b[31m\n": 1}
    )
    assert problem["detail"] == "`\\x1b[31m\\n` is no field of this call; leave it out."
    problem = await admin.refused(400, "invalid", "POST", "/v2/tokens", {"name": "x", "role": "viewer", "y" * 9000: 1})
    assert len(problem["detail"]) < 200


async def test_it_works_over_a_real_socket(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    server = HttpServer(world.app)
    port = await server.start("127.0.0.1", 0)
    token = await world.token()
    headers = {"authorization": f"Bearer {token}"}
    base = f"http://127.0.0.1:{port}"
    async with httpx2.AsyncClient(base_url=base, headers=headers, trust_env=False) as http:
        operator = Operator(http, world)
        created = await operator.create()
        assert (await operator.get(f"{PATH}/{created['id']}"))["clientId"] == "dev-1"
        await operator.refused(401, "unauthenticated", "GET", PATH, headers={"authorization": "Bearer x"})
        answer = await http.post(PATH, content=b" " * 70_000, headers={"content-type": "application/json"})
        assert answer.status_code == 413
        await operator.ask(204, "DELETE", f"{PATH}/{created['id']}")
        await server.stop()
        with pytest.raises(httpx2.TransportError):
            await http.get("/healthz")
    said = "\n".join(record.getMessage() for record in caplog.records if not record.name.startswith("httpx2"))
    assert token not in said
    assert created["activationKey"] not in said
    assert PATH not in said
