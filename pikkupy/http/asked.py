"""A request as the handlers see it: with the engine that it is for, who has sent it, and what it says."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager, suppress
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias, TypeVar

import msgspec
from msgspec import UNSET
from starlette.requests import Request
from starlette.responses import Response

from pikkupy.control import Client
from pikkupy.engine import Engine, Run, WorkflowInfo
from pikkupy.errors import PayloadError, RunCancelled, RunFailed, WorkflowNotFound
from pikkupy.failures import safely
from pikkupy.http import bodies, kinds
from pikkupy.http.audit import AuditLines
from pikkupy.http.guard import BECOME_STREAM, ENDS, caller_in, quoted, segment
from pikkupy.http.limits import Rate, Streams, waits
from pikkupy.http.problems import CURE, Refused, response_to
from pikkupy.http.queries import headers_of, query_of
from pikkupy.http.shown import Shown
from pikkupy.http.tokens import Callers, Failures
from pikkupy.log import logger
from pikkupy.mounting import Caller, HttpConfig, Scope
from pikkupy.turns import Turns

_log = logger()

T = TypeVar("T")
Query = TypeVar("Query", bound=msgspec.Struct)
Steered: TypeAlias = Engine | Client  # or a `Look`, which has what they have to show; then nothing can be changed
Meet: TypeAlias = Callable[[], Awaitable[tuple[Steered, str | None]]]  # who answers now; if no engine does, why

LONGEST_WAIT_S = 60  # for the end of a run, in one request
END = ".end"  # of the id of the event that tells a run's end, which has no number of its own
NOBODY = Caller("nobody", Scope.READ)  # who has no token: looks whether the engine is well, or logs in
NOTED = 200  # characters of a text or value in an audit line


class Seen(NamedTuple):
    """What who listens has got already."""

    after: int | None
    end: bool = False
    """That of the run is among it."""


class Api:
    """What is there for all requests."""

    def __init__(
        self,
        engine: Steered,
        config: HttpConfig,
        callers: Callers,
        failures: Failures,
        audit: AuditLines,
        meet: Meet | None = None,
    ) -> None:
        self.callers = callers
        self.failures = failures
        self.engine = engine
        self.meet = meet
        self.config = config
        self.redact = safely(config.redact)
        self.shown = Shown(self.redact)
        self.starts = Rate(config.starts_per_second)
        self.streams = Streams(config.max_streams)
        self.waits = waits(config.max_requests)
        self.audit = audit


class Ask:
    """One request."""

    def __init__(self, api: Api, request: Request) -> None:
        self.api = api
        self.request = request
        self.engine = api.engine
        self.away: str | None = None
        self.shown = api.shown
        self.read_only = api.config.read_only
        self.made: str | None = None
        """The id of the run that it has made, for the audit line."""
        self.facts: dict[str, str | int] = {}
        """More for the audit line."""
        self._body: Any = UNSET
        self._form: dict[str, str] | None = None

    async def meet(self) -> None:
        """From now on ask whoever is there now."""
        if self.api.meet is not None:
            self.engine, self.away = await self.api.meet()

    # Who, and what about

    @cached_property
    def caller(self) -> Caller:
        """Whom the guard has let in, or `NOBODY`; who logs in is known from then on."""
        return caller_in(self.request.scope) or NOBODY

    @property
    def session(self) -> str:
        """Of the console's own, of a browser that has logged in there; empty for none."""
        return self.api.callers.session_in(self.request.headers, self.request.scope)

    @property
    def address(self) -> str:
        """Where it comes from."""
        client = self.request.client
        return "-" if client is None else client.host

    @property
    def base(self) -> str:
        """The path below which this application is mounted; empty for none."""
        base: str = self.request.scope.get("root_path", "")
        return base

    @property
    def ends(self) -> asyncio.Event:
        """Set when the server is about to end: no answer is to go on then."""
        ends: asyncio.Event | None = self.request.scope.get(ENDS)
        return asyncio.Event() if ends is None else ends

    @property
    def run_id(self) -> str:
        """In the path."""
        return self.segment("run_id")

    @property
    def workflow(self) -> str:
        """In the path."""
        return self.segment("workflow")

    def segment(self, name: str) -> str:
        """Another one of the path."""
        return segment(self.request.path_params[name])

    @property
    def wait_s(self) -> int | None:
        """Seconds that the client would wait for the end (RFC 7240); a preference that makes no sense is ignored."""
        for preference in self.request.headers.get("prefer", "").split(","):
            name, _, text = preference.partition(";")[0].strip().partition("=")
            text = text.strip().strip('"')
            if name.strip().lower() == "wait" and text.isascii() and text.isdigit() and len(text) <= 9:
                return min(int(text), LONGEST_WAIT_S)
        return None

    @property
    def last_seen(self) -> Seen:
        """Of a stream: `Last-Event-ID`, or the parameter `after`. Raises `Refused`."""
        parameter = self.query(kinds.ListenFrom).after
        place = headers_of(self.request, kinds.ListenHeaders).last_event_id
        if place is UNSET:
            place = parameter
        if place is UNSET:
            return Seen(None)
        number = place.removesuffix(END)
        return Seen(int(number), number != place)

    def key(self, run_id: str | None) -> str | None:
        """The id that a new run is to have: `run_id` from the body, or `Idempotency-Key`. Raises `Refused`."""
        key = headers_of(self.request, kinds.NewRunHeaders).idempotency_key
        if key is UNSET:
            return run_id
        if run_id is not None and key != run_id:
            raise Refused(
                422, "Unprocessable content", "`Idempotency-Key` and `id` are two names for one thing: give one"
            )
        return key

    def query(self, kind: type[Query]) -> Query:
        """The parameters. Raises `Refused`."""
        return query_of(self.request, kind)

    async def body(self, kind: type[T]) -> T:
        """As `kind`, always the same one. Raises `Refused`."""
        if self._body is UNSET:
            self._body = await bodies.read(self.request, self.api.config, kind)
        found: T = self._body
        return found

    async def form(self, *, most: int | None = None, longest_s: float | None = None) -> dict[str, str]:
        """The fields of a form; of one that came twice the last. Raises `Refused`.

        `most` bytes of it are read, for `longest_s`; left out: as of every body.
        """
        if self._form is None:
            self._form = await bodies.read_form(self.request, self.api.config, most=most, longest_s=longest_s)
        return self._form

    async def value(self) -> Any:
        """The body as any JSON value. Raises `Refused`."""
        return await bodies.read_value(self.request, self.api.config)

    def json(self, text: str) -> Any:
        """The value that a text means; none means `None`. Raises `Refused`."""
        return bodies.decoded(text.encode("utf-8", "surrogatepass"), self.api.config, object) if text.strip() else None

    # What it costs

    def take_start(self) -> None:
        """One of the new runs that the caller may start. Raises `Refused`."""
        self.api.starts.take(self.caller.name)

    def slot(self) -> AbstractContextManager[None]:
        """One of the streams that the caller may have open; of people who share a token each session has its own."""
        return self.api.streams.one(self.caller.name, self.session)

    def become_stream(self) -> None:
        """Take one of the places of streams, and leave that of a request to others. Raises `Refused`."""
        self.request.scope[BECOME_STREAM]()

    def wait(self) -> AbstractContextManager[None]:
        """One of the waits for the end of a run that the caller may have. Raises `Refused`."""
        return self.api.waits.one(self.caller.name)

    # What came of it

    def announce(self, action: str, **facts: str | int) -> None:
        """Record that it is about to be done: who, what, and from where. Raises `Refused` if that cannot be."""
        self.api.audit.add(**self._who(action), **facts, request=self._request_id)

    def audit(self, action: str, status: int, **facts: str | int) -> None:
        """A line of the log, and of the record: who, what, from where, and what came of it."""
        who = self._who(action)
        _log.info("http_action", **who, status=status, **facts)
        with suppress(Refused):  # it has been done, and the log says what
            self.api.audit.add(**who, status=status, **facts, request=self._request_id)

    def noted(self, value: Any) -> str:
        """What an audit line says of a user's text or value: its beginning, without what is hidden."""
        shown = self.shown.value(value)
        return (shown if isinstance(shown, str) else msgspec.json.encode(shown).decode())[:NOTED]

    def _who(self, action: str) -> dict[str, str]:
        return {"action": action, "by": self.caller.name, "address": self.address}

    @cached_property
    def _request_id(self) -> str:
        return str(uuid.uuid4())

    def problem(self, error: Exception) -> Response:
        """What is said of an error."""
        return response_to(error, self.api.redact, self.cure)

    @property
    def cure(self) -> str | None:
        """What helps if the engine is not open; `None` where the error says it all."""
        return CURE if self.api.meet is None else None

    def place(self, run_id: str) -> str:
        """Where the run is to be asked for."""
        return f"{self.base}/api/runs/{quoted(run_id)}"

    async def ended(self, run_id: str, wait_s: int) -> bool:
        """Wait for the end of the run; whether it came in time."""
        try:
            await self.result(run_id, wait_s)
        except (RunFailed, RunCancelled):
            pass
        except PayloadError:
            pass  # the class of its output is the engine's alone
        except TimeoutError:
            return False
        return True

    async def result(self, run_id: str, wait_s: int) -> Any:
        """As `RunHandle.result`; `TimeoutError` also when who has asked is gone, or the server goes."""
        handle = await self.engine.handle(run_id)
        ending = asyncio.ensure_future(handle.result(f"{wait_s}s"))
        leaving = [asyncio.ensure_future(self._left()), asyncio.ensure_future(self.ends.wait())]
        try:
            await asyncio.wait([ending, *leaving], return_when=asyncio.FIRST_COMPLETED)
            if not ending.done():
                raise TimeoutError(f"run {run_id!r} has not ended, and who has asked, or the server, is going")
            return ending.result()
        finally:
            for one in (ending, *leaving):
                one.cancel()
            await asyncio.wait([ending, *leaving])

    async def _left(self) -> None:
        """Return when who has asked has gone."""
        while (await self.request.receive())["type"] != "http.disconnect":
            pass  # what is left of a body

    async def workflow_named(self, name: str) -> WorkflowInfo:
        """A workflow that the engine has. Raises `WorkflowNotFound`."""
        known = {one.name: one for one in await self.engine.workflows()}
        if name not in known:
            listed = ", ".join(list(known)[:10]) + (", …" if len(known) > 10 else "")
            raise WorkflowNotFound(f"the engine has no workflow named {name!r}; it has: {listed or 'none'}")
        return known[name]

    async def run_now(self, run_id: str, status: int = 200, **headers: str) -> Response:
        """An answer with the run as it stands."""
        run: Run = await self.engine.get_run(run_id)
        return json_of(self.shown(run), status, {name.replace("_", "-"): text for name, text in headers.items()})


async def list_of(items: Iterable[T], told: Callable[[T], Any]) -> Response:
    """An answer with many values."""
    return json_of(await encoded(items, told))


async def encoded(items: Iterable[T], told: Callable[[T], Any]) -> msgspec.Raw:
    """Many values as a list in JSON: others on the loop have their turns while it is made."""
    body, turns = bytearray(b"["), Turns()
    for item in items:
        text = msgspec.json.encode(told(item))
        if len(body) > 1:
            body += b","
        body += text
        await turns.after(len(text))
    body += b"]"
    return msgspec.Raw(bytes(body))


def json_of(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """An answer with a value."""
    return Response(msgspec.json.encode(value), status, headers, "application/json")
