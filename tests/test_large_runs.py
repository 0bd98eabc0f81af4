"""Runs of very many steps: what must not take longer with each of them."""

from __future__ import annotations

from pikkupy.core.commands import Commands, Policy, StepCall
from pikkupy.core.model import StepKind
from pikkupy.engine.cut_offs import in_flight
from tests.store.samples import NOW


class Searched(list[int]):
    """A list that counts how often it is searched."""

    searches = 0

    def __contains__(self, position: object) -> bool:
        self.searches += 1
        return super().__contains__(position)


def test_what_a_crash_cut_off_is_found_in_one_pass() -> None:
    """However many steps nobody waits for any more."""
    policy = Policy(max_delay_us=0)
    calls = [StepCall(position=n, name=f"s{n}", kind=StepKind.INLINE, policy=policy) for n in range(10)]
    stopped = Searched(range(5))

    assert [call.position for call in in_flight(Commands(calls, stopped), {}, NOW)] == [5, 6, 7, 8, 9]
    assert stopped.searches == 0
