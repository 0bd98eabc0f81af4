"""Every knob of an engine, in one frozen record, each with its unit, its default and the reason for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypedDict

import msgspec

from pikkupy.durations import Duration, named_microseconds
from pikkupy.errors import BadType, BadValue
from pikkupy.payloads import PayloadCodec

_COUNTS = (
    "max_payload",
    "warn_payload",
    "max_stream",
    "async_workers",
    "thread_workers",
    "process_workers",
    "max_cut_offs",
)


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one engine: `pikku.open(path, config=Config(...))` or the same names as keyword arguments.

    Raises `ValueError` (`DurationError` for a duration) on a value that makes no sense.
    """

    durability: Literal["full", "process"] = "full"
    """`full`: what is acknowledged survives loss of power (`synchronous=FULL`, one sync per group of commits).
    `process`: it survives the death of the process; loss of power may take back the newest commits."""

    database_thread: bool = True
    """Whether a thread of its own writes the file. `False`, with `durability="process"` alone: the event loop does,
    which saves the way there and back between one step and the next. It stands still meanwhile: for tens of
    microseconds per commit, for milliseconds when many runs commit together or with large values, and at each
    checkpoint, every 8 MB, for as long as the disk takes to write and sync those. A `payload_codec` works there too."""

    max_payload: int = 2_000_000
    """Bytes that one encoded value may have; beyond it `PayloadError`. 2 MB is Temporal's limit for one payload."""

    warn_payload: int = 262_144
    """Bytes from which a value is logged as large: the journal is no blob store. 256 KiB, as Temporal warns."""

    max_stream: int = 64_000_000
    """Bytes of emitted chunks, with 500 for each beside its value, that may wait for the disk: what bounds the memory
    of steps that emit faster than that. Beyond it `emit` waits, or raises `StreamFull` where nothing can wait."""

    async_workers: int = 1_000
    """Attempts of `async` functions and inline steps that run at once on the event loop; the rest wait their turn."""

    thread_workers: int = 32
    """Threads for `def` functions; CPython's own default pool has `min(32, cpus + 4)`."""

    process_workers: int = 2
    """Worker processes for `worker="process"` functions: one per core of a small machine."""

    spare_processes: int = 1
    """Processes that stand ready, beside the `process_workers`, for when one of those dies: a start with its imports
    takes a third of a second or more. Each takes the memory of one more process, 25 MB and what the application's
    imports take. None is started before a function has begun in a worker process. 0: whoever needs the place of a dead
    process waits for a start."""

    shutdown_grace: Duration = "10s"
    """How long running steps may go on when the engine is left, in real time; Kubernetes kills after 30 s."""

    cancel_grace: Duration = "5s"
    """How long a step that was asked to stop may take before it is abandoned and its late result kept out."""

    show_running_after: Duration = "100ms"
    """An attempt that lasts longer gets a `running` row, so that other readers of the file can see it."""

    watchdog_after: Duration | None = "1s"
    """How long the event loop may stand still, in real time, before the log names the code that blocks it: a second is
    felt by whoever waits for the application, and no short step takes it. `None` or 0: nobody watches."""

    max_cut_offs: int = 10
    """Start-ups in a row that may find a run cut off in the same step before the run is suspended: a step that
    kills the process must not kill it for ever."""

    resident_runs: int = 1_000
    """Runs that may be in memory before those that only wait leave it (about 5 kB each); 0: they leave at once. A run
    that was left out is replayed when it is woken."""

    unload_after: Duration = "1min"
    """A run whose next timer is nearer than this stays in memory in any case: a replay would cost more."""

    payload_codec: PayloadCodec | None = None
    """What users' values go through on their way to the file and back, to be encrypted or compressed; `None`: anybody
    who can read the file can read them. `pikkupy.encryption.AesGcm` encrypts."""

    control_socket: bool = True
    """Whether `Pikku.connect` can reach the engine from other processes of the same user: it listens on a Unix socket
    beside the file, of mode 0600. There values are plain, whatever the `payload_codec`."""

    redact: Callable[[str], str] | None = None
    """What messages and tracebacks of errors go through before they are recorded, told to the workflow and logged, and
    every text in the engine's own log lines: it takes secrets out. It may see a text more than once, on any thread; if
    it raises, the text is left out. `None`: they stay as they are."""

    def __post_init__(self) -> None:
        self._check_writing()
        for name in _COUNTS:
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise BadValue(f"{name}={value!r}: use a whole number of 1 or more")
        for name in ("spare_processes", "resident_runs"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise BadValue(f"{name}={value!r}: use a whole number of 0 or more")
        for name in ("shutdown_grace", "cancel_grace", "show_running_after", "unload_after"):
            named_microseconds(name, getattr(self, name))
        for name in ("encode", "decode") if self.payload_codec is not None else ():
            if isinstance(self.payload_codec, type) or not callable(getattr(self.payload_codec, name, None)):
                raise BadType(f"payload_codec={self.payload_codec!r}: use an object with encode and decode, or None")
        for name in ("database_thread", "control_socket"):
            if not isinstance(getattr(self, name), bool):
                raise BadType(f"{name}={getattr(self, name)!r}: use True or False")
        if self.redact is not None and not callable(self.redact):
            raise BadType(f"redact={self.redact!r}: use a function from text to text, or None")
        if self.watchdog_after is not None:
            named_microseconds("watchdog_after", self.watchdog_after)

    def _check_writing(self) -> None:
        if self.durability not in ("full", "process"):
            raise BadValue(f"durability={self.durability!r}: use 'full' or 'process'")
        if self.database_thread is False and self.durability == "full":
            raise BadValue(
                "database_thread=False: goes with durability='process' alone; with 'full' the event loop would stand "
                "still for the sync of each commit"
            )


class Settings(TypedDict, total=False):
    """The fields of `Config` as keyword arguments of `Pikku.open`; a test keeps the two equal."""

    durability: Literal["full", "process"]
    database_thread: bool
    max_payload: int
    warn_payload: int
    max_stream: int
    async_workers: int
    thread_workers: int
    process_workers: int
    spare_processes: int
    shutdown_grace: Duration
    cancel_grace: Duration
    show_running_after: Duration
    watchdog_after: Duration | None
    max_cut_offs: int
    resident_runs: int
    unload_after: Duration
    payload_codec: PayloadCodec | None
    control_socket: bool
    redact: Callable[[str], str] | None
