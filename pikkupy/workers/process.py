"""The program of a worker process: takes requests from its engine until that hangs up."""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import runpy
import select
import sys
import threading
from types import ModuleType
from typing import Any, BinaryIO

import msgspec

from pikkupy.codec import Codec
from pikkupy.core.ports import Values
from pikkupy.errors import NonRetryableError, PayloadError, RegistrationError
from pikkupy.failures import describe
from pikkupy.log import logger
from pikkupy.services import bind_in_worker_process, enter, enter_run
from pikkupy.workers.messages import (
    LENGTH,
    NEWS,
    Application,
    Called,
    Main,
    Preparation,
    Registered,
    Reply,
    Request,
    find_function,
)
from pikkupy.workers.reporter import Reporter

_AGAIN = "__mp_main__"  # the name under which a main module is imported again, as multiprocessing calls it

_OF_MAIN = '"$t":"__main__:'  # in data that holds an instance of one of its classes; in a text, quotes are escaped


def main(requests: BinaryIO) -> None:
    """Serve the requests that come through the pipe, one after another."""
    if not (line := requests.readline()):
        return  # the engine is gone already
    application = msgspec.json.decode(line, type=Application)
    answers = _own_standard_streams()
    max_payload, warn_payload = map(int, sys.argv[1:])
    values = Codec(max_payload, warn_payload, _large)
    reporter = Reporter(answers, values)
    busy, alone = threading.Event(), threading.Event()
    threading.Thread(target=_watch, args=(requests, busy, alone), name="pikkupy engine", daemon=True).start()
    while (message := _next(requests)) is not None:
        busy.set()
        if alone.is_set():
            return
        answer = b""
        if message.startswith(NEWS):
            prepare(msgspec.msgpack.decode(message[len(NEWS) :], type=Preparation), application)
        else:
            request = msgspec.msgpack.decode(message, type=Request)
            answer = msgspec.msgpack.encode(perform(request, application, values, reporter))
        busy.clear()
        reporter.end(answer)


def prepare(preparation: Preparation, application: Application) -> None:
    """Import what the functions need. What is wrong with one is told when it is asked for, and meets that again."""
    for function in preparation.functions:
        with contextlib.suppress(BaseException):
            _find(function, None, application)


def perform(request: Request, application: Application, values: Values, reporter: Reporter) -> Reply:
    """Run the function that is asked for. Raises nothing."""
    enter_run(request.step.run_id, request.step.workflow, reporter)
    enter(request.step)
    try:
        function = _find(request.function, request.data, application)
        arguments = _arguments(request, function, values)
    except BaseException as error:  # noqa: BLE001 - as everything below: it is the attempt's failure
        return _failed(error, final=isinstance(error, PayloadError | RegistrationError))
    reporter.begin(request.step)
    try:
        value = function.fn(*arguments)
        if inspect.iscoroutine(value):
            value = asyncio.run(_caught(value))
            if isinstance(value, Reply):
                return value
    except BaseException as error:  # noqa: BLE001
        return _failed(error)
    try:
        return Reply(
            output=values.encode(value, function.result_type, what=f"output of step {request.step.step_name!r}")
        )
    except BaseException as error:  # noqa: BLE001
        return _failed(error, final=isinstance(error, PayloadError))


def _find(function: Called, data: str | None, application: Application) -> Registered:
    of_main = function.module == "__main__" or _OF_MAIN in (data or "")
    if of_main and function in application.functions:
        _import_main(application.main)
    return find_function(function, application)


async def _caught(coroutine: Any) -> Any:
    """Its value, or the reply that it failed: asyncio would raise SystemExit and KeyboardInterrupt through the loop."""
    try:
        return await coroutine
    except BaseException as error:  # noqa: BLE001
        return _failed(error)


def _failed(error: BaseException, *, final: bool = False) -> Reply:
    return Reply(error=describe(error), final=final or isinstance(error, NonRetryableError))


def _arguments(request: Request, function: Registered, values: Values) -> tuple[Any, ...]:
    services = bind_in_worker_process(request.step)
    if request.data is None:
        return (services,)
    what = f"data of step {request.step.step_name!r}"
    return services, values.decode(request.data, function.data_type, what=what)


def _own_standard_streams() -> BinaryIO:
    """Keep the pipe for answers; give the function an empty standard input, and stderr in place of stdout."""
    answers = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    try:
        os.dup2(2, 1)
    except OSError:  # the engine has no stderr
        os.dup2(nothing, 1)
    os.close(nothing)
    if sys.stdout is not None:
        sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    return answers


def _next(requests: BinaryIO) -> bytes | None:
    """The next message; None if the engine has hung up, also in the middle of one."""
    try:
        length = int.from_bytes(requests.read(LENGTH), "big")
        message = requests.read(length)
    except OSError:  # it has not read everything that it was sent
        return None
    return message if message and len(message) == length else None


def _watch(requests: BinaryIO, busy: threading.Event, alone: threading.Event) -> None:
    """On a thread, so that a busy process notices at once that its engine is gone: the run may go on elsewhere."""
    line = select.poll()
    line.register(requests, select.POLLHUP)
    line.poll()  # it ends when the engine hangs up, not when there is something to read
    alone.set()
    if busy.is_set():
        os._exit(1)


def _import_main(source: Main) -> None:
    """Import the program's main module again, under another name, so that it does not start the program again."""
    if _AGAIN in sys.modules:
        return
    if source.module is not None:
        content = runpy.run_module(source.module, run_name=_AGAIN, alter_sys=True)
    elif source.path is not None:
        content = runpy.run_path(source.path, run_name=_AGAIN)
    else:
        return
    again = ModuleType(_AGAIN)
    vars(again).update(content)
    _rename(list(content.values()))
    sys.modules["__main__"] = sys.modules[_AGAIN] = again


def _rename(defined: list[object]) -> None:
    """Classes go by their recorded names: what is `__main__.Order` for the engine must be that here, too."""
    for item in defined:
        if isinstance(item, type) and item.__module__ == _AGAIN:
            item.__module__ = "__main__"
            _rename(list(vars(item).values()))


def _large(what: str, size: int) -> None:
    logger().warning("payload_large", what=what, bytes=size)
