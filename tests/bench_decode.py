# SPDX-License-Identifier: GPL-2.0-only
"""The speed of reading kernel logs that consist of messages and of recorded reports."""

import io
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.klog import log

LOGS = Path(__file__).parent / "logs"
_QUIET = "[{:12.6f}] e1000e 0000:00:{:02x}.0 eth{}: NIC Link is Up 1000 Mbps Full Duplex\n"


@dataclass(frozen=True, slots=True)
class Reading:
    """The cost of reading one log.

    ``megabytes``: the size of the log, in 10^6 bytes.
    ``reports``: the number of reports found.
    ``seconds``: the CPU time.
    ``grown``: the megabytes by which the peak memory has grown.
    """

    megabytes: float
    reports: int
    seconds: float
    grown: float


def pieces(megabytes: int, quiet: int) -> Iterator[bytes]:
    """Yield a log of that size in pieces: recorded reports, each after ``quiet`` other lines."""
    reports = [path.read_bytes() + b"\n" for path in sorted(LOGS.glob("*.log"))]
    size = number = 0
    while size < megabytes * 1_000_000:
        lines = (_QUIET.format(n / 1e3, n % 32, n) for n in range(number, number + quiet))
        piece = "".join(lines).encode() + reports[number % len(reports)]
        number += 1
        size += len(piece)
        yield piece


def search(source: Iterator[bytes]) -> int:
    """Count the occurrences of two words of reports. This is the baseline."""
    return sum(piece.count(b"BUG") + piece.count(b"WARNING") for piece in source)


def read(megabytes: int, quiet: int) -> Reading:
    """Read a log of that size from its first line to its last, and return the cost."""
    source = io.BytesIO(b"".join(pieces(megabytes, quiet)))
    size = source.getbuffer().nbytes / 1e6
    before, started = _peak(), time.process_time()
    reports = sum(1 for _ in log.splats(source))
    return Reading(size, reports, time.process_time() - started, _peak() - before)


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
