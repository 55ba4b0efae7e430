"""A device on a stage: the tests say what happens around it, and look at what it does."""

import random
from typing import Any

from broker.fleet.actions import Action, Connect, Disconnect, Identity, Login, Options, Publish, Step, Subscribe
from broker.fleet.device import Device
from broker.fleet.flash import Flash, MemoryFlash
from tests.broker.fleet import double


class Stage:
    """One device, its clock and what it asked for so far."""

    def __init__(self, options: Options | None = None, flash: Flash | None = None, seed: int = 1) -> None:
        self.now = 1000.0
        self.flash = flash or MemoryFlash()
        identity = Identity(double.USER, "provisioning-password", double.CLIENT_ID, double.KEY)
        self.device = Device(identity, options or Options(), self.flash, random.Random(seed).randbytes)
        self.log: list[Action] = []

    def start(self) -> "Stage":
        self.device.start(self.now)
        return self.settle()

    def settle(self) -> "Stage":
        """Do what the device wants as far as connections go; they always succeed."""
        while actions := self.device.take():
            self.log += actions
            for action in actions:
                if isinstance(action, Connect):
                    self.device.connected(self.now)
                elif isinstance(action, Subscribe):
                    self.device.subscribed(self.now)
        return self

    def receive(self, payload: bytes) -> "Stage":
        self.device.receive(payload, self.now)
        return self.settle()

    def answer(self, reason: str, **parts: Any) -> "Stage":
        """Reply to the last message."""
        return self.receive(double.reply(self.said, reason, **parts))

    def offer(self, **changes: Any) -> "Stage":
        return self.receive(double.offer(self.said, **changes))

    def wait(self, seconds: float | None = None) -> "Stage":
        """Let time pass: until the device is due, or so many seconds."""
        if seconds is None:
            assert self.device.due is not None
            seconds = self.device.due - self.now
        self.now += seconds
        self.device.tick(self.now)
        return self.settle()

    def let_in(self) -> "Stage":
        """The device broker accepts the login."""
        self.device.login_accepted(self.now)
        return self.settle()

    def turn_away(self) -> "Stage":
        """The device broker refuses the login."""
        self.device.login_refused(self.now, "bad user name or password")
        return self.settle()

    @property
    def published(self) -> list[Publish]:
        return [action for action in self.log if isinstance(action, Publish)]

    @property
    def said(self) -> dict[str, Any]:
        """The last message of the device."""
        return double.read(self.published[-1].payload)

    @property
    def logins(self) -> int:
        return sum(isinstance(action, Login) for action in self.log)

    @property
    def disconnects(self) -> int:
        return sum(isinstance(action, Disconnect) for action in self.log)

    @property
    def connects(self) -> int:
        return sum(isinstance(action, Connect) for action in self.log)

    @property
    def steps(self) -> list[str]:
        return [action.name for action in self.log if isinstance(action, Step)]

    @property
    def pause(self) -> float:
        """Seconds until the device does something by itself."""
        assert self.device.due is not None
        return self.device.due - self.now
