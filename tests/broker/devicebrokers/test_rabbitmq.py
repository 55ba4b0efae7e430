"""What RabbitMQ's words with dots mean for names and rights; RabbitMQ itself is asked in the contract."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.devicebrokers.rabbitmq import RabbitMq, expression
from broker.devicebrokers.rabbitmq_api import Management
from broker.devicebrokers.webhook import Webhook
from broker.mqtt.filters import InvalidTopic, check_filter, may

LEVELS = st.sampled_from(["acme", "dev-1", "dev-2", "a", "+", "#"])
FILTERS = st.lists(LEVELS, min_size=1, max_size=4).map("/".join)


def is_filter(text: str) -> bool:
    try:
        check_filter(text)
    except InvalidTopic:
        return False
    return True


@settings(deadline=None)  # the machine may be busy
@given(st.lists(FILTERS.filter(is_filter), min_size=1, max_size=3), FILTERS)
def test_an_expression_lets_through_what_the_filters_do_and_nothing_else(granted: list[str], wanted: str) -> None:
    granted = [f"acme/{one}" for one in granted]  # as rights always begin
    asked = wanted.replace("/", ".").replace("+", "*")
    matched = re.search(expression(granted), asked) is not None
    if is_filter(wanted):
        assert matched is any(may([one], wanted) for one in granted)
    elif matched:  # RabbitMQ takes a # in the middle: it may only be let through below a granted one
        assert any(
            one.endswith("/#") and wanted.startswith(one.removesuffix("+/#").removesuffix("#")) for one in granted
        )


@pytest.mark.parametrize("broker", ["rabbitmq", "webhook"])
def test_names_with_a_dot_are_objected_to(broker: str) -> None:
    made = (
        RabbitMq("plant", Management("http://127.0.0.1:1", ("a", "b"), None), bytes, plain=None, secure=None)
        if broker == "rabbitmq"
        else Webhook("plant", "rabbitmq", plain=None, secure=None)
    )
    assert "client id must have none" in (made.objection("acme", "dev.1") or "")
    assert "account name must have none" in (made.objection("acme.eu", "dev-1") or "")
    assert made.objection("acme", "dev-1_a") is None
    assert Webhook("plant", "emqx", plain=None, secure=None).objection("acme", "dev.1") is None


def test_a_colon_would_be_a_virtual_host() -> None:
    made = RabbitMq("plant", Management("http://127.0.0.1:1", ("a", "b"), None), bytes, plain=None, secure=None)
    assert "colon" in (made.objection("acme", "00:1A:2B:3C:4D:5E") or "")
