"""The commands' way to the operator API: one path, whether a server runs or not.

1. `--server` names a server; its token comes from `--token-file` or `PROVISIONER_TOKEN_FILE`, never from our own data
   directory: that token is for nobody else.
2. Otherwise the data directory decides: the server that runs on it over HTTP; where none runs, the same application in
   this process, over the same ledger.
3. The commands hold no rule: a refusal of the API is printed as it is.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeVar
from urllib.parse import quote, urlsplit

import typer

from broker.cli.output import Failed, Where, printable, read_secret
from broker.datadir import DataDir

if TYPE_CHECKING:
    import httpx2

T = TypeVar("T")

Server = Annotated[
    str | None, typer.Option(metavar="URL", help="Operator API to ask; default: the one of the data directory.")
]
TokenFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        envvar="PROVISIONER_TOKEN_FILE",
        help="The operator token; default: admin-token in the data directory.",
    ),
]
_SECONDS = 30.0
_IN_PROCESS = "in-process"


@dataclass(frozen=True, slots=True)
class Door:
    """Which operator API a command asks, as its options say."""

    where: Where
    server: str | None
    token_file: Path | None


class Api:
    """The operator API as the commands use it: JSON in and out, `Failed` for whatever is refused."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http

    async def get(self, path: str, **parameters: Any) -> Any:
        """Answer to GET; parameters that are None are left out."""
        return await self._ask("GET", path, params=present(parameters))

    async def post(self, path: str, body: Mapping[str, object] | None = None) -> Any:
        """Answer to POST."""
        return await self._ask("POST", path, json=body)

    async def put(self, path: str, body: Mapping[str, object]) -> Any:
        """Answer to PUT."""
        return await self._ask("PUT", path, json=body)

    async def upload(self, path: str, content: bytes, **parameters: Any) -> Any:
        """Answer to POST of a file."""
        headers = {"content-type": "application/octet-stream"}
        return await self._ask("POST", path, params=present(parameters), content=content, headers=headers)

    async def delete(self, path: str) -> Any:
        """Answer to DELETE."""
        return await self._ask("DELETE", path)

    async def follow(self, path: str, last_id: str | None, **parameters: Any) -> AsyncGenerator[Any]:
        """JSON of each server-sent event behind `last_id`, until the stream breaks off; `Failed` when refused."""
        import httpx2  # noqa: PLC0415  # --help does not wait for it

        if self._http.base_url.host == _IN_PROCESS:
            raise Failed("There is nothing to follow while no server runs: `provisioner serve` starts one.")
        headers = {"last-event-id": last_id} if last_id else {}
        async with self._http.stream(
            "GET", path, params=present(parameters), headers=headers, timeout=httpx2.Timeout(_SECONDS)
        ) as answer:
            if not answer.is_success:
                await answer.aread()
                raise Failed(self._refusal(answer, answer.json()))
            async for line in answer.aiter_lines():
                if line.startswith("data: "):
                    yield json.loads(line.removeprefix("data: "))

    async def account_id(self, name: str) -> int:
        """Id of the account with this name or id."""
        return int((await self.get(f"/v2/accounts/{quote(name, safe='')}"))["id"])

    async def with_names(self, entities: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """The same with the name of its account as `account`, which people know better than its id."""
        names = {one["id"]: one["name"] for one in (await self.get("/v2/accounts"))["account"]}
        return [one | {"account": names.get(one.get("accountId"), one.get("accountId"))} for one in entities]

    async def _ask(self, method: str, path: str, **more: Any) -> Any:
        import httpx2  # noqa: PLC0415  # --help does not wait for it

        server = printable(self._http.base_url)
        try:
            answer = await self._http.request(method, path, **more)
            said = answer.json() if answer.content else None
        except httpx2.TransportError as error:
            raise Failed(f"{server} does not answer: {str(error) or type(error).__name__}.") from error
        except ValueError as error:
            raise Failed(f"{server} does not speak JSON: is it a provisioner?") from error
        if answer.is_success:
            return said
        raise Failed(self._refusal(answer, said))

    def _refusal(self, answer: httpx2.Response, said: Any) -> str:
        problem = said if isinstance(said, dict) else {}
        other = f"{printable(self._http.base_url)} answers {answer.status_code}: is it a provisioner?"
        return str(problem.get("detail", other))


def present(values: Mapping[str, object]) -> dict[str, Any]:
    """`values` without those that are None."""
    return {name: value for name, value in values.items() if value is not None}


def ask(door: Door, work: Callable[[Api], Awaitable[T]]) -> T:
    """Run `work` with the API behind `door`."""

    async def run() -> T:
        async with _opened(door) as http:
            return await work(Api(http))

    return asyncio.run(run())


@asynccontextmanager
async def _opened(door: Door) -> AsyncIterator[httpx2.AsyncClient]:
    """A client of the operator API that `door` leads to."""
    if door.server is not None:
        if door.token_file is None:
            raise Failed("Name the file that holds the token for that server: --token-file FILE.")
        url, token = _checked(door.server), read_secret("Token", door.token_file)
        async with _client(url, token, trust_env=True) as http:
            yield http
        return
    from broker import app as root  # noqa: PLC0415  # as above

    settings = root.load(door.where.config, door.where.data_dir).settings
    directory = DataDir(settings.data_dir)
    token = read_secret("Token", door.token_file) if door.token_file else directory.load_secret("admin-token") or ""
    running = directory.running()
    if not token or not (running or directory.ledger.exists()):
        raise Failed(f"{settings.data_dir} is not prepared yet: `provisioner init` and `provisioner serve` do that.")
    if running is not None:
        async with _client(running.http, token) as http:
            yield http
        return
    from broker import log  # noqa: PLC0415  # a fifth of a second that nobody waits for above

    log.configure("warning", settings.log.format)  # to standard error: the results have standard output for themselves
    async with root.opened(settings) as application, _client(f"http://{_IN_PROCESS}", token, application) as http:
        yield http


def _client(url: str, token: str, application: Any = None, *, trust_env: bool = False) -> httpx2.AsyncClient:
    import httpx2  # noqa: PLC0415  # as above

    return httpx2.AsyncClient(
        base_url=url,
        headers={"Authorization": f"Bearer {token}"},
        transport=httpx2.ASGITransport(application) if application else None,
        verify=url.startswith("https"),  # loading the trusted roots takes longer than most calls
        trust_env=trust_env,
        timeout=_SECONDS,
    )


def _checked(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.username:
        raise typer.BadParameter("write it as http://HOST:PORT or https://HOST:PORT", param_hint="--server")
    return url


class SecretFile:
    """A file that a secret will be written to: made (0600) before it is asked for, gone when none came.

    What is shown once must not be lost to a full disk or a missing folder afterwards.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._written = False

    @property
    def wanted(self) -> bool:
        """Whether the operator named a file."""
        return self._path is not None

    def write(self, secret: str) -> None:
        """Write the secret, a line."""
        if self._path is not None:
            self._path.write_text(secret + "\n", encoding="utf-8")
            self._written = True

    def __enter__(self) -> Self:
        if self._path is not None:
            try:
                self._path.touch(mode=0o600, exist_ok=False)
            except FileExistsError:
                raise Failed(f"{self._path} exists already: name a new file.") from None
        return self

    def __exit__(self, *_: object) -> None:
        if self._path is not None and not self._written:
            self._path.unlink()
