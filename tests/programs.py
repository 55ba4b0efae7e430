"""Other people's programs that tests talk to."""

from __future__ import annotations

import os
import shutil

import pytest

_PLACES = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin"))


def needed(name: str, package: str) -> str:
    """Where a program is; the test is left out where it is missing, and fails in CI, where nothing may be missing."""
    found = shutil.which(name, path=_PLACES)
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"{name} is missing: install the Debian package {package}")
        pytest.skip(f"{name} is not installed (Debian package {package})")
    return found
