"""One line an event, and nothing in it that should not be there."""

import asyncio
import io
import json
import logging
from pathlib import Path

import pytest
import structlog

from broker.log import Stamper, configure

pytestmark = pytest.mark.usefixtures("log_undone")


def fail(hunter2: str) -> None:
    raise ValueError("went wrong\x1b[2J")


def written(form: str, level: str = "info") -> io.StringIO:
    stream = io.StringIO()
    configure(level, form, stream)
    return stream


def test_an_event_is_one_json_line() -> None:
    stream = written("json")
    structlog.get_logger().info("claim", client_id="dev-1\n\x1b[31m", duration_ms=1.5)
    event = json.loads(stream.getvalue())
    assert stream.getvalue().count("\n") == 1
    assert (event["event"], event["level"], event["client_id"]) == ("claim", "info", "dev-1\n\x1b[31m")
    assert event["timestamp"].endswith("Z")


def test_what_is_no_json_is_written_all_the_same() -> None:
    stream = written("json")
    structlog.get_logger().info("odd", path=Path("/x"), octets=b"\xff", names={"ä"}, number=float("nan"))
    assert json.loads(stream.getvalue())["path"] == "/x"
    assert stream.getvalue().isascii()


@pytest.mark.parametrize("form", ["json", "console"])
def test_no_control_character_is_written_raw(form: str) -> None:
    stream = written(form)
    structlog.get_logger().info("claim\x9b", client_id="a\x1b[31mb\nc\x07\x7f")
    try:
        fail("x")
    except ValueError:
        structlog.get_logger().exception("failed")
        logging.getLogger("library").exception("failed %s", "\x1b[31m")
    raw = {char for char in stream.getvalue() if not char.isprintable()}
    assert raw <= {"\n"}


@pytest.mark.parametrize("form", ["json", "console"])
def test_neither_secret_fields_nor_local_variables_are_written(form: str) -> None:
    stream = written(form)
    structlog.get_logger().info("login", password="hunter2", key="hunter2", token="hunter2")
    try:
        fail("hunter" + "2")
    except ValueError:
        structlog.get_logger().exception("failed")
    assert "hunter2" not in stream.getvalue().replace("fail(hunter2", "")
    assert "went wrong" in stream.getvalue()


def test_levels_are_obeyed_and_libraries_are_quieter() -> None:
    stream = written("json", "info")
    structlog.get_logger().debug("no")
    logging.getLogger("library").info("no")
    logging.getLogger("library").warning("yes %s", 1)
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["event"] == "yes 1"
    assert json.loads(line)["logger"] == "library"


class Counting(io.StringIO):
    writes = 0

    def write(self, text: str) -> int:
        self.writes += 1
        return super().write(text)


async def test_lines_of_one_turn_are_one_write_and_in_order() -> None:
    stream = Counting()
    configure("info", "json", stream)
    for number in range(100):
        structlog.get_logger().info("ours", number=2 * number)
        logging.getLogger("library").warning("theirs %s", 2 * number + 1)
    await asyncio.sleep(0)
    assert stream.writes == 1
    events = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [event.get("number", event["event"]) for event in events[:4]] == [0, "theirs 1", 2, "theirs 3"]
    assert len(events) == 200
    structlog.get_logger().info("later")
    await asyncio.sleep(0)
    assert stream.getvalue().endswith("\n")
    assert json.loads(stream.getvalue().splitlines()[-1])["event"] == "later"


async def test_a_log_that_nobody_reads_any_more_stops_nothing() -> None:
    class Pipe(io.StringIO):
        broken = True
        tries = 0

        def write(self, text: str) -> int:
            self.tries += 1
            if self.broken:
                raise BrokenPipeError
            return super().write(text)

    stream = Pipe()
    configure("info", "json", stream)
    loop = asyncio.get_running_loop()
    troubles: list[object] = []
    loop.set_exception_handler(lambda _, context: troubles.append(context))
    for _ in range(3):
        structlog.get_logger().info("lost")
        await asyncio.sleep(0)
    assert (troubles, stream.tries) == ([], 3)
    stream.broken = False
    structlog.get_logger().info("read again")
    await asyncio.sleep(0)
    assert json.loads(stream.getvalue())["event"] == "read again"


def test_what_the_loop_did_not_come_to_write_is_written_by_the_next_line() -> None:
    stream = Counting()
    configure("info", "json", stream)

    async def work() -> None:
        structlog.get_logger().info("first")

    first = work()
    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(first)
    finally:
        loop.close()
    structlog.get_logger().info("second")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["first", "second"]


def test_times_are_utc_with_microseconds_across_seconds() -> None:
    instants = iter((1_795_377_600_000_001_999, 1_795_377_600_999_999_999, 1_795_377_601_000_000_000))
    stamp = Stamper(lambda: next(instants))
    stamped = [stamp(None, "info", {})["timestamp"] for _ in range(3)]
    assert stamped == ["2026-11-22T20:00:00.000001Z", "2026-11-22T20:00:00.999999Z", "2026-11-22T20:00:01.000000Z"]


def test_auto_is_json_where_no_terminal_is() -> None:
    stream = written("auto")
    structlog.get_logger().info("event")
    assert json.loads(stream.getvalue())["event"] == "event"
