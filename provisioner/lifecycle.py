"""The table of phases and events. Nothing else changes a phase.

1. A request is in exactly one `Phase` (wire contract, section 9); `advance` is the only way from one to the next.
2. A credential has a `State` of its own: in RENEWING two of them are alive, and each has to end alone.
3. What is not in a table does not happen: `IllegalTransition` is our own fault, never a device's.
"""

from __future__ import annotations

from enum import StrEnum


class Phase(StrEnum):
    """Where a provision request stands."""

    PENDING = "PENDING"
    MINTED = "MINTED"
    INSTALLED = "INSTALLED"
    OFFERED = "OFFERED"
    RETIRING = "RETIRING"
    CONFIRMED = "CONFIRMED"
    RENEWING = "RENEWING"
    EXPIRED = "EXPIRED"
    ABANDONED = "ABANDONED"
    STOPPED = "STOPPED"
    FAILED = "FAILED"


class State(StrEnum):
    """Where one generation of a credential stands. RETIRED rows stay for ever: their names are never used again."""

    MINTED = "MINTED"
    INSTALLED = "INSTALLED"
    OFFERED = "OFFERED"
    CONFIRMED = "CONFIRMED"
    RETIRING = "RETIRING"
    RETIRED = "RETIRED"


class Event(StrEnum):
    """What can happen to a request."""

    MINT = "mint"  # an authenticated claim
    INSTALL = "install"  # the device broker accepts the credential
    OFFER = "offer"  # the credential is about to be sent
    CONFIRM = "confirm"  # the device proved that it holds the credential
    RETIRE = "retire"  # confirm time over, ack `failed`, other identity, stop of an unproved generation
    WITHDRAW = "withdraw"  # everything has to go: revoke, reopen, stop, overwrite
    RETIRED = "retired"  # a generation that is not the request's whole standing is gone
    FREE = "free"  # all gone, window and attempts left
    EXPIRE = "expire"  # the window is over
    ABANDON = "abandon"  # the attempts are used up
    STOP = "stop"  # the operator asked
    FAIL = "fail"  # the device broker refuses for good
    REOPEN = "reopen"  # the operator asked


class IllegalTransition(Exception):
    """Somebody asked for a step that the table does not have."""


_UNPROVED = (Phase.MINTED, Phase.INSTALLED, Phase.OFFERED)
CLOSED = frozenset((Phase.EXPIRED, Phase.ABANDONED, Phase.STOPPED, Phase.FAILED))
"""Nothing is live and nothing moves until the operator reopens."""

_PHASES: dict[tuple[Phase, Event], Phase] = {
    (Phase.PENDING, Event.MINT): Phase.MINTED,
    (Phase.PENDING, Event.EXPIRE): Phase.EXPIRED,
    (Phase.PENDING, Event.STOP): Phase.STOPPED,
    (Phase.MINTED, Event.INSTALL): Phase.INSTALLED,
    (Phase.MINTED, Event.FAIL): Phase.FAILED,
    (Phase.INSTALLED, Event.OFFER): Phase.OFFERED,
    (Phase.OFFERED, Event.OFFER): Phase.OFFERED,
    (Phase.OFFERED, Event.CONFIRM): Phase.CONFIRMED,
    (Phase.RETIRING, Event.WITHDRAW): Phase.RETIRING,
    (Phase.RETIRING, Event.RETIRED): Phase.RETIRING,
    (Phase.RETIRING, Event.FREE): Phase.PENDING,
    (Phase.RETIRING, Event.EXPIRE): Phase.EXPIRED,
    (Phase.RETIRING, Event.ABANDON): Phase.ABANDONED,
    (Phase.RETIRING, Event.STOP): Phase.STOPPED,
    (Phase.CONFIRMED, Event.MINT): Phase.RENEWING,
    (Phase.CONFIRMED, Event.RETIRED): Phase.CONFIRMED,
    (Phase.CONFIRMED, Event.WITHDRAW): Phase.RETIRING,
    (Phase.RENEWING, Event.INSTALL): Phase.RENEWING,
    (Phase.RENEWING, Event.OFFER): Phase.RENEWING,
    (Phase.RENEWING, Event.CONFIRM): Phase.CONFIRMED,
    (Phase.RENEWING, Event.RETIRE): Phase.RENEWING,
    (Phase.RENEWING, Event.RETIRED): Phase.CONFIRMED,
    (Phase.RENEWING, Event.WITHDRAW): Phase.RETIRING,
    **{(phase, Event.RETIRE): Phase.RETIRING for phase in _UNPROVED},
    **{(phase, Event.WITHDRAW): Phase.RETIRING for phase in _UNPROVED},
    **{(phase, Event.REOPEN): Phase.PENDING for phase in CLOSED},
}

_STATES: dict[tuple[State, Event], State] = {
    (State.MINTED, Event.INSTALL): State.INSTALLED,
    (State.MINTED, Event.FAIL): State.RETIRED,
    (State.INSTALLED, Event.OFFER): State.OFFERED,
    (State.OFFERED, Event.OFFER): State.OFFERED,
    (State.OFFERED, Event.CONFIRM): State.CONFIRMED,
    (State.RETIRING, Event.RETIRED): State.RETIRED,
    **{
        (state, Event.RETIRE): State.RETIRING
        for state in (State.MINTED, State.INSTALLED, State.OFFERED, State.CONFIRMED, State.RETIRING)
    },
}

LIVE = frozenset((State.INSTALLED, State.OFFERED, State.CONFIRMED))
"""The device broker admits these, and no others."""


def advance(phase: Phase, event: Event) -> Phase:
    """Phase after `event`; raises `IllegalTransition` where the table has none."""
    try:
        return _PHASES[phase, event]
    except KeyError:
        raise IllegalTransition(f"a request in {phase} cannot {event}") from None


def may(phase: Phase, event: Event) -> bool:
    """Whether the table has this step."""
    return (phase, event) in _PHASES


def progress(state: State, event: Event) -> State:
    """State of one generation after `event`; raises `IllegalTransition` where the table has none."""
    try:
        return _STATES[state, event]
    except KeyError:
        raise IllegalTransition(f"a credential in {state} cannot {event}") from None
