# SPDX-License-Identifier: GPL-2.0-only
"""Test each patch of a series against its parent: whether it builds, which warnings the compiler
adds, which behaviours it changes, and which scenarios have a different result.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.comparison import scenario_runs
from harness.comparison.scenario_runs import ScenarioCompared, ScenarioRuns
from harness.errors import BuildError, PatchMismatch, UsageError
from harness.kernel import series
from harness.kernel.series import Patch
from harness.kernel.spec import KernelSpec
from harness.suite.resolved import Resolved
from harness.suite.run import ScenarioOutcome
from harness.suite.scenario_result import ScenarioResult

_WARNING = re.compile(r"^(?P<place>\S+?):(?:\d+:)*\s*warning: (?P<text>.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class PatchResult:
    """A patch and how it differs from its parent, the last patch before it that builds.

    ``number`` counts from 1. ``applies`` is whether it applies, and ``error`` is why it does not
    apply or build. ``warnings`` are the compiler's new warnings. ``behaviours`` are the behaviours
    that change, such as "unbind-releases-device: no -> yes". ``scenarios`` are those with a
    different result, of ``total`` scenarios."""

    number: int
    title: str
    applies: bool = True
    error: str = ""
    warnings: tuple[str, ...] = ()
    behaviours: tuple[str, ...] = ()
    scenarios: tuple[ScenarioCompared, ...] = ()
    total: int = 0

    @property
    def broken(self) -> list[ScenarioCompared]:
        """The scenarios that fail with the patch and did not fail before."""
        return [each for each in self.scenarios if fails(each.new) and not fails(each.old)]

    @property
    def fixed(self) -> list[ScenarioCompared]:
        """The scenarios that failed before the patch and do not fail with it."""
        return [each for each in self.scenarios if fails(each.old) and not fails(each.new)]

    @property
    def is_good(self) -> bool:
        """Whether the patch builds without new warnings and breaks no scenario."""
        return not (self.error or self.warnings or self.broken)


@dataclass(frozen=True, slots=True)
class Broken:
    """A scenario that one patch breaks and a later one fixes: a bisection that stops in between
    finds a bug that the series as a whole does not have. ``fixed`` is None if no patch fixes it."""

    scenario: str
    machine: str
    number: int
    fixed: int | None


def fails(outcomes: Sequence[ScenarioOutcome]) -> bool:
    """Whether most of the outcomes are failures."""
    failed = sum(each.result is ScenarioResult.FAILED for each in outcomes)
    return 2 * failed > len(outcomes)


def patches(path: Path, into: Path) -> list[tuple[Patch, Path]]:
    """Read a series, and write each patch into a file of its own. Raises UsageError as
    ``series.read`` does."""
    into.mkdir(parents=True, exist_ok=True)
    found = []
    for number, each in enumerate(series.read(path), start=1):
        file = into / f"{number:04}.patch"
        file.write_bytes(each.text)
        found.append((each, file))
    return found


def test(
    base: KernelSpec, found: Sequence[tuple[Patch, Path]], runs: ScenarioRuns
) -> Iterator[PatchResult]:
    """Test each patch, on ``base`` with the patches before it. A patch that does not build is
    skipped: the next is compared with the last one that builds. Ends at a patch that does not
    apply. Raises as ``ScenarioRuns.first`` does for anything else."""
    parent = base
    runs.first(base)
    for number, (patch, _) in enumerate(found, start=1):
        spec = replace(base, patches=(*base.patches, *(file for _, file in found[:number])))
        result = PatchResult(number, patch.title or patch.name)
        try:
            built = runs.build(spec)
        except PatchMismatch as error:
            yield replace(result, applies=False, error=str(error))
            return
        except BuildError as error:
            yield replace(result, error=str(error))
            continue
        compared = scenario_runs.compare(runs, parent, spec)
        yield replace(
            result,
            warnings=tuple(_new_warnings(runs.build(parent), built)),
            behaviours=tuple(_changed_behaviours(runs.build(parent), built)),
            scenarios=tuple(each for each in compared if each.differs),
            total=len(compared),
        )
        parent = spec


def _new_warnings(old: Resolved, new: Resolved) -> Iterator[str]:
    known = _warnings(old)
    yield from (each for each in _warnings(new) if each not in known)


def _warnings(built: Resolved) -> list[str]:
    """The compiler's warnings, without line numbers, which other changes move."""
    log = built.kernel.directory / "build.log"
    text = log.read_text(errors="replace") if log.exists() else ""
    found = (f"{match['place']}: {match['text']}" for match in _WARNING.finditer(text))
    return list(dict.fromkeys(found))


def _changed_behaviours(old: Resolved, new: Resolved) -> Iterator[str]:
    words = {True: "yes", False: "no"}
    for name, evidence in new.profile.behaviours.items():
        before = old.profile.behaviours[name].shown
        if before != evidence.shown:
            yield f"{name}: {words[before]} -> {words[evidence.shown]}"


def broken(results: Sequence[PatchResult]) -> list[Broken]:
    """The scenarios that a patch breaks, each with the patch that fixes it."""
    return [
        Broken(each.name, each.machine, result.number, _fixed_by(each, results[index + 1 :]))
        for index, result in enumerate(results)
        for each in result.broken
    ]


def _fixed_by(each: ScenarioCompared, later: Sequence[PatchResult]) -> int | None:
    key = each.name, each.machine
    return next(
        (
            result.number
            for result in later
            if key in {(other.name, other.machine) for other in result.fixed}
        ),
        None,
    )


def check(base: KernelSpec) -> None:
    """Raise UsageError for a kernel that cannot be patched."""
    if base.kind == "prebuilt":
        raise UsageError("a prebuilt kernel cannot be patched", "use debian:, tree: or git:")
