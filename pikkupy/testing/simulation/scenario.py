"""What a history depends on, and how one is drawn from a seed."""

from __future__ import annotations

import random

import msgspec

from pikkupy.testing.simulation.disk import PLACES, READ
from pikkupy.testing.simulation.programs import APPROVALS, LONGEST_US, SECOND, SIGNALS, STYLES, Generator, Node

FAULTS = ("crash", "power", "busy", "full", "io_error", "ghost", "back", "forward", "leave", "deploy", "read")
MOST_BACK = 4  # commits that a loss of power takes away as it is drawn
PATIENCE_US = (0, 0, 0, 0, 0, 100, 400, 700, 1_000, 1_500, 2_500)  # looking for a run, and a write, take 500 each
CHANGES = ("append", "insert", "rename", "remove", "swap", "missing")  # of code
_HITS = {  # places at which a fault can strike; of the others each, and any time
    "busy": ("before_begin",),
    "full": ("after_begin", "before_commit"),
    "io_error": ("after_begin", "before_commit"),
    "ghost": ("after_commit",),
    "read": (READ,),
}
_OFTEN = {
    "signal": 6,
    "approve": 2,
    "resume": 2,
    "cancel": 3,
    "retry": 2,
    "fork": 1,
    "accept": 1,
    "delete": 1,
    "prune": 1,
}
_ACTS = [does for does, times in _OFTEN.items() for _ in range(times)]


class Act(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that a person does at a time, in µs from the beginning."""

    at_us: int
    does: str  # start, signal, approve, resume, accept, cancel, retry, fork, delete, prune
    run: int  # number of the program
    name: str = ""
    deep: int = 0  # 0: to the run itself; n: to one of those below it
    delay_us: int = 0  # of a start
    twice: bool = False  # a signal that is sent twice
    patience_us: int = 0  # until the caller gives up; 0: never


class Fault(msgspec.Struct, frozen=True, omit_defaults=True):
    """Something that goes wrong, counted from the fault before it; `act`: a person acts in that very moment."""

    what: str  # one of `FAULTS`, or act
    place: str = ""  # of the disk; none: at a time
    after: int = 1  # passings of that place, or µs
    size: int = 0  # commits that power takes away; µs that the clock jumps; which part of a program changes
    run: int = 0  # number of the program whose code changes
    change: str = ""  # one of `CHANGES`


class Scenario(msgspec.Struct, frozen=True):
    """All that a history depends on."""

    seed: int
    programs: list[Node]
    acts: list[Act]
    faults: list[Fault]
    durability: str = "full"
    resident_runs: int = 1_000
    unload_after_us: int = 60 * SECOND
    max_cut_offs: int = 10


def draw(seed: int) -> Scenario:
    """The scenario of that seed."""
    rng = random.Random(seed)  # noqa: S311 - repeatable on purpose
    style = rng.choice((*STYLES, "families", "families"))
    programs = [Generator(rng, 14, style).program() for _ in range(rng.choice((1, 2, 3, 4)))]
    durability = rng.choice(("full", "full", "process"))
    size, crowd = rng.choice((4, 20, 40, 60)), rng.choice((2, 6, 12, 24))
    acts = [_start(rng, number) for number in range(len(programs))]
    acts += [_act(rng, len(programs)) for _ in range(rng.randint(0, crowd))]
    return Scenario(
        seed,
        programs,
        sorted(acts, key=lambda act: act.at_us),
        [_fault(rng, durability, len(programs)) for _ in range(size)],
        durability,
        rng.choice((0, 0, 0, 1, 2, 1_000)),
        rng.choice((0, 0, SECOND, 60 * SECOND)),
        rng.choice((2, 3, 10)),
    )


def _start(rng: random.Random, number: int) -> Act:
    delay_us = rng.choice((0,) * 6 + (SECOND, LONGEST_US))
    at_us = _while(rng, SECOND)
    return Act(at_us, "start", number, delay_us=delay_us, patience_us=_patience_us(at_us))


def _act(rng: random.Random, programs: int) -> Act:
    does = rng.choice(_ACTS)
    name = rng.choice(APPROVALS if does == "approve" else SIGNALS)
    deep = rng.choice((0, 0, 1, 2, 3))
    at_us, run = _while(rng, 2 * LONGEST_US), rng.randrange(programs)
    return Act(at_us, does, run, name, deep, twice=rng.random() < 0.2, patience_us=_patience_us(at_us))


def _patience_us(at_us: int) -> int:
    """By what was drawn already: another drawing would give every seed another history."""
    return PATIENCE_US[at_us % len(PATIENCE_US)]


def _fault(rng: random.Random, durability: str, programs: int) -> Fault:
    what = rng.choice(("crash",) * 24 + ("act",) * 5 + ("power",) * 3 + FAULTS[2:-1] + ("deploy", "read"))
    after, size = rng.choice((1, 1, 1, 2, 2, 3, 4, 6)), 0
    if what == "power" and durability == "process":
        size = rng.randint(0, MOST_BACK)
    elif what in ("back", "forward"):
        size = rng.choice((SECOND, LONGEST_US, 10 * LONGEST_US)) * (1 if what == "forward" else -1)
    elif what == "deploy":
        return Fault(what, *_when(rng, what, after), rng.randrange(8), rng.randrange(programs), rng.choice(CHANGES))
    elif what == "read":
        after *= rng.choice((1, 4, 12))  # the first ones bring runs into memory again
    return Fault(what, *_when(rng, what, after), size)


def _when(rng: random.Random, what: str, after: int) -> tuple[str, int]:
    if what not in _HITS and rng.random() < 0.2:
        return "", _while(rng, LONGEST_US)
    return rng.choice(_HITS.get(what, PLACES)), after


def _while(rng: random.Random, longest_us: int) -> int:
    """Any order of magnitude is as likely as another, from a tenth of a millisecond on."""
    return int(100 * (longest_us / 100) ** rng.random())
