"""The corpus is large, hostile by other people's measure, and what once broke a decoder breaks none any more."""

from __future__ import annotations

from pathlib import Path

import pytest

from broker.mqtt.topics import Topics, UnknownTopic
from provisioner.policy import is_identifier
from tests.fuzz.engine import TARGETS, close, load, watched
from tests.hostile import grammar
from tests.hostile.client_ids import CLIENT_IDS, TEXTS
from tests.hostile.payloads import every_payload

BROKE = Path(__file__).parent / "broke"


def test_the_corpus_is_as_large_as_promised() -> None:
    payloads = every_payload()
    assert len({(one.kind, one.payload) for one in payloads}) == len(payloads) >= 400
    assert len(set(CLIENT_IDS)) == len(CLIENT_IDS) >= 200


def test_no_hostile_client_id_is_inside_the_grammar() -> None:
    for text in TEXTS:
        assert not grammar.is_identifier(text), text
        assert not is_identifier(text), text
        with pytest.raises(UnknownTopic):
            Topics().session("factory", text)
        with pytest.raises(UnknownTopic):
            Topics().parse(f"prov/v1/factory/{text}/request")


@pytest.mark.parametrize("target", TARGETS)
def test_neither_a_seed_nor_what_once_broke_it_breaks_a_target(target: str) -> None:
    module = load(target)
    try:
        for data in module.SEEDS:
            watched(module.try_one)(data)
        for path in sorted((BROKE / target).glob("*")):
            watched(module.try_one)(path.read_bytes())
    finally:
        close(module)
