"""The endpoint alone, with a constant answer: the yardstick hand-overs are measured by.

`python -m tests.bench.null_endpoint FOLDER` serves without and with TLS (`server.pem` and `server.key` in FOLDER),
prints `{"port", "tlsPort"}`, and ends when it is told to terminate.
"""

import argparse
import asyncio
import json
import logging
import signal
import sys
from functools import partial
from pathlib import Path

import structlog
import uvloop

from broker.mqtt.endpoint import PLAIN, Answer, Endpoint, EndpointLimits, Inbound, LoginVerdict
from broker.tls import ServerTls, server_context


class ConstantService:
    """Admits everybody, and gives every claim and ack the same answer of about an offer's size."""

    def __init__(self) -> None:
        self._answer = Answer(
            b'{"requestId":"r-1","code":200,"reason":"offer","x":"%s"}' % (b"x" * 500), "application/json", PLAIN
        )

    async def login(self, user: str, password: bytes, client_id: str) -> LoginVerdict:
        return LoginVerdict.ADMITTED

    async def certificate_login(self, certificate: bytes, client_id: str) -> LoginVerdict:
        return LoginVerdict.REFUSED

    async def answer(self, message: Inbound) -> Answer:
        return self._answer

    def bad_topic(self, user: str, client_id: str) -> Answer:
        return self._answer


async def serve(folder: Path) -> None:
    endpoint = Endpoint(ConstantService(), EndpointLimits(max_connections=100_000, max_connections_per_source=100_000))
    tls = ServerTls(partial(server_context, folder / "server.pem", folder / "server.key"))
    ports = {"port": await endpoint.start("127.0.0.1", 0), "tlsPort": await endpoint.start("127.0.0.1", 0, tls.context)}
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    sys.stdout.write(json.dumps(ports) + "\n")
    sys.stdout.flush()
    await stop.wait()
    await endpoint.drain(1.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.INFO))
    uvloop.run(serve(parser.parse_args().folder))


if __name__ == "__main__":
    main()
