"""The defects: each one change of one place, of a kind that a careless hand could make."""

from __future__ import annotations

from pathlib import Path

import msgspec


class Defect(msgspec.Struct, frozen=True):
    """A change of one file of `pikkupy/` that breaks a promise."""

    name: str
    file: str
    before: str  # occurs once in the file
    after: str
    tests: str  # files of `tests/`, or tests in them, that should notice it soonest

    def apply(self, folder: Path) -> None:
        """Make the change in the copy of the project in `folder`. Raises `ValueError` if its place is not there."""
        path = folder / "pikkupy" / self.file
        text = path.read_text()
        if text.count(self.before) != 1:
            raise ValueError(f"{self.name}: {self.file} has {text.count(self.before)} of {self.before!r}, not one")
        path.write_text(text.replace(self.before, self.after))


QUICK = (
    "release before commit",
    "one retry too few",
    "unordered replay",
    "early timer",
    "drop the epoch check",
    "swallow an I/O error",
    "skip the checksum",
    "start after cancel",
    "no round trip",
    "forget signals at start-up",
)

DEFECTS = (
    # Writing
    Defect(
        "release before commit",
        "store/journal.py",
        "        self._committer.submit(Logical(ops, done))",
        "        self._committer.submit(Logical(ops, bool))\n        self._loop.call_soon(done, None)",
        "store/test_committer.py::test_the_next_transaction_is_written_while_the_loop_tells_of_the_last",
    ),
    Defect(
        "drop the shield of an opening",
        "store/journal.py",
        "return await asyncio.shield(opening)",
        "return await opening",
        "field_bugs/test_cancels.py",
    ),
    Defect(
        "drop the shield of an end",
        "engine/residents.py",
        "move = await asyncio.shield(over)",
        "move = await over",
        "contract/test_cancel.py",
    ),
    Defect("no transaction", "store/writer.py", 'db.execute("BEGIN IMMEDIATE")', "pass", "store/test_committer.py"),
    Defect(
        "each change for itself",
        "store/plan.py",
        "range(0, len(ops), MAX_ROWS):\n        part = ops[first : first + MAX_ROWS]",
        "range(len(ops)):\n        part = ops[first : first + 1]",
        "store/test_plan.py",
    ),
    Defect(
        "write a batch twice",
        "store/committer.py",
        "first = len(self._untold)",
        "first = 0",
        "store/test_committer.py",
    ),
    Defect(
        "swallow an I/O error",
        "store/writer.py",
        "if code in _STOP or isinstance(error, Stop | MemoryError)",
        "if isinstance(error, Stop | MemoryError)",
        "store/test_committer.py",
    ),
    Defect(
        "take an I/O error for a pause",
        "store/writer.py",
        "_PAUSE = frozenset({sqlite3.SQLITE_FULL,",
        "_PAUSE = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_FULL,",
        "store/test_committer.py disk/test_disk.py::test_errors_of_the_disk",
    ),
    Defect(
        "take a full disk for a refusal", "store/writer.py", "{sqlite3.SQLITE_FULL, ", "{", "store/test_committer.py"
    ),
    Defect(
        "stop for a foreign lock",
        "store/writer.py",
        "sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})",
        "sqlite3.SQLITE_LOCKED})\n_STOP |= {sqlite3.SQLITE_BUSY}",
        "test_simulation.py::test_an_engine_that_stops_for_what_passes_is_found",
    ),
    Defect(
        "drop the epoch check",
        "store/writing.sql",
        "WHERE new.epoch IS NOT (SELECT epoch FROM pikkupy_journal)",
        "WHERE new.epoch IS NULL",
        "store/test_committer.py",
    ),
    Defect(
        "one bad change fails its neighbours",
        "store/writer.py",
        "return self._in_halves(db, batch) if len(batch) > 1 else Written([self._refusal(error)])",
        "return Written([self._refusal(error)] * len(batch))",
        "store/test_committer.py",
    ),
    Defect(
        "leave a transaction open", "store/writer.py", "            _roll_back(db)\n", "", "store/test_committer.py"
    ),
    Defect(
        "a final step changes in silence",
        "store/writing.sql",
        "never changes') WHERE changes() = 0",
        "never changes') WHERE changes() < 0",
        "store/test_committer.py",
    ),
    Defect(
        "move a run whatever it is",
        "store/writing.sql",
        "WHERE number = new.c1 AND status = new.c2;",
        "WHERE number = new.c1;",
        "store/test_journal.py",
    ),
    Defect(
        "skip the checksum",
        "store/rows.py",
        "intact = checksum(columns) == recorded",
        "intact = True",
        "store/test_journal.py",
    ),
    Defect("no lock", "store/owner.py", "lock.acquire(blocking=False)", "pass", "store/test_open.py"),
    Defect(
        "a file that others can read",
        "store/owner.py",
        "FILE_MODE = 0o600",
        "FILE_MODE = 0o644",
        "security/test_permissions.py",
    ),
    Defect(
        "leave in good order after an error",
        "store/journal.py",
        "        if self.failure is not None and not lost:\n            # The reader goes last",
        "        if self.failure is None and not clean:\n            # The reader goes last",
        "store/test_committer.py",
    ),
    Defect(
        "tell of a journal's end in any order",
        "store/committer.py",
        "take = self._queue.popleft",
        "take = self._queue.pop",
        "store/test_committer.py",
    ),
    Defect(
        "take a place while the run leaves memory",
        "engine/active.py",
        "        self._stay()\n        self._seq += 1",
        "        self._seq += 1",
        "test_resting.py",
    ),
    Defect(
        "a workflow that is gone is noticed when its runs wake",
        "engine/missing.py",
        "    await _see_to(host, residents, places, AT_ONCE)\n    if places:\n",
        "    if not places:\n",
        "contract/test_missing.py",
    ),
    Defect(
        "who has its workflow again waits for its time",
        "engine/missing.py",
        "return [_Place(workflow, None)]",
        "return []",
        "contract/test_missing.py",
    ),
    Defect(
        "come into memory after a failure",
        "engine/residents.py",
        "        if self._host.journal.failure is not None:\n            return  # it was read before",
        "        if not self._host.journal:\n            return  # it was read before",
        "test_leaving.py",
    ),
    # Steps and attempts
    Defect(
        "one retry too few",
        "core/decide.py",
        "failures > policy.retries",
        "failures >= policy.retries",
        "contract/test_retries.py",
    ),
    Defect(
        "one retry too many",
        "core/decide.py",
        "failures > policy.retries",
        "failures > policy.retries + 1",
        "contract/test_retries.py",
    ),
    Defect(
        "no delay between attempts",
        "core/decide.py",
        "RetryAt(now_us + wait_us(policy, failures + 1, fraction))",
        "RetryAt(now_us)",
        "contract/test_retries.py",
    ),
    Defect(
        "double the delay too early",
        "core/retry.py",
        "min(attempt - 2, 63)",
        "min(attempt - 1, 63)",
        "contract/test_retries.py",
    ),
    Defect(
        "charge what was cut off",
        "core/decide.py",
        "Run(max(attempts, 1) if status is StepStatus.RUNNING else attempts + 1)",
        "Run(attempts + 1)",
        "contract/test_retries.py",
    ),
    Defect("ignore retry_if", "engine/live.py", "final=not wanted", "final=False", "contract/test_retries.py"),
    Defect(
        "run at_most_once again",
        "engine/active.py",
        "elif step.status is StepStatus.RUNNING and call.policy.at_most_once:",
        "elif step.status is StepStatus.FAILED and call.policy.at_most_once:",
        "test_crash.py::test_an_at_most_once_attempt_that_a_crash_cut_off_is_not_run_again",
    ),
    Defect(
        "begin at_most_once before its start is on disk",
        "engine/active.py",
        "elif not step.call.policy.at_most_once:",
        "elif step.call.kind is not StepKind.WORKFLOW:",
        "test_crash.py::test_an_at_most_once_attempt_that_a_crash_cut_off_is_not_run_again",
    ),
    Defect(
        "start after cancel",
        "engine/active.py",
        "return self.host.dispatching and not self.ending and self.steps.get(step.call.position) is step",
        "return self.host.dispatching",
        "contract/test_cancel.py::test_a_failed_attempt_that_was_on_its_way_to_the_disk_is_not_retried_after_a_cancel",
    ),
    Defect(
        "record a result that comes too late",
        "engine/active.py",
        "elif step.call.position not in self._execution.open:  # the workflow",
        "elif step.call.position < 0:  # the workflow",
        "contract/test_cancel.py",
    ),
    Defect(
        "count no crashes",
        "engine/active.py",
        "if worst.cut_offs >= self.host.config.max_cut_offs:",
        "if worst.cut_offs < 0:",
        "test_crash_loops.py",
    ),
    Defect(
        "a time-out that nobody minds",
        "workers/loop_attempts.py",
        "        if self.timed_out and not self.over:",
        "        if self.timed_out and self.over:",
        "workers/test_loop.py",
    ),
    Defect(
        "more attempts at once than there are slots",
        "workers/lanes.py",
        "return not self.waiting and len(self.running) < self.limit",
        "return not self.waiting",
        "workers/test_loop.py",
    ),
    # Replay
    Defect(
        "unordered replay",
        "core/history.py",
        '        self.events.sort(key=attrgetter("seq"))\n',
        "",
        "test_replay_property.py",
    ),
    Defect(
        "take any step for the recorded one",
        "core/decide.py",
        "(recorded.kind, recorded.name, recorded.target) == (asked.kind, asked.name, asked.target)",
        "recorded.kind == asked.kind",
        "contract/test_changed_code.py",
    ),
    Defect(
        "miss steps that are not asked for",
        "core/decide.py",
        "    if not missing:\n        return None\n    row",
        "    if True:\n        return None\n    row",
        "contract/test_changed_code.py",
    ),
    Defect(
        "take the new way where the old one was gone",
        "execution/execution.py",
        "self._history.last_position >= self.reached",
        "self._history.last_position > self.reached + 1_000",
        "contract/test_again.py",
    ),
    Defect(
        "no round trip",
        "codec/__init__.py",
        "        if packer.classes:\n",
        "        if not packer:\n",
        "test_codec.py",
    ),
    Defect(
        "values of any size",
        "codec/__init__.py",
        "        if len(data) > self.max_payload:",
        "        if len(data) < 0:",
        "test_codec.py",
    ),
    # Timers
    Defect(
        "early timer",
        "timers.py",
        "due_us > self._clock.now_us()",
        "due_us > self._clock.now_us() + 50_000",
        "contract/test_time.py",
    ),
    Defect(
        "timers in any order",
        "timers.py",
        "return (self.due_us, self.order) < (other.due_us, other.order)",
        "return (self.due_us, -self.order) < (other.due_us, -other.order)",
        "contract/test_time.py",
    ),
    Defect(
        "a sleep that begins again",
        "engine/active.py",
        "        if step.wake_at is not None:\n            self._await_waking(step)\n            return\n",
        "",
        "contract/test_time.py",
    ),
    Defect(
        "an asyncio timer before its delay",
        "engine/own_timers.py",
        "max(armed.due_us, now_us + armed.delay_us)",
        "armed.due_us - armed.delay_us",
        "test_engine.py",
    ),
    # Signals, gates, approvals
    Defect(
        "take a signal in another commit",
        "engine/signals.py",
        "run.host.now_us()), (signal,), then)",
        "run.host.now_us()), (), then)",
        "contract/test_signals.py",
    ),
    Defect(
        "the last signal first",
        "engine/inbox.py",
        "for place, row in enumerate(kept):",
        "for place, row in reversed(list(enumerate(kept))):",
        "contract/test_signals.py",
    ),
    Defect(
        "a signal for a wait of another name",
        "engine/inbox.py",
        "kept = self._kept.get(name, ())",
        "kept = self._kept.get(name) or next(filter(None, self._kept.values()), ())\n"
        "        name = kept[0].name if kept else name",
        "test_simulation.py::test_a_signal_for_a_wait_of_another_name_is_found",
    ),
    Defect(
        "a late signal hides one in time",
        "engine/inbox.py",
        "                return row\n        return None",
        "                return row\n            break\n        return None",
        "contract/test_signals.py",
    ),
    Defect(
        "forget signals at start-up",
        "engine/active.py",
        "self.inbox = Inbox(recorded.signals)",
        "self.inbox = Inbox()",
        "contract/test_signals.py",
    ),
    Defect(
        "take a late decision",
        "engine/signals.py",
        "    if step is None and name in run.approvals:",
        "    if step is None and not name:",
        "contract/test_signals.py",
    ),
    Defect(
        "a gate that stays shut in the status",
        "engine/gates.py",
        "if run.parked is not None or reason != run.reason:",
        "if run.parked is not None or (reason and reason != run.reason):",
        "contract/test_signals.py",
    ),
    # Children
    Defect(
        "children outlive their steps",
        "engine/active.py",
        "        child_steps.cancel(self, step, why, changes, then)\n",
        "",
        "contract/test_children.py",
    ),
    Defect(
        "an attempt of a child under the old id",
        "engine/children.py",
        'return _bounded(first if attempt == 1 else f"{first}#{attempt}")',
        "return _bounded(first)",
        "contract/test_children.py",
    ),
    Defect(
        "adopt children that nobody waits for",
        "engine/residents.py",
        "return recorded.parent is not None and not recorded.awaited and recorded.run.alone_since is None",
        "return recorded.parent is not None and recorded.run.number < 0",
        "contract/test_left_children.py",
    ),
    Defect(
        "a cancel that stops at the file",
        "engine/residents.py",
        "        family = [child.number for child in await self._unfinished_children(number)]\n",
        "        family: list[int] = []\n",
        "contract/test_children.py",
    ),
    # Runs
    Defect(
        "one id, two inputs",
        "engine/starts.py",
        "    if existing.input != text:",
        "    if not existing.input:",
        "contract/test_running.py",
    ),
    Defect(
        "two starts at once, two runs",
        "engine/starts.py",
        "pending = self._pending.get(run_id)  # looked",
        "pending = None  # looked",
        "contract/test_running.py",
    ),
    Defect(
        "delete what still runs",
        "store/writing.sql",
        "        AND own.status IN ('completed', 'failed', 'cancelled')\n",
        "",
        "store/test_journal.py",
    ),
    Defect(
        "forget who leaves memory",
        "engine/active.py",
        "            self.host.write([RunWakes(number=self.run.number, wakes_at=None)])\n",
        "",
        "test_resting.py",
    ),
    Defect(
        "a look that passes by",
        "engine/waker.py",
        "            self._again = True  # the present",
        "            self._again = False  # the present",
        "test_resting.py",
    ),
    Defect(
        "a fork with what came later",
        "engine/again.py",
        "step.position < place and step.seq is not None",
        "step.seq is not None",
        "contract/test_again.py",
    ),
    Defect(
        "a fork without the signal before its first step",
        "engine/signals.py",
        "            run.next_seq()  # its outcome does not follow",
        "            # its outcome does not follow",
        "contract/test_again.py",
    ),
    Defect(
        "forget a retried run that has not begun",
        "engine/acting.py",
        "await residents.load(number, begins=True)",
        "await residents.load(number)",
        "contract/test_again.py",
    ),
    Defect(
        "retry what had succeeded",
        "engine/again.py",
        "if step.status is StepStatus.FAILED and (step.name in names or (step.seq or 0) > seen)",
        "if step.status in (StepStatus.FAILED, StepStatus.SUCCEEDED)",
        "contract/test_again.py",
    ),
    Defect(
        "leave once what does not stop has stopped",
        "workers/workers.py",
        "await self._until_empty(self._cancel_grace_us / 1e6)",
        "await self._until_empty(self._cancel_grace_us)",
        "test_simulation.py::test_an_engine_that_is_left_late_is_found",
    ),
    Defect(
        "notice a clock that was set after a day",
        "timers.py",
        "LONGEST_NAP_S = 1.0",
        "LONGEST_NAP_S = 86_400.0",
        "test_simulation.py::test_a_timer_that_oversleeps_is_found",
    ),
    Defect(
        "tell of a gate before it is on disk",
        "engine/active.py",
        "            self.host.write([], self._gate_is_on_disk)\n",
        "            self._gate_is_on_disk()\n",
        "test_events.py",
    ),
    # What the simulator finds by what it knows from outside
    Defect(
        "tell of a resume before it is on disk",
        "engine/gates.py",
        "    run.land_all(rows, run.moved(RunEvent.RESUME, None), done)\n",
        "    run.land_all(rows, run.moved(RunEvent.RESUME, None), bool)\n    run.host.loop.call_soon(done, None)\n",
        "test_simulated_oracle.py",
    ),
    Defect(
        "half the time of an attempt",
        "workers/attempts.py",
        "self._arm(self.call.policy.timeout_us, self._time_out)",
        "self._arm(self.call.policy.timeout_us // 2, self._time_out)",
        "test_simulated_oracle.py",
    ),
    Defect(
        "another decision",
        "engine/signals.py",
        "decision_text(run.host.values, decision, decided_by,",
        "decision_text(run.host.values, not decision, decided_by,",
        "test_simulated_oracle.py",
    ),
    Defect(
        "errors without their messages",
        "store/rows.py",
        "return None if error is None else msgspec.json.encode(error).decode()",
        'return None if error is None else msgspec.json.encode(msgspec.structs.replace(error, message="")).decode()',
        "test_invariants.py",
    ),
    # What nobody waits for any more, and what nobody has told
    Defect(
        "end an action with its caller",
        "engine/residents.py",
        "return await asyncio.shield(task)",
        "return await task",
        "contract/test_cancelled_callers.py",
    ),
    Defect(
        "go on after a look that failed",
        "engine/waker.py",
        "        if error is not None:  # nothing would wake",
        "        if error is None:  # nothing would wake",
        "test_failed_reads.py",
    ),
    Defect(
        "begin what waits after the journal has stopped",
        "workers/workers.py",
        "self._premises.held = True",
        "self._premises.held = False",
        "test_leaving.py",
    ),
    Defect(
        "write what was to be taken when the journal stopped",
        "store/committer.py",
        "        if self._refusal is not None:\n            self._writing = False\n",
        "        if self._refusal is not None and not self._queue:\n            self._writing = False\n",
        "store/test_committer.py",
    ),
    Defect(
        "leave memory on an older write",
        "engine/active.py",
        "if self.resting is not rests or self.ending:",
        "if self.resting is None or self.ending:",
        "test_resting.py",
    ),
    Defect(
        "forget a start that was about to be made when the clock was set back",
        "engine/residents.py",
        "await self._take_in(recorded, begins=True)",
        "await self._take_in(recorded)",
        "test_simulation.py::test_a_history_that_broke_a_promise_once_breaks_none",
    ),
    # Secrets
    Defect(
        "a text that fits every place",
        "encryption.py",
        'return key.encode() + b"\\0" + context.binding()',
        "return key.encode()",
        "security/test_encryption.py",
    ),
    Defect(
        "errors as they are",
        "engine/host.py",
        "        return Failed(redacted(failed.error, self.redact), failed.exception, failed.final)",
        "        return failed",
        "security/test_redaction.py",
    ),
)
