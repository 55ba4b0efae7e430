"""The pytest plug-in: a running provisioner, requests, devices, fleets and bad networks for other projects' tests.

1. It costs nothing where it is not used: everything heavy is imported by the fixture that needs it.
2. The service runs in this process on a thread of its own, on free loopback ports, over a temporary data directory; one
   for the whole session. Everything here may be called from plain tests and from tests under any event loop.
3. Requests get client ids of their own unless a test names one, so tests do not meet each other.
4. The service's log goes to the logger `provisioner`, where pytest shows it with a test that failed; a project that
   has configured structlog itself keeps its configuration.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import secrets
import threading
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar
from urllib.parse import quote

import pytest

if TYPE_CHECKING:
    from broker.cli.client import Api
    from broker.datadir import Running
    from broker.fleet.roads import Roads
    from broker.fleet.scenario import Scenario
    from broker.fleet.swarm import Tally
    from broker.fleet.unit import Outcome

T = TypeVar("T")

_START_TIME = 60.0
_CALL_TIME = 600.0
_AT_ONCE = 16

CERTIFICATE: Mapping[str, Any] = {"credentialKind": "x509", "provisionSecureURL": True}
"""What a request for a certificate says: `provision_request(**CERTIFICATE)`."""


@dataclass(frozen=True)
class Provisioner:
    """A running service. Addresses are `host:port`; `user` and `password` are the login that devices start with.

    `http` is the operator API's URL, `token` its bearer token.
    """

    endpoint: str
    device_broker: str
    http: str
    user: str
    password: str = field(repr=False)
    token: str = field(repr=False)
    data_dir: Path
    loop: asyncio.AbstractEventLoop = field(repr=False)
    api: Api = field(repr=False)

    def get(self, path: str, **parameters: Any) -> Any:
        """Answer of the operator API; what it refuses is raised with its own words."""
        return self.wait_for(self.api.get(path, **parameters))

    def post(self, path: str, body: Mapping[str, object] | None = None) -> Any:
        """The same for POST."""
        return self.wait_for(self.api.post(path, body))

    def wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        """Run something on the service's loop; `api` is to be awaited there."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(_CALL_TIME)


@dataclass(frozen=True)
class ProvisionRequest:
    """A permission for one device: what its firmware has to know besides the provisioner's `user` and `password`."""

    client_id: str
    activation_key: str = field(repr=False)
    id: int
    provisioner: Provisioner = field(repr=False)

    def fields(self) -> dict[str, Any]:
        """The request as the operator API shows it now."""
        found: dict[str, Any] = self.provisioner.get(self._path)
        return found

    @property
    def phase(self) -> str:
        """Where it is: PENDING, OFFERED, CONFIRMED and so on."""
        return str(self.fields()["phase"])

    def do(self, verb: str) -> dict[str, Any]:
        """`enable`, `disable`, `reopen`, `stop`, `revoke` or `rotate` it."""
        done: dict[str, Any] = self.provisioner.post(f"{self._path}/{verb}", {})
        return done

    @property
    def _path(self) -> str:
        return f"/v2/provisionRequests/{self.id}"


@dataclass(frozen=True)
class Faults:
    """A bad network between devices and the service, for `device` and `fleet`; or for your own firmware: `endpoint`."""

    endpoint: str
    roads: Roads = field(repr=False)

    @property
    def toll(self) -> Mapping[str, int]:
        """What it did so far: connections by fate (`reset`, `dribble` …), messages `lost`, `doubled`, `overtaken`."""
        toll = self.roads.toll
        return {str(fate): count for fate, count in toll.connections.items()} | dict(toll.packets)


@dataclass(frozen=True)
class Device:
    """A simulated device, fresh from the factory."""

    request: ProvisionRequest
    _claim: Callable[[], Outcome] = field(repr=False)

    def claim(self) -> Outcome:
        """Claim, store, log in, confirm. `is_confirmed`, `credential`, `reason` and `reply` tell how it ended."""
        return self._claim()


@pytest.fixture(scope="session")
def provisioner_settings() -> Mapping[str, str]:
    """Override this fixture to run the service with other settings, by name: `{"claim.confirm_time": "60"}`."""
    return {}


@pytest.fixture(scope="session")
def provisioner(
    provisioner_settings: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Provisioner]:
    """A running `Provisioner`, one for the session."""
    data_dir = tmp_path_factory.mktemp("provisioner") / "data"
    settings = {
        "endpoint.listen": "127.0.0.1:0",
        "endpoint.max_connections_per_source": "10000",
        "device_broker.listen": "127.0.0.1:0",
        "device_broker.tls_listen": "127.0.0.1:0",
        "http.listen": "127.0.0.1:0",
        **provisioner_settings,
        "data_dir": str(data_dir),
    }
    with _logged(), _Service(settings, data_dir) as service:
        yield service.provisioner


@pytest.fixture
def provision_request(provisioner: Provisioner) -> Callable[..., ProvisionRequest]:
    """`provision_request(client_id=None, *, account="default", coupling="STRICT", **fields)`: make a request.

    `fields` are those of `POST /v2/provisionRequests`.
    """
    return lambda *names, **fields: provisioner.wait_for(_make_request(provisioner, *names, **fields))


@pytest.fixture
def device(provisioner: Provisioner) -> Callable[..., Device]:
    """`device(request, *, mode="proof", mqtt="5", csr=False, through=None, patience=60)`: a device with its key.

    `mode` is plain, proof, ctr or hpke; with `csr` it claims a certificate (`credentialKind="x509"` in its request);
    `through` is a network of `faults`.
    """

    def make(request: ProvisionRequest, **how: Any) -> Device:
        return Device(request, lambda: provisioner.wait_for(_claim(provisioner, request, **how)))

    return make


@pytest.fixture
def fleet(provisioner: Provisioner) -> Callable[..., Tally]:
    """`fleet(count=None, *, scenario=None, through=None, **devices)`: let many devices claim; returns their `Tally`.

    `scenario` is a shipped one's name or a file; `devices` are members of its table `[devices]`.
    """

    def run(count: int | None = None, **how: Any) -> Tally:
        return provisioner.wait_for(_run_fleet(provisioner, count, **how))

    return run


@pytest.fixture
def faults(provisioner: Provisioner) -> Iterator[Callable[..., Faults]]:
    """`faults(seed=1, **shares)`: a bad network until the test ends; shares as in a scenario's table `[network]`."""
    opened: list[Faults] = []

    def make(seed: int = 1, **network: float) -> Faults:
        opened.append(provisioner.wait_for(_open_roads(provisioner, seed, network)))
        return opened[-1]

    yield make
    for one in opened:
        provisioner.wait_for(one.roads.__aexit__())


class _Service:
    """The service on its thread, from `__enter__` to `__exit__`."""

    def __init__(self, settings: Mapping[str, str], data_dir: Path) -> None:
        self._settings = settings
        self._data_dir = data_dir
        self._loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._started = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="provisioner", daemon=True)
        self.provisioner: Provisioner

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._started.wait(_START_TIME):
            raise RuntimeError("the provisioner does not start")
        if self._failure is not None:
            raise RuntimeError(f"the provisioner does not start: {self._failure}") from self._failure
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(_START_TIME)
        if self._failure is not None:
            raise RuntimeError("the provisioner failed") from self._failure

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._serve())
        except BaseException as error:  # noqa: BLE001  # it is raised where the tests run
            self._failure = error
        finally:
            self._started.set()

    async def _serve(self) -> None:
        import httpx2  # noqa: PLC0415  # rule 1

        from broker import app  # noqa: PLC0415  # rule 1
        from broker.cli.client import Api  # noqa: PLC0415  # rule 1

        async with app.served(self._settings) as running:
            token = (self._data_dir / "admin-token").read_text(encoding="utf-8").strip()
            headers = {"Authorization": f"Bearer {token}"}
            async with httpx2.AsyncClient(base_url=running.http, headers=headers, trust_env=False, timeout=30) as http:
                self.provisioner = self._told(running, token, Api(http))
                self._started.set()
                await self._stop.wait()

    def _told(self, running: Running, token: str, api: Api) -> Provisioner:
        user, password = (self._data_dir / "provision-login").read_text(encoding="utf-8").split("\n")[:2]
        return Provisioner(
            running.endpoint or "",
            running.device_broker or "",
            running.http,
            user,
            password,
            token,
            self._data_dir,
            self._loop,
            api,
        )


@contextmanager
def _logged() -> Iterator[None]:
    """See rule 4."""
    import structlog  # noqa: PLC0415  # rule 1

    from broker.log import hide_secrets  # noqa: PLC0415  # rule 1

    if structlog.is_configured():
        yield
        return
    structlog.configure(
        processors=[hide_secrets, structlog.stdlib.render_to_log_kwargs],
        logger_factory=lambda *_: logging.getLogger("provisioner"),
        wrapper_class=structlog.stdlib.BoundLogger,
    )
    yield
    structlog.reset_defaults()


_numbers = itertools.count(1)


async def _make_request(
    provisioner: Provisioner,
    client_id: str | None = None,
    *,
    account: str = "default",
    coupling: str = "STRICT",
    **fields: Any,
) -> ProvisionRequest:
    api = provisioner.api
    body: dict[str, Any] = {
        "accountId": (await api.get(f"/v2/accounts/{quote(account, safe='')}"))["id"],
        "clientId": client_id or f"dev-{next(_numbers)}-{secrets.token_hex(3)}",
        "provisionUserUsername": provisioner.user,
        "deviceCredentialsTight": coupling,
    }
    made = await api.post("/v2/provisionRequests", body | fields)
    return ProvisionRequest(made["clientId"], made.get("activationKey", ""), made["id"], provisioner)


async def _claim(
    provisioner: Provisioner,
    request: ProvisionRequest,
    *,
    mode: str = "proof",
    mqtt: str = "5",
    csr: bool = False,
    through: Faults | None = None,
    patience: float = 60.0,
) -> Outcome:
    from broker.fleet.actions import Identity, Mode, Options  # noqa: PLC0415  # rule 1
    from broker.fleet.device import Device as Simulated  # noqa: PLC0415  # rule 1
    from broker.fleet.flash import MemoryFlash  # noqa: PLC0415  # rule 1
    from broker.fleet.unit import Endpoint, Unit  # noqa: PLC0415  # rule 1

    identity = Identity(provisioner.user, provisioner.password, request.client_id, request.activation_key)
    simulated = Simulated(identity, Options(Mode(mode), csr=csr), MemoryFlash(), secrets.token_bytes)
    endpoint = Endpoint(_address(provisioner.endpoint), 5 if mqtt == "5" else 4)
    roads = None if through is None else through.roads
    return await Unit(simulated, endpoint, patience=patience, stubborn=through is not None, roads=roads).run()


async def _run_fleet(
    provisioner: Provisioner,
    count: int | None = None,
    *,
    scenario: str | None = None,
    through: Faults | None = None,
    **devices: Any,
) -> Tally:
    from broker.fleet.roads import Roads  # noqa: PLC0415  # rule 1
    from broker.fleet.scenario import Scenario, load  # noqa: PLC0415  # rule 1
    from broker.fleet.swarm import Swarm, Tally  # noqa: PLC0415  # rule 1
    from broker.fleet.unit import Endpoint  # noqa: PLC0415  # rule 1

    plan: Scenario = Scenario() if scenario is None else load(scenario)
    plan = plan.changed("devices", **devices, **({} if count is None else {"count": count}))
    identities = await _identities(provisioner, plan.devices.count, plan.devices.kinds)
    swarm = Swarm(
        Endpoint(_address(provisioner.endpoint)),
        concurrency=plan.devices.at_once or 2 * len(identities),
        patience=plan.devices.patience,
        blackout=plan.trouble.blackout or None,
    )
    if through is not None:
        return await swarm.live(plan.lots(identities, "prov/v1"), through.roads, Tally())
    async with Roads(plan.network.weather(plan.seed), to_device_broker=plan.network.device_broker) as roads:
        return await swarm.live(plan.lots(identities, "prov/v1"), roads, Tally())


async def _identities(provisioner: Provisioner, count: int, kinds: Sequence[str]) -> Sequence[Any]:
    """Requests for so many devices, a few at a time; `kinds` are dealt in turn."""
    from broker.fleet.actions import Identity  # noqa: PLC0415  # rule 1

    room = asyncio.Semaphore(_AT_ONCE)

    async def make(number: int) -> Identity:
        kind = kinds[number % len(kinds)]
        async with room:
            request = await _make_request(provisioner, **(CERTIFICATE if kind == "x509" else {}))
        return Identity(provisioner.user, provisioner.password, request.client_id, request.activation_key)

    return await asyncio.gather(*(make(number) for number in range(count)))


async def _open_roads(provisioner: Provisioner, seed: int, network: Mapping[str, float]) -> Faults:
    from broker.fleet.roads import Roads  # noqa: PLC0415  # rule 1
    from broker.fleet.scenario import Scenario  # noqa: PLC0415  # rule 1

    roads = Roads(Scenario().changed("network", **network).network.weather(seed))
    address = await roads.to_provisioner(_address(provisioner.endpoint))
    return Faults(f"{address.host}:{address.port}", roads)


def _address(text: str) -> Any:
    from broker.fleet.replies import Address  # noqa: PLC0415  # rule 1

    host, _, port = text.rpartition(":")
    return Address(host.strip("[]"), int(port))
