"""Get this device its own MQTT credentials: Python on aiomqtt, in one file.

    python provision.py DIRECTORY

DIRECTORY holds device.json, what the factory wrote, and later the two slots for the credential. Runs until the device
works under its new identity; may be killed and started again at any point. Ends with 3 where only a change of firmware
or an operator helps.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import random
import secrets
import socket
import ssl
import sys
from pathlib import Path
from urllib.parse import urlsplit

import aiomqtt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

STOP = {"already-provisioned", "expired", "abandoned", "bad-request", "bad-csr", "unsupported", "too-large"}
NO_DELAY = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
CONNECT_REFUSED = {132, 133, 134, 135, 138}  # anything else, a busy server for instance, is worth another try
HPKE = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)


class Stopped(Exception):
    """No repetition helps."""


class Superseded(Exception):
    """The requestId, or the credential that an ack was about, is void."""


def tell(step: str) -> None:
    print(step, file=sys.stderr, flush=True)


# --- storage: two slots and a mark; each file is on disk before the next thing happens ------------


class Storage:
    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.device = json.loads((directory / "device.json").read_text())

    def write(self, name: str, text: str) -> None:
        new = self.directory / f"{name}.new"
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.directory / name)
        folder = os.open(self.directory, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)

    def load(self) -> dict | None:
        try:
            slot = (self.directory / "current").read_text()
            return json.loads((self.directory / f"slot-{slot}").read_text()) if slot else None
        except FileNotFoundError:
            return None

    def store(self, credential: dict) -> None:
        """Write the free slot, read it back, make it current."""
        current = self.directory / "current"
        free = "1" if current.exists() and current.read_text() == "0" else "0"
        self.write(f"slot-{free}", json.dumps(credential))
        if json.loads((self.directory / f"slot-{free}").read_text()) != credential:
            raise OSError("the slot does not hold what was written")
        self.write("current", free)

    def drop(self) -> None:
        self.write("current", "")

    def forget(self) -> None:
        """Erase the provisioning login and the activation key."""
        self.device = {k: v for k, v in self.device.items() if k not in ("password", "activationKey")}
        self.write("device.json", json.dumps(self.device))


# --- keys, proofs, seals --------------------------------------------------------------------------


def b64(octets: bytes) -> str:
    return base64.urlsafe_b64encode(octets).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def mac(key: bytes, *parts: object) -> bytes:
    return hmac.digest(key, "|".join(str(part) for part in parts).encode(), hashlib.sha256)


class Keys:
    def __init__(self, device: dict) -> None:
        self.mode, self.user, self.client_id = device["mode"], device["user"], device["clientId"]
        key = device["activationKey"].encode()
        self.shown = device["activationKey"] if self.mode == "plain" else None
        self.auth = mac(key, "prov/v1 auth", self.user, self.client_id)
        self.seal = mac(key, "prov/v1 seal", self.user, self.client_id)
        self.private = X25519PrivateKey.generate()
        self.seal_to = b64(self.private.public_key().public_bytes_raw()) if self.mode == "sealed" else ""

    def claim(self, request_id: str, nonce: str) -> dict:
        if self.shown:
            return {"requestId": request_id, "activationKey": self.shown}
        proof = mac(self.auth, "request", request_id, nonce, self.seal_to, "", "", "")
        sealed = {"sealTo": self.seal_to} if self.seal_to else {}
        return {"requestId": request_id, "nonce": nonce, "proof": b64(proof), **sealed}

    def ack(self, request_id: str, nonce: str, generation: int, result: str) -> dict:
        body = {"requestId": request_id, "generation": generation, "result": result}
        if self.shown:
            return {**body, "activationKey": self.shown}
        proof = mac(self.auth, "ack", request_id, nonce, generation, result, "")
        return {**body, "nonce": nonce, "proof": b64(proof)}

    def proves(self, reply: dict) -> bool:
        said = [reply.get(key, "") for key in ("requestId", "nonce", "code", "reason", "generation", "retryAfter")]
        expected = mac(self.auth, "reply", *said, "true" if reply.get("forget") is True else "")
        return hmac.compare_digest(b64(expected).encode(), str(reply.get("proof", "")).encode())

    def open(self, reply: dict) -> dict | None:
        """The offer inside; None unless it was sealed for us, as we asked for it."""
        if self.shown:
            return reply
        about = f"prov/v1 reply|{self.user}|{self.client_id}".encode()
        exchange = (reply["requestId"], reply["nonce"])
        try:
            sealed = unb64(reply["sealed"])
            if self.seal_to:
                expected = mac(mac(self.seal, "mac", *exchange), reply["sealed"])
                if not hmac.compare_digest(expected, unb64(reply["mac"])):
                    return None
                return json.loads(HPKE.decrypt(sealed, self.private, about))
            return json.loads(AESGCM(mac(self.seal, "reply", *exchange)).decrypt(sealed[:12], sealed[12:], about))
        except (InvalidTag, ValueError, KeyError, TypeError):
            return None


# --- the exchange: a message, repeated until its reply --------------------------------------------


class Provisioning:
    """The provisioning session; opened when it is needed, and again after it was lost."""

    def __init__(self, device: dict) -> None:
        self.device, self.keys = device, Keys(device)
        self.root = f"prov/v1/{device['user']}/{device['clientId']}"
        times = {"replyMs": 10_000, "firstPauseMs": 5_000, "longestPauseMs": 300_000} | device.get("times", {})
        self.times = {name.removesuffix("Ms"): value / 1000 for name, value in times.items()}
        self.client: aiomqtt.Client | None = None

    async def open(self) -> None:
        if self.client is None:
            device = self.device
            tls = ssl.create_default_context(cafile=device["ca"]) if "ca" in device else None
            login = {"identifier": device["clientId"], "username": device["user"], "password": device["password"]}
            client = aiomqtt.Client(device["host"], device["port"], **login, tls_context=tls, socket_options=NO_DELAY)
            await client.__aenter__()
            self.client = client
            tell("connected")
            granted = await client.subscribe(f"{self.root}/reply", qos=1)  # waits for SUBACK
            if getattr(granted[0], "value", granted[0]) >= 128:
                raise aiomqtt.MqttError("SUBSCRIBE refused")

    async def close(self) -> None:
        client, self.client = self.client, None
        if client is not None:
            try:
                await client.__aexit__(None, None, None)
            except aiomqtt.MqttError:
                pass

    async def exchange(self, topic: str, write, takes) -> dict:
        """Send what `write(nonce)` says until a reply is one that `takes` returns something for; return that."""
        nonces, attempt = [], 0
        while True:
            nonce = b64(secrets.token_bytes(16))
            nonces = [*nonces, nonce][-4:]
            body = write(nonce)
            pause = random.uniform(0, min(self.times["longestPause"], self.times["firstPause"] * 2**attempt))
            attempt = min(attempt + 1, 16)
            try:
                await self.open()
                await self.client.publish(f"{self.root}/{topic}", json.dumps(body), qos=1)
                tell(f"{topic} {body['requestId']}")
                reply = await self.listen(self.times["reply"], body["requestId"], nonces)
                if reply is not None:
                    taken = takes(reply)
                    if taken is not None:
                        return taken
                    if isinstance(after := reply.get("retryAfter"), int) and 1 <= after <= 86400:
                        proved = self.keys.proves(reply)
                        # Who cannot prove itself may slow us down, but not for long.
                        pause = (after if proved else min(after, self.times["longestPause"])) * random.uniform(1, 1.5)
                        if proved:
                            attempt, nonces = 0, []  # what still comes for these is a repetition
                elif attempt > 1:
                    await self.close()  # a second silence: it may be open at this end only
            except (aiomqtt.MqttError, OSError) as error:
                tell(f"lost: {error}")
                await self.close()
            tell(f"pause {pause:.1f} s")
            if pause > 60:
                await self.close()
            await asyncio.sleep(pause)

    async def listen(self, seconds: float, request_id: str, nonces: list[str]) -> dict | None:
        """The next reply to one of our last messages; anything else is dropped."""
        try:
            async with asyncio.timeout(seconds):
                async for message in self.client.messages:
                    try:
                        reply = json.loads(message.payload)
                    except ValueError:
                        continue
                    if not isinstance(reply, dict) or reply.get("requestId") != request_id:
                        continue
                    if self.keys.shown or reply.get("nonce") in nonces:
                        return reply
        except TimeoutError:
            return None
        raise aiomqtt.MqttError("the connection is gone")

    def judge(self, reply: dict, *, offer: bool = False) -> dict | None:
        """What ends an exchange whoever asked: a proved refusal. In plain mode nothing is proved."""
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

    async def claim(self, request_id: str) -> dict:
        return await self.exchange(
            "request",
            lambda nonce: self.keys.claim(request_id, nonce),
            lambda reply: self.judge(reply, offer=True),
        )

    async def ack(self, credential: dict, result: str) -> dict:
        about = credential["requestId"], credential["generation"]
        return await self.exchange("ack", lambda nonce: self.keys.ack(about[0], nonce, about[1], result), self.judge)


def is_offer(body: object, device: dict, request_id: str) -> bool:
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


# --- the new identity -----------------------------------------------------------------------------


async def log_in(body: dict) -> None:
    """Connect to the device broker as the new identity and say hello; raises MqttCodeError if refused."""
    credential, url = body["credentials"], urlsplit(body["broker"]["url"])
    secure = url.scheme == "mqtts"
    tls = ssl.create_default_context(cadata=body["broker"].get("ca")) if secure else None
    login = {"username": credential["username"], "password": credential["password"]}
    port = url.port or (8883 if secure else 1883)
    identity = {"identifier": credential["clientId"], **login, "tls_context": tls, "socket_options": NO_DELAY}
    async with aiomqtt.Client(url.hostname, port, **identity) as client:
        for may in body["topics"]["publish"][:1]:
            await client.publish(may.replace("#", "hello").replace("+", "hello"), "hello", qos=1)


async def try_login(body: dict, times: dict) -> bool:
    """False only when the device broker itself said no three times; an absent one says nothing about the credential."""
    refused = unreached = 0
    while refused < 3 and unreached < 3:
        try:
            await log_in(body)
        except (aiomqtt.MqttError, OSError) as error:
            if isinstance(error, aiomqtt.MqttCodeError) and getattr(error.rc, "value", error.rc) in CONNECT_REFUSED:
                refused += 1
            else:
                unreached += 1
            tell(f"no login: {error}")
            await asyncio.sleep(random.uniform(0, times["firstPause"] * 2 ** (refused + unreached - 1)))
        else:
            tell("logged in")
            return True
    return refused < 3


async def main(directory: Path) -> None:
    storage = Storage(directory)
    credential = storage.load()
    while not (credential and credential.get("confirmed")) and "password" in storage.device:
        session = Provisioning(storage.device)
        try:
            if credential is None:
                credential = await session.claim(f"r-{secrets.token_hex(4)}")
                storage.store(credential)
                tell(f"stored generation {credential['generation']}")
            result = "stored" if await try_login(credential, session.times) else "failed"
            reply = await session.ack(credential, result)
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
            await session.close()
    if credential is None:
        raise Stopped("there is neither a credential nor a provisioning login")
    while not await try_login(credential, {"firstPause": 5}):
        pass
    tell("online")


if __name__ == "__main__":
    try:
        asyncio.run(main(Path(sys.argv[1])))
    except Stopped as stop:
        tell(f"stopped: {stop}")
        sys.exit(3)
