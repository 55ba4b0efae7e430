"""Defaults, file, environment, command line: who wins, and how a mistake is named."""

from pathlib import Path

import pytest

from config.sources import SettingsError, load


def written(folder: Path, text: str) -> Path:
    file = folder / "p.toml"
    file.write_text(text, encoding="utf-8")
    return file


def problems(folder: Path, text: str, **variables: str) -> tuple[str, ...]:
    with pytest.raises(SettingsError) as caught:
        load(written(folder, text), variables)
    return caught.value.problems


def test_the_environment_stands_above_the_file_and_the_command_line_above_both(tmp_path: Path) -> None:
    file = written(tmp_path, 'data_dir = "of-file"\n[endpoint]\nidle_time = 60\nsession_time = 300\n')
    loaded = load(
        file,
        {"PROVISIONER_DATA_DIR": "of-environment", "PROVISIONER_ENDPOINT__IDLE_TIME": "90"},
        {"data_dir": "of-option"},
    )
    assert str(loaded.settings.data_dir) == "of-option"
    assert (loaded.settings.endpoint.idle_time, loaded.settings.endpoint.session_time) == (90, 300)
    origins = {one.name: one.origin for one in loaded.listed()}
    assert origins["data_dir"] == "option"
    assert origins["endpoint.idle_time"] == "PROVISIONER_ENDPOINT__IDLE_TIME"
    assert origins["endpoint.session_time"] == str(file)
    assert origins["http.listen"] == "default"


def test_the_file_may_be_named_by_a_variable_and_the_command_line_wins(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text('[log]\nlevel = "error"\n')
    file = written(tmp_path, '[log]\nlevel = "debug"\n')
    environ = {"PROVISIONER_CONFIG": str(file)}
    assert load(None, environ).settings.log.level == "debug"
    assert load(tmp_path / "other.toml", environ).settings.log.level == "error"
    assert load(None, {"PROVISIONER_CONFIG": ""}).settings.log.level == "info"


def test_a_misspelt_variable_is_refused_with_the_nearest_name() -> None:
    for name, nearest in {
        "PROVISIONER_DATADIR": "PROVISIONER_DATA_DIR",
        "PROVISIONER_HTTP_LISTEN": "PROVISIONER_HTTP__LISTEN",
        "PROVISIONER_ENDPOINT__IDLETIME": "PROVISIONER_ENDPOINT__IDLE_TIME",
        "PROVISIONER_CONFG": "PROVISIONER_CONFIG",
        "PROVISIONER_http__listen": "PROVISIONER_HTTP__LISTEN",
    }.items():
        with pytest.raises(SettingsError) as caught:
            load(None, {name: "x"})
        assert caught.value.problems == (f"{name} is not a setting: did you mean {nearest}?",)


def test_other_programs_variables_are_none_of_our_business() -> None:
    load(None, {"PATH": "/bin", "PROVISION": "x", "MY_PROVISIONER_DATA_DIR": "x"})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('datadir = "x"', "datadir in {file} is not a setting: did you mean data_dir?"),
        (
            "[endpoint]\nidel_time = 5",
            "endpoint.idel_time in {file} is not a setting: did you mean endpoint.idle_time?",
        ),
        ("idle_time = 5", "idle_time in {file} is not a setting: did you mean endpoint.idle_time?"),
        ("[device_brokr]\nkind = 1", "device_brokr in {file} is not a setting: did you mean device_broker?"),
        ("[http.listener]\na = 1", "http.listener in {file} is not a setting: did you mean http.listen?"),
        (
            "zzz = 1",
            'zzz in {file} is not a setting: "provisioner config show" lists the settings there are.',
        ),
        ("http = 8080", "http in {file} is 8080: write a table, [http], with its settings below."),
        (
            "[endpoint]\nidle_time = true",
            "endpoint.idle_time in {file} is true (a truth value is not a number): write ",
        ),
        ('[log]\nlevel = "loud"', 'log.level in {file} is "loud": write "debug", "info", "warning" or "error".'),
        ("[http]\nlisten = 8080", "http.listen in {file} is 8080 (not a text): write host:port, "),
        ('[device_broker]\nca = "a\\u0000b"', 'device_broker.ca in {file} is "a?b" (not a path): write '),
    ],
)
def test_a_mistake_in_the_file_is_named_with_its_remedy(tmp_path: Path, text: str, sentence: str) -> None:
    (problem,) = problems(tmp_path, text)
    assert problem.startswith(sentence.format(file=tmp_path / "p.toml"))


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    told = problems(
        tmp_path, '[http]\nlisten = "x"\nport = 1\n', PROVISIONER_LOG__LEVEL="loud", PROVISIONER_LOG__LEVL="info"
    )
    assert [one.split()[0] for one in told] == [
        "http.port",
        "PROVISIONER_LOG__LEVL",
        "http.listen",
        "PROVISIONER_LOG__LEVEL",
    ]


def test_a_file_that_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    (problem,) = problems(tmp_path, "[http")
    assert problem.startswith(f"The settings file {tmp_path / 'p.toml'} is not TOML: ")
    (tmp_path / "latin.toml").write_bytes(b"# \xe9\n")
    for file, reason in {
        tmp_path / "none.toml": "cannot be read: No such file or directory.",
        tmp_path: "cannot be read: Is a directory.",
        tmp_path / "latin.toml": "is not UTF-8 text: save it as UTF-8.",
    }.items():
        with pytest.raises(SettingsError) as caught:
            load(file, {})
        assert caught.value.problems == (f"The settings file {file} {reason}",)


def test_what_is_shown_of_a_bad_value_is_short_and_harmless() -> None:
    with pytest.raises(SettingsError) as caught:
        load(None, {"PROVISIONER_LOG__LEVEL": "\x1b[31m" + "x" * 500})
    assert caught.value.problems[0].startswith('PROVISIONER_LOG__LEVEL is "?[31mxxx')
    assert len(caught.value.problems[0]) < 150
