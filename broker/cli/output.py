"""What every command says and how: tables for people, JSON for programs, one sentence when something is wrong.

1. Results go to standard output; everything else (advice, errors, prompts) goes to standard error.
2. `--json` prints one JSON document and nothing else; lists are arrays, one entity is an object.
3. Exit codes: 0 done, 1 it could not be done, 2 it was asked wrongly (usage; `config check`: the settings), 130 Ctrl-C.
4. A secret is never an argument: `read_secret` takes it from a file, from standard input or from a prompt.
5. What came from outside is shown without control characters and without markup.
"""

from __future__ import annotations

import getpass
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
"""The parameter `as_json: Json = False` of every command that prints a result."""

_LONGEST_SECRET = 4096
_WIDEST = 10_000


class Failed(Exception):
    """A command cannot do what it was asked: `message` is one sentence, `code` the exit code."""

    def __init__(self, message: str, *, code: int = 1) -> None:
        super().__init__(message)
        self.message = message
        self.code = code


@dataclass(frozen=True, slots=True)
class Where:
    """The global options: which data directory and which settings file; None where the command line says nothing."""

    data_dir: Path | None = None
    config: Path | None = None


def where(ctx: typer.Context) -> Where:
    """The global options of this call."""
    return ctx.find_object(Where) or Where()


def printable(value: object) -> str:
    """A cell: `None` is empty, booleans are yes and no, control characters become `?`."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "".join(char if char.isprintable() else "?" for char in str(value))


def print_json(value: Any) -> None:
    """One JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False, default=str) + "\n")


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, empty: str = "Nothing there.") -> None:
    """A table on standard output; without rows the sentence `empty` on standard error."""
    from rich.console import Console  # noqa: PLC0415  # 0.1 s that --json and errors need not wait for
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    lines = [[printable(cell) for cell in row] for row in rows]
    if not lines:
        say(empty)
        return
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for line in lines:
        table.add_row(*(Text(cell) for cell in line))
    # In a pipe nothing may be folded: what is selected there with grep or awk has to be whole.
    Console(highlight=False, width=None if sys.stdout.isatty() else _WIDEST).print(table)


def print_fields(fields: Mapping[str, object]) -> None:
    """One entity, a line a field."""
    print_table(("field", "value"), fields.items())


def emit(value: Any, columns: Mapping[str, str], *, as_json: bool, empty: str = "Nothing there.") -> None:
    """Print an entity (a mapping) or a list of them; `columns` maps headings to keys."""
    if as_json:
        print_json(value)
    elif isinstance(value, Mapping):
        print_fields({heading: value.get(key) for heading, key in columns.items()})
    else:
        print_table(tuple(columns), ([one.get(key) for key in columns.values()] for one in value), empty=empty)


def claim_files(*files: Path | None) -> None:
    """Make sure that reports can be written before the work that they tell of. Raises OSError."""
    for file in files:
        if file is not None:
            file.touch()


def say(sentence: str) -> None:
    """Advice for people, on standard error."""
    sys.stderr.write(sentence + "\n")


@contextmanager
def progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on standard error while it is a terminal; the function is told how much is done, and of how much."""
    from rich.console import Console  # noqa: PLC0415  # as above
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, of: bar.update(task, completed=done, total=max(done, of))


def read_secret(prompt: str, file: Path | None = None, *, repeat: bool = False) -> str:
    """A secret from `file` (`-`: standard input), else from a prompt on a terminal, else from standard input.

    Its first line counts, without the line's end. `repeat` asks twice at a prompt. Raises `Failed`.
    """
    if file is not None and str(file) != "-":
        try:
            with file.open(encoding="utf-8") as stream:
                text = stream.readline(_LONGEST_SECRET + 1)
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
            raise Failed(f"{file} cannot be read: {reason}.") from None
    elif file is None and sys.stdin.isatty():
        text = getpass.getpass(f"{prompt}: ")
        if repeat and getpass.getpass(f"{prompt} again: ") != text:
            raise Failed("The two entries differ: try again.")
    else:
        text = sys.stdin.readline(_LONGEST_SECRET + 1)
    text = text.rstrip("\r\n")
    if not text:
        raise Failed(f"{prompt} is empty: enter it at the prompt, on standard input, or name a file that holds it.")
    if len(text) > _LONGEST_SECRET:
        raise Failed(f"{prompt} is longer than {_LONGEST_SECRET} characters.")
    return text


def load_object(file: Path) -> dict[str, Any]:
    """The JSON object in `file`; `Failed` when it is none."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise Failed(f"{file} is not JSON in UTF-8.") from None
    if not isinstance(value, dict):
        raise Failed(f"{file} holds no JSON object: write {{…}}.")
    return value
