"""A bridge of aiomqtt alone, with a constant answer: the yardstick of hand-overs through another's broker.

`python -m tests.bench.null_bridge PORT USER PASSWORD` prints `{"port"}` once it has subscribed, and ends when it is
told to terminate. It is what one writes after reading aiomqtt's documentation, but for TCP_NODELAY: without that it
would wait 40 ms for each reply.
"""

import argparse
import asyncio
import json
import logging
import signal
import socket
import sys

import aiomqtt
import uvloop
from paho.mqtt.subscribeoptions import SubscribeOptions

_WORKERS = 50
_ANSWER = b'{"requestId":"r-1","code":200,"reason":"offer","x":"%s"}' % (b"x" * 500)


async def serve(port: int, user: str, password: str) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    quiet = logging.getLogger("null")
    quiet.setLevel(logging.CRITICAL)
    async with aiomqtt.Client(
        "127.0.0.1",
        port,
        username=user,
        password=password,
        identifier="null-bridge",
        protocol=aiomqtt.ProtocolVersion.V5,
        logger=quiet,
        socket_options=[(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)],
    ) as client:
        client.pending_calls_threshold = 1_000_000
        for kind in ("request", "ack"):
            await client.subscribe(f"prov/v1/+/+/{kind}", options=SubscribeOptions(qos=1))

        async def work() -> None:
            async for message in client.messages:
                await client.publish(message.topic.value.rpartition("/")[0] + "/reply", _ANSWER, qos=1)

        workers = [loop.create_task(work()) for _ in range(_WORKERS)]
        sys.stdout.write(json.dumps({"port": port}) + "\n")
        sys.stdout.flush()
        await stop.wait()
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("user")
    parser.add_argument("password")
    options = parser.parse_args()
    uvloop.run(serve(options.port, options.user, options.password))


if __name__ == "__main__":
    main()
