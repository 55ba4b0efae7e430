"""The load generator: a process of its own that runs one round and tells what it saw.

Standard input is one JSON object, `{"kind": "null" | "twice" | "handover" | "certificate", "port", "tls",
"concurrency", "user", "password", "devices": [[client id, key], ...]}`; standard output is a line `{"done": n}` a few
times a second and one `{"seconds", "cpu", "latencies", "failed", "wrong"}` at the end.

1. Nothing is computed while the clock runs: every packet was built and every proof made before.
2. A cycle is what a device does, at QoS 1: connect, subscribe, claim, reply, disconnect; a hand-over goes on from the
   reply with the ack `stored` until `confirmed`, and one with a certificate claims with a CSR of the device's own key.
   `twice` is a null cycle with as many messages. A step begins when the answer to the one before has arrived.
3. After the clock stopped every sealed offer is opened and every proof checked: `wrong` counts those that were not
   what the contract says.
"""

import asyncio
import json
import secrets
import ssl
import sys
import time
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import uvloop

from broker.fleet.device_key import SEED_SIZE, DeviceKey
from broker.fleet.keys import Keys, NotForUs, csr_hash
from broker.fleet.replies import Encoding, Reply, Unreadable, parse_offer, parse_reply, read_map, write_map
from broker.mqtt.packets import Connect, Disconnect, Publish, Subscribe, Subscription, encode

_NONCES = ("claim-" + "0" * 16, "stored" + "0" * 16)
_REQUEST_ID = "r-1"
_GOODBYE = encode(Disconnect(), 4)
_PATIENCE = 60.0


@dataclass(slots=True)
class Job:
    """One device's packets, and what came back."""

    keys: Keys
    connect: bytes
    subscribe: bytes
    messages: tuple[bytes, ...]
    device_key: DeviceKey | None = None
    replies: list[bytes] = field(default_factory=list)
    seconds: float = 0.0


def build(kind: str, user: str, password: str, client_id: str, key: str) -> Job:
    """Build everything one device will send."""
    keys = Keys.derive(key.encode(), user, client_id)
    topics = f"prov/v1/{user}/{client_id}/"
    first, second = _NONCES
    device_key = DeviceKey.made_from(secrets.token_bytes(SEED_SIZE)) if kind == "certificate" else None
    hashed = "" if device_key is None else csr_hash(device_key.csr)
    claim = {"requestId": _REQUEST_ID, "nonce": first, "proof": keys.prove_claim(_REQUEST_ID, first, csr_hash=hashed)}
    if device_key is not None:
        claim["csr"] = b64encode(device_key.csr).decode()
    # A client id that never had a credential gets generation 1, so the ack can be made before the offer is here.
    ack = {
        "requestId": _REQUEST_ID,
        "generation": 1,
        "result": "stored",
        "nonce": second,
        "proof": keys.prove_ack(_REQUEST_ID, second, 1, "stored"),
    }
    messages = [Publish(topics + "request", write_map(claim, Encoding.JSON), 1, 2)]
    if kind != "null":
        messages.append(Publish(topics + "ack", write_map(ack, Encoding.JSON), 1, 3))
    return Job(
        keys,
        encode(Connect(client_id, keep_alive=60, username=user, password=password.encode()), 4),
        encode(Subscribe(1, (Subscription(topics + "reply", 1),)), 4),
        tuple(encode(message, 4) for message in messages),
        device_key,
    )


class Client(asyncio.Protocol):
    """One connection: sends the job's packets, each after the answer to the one before."""

    __slots__ = ("_buffer", "_job", "_started", "_transport", "done")

    def __init__(self, job: Job, loop: asyncio.AbstractEventLoop) -> None:
        self._job = job
        self._buffer = b""
        self._started = time.perf_counter()
        self.done: asyncio.Future[str] = loop.create_future()

    def connection_made(self, transport: Any) -> None:  # uvloop's transports are no subclasses of asyncio's
        self._transport = transport
        transport.write(self._job.connect)

    def data_received(self, data: bytes) -> None:
        buffer = self._buffer + data if self._buffer else data
        while len(buffer) >= 2:
            length, header = buffer[1], 2
            if length >= 0x80:  # no packet here needs more than two bytes
                if len(buffer) < 3:
                    break
                length, header = (length & 0x7F) | buffer[2] << 7, 3
            end = header + length
            if len(buffer) < end:
                break
            self._take(buffer[0], buffer[header:end])
            buffer = buffer[end:]
        self._buffer = buffer

    def _take(self, first: int, body: bytes) -> None:
        job = self._job
        match first >> 4:
            case 2 if body[1]:
                self._finish(f"CONNACK {body[1]}")
            case 2:
                self._transport.write(job.subscribe)
            case 9 if body[2] >= 0x80:
                self._finish("SUBACK 128")
            case 9:
                self._transport.write(job.messages[0])
            case 3:
                start = 2 + (body[0] << 8 | body[1])
                self._transport.write(b"\x40\x02" + body[start : start + 2])
                job.replies.append(body[start + 2 :])
                self._go_on(body)

    def _go_on(self, body: bytes) -> None:
        job = self._job
        step = len(job.replies)
        if b'"offer"' not in body and b'"confirmed"' not in body:
            self._finish("refused")
        elif step == len(job.messages):
            job.seconds = time.perf_counter() - self._started
            self._finish("")
        else:
            self._transport.write(job.messages[step])

    def connection_lost(self, _: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result("connection lost")

    def _finish(self, failure: str) -> None:
        if not self.done.done():
            self.done.set_result(failure)
            self._transport.write(_GOODBYE)
            self._transport.close()


async def drive(
    jobs: list[Job], port: int, concurrency: int, tls: ssl.SSLContext | None
) -> tuple[float, float, Counter[str]]:
    """Run all jobs, so many at a time; returns the seconds it took, our own processor time, and failures by kind."""
    loop = asyncio.get_running_loop()
    queue: Iterator[Job] = iter(jobs)
    failed: Counter[str] = Counter()
    done = 0

    async def work() -> None:
        nonlocal done
        for job in queue:
            client = Client(job, loop)
            try:
                await loop.create_connection(lambda client=client: client, "127.0.0.1", port, ssl=tls)
                failure = await asyncio.wait_for(client.done, _PATIENCE)
            except OSError as error:
                failure = type(error).__name__
            if failure == "refused":
                failure = reason(job.replies[-1])
            if failure:
                failed[failure] += 1
            done += 1

    async def tell() -> None:
        while True:
            say({"done": done})
            await asyncio.sleep(0.1)

    teller = asyncio.create_task(tell())
    started, used = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work() for _ in range(concurrency)))
    seconds, cpu = time.perf_counter() - started, time.process_time() - used
    teller.cancel()
    return seconds, cpu, failed


def tls_13() -> ssl.SSLContext:
    """TLS 1.3, and the certificate taken as it is: what a device computes to check it is not the server's cost."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def reason(payload: bytes) -> str:
    """Why a reply is not the one hoped for."""
    try:
        return parse_reply(payload, Encoding.JSON).reason
    except Unreadable:
        return "unreadable"


def is_right(job: Job) -> bool:
    """Open the offer and check the proof of the confirmation."""
    try:
        offer, confirmed = (parse_reply(payload, Encoding.JSON) for payload in job.replies)
        body = read_map(job.keys.open_gcm(offer.sealed or "", _REQUEST_ID, _NONCES[0]), Encoding.JSON)
        credential = parse_offer(body, job.keys.client_id)
        check_confirmed(job, confirmed)
    except (NotForUs, Unreadable, ValueError):
        return False
    is_ours = credential.generation == 1 and credential.request_id == _REQUEST_ID
    if job.device_key is None:
        return is_ours and credential.certificate is None
    return is_ours and job.device_key.is_certified_by(credential.certificate or "")


def check_confirmed(job: Job, reply: Reply) -> None:
    """Raise NotForUs unless the reply is proved."""
    job.keys.check_reply(
        reply.proof or "",
        _REQUEST_ID,
        _NONCES[1],
        200,
        "confirmed",
        generation=reply.generation,
        retry_after=reply.retry_after,
        forget=reply.forget,
    )


def say(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def main() -> None:
    order = json.load(sys.stdin)
    kind = order["kind"]
    jobs = [build(kind, order["user"], order["password"], *device) for device in order["devices"]]
    seconds, cpu, failed = uvloop.run(
        drive(jobs, order["port"], order["concurrency"], tls_13() if order["tls"] else None)
    )
    ended = [job for job in jobs if job.seconds]
    wrong = sum(not is_right(job) for job in ended) if kind not in ("null", "twice") else 0
    latencies = [job.seconds for job in ended]
    say({"seconds": seconds, "cpu": cpu, "latencies": latencies, "failed": failed, "wrong": wrong})


if __name__ == "__main__":
    main()
