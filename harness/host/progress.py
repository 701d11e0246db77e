# SPDX-License-Identifier: GPL-2.0-only
"""Progress of whatever takes longer than two seconds: what, how far, how long still.

A bar on a terminal, plain lines in a pipe; both on standard error. How long a
phase takes is remembered from its last time on this host. Several pieces of work
share a board, with a row for each.
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

_PLAIN_FIRST, _PLAIN_EVERY = 1.0, 10.0  # seconds to the first line in a pipe, and between

# First times on a host: seconds on two cores of 2024, and objects of a build.
_FIRST_TIME = {
    "kernel build": (170.0, 1400),
    "kernel rebuild": (6.0, 0),
    "kernel source": (25.0, 0),
    "kernel configuration": (5.0, 0),
    "kernel install": (4.0, 0),
    "package lists": (8.0, 0),
    "guest packages": (6.0, 0),
    "initramfs": (4.0, 0),
}


def say(text: str) -> None:
    """One line for the user, above any bar."""
    print(printable(text), file=sys.stderr, flush=True)


class Phase:
    """One piece of work under way; ``step`` when a part of it is done."""

    def __init__(self, title: str, seconds: float, total: int) -> None:
        self.title = title
        self.done = 0
        self.started = time.monotonic()
        self._seconds = seconds
        self._total = total
        # What a part took the last time.
        self._each = seconds / total if total else 0.0

    def expect(self, total: int) -> None:
        """Of how many parts the work is, once that is known; 0 until it is, where the last
        time says nothing of this one."""
        self._total = total
        self._seconds = self._each * total

    def step(self) -> None:
        self.done += 1

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started

    @property
    def fraction(self) -> float:
        """Of the whole, as far as the last time tells; never quite one."""
        if self._total:
            return min(self.done / self._total, 0.99)
        return min(self.elapsed / self._seconds, 0.99) if self._seconds else 0.0

    @property
    def left(self) -> str:
        """Time still to go, in words."""
        if self._total and self.done >= (20 if self._each else 3):
            seconds = self.elapsed / self.done * (self._total - self.done)
        elif self._seconds:
            seconds = self._seconds - self.elapsed
        else:
            return "no telling yet how long"
        if seconds <= 0:
            return "any moment"
        return f"about {_words(seconds)} left"

    def line(self) -> str:
        count = f" {self.done}/{max(self._total, self.done)}" if self._total else ""
        return f"{self.title}:{count} {_words(self.elapsed)} gone, {self.left}"


def _words(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.5), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


@contextlib.contextmanager
def phase(kind: str, title: str) -> Iterator[Phase]:
    """Shows ``title`` until the block ends. ``kind`` is what its duration is
    remembered under, "KIND:WHICH" where that differs much; it is remembered only
    when the block succeeds."""
    seconds, total = _remembered(kind)
    current = Phase(title, seconds, total)
    with _boards[-1].showing(current) if _boards else _shown(current):
        yield current
    _remember(kind, current)


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
    if stop.wait(_PLAIN_FIRST):
        return
    say(current.line())
    while not stop.wait(_PLAIN_EVERY):
        say(current.line())
    say(f"{current.title}: {_words(current.elapsed)}")


def _bar(current: Phase, stop: Event) -> None:
    if stop.wait(0.3):
        return
    columns = (_text("{task.description}"), BarColumn(), _text("{task.fields[left]}"))
    console = Console(stderr=True)
    with Progress(*columns, TimeElapsedColumn(), console=console, transient=True) as bars:
        task = bars.add_task(printable(current.title), total=1.0, left="")
        _redraw(bars, task, current)
        while not stop.wait(0.2):
            _redraw(bars, task, current)


def _text(form: str) -> TextColumn:
    """Titles come from users and patches: nothing in them is markup."""
    return TextColumn(form, markup=False)


def _redraw(bars: Progress, task: TaskID, current: Phase) -> None:
    bars.update(task, completed=current.fraction, left=current.left)


class Row:
    """One of several pieces of work: ``phase`` while it is under way, ``state`` what
    came of it."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.state = "waiting"
        self.phase: Phase | None = None
        self.seconds = 0.0

    def end(self, state: str) -> None:
        """What came of it, in a line."""
        self.state = state

    @property
    def text(self) -> str:
        """Where it is, in words."""
        return self.phase.line() if self.phase else self.state


class Board:
    """The display of several pieces of work, one of them under way at a time."""

    def __init__(self, titles: Sequence[str]) -> None:
        self.rows = [Row(title) for title in titles]
        self._current: Row | None = None

    @contextlib.contextmanager
    def row(self, title: str) -> Iterator[Row]:
        """Phases in this block belong to the row."""
        row = next(each for each in self.rows if each.title == title)
        started = time.monotonic()
        self._current = row
        try:
            yield row
        finally:
            row.seconds = time.monotonic() - started
            row.phase = self._current = None
        if row.seconds > _PLAIN_FIRST and not sys.stderr.isatty():
            say(f"{self._place(row)} {row.title}: {row.state}, {_words(row.seconds)}")

    @contextlib.contextmanager
    def showing(self, phase: Phase) -> Iterator[None]:
        """The row under way shows ``phase``, and after it what it showed before."""
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
        """What is under way and how much is still to come, or "" when nothing is."""
        row = self._current
        if row is None or row.phase is None or row.phase.elapsed < _PLAIN_FIRST:
            return ""
        waiting = [each for each in self.rows if each.state == "waiting" and each is not row]
        rest = f"; then {', '.join(each.title for each in waiting)}" if waiting else ""
        return f"{self._place(row)} {row.text}{rest}"

    def _place(self, row: Row) -> str:
        return f"[{self.rows.index(row) + 1}/{len(self.rows)}]"


# The innermost is the one that phases belong to.
_boards: list[Board] = []


@contextlib.contextmanager
def board(titles: Sequence[str]) -> Iterator[Board]:
    """Shows one row for each title until the block ends; without a second title phases
    show themselves."""
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
    interval = _PLAIN_FIRST
    while not stop.wait(interval):
        line = current.line()
        interval = _PLAIN_EVERY if line else _PLAIN_FIRST
        if line:
            say(line)


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


# Of each kind of work, the seconds and the parts of the last time.
_DURATIONS = "durations"


def _remembered(kind: str) -> tuple[float, int]:
    last = past_runs.read(_DURATIONS).get(kind)
    if isinstance(last, list) and len(last) == 2:
        return float(last[0]), int(last[1])
    return _FIRST_TIME.get(kind.partition(":")[0], (0.0, 0))


def _remember(kind: str, current: Phase) -> None:
    # A short time is a warm cache's: it would promise too much next time.
    seconds, total = _remembered(kind)
    if current.elapsed < seconds / 4 or current.done < total / 2:
        return
    past_runs.add(_DURATIONS, kind, [round(current.elapsed, 1), current.done])
