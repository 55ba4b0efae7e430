"""The pool of unpredictable bytes."""

from __future__ import annotations

from broker.entropy import Pool


def test_portions_are_as_long_as_asked_and_never_the_same() -> None:
    pool = Pool()
    portions = [pool(16) for _ in range(10_000)] + [pool(4096)]
    assert {len(portion) for portion in portions} == {16, 4096}
    assert len(set(portions)) == len(portions)


def test_pools_share_nothing() -> None:
    assert Pool()(32) != Pool()(32)
