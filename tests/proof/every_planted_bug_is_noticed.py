"""Bugs of the kinds that other systems ship are planted one by one, and the named tests notice each."""

from __future__ import annotations

import pytest

from tests.mutations.planted import MUTATIONS, Mutation, mutated, unnoticed
from tests.proof.scale import record, rounds


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_each_can_still_be_planted(mutation: Mutation) -> None:
    assert mutation.after in mutated(mutation)


@pytest.mark.timeout(1200)
def test_each_is_noticed() -> None:
    tried = MUTATIONS[: rounds(1, len(MUTATIONS), len(MUTATIONS))]
    hidden = {mutation.name: missed for mutation in tried if (missed := unnoticed(mutation))}
    assert not hidden
    record("planted-bugs", "rules 1-8", planted=len(tried), noticed=len(tried))
