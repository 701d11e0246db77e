# SPDX-License-Identifier: GPL-2.0-only
"""The progress of work that takes longer than a second: its title, how much of it is done, and the
time elapsed and remaining.

It is shown on standard error, as a bar on a terminal and as lines in a pipe. The duration of each
kind of work is recorded as the estimate for the next run on this host. A board shows several
pieces of work, with a row for each.
"""

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from threading import Event, Thread

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from harness.host import past_runs
from harness.host.text import printable

_FIRST_LINE, _NEXT_LINE = 1.0, 10.0  # seconds to the first line in a pipe, and to the next

# Estimates for the first run on a host: the duration in seconds, on two cores from 2024, and the
# number of objects in a build.
_ESTIMATES = {
    "kernel build": (170.0, 1400),
    "kernel rebuild": (6.0, 0),
    "kernel source": (25.0, 0),
    "kernel configuration": (5.0, 0),
    "kernel install": (4.0, 0),
    "package lists": (8.0, 0),
    "guest packages": (6.0, 0),
    "initramfs": (4.0, 0),
}


def note(text: str) -> None:
    """Print a line for the user on standard error, above any bar."""
    print(printable(text), file=sys.stderr, flush=True)


class Phase:
    """A piece of work in progress. ``seconds`` is its estimated duration and ``total`` the number
    of its parts, 0 if unknown. Call ``step`` after each part."""

    def __init__(self, title: str, seconds: float, total: int) -> None:
        self.title = title
        self.done = 0
        self.started = time.monotonic()
        self._seconds = seconds
        self._total = total
        # Seconds per part in the last run.
        self._each = seconds / total if total else 0.0

    def expect(self, total: int) -> None:
        """Set the number of parts, once it is known. 0 discards the number of the last run."""
        self._total = total
        self._seconds = self._each * total

    def step(self) -> None:
        self.done += 1

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started

    @property
    def fraction(self) -> float:
        """The estimated fraction of the work that is done. It stays below 1 until the work ends."""
        if self._total:
            return min(self.done / self._total, 0.99)
        return min(self.elapsed / self._seconds, 0.99) if self._seconds else 0.0

    @property
    def remaining(self) -> str:
        """The estimated remaining time, as text."""
        if self._total and self.done >= (20 if self._each else 3):
            seconds = self.elapsed / self.done * (self._total - self.done)
        elif self._seconds:
            seconds = self._seconds - self.elapsed
        else:
            return "no estimate yet"
        if seconds <= 0:
            return "almost done"
        return f"about {_duration(seconds)} remaining"

    def line(self) -> str:
        count = f" {self.done}/{max(self._total, self.done)}" if self._total else ""
        return f"{self.title}:{count} {_duration(self.elapsed)} elapsed, {self.remaining}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.5), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


@contextlib.contextmanager
def phase(kind: str, title: str) -> Iterator[Phase]:
    """Show ``title`` and its progress while the block runs.

    If the block succeeds, record its duration under ``kind``, to estimate the next one. ``kind``
    is "KIND:DETAIL" if durations within a kind differ much.
    """
    seconds, total = _estimate(kind)
    current = Phase(title, seconds, total)
    with _boards[-1].showing(current) if _boards else _shown(current):
        yield current
    _record(kind, current)


@contextlib.contextmanager
def _shown(current: Phase) -> Iterator[None]:
    stop = Event()
    show = _bar if sys.stderr.isatty() else _lines
    thread = Thread(target=show, args=(current, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _lines(current: Phase, stop: Event) -> None:
    if stop.wait(_FIRST_LINE):
        return
    note(current.line())
    while not stop.wait(_NEXT_LINE):
        note(current.line())
    note(f"{current.title}: done in {_duration(current.elapsed)}")


def _bar(current: Phase, stop: Event) -> None:
    if stop.wait(0.3):
        return
    columns = (_text("{task.description}"), BarColumn(), _text("{task.fields[remaining]}"))
    console = Console(stderr=True)
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bars:
        task = bars.add_task(printable(current.title), total=1.0, remaining="")
        _redraw(bars, task, current)
        while not stop.wait(0.2):
            _redraw(bars, task, current)


def _text(form: str) -> TextColumn:
    """A column without markup, because titles contain text from users and patches."""
    return TextColumn(form, markup=False)


def _redraw(bars: Progress, task: TaskID, current: Phase) -> None:
    bars.update(task, completed=current.fraction, remaining=current.remaining)


class Row:
    """A row of a board, for one piece of work. ``phase`` is not None while the work is in
    progress. ``state`` is its result, or "waiting"."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.state = "waiting"
        self.phase: Phase | None = None
        self.seconds = 0.0

    def end(self, state: str) -> None:
        """Set the result, as one line."""
        self.state = state

    @property
    def text(self) -> str:
        """The progress of the work, or its state if it is not in progress."""
        return self.phase.line() if self.phase else self.state


class Board:
    """A display of several pieces of work, one of which is in progress at a time."""

    def __init__(self, titles: Sequence[str]) -> None:
        self.rows = [Row(title) for title in titles]
        self._current: Row | None = None

    @contextlib.contextmanager
    def row(self, title: str) -> Iterator[Row]:
        """While the block runs, show its phases in the row ``title``. Yields the row."""
        row = next(each for each in self.rows if each.title == title)
        started = time.monotonic()
        self._current = row
        try:
            yield row
        finally:
            row.seconds = time.monotonic() - started
            row.phase = self._current = None
        if row.seconds > _FIRST_LINE and not sys.stderr.isatty():
            note(f"{self._place(row)} {row.title}: {row.state}, {_duration(row.seconds)}")

    @contextlib.contextmanager
    def showing(self, phase: Phase) -> Iterator[None]:
        """Show ``phase`` in the current row while the block runs, and then the row's previous
        phase."""
        row = self._current
        if row is None:
            yield
            return
        outer, row.phase = row.phase, phase
        try:
            yield
        finally:
            row.phase = outer

    def line(self) -> str:
        """The current row, followed by the titles of the waiting rows. "" if no phase has been in
        progress for a second."""
        row = self._current
        if row is None or row.phase is None or row.phase.elapsed < _FIRST_LINE:
            return ""
        waiting = [each for each in self.rows if each.state == "waiting" and each is not row]
        rest = f"; then {', '.join(each.title for each in waiting)}" if waiting else ""
        return f"{self._place(row)} {row.text}{rest}"

    def _place(self, row: Row) -> str:
        return f"[{self.rows.index(row) + 1}/{len(self.rows)}]"


# Boards may nest. Phases are shown on the innermost.
_boards: list[Board] = []


@contextlib.contextmanager
def board(titles: Sequence[str]) -> Iterator[Board]:
    """Show one row for each title while the block runs, and yield the board. With fewer than two
    titles no board is shown, and each phase shows itself."""
    current = Board(titles)
    if len(titles) < 2:
        yield current
        return
    stop = Event()
    show = _board_rows if sys.stderr.isatty() else _board_lines
    thread = Thread(target=show, args=(current, stop), daemon=True)
    _boards.append(current)
    thread.start()
    try:
        yield current
    finally:
        stop.set()
        thread.join()
        _boards.remove(current)


def _board_lines(current: Board, stop: Event) -> None:
    interval = _FIRST_LINE
    while not stop.wait(interval):
        line = current.line()
        interval = _NEXT_LINE if line else _FIRST_LINE
        if line:
            note(line)


def _board_rows(current: Board, stop: Event) -> None:
    columns = (_text("{task.description}"), BarColumn(20), _text("{task.fields[text]}"))
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks = [bars.add_task(printable(row.title), total=1.0, text="") for row in current.rows]
        while True:
            for task, row in zip(tasks, current.rows, strict=True):
                done = row.phase.fraction if row.phase else float(row.state != "waiting")
                bars.update(task, completed=done, text=printable(row.text))
            if stop.wait(0.2):
                return


# The table with the seconds and the number of parts of the last run, by kind of work.
_DURATIONS = "durations"


def _estimate(kind: str) -> tuple[float, int]:
    last = past_runs.read(_DURATIONS).get(kind)
    if isinstance(last, list) and len(last) == 2:
        return float(last[0]), int(last[1])
    return _ESTIMATES.get(kind.partition(":")[0], (0.0, 0))


def _record(kind: str, current: Phase) -> None:
    # A short duration is due to a warm cache, and does not predict the next run.
    seconds, total = _estimate(kind)
    if current.elapsed < seconds / 4 or current.done < total / 2:
        return
    past_runs.add(_DURATIONS, kind, [round(current.elapsed, 1), current.done])
