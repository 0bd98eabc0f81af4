"""`pikku run`: an engine as a process of its own, for production."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import logging
import os
import signal
import stat
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, suppress
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, cast

from cyclopts import Parameter

from pikkupy import Engine, Member, Pikku
from pikkupy.cli.exits import Exit, exit_of
from pikkupy.cli.given import check_duration
from pikkupy.cli.http import Http, Served
from pikkupy.cli.places import ENV
from pikkupy.cli.screen import say, words_of
from pikkupy.errors import BadValue, PikkuError
from pikkupy.log import logger
from pikkupy.plain import plain
from pikkupy.registry import Function, WorkflowFunction
from pikkupy.showing.words import clean

AppDir = Annotated[str | None, Parameter(help="Import from this folder, before what is installed.")]
BRIEF_GRACE = "1s"  # of an engine that ends with who has begun it
LEVELS = Literal["debug", "info", "warning", "error"]


async def run(
    target: Annotated[str, Parameter(name="TARGET", help="module:name of a Pikku, an engine, or what makes one.")],
    file: Annotated[
        str | None, Parameter(name="FILE", show_default=False, help=f"The journal, for a Pikku. Left out: {ENV}.")
    ] = None,
    /,
    *,
    app_dir: AppDir = None,
    durability: Annotated[Literal["full", "process"] | None, Parameter(help="[default: full]")] = None,
    grace: Annotated[str | None, Parameter(help="How long steps may go on when it ends. [default: 10s]")] = None,
    log: Annotated[Literal["json", "text"], Parameter(help="Lines on standard error.")] = "json",
    level: Annotated[LEVELS, Parameter(help="The least that is logged.")] = "info",
    http: Http = Http(),  # noqa: B008 - it is frozen
    ends_with_input: Annotated[
        bool,
        Parameter(
            negative="",
            show_default=False,
            help="End as well when standard input ends; the grace is 1s then, unless it is given.",
        ),
    ] = False,
) -> Exit:
    """Open an engine and keep it open, until SIGTERM or Ctrl-C.

    Then running steps get their time, and every unfinished run goes on the next time. A second signal ends it at once,
    which loses nothing that was recorded either.
    """
    # Who has begun it so is told the console's link through that input, if it is a socket: people are told by them.
    tell = _tell_beginner if ends_with_input else say if sys.stderr.isatty() else None
    usual = BRIEF_GRACE if ends_with_input else None
    if grace is not None:
        check_duration("--grace", grace)
    log_to_stderr(log, level)
    try:
        engine = engine_of(target, file, app_dir, durability=durability, grace=grace, usual_grace=usual)
        redact = None if http.redact is None else redacting(http.redact, app_dir)
        await _open_until_told(engine, http.served(engine, redact), tell, with_input=ends_with_input)
    except (PikkuError, OSError, RuntimeError) as error:
        code = exit_of(error)
        if log == "text" or code is Exit.USAGE:  # what is wrong with the command line is told before there is a log
            raise
        more = {"exception": error.lines} if isinstance(error, TheUsers) else {}
        logger().error("command_failed", error=words_of(error), exit_code=int(code), **more)
        return code
    return Exit.DONE


async def _open_until_told(
    engine: Engine | Member,
    served: AbstractAsyncContextManager[Served | None],
    tell: Callable[[str], None] | None,
    *,
    with_input: bool,
) -> None:
    ends = _asked_to_end(with_input=with_input)
    async with served as place, engine:  # while the engine is being left, who asks is told that it is not open
        if place is not None:
            place.log()
            if tell is not None and place.link is not None:
                tell(place.link)
        failure = asyncio.ensure_future(engine._failure()) if isinstance(engine, Engine) else None
        waiting = asyncio.ensure_future(ends.wait())
        await asyncio.wait([one for one in (waiting, failure) if one is not None], return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if failure is not None and failure.done():
            raise failure.result()
        if failure is not None:
            failure.cancel()


def _tell_beginner(link: str) -> None:
    with suppress(OSError):  # nobody listens any more
        if stat.S_ISSOCK(os.fstat(0).st_mode):
            os.write(0, f"{link}\n".encode())


def _asked_to_end(*, with_input: bool) -> asyncio.Event:
    """Set by the first signal, or when standard input ends; a second signal ends the process."""
    ends, loop, told = asyncio.Event(), asyncio.get_running_loop(), list[int]()

    def end(number: int) -> None:
        told.append(number)
        if len(told) > 1:
            os._exit(128 + number)
        ends.set()

    def hear() -> None:
        if not os.read(0, 4096):
            loop.remove_reader(0)
            ends.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(number, end, number)
        except NotImplementedError:  # Windows
            signal.signal(number, lambda found, _: loop.call_soon_threadsafe(end, found))
    if with_input:  # who has begun it holds the other end, and may be killed
        with suppress(NotImplementedError):  # Windows
            loop.add_reader(0, hear)
    return ends


def engine_of(
    target: str,
    file: str | None,
    app_dir: str | None,
    *,
    durability: str | None,
    grace: str | None,
    usual_grace: str | None = None,
) -> Engine | Member:
    """What the target means; `usual_grace` is that of an engine which has none of its own and was given none.

    Raises `BadValue` if it means nothing that can be run.
    """
    found = made_at(target, app_dir)
    settings: dict[str, Any] = {"durability": durability, "shutdown_grace": grace}
    settings = {name: value for name, value in settings.items() if value is not None}
    if isinstance(found, Engine | Member):
        if file is not None or settings:
            raise BadValue(f"{target} is an engine: it has its own file and settings; leave FILE and these options out")
        return found
    path = file or os.environ.get(ENV)
    if not path:
        raise BadValue(f"which journal? Name the FILE, or set {ENV}")
    if usual_grace is not None:
        settings = {"shutdown_grace": usual_grace, **settings}
    opened: Engine = found.open(path, **settings)
    return opened


def made_at(target: str, app_dir: str | None) -> Pikku | Engine | Member:
    """What the target is, or what the function there makes. Raises `BadValue` if that is nothing that can be run."""
    found, what = found_at(target, app_dir), ""
    if callable(found) and not isinstance(found, Pikku | Engine | Member):
        make = _maker(target, found)
        with _the_users(f"{target} makes nothing"):
            found = make()
        what = f"gives {type(found).__name__}"
    if not isinstance(found, Pikku | Engine | Member):
        raise no_pikku(target, what or f"is {type(found).__name__}")
    return found


def _maker(target: str, function: Any) -> Callable[[], Any]:
    """The function, if it can be called for a Pikku or an engine: what is there for something else is not called."""
    if isinstance(function, WorkflowFunction):
        raise no_pikku(target, "is a workflow")
    if isinstance(function, Function):
        raise no_pikku(target, "is a function of a Pikku")
    if isinstance(function, type):
        raise no_pikku(target, "is a class")
    if inspect.iscoroutinefunction(function):
        raise no_pikku(target, "is async")
    try:
        inspect.signature(function).bind()
    except ValueError:  # it has none that Python knows
        pass
    except TypeError:
        raise no_pikku(target, "takes arguments") from None
    made: Callable[[], Any] = function
    return made


def no_pikku(target: str, what: str) -> BadValue:
    """That the target is something else, with the Pikku of its module."""
    module = target.partition(":")[0]
    hint = next(
        (f", as {module}:{name} is" for name, one in vars(sys.modules[module]).items() if isinstance(one, Pikku)), ""
    )
    return BadValue(f"{target} {what}: use a Pikku{hint}")


def found_at(target: str, app_dir: str | None) -> Any:
    """The object that `module:name` means. Importing the module runs its code: that is the point.

    Raises `BadValue`, `PikkuError` for what its code raises, and `FileNotFoundError` for a folder that is not there.
    """
    module_name, separator, name = target.partition(":")
    if not separator or not module_name or not name:
        raise BadValue(f"{target!r}: use module:name, as in 'shop.workflows:pikku'")
    if app_dir is not None:
        if not os.path.exists(app_dir):  # noqa: PTH110 - of a text
            raise FileNotFoundError(f"--app-dir={app_dir!r}: it does not exist")
        sys.path.insert(0, os.path.abspath(app_dir))  # noqa: PTH100 - of a text
    with _the_users(f"{module_name} cannot be imported"):
        try:
            found: Any = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
                raise  # of the module itself
            hint = "" if app_dir is not None else "; --app-dir . looks in the folder that you are in"
            raise BadValue(f"there is no module {error.name!r}{hint}") from None
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise BadValue(f"{module_name} has no {name!r}") from None
    return found


class TheUsers(PikkuError):
    """Code of the application has raised something."""

    def __init__(self, what: str, lines: str) -> None:
        super().__init__(what)
        self.lines = lines
        """Of the traceback: its own alone."""


@contextmanager
def _the_users(what: str) -> Iterator[None]:
    """For code of the application: what goes wrong in it is told with its own lines. Raises `TheUsers` then."""
    try:
        yield
    except PikkuError:
        raise
    except Exception as error:  # noqa: BLE001 - whatever the code raises
        part = error.__traceback__
        while part is not None and part.tb_frame.f_globals.get("__name__", "").startswith((__name__, "importlib")):
            part = part.tb_next
        raise TheUsers(what, "".join(traceback.format_exception(type(error), error, part))) from None


def redacting(name: str, app_dir: str | None) -> Callable[[str], str]:
    """The function that takes secrets out. Raises as `found_at`."""
    function = found_at(name, app_dir)
    if not callable(function):
        raise BadValue(f"--redact: {name} is no function")
    return cast("Callable[[str], str]", function)


def log_to_stderr(form: str, level: str) -> None:
    """Let the process log: this is an application, not a library."""
    handler = logging.StreamHandler()
    handler.setFormatter(_Json() if form == "json" else _Text())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


class _Json(logging.Formatter):
    """A JSON document a line."""

    def format(self, record: logging.LogRecord) -> str:
        fields: dict[str, Any] = {"time": _time(record), "level": record.levelname.lower(), "logger": record.name}
        event = getattr(record, "pikku", None)
        fields |= {"event": record.getMessage()} if event is None else event
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(plain(fields), ensure_ascii=True)


class _Text(logging.Formatter):
    """For people."""

    def format(self, record: logging.LogRecord) -> str:
        text = f"{_time(record)} {record.levelname.lower():7} {clean(record.getMessage())}"
        return f"{text}\n{self.formatException(record.exc_info)}" if record.exc_info else text


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
