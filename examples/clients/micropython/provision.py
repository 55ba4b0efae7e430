"""Get this device its own MQTT credentials: MicroPython on umqtt.simple, in one file.

    import provision
    provision.run("/")        # the directory of device.json, which the factory wrote, and of the two slots

Runs until the device works under its new identity; may lose its power at any point. Raises Stopped where only a change
of firmware or an operator helps. Offers come sealed as A256CTR-HS256, as no port of MicroPython has GCM.
"""

import binascii
import hashlib
import json
import os
import time

from umqtt.simple import MQTTClient, MQTTException

try:
    import cryptolib
except ImportError:  # a port without: plain mode alone
    cryptolib = None

STOP = ("already-provisioned", "expired", "abandoned", "bad-request", "bad-csr", "unsupported", "too-large")
ALG = "A256CTR-HS256"


class Stopped(Exception):
    """No repetition helps."""


class Superseded(Exception):
    """The requestId, or the credential that an ack was about, is void."""


def tell(step):
    print(step)


def part_of(milliseconds):
    """A random part of it."""
    return milliseconds * int.from_bytes(os.urandom(2), "big") // 65536


# --- storage: two slots and a mark; littlefs replaces a file by rename whole or not at all --------


class Storage:
    def __init__(self, directory):
        self.directory = directory.rstrip("/") + "/"
        self.device = json.loads(self.read("device.json"))

    def read(self, name):
        try:
            with open(self.directory + name) as file:
                return file.read()
        except OSError:
            return ""

    def write(self, name, text):
        with open(self.directory + name + ".new", "w") as file:
            file.write(text)
        os.rename(self.directory + name + ".new", self.directory + name)
        if hasattr(os, "sync"):
            os.sync()

    def load(self):
        slot = self.read("current")
        return json.loads(self.read("slot-" + slot)) if slot else None

    def store(self, credential):
        """Write the free slot, read it back, make it current."""
        free = "1" if self.read("current") == "0" else "0"
        text = json.dumps(credential)
        self.write("slot-" + free, text)
        if self.read("slot-" + free) != text:
            raise OSError("the slot does not hold what was written")
        self.write("current", free)

    def drop(self):
        self.write("current", "")

    def forget(self):
        """Erase the provisioning login and the activation key."""
        self.device = {k: v for k, v in self.device.items() if k not in ("password", "activationKey")}
        self.write("device.json", json.dumps(self.device))


# --- keys, proofs, seals --------------------------------------------------------------------------


def b64(octets):
    text = binascii.b2a_base64(octets).decode().strip()
    return text.replace("+", "-").replace("/", "_").rstrip("=")


def unb64(text):
    text = text.replace("-", "+").replace("_", "/") + "=" * (-len(text) % 4)
    return binascii.a2b_base64(text.encode())


def mac(key, *parts):
    """HMAC-SHA256 (RFC 2104); the firmware's own `hmac` is an extra package."""
    message = parts[0] if isinstance(parts[0], bytes) else "|".join([str(part) for part in parts]).encode()
    if len(key) > 64:
        key = hashlib.sha256(key).digest()
    key = key + bytes(64 - len(key))
    inner = hashlib.sha256(bytes([octet ^ 0x36 for octet in key]) + message).digest()
    return hashlib.sha256(bytes([octet ^ 0x5C for octet in key]) + inner).digest()


def same(one, other):
    """Compare in constant time."""
    differs = len(one) ^ len(other)
    for a, b in zip(one, other):
        differs |= a ^ b
    return not differs


def ctr(key, counter, octets):
    """AES-256-CTR out of single blocks, which every port with cryptolib has; CTR itself only some."""
    block, number, out = cryptolib.aes(key, 1), int.from_bytes(counter, "big"), bytearray(octets)
    for at in range(0, len(out), 16):
        stream = block.encrypt((number % (1 << 128)).to_bytes(16, "big"))
        number += 1
        for i in range(min(16, len(out) - at)):
            out[at + i] ^= stream[i]
    return bytes(out)


class Keys:
    def __init__(self, device):
        key, self.user, self.client_id = device["activationKey"].encode(), device["user"], device["clientId"]
        self.shown = device["activationKey"] if device["mode"] == "plain" else None
        self.auth = mac(key, "prov/v1 auth", self.user, self.client_id)
        self.seal = mac(key, "prov/v1 seal", self.user, self.client_id)

    def sign(self, body, nonce, *parts):
        """Add what shows that we have the key: a proof over these parts, or in plain mode the key itself."""
        if self.shown:
            body["activationKey"] = self.shown
        else:
            body["nonce"], body["proof"] = nonce, b64(mac(self.auth, *parts))
        return body

    def proves(self, reply):
        said = [reply.get(key, "") for key in ("requestId", "nonce", "code", "reason", "generation", "retryAfter")]
        expected = b64(mac(self.auth, "reply", *said, "true" if reply.get("forget") is True else ""))
        return same(expected.encode(), str(reply.get("proof", "")).encode())

    def open(self, reply):
        """The offer inside; None unless it was sealed for us, as we asked for it."""
        if self.shown:
            return reply
        try:
            sealed = unb64(reply["sealed"])
            about = "prov/v1 reply|{}|{}|".format(self.user, self.client_id).encode()
            exchange = reply["requestId"], reply["nonce"]
            if reply["alg"] != ALG or len(sealed) < 48:
                return None
            if not same(mac(mac(self.seal, "mac", *exchange), about + sealed[:-32]), sealed[-32:]):
                return None
            return json.loads(ctr(mac(self.seal, "reply", *exchange), sealed[:16], sealed[16:-32]))
        except (KeyError, ValueError, TypeError, AttributeError):
            return None


# --- the exchange: a message, repeated until its reply --------------------------------------------


class Provisioning:
    """The provisioning session; opened when it is needed, and again after it was lost."""

    def __init__(self, device):
        self.device, self.keys, self.client, self.inbox = device, Keys(device), None, []
        self.root = "prov/v1/{}/{}/".format(device["user"], device["clientId"])
        times = device.get("times", {})
        self.reply_ms = times.get("replyMs", 10000)
        self.first_pause, self.longest_pause = times.get("firstPauseMs", 5000), times.get("longestPauseMs", 300000)

    def open(self):
        if self.client is None:
            device = self.device
            login = {"user": device["user"], "password": device["password"], "keepalive": 60}
            client = MQTTClient(device["clientId"], device["host"], device["port"], ssl=tls(device.get("ca")), **login)
            client.set_callback(lambda _topic, message: self.inbox.append(message))
            client.connect()
            tell("connected")
            client.subscribe(self.root + "reply")  # waits for SUBACK
            self.client, self.inbox = client, []

    def close(self):
        client, self.client = self.client, None
        if client is not None:
            try:
                client.disconnect()
            except OSError:
                pass

    def exchange(self, topic, write):
        """Send what `write(nonce)` says, again and again, until a reply ends it; return the offer or the reply."""
        nonces, attempt = [], 0
        while True:
            nonce = b64(os.urandom(16))
            nonces = (nonces + [nonce])[-4:]
            body = write(nonce)
            pause = part_of(min(self.longest_pause, self.first_pause << attempt))
            attempt = min(attempt + 1, 16)
            try:
                self.open()
                tell("{} {}".format(topic, body["requestId"]))
                self.client.publish(self.root + topic, json.dumps(body))
                reply = self.listen(body["requestId"], nonces)
                if reply is not None:
                    taken = self.judge(reply, topic == "request")
                    if taken is not None:
                        return taken
                    after = reply.get("retryAfter")
                    if isinstance(after, int) and 1 <= after <= 86400:
                        proved, after = self.keys.proves(reply), after * 1000
                        # Who cannot prove itself may slow us down, but not for long.
                        pause = after if proved else min(after, self.longest_pause)
                        pause += part_of(pause // 2)
                        if proved:
                            attempt, nonces = 0, []  # what still comes for these is a repetition
                elif attempt > 1:
                    self.close()  # a second silence: it may be open at this end only
            except (
                OSError,
                MQTTException,
                AssertionError,
                TypeError,
                IndexError,
            ) as error:  # umqtt.simple's ways to end
                tell("lost: {!r}".format(error))
                self.close()
            tell("pause {} ms".format(pause))
            if pause > 60000:
                self.close()
            time.sleep_ms(pause)

    def listen(self, request_id, nonces):
        """The next reply to one of our last messages; anything else is dropped. None after the time for a reply."""
        start = time.ticks_ms()
        while time.ticks_diff(time.ticks_ms(), start) < self.reply_ms:
            if not self.inbox:
                self.client.check_msg()
            if not self.inbox:
                time.sleep_ms(20)
                continue
            try:
                reply = json.loads(self.inbox.pop(0))
            except ValueError:
                continue
            if isinstance(reply, dict) and reply.get("requestId") == request_id:
                if self.keys.shown or reply.get("nonce") in nonces:
                    return reply
        return None

    def judge(self, reply, offer):
        """What ends the exchange, None for "try later"; a refusal counts only if proved."""
        reason = str(reply.get("reason"))
        tell("answer {} {}".format(reply.get("code"), reason))
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
            body = {"requestId": request_id} if self.keys.shown else {"requestId": request_id, "alg": ALG}
            return self.keys.sign(body, nonce, "request", request_id, nonce, "", "", "", ALG)

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
            and all([isinstance(credential[key], str) and credential[key] for key in ("username", "password")])
            and isinstance(body["generation"], int)
            and body["broker"]["url"].split("://")[0] in ("mqtt", "mqtts")
            and isinstance(body["topics"]["publish"], list)
        )
    except (KeyError, TypeError, AttributeError):
        return False


def tls(ca):
    """A context that checks the server against this CA (PEM), None without one."""
    if not ca:
        return None
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=ca.encode())
    context.verify_mode = ssl.CERT_REQUIRED
    return context


# --- the new identity -----------------------------------------------------------------------------


def log_in(body):
    """Connect to the device broker and say hello."""
    credential, broker = body["credentials"], body["broker"]
    scheme, _, where = broker["url"].partition("://")
    host, _, port = where.rpartition(":") if ":" in where else (where, "", "8883" if scheme == "mqtts" else "1883")
    login = {"user": credential["username"], "password": credential["password"], "keepalive": 60}
    client = MQTTClient(credential["clientId"], host, int(port), ssl=tls(broker.get("ca")), **login)
    client.connect()
    for may in body["topics"]["publish"][:1]:
        client.publish(may.replace("#", "hello").replace("+", "hello"), "hello")
    client.disconnect()


def try_login(body, first_pause):
    """False only when the device broker itself said no three times; an absent one says nothing about the credential."""
    refused = unreached = 0
    while refused < 3 and unreached < 3:
        try:
            log_in(body)
            tell("logged in")
            return True
        except (OSError, MQTTException, AssertionError, TypeError, IndexError) as error:
            if isinstance(error, MQTTException) and error.args[0] in (2, 4, 5):
                refused += 1
            else:
                unreached += 1
            tell("no login: {!r}".format(error))
            time.sleep_ms(part_of(first_pause << (refused + unreached - 1)))
    return refused < 3


def run(directory):
    storage = Storage(directory)
    credential = storage.load()
    while not (credential and credential.get("confirmed")) and "password" in storage.device:
        session = Provisioning(storage.device)
        try:
            if credential is None:
                credential = session.claim("r-" + binascii.hexlify(os.urandom(4)).decode())
                storage.store(credential)
                tell("stored generation {}".format(credential["generation"]))
            result = "stored" if try_login(credential, session.first_pause) else "failed"
            reply = session.ack(credential, result)
            if result == "failed":
                raise Superseded  # a new claim, with a new requestId
            if reply.get("forget") is True and session.keys.proves(reply):
                storage.forget()  # before the mark: cut here, a device without a login knows that it was told so
                tell("forgot the provisioning login")
            credential["confirmed"] = True
            storage.store(credential)
            tell("confirmed")
        except Superseded:
            storage.drop()
            credential = None
        finally:
            session.close()
    if credential is None:
        raise Stopped("there is neither a credential nor a provisioning login")
    while not try_login(credential, 5000):
        pass
    tell("online")
