# SPDX-License-Identifier: GPL-2.0-only
"""Alternating measurements, and their output."""

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

from harness.host import progress
from harness.machine import qemu


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def alternating(rounds: int, *works: Callable[[], float]) -> list[list[float]]:
    """Measure the works alternately, because other load on the host then affects them alike.
    Returns the values of each work. The first round warms the page cache and is not counted."""
    turns = [[work() for work in works] for _ in range(rounds + 1)]
    return [list(figures) for figures in zip(*turns[1:], strict=True)]


def measured_with_progress(
    title: str, rounds: int, *works: Callable[[], float]
) -> list[list[float]]:
    """As ``alternating``, with a progress display, for works that show no progress."""
    *others, last = works
    with progress.phase(f"benchmark: {title}", title) as phase:
        phase.expect(rounds + 1)

        def last_of_round() -> float:
            seconds = last()
            phase.step()
            return seconds

        return alternating(rounds, *others, last_of_round)


def report(
    name: str,
    unit: str,
    figures: dict[str, list[float]],
    as_json: bool,
    more: dict[str, float] | None = None,
) -> None:
    """Print the median, the 95th percentile, and the ratio of the median to the baseline, which
    is the median of the first row. ``more`` has values that were measured once."""
    rows = {title: _summary(values) for title, values in figures.items()}
    baseline = next(iter(rows.values()))["median"]
    for row in rows.values():
        row["ratio"] = row["median"] / baseline
    if as_json:
        record = {"benchmark": name, "unit": unit, "rows": rows, "more": more or {}}
        json.dump(record, sys.stdout)
        return
    print(f"{name}: {qemu.version('qemu-system-aarch64')}")
    for title, row in rows.items():
        print(
            f"  {title:<34} median {row['median']:7.3f} {unit}  p95 {row['p95']:7.3f} {unit}"
            f"  ratio {row['ratio']:.3f}  ({row['count']} times)"
        )
    for title, figure in (more or {}).items():
        print(f"  {title:<52} {figure:7.2f}")


def _summary(values: list[float]) -> dict[str, Any]:
    ordered = sorted(values)
    return {
        "median": statistics.median(ordered),
        "p95": ordered[int(len(ordered) * 0.95)],
        "count": len(ordered),
    }
