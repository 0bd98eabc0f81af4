"""In a worker process: what the function tells while it runs, on its way to the engine."""

from __future__ import annotations

import os
import threading
from typing import BinaryIO

import msgspec

from pikkupy.core.ports import Values
from pikkupy.progress import Progress
from pikkupy.services import CHUNK_OVERHEAD, StepContext
from pikkupy.workers.messages import NEWS, News, framed

MAX_WAITING = 1_000_000  # bytes that wait for the pipe before `emit` does, and that one message of news may have


class Reporter:
    """Gathers what is told, and sends it from a thread of its own as fast as the engine reads: many chunks at once when
    there are many, and of progress the latest. Everything is sent before the answer is."""

    def __init__(self, answers: BinaryIO, values: Values) -> None:
        self._answers = answers
        self._values = values
        self._pid = os.getpid()
        self._step: StepContext | None = None  # whose function runs
        self._sending = threading.Lock()  # held from taking news to having sent them
        self._changed = threading.Condition()  # guards what follows
        self._texts: list[str] = []
        self._waiting = 0  # bytes of them
        self._progress: Progress | None = None
        threading.Thread(target=self._report, name="pikkupy news", daemon=True).start()

    def begin(self, step: StepContext) -> None:
        """The function begins, which the engine is told by an empty message."""
        self._step = step
        self._send(b"")

    def end(self, answer: bytes) -> None:
        """Answer the request, after all that was told; what is told later, by what the function left behind, is not."""
        with self._changed:
            self._step = None
        self._send_news()
        self._send(answer)

    def emit(self, step: StepContext, value: object) -> None:
        """As `StepContext.emit`."""
        text = self._values.encode(value, what="chunk of step", name=step.step_name)
        if os.getpid() != self._pid:
            return  # a fork of the function's: the pipe is not its own
        with self._changed:
            while self._waiting > MAX_WAITING and step is self._step:
                self._changed.wait()
            if step is self._step:
                self._texts.append(text)
                self._waiting += len(text) + CHUNK_OVERHEAD
                self._changed.notify_all()

    def progress(self, step: StepContext, progress: Progress) -> None:
        """The step is that far."""
        if os.getpid() != self._pid:
            return
        with self._changed:
            if step is self._step:
                self._progress = progress
                self._changed.notify_all()

    def _report(self) -> None:
        """On the thread."""
        try:
            while True:
                with self._changed:
                    while not self._texts and self._progress is None:
                        self._changed.wait()
                self._send_news()
        except OSError:  # the engine is gone, and this process about to follow
            pass

    def _send_news(self) -> None:
        with self._sending:
            with self._changed:
                news = News(texts=self._texts, progress=self._progress)
                self._texts, self._waiting, self._progress = [], 0, None
                if news.texts:
                    self._changed.notify_all()  # `emit` waits for room only while there are texts
            if news.texts or news.progress is not None:
                self._send(NEWS + msgspec.msgpack.encode(news))

    def _send(self, message: bytes) -> None:
        self._answers.write(framed(message))
        self._answers.flush()
