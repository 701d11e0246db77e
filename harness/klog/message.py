# SPDX-License-Identifier: GPL-2.0-only
"""Messages of the kernel, out of whatever a log was taken with."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Message:
    """One message: its ``text``, the 1-based ``number`` of its line in the input, its
    ``time`` in seconds since boot, its ``caller`` (``T12`` a task, ``C0`` a processor, ""
    where the log does not say), its ``level`` 0 to 7. ``lines`` counts those it was wrapped
    into."""

    text: str
    number: int
    time: float | None = None
    caller: str = ""
    level: int | None = None
    lines: int = 1
