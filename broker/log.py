"""The log: structured events on standard error, one a line.

1. An event is a lower-case phrase with fields: `log.info("claim", client_id=…, reason=…)`; times are UTC.
2. JSON for machines, coloured text on a terminal; standard output belongs to the ready line.
3. Libraries that use `logging` speak in the same form: from level `warning` on, at `debug` everything.
4. Fields with the name of a secret are blanked, and tracebacks carry no local variables. Both are nets, not licences:
   nobody passes a secret.
5. No control character is written raw: what a stranger sends cannot forge a line or steer a terminal.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
import threading
import time
import traceback
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from typing import Any, TextIO, cast

import structlog
from pydantic_core import PydanticSerializationError, to_json
from structlog.processors import ExceptionRenderer
from structlog.tracebacks import ExceptionDictTransformer
from structlog.typing import ExcInfo, Processor

SECRETS = frozenset(
    ("activation_key", "authorization", "csr", "key", "password", "private_key", "proof", "sealed", "secret", "token")
)
"""Fields that never reach the log."""


class Lines:
    """What the log writes to: lines of one turn of the event loop leave together, in one write to `stream`.

    Each write lets other threads in and has to wait for them afterwards: two for each device are a tenth of its
    hand-over. Without a running event loop a line leaves at once. What cannot be written is dropped.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._waiting: list[str] = []
        self._lock = threading.Lock()
        self._turning: asyncio.AbstractEventLoop | None = None

    def write(self, text: str) -> int:
        """Take a piece of a line."""
        self._waiting.append(text)
        return len(text)

    def flush(self) -> None:
        """Have everything written, at the latest when the event loop has come round."""
        if self._turning is not None and self._turning.is_running():
            return
        try:
            self._turning = asyncio.get_running_loop()
        except RuntimeError:
            self._write_out()
        else:
            self._turning.call_soon(self._write_out)

    def _write_out(self) -> None:
        with self._lock:
            self._turning = None
            count = len(self._waiting)
            # Where nobody reads the log any more (a pipe whose other end died, a full disk), devices are served all the
            # same, and there is no place to say so: told to the log, it would come back here for ever.
            with suppress(OSError):
                self._stream.write("".join(self._waiting[:count]))
                self._stream.flush()
            del self._waiting[:count]


def configure(level: str, form: str, stream: TextIO | None = None) -> None:
    """Set up logging for this process: `level` debug to error, `form` auto, json or console."""
    stream = stream or sys.stderr
    form = ("console" if stream.isatty() else "json") if form == "auto" else form
    number = logging.getLevelNamesMapping()[level.upper()]
    lines = cast("TextIO", Lines(stream))
    shared: list[Processor] = [structlog.processors.add_log_level, Stamper(), hide_secrets]
    last: list[Processor]
    if form == "console":
        renderer = structlog.dev.ConsoleRenderer(colors=stream.isatty(), exception_formatter=_write_traceback)
        last = [escape_controls, renderer]
    else:
        frames = ExceptionDictTransformer(show_locals=False)
        last = [ExceptionRenderer(frames), structlog.processors.JSONRenderer(serializer=_to_json)]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=lines),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(lines)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(number if number == logging.DEBUG else max(number, logging.WARNING))


_ENCODER = json.JSONEncoder(default=str)


def _to_json(event: object, **_options: object) -> str:
    """ASCII JSON without control characters. Lines of plain ASCII, nearly all, go a way that is four times as short."""
    try:
        line = to_json(event, fallback=str)
        text = line.decode("ascii") if line.isascii() else _ENCODER.encode(event)
    except PydanticSerializationError:
        text = _ENCODER.encode(event)
    return text.replace("\x7f", "\\u007f")


class Stamper:
    """Adds `timestamp`, RFC 3339 with microseconds in UTC; the seconds are spelled once for all lines in them."""

    def __init__(self, clock: Callable[[], int] = time.time_ns) -> None:
        self._clock = clock
        self._second = -1
        self._spelled = ""

    def __call__(self, _logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """A `Processor`."""
        second, nanoseconds = divmod(self._clock(), 1_000_000_000)
        if second != self._second:
            self._spelled = time.strftime("%Y-%m-%dT%H:%M:%S.", time.gmtime(second))
            self._second = second
        event["timestamp"] = f"{self._spelled}{nanoseconds // 1000:06}Z"
        return event


def hide_secrets(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Blank every field whose name says that it is a secret."""
    if not SECRETS.isdisjoint(event):
        for name in SECRETS & event.keys():
            event[name] = "…"
    return event


def escape_controls(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Write control characters as escapes; the console renderer passes them on as they are."""
    for name, value in event.items():
        if isinstance(value, str):
            event[name] = _escaped(value)
    return event


def _escaped(text: str) -> str:
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def _write_traceback(stream: TextIO, error: ExcInfo) -> None:
    lines = "".join(traceback.format_exception(*error)).splitlines()
    stream.write("".join(f"\n{_escaped(line)}" for line in lines))
