# SPDX-License-Identifier: GPL-2.0-only
"""What a test comes to beside what it asserts: splats and errors of drivers that are not
expected, and known issues, which explain what they are about and nothing else.
"""

from collections.abc import Iterable, Mapping, Sequence

import pytest

from harness.errors import GuestError, is_host_trouble
from harness.guest.guest import Guest
from harness.host.text import printable
from harness.iommu import finding, known_issues
from harness.iommu.finding import Finding, Pattern
from harness.iommu.kernel_profile import KernelProfile
from harness.iommu.known_issues import KnownIssue
from harness.kernel.artifact import Kernel
from harness.klog import record, splat
from harness.klog.splat import Splat
from harness.plugin import events
from harness.symbols import symbolise

_SHOWN = 40  # lines of a splat; a stack dump after it is long


def judge(
    item: pytest.Item,
    report: pytest.TestReport,
    error: BaseException | None,
    *,
    guests: Sequence[Guest],
    expected: Mapping[str, bool],
    profile: KernelProfile,
) -> None:
    """Fails a test in whose guests something is found that neither it nor a known issue of
    the kernel expects; one that failed as a known issue does has run into that. ``expected``
    are patterns of splats, each with whether it is only sometimes reported."""
    reported = [each for guest in guests for each in _reported(guest)]
    due = [text for text, sometimes in expected.items() if not sometimes]
    missing = [text for text in due if not any(map(Pattern(text).matches, reported))]
    found = [*_unexpected(reported, expected), *(_of(error) if report.failed else ())]
    issues = _issues(item, profile)
    explained = {issue.id: issue.explained(found) for issue in issues}
    left = [each for each in found if not any(each in mine for mine in explained.values())]
    if left:
        _fail_with(item, report, left, profile, explained)
    elif missing and report.passed and not any(guest.dead for guest in guests):
        _fail(report, f"the kernel does not report what the test provokes: {', '.join(missing)}")
    elif found:
        _know(report, next(issue for issue in issues if explained[issue.id]))
    elif report.passed:
        _look_for_absent(item, report, issues, profile)


def _unexpected(reported: Sequence[Finding], expected: Iterable[str]) -> list[Finding]:
    """Scenarios make the hardware unhappy on purpose, and memory short: notices are none."""
    patterns = [Pattern(text) for text in expected]
    grave = (each for each in reported if each.splat and each.splat.severity != "notice")
    return [each for each in grave if not any(pattern.matches(each) for pattern in patterns)]


def _of(error: BaseException | None) -> list[Finding]:
    """Of a host in trouble nothing follows."""
    if error is None or is_host_trouble(error):
        return []
    return finding.from_error(error)


def _reported(guest: Guest) -> list[Finding]:
    """What the guest's kernel reports."""
    return [finding.from_splat(each) for each in splat.find(_said(guest))]


def _said(guest: Guest) -> list[str]:
    """What the kernel has logged until now. Of a guest that is dead the console has the
    last words, which never came as records."""
    try:
        return [each.text for each in guest.kmsg()]
    except GuestError as error:
        return record.messages(error.log)


def _fail_with(
    item: pytest.Item,
    report: pytest.TestReport,
    left: Sequence[Finding],
    profile: KernelProfile,
    explained: Mapping[str, Sequence[Finding]],
) -> None:
    lines = [_shown(each.splat, item) for each in left if each.splat]
    lines = ["the kernel reports what is not expected:", *lines] if lines else []
    lines += _near(left, profile, named_issues(item))
    lines += [f"known issue {name} explains the rest" for name, mine in explained.items() if mine]
    if lines:
        _fail(report, "\n".join(lines))


def _near(left: Sequence[Finding], profile: KernelProfile, names: Sequence[str]) -> list[str]:
    """The issues that the test names and that would explain what is left, on a kernel that
    had them."""
    return [
        f"it looks like known issue {name}, which this kernel should not have:"
        f" {profile.issues[name].why}"
        for name in names
        if not profile.issues[name].shown and known_issues.issues()[name].explained(left)
    ]


def _know(report: pytest.TestReport, issue: KnownIssue) -> None:
    report.user_properties.append((events.ISSUE, issue.id))
    report.outcome = "skipped"
    report.wasxfail = f"known issue {issue.id}: {issue.title}"


def _look_for_absent(
    item: pytest.Item,
    report: pytest.TestReport,
    issues: Sequence[KnownIssue],
    profile: KernelProfile,
) -> None:
    """An issue that is in the source has to appear; one that only the version speaks for may
    be fixed."""
    due = set(named_issues(item)) - set(named_issues(item, sometimes=True))
    for issue in issues:
        evidence = profile.issues[issue.id]
        if issue.id in due and not evidence.guess:
            text = f"known issue {issue.id} does not appear: {issue.title} ({evidence.why})"
            _fail(report, text)
            return


def named_issues(item: pytest.Item, *, sometimes: bool = False) -> list[str]:
    """The known issues that the test says it runs into, where they apply; or only those
    that need not appear."""
    markers = item.iter_markers("known_issue")
    named = [each for each in markers if not sometimes or each.kwargs.get("sometimes")]
    return [name for each in named for name in each.args]


def _issues(item: pytest.Item, profile: KernelProfile) -> list[KnownIssue]:
    """The known issues that the test names, where they apply."""
    callspec = getattr(item, "callspec", None)
    machine = callspec.params.get("machine") if callspec else None
    name = machine.name if machine else ""
    named = [known_issues.issues()[each] for each in named_issues(item)]
    return [each for each in named if each.affects(name) and profile.issues[each.id].shown]


def _shown(each: Splat, item: pytest.Item) -> str:
    """The splat in a line, its call traces with places in the source where the test is of
    one kernel, and what the kernel printed."""
    kernel: Kernel | None = item.funcargs.get("kernel")  # type: ignore[attr-defined]
    callspec = getattr(item, "callspec", None)
    spec = callspec.params.get("kernel_spec") if callspec else None
    decoded = each
    if kernel and not item.config.getoption("--iommu-plain-failures"):
        decoded = symbolise.symbolised(each, kernel, spec).splat
    lines = [*symbolise.lines(decoded), *each.text[:_SHOWN]]
    title = f"{each.kind}: {each.opening} in {' < '.join(finding.calls(each)[:8])}"
    return "\n".join([title, *(f"    {line}" for line in lines)])


def _fail(report: pytest.TestReport, text: str) -> None:
    """The test fails with the text, above what it failed with itself."""
    own = report.longreprtext if report.failed else ""
    report.user_properties.append((events.FOUND, text))
    report.outcome = "failed"
    report.longrepr = f"{printable(text)}\n\n{own}".rstrip()
