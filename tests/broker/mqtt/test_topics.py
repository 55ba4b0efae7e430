"""Topics: what is built is read back, and nothing else is read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.mqtt.topics import Address, Topics, UnknownTopic

identifiers = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", fullmatch=True)
roots = st.lists(st.from_regex(r"[A-Za-z0-9._:-]{1,10}", fullmatch=True), min_size=1, max_size=4).map("/".join)
addresses = st.builds(Address, identifiers, identifiers, st.sampled_from(["request", "reply", "ack"]))


@given(roots, addresses)
def test_what_is_built_is_read_back(root: str, address: Address) -> None:
    topics = Topics(root)
    assert topics.parse(topics.build(address)) == address


@given(roots, st.text(max_size=40) | st.lists(st.sampled_from(["prov", "v1", "a", "reply", ""])).map("/".join))
def test_what_is_read_is_what_would_be_built(root: str, topic: str) -> None:
    for topics in (Topics(root), Topics("prov/v1"), Topics("a")):
        try:
            address = topics.parse(topic)
        except UnknownTopic:
            continue
        assert topics.build(address) == topic


def test_the_three_topics_of_the_contract() -> None:
    topics = Topics()
    assert topics.request("factory", "00:1A:2B:3C:4D:5E") == "prov/v1/factory/00:1A:2B:3C:4D:5E/request"
    assert topics.reply("factory", "dev-1") == "prov/v1/factory/dev-1/reply"
    assert topics.ack("factory", "dev-1") == "prov/v1/factory/dev-1/ack"
    assert topics.every("request") == "prov/v1/+/+/request"
    assert topics.pattern("reply") == "prov/v1/%u/%c/reply"


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "prov/v1/factory/dev-1",
        "prov/v1/factory/dev-1/replies",
        "prov/v1/factory/dev-1/reply/",
        "/prov/v1/factory/dev-1/reply",
        "prov/v2/factory/dev-1/reply",
        "prov/v1/factory//reply",
        "prov/v1/x/factory/dev-1/reply",
        "prov/v1/factory/dev-1\n/reply",
        "prov/v1/fäctory/dev-1/reply",
        "prov/v1/+/dev-1/reply",
        "prov/v1/factory/#",
    ],
)
def test_another_topic_is_unknown(topic: str) -> None:
    with pytest.raises(UnknownTopic):
        Topics().parse(topic)


@pytest.mark.parametrize("name", ["", "-a", "a/b", "a+", "#", "a b", "ä", "a\n", "x" * 129])
def test_a_name_outside_the_grammar_has_no_topic(name: str) -> None:
    with pytest.raises(UnknownTopic):
        Topics().reply(name, "dev-1")
    with pytest.raises(UnknownTopic):
        Topics().reply("factory", name)


@pytest.mark.parametrize("root", ["", "/", "/prov", "prov/", "a//b", "prov/+", "prov/#", "$SYS", "a b", "x" * 129])
def test_a_root_that_is_no_topic_is_refused(root: str) -> None:
    with pytest.raises(UnknownTopic):
        Topics(root)
