"""The table of phases: what the wire contract, section 9, lists, and nothing else."""

from __future__ import annotations

import pytest

from provisioner.lifecycle import CLOSED, LIVE, Event, IllegalTransition, Phase, State, advance, may, progress

CONTRACT = {
    Phase.PENDING: {Phase.MINTED, Phase.EXPIRED, Phase.STOPPED},
    Phase.MINTED: {Phase.INSTALLED, Phase.RETIRING, Phase.FAILED},
    Phase.INSTALLED: {Phase.OFFERED, Phase.RETIRING},
    Phase.OFFERED: {Phase.OFFERED, Phase.CONFIRMED, Phase.RETIRING},
    Phase.RETIRING: {Phase.RETIRING, Phase.PENDING, Phase.ABANDONED, Phase.EXPIRED, Phase.STOPPED},
    Phase.CONFIRMED: {Phase.CONFIRMED, Phase.RETIRING, Phase.RENEWING},
    Phase.RENEWING: {Phase.RENEWING, Phase.CONFIRMED, Phase.RETIRING},
    **{phase: {Phase.PENDING} for phase in CLOSED},
}


@pytest.mark.parametrize("phase", list(Phase))
def test_a_phase_leads_where_the_contract_says(phase: Phase) -> None:
    assert {advance(phase, event) for event in Event if may(phase, event)} == CONTRACT[phase]


@pytest.mark.parametrize("phase", list(Phase))
def test_what_is_not_in_the_table_does_not_happen(phase: Phase) -> None:
    for event in Event:
        if not may(phase, event):
            with pytest.raises(IllegalTransition, match=str(phase)):
                advance(phase, event)


def test_a_retired_credential_never_comes_back() -> None:
    for event in Event:
        with pytest.raises(IllegalTransition):
            progress(State.RETIRED, event)
    assert State.RETIRED not in LIVE
    assert State.MINTED not in LIVE


def test_a_retiring_credential_is_not_live() -> None:
    assert progress(State.CONFIRMED, Event.RETIRE) is State.RETIRING
    assert State.RETIRING not in LIVE
