"""Topic names and topic filters: well-formed, matching, and whether one filter lies inside another.

1. A filter is granted only inside one granted filter: `covers(granted, wanted)` is true exactly when every topic name
   that `wanted` matches is matched by `granted` as well. Two granted filters are never added up.
2. A filter that begins with a wildcard does not match topics that begin with `$` (MQTT-4.7.2-1), and so covers none.
3. Names and filters are held to 4,096 bytes and 64 levels: matching costs time for each level, and the protocol's
   own 65,535 levels would buy a stranger much of it.
"""

from collections.abc import Iterable
from typing import Final

MAX_BYTES: Final = 4096
MAX_LEVELS: Final = 64


class InvalidTopic(ValueError):
    """A topic name or filter that breaks section 4.7, or is larger than rule 3 allows."""


def check_topic(topic: str) -> None:
    """Raise InvalidTopic unless `topic` may be published to by a client: well-formed, and not the server's own `$`."""
    _check_size(topic)
    if "+" in topic or "#" in topic:
        raise InvalidTopic("topic name has a wildcard")
    if topic.startswith("$"):
        raise InvalidTopic("topic name begins with $")


def check_filter(topic_filter: str) -> None:
    """Raise InvalidTopic unless `topic_filter` is well-formed (MQTT-4.7.1-2, MQTT-4.7.1-3)."""
    _check_size(topic_filter)
    levels = topic_filter.split("/")
    if any("#" in level and (level != "#" or place != len(levels) - 1) for place, level in enumerate(levels)):
        raise InvalidTopic("# is not the whole last level")
    if any("+" in level and level != "+" for level in levels):
        raise InvalidTopic("+ is not a whole level")


def _check_size(text: str) -> None:
    if not text or "\0" in text:
        raise InvalidTopic("topic is empty or has a NUL")
    if len(text.encode()) > MAX_BYTES or text.count("/") >= MAX_LEVELS:
        raise InvalidTopic("topic is too long")


def matches(topic_filter: str, topic: str) -> bool:
    """Whether a well-formed filter matches a topic name."""
    if topic_filter == topic:
        return True
    if topic.startswith("$") and topic_filter[0] in "+#":
        return False
    wanted, given = topic_filter.split("/"), topic.split("/")
    if wanted[-1] == "#":
        wanted.pop()
        del given[len(wanted) :]  # `a/#` matches `a` too, so fewer levels than given are enough and more are not
    return len(wanted) == len(given) and all(a in ("+", b) for a, b in zip(wanted, given, strict=True))


def covers(granted: str, wanted: str) -> bool:
    """Whether every topic name matched by `wanted` is matched by `granted`; both are well-formed filters."""
    if wanted.startswith("$") and granted[0] in "+#":
        return False
    outer, inner = granted.split("/"), wanted.split("/")
    if inner in (["#"], ["", "#"]):
        inner.insert(-1, "+")  # no topic name is empty, so these two have one level more than they say
    if outer[-1] == "#":
        outer.pop()
        if inner[-1] == "#":
            inner.pop()
            if len(inner) < len(outer):
                return False
        del inner[len(outer) :]
    return len(outer) == len(inner) and all(
        a == b or (a == "+" and b != "#") for a, b in zip(outer, inner, strict=True)
    )


def may(granted: Iterable[str], topic_or_filter: str) -> bool:
    """Whether a topic name or a filter lies inside one of the granted filters; a name is a filter without wildcards."""
    return any(covers(one, topic_or_filter) for one in granted)
