"""Device brokers of other people: what each kind needs and takes, and several of them by name."""

from pathlib import Path

import pytest

from config.sources import SettingsError, load

ASKING = 'kind = "webhook"\ndialect = "emqx"\nsecret_file = "s"\nurl = "mqtt://b:1"\n'
FILES = 'kind = "mosquitto-files"\npassword_file = "p"\nacl_file = "a"\npid_file = "m.pid"\nurl = "mqtt://b:1883"\n'


def loaded(folder: Path, text: str, **variables: str) -> dict[str, str]:
    file = folder / "p.toml"
    file.write_text(text)
    found = load(file, {f"PROVISIONER_{name}": value for name, value in variables.items()})
    return {name: broker.kind for name, broker in found.settings.device_brokers.items()}


def problems(folder: Path, text: str, **variables: str) -> str:
    with pytest.raises(SettingsError) as caught:
        loaded(folder, text, **variables)
    return "\n".join(caught.value.problems)


def test_several_are_named_in_the_file_and_in_variables(tmp_path: Path) -> None:
    text = f"[device_brokers.plant]\n{FILES}[device_brokers.lab]\n{FILES}"
    variables = {"DEVICE_BROKERS__LAB__PASSWORD_FILE": "other", "DEVICE_BROKERS__LAB__URL": "mqtt://c:1883"}
    assert loaded(tmp_path, text, **variables) == {"plant": "mosquitto-files", "lab": "mosquitto-files"}
    file = tmp_path / "p.toml"
    listed = {one.name: one for one in load(file, {f"PROVISIONER_{k}": v for k, v in variables.items()}).listed()}
    assert listed["device_brokers.lab.password_file"].value == "other"
    assert listed["device_brokers.lab.password_file"].origin == "PROVISIONER_DEVICE_BROKERS__LAB__PASSWORD_FILE"
    assert listed["device_brokers.plant.url"].value == "mqtt://b:1883"


def test_a_misspelt_setting_of_a_named_one_is_refused(tmp_path: Path) -> None:
    told = problems(tmp_path, f'[device_brokers.plant]\n{FILES}passwordfile = "x"\n')
    assert "device_brokers.plant.passwordfile" in told
    assert "did you mean device_brokers.plant.password_file?" in told
    assert "no table of tables" in problems(tmp_path, "device_brokers = 3")
    assert "no table of tables" in problems(tmp_path, "[device_brokers]\nplant = 3")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('kind = "mosquitto-files"', "needs password_file"),
        (FILES.replace('pid_file = "m.pid"\n', ""), "needs pid_file or reload_command"),
        (FILES.replace('url = "mqtt://b:1883"\n', ""), "needs url or secure_url"),
        (FILES + 'dialect = "emqx"', "has no dialect"),
        ('kind = "rabbitmq"\nurl = "mqtt://b:1"\ncontrol_url = "http://b:2"', "control_url and login_file"),
        ('kind = "rabbitmq"\nurl = "mqtt://b:1"\ncontrol_url = "mqtt://b:2"\nlogin_file = "l"', "begins with http"),
        ('kind = "mosquitto-dynsec"\nurl = "mqtt://b:1"\ncontrol_url = "http://b"\nlogin_file = "l"', "with mqtt"),
        ('kind = "webhook"\ndialect = "emqx"\nurl = "mqtt://b:1"', "needs secret_file, or webhook.client_ca"),
        (
            ASKING.replace("emqx", "vernemq") + 'control_url = "http://b"\nlogin_file = "l"',
            "dialects emqx and rabbitmq",
        ),
        ('kind = "ejabberd"', '"rabbitmq" or "webhook"'),
    ],
)
def test_each_kind_says_what_it_needs_and_takes(tmp_path: Path, text: str, told: str) -> None:
    assert told in problems(tmp_path, f"[device_broker]\n{text}\n")


def test_the_embedded_one_runs_once(tmp_path: Path) -> None:
    assert "other than embedded" in problems(tmp_path, '[device_brokers.plant]\nkind = "embedded"\n')
    assert "has the name" in problems(tmp_path, f"[device_broker]\n{FILES}[device_brokers.mosquitto-files]\n{FILES}")


def test_two_listeners_do_not_share_a_port_with_the_webhook(tmp_path: Path) -> None:
    asking = f"[device_broker]\n{ASKING}"
    assert "each needs a port" in problems(tmp_path, asking + '[webhook]\nlisten = "127.0.0.1:8080"\n')
    assert loaded(tmp_path, '[webhook]\nlisten = "127.0.0.1:8080"\n') == {}  # nobody asks, so it does not listen
