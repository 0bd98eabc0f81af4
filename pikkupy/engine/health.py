"""What is well and what is not with a journal file, with a cure for each: facts in, findings out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from enum import StrEnum

import msgspec

from pikkupy.clock import SystemClock
from pikkupy.core.model import ParkedFor
from pikkupy.engine.replaying import Replayed
from pikkupy.moments import moment
from pikkupy.names import some
from pikkupy.store import RESTORE, Facts, facts_of

MEGABYTE = 1 << 20
LARGE_WAL = 256 * MEGABYTE  # a checkpoint cuts it to 64 MiB: one that is larger is not being emptied
LITTLE_SPACE, NO_SPACE = 1024 * MEGABYTE, 64 * MEGABYTE
SKEW_US = 1_000_000  # how far ahead a record may be, and
WRONG_US = 60_000_000  # from where on timers are late by more than anybody would overlook
MOST_UNREAD = 5  # runs that are told of one by one
WAL_RESET_CURED = (3, 51, 3)  # sqlite.org/wal.html#walresetbug


class Level(StrEnum):
    """How it stands with one thing."""

    OK = "ok"
    WARN = "warn"
    BAD = "bad"


class Check(msgspec.Struct, frozen=True):
    """One thing that was looked at."""

    name: str
    level: Level
    finding: str
    cure: str | None = None


async def examine(path: str, *, check: bool | None = None) -> list[Check]:
    """What there is to say of the file. `check` has each page and row looked at; by default if the file is not large.

    Raises `JournalNotFound`, `JournalFormatError` for what is no journal, `JournalError`.
    """
    now_us = SystemClock().now_us()
    return checks_of(await asyncio.to_thread(facts_of, path, now_us, check=check), now_us)


def checks_of(facts: Facts, now_us: int) -> list[Check]:
    """All that there is to say, in the order of the list below."""
    return [check for judge in _JUDGES for check in judge(facts, now_us)]


def _ok(name: str, finding: str) -> Check:
    return Check(name, Level.OK, finding)


def _warn(name: str, finding: str, cure: str) -> Check:
    return Check(name, Level.WARN, finding, cure)


def _bad(name: str, finding: str, cure: str) -> Check:
    return Check(name, Level.BAD, finding, cure)


def _file(facts: Facts, _: int) -> Iterator[Check]:
    yield _ok(
        "file",
        f"format {facts.format}, {_size(facts.page_size * facts.pages)} in {facts.pages:,} pages of "
        f"{_size(facts.page_size)}, {facts.unused_pages:,} of them unused, {facts.encoding}; "
        f"made {_time(facts.made_at)}",
    )
    yield _ok(
        "content",
        f"runs: {facts.runs:,}; steps: {facts.steps:,}; attempts with rows of their own: {facts.attempts:,}",
    )
    if facts.links > 1:
        yield _bad(
            "links",
            f"{facts.links} hard links, each of which would get a WAL and a lock of its own",
            "keep one of them, or use a copy",
        )


def _permissions(facts: Facts, _: int) -> Iterator[Check]:
    if facts.folder_mode & 0o002 and not facts.folder_mode & 0o1000:
        yield _bad(
            "permissions",
            f"everybody can write in the folder (mode {facts.folder_mode:o}), and put another file in its place",
            "take that away: chmod o-w",
        )
    elif facts.mode & 0o077:
        yield _warn("permissions", f"others than the owner can get at the file (mode {facts.mode:o})", "chmod 600")
    else:
        yield _ok("permissions", f"mode {facts.mode:o}")


def _owner(facts: Facts, _: int) -> Iterator[Check]:
    owner, opened = _who(facts), f"epoch {facts.epoch:,}"
    if facts.held:
        yield _ok("owner", f"held by {owner}; {opened}")
    elif facts.clean:
        yield _ok("owner", f"nobody; the last one left in good order: {owner}; {opened}")
    elif facts.held is None:
        yield _ok("owner", f"perhaps {owner}: this system does not tell who holds a lock; {opened}")
    else:
        yield _warn(
            "owner",
            f"nobody; the last one was cut off: {owner}; {opened}",
            "open an engine on it: it goes on with what was unfinished",
        )


def _sqlite(facts: Facts, _: int) -> Iterator[Check]:
    version = ".".join(map(str, facts.sqlite))
    if facts.sqlite < WAL_RESET_CURED:
        yield _warn(
            "sqlite",
            f"SQLite {version} has the WAL-reset bug: with two connections that write or checkpoint it can lose data",
            "let nothing but the engine write to the file (the engine itself has one such connection), "
            "or use SQLite 3.51.3 or newer",
        )
    else:
        yield _ok("sqlite", f"SQLite {version}")


def _filesystem(facts: Facts, _: int) -> Iterator[Check]:
    kind = facts.filesystem or "of an unknown type"
    if facts.network:
        yield _bad(
            "file system", f"{kind}, on a network: SQLite's shared memory does not work there", "use a local disk"
        )
    else:
        yield _ok("file system", kind)


def _space(facts: Facts, _: int) -> Iterator[Check]:
    finding = f"{_size(facts.free)} free"
    cure = "make space: writing pauses while the disk is full"
    if facts.free < NO_SPACE:
        yield _bad("space", finding, cure)
    elif facts.free < LITTLE_SPACE:
        yield _warn("space", finding, cure)
    else:
        yield _ok("space", finding)


def _wal(facts: Facts, _: int) -> Iterator[Check]:
    finding = f"{_size(facts.wal_size)}" if facts.wal_size else "empty"
    if facts.wal_size > LARGE_WAL:
        yield _warn(
            "wal",
            f"{finding}: it is not being emptied",
            "end what reads from the file without a pause, another program or a transaction left open",
        )
    else:
        yield _ok("wal", finding)


def _clock(facts: Facts, now_us: int) -> Iterator[Check]:
    ahead_us = facts.newest_at - now_us
    if ahead_us <= SKEW_US:
        yield _ok("clock", f"the newest record is of {_time(facts.newest_at)}" if facts.newest_at else "no record yet")
        return
    finding = f"the newest record is of {_time(facts.newest_at)}, {ahead_us / 1e6:,.0f} s ahead of this machine's clock"
    cure = "set the clock right: timers fire by it, and are late by that much"
    yield _bad("clock", finding, cure) if ahead_us > WRONG_US else _warn("clock", finding, cure)


def _pages(facts: Facts, _: int) -> Iterator[Check]:
    if facts.findings is None:
        yield _ok("pages", "not looked at; the file is large: use --check")
    elif facts.findings:
        yield _bad("pages", "; ".join(facts.findings), RESTORE)
    else:
        yield _ok("pages", "SQLite finds nothing wrong")


def _records(facts: Facts, _: int) -> Iterator[Check]:
    records = facts.records
    if records is None:
        yield _ok("records", "not looked at; the file is large: use --check")
    elif records.damaged:
        more = ", …" if records.damaged > len(records.first) else ""
        yield _bad(
            "records",
            f"{records.damaged:,} of {records.rows:,} rows are not what was written: {', '.join(records.first)}{more}",
            "restore the file from a backup; until then their runs do not go on, all others do",
        )
    else:
        yield _ok("records", f"all {records.rows:,} rows are what was written")


def _pragmas(facts: Facts, _: int) -> Iterator[Check]:
    mode = "WAL" if facts.wal_mode else "a rollback journal, until an engine opens it"
    vacuum = {0: "none", 1: "full", 2: "incremental"}[facts.auto_vacuum]
    yield _ok(
        "pragmas",
        f"of the file: journal mode {mode}, page size {_size(facts.page_size)}, auto-vacuum {vacuum}; "
        "set by the engine: synchronous FULL, or NORMAL with durability='process'",
    )


_PARKED: dict[ParkedFor, tuple[str, str]] = {
    ParkedFor.CODE: (
        "do not fit the code (ReplayMismatch), or it lacks a function of theirs",
        "`pikku runs show` says where they differ: bring that code back, or let them go on with the new one by "
        "`pikku runs resume --accept new`",
    ),
    ParkedFor.WORKFLOW: (
        "are of workflows that the application does not have",
        "open an engine that has them, and they go on; or cancel them",
    ),
    ParkedFor.CRASHES: (
        "were at work whenever the process died",
        "find out what kills it, and let them go on with `pikku runs resume`",
    ),
}


def _suspended(facts: Facts, _: int) -> Iterator[Check]:
    for parked in facts.parked:
        finding, cure = _PARKED[parked.why]
        yield _warn("suspended", f"{parked.count:,} suspended runs {finding}: {some(parked.first)}", cure)
    if not facts.parked:
        yield _ok("suspended", "no run is suspended by the engine itself")


def code_check(replayed: int, differ: Sequence[Replayed], unread: Sequence[str] = ()) -> Check:
    """How the unfinished runs go together with the code that they were replayed against.

    `unread` says of those that could not be replayed why: nobody knows whether they fit.
    """
    unfinished, findings = replayed + len(unread), list[str]()
    if not differ and not unread:
        return _ok("code", f"all {unfinished:,} unfinished runs fit it")
    if differ:
        names = some(one.run_id for one in differ)
        findings.append(f"{len(differ):,} of {unfinished:,} unfinished runs do not fit it: {names}")
    if unread:
        more = f"; and {len(unread) - MOST_UNREAD:,} more" if len(unread) > MOST_UNREAD else ""
        reasons = "; ".join(unread[:MOST_UNREAD])
        findings.append(f"{len(unread):,} of {unfinished:,} unfinished runs cannot be read: {reasons}{more}")
    return _bad(
        "code",
        "; ".join(findings),
        "do not deploy it before `pikku check --unfinished` finds nothing: it says where they differ",
    )


def _moves(facts: Facts, _: int) -> Iterator[Check]:
    if facts.lost:
        yield _bad(
            "next moves",
            f"nothing can wake these running runs: {', '.join(map(repr, facts.lost))}",
            "look at them with `pikku runs show`: their code waits for something that is no step; cancel them",
        )
    elif facts.overdue and facts.held:
        yield _warn(
            "next moves",
            f"{facts.overdue:,} runs should have gone on more than a minute ago",
            "look at the engine's process: it is stopped, or its event loop is blocked",
        )
    else:
        yield _ok("next moves", "every unfinished run has one")


_JUDGES: tuple[Callable[[Facts, int], Iterator[Check]], ...] = (
    _file,
    _permissions,
    _owner,
    _sqlite,
    _pragmas,
    _filesystem,
    _space,
    _wal,
    _clock,
    _pages,
    _records,
    _moves,
    _suspended,
)


def _size(size: int) -> str:
    amount = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:,.0f} {unit}" if amount == int(amount) else f"{amount:,.1f} {unit}"
        amount /= 1024
    return f"{amount:,.1f} TiB"


def _time(us: int) -> str:
    try:
        return moment(us).isoformat(" ", "seconds")
    except OverflowError:
        return f"{us} µs after 1970, which is no time"


def _who(facts: Facts) -> str:
    owner = facts.owner
    return "unknown" if owner is None else f"process {owner.pid} on {owner.host}, since {_time(owner.started_at)}"
