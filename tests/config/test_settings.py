"""What may be written, and what the answer is when it may not."""

import re

import pytest
from pydantic import ValidationError

from config.settings import Settings
from config.sources import SettingsError, load
from config.values import Address


def refused(**variables: str) -> str:
    """The sentences that answer these variables."""
    with pytest.raises(SettingsError) as caught:
        load(None, variables)
    return str(caught.value)


@pytest.mark.parametrize(
    ("text", "host", "port", "back"),
    [
        ("127.0.0.1:8081", "127.0.0.1", 8081, "127.0.0.1:8081"),
        ("[::1]:0", "::1", 0, "[::1]:0"),
        ("broker.example:8883", "broker.example", 8883, "broker.example:8883"),
    ],
)
def test_an_address_reads_as_it_is_written(text: str, host: str, port: int, back: str) -> None:
    address = load(None, {"PROVISIONER_HTTP__LISTEN": text}).settings.http.listen
    assert (address.host, address.port, str(address)) == (host, port, back)


@pytest.mark.parametrize(
    "text", ["", "1884", ":1884", "::1:1884", "[::1]", "a b:1", "host:port", "host:99999", "host:-1"]
)
def test_what_is_no_address_is_refused_with_an_example(text: str) -> None:
    sentence = refused(PROVISIONER_HTTP__LISTEN=text)
    assert sentence.startswith(f'PROVISIONER_HTTP__LISTEN is "{text}"')
    assert 'write host:port, such as "127.0.0.1:1884" or "[::1]:1884"' in sentence


def test_an_empty_text_is_none_where_none_is_allowed() -> None:
    settings = load(None, {"PROVISIONER_ENDPOINT__TLS_LISTEN": "", "PROVISIONER_DEVICE_BROKER__URL": ""}).settings
    assert settings.endpoint.tls_listen is None
    assert settings.device_broker.url is None


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "soon", "", "86401"])
def test_a_time_is_a_number_of_seconds(text: str) -> None:
    assert "write a number of seconds from 0.1 to 86400" in refused(PROVISIONER_ENDPOINT__IDLE_TIME=text)


@pytest.mark.parametrize("text", ["0", "1.5", "ten", "1000001"])
def test_a_count_is_a_whole_number(text: str) -> None:
    assert "write a whole number from 1 to 1000000" in refused(PROVISIONER_ENDPOINT__MAX_CONNECTIONS=text)


@pytest.mark.parametrize("text", ["http://broker", "mqtt://", "mqtt://a:0", "mqtt://u:p@a", "mqtt://a/b", "mqtt://a:b"])
def test_a_broker_url_is_scheme_host_and_port(text: str) -> None:
    assert 'write a URL such as "mqtt://broker.example:1883"' in refused(PROVISIONER_DEVICE_BROKER__URL=text)


@pytest.mark.parametrize("text", ["prov/+/v1", "prov//v1", "/prov", "#", "$share/a", "prov v1", "a" * 129])
def test_a_root_topic_has_neither_wildcards_nor_empty_levels(text: str) -> None:
    assert "write topic levels" in refused(PROVISIONER_ENDPOINT__ROOT_TOPIC=text)


def test_a_certificate_needs_its_key() -> None:
    sentence = refused(PROVISIONER_DEVICE_BROKER__PRIVATE_KEY="key.pem")
    assert sentence == "device_broker.certificate is missing: a certificate and its private key are set together."


@pytest.mark.parametrize("text", ["a,a", "two words", "-a", "a,,b", "a" * 65, "https://a", "192.0.2.300.", "*.a"])
def test_a_server_is_called_by_host_names_and_addresses(text: str) -> None:
    assert "write host names and IP addresses" in refused(PROVISIONER_AUTHORITY__SERVER_NAMES=text)


def test_a_server_listens_somewhere() -> None:
    sentence = refused(PROVISIONER_ENDPOINT__LISTEN="")
    assert sentence == "endpoint.listen and endpoint.tls_listen are both empty: give at least one of them."


def test_devices_are_not_told_to_connect_to_everywhere() -> None:
    sentence = refused(PROVISIONER_DEVICE_BROKER__LISTEN="[::]:1883")
    assert sentence == "device_broker.url is missing: devices cannot be told to connect to [::]:1883."
    load(None, {"PROVISIONER_DEVICE_BROKER__LISTEN": "[::]:1883", "PROVISIONER_DEVICE_BROKER__URL": "mqtt://b:1883"})


def test_two_servers_do_not_share_a_port() -> None:
    sentence = refused(PROVISIONER_HTTP__LISTEN="127.0.0.1:1883")
    assert sentence == "http.listen and device_broker.listen are both 127.0.0.1:1883: each needs a port of its own."
    load(None, {"PROVISIONER_HTTP__LISTEN": "127.0.0.1:0", "PROVISIONER_ENDPOINT__LISTEN": "127.0.0.1:0"})


def test_the_inner_limit_is_not_above_the_outer() -> None:
    sentence = refused(PROVISIONER_ENDPOINT__UNPROVED_PER_SOURCE="17")
    assert sentence == "endpoint.unproved_per_source must not be above endpoint.unproved_per_client_id."


def test_a_reply_is_not_both_doubled_and_dropped() -> None:
    sentence = refused(PROVISIONER_CHAOS__DOUBLE="0.6", PROVISIONER_CHAOS__DROP="0.5")
    assert sentence == "chaos.double and chaos.drop are more than 1 together: make one of them smaller."
    assert refused(PROVISIONER_CHAOS__WAIT="5").startswith('PROVISIONER_CHAOS__WAIT is "5": write a share from 0 to 1')


WEBHOOK = {"PROVISIONER_EVENTS__WEBHOOK_SECRET_FILE": "webhook.secret"}


@pytest.mark.parametrize(
    "text",
    [
        "receiver.example",
        "ftp://a/",
        "https://",
        "https://u:p@a/",
        "https://a/#b",
        "https://a/ b",
        "https://a:0/",
        "https://\u00e4/",
    ],
)
def test_a_webhook_url_is_a_whole_one_without_a_login(text: str) -> None:
    assert 'write a URL such as "https://receiver.example/events"' in refused(
        **WEBHOOK, PROVISIONER_EVENTS__WEBHOOK_URL=text
    )


def test_a_webhook_is_signed() -> None:
    sentence = refused(PROVISIONER_EVENTS__WEBHOOK_URL="https://a/events")
    assert sentence.startswith("events.webhook_secret_file is missing: a webhook is signed")


@pytest.mark.parametrize("host", ["receiver.example", "192.0.2.1", "127.0.0.1.example", "[2001:db8::1]"])
def test_events_do_not_cross_a_network_unencrypted_by_accident(host: str) -> None:
    url = {"PROVISIONER_EVENTS__WEBHOOK_URL": f"http://{host}:9000/events?a=b"}
    assert refused(**WEBHOOK, **url).startswith("events.webhook_url is http and not on this machine: use https")
    load(None, WEBHOOK | url | {"PROVISIONER_EVENTS__WEBHOOK_ALLOW_HTTP": "true"})


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "[::1]"])
def test_a_receiver_on_this_machine_needs_no_encryption(host: str) -> None:
    load(None, WEBHOOK | {"PROVISIONER_EVENTS__WEBHOOK_URL": f"http://{host}:9000/"})


@pytest.mark.parametrize("text", ["mqtt://a/b", "https://a", "mqtts://u@a", "a:1883"])
def test_the_url_of_the_events_broker_is_scheme_host_and_port(text: str) -> None:
    assert 'write a URL such as "mqtts://broker.example:8883"' in refused(PROVISIONER_EVENTS__MQTT_URL=text)


def test_settings_are_frozen_at_every_level() -> None:
    settings = Settings()
    with pytest.raises(ValidationError):
        settings.provision_account = "other"  # type: ignore[misc]  # that it fails is the point
    with pytest.raises(ValidationError):
        settings.http.listen = Address("a", 1)  # type: ignore[misc]  # as above


def test_unknown_keys_are_forbidden_at_every_level() -> None:
    for name, field in Settings.model_fields.items():
        if name in {"data_dir", "provision_account", "device_brokers"}:
            continue
        assert isinstance(field.annotation, type)
        with pytest.raises(ValidationError, match="Extra inputs"):
            Settings.model_validate({name: {"surprise": 1}})
    for surprise in ({"surprise": 1}, {"device_brokers": {"plant": {"surprise": 1}}}):
        with pytest.raises(ValidationError, match="Extra inputs"):
            Settings.model_validate(surprise)


def test_every_setting_is_told_in_one_sentence_that_ends() -> None:
    for setting in load(None, {}).listed():
        assert re.fullmatch(r"[A-Z][^\n]{10,110}\.", setting.description), setting.name
