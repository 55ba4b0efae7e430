"""Each client of `examples/clients/` loses its power at each step, one after the other, and goes on where it was.

Between it and the server stands a line that cuts the power of the unit the moment a certain message passes: before the
message has arrived, so that nobody but its writer knows of it.
"""

import asyncio
import contextlib
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import pytest

from broker.mqtt.packets import Decoder, Frame
from tests.clients.examples import EVERY, PATIENCE, Client, Device, factory
from tests.e2e.packets import Address
from tests.e2e.program import Site

_NAMES: Final = {1: "CONNECT", 2: "CONNACK", 8: "SUBSCRIBE", 9: "SUBACK"}
ON_THE_LINE: Final = ("CONNECT", "CONNACK", "SUBSCRIBE", "SUBACK", "request", "reply to request")
AFTERWARDS: Final = ("ack", "reply to ack")

pytestmark = pytest.mark.timeout(240)  # compilers, interpreters, and pauses between messages


class Line:
    """The way to the endpoint. What is `held` stops there, with everything after it; `holds` tells that it came."""

    def __init__(self, endpoint: Address) -> None:
        self._endpoint = endpoint
        self.held = ""
        self.holds = asyncio.Event()
        self._last_message = ""
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    @property
    def address(self) -> Address:
        """Where the client finds it."""
        assert self._server
        host, port = self._server.sockets[0].getsockname()
        return host, port

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        far_reader, far_writer = await asyncio.open_connection(*self._endpoint)
        both = [
            asyncio.create_task(self._pass_on(reader, far_writer)),
            asyncio.create_task(self._pass_on(far_reader, writer)),
        ]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            pass  # the test is over
        finally:
            for one in both:
                one.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            for end in (writer, far_writer):
                end.close()
                with contextlib.suppress(OSError):
                    await end.wait_closed()
            self._tasks.discard(task)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decoder = Decoder(65536)
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                for frame in decoder.feed(data):
                    name = self._name(frame)
                    if name and name == self.held:
                        self.holds.set()
                        await asyncio.Event().wait()
                    writer.write(frame.raw)

    def _name(self, frame: Frame) -> str:
        if frame.kind != 3:
            return _NAMES.get(frame.kind, "")
        topic = frame.body[2 : 2 + int.from_bytes(frame.body[:2])].decode().rpartition("/")[2]
        if topic == "reply":
            return f"reply to {self._last_message}"
        self._last_message = topic
        return topic


async def cut_on_the_line(device: Device, line: Line, held: str) -> None:
    """Switch it on and cut its power when this message is on its way."""
    line.held = held
    line.holds.clear()
    await device.start()
    async with asyncio.timeout(PATIENCE):
        await line.holds.wait()
    await device.cut()
    line.held = ""


async def cut_after(device: Device, step: str) -> None:
    """Switch it on and cut its power when it has told of this step."""
    await device.start()
    await device.says(step)
    await device.cut()


@pytest.mark.parametrize("client", EVERY, ids=lambda client: client.name)
async def test_a_client_outlives_a_power_cut_at_each_step(site: Site, tmp_path: Path, client: Client) -> None:
    request = await site.request(forget=True)
    async with Line(site.program.endpoint) as line:
        device = Device(client, tmp_path / "unit", factory(line.address, request.client_id, request.key, "proof"))
        for held in ON_THE_LINE:
            await cut_on_the_line(device, line, held)
            assert device.credential is None
        await cut_after(device, "stored")
        stored = device.credential
        assert stored
        site.program.secrets.add(stored["credentials"]["password"])
        await cut_after(device, "logged in")
        for held in AFTERWARDS:
            await cut_on_the_line(device, line, held)
            assert device.credential == stored
        assert await device.run() == 0, device.steps
    assert await request.phase() == "CONFIRMED"
    # Whatever was lost, it was one hand-over of one credential.
    assert stored["credentials"]["username"].endswith(".g1")
    assert not device.factory.get("password")
    assert await device.run() == 0, device.steps
    assert device.steps[-1].strip() == "online"
