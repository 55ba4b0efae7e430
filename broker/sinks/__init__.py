"""Where domain events go: provisioner's EventSink port, one file per kind of receiver.

Each sink delivers one event and says whether it was taken; order, repetition and giving up are the outbox's. The
webhook signs by the Standard Webhooks specification, so that receivers in any language verify with a library they find.
"""

from __future__ import annotations

import structlog

from provisioner.events import StoredEvent

_log = structlog.get_logger(__name__)


def log_dead_letter(sink: str, event: StoredEvent, problem: str) -> None:
    """A line for whoever watches the log: this one needs a person."""
    _log.error("dead letter", sink=sink, event_id=event.id, type=event.type, detail=problem)
