"""The search for an input that breaks a target: atheris where it is installed, else a plain mutator.

1. Both end with a line `Done N runs in S second(s)` and exit code 0, or leave the input in `build/fuzz/` and fail.
2. A hang is a second of processor time for one input: on a busy machine the clock on the wall tells nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, cast

TARGETS = (
    "session", "packets", "claim", "ack", "reply", "device_broker", "settings", "http_api", "topics", "csr", "imports",
    "ocsp", "est",
)  # fmt: skip
FOUND = Path("build/fuzz")
LONGEST_INPUT = 20_000
_HANG = 1.0
_ROOMS = ["broker", "provisioner", "certs", "config"]
_REALLY_STUCK = 30


class Target(Protocol):
    """What a module of a target has."""

    SEEDS: Sequence[bytes]
    TOKENS: Sequence[bytes]

    def try_one(self, data: bytes) -> None:
        """Read one input; raise when a promise is broken."""


def close(target: Target) -> None:
    """End what the target has started, where it has started something."""
    getattr(target, "close", lambda: None)()


class HangError(AssertionError):
    """One input took too long."""


def load(name: str) -> Target:
    """The target of this name."""
    return cast("Target", importlib.import_module(f"tests.fuzz.{name}"))


def watched(try_one: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """`try_one`, held to the time that one input may take."""

    def held(data: bytes) -> None:
        began = time.thread_time()
        try_one(data)
        if (took := time.thread_time() - began) > _HANG:
            raise HangError(f"{took:.1f} s for {len(data)} bytes")

    return held


def search(name: str, seconds: int, seed: int = 0) -> None:
    """Search with atheris, which ends the process itself; without it, plainly."""
    try:
        import atheris  # noqa: PLC0415  there is none on some platforms, and it must come before what it instruments
    except ImportError:
        search_plainly(name, seconds, seed)
        return
    with atheris.instrument_imports(include=_ROOMS):
        target = load(name)
    FOUND.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        seeds, words = Path(folder, "seeds"), Path(folder, "words")
        seeds.mkdir()
        for number, data in enumerate(target.SEEDS):
            (seeds / str(number)).write_bytes(data)
        words.write_text("".join(map(_as_word, target.TOKENS)))
        options = [
            f"-max_total_time={seconds}",
            f"-max_len={LONGEST_INPUT}",
            f"-timeout={_REALLY_STUCK}",
            f"-seed={seed}",
            f"-dict={words}",
            f"-artifact_prefix={FOUND}/{name}-",
            "-rss_limit_mb=2048",
            "-verbosity=1",
        ]
        atheris.Setup([sys.argv[0], *options, str(seeds)], watched(target.try_one))
        atheris.Fuzz()


def _as_word(word: bytes) -> str:
    """A line of libFuzzer's dictionary."""
    escaped = "".join(f"\\x{byte:02x}" for byte in word)
    return f'"{escaped}"\n'


def search_plainly(name: str, seconds: int, seed: int = 0) -> None:
    """Search by mutation at random."""
    target = load(name)
    try_one = watched(target.try_one)
    seed = seed or random.SystemRandom().getrandbits(32)
    sys.stderr.write(f"plain search with seed {seed}\n")
    mutator = Mutator(target, random.Random(seed))
    began, runs = time.monotonic(), 0
    for data in target.SEEDS:
        try_one(data)
    while time.monotonic() - began < seconds:
        data = mutator.next()
        runs += 1
        try:
            try_one(data)
        except BaseException:
            FOUND.mkdir(parents=True, exist_ok=True)
            path = FOUND / f"{name}-crash-{hashlib.sha256(data).hexdigest()[:16]}"
            path.write_bytes(data)
            sys.stderr.write(f"{path} after {runs} runs\n")
            raise
    close(target)
    sys.stderr.write(f"Done {runs} runs in {int(time.monotonic() - began)} second(s)\n")


class Mutator:
    """Makes inputs of a target's seeds and words."""

    def __init__(self, target: Target, chance: random.Random) -> None:
        self._seeds = list(target.SEEDS) or [b""]
        self._words = list(target.TOKENS) or [b"\0"]
        self._chance = chance

    def next(self) -> bytes:
        """One more input."""
        chance = self._chance
        data = bytearray(chance.choice(self._seeds))
        for _ in range(chance.choice((1, 1, 2, 3, 5, 8, 20))):
            chance.choice((self._flip, self._set, self._insert, self._drop, self._copy, self._splice, self._word))(data)
        return bytes(data[:LONGEST_INPUT])

    def _place(self, data: bytearray) -> int:
        return self._chance.randrange(len(data) + 1)

    def _flip(self, data: bytearray) -> None:
        with contextlib.suppress(IndexError):  # at the end there is nothing to flip
            data[self._place(data)] ^= 1 << self._chance.randrange(8)

    def _set(self, data: bytearray) -> None:
        with contextlib.suppress(IndexError):
            data[self._place(data)] = self._chance.choice((0, 1, 0x7F, 0x80, 0xFF, self._chance.randrange(256)))

    def _insert(self, data: bytearray) -> None:
        at = self._place(data)
        data[at:at] = self._chance.randbytes(self._chance.choice((1, 2, 4, 30, 300)))

    def _drop(self, data: bytearray) -> None:
        at = self._place(data)
        del data[at : at + self._chance.choice((1, 2, 5, 50))]

    def _copy(self, data: bytearray) -> None:
        start, at = self._place(data), self._place(data)
        data[at:at] = data[start : start + self._chance.choice((1, 5, 40, 400))]

    def _splice(self, data: bytearray) -> None:
        other = self._chance.choice(self._seeds)
        data[self._place(data) :] = other[self._chance.randrange(len(other) + 1) :]

    def _word(self, data: bytearray) -> None:
        at = self._place(data)
        data[at:at] = self._chance.choice(self._words)
