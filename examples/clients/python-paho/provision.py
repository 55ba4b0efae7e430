"""Get this device its own MQTT credentials: blocking Python on paho-mqtt, in one file.

    python provision.py DIRECTORY

DIRECTORY holds device.json, what the factory wrote, and later the two slots for the credential. Runs until the device
works under its new identity; may be killed and started again at any point. Ends with 3 where only a change of firmware
or an operator helps.
"""

import base64
import hashlib
import hmac
import json
import os
import queue
import random
import secrets
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import paho.mqtt.client as mqtt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from paho.mqtt.enums import CallbackAPIVersion

STOP = {"already-provisioned", "expired", "abandoned", "bad-request", "bad-csr", "unsupported", "too-large"}
REFUSED = {132, 133, 134, 135, 138}  # anything else, a busy server for instance, is worth another try
SECONDS = 10  # for a connection, its login and its SUBSCRIBE


class Stopped(Exception):
    """No repetition helps."""


class Superseded(Exception):
    """The requestId, or the credential that an ack was about, is void."""


class Lost(Exception):
    """The connection is gone or could not be had; `refused` if the server said no to this login."""

    def __init__(self, why, *, refused=False):
        super().__init__(why)
        self.refused = refused


def tell(step):
    print(step, file=sys.stderr, flush=True)


class Storage:
    """Two slots and a mark; each file is on disk before the next thing happens."""

    def __init__(self, directory):
        self.directory = directory
        self.device = json.loads((directory / "device.json").read_text())

    def write(self, name, text):
        new = self.directory / f"{name}.new"
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.directory / name)
        folder = os.open(self.directory, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def load(self):
        try:
            slot = (self.directory / "current").read_text()
            return json.loads((self.directory / f"slot-{slot}").read_text()) if slot else None
        except FileNotFoundError:
            return None

    def store(self, credential):
        """Write the free slot, read it back, make it current."""
        current = self.directory / "current"
        free = "1" if current.exists() and current.read_text() == "0" else "0"
        self.write(f"slot-{free}", json.dumps(credential))
        if json.loads((self.directory / f"slot-{free}").read_text()) != credential:
            raise OSError("the slot does not hold what was written")
        self.write("current", free)

    def drop(self):
        self.write("current", "")

    def forget(self):
        """Erase the provisioning login and the activation key."""
        self.device = {k: v for k, v in self.device.items() if k not in ("password", "activationKey")}
        self.write("device.json", json.dumps(self.device))


def b64(octets):
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def mac(key, *parts):
    return hmac.digest(key, "|".join(str(part) for part in parts).encode(), hashlib.sha256)


class Keys:
    def __init__(self, device):
        self.user, self.client_id = device["user"], device["clientId"]
        self.shown = device["activationKey"] if device["mode"] == "plain" else None
        self.auth, self.seal = (
            mac(device["activationKey"].encode(), f"prov/v1 {use}", self.user, self.client_id)
            for use in ("auth", "seal")
        )

    def sign(self, body, nonce, *parts):
        """Add what shows that we have the key: a proof over these parts, or in plain mode the key itself."""
        if self.shown:
            return {**body, "activationKey": self.shown}
        return {**body, "nonce": nonce, "proof": b64(mac(self.auth, *parts))}

    def proves(self, reply):
        said = [reply.get(key, "") for key in ("requestId", "nonce", "code", "reason", "generation", "retryAfter")]
        expected = mac(self.auth, "reply", *said, "true" if reply.get("forget") is True else "")
        return hmac.compare_digest(b64(expected).encode(), str(reply.get("proof", "")).encode())

    def open(self, reply):
        """The offer inside; None unless it was sealed for us."""
        if self.shown:
            return reply
        try:
            sealed = base64.urlsafe_b64decode(reply["sealed"] + "=" * (-len(reply["sealed"]) % 4))
            key = mac(self.seal, "reply", reply["requestId"], reply["nonce"])
            about = f"prov/v1 reply|{self.user}|{self.client_id}".encode()
            return json.loads(AESGCM(key).decrypt(sealed[:12], sealed[12:], about))
        except (InvalidTag, ValueError, KeyError, TypeError):
            return None


class Link:
    """One connection; messages wait in `inbox`, the end of the connection is a None among them."""

    def __init__(self, host, port, client_id, user, password, *, ca=None, secure=False):
        self.inbox = queue.Queue()
        self.answers = queue.Queue()
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=client_id)
        self.client.username_pw_set(user, password)
        if secure or ca:
            self.client.tls_set(ca)
        self.client.on_connect = lambda _c, _u, _f, code, _p: self.answers.put(code)
        self.client.on_subscribe = lambda _c, _u, _m, codes, _p: self.answers.put(codes[0])
        self.client.on_publish = lambda _c, _u, _m, code, _p: self.answers.put(code)
        self.client.on_message = lambda _c, _u, message: self.inbox.put(message.payload)
        self.client.on_disconnect = lambda _c, _u, _f, _code, _p: self.inbox.put(None)
        try:
            self.client.connect(host, port, keepalive=60)
        except OSError as error:
            raise Lost(f"{host}:{port} cannot be reached: {error}") from None
        self.client.loop_start()
        self.answered("CONNECT")

    def answered(self, what):
        try:
            code = self.answers.get(timeout=SECONDS)
        except queue.Empty:
            self.close()
            raise Lost(f"{what} is not answered") from None
        if code.value >= 128:
            self.close()
            raise Lost(f"{what} is refused: {code}", refused=code.value in REFUSED)

    def subscribe(self, topic_filter):
        self.client.subscribe(topic_filter, 1)
        self.answered("SUBSCRIBE")

    def publish(self, topic, payload):
        """Send at QoS 1 and wait for PUBACK, so that nothing is queued behind a dead connection."""
        self.client.publish(topic, payload, 1)
        self.answered("PUBLISH")

    def close(self):
        self.client.disconnect()
        self.client.loop_stop()


class Provisioning:
    """The provisioning session; opened when it is needed, and again after it was lost."""

    def __init__(self, device):
        self.device, self.keys = device, Keys(device)
        self.root = f"prov/v1/{device['user']}/{device['clientId']}"
        times = {"replyMs": 10_000, "firstPauseMs": 5_000, "longestPauseMs": 300_000} | device.get("times", {})
        self.times = {name.removesuffix("Ms"): value / 1000 for name, value in times.items()}
        self.link = None

    def open(self):
        if self.link is None:
            device = self.device
            login = device["clientId"], device["user"], device["password"]
            self.link = Link(device["host"], device["port"], *login, ca=device.get("ca"))
            tell("connected")
            self.link.subscribe(f"{self.root}/reply")

    def close(self):
        if self.link is not None:
            self.link.close()
            self.link = None

    def exchange(self, topic, write):
        """Send what `write(nonce)` says, again and again, until a reply ends it; return the offer or the reply."""
        nonces, attempt = [], 0
        while True:
            nonce = b64(secrets.token_bytes(16))
            nonces = [*nonces, nonce][-4:]
            body = write(nonce)
            pause = random.uniform(0, min(self.times["longestPause"], self.times["firstPause"] * 2**attempt))
            attempt = min(attempt + 1, 16)
            try:
                self.open()
                self.link.publish(f"{self.root}/{topic}", json.dumps(body))
                tell(f"{topic} {body['requestId']}")
                reply = self.listen(body["requestId"], nonces)
                if reply is not None:
                    taken = self.judge(reply, offer=topic == "request")
                    if taken is not None:
                        return taken
                    if isinstance(after := reply.get("retryAfter"), int) and 1 <= after <= 86400:
                        proved = self.keys.proves(reply)
                        # Who cannot prove itself may slow us down, but not for long.
                        pause = (after if proved else min(after, self.times["longestPause"])) * random.uniform(1, 1.5)
                        if proved:
                            attempt, nonces = 0, []  # what still comes for these is a repetition
                elif attempt > 1:
                    self.close()  # a second silence: it may be open at this end only
            except Lost as error:
                tell(f"lost: {error}")
                self.close()
            tell(f"pause {pause:.1f} s")
            if pause > 60:
                self.close()
            time.sleep(pause)

    def listen(self, request_id, nonces):
        """The next reply to one of our last messages; anything else is dropped. None after the time for a reply."""
        end = time.monotonic() + self.times["reply"]
        while (left := end - time.monotonic()) > 0:
            try:
                payload = self.link.inbox.get(timeout=left)
            except queue.Empty:
                break
            if payload is None:
                raise Lost("the server closed the connection")
            try:
                reply = json.loads(payload)
            except ValueError:
                continue
            if isinstance(reply, dict) and reply.get("requestId") == request_id:
                if self.keys.shown or reply.get("nonce") in nonces:
                    return reply
        return None

    def judge(self, reply, *, offer):
        """Return what ends the exchange, None for "try later"; a refusal counts only if proved."""
        reason = str(reply.get("reason"))
        tell(f"answer {reply.get('code')} {reason}")
        if offer and reason == "offer":
            body = self.keys.open(reply)
            return body if is_offer(body, self.device, reply["requestId"]) else None
        proved = self.keys.proves(reply)
        if reason == "superseded" and (proved or self.keys.shown):
            raise Superseded
        if proved and reason in STOP:
            raise Stopped(reason)
        return reply if reason in ("confirmed", "noted") and (proved or self.keys.shown) and not offer else None

    def claim(self, request_id):
        def write(nonce):
            return self.keys.sign({"requestId": request_id}, nonce, "request", request_id, nonce, "", "", "", "")

        return self.exchange("request", write)

    def ack(self, credential, result):
        request_id, generation = credential["requestId"], credential["generation"]

        def write(nonce):
            body = {"requestId": request_id, "generation": generation, "result": result}
            return self.keys.sign(body, nonce, "ack", request_id, nonce, generation, result, "")

        return self.exchange("ack", write)


def is_offer(body, device, request_id):
    try:
        credential = body["credentials"]
        return (
            (body["requestId"], body["reason"], credential["type"]) == (request_id, "offer", "password")
            and credential["clientId"] == device["clientId"]
            and all(isinstance(credential[key], str) and credential[key] for key in ("username", "password"))
            and isinstance(body["generation"], int)
            and urlsplit(body["broker"]["url"]).scheme in ("mqtt", "mqtts")
            and isinstance(body["topics"]["publish"], list)
        )
    except (KeyError, TypeError, ValueError):
        return False


def log_in(body):
    """Connect to the device broker as the new identity and say hello."""
    credential, url = body["credentials"], urlsplit(body["broker"]["url"])
    secure = url.scheme == "mqtts"
    ca = None
    if secure and "ca" in body["broker"]:
        ca = Path(sys.argv[1]) / "broker-ca.pem"  # paho reads certificates from files
        ca.write_text(body["broker"]["ca"])
    login = credential["clientId"], credential["username"], credential["password"]
    link = Link(url.hostname, url.port or (8883 if secure else 1883), *login, ca=ca, secure=secure)
    try:
        for may in body["topics"]["publish"][:1]:
            link.publish(may.replace("#", "hello").replace("+", "hello"), "hello")
    finally:
        link.close()


def try_login(body, first_pause):
    """False only when the device broker itself said no three times; an absent one says nothing about the credential."""
    refused = unreached = 0
    while refused < 3 and unreached < 3:
        try:
            log_in(body)
        except Lost as error:
            refused += error.refused
            unreached += not error.refused
            tell(f"no login: {error}")
            time.sleep(random.uniform(0, first_pause * 2 ** (refused + unreached - 1)))
        else:
            tell("logged in")
            return True
    return refused < 3


def main(directory):
    storage = Storage(directory)
    credential = storage.load()
    while not (credential and credential.get("confirmed")) and "password" in storage.device:
        session = Provisioning(storage.device)
        try:
            if credential is None:
                credential = session.claim(f"r-{secrets.token_hex(4)}")
                storage.store(credential)
                tell(f"stored generation {credential['generation']}")
            result = "stored" if try_login(credential, session.times["firstPause"]) else "failed"
            reply = session.ack(credential, result)
            if result == "failed":
                raise Superseded  # a new claim, with a new requestId
            if reply.get("forget") is True and session.keys.proves(reply):
                storage.forget()  # before the mark: cut here, a device without a login knows that it was told so
                tell("forgot the provisioning login")
            credential = {**credential, "confirmed": True}
            storage.store(credential)
            tell("confirmed")
        except Superseded:
            storage.drop()
            credential = None
        finally:
            session.close()
    if credential is None:
        raise Stopped("there is neither a credential nor a provisioning login")
    while not try_login(credential, 5):
        pass
    tell("online")


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]))
    except Stopped as stop:
        tell(f"stopped: {stop}")
        sys.exit(3)
