# SPDX-License-Identifier: GPL-2.0-only
"""What a test's guests have to say of it: splats that nobody expects, and known issues."""

import re
from collections.abc import Mapping, Sequence

import pytest

from harness import pytest_events
from harness.errors import GuestError
from harness.guest.guest import Guest
from harness.host.text import printable
from harness.kernel.artifact import Kernel
from harness.klog import record, splat
from harness.klog.splat import Splat
from harness.scenario import known
from harness.scenario.known import KnownIssue
from harness.symbols import symbolise

_SHOWN = 40  # lines of a splat; a stack dump after it is long


def judge(
    item: pytest.Item,
    report: pytest.TestReport,
    guests: Sequence[Guest],
    expected: Mapping[str, bool],
) -> None:
    """Beside what the test itself asserts: what the kernel reported meanwhile, and
    whether a known issue explains all that. ``expected`` are patterns of splats, each with
    whether it is only sometimes reported."""
    said = [line for guest in guests for line in _said(guest)]
    splats = splat.find(said)
    provoked = [each for marker in item.iter_markers("splats") for each in marker.args]
    provoked += [each for each, sometimes in expected.items() if not sometimes]
    issues = _issues(item)
    # Scenarios make the hardware unhappy on purpose, and memory short.
    grave = [each for each in splats if each.severity != "notice"]
    unknown = known.unexplained(grave, [*provoked, *expected], issues)
    if unknown:
        shown = "\n".join(_shown(each, item) for each in unknown)
        _fail(report, f"the kernel reports what nobody expects:\n{shown}")
        return
    missing = [each for each in provoked if not any(known.matches(each, s) for s in splats)]
    if missing and report.passed and not any(guest.dead for guest in guests):
        _fail(report, f"the kernel does not report what the test provokes: {', '.join(missing)}")
        return
    for issue in issues:
        if _appears(issue, splats, report):
            report.outcome = "skipped"
            report.wasxfail = f"known issue {issue.id}: {issue.title}"
            return
    due = set(named_issues(item)) - set(named_issues(item, sometimes=True))
    absent = [issue for issue in issues if issue.id in due]
    if absent and report.passed:
        _fail(report, f"known issue {absent[0].id} does not appear: {absent[0].title}")


def _said(guest: Guest) -> list[str]:
    """What the kernel has logged until now. Of a guest that is dead the console has the
    last words, which never came as records."""
    try:
        return [each.text for each in guest.kmsg()]
    except GuestError as error:
        return record.messages(error.log)


def named_issues(item: pytest.Item, *, sometimes: bool = False) -> list[str]:
    """The known issues that the test says it runs into, where they apply; or only those
    that need not appear."""
    markers = item.iter_markers("known_issue")
    named = [each for each in markers if not sometimes or each.kwargs.get("sometimes")]
    return [name for each in named for name in each.args]


def _issues(item: pytest.Item) -> list[KnownIssue]:
    """The known issues that the test names, where they apply."""
    named = [known.issues()[name] for name in named_issues(item)]
    callspec = getattr(item, "callspec", None)
    if not named or callspec is None:
        return []
    kernel: Kernel = item.funcargs["kernel"]  # type: ignore[attr-defined]
    machine = callspec.params.get("machine")
    name = machine.name if machine else ""
    return [issue for issue in named if issue.applies(kernel.release, name)]


def _appears(issue: KnownIssue, splats: list[Splat], report: pytest.TestReport) -> bool:
    """An issue with a symptom is how a test fails; one with splats only is those. A warning
    is no reason for a test to fail: what it asserts has to hold all the same."""
    if issue.symptom:
        return report.failed and bool(re.search(issue.symptom, pytest_events.gist(report)))
    explained = [each for each in splats if issue.explains(each)]
    if report.failed:
        return any(each.kind != "WARNING" for each in explained)
    return bool(explained)


def _shown(each: Splat, item: pytest.Item) -> str:
    """The splat in a line, its call traces with places in the source where the test is of
    one kernel, and what the kernel printed."""
    kernel: Kernel | None = item.funcargs.get("kernel")  # type: ignore[attr-defined]
    callspec = getattr(item, "callspec", None)
    spec = callspec.params.get("kernel_spec") if callspec else None
    found = each
    if kernel and not item.config.getoption("--plain-splats"):
        found = symbolise.symbolised(each, kernel, spec).splat
    lines = [*symbolise.lines(found), *each.text[:_SHOWN]]
    return "\n".join([known.described(each), *(f"    {line}" for line in lines)])


def _fail(report: pytest.TestReport, text: str) -> None:
    """The test fails with the text, above what it failed with itself."""
    own = report.longreprtext if report.failed else ""
    report.user_properties.append((pytest_events.TOLD, text))
    report.outcome = "failed"
    report.longrepr = f"{printable(text)}\n\n{own}".rstrip()
