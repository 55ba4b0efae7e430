"""Topic names and filters: any text.

1. The contract's topics are read back as they were built, and nothing else is one of them.
2. Matching agrees with section 4.7 as somebody else writes it, and a filter that lies inside another matches nothing
   that the other does not.
3. A session cannot name a topic that is another's.
"""

from __future__ import annotations

import re

from broker.mqtt.filters import InvalidTopic, check_filter, check_topic, covers, matches
from broker.mqtt.topics import Topics, UnknownTopic
from tests.hostile import grammar

_TOPICS = Topics()
SEEDS = [
    b"prov/v1/factory/dev-1/request\nacme/#\nacme/+/x\nacme/a/x",
    b"prov/v1/factory/dev-1/reply\n+/+\n$SYS/#\n$SYS/a",
    b"prov/v1/+/#/ack\n#\n+\n/",
    b"a//b\na/+/b\na/#\na",
    b"factory\ndev-1\n/#\n/",
]
TOKENS = [
    b"prov/v1/", b"/request", b"/reply", b"/ack", b"#", b"+", b"/", b"$share/g/", b"$SYS/", b"\n", b"\0", b"%c",
    "ä".encode(), "\u202e".encode(), b"\xed\xa0\x80",
]  # fmt: skip


def try_one(data: bytes) -> None:
    """Up to four texts, a line each: a topic, two filters, a topic."""
    texts = (data.decode("utf-8", "surrogateescape").split("\n") + [""] * 4)[:4]
    _check_own(texts[0], texts[1])
    if any("\udc80" <= char <= "\udcff" for text in texts for char in text):
        return  # the codec lets no such text through
    outer, inner, topic = texts[1:]
    try:
        check_filter(outer)
        check_filter(inner)
        check_topic(topic)
    except InvalidTopic:
        return
    assert matches(outer, topic) is _matches(outer, topic), (outer, topic)
    assert matches(inner, topic) is _matches(inner, topic), (inner, topic)
    if covers(outer, inner):
        assert matches(outer, topic) or not matches(inner, topic), (outer, inner, topic)


def _check_own(topic: str, other: str) -> None:
    try:
        address = _TOPICS.parse(topic)
    except UnknownTopic:
        pass
    else:
        assert grammar.is_identifier(address.user)
        assert grammar.is_identifier(address.client_id)
        assert topic == f"prov/v1/{address.user}/{address.client_id}/{address.kind}"
        assert _TOPICS.build(address) == topic
    try:
        names = _TOPICS.session(topic, other)
    except UnknownTopic:
        assert not (grammar.is_identifier(topic) and grammar.is_identifier(other))
    else:
        assert all(name.count("/") == 4 and not set(name) & set("+#\0") for name in names)


def _matches(topic_filter: str, topic: str) -> bool:
    """Section 4.7 as a regular expression."""
    if topic.startswith("$") and topic_filter[0] in "+#":
        return False
    if topic_filter == "#":
        return True
    body, end = (topic_filter[:-2], "(/.*)?") if topic_filter.endswith("/#") else (topic_filter, "")
    levels = "/".join("[^/]*" if level == "+" else re.escape(level) for level in body.split("/"))
    return re.fullmatch(levels + end, topic, re.DOTALL) is not None
