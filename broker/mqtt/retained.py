"""Retained messages: the last one of each topic, for those who subscribe later (section 3.3.1.3).

1. A message with payload replaces its topic's, one without removes it (MQTT-3.3.1-10).
2. What is kept is bounded, in messages, in bytes, and in messages of one user. A message above a bound is delivered
   like any other and not kept, and neither is its topic's former one: no message is better than a false one.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from broker.mqtt.device_session import Message
from broker.mqtt.filters import matches


@dataclass(frozen=True, slots=True)
class RetainedBounds:
    """How much is kept: messages and bytes of payload in all, messages of one user."""

    messages: int
    bytes: int
    of_one_user: int


class RetainedMessages:
    """The retained messages of a broker, in memory."""

    def __init__(self, bounds: RetainedBounds) -> None:
        self._bounds = bounds
        self._kept: dict[str, tuple[Message, str]] = {}
        self._bytes = 0
        self._of_user: Counter[str] = Counter()

    def keep(self, message: Message, username: str) -> bool:
        """Take a message that was published with the retain flag by `username`; False: it could not be kept."""
        self._remove(message.topic)
        if not message.payload:
            return True
        bounds, size = self._bounds, len(message.payload)
        if (
            len(self._kept) >= bounds.messages
            or self._bytes + size > bounds.bytes
            or self._of_user[username] >= bounds.of_one_user
        ):
            return False
        self._kept[message.topic] = (message, username)
        self._bytes += size
        self._of_user[username] += 1
        return True

    def matching(self, topic_filter: str) -> Iterator[Message]:
        """Go through the messages whose topics a filter matches."""
        return (message for topic, (message, _) in self._kept.items() if matches(topic_filter, topic))

    def _remove(self, topic: str) -> None:
        former = self._kept.pop(topic, None)
        if former is None:
            return
        message, username = former
        self._bytes -= len(message.payload)
        self._of_user[username] -= 1
        if not self._of_user[username]:
            del self._of_user[username]
