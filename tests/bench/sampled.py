"""Where a server's processor time goes: runs a module as `python -m` would, and looks at its stack now and then.

`python -m tests.bench.sampled OUT MODULE [ARGUMENT …]`: SIGUSR1 begins, SIGUSR2 ends and writes `{"phase": share, …}`
to OUT. Nothing is built into the product for it.

1. The kernel's profiling timer runs while the process uses a processor, whichever thread does; so shares are of
   processor time, and waiting is in none of them.
2. A sample belongs to the innermost frame that a phase knows. A call into C ends before Python sees the signal: one
   that interrupted the event loop's own work shows the very beginning of what the loop called next, and is the loop's.
3. While a thread of the ledger is at work as well, a sample is half its.
"""

from __future__ import annotations

import json
import runpy
import signal
import sys
import threading
from collections import defaultdict
from pathlib import Path
from types import FrameType
from typing import Final

_INTERVAL: Final = 0.002

PHASES: Final = (
    "sockets",
    "connect",
    "packets",
    "parse",
    "crypto",
    "decide",
    "look-up",
    "commit",
    "install",
    "reply",
    "log",
)
"""In the order in which a hand-over meets them."""

# The first that fits decides: end of the file's path, name of the function (empty: any), phase.
_KNOWN: Final = (
    ("broker/mqtt/connection.py", "_flush", "sockets"),
    ("broker/mqtt/connection.py", "_answer", "reply"),
    ("broker/mqtt/connection.py", "buffer_updated", "packets"),
    ("broker/mqtt/connection.py", "_handle", "packets"),
    ("broker/mqtt/connection.py", "", "connect"),
    ("broker/mqtt/capacity.py", "", "connect"),
    ("broker/mqtt/endpoint.py", "", "connect"),
    ("provisioner/logins.py", "", "connect"),
    ("provisioner/passwords.py", "", "connect"),
    ("broker/mqtt/responder.py", "login", "connect"),
    ("broker/mqtt/protocol.py", "", "packets"),
    ("broker/mqtt/sender.py", "", "packets"),
    ("broker/mqtt/packets.py", "", "packets"),
    ("broker/mqtt/framing.py", "", "packets"),
    ("broker/mqtt/messages.py", "encode", "reply"),
    ("broker/mqtt/messages.py", "", "parse"),
    ("broker/mqtt/responder.py", "", "reply"),
    ("provisioner/handover.py", "", "crypto"),
    ("provisioner/keys.py", "", "crypto"),
    ("broker/entropy.py", "", "crypto"),
    ("structlog/_native.py", "", "log"),
    ("provisioner/jobs.py", "", "install"),
    ("provisioner/store/sqlite.py", "find_claim", "look-up"),
    ("provisioner/store/sqlite.py", "_find_claims", "look-up"),
    ("provisioner/store/sqlite.py", "_read", "look-up"),
    ("provisioner/store/statements.py", "read_dossier", "look-up"),
    ("provisioner/store/", "", "commit"),
    ("aiosqlite/core.py", "_execute_fetchall", "look-up"),
    ("aiosqlite/core.py", "", "commit"),
    ("provisioner/", "", "decide"),
)
# A thread of the ledger that waits for work is here.
_WAITING: Final = ("_connection_worker_thread", "wait", "get")


class Sampler:
    """Counts samples by phase."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self._counted: defaultdict[str, float] = defaultdict(float)

    def begin(self, _number: int, _frame: FrameType | None) -> None:
        """Count from now on."""
        self._counted.clear()
        signal.setitimer(signal.ITIMER_PROF, _INTERVAL, _INTERVAL)

    def end(self, _number: int, _frame: FrameType | None) -> None:
        """Stop, and write the shares."""
        signal.setitimer(signal.ITIMER_PROF, 0)
        total = sum(self._counted.values()) or 1
        temporary = self._out.with_suffix(".part")
        temporary.write_text(json.dumps({phase: count / total for phase, count in self._counted.items()}))
        temporary.replace(self._out)

    def take(self, _number: int, frame: FrameType | None) -> None:
        """Look once."""
        here = _phase_of(frame)
        ours = threading.get_ident()
        at_work = [
            other
            for thread, other in sys._current_frames().items()
            if thread != ours and other.f_code.co_name not in _WAITING
        ]
        phases = [_phase_of(other, "commit") for other in at_work]
        if here != "idle" or not phases:
            phases.append("sockets" if here == "idle" else here)
        for phase in phases:
            self._counted[phase] += 1 / len(phases)


def _phase_of(frame: FrameType | None, otherwise: str = "sockets") -> str:
    if frame is None:
        return "idle"
    if frame.f_code.co_name == "run" and frame.f_code.co_filename.endswith("asyncio/runners.py"):
        return "idle"
    # The first instruction of a function that the loop called: rule 2.
    if (
        frame.f_lasti <= 4
        and frame.f_back is not None
        and frame.f_back.f_code.co_filename.endswith("asyncio/runners.py")
    ):
        return "sockets"
    step: FrameType | None = frame
    while step is not None:
        name, function = step.f_code.co_filename, step.f_code.co_name
        for where, what, phase in _KNOWN:
            if where in name and what in ("", function):
                return phase
        step = step.f_back
    return otherwise


def main() -> None:
    out, module, *arguments = sys.argv[1:]
    sampler = Sampler(Path(out))
    signal.signal(signal.SIGUSR1, sampler.begin)
    signal.signal(signal.SIGUSR2, sampler.end)
    signal.signal(signal.SIGPROF, sampler.take)
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
