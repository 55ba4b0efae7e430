"""The composition root: settings -> parts -> running program. The only reader of `config`.

1. Heavy parts are imported where they are first needed: a command that asks a running server needs none of them.
2. What is started is stopped in the opposite order, whatever happens in between.
3. Standard output gets one line, when everything listens; everything else is the log's or for people on standard error.
"""

from __future__ import annotations

import os
from pathlib import Path

from config import files
from config.settings import Settings
from config.sources import Loaded, SettingsError
from config.sources import load as load_settings
from provisioner.errors import ProvisionerError


class Misconfigured(ProvisionerError):  # noqa: N818  # as the error tree: named after what happened
    """The settings cannot be used; `problems` has one sentence each."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load(file: Path | None = None, data_dir: Path | None = None) -> Loaded:
    """Settings of this process and where each came from; the arguments are the command line's. `Misconfigured`."""
    try:
        return load_settings(file, os.environ, {} if data_dir is None else {"data_dir": str(data_dir)})
    except SettingsError as error:
        raise Misconfigured(error.problems) from None


def check(file: Path | None = None, data_dir: Path | None = None) -> tuple[str, ...]:
    """What is wrong with the settings and the files they name, a sentence each."""
    try:
        return files.problems(load(file, data_dir).settings)
    except Misconfigured as error:
        return error.problems


__all__ = ["Loaded", "Misconfigured", "Settings", "check", "load"]
