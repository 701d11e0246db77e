# SPDX-License-Identifier: GPL-2.0-only
"""Judge a test beyond its own assertions: unexpected splats make it fail, and known issues explain
findings that match their symptoms.
"""

from collections.abc import Iterable, Mapping, Sequence

import pytest

from harness.errors import GuestError, is_host_trouble
from harness.guest.guest import Guest
from harness.host.text import printable
from harness.iommu import finding
from harness.iommu.finding import Finding, Pattern
from harness.iommu.kernel_profile import KernelProfile
from harness.iommu.known_issues import KnownIssue
from harness.kernel.artifact import Kernel
from harness.klog import record, splat
from harness.klog.splat import Splat
from harness.plugin import events, kernels
from harness.plugin.events import Property
from harness.symbols import symbolise

_SHOWN = 40  # lines of a splat to print; a stack dump that follows it is long


def judge(
    item: pytest.Item,
    report: pytest.TestReport,
    error: BaseException | None,
    *,
    guests: Sequence[Guest],
    expected: Mapping[str, bool],
    profile: KernelProfile,
) -> None:
    """Judge a test by the findings of its guests and of its ``error``.

    The test fails if there is a finding that neither the test expects nor a known issue of the
    kernel explains. It also fails if a splat or a known issue that must appear does not appear. If
    known issues explain all findings, the first of these issues is added to the report.
    ``expected`` maps the patterns of splats to whether they appear only sometimes."""
    splats = [each for guest in guests for each in _splats(guest)]
    required = [text for text, sometimes in expected.items() if not sometimes]
    missing = [text for text in required if not any(map(Pattern(text).matches, splats))]
    found = [*_unexpected(splats, expected), *(_of_error(error) if report.failed else ())]
    issues = _issues(item, profile)
    explained = {issue.id: issue.explained(found) for issue in issues}
    unexplained = [each for each in found if not any(each in own for own in explained.values())]
    if unexplained:
        _fail_with(item, report, unexplained, profile, explained)
    elif missing and report.passed and not any(guest.dead for guest in guests):
        _fail(report, f"an expected splat does not appear: {', '.join(missing)}")
    elif found:
        _mark_known(report, next(issue for issue in issues if explained[issue.id]))
    elif report.passed:
        _require_issues(item, report, issues, profile)


def _unexpected(splats: Sequence[Finding], expected: Iterable[str]) -> list[Finding]:
    """The splats that are not expected. Notices do not count, because scenarios provoke hardware
    errors and memory shortage."""
    patterns = [Pattern(text) for text in expected]
    severe = (each for each in splats if each.splat and each.splat.severity != "notice")
    return [each for each in severe if not any(pattern.matches(each) for pattern in patterns)]


def _of_error(error: BaseException | None) -> list[Finding]:
    """The findings from the error that ended the test. An error on this host is not a finding."""
    if error is None or is_host_trouble(error):
        return []
    return finding.from_error(error)


def _splats(guest: Guest) -> list[Finding]:
    return [finding.from_splat(each) for each in splat.find(_log(guest))]


def _log(guest: Guest) -> list[str]:
    """The kernel's log. The last messages of a dead guest are read from its console, because they
    were not sent as records."""
    try:
        return [each.text for each in guest.kmsg()]
    except GuestError as error:
        return record.messages(error.log)


def _fail_with(
    item: pytest.Item,
    report: pytest.TestReport,
    unexplained: Sequence[Finding],
    profile: KernelProfile,
    explained: Mapping[str, Sequence[Finding]],
) -> None:
    lines = [_describe(each.splat, item) for each in unexplained if each.splat]
    lines = [f"unexpected splat{'s' if len(lines) > 1 else ''}:", *lines] if lines else []
    lines += _similar_issues(item, unexplained, profile)
    lines += [
        f"known issue {name} explains the other findings" for name, own in explained.items() if own
    ]
    if lines:
        _fail(report, "\n".join(lines))


def _similar_issues(
    item: pytest.Item, unexplained: Sequence[Finding], profile: KernelProfile
) -> list[str]:
    """Describe the issues that the test names, and that would explain some of the findings if the
    kernel had them."""
    known = kernels.known_issues(item.config)
    return [
        f"matches known issue {name}, which this kernel does not have: {profile.issues[name].why}"
        for name in issue_names(item)
        if not profile.issues[name].shown and known[name].explained(unexplained)
    ]


def _mark_known(report: pytest.TestReport, issue: KnownIssue) -> None:
    events.add_property(report, Property.ISSUE, issue.id)
    report.outcome = "skipped"
    report.wasxfail = f"known issue {issue.id}: {issue.title}"


def _require_issues(
    item: pytest.Item,
    report: pytest.TestReport,
    issues: Sequence[KnownIssue],
    profile: KernelProfile,
) -> None:
    """Fail the test if an issue that must appear does not. If only the version indicates that the
    kernel has the issue, it need not appear, because it may be fixed."""
    required = [name for name, required in issue_names(item).items() if required]
    for issue in issues:
        evidence = profile.issues[issue.id]
        if issue.id in required and not evidence.guess:
            text = f"known issue {issue.id} does not appear: {issue.title} ({evidence.why})"
            _fail(report, text)
            return


def issue_names(item: pytest.Item) -> dict[str, bool]:
    """The known issues that the test may run into on kernels that have them, each with whether it
    must appear there. Either the test names the issue, or the issue names the test."""
    scenario = events.scenario(item)
    known = kernels.known_issues(item.config).values()
    found = {issue.id: False for issue in known if issue.may_affect(scenario)}
    for marker in item.iter_markers("known_issue"):
        for name in marker.args:
            found[name] = found.get(name, True) and not marker.kwargs.get("sometimes")
    return found


def _issues(item: pytest.Item, profile: KernelProfile) -> list[KnownIssue]:
    """The known issues that the test may run into on its kernel and machine."""
    callspec = getattr(item, "callspec", None)
    machine = callspec.params.get("machine") if callspec else None
    machine_name = machine.name if machine else ""
    known = kernels.known_issues(item.config)
    issues = [known[name] for name in issue_names(item)]
    return [each for each in issues if each.affects(machine_name) and profile.issues[each.id].shown]


def _describe(each: Splat, item: pytest.Item) -> str:
    """Describe a splat: a title, its call traces with source lines if the test has a kernel, and
    the text that the kernel printed."""
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
    """Fail the test with this text, which is put above the test's own failure."""
    own = report.longreprtext if report.failed else ""
    events.add_property(report, Property.FINDING, text)
    report.outcome = "failed"
    report.longrepr = f"{printable(text)}\n\n{own}".rstrip()
