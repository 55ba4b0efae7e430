"""Every interleaving of the hand-over, with two messages of a kind in flight: an exhaustive model (F-4).

One device, one provision request, two workers of the service, one device broker, and a network. A budget says how often
each fault may strike: worker crash, power loss of the device, loss and duplication of a message, confirm time over, and
a thief who sends a recorded claim once more. The state space is explored breadth first, so a counter-example is among
the shortest. Checked are (wire contract, section 9):

I1  the device broker admits at most one generation (nothing is renewed here)
I2  CONFIRMED implies that the device has stored that generation and the device broker admits it
I3  from every state, without one more fault, the device can still be provisioned; or the attempts are used up
I4  no credential leaves before the device broker admits it
R4  a requestId, and a CSR key, that was used for one generation never mints another one

The model has the protocol's rules, not its code: `tests/simulation` runs the code. Each of `BROKEN` drops one rule, and
a check that does not find out is worth nothing.

`python -m tests.provisioner.model_check` runs what the test-suite runs, `--full` some millions of states (ten minutes,
a few GB of memory). Both write `build/model-check.json`.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from array import array
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table

_LAST = 3
"""Attempts: `retryMaxAttempts`."""
_IN_FLIGHT = 2

PENDING, MINTED, INSTALLED, OFFERED, RETIRING, CONFIRMED, ABANDONED = (
    "PENDING",
    "MINTED",
    "INSTALLED",
    "OFFERED",
    "RETIRING",
    "CONFIRMED",
    "ABANDONED",
)
_UNPROVED = (MINTED, INSTALLED, OFFERED)
_ALIVE = (*_UNPROVED, CONFIRMED)

Job = tuple[str, int]
"""What a worker is about to do, for which generation."""
IDLE: Job = ("", 0)
Reply = tuple[str, int, int]
"""Word, requestId, generation."""


class Budget(NamedTuple):
    """How often each fault may strike."""

    crash: int = 0
    power: int = 0
    loss: int = 0
    twice: int = 0
    late: int = 0
    replay: int = 0

    def __str__(self) -> str:
        return ",".join(map(str, self))


class Broken(NamedTuple):
    """A variant: the rule that it drops, the one that breaks for it, and the few faults that show it."""

    drops: str
    breaks: str
    budget: Budget
    keys: bool = False


BROKEN = {
    "burn": Broken("the first answer is the only one: one-time issuance", "I3", Budget(loss=1)),
    "mint_each": Broken("each claim gets a generation of its own", "I1", Budget(twice=1)),
    "reply_first": Broken("the reply leaves before the credential is installed", "I4", Budget()),
    "puback": Broken("a reply that was sent counts as delivered", "I2", Budget()),
    "no_tomb": Broken("retiring forgets the name instead of disabling it", "I1", Budget(late=1)),
    "overlap": Broken("another key goes live before the former one is retired", "I1", Budget(power=1), keys=True),
    "forget_request_ids": Broken("requestIds of retired generations are forgotten", "R4", Budget(late=1, replay=1)),
    "keep_key": Broken("a superseded device claims on with the same key", "I3", Budget(late=1), keys=True),
}
"""The last one is a device's mistake: `superseded` asks for a new key where the old one had a generation."""


class Run(NamedTuple):
    """The protocol itself under one budget."""

    budget: Budget
    keys: bool = False


SUITE = (
    Run(Budget(crash=1, loss=1, twice=1, late=1)),
    Run(Budget(power=1, loss=1, twice=1, replay=1)),
    Run(Budget(crash=1, power=1, loss=1, replay=1)),
    Run(Budget(crash=1, twice=1, late=1, replay=1)),
    Run(Budget(crash=1, power=1, loss=1, replay=1), keys=True),
    Run(Budget(crash=1, late=1, replay=1), keys=True),
)
FULL = (
    Run(Budget(power=1, late=1, replay=1), keys=True),
    Run(Budget(crash=1, power=1, loss=1, twice=1, late=1, replay=1)),
    Run(Budget(crash=2, loss=1, late=2)),
    Run(Budget(crash=1, late=2, replay=1)),
    Run(Budget(crash=1, power=1, loss=1, late=1), keys=True),
    Run(Budget(power=1, loss=1, twice=1, replay=1), keys=True),
    Run(Budget(crash=1, power=1, late=1, replay=1), keys=True),
)


class State(NamedTuple):
    """Everything. requestIds and generations count from 1; `admitted` and `disabled` are bit sets of generations.

    `owners`: the key each generation was minted for. `keys`, `used`: for each requestId its key, and the generation it
    was first used for (0: none). Keys are 0 throughout where a password is handed over.
    """

    phase: str
    owners: tuple[int, ...]
    admitted: int
    disabled: int
    workers: tuple[Job, ...]
    claims: tuple[int, ...]
    replies: tuple[Reply, ...]
    acks: tuple[int, ...]
    keys: tuple[int, ...]
    used: tuple[int, ...]
    ram: int
    flash: int
    online: bool
    left: Budget

    @property
    def generation(self) -> int:
        return len(self.owners)

    @property
    def request_id(self) -> int:
        """The one the device claims with now."""
        return len(self.keys)

    @property
    def is_claiming(self) -> bool:
        return not self.flash and not self.online


class Step(NamedTuple):
    """One step: what happens, where it leads, whether it is a fault, and the rule it breaks by itself."""

    label: str
    after: State
    fault: bool = False
    breaks: str = ""


@dataclass(frozen=True)
class Verdict:
    """What a check found: a broken rule with the way there, or none."""

    variant: str
    keys: bool
    budget: Budget
    states: int
    steps: int
    seconds: float
    broken: str = ""
    trace: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        return not self.broken


def _with(messages: tuple[int, ...], message: int) -> tuple[int, ...]:
    return tuple(sorted((*messages, message)))


def _without(messages: tuple[int, ...], message: int) -> tuple[int, ...]:
    at = messages.index(message)
    return messages[:at] + messages[at + 1 :]


def _bit(generation: int) -> int:
    return 1 << generation


class Model:
    """The steps of one variant (empty: the protocol itself), with or without a key of the device's own."""

    def __init__(self, variant: str = "", *, keys: bool = False) -> None:
        self.variant = variant
        self.keys = keys

    def first(self, budget: Budget) -> State:
        """A new request and a device that has just been switched on."""
        key = 1 if self.keys else 0
        return State(PENDING, (), 0, 0, (IDLE, IDLE), (), (), (), (key,), (0,), 0, 0, online=False, left=budget)

    def steps(self, state: State) -> Iterator[Step]:
        """Everything that can happen next."""
        yield from self._device(state)
        yield from self._network(state)
        yield from self._deliveries(state)
        yield from self._workers(state)
        if state.left.late and state.phase in _UNPROVED:
            left = state.left._replace(late=state.left.late - 1)
            yield Step("the confirm time is over", state._replace(phase=RETIRING, left=left))

    # -- device ------------------------------------------------------------------------------------------------------

    def _device(self, state: State) -> Iterator[Step]:
        if state.is_claiming and not state.ram and len(state.claims) < _IN_FLIGHT:
            yield Step("the device claims", state._replace(claims=_with(state.claims, state.request_id)))
        if state.is_claiming and state.ram:
            yield Step("the device stores the credential", state._replace(flash=state.ram, ram=0))
        if state.flash:
            yield from self._use(state)
        if state.left.power and state.is_claiming:
            dark = state._replace(ram=0, left=state.left._replace(power=state.left.power - 1))
            yield Step("the device loses power", self._attempt(dark, new_key=False), fault=True)
            if self.keys:
                yield Step("the device loses power and its key", self._attempt(dark, new_key=True), fault=True)

    def _use(self, state: State) -> Iterator[Step]:
        if not state.admitted & _bit(state.flash):
            after = self._attempt(state._replace(flash=0, ram=0, online=False), new_key=True)
            yield Step("the device's login is refused, it starts over", after)
        elif (
            (not state.online or state.phase != CONFIRMED)
            and state.flash not in state.acks
            and len(state.acks) < _IN_FLIGHT
        ):
            after = state._replace(online=True, acks=_with(state.acks, state.flash))
            yield Step("the device logs in and acks", after)

    def _attempt(self, state: State, *, new_key: bool) -> State:
        """A new requestId, with a new key or the one the device has."""
        key = max(state.keys) + 1 if self.keys and new_key else state.keys[-1]
        return state._replace(keys=(*state.keys, key), used=(*state.used, 0))

    # -- network -----------------------------------------------------------------------------------------------------

    @staticmethod
    def _network(state: State) -> Iterator[Step]:
        left = state.left
        after: dict[str, Any]
        for name in ("claims", "replies", "acks"):
            messages = getattr(state, name)
            for message in sorted(set(messages)):
                if left.loss:
                    after = {name: _without(messages, message), "left": left._replace(loss=left.loss - 1)}
                    yield Step(f"one of the {name} is lost: {message}", state._replace(**after), fault=True)
                if left.twice and len(messages) < _IN_FLIGHT:
                    after = {name: _with(messages, message), "left": left._replace(twice=left.twice - 1)}
                    yield Step(f"one of the {name} is doubled: {message}", state._replace(**after), fault=True)
        if left.replay and len(state.claims) < _IN_FLIGHT:
            for request_id in range(1, state.request_id + 1):
                if state.used[request_id - 1]:
                    after = {"claims": _with(state.claims, request_id), "left": left._replace(replay=left.replay - 1)}
                    yield Step(f"a thief replays claim {request_id}", state._replace(**after), fault=True)

    def _deliveries(self, state: State) -> Iterator[Step]:
        for request_id in sorted(set(state.claims)):
            yield from self._claim(state._replace(claims=_without(state.claims, request_id)), request_id)
        for reply in sorted(set(state.replies)):
            at = state.replies.index(reply)
            rest = state._replace(replies=state.replies[:at] + state.replies[at + 1 :])
            yield Step(f"the device reads {reply}", self._read(rest, reply))
        for generation in sorted(set(state.acks)):
            rest = state._replace(acks=_without(state.acks, generation))
            if generation == state.generation and state.phase == OFFERED:
                rest = rest._replace(phase=CONFIRMED)
            yield Step(f"the service takes ack {generation}", rest)

    def _read(self, state: State, reply: Reply) -> State:
        """A reply that is not the answer to the device's claim of now is dropped."""
        word, request_id, generation = reply
        if not state.is_claiming or request_id != state.request_id:
            return state
        if word == "offer":
            return state._replace(ram=generation)
        if self.variant == "keep_key":
            return state  # a new requestId would change nothing, but be endless
        return self._attempt(state._replace(ram=0), new_key=True)

    # -- service: one commit each, guarded by what it read -----------------------------------------------------------

    def _claim(self, state: State, request_id: int) -> Iterator[Step]:
        heard = f"the service takes claim {request_id}"
        if self.variant != "forget_request_ids" and self._is_superseded(state, request_id):
            yield self._replied(state, f"{heard}: superseded", ("superseded", request_id, 0))
        elif state.phase == PENDING:
            yield self._minted(state, heard, request_id)
        elif state.phase == CONFIRMED:
            yield Step(f"{heard}: already provisioned", self._bound(state, request_id))
        elif state.phase in _UNPROVED:
            yield self._claim_unproved(state, heard, request_id)
        else:
            yield Step(f"{heard}: wait, or closed", state)

    def _claim_unproved(self, state: State, heard: str, request_id: int) -> Step:
        if state.keys[request_id - 1] != state.owners[-1]:
            if self.variant == "overlap" and state.generation < _LAST:
                return self._minted(state, heard, request_id)
            return Step(f"{heard}: another key, the former generation goes", state._replace(phase=RETIRING))
        if self.variant == "burn" and state.phase == OFFERED:
            return Step(f"{heard}: already used", state)
        if self.variant == "mint_each" and state.phase == OFFERED and state.generation < _LAST:
            return self._minted(state, heard, request_id)
        bound = self._bound(state, request_id)
        if state.phase == MINTED:
            return Step(f"{heard}: wait", bound)
        return self._offered(bound, f"{heard}: offer", request_id)

    def _is_superseded(self, state: State, request_id: int) -> bool:
        alive = state.generation if state.phase in _ALIVE else 0
        used, key = state.used[request_id - 1], state.keys[request_id - 1]
        return used not in (0, alive) or self._newest_of(state, key) not in (0, alive)

    def _newest_of(self, state: State, key: int) -> int:
        """The newest generation minted for a key of the device's own; 0: none, or passwords."""
        return max((at + 1 for at, owner in enumerate(state.owners) if self.keys and owner == key), default=0)

    @staticmethod
    def _bound(state: State, request_id: int) -> State:
        if state.used[request_id - 1]:
            return state
        return state._replace(
            used=(*state.used[: request_id - 1], state.generation, *state.used[request_id:]),
        )

    def _minted(self, state: State, heard: str, request_id: int) -> Step:
        used, key = state.used[request_id - 1], state.keys[request_id - 1]
        breaks = ""
        if (used or self._newest_of(state, key)) and self.variant != "mint_each":
            breaks = f"R4 a used requestId or key mints once more: claim {request_id}"
        after = self._bound(state._replace(phase=MINTED, owners=(*state.owners, key)), request_id)
        if self.variant == "reply_first":
            return self._replied(after, f"{heard}: mint and reply", ("offer", request_id, after.generation))
        return Step(f"{heard}: mint", after, breaks=breaks)

    def _offered(self, state: State, label: str, request_id: int) -> Step:
        phase = CONFIRMED if self.variant == "puback" else OFFERED
        return self._replied(state._replace(phase=phase), label, ("offer", request_id, state.generation))

    @staticmethod
    def _replied(state: State, label: str, reply: Reply) -> Step:
        """A reply that finds the line full is lost, as any reply may be."""
        word, _, generation = reply
        early = word == "offer" and not (state.admitted | state.disabled) & _bit(generation)
        breaks = "I4 a credential leaves before it works" if early else ""
        if len(state.replies) < _IN_FLIGHT:
            state = state._replace(replies=tuple(sorted((*state.replies, reply))))
        return Step(label, state, breaks=breaks)

    # -- workers: take a job, do it at the device broker, commit it; they die at any point in between ----------------

    def _workers(self, state: State) -> Iterator[Step]:
        for at, job in enumerate(state.workers):
            if at and job == state.workers[at - 1]:
                continue  # the same worker once more
            if job == IDLE:
                yield from self._take(state, at)
                continue
            yield self._work(state, at, job)
            if state.left.crash:
                dead = self._turned(state, at, IDLE)._replace(left=state.left._replace(crash=state.left.crash - 1))
                yield Step("a worker crashes", dead, fault=True)

    def _take(self, state: State, at: int) -> Iterator[Step]:
        if state.phase == MINTED:
            yield Step("a worker takes the install", self._turned(state, at, ("install", state.generation)))
        if state.phase == RETIRING:
            yield Step("a worker takes the retirement", self._turned(state, at, ("retire", state.generation)))
        if state.phase == INSTALLED and at == state.workers.index(IDLE):
            minter = state.used.index(state.generation) + 1
            yield self._offered(state, "the claim that minted gets its offer", minter)

    def _work(self, state: State, at: int, job: Job) -> Step:
        doing, generation = job
        bit = _bit(generation)
        if doing == "install":
            if state.disabled & bit and self.variant != "no_tomb":
                return Step("the device broker refuses a retired name", self._turned(state, at, IDLE))
            after = state._replace(admitted=state.admitted | bit)
            return Step(f"generation {generation} is installed", self._turned(after, at, ("installed", generation)))
        if doing == "retire":
            after = state._replace(admitted=state.admitted & ~bit, disabled=state.disabled | bit)
            return Step(f"generation {generation} is disabled", self._turned(after, at, ("retired", generation)))
        after = self._turned(state, at, IDLE)
        if doing == "installed":
            if (state.phase, state.generation) == (MINTED, generation):
                after = after._replace(phase=INSTALLED)
            return Step("a worker commits the install", after)
        if (state.phase, state.generation) == (RETIRING, generation):
            after = after._replace(phase=PENDING if generation < _LAST else ABANDONED)
        return Step("a worker commits the retirement", after)

    @staticmethod
    def _turned(state: State, at: int, job: Job) -> State:
        """Workers are alike, so their order says nothing."""
        workers = (*state.workers[:at], job, *state.workers[at + 1 :])
        return state._replace(workers=tuple(sorted(workers)))


def _broken_in(state: State) -> str:
    """The rule that a state breaks by itself."""
    if state.admitted & (state.admitted - 1):
        return "I1 two generations are admitted"
    if state.phase == CONFIRMED and (state.flash != state.generation or not state.admitted & _bit(state.generation)):
        return "I2 confirmed, but the device does not have it, or may not use it"
    return ""


def _is_provisioned(state: State) -> bool:
    return state.phase == CONFIRMED and state.flash == state.generation


class Exploration:
    """Breadth first from one state; ways there are kept as numbers, so a million states fit into memory."""

    def __init__(self, model: Model, budget: Budget) -> None:
        first = model.first(budget)
        self._model = model
        self._budget = budget
        self._numbers = {first: 0}
        self._states = [first]
        self._parents = array("l", [-1])
        self._from, self._to = array("l"), array("l")
        """Steps that are no faults."""
        self._steps = 0

    def run(self, told: Callable[[int], None] = lambda _: None) -> Verdict:
        """Explore everything, then look for states that nothing leads out of."""
        began = time.perf_counter()
        broken, trace = self._explore(told)
        if not broken:
            broken, trace = self._find_lock_out()
        return Verdict(
            variant=self._model.variant or "protocol",
            keys=self._model.keys,
            budget=self._budget,
            states=len(self._states),
            steps=self._steps,
            seconds=round(time.perf_counter() - began, 1),
            broken=broken,
            trace=tuple(trace),
        )

    def _explore(self, told: Callable[[int], None]) -> tuple[str, list[str]]:
        numbers, states = self._numbers, self._states
        number = 0
        while number < len(states):
            state = states[number]
            for step in self._model.steps(state):
                self._steps += 1
                after = step.after
                known = numbers.get(after)
                if known is None:
                    known = numbers[after] = len(states)
                    states.append(after)
                    self._parents.append(number)
                    if broken := _broken_in(after):
                        return broken, self._way_to(known)
                if step.breaks:
                    return step.breaks, [*self._way_to(number), step.label]
                if not step.fault:
                    self._from.append(number)
                    self._to.append(known)
            number += 1
            if number % 20_000 == 0:
                told(number)
        return "", []

    def _find_lock_out(self) -> tuple[str, list[str]]:
        """States from which, without one more fault, no device gets provisioned although attempts are left."""
        safe = bytearray(_is_provisioned(state) for state in self._states)
        self._spread(safe)
        ends = bytearray(
            one or state.phase == ABANDONED or state.generation == _LAST
            for one, state in zip(safe, self._states, strict=True)
        )
        for number, good in enumerate(ends):
            if not good:
                return "I3 no way to a provisioned device", self._way_to(number)
        settled = bytearray(one or state.phase == ABANDONED for one, state in zip(safe, self._states, strict=True))
        self._spread(settled)
        for number, good in enumerate(settled):
            if not good and not self._awaits_the_reaper(self._states[number]):
                return "I3 neither provisioned nor abandoned", self._way_to(number)
        return "", []

    @staticmethod
    def _awaits_the_reaper(state: State) -> bool:
        """On the last attempt a device that lost its key waits for the confirm time to be over."""
        return state.phase in _UNPROVED and not state.left.late

    def _spread(self, good: bytearray) -> None:
        """Mark whatever leads to a marked state. Most steps lead to later states, so few passes are needed."""
        steps = list(zip(self._from, self._to, strict=True))
        steps.reverse()
        changed = True
        while changed:
            changed = False
            for start, end in steps:
                if good[end] and not good[start]:
                    good[start] = changed = True

    def _way_to(self, number: int) -> list[str]:
        labels: list[str] = []
        while (parent := self._parents[number]) >= 0:
            labels.append(
                next(
                    step.label for step in self._model.steps(self._states[parent]) if step.after == self._states[number]
                )
            )
            number = parent
        return labels[::-1]


def check(variant: str, budget: Budget, *, keys: bool = False, told: Callable[[int], None] = lambda _: None) -> Verdict:
    """Explore one variant (empty: the protocol) under a budget of faults."""
    collecting = gc.isenabled()
    gc.disable()  # a million tuples that are all needed: looking through them again and again costs half the time
    try:
        return Exploration(Model(variant, keys=keys), budget).run(told)
    finally:
        if collecting:
            gc.enable()


def main() -> int:
    """Print a table, write the report; 1 where something is not as it should be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="some millions of states")
    runs = SUITE + FULL if parser.parse_args().full else SUITE
    console = Console()
    asked = [("", run.keys, run.budget) for run in runs]
    asked += [(name, broken.keys, broken.budget) for name, broken in BROKEN.items()]
    table = Table("variant", "identity", "faults", "states", "seconds", "verdict", caption=f"faults: {Budget._fields}")
    verdicts = []
    with console.status("exploring") as status:

        def tell(variant: str, done: int) -> None:
            status.update(f"{variant}: {done:,} states")

        for variant, keys, budget in asked:
            name = variant or "protocol"
            verdict = check(variant, budget, keys=keys, told=partial(tell, name))
            verdicts.append(verdict)
            identity = "key" if keys else "password"
            found = verdict.broken or "holds"
            table.add_row(name, identity, str(budget), f"{verdict.states:,}", f"{verdict.seconds}", found)
    console.print(table)
    for verdict in verdicts:
        if not verdict.holds:
            console.print(f"[bold]{verdict.variant}[/]: {verdict.broken}", *verdict.trace, sep="\n    ")
    report = Path("build/model-check.json")
    report.parent.mkdir(exist_ok=True)
    report.write_text(json.dumps([asdict(verdict) for verdict in verdicts], indent=1) + "\n", encoding="utf-8")
    return 0 if all(_is_as_expected(verdict) for verdict in verdicts) else 1


def _is_as_expected(verdict: Verdict) -> bool:
    if verdict.variant in BROKEN:
        return verdict.broken.startswith(BROKEN[verdict.variant].breaks)
    return verdict.holds


if __name__ == "__main__":
    sys.exit(main())
