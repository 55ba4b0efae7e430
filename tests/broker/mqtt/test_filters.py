"""Topic filters: matching and covering, against a slow and obvious definition."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.mqtt.filters import MAX_BYTES, MAX_LEVELS, InvalidTopic, check_filter, check_topic, covers, matches, may

LEVELS = ("", "a", "$x")
# Every filter of up to three such levels, and every topic name up to one level deeper, with a level that none names.
HEADS = ["/".join(one) for size in range(1, 4) for one in itertools.product((*LEVELS, "+"), repeat=size)]
FILTERS = [one for one in (*HEADS, *(f"{head}/#" for head in HEADS), "#") if one]
TOPICS = ["/".join(one) for size in range(1, 5) for one in itertools.product((*LEVELS, "z"), repeat=size)][1:]


def obviously_matches(topic_filter: str, topic: str) -> bool:
    def below(wanted: list[str], given: list[str]) -> bool:
        if not wanted:
            return not given
        if wanted[0] == "#":
            return True
        return bool(given) and wanted[0] in ("+", given[0]) and below(wanted[1:], given[1:])

    if topic[0] == "$" and topic_filter[0] in "+#":
        return False
    return below(topic_filter.split("/"), topic.split("/"))


def test_a_filter_matches_as_the_specification_says() -> None:
    wrong = [
        (one, topic) for one in FILTERS for topic in TOPICS if matches(one, topic) != obviously_matches(one, topic)
    ]
    assert wrong == []


def test_a_filter_covers_another_exactly_when_it_matches_all_of_its_topics() -> None:
    matched = {one: frozenset(topic for topic in TOPICS if obviously_matches(one, topic)) for one in FILTERS}
    wrong = [
        (granted, wanted)
        for granted, wanted in itertools.product(FILTERS, repeat=2)
        if covers(granted, wanted) != (matched[wanted] <= matched[granted])
    ]
    assert wrong == []


texts = st.lists(st.text("ab+#$/", max_size=3), min_size=1, max_size=5).map("/".join)


@given(texts, texts, texts)
def test_what_a_granted_filter_does_not_match_no_subscription_inside_it_does(
    granted: str, wanted: str, topic: str
) -> None:
    for topic_filter in (granted, wanted):
        try:
            check_filter(topic_filter)
        except InvalidTopic:
            return
    if topic and covers(granted, wanted) and matches(wanted, topic):
        assert matches(granted, topic)


@pytest.mark.parametrize(
    ("granted", "wanted", "inside"),
    [
        ("acme/dev-1/#", "acme/dev-1/#", True),
        ("acme/dev-1/#", "acme/dev-1", True),
        ("acme/dev-1/#", "acme/dev-1/+/status", True),
        ("acme/dev-1/#", "acme/+/#", False),
        ("acme/dev-1/#", "acme/#", False),
        ("acme/dev-1/#", "#", False),
        ("acme/dev-1/#", "+/dev-1/#", False),
        ("acme/dev-1/#", "acme/dev-10/#", False),
        ("acme/+/cmd", "acme/dev-1/cmd", True),
        ("acme/+/cmd", "acme/+/cmd", True),
        ("acme/+/cmd", "acme/#", False),
        ("acme/+/#", "acme/#", False),
        ("#", "$SYS/#", False),
        ("#", "+/#", True),
        ("+/#", "#", True),
        ("$SYS/#", "$SYS/broker/load", True),
        ("acme/dev-1/+", "acme/dev-1/#", False),
    ],
)
def test_what_lies_inside_a_grant(granted: str, wanted: str, *, inside: bool) -> None:
    assert covers(granted, wanted) is inside
    assert may(["x", granted], wanted) is inside


@pytest.mark.parametrize(
    "topic_filter", ["", "a#", "#/a", "a/#/b", "a/b#", "+a", "a/b+/c", "a\0", "a" * (MAX_BYTES + 1)]
)
def test_a_malformed_filter_is_refused(topic_filter: str) -> None:
    with pytest.raises(InvalidTopic):
        check_filter(topic_filter)


@pytest.mark.parametrize("topic", ["", "a/+", "#", "$SYS/x", "$", "a\0", "a" * (MAX_BYTES + 1), "/" * MAX_LEVELS])
def test_a_topic_that_may_not_be_published_to_is_refused(topic: str) -> None:
    with pytest.raises(InvalidTopic):
        check_topic(topic)


@pytest.mark.parametrize("topic", ["a", "/", "a//b", "a$/b", "ä/ö", "a" * MAX_BYTES, "/" * (MAX_LEVELS - 1)])
def test_a_well_formed_topic_is_taken(topic: str) -> None:
    check_topic(topic)
    check_filter(topic)
