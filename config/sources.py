"""Where settings come from: defaults, then the TOML file, then the environment, then the command line.

1. The file is what the command line names, else what `PROVISIONER_CONFIG` names, else none.
2. A variable is `PROVISIONER_` and the key in capitals, `__` between levels. Every other variable that starts so is
   refused: a misspelt limit must not be a limit that silently is not there.
3. The tables `device_brokers.NAME` have the settings of `device_broker`; in a variable the name is in capitals, too.
4. All problems are found in one go; each is one sentence: which key or variable, what is wrong, what to write instead.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from config.settings import DeviceBroker, Section, Settings
from config.values import Write

PREFIX = "PROVISIONER_"
CONFIG_VARIABLE = "PROVISIONER_CONFIG"
COMMAND_VARIABLES = (CONFIG_VARIABLE, "PROVISIONER_TOKEN_FILE")
"""Variables that begin the same and belong to the command line."""

_LONGEST_SHOWN = 60
_NAMED = "device_brokers"
_NAMED_VARIABLE = re.compile(r"PROVISIONER_DEVICE_BROKERS__(?P<broker>[A-Z0-9_:-]+?)__[A-Z_]+")


class SettingsError(Exception):
    """The settings cannot be used; `problems` has one sentence each, the text is all of them."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting as it is: `origin` is `default`, a file, a variable or an option; `value` as one writes it."""

    name: str
    variable: str
    value: Any
    default: Any
    origin: str
    description: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """The settings and where each of them came from."""

    settings: Settings
    origins: Mapping[str, str]

    def listed(self) -> list[Setting]:
        """Every setting in the order of the models."""
        values, defaults = _flat(self.settings), _flat(Settings())
        for name in self.settings.device_brokers:
            defaults |= {f"{_NAMED}.{name}.{key}": value for key, value in _flat(DeviceBroker()).items()}
        return [
            Setting(
                name,
                variable(name),
                values[name],
                defaults[name],
                self.origins.get(name, "default"),
                field.description or "",
            )
            for name, field in known(values).items()
        ]


@dataclass(frozen=True, slots=True)
class _Given:
    """A value somebody wrote; `label` names it in a sentence, `origin` in a table."""

    value: object
    label: str
    origin: str


def known(given: Iterable[str] = ()) -> dict[str, FieldInfo]:
    """Every setting by its dotted name; those of named device brokers (rule 3) as far as `given` has their names."""
    found = dict(_walk(Settings, ""))
    for broker in dict.fromkeys(name.split(".")[1] for name in given if name.startswith(f"{_NAMED}.")):
        found |= _walk(DeviceBroker, f"{_NAMED}.{broker}.")
    return found


def variable(name: str) -> str:
    """The environment variable of a setting: `http.listen` is `PROVISIONER_HTTP__LISTEN`."""
    return PREFIX + name.replace(".", "__").upper()


def load(file: Path | None, environ: Mapping[str, str], options: Mapping[str, str] | None = None) -> Loaded:
    """Settings of this run; `options` maps dotted names to what the command line says. Raises `SettingsError`."""
    problems: list[str] = []
    if file is None and environ.get(CONFIG_VARIABLE):
        file = Path(environ[CONFIG_VARIABLE])
    given: dict[str, _Given] = {}
    if file is not None:
        given |= _from_file(file, problems)
    given |= _from_environment(environ, problems)
    given |= {
        name: _Given(value, f"--{name.replace('_', '-').replace('.', '-')}", "option")
        for name, value in (options or {}).items()
    }
    try:
        settings = Settings.model_validate(_tree(given))
    except ValidationError as error:
        problems += [_sentence(detail, given) for detail in error.errors()]
    if problems:
        raise SettingsError(tuple(problems))
    return Loaded(settings, {name: one.origin for name, one in given.items()})


def _walk(section: type[Section], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in section.model_fields.items():
        if name == _NAMED:
            continue
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _walk(field.annotation, f"{prefix}{name}.")
        else:
            yield prefix + name, field


def _flat(section: Section) -> dict[str, Any]:
    return dict(_leaves(section.model_dump(mode="json"), ""))


def _leaves(table: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in table.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _from_file(file: Path, problems: list[str]) -> dict[str, _Given]:
    try:
        table = tomllib.loads(file.read_bytes().decode())
    except OSError as error:
        raise SettingsError((f"The settings file {file} cannot be read: {error.strerror or error}.",)) from None
    except UnicodeDecodeError:
        raise SettingsError((f"The settings file {file} is not UTF-8 text: save it as UTF-8.",)) from None
    except tomllib.TOMLDecodeError as error:
        raise SettingsError((f"The settings file {file} is not TOML: {error}.",)) from None
    sections = {name.split(".")[0] for name in known() if "." in name}
    brokers = table.pop(_NAMED, {})
    if not isinstance(brokers, dict) or not all(isinstance(one, dict) for one in brokers.values()):
        problems.append(f"{_NAMED} in {file} is no table of tables: write [{_NAMED}.NAME] with its settings below.")
        brokers = {}
    sections |= {f"{_NAMED}.{name}" for name in brokers}
    table |= {f"{_NAMED}.{name}": one for name, one in brokers.items()}
    given: dict[str, _Given] = {}
    for key, value in table.items():
        if key in sections and not isinstance(value, dict):
            problems.append(f"{key} in {file} is {_shown(value)}: write a table, [{key}], with its settings below.")
        elif key in sections:
            given |= {
                f"{key}.{inner}": _Given(leaf, f"{key}.{inner} in {file}", str(file)) for inner, leaf in value.items()
            }
        else:
            given[key] = _Given(value, f"{key} in {file}", str(file))
    there = known(given)
    for name in [name for name in given if name not in there]:
        advice = _advice(name, there if "." in name else [*there, *sections])
        problems.append(f"{_plain(name)} in {file} is not a setting: {advice}")
        del given[name]
    return given


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> dict[str, _Given]:
    named = (_NAMED_VARIABLE.fullmatch(key) for key in environ)
    brokers = [f"{_NAMED}.{found['broker'].lower()}." for found in named if found is not None]
    names = {variable(name): name for name in known(brokers)}
    given: dict[str, _Given] = {}
    for key in sorted(environ):
        if key in names:
            given[names[key]] = _Given(environ[key], key, key)
        elif key.startswith(PREFIX) and key not in COMMAND_VARIABLES:
            problems.append(f"{_plain(key)} is not a setting: {_advice(key.upper(), [*names, *COMMAND_VARIABLES])}")
    return given


def _tree(given: Mapping[str, _Given]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for name, one in given.items():
        *sections, key = name.split(".")
        table = tree
        for section in sections:
            table = table.setdefault(section, {})
        table[key] = one.value
    return tree


def _advice(name: str, names: Iterable[str]) -> str:
    """The end of the sentence: the nearest known name, by the whole of it or by its last word."""
    last = {one.rpartition(".")[2]: one for one in reversed(list(names))}
    nearest = difflib.get_close_matches(name, list(names), n=1) or [
        last[leaf] for leaf in difflib.get_close_matches(name.rpartition(".")[2], list(last), n=1, cutoff=0.8)
    ]
    return f"did you mean {nearest[0]}?" if nearest else '"provisioner config show" lists the settings there are.'


def _sentence(detail: ErrorDetails, given: Mapping[str, _Given]) -> str:
    name = ".".join(str(part) for part in detail["loc"])
    if name not in given:  # a rule that joins several settings; its text names them
        return f"{detail['ctx']['error']}."
    why = f" ({detail['ctx']['error']})" if detail["type"] == "value_error" else ""
    words = next(mark.words for mark in known(given)[name].metadata if isinstance(mark, Write))
    return f"{given[name].label} is {_shown(given[name].value)}{why}: write {words}."


def _shown(value: object) -> str:
    text = f'"{value}"' if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
    return _plain(text if len(text) <= _LONGEST_SHOWN else text[: _LONGEST_SHOWN - 1] + "…")


def _plain(text: str) -> str:
    """Without control characters: it goes to a terminal."""
    return "".join(char if char.isprintable() else "?" for char in text)
