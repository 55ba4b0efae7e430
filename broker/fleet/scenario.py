"""A scenario: which devices come when, what happens to them, and what counts as good. A small TOML file.

1. Unknown keys are refused, and every problem is one sentence: where, what is wrong, what may stand there.
2. Shares are of the genuine devices. What befalls a device hangs on the seed and its number alone.
3. `SHIPPED` scenarios are part of the package: read them as examples.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterator, Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from broker.fleet.actions import Finish, Identity, Mode, Options
from broker.fleet.actions import Times as DeviceTimes
from broker.fleet.arrivals import Curve, arrivals
from broker.fleet.faults import Weather
from broker.fleet.lot import Cut, Lot, Role
from broker.fleet.replies import Encoding
from broker.mqtt.packets import V5, V311

SHIPPED: Final = ("bad-network", "certificates", "herd", "impostors", "power-cuts", "smoke")

Share = Annotated[float, Field(ge=0, le=1)]
Seconds = Annotated[float, Field(ge=0, le=86_400)]


class NotAScenario(Exception):
    """The file cannot be used; `problems` has one sentence each."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Times(_Table):
    """How patient devices are, seconds; the defaults are the contract's (section 10)."""

    reply: Annotated[float, Field(gt=0, le=3600)] = 10.0
    first_pause: Annotated[float, Field(gt=0, le=3600)] = 5.0
    longest_pause: Annotated[float, Field(gt=0, le=86_400)] = 300.0
    keep_connection: Annotated[float, Field(gt=0, le=86_400)] = 60.0
    opening: Annotated[float, Field(gt=0, le=3600)] = 10.0


class Devices(_Table):
    """The devices. Lists are dealt in turn: the first device gets the first member, the next the second.

    `at_once` switches at most so many on at a time, 0: all. `patience` is what one device has, seconds. Those of
    kind `x509` make a key of their own and claim a certificate on it.
    """

    count: Annotated[int, Field(ge=1, le=1_000_000)] = 100
    at_once: Annotated[int, Field(ge=0)] = 0
    patience: Annotated[float, Field(gt=0, le=86_400)] = 180.0
    modes: Annotated[tuple[Mode, ...], Field(min_length=1)] = (Mode.PROOF,)
    mqtt: Annotated[tuple[Literal["3.1.1", "5"], ...], Field(min_length=1)] = ("5",)
    encodings: Annotated[tuple[Encoding, ...], Field(min_length=1)] = (Encoding.JSON,)
    finish: Annotated[tuple[Finish, ...], Field(min_length=1)] = (Finish.BOTH,)
    kinds: Annotated[tuple[Literal["password", "x509"], ...], Field(min_length=1)] = ("password",)
    times: Times = Times()


class Arrival(_Table):
    """When they come: a curve over so many seconds."""

    curve: Curve = Curve.AT_ONCE
    seconds: Seconds = 0.0


class Network(_Table):
    """The weather between devices and servers; see `faults.Weather`. `device_broker`: logins there meet it as well."""

    jitter: Seconds = 0.0
    drip: Annotated[float, Field(ge=0, le=10)] = 0.02
    resets: Share = 0.0
    half_open: Share = 0.0
    dribbles: Share = 0.0
    doubled: Share = 0.0
    lost: Share = 0.0
    overtaken: Share = 0.0
    reach: Annotated[int, Field(ge=1)] = 2_000
    device_broker: bool = True

    @model_validator(mode="after")
    def _sums(self) -> Self:
        if self.resets + self.half_open + self.dribbles > 1:
            raise ValueError("resets, half_open and dribbles are shares of connections: together at most 1")
        if self.doubled + self.lost + self.overtaken > 1:
            raise ValueError("doubled, lost and overtaken are shares of messages: together at most 1")
        return self

    def weather(self, seed: int) -> Weather | None:
        """For the fault proxy; None where nothing happens."""
        values = self.model_dump(exclude={"device_broker"})
        if not any(values[name] for name in values.keys() - {"drip", "reach"}):
            return None
        return Weather(seed=seed, **values)


class Trouble(_Table):
    """What goes wrong with devices themselves, as shares of them.

    `power_cuts` of them lose power at each point of `cut_at`, once each, and come back after `off` seconds;
    `blackout` is the second at which everybody does, 0: never. `full_flash` find flash full at their first two writes,
    `skewed_clocks` count seconds that are half or twice as long. `clones` have a copy with the same key, `impostors`
    somebody with their client id and another key.
    """

    power_cuts: Share = 0.0
    cut_at: Annotated[tuple[Cut, ...], Field(min_length=1)] = tuple(Cut)
    off: Seconds = 1.0
    blackout: Seconds = 0.0
    full_flash: Share = 0.0
    skewed_clocks: Share = 0.0
    clones: Share = 0.0
    impostors: Share = 0.0


class Thresholds(_Table):
    """What counts as good; exit code 1 otherwise. `p50`, `p99` and `seconds` in seconds, where they are given.

    `confirmed` is the least share of genuine devices, `impostors` the most that may get a credential.
    """

    confirmed: Share = 1.0
    impostors: Annotated[int, Field(ge=0)] = 0
    p50: Annotated[float, Field(gt=0)] | None = None
    p99: Annotated[float, Field(gt=0)] | None = None
    seconds: Annotated[float, Field(gt=0)] | None = None


class Scenario(_Table):
    """All of it."""

    title: Annotated[str, Field(max_length=200)] = "A fleet"
    description: Annotated[str, Field(max_length=2000)] = ""
    seed: Annotated[int, Field(ge=0)] = 1
    devices: Devices = Devices()
    arrival: Arrival = Arrival()
    network: Network = Network()
    trouble: Trouble = Trouble()
    thresholds: Thresholds = Thresholds()

    def changed(self, table: str = "", **values: Any) -> Scenario:
        """The same with other values, of the top or of a table, checked again. Raises NotAScenario."""
        fields = self.model_dump()
        (fields[table] if table else fields).update(values)
        return _checked(fields)

    def lots(self, identities: Sequence[Identity], root: str) -> Iterator[Lot]:
        """Deal to each genuine device what it gets, its clones and impostors right behind it.

        `root` is that of the topics.
        """
        chance = random.Random(f"{self.seed}/arrivals")  # noqa: S311  # weather is no secret
        times = arrivals(self.arrival.curve, len(identities), self.arrival.seconds, chance)
        for number, (identity, arrives) in enumerate(zip(identities, times, strict=True)):
            yield from self._deal(number, identity, arrives, root)

    def _deal(self, number: int, identity: Identity, arrives: float, root: str) -> Iterator[Lot]:
        devices, trouble = self.devices, self.trouble
        chance = random.Random(f"{self.seed}/{number}")  # noqa: S311  # as above

        def strikes(share: float) -> bool:
            return chance.random() < share

        def turn(members: Sequence[Any]) -> Any:
            return members[number % len(members)]

        options = Options(
            turn(devices.modes),
            turn(devices.encodings),
            turn(devices.finish),
            csr=turn(devices.kinds) == "x509",
            root=root,
            times=DeviceTimes(**devices.times.model_dump()),
        )
        version = V5 if turn(devices.mqtt) == "5" else V311
        yield Lot(
            identity,
            arrives,
            options,
            version,
            cuts=frozenset(trouble.cut_at) if strikes(trouble.power_cuts) else frozenset(),
            off=trouble.off,
            full_writes=2 if strikes(trouble.full_flash) else 0,
            clock_rate=chance.choice((0.5, 2.0)) if strikes(trouble.skewed_clocks) else 1.0,
        )
        if strikes(trouble.clones):
            yield Lot(identity, arrives, options, version, Role.CLONE)
        if strikes(trouble.impostors):
            wrong = Identity(identity.user, identity.password, identity.client_id, _wrong_key(chance))
            yield Lot(wrong, arrives, options, version, Role.IMPOSTOR)


def load(name: str) -> Scenario:
    """The shipped scenario of this name, else the file. Raises NotAScenario."""
    if name in SHIPPED:
        return parse(text_of(name))
    path = Path(name)
    if not path.exists() and not path.suffix:
        raise NotAScenario([f"there is no such file, and what is shipped is {', '.join(SHIPPED)}"])
    try:
        return parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise NotAScenario([f"it cannot be read: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise NotAScenario(["it cannot be read: it is not UTF-8 text"]) from None


def text_of(name: str) -> str:
    """A shipped scenario as it is written."""
    return (resources.files("broker.fleet") / "scenarios" / f"{name}.toml").read_text(encoding="utf-8")


def parse(text: str) -> Scenario:
    """Read TOML. Raises NotAScenario."""
    try:
        return _checked(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise NotAScenario([f"it is no TOML: {error}"]) from None


def _checked(fields: dict[str, Any]) -> Scenario:
    try:
        return Scenario.model_validate(fields)
    except ValidationError as error:
        problems = error.errors(include_url=False)
        # A list with a wrong member is said to be too short as well.
        inner = {problem["loc"][:-1] for problem in problems}
        raise NotAScenario([_sentence(one) for one in problems if one["loc"] not in inner]) from None


def _sentence(problem: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"]) or "the scenario"
    if problem["type"] == "extra_forbidden":
        table: Any = Scenario
        for part in problem["loc"][:-1]:
            table = table.model_fields[part].annotation
        return f"{place} is not known; there are {', '.join(table.model_fields)}"
    said = problem["msg"].removeprefix("Value error, ")
    return f"{place}: {said[:1].lower()}{said[1:]}"


def _wrong_key(chance: random.Random) -> str:
    return "".join(chance.choices("ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789", k=32))
