"""Start here: the `provisioner` command.

Nobody who types a command wants a traceback. What we raise on purpose is one sentence already; what the system refuses
becomes one; anything else is our fault and says where it happened, which is what a report needs.
"""

from __future__ import annotations

import asyncio
import sys
import traceback

from broker.cli import app
from broker.cli.output import Failed, printable
from provisioner.errors import ProvisionerError

_STOPPED = 130


def main() -> None:
    """Run the command line and end the process with its exit code."""
    try:
        app(prog_name="provisioner")
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(_STOPPED)
    except Exception as error:  # noqa: BLE001  # the last frontier: see above
        code, text = _explained(error)
        for line in text.splitlines():
            sys.stderr.write(f"provisioner: {printable(line)}\n")
        sys.exit(code)


def _explained(error: BaseException) -> tuple[int, str]:
    if isinstance(error, BaseExceptionGroup):
        # A task group wraps what ended it; the first cause is what a person can act on.
        return _explained(error.exceptions[0])
    if isinstance(error, Failed):
        return error.code, error.message
    if isinstance(error, ProvisionerError):
        return 1, str(error)
    if isinstance(error, OSError):
        file = f"{error.filename}: " if error.filename else ""
        return 1, f"{file}{error.strerror or error}"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return 1, f"this is a fault of ours, please report it: {error!r} at {frame.filename}:{frame.lineno}"


if __name__ == "__main__":
    main()
