"""The log: structlog over the stdlib logger `pikkupy`, which the application shows, filters or leaves alone.

Nothing is configured here for the application: neither structlog nor the root logger. A plain handler shows
`event key=value …`; a handler that wants fields finds them in `record.pikku`.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from typing import Any, NoReturn, TypeAlias, cast

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

Logger: TypeAlias = structlog.stdlib.BoundLogger

EVENTS: dict[str, str] = {
    "engine_opened": "An engine has opened its journal and taken up what was unfinished.",
    "engine_closed": "An engine was left in good order.",
    "folder_open_to_all": "Everybody can write the folder of the journal: anybody could put another file in its place.",
    "control_socket_missing": "There can be no control socket: nobody but the application itself reaches the engine.",
    "control_connection_refused": "Somebody who is not let in, or one client too many, has connected.",
    "control_call_failed": "A call of a client has failed in a way that is no answer: a defect of pikkupy.",
    "control_action": "A process has acted over the control socket, or tried to: what, where, who. The audit line.",
    "command_failed": "`pikku run` ends with this error, and this exit code.",
    "http_serving": "`pikku run --http` answers requests at this URL, and where its console is.",
    "http_action": "Somebody has acted over HTTP, or tried to: who, what, on which run, from where. The audit line.",
    "audit_lost": "What is to be recorded of an action could not be: it was not done, or has this `status`; and why.",
    "http_refused": "A request was not let in: a wrong token, or a page of another site.",
    "http_call_failed": "A request has failed in a way that is no answer: a defect; it was told the error_id alone.",
    "engine_given_up": "An engine whose journal has failed is left, so that it can be opened anew, here or elsewhere.",
    "engine_not_reached": "A process cannot talk to the engine of its file: why, and what helps; it is tried again.",
    "takeover_failed": "A process that was to be the next engine of a file could not open it; it is tried again.",
    "journal_waiting": "A commit waits for the disk or for another writer; nothing is lost, dispatching is paused.",
    "journal_resumed": "The journal goes on after it had to wait.",
    "journal_left_unclean": "The file could not be closed in good order; the next start looks at it as after a crash.",
    "journal_failed": "The journal cannot be written any more; the engine stops, and a restart goes by the file.",
    "run_started": "A run is on disk and begins.",
    "run_recovered": "A run that an earlier process left unfinished goes on.",
    "run_damaged": "What is recorded of a run is damaged, or cannot be decoded; it is left alone, the others go on.",
    "run_cut_off": "A crash had cut off an attempt of this run; a warning if it is not the first; too many suspend it.",
    "run_suspended": "A run is parked: by its own code, by a signal that it awaits, or because its code has changed.",
    "run_resumed": "A suspended run goes on.",
    "run_retried": "A failed run goes on from its failed step.",
    "run_forked": "A new run goes on from a point in the history of another one.",
    "run_completed": "A run has ended with a result.",
    "run_failed": "A run has ended with an error.",
    "run_cancelled": "A run was cancelled, by itself or from outside.",
    "run_not_pruned": "The file refuses to delete a run that could be deleted; the others go.",
    "runs_pruned": "`prune` has deleted runs that ended long ago.",
    "step_attempt_failed": "One attempt of a step has failed; retries may follow.",
    "step_retry_scheduled": "Another attempt of a step is due at a later time.",
    "step_abandoned": "An attempt did not end after it was asked to; it is left behind and its result does not count.",
    "emit_ignored": "A step emitted after its attempt had ended or was given up; that changes nothing.",
    "steps_unawaited": "A workflow returned before these steps had ended; they are cancelled.",
    "decision_refused": "A decision that came before it was asked for does not fit; the run goes on waiting for one.",
    "loop_blocked": "The event loop does not turn: the run and step that block it, and where their code stands.",
    "loop_free": "The event loop turns again after it was blocked.",
    "payload_large": "A value is larger than `warn_payload`; the journal is no blob store.",
    "worker_lost": "A worker process died while it ran an attempt; the attempt has failed.",
}
"""Every event that pikkupy logs by itself, and what it means."""

_STDLIB = logging.getLogger("pikkupy")
_STDLIB.addHandler(logging.NullHandler())  # without it, warnings of an unconfigured application go to stderr

_BARE = re.compile(r"[^\s\"'=\\]+")  # a value that can stand in a line without quotes


def logger(*, silent: Callable[[], bool] | None = None, redact: Callable[[str], str] | None = None) -> Logger:
    """A logger of the name `pikkupy`. While `silent` returns true it says nothing. Texts in it go through `redact`."""
    processors: list[Processor] = [structlog.stdlib.filter_by_level, _as_record]
    if redact is not None:
        processors.insert(1, _redacting(redact))
    if silent is not None:
        processors.insert(1, _unless(silent))
    wrapped = structlog.wrap_logger(_STDLIB, processors=processors, wrapper_class=_Guarded, context_class=dict)
    return cast(Logger, wrapped.bind())


class _Guarded(structlog.stdlib.BoundLogger):
    """A filter or handler of the application that raises takes nobody down who logs: stdlib's handlers do the same."""

    def _proxy_to_logger(self, method_name: str, event: str | None = None, *event_args: str, **event_kw: Any) -> Any:
        try:
            return super()._proxy_to_logger(method_name, event, *event_args, **event_kw)
        except Exception:  # noqa: BLE001 - whatever it is
            if logging.raiseExceptions and sys.stderr is not None:
                traceback.print_exc()
            return None


def _fields(*names: str) -> list[ContextVar[object]]:
    """structlog's own context variables of these names."""
    tokens = copy_context().run(structlog.contextvars.bind_contextvars, **dict.fromkeys(names, ""))
    return [tokens[name].var for name in names]


RUN_ID, WORKFLOW, STEP, ATTEMPT = _fields("run_id", "workflow", "step", "attempt")
"""Bound around user code: `structlog.contextvars.merge_contextvars` finds them in the application's own lines."""


def is_enabled_for_info() -> bool:
    """Whether a line at INFO would go anywhere: a look-up in the stdlib's cache."""
    return _STDLIB.isEnabledFor(logging.INFO)


def _unless(silent: Callable[[], bool]) -> Processor:
    def pass_or_drop(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
        if silent():
            _drop()
        return event_dict

    return pass_or_drop


def _redacting(redact: Callable[[str], str]) -> Processor:
    def redact_texts(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> EventDict:
        return {name: redact(value) if type(value) is str else value for name, value in event_dict.items()}

    return redact_texts


def _drop() -> NoReturn:
    raise structlog.DropEvent


def _as_record(_logger: WrappedLogger, _method: str, event_dict: EventDict) -> tuple[tuple[str], dict[str, Any]]:
    """The arguments for the stdlib logger: a finished message, and no arguments that could be formatted into it."""
    options: dict[str, Any] = {
        name: event_dict.pop(name) for name in ("exc_info", "stack_info") if event_dict.get(name) is not None
    }
    options["stacklevel"] = _frames_to_the_caller() + event_dict.pop("stacklevel", 1) - 1
    event = _formatted(event_dict.pop("event", None), event_dict.pop("positional_args", ()))
    words = [_printable(event), *(f"{_printable(str(key))}={_shown(value)}" for key, value in event_dict.items())]
    options["extra"] = {"pikku": {**event_dict, "event": event}}
    return (" ".join(words),), options


def _frames_to_the_caller() -> int:
    """How far the stdlib logger has to look up the stack for the line that logged."""
    depth = 0
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(("structlog.", __name__)):
        frame = frame.f_back
        depth += 1
    return depth


def _formatted(event: object, arguments: tuple[object, ...]) -> str:
    """`event % arguments`, as the stdlib does it; what cannot be formatted is shown unformatted."""
    text = _text(event)
    if not arguments:
        return text
    try:
        return text % arguments
    except Exception:  # noqa: BLE001 - a slip in a log line must not fail a step
        return " ".join([text, *map(_shown, arguments)])


def _shown(value: object) -> str:
    """`value` as one word of the line: in quotes and escaped when it is more than a word."""
    text = _text(value)
    if _BARE.fullmatch(text) and text.isprintable():
        return text
    return repr(text) if isinstance(value, str) else _printable(text)


def _text(value: object) -> str:
    try:
        return value if type(value) is str else str(value) if isinstance(value, str) else repr(value)
    except Exception as error:  # noqa: BLE001 - as above
        return f"<repr() of this {type(value).__name__} raised {type(error).__name__}>"


def _printable(text: str) -> str:
    """`text` with its control characters escaped: a log line stays one line."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
