"""The protocol holds in every interleaving that a few faults allow, and each dropped rule is found out (F-4)."""

from __future__ import annotations

import pytest

from tests.provisioner.model_check import BROKEN, SUITE, Run, check


@pytest.mark.parametrize("run", SUITE, ids=lambda run: f"{'key' if run.keys else 'password'}-{run.budget}")
def test_the_protocol_holds_in_every_interleaving(run: Run) -> None:
    verdict = check("", run.budget, keys=run.keys)
    assert verdict.holds, "\n".join((verdict.broken, *verdict.trace))
    assert verdict.states > 5_000


@pytest.mark.parametrize("variant", BROKEN)
def test_a_dropped_rule_is_found_out(variant: str) -> None:
    broken = BROKEN[variant]
    verdict = check(variant, broken.budget, keys=broken.keys)
    assert verdict.broken.startswith(broken.breaks), verdict
    assert verdict.trace


@pytest.mark.parametrize("variant", BROKEN)
def test_the_same_faults_do_not_break_the_protocol(variant: str) -> None:
    broken = BROKEN[variant]
    assert check("", broken.budget, keys=broken.keys).holds
