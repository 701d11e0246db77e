# SPDX-License-Identifier: GPL-2.0-only
"""A search told: lines as it goes, the record for programs, the text for a regression
report, and a page.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import jinja2

from harness.bisect import gitbisect
from harness.bisect.bisection import Bisection
from harness.bisect.history import WITHOUT
from harness.bisect.search import Conclusion, Held, Step
from harness.host import git
from harness.host.text import printable
from harness.machine import provenance
from harness.symbols import symbolise

Line = tuple[str, str]

_STYLES = {"old": "green", "new": "red", "skip": "yellow"}


def opening(job: Bisection) -> Iterator[Line]:
    """What is looked for and where, before the first kernel is built."""
    found = job.history
    count = gitbisect.count(found.repository, found.ends)
    yield "bold", f"looking for the change with which: {job.symptom.label}"
    for old in found.ends.old:
        yield "", f"  {job.asked.terms.old:<5} {found.name(old)}"
    yield "", f"  {job.asked.terms.new:<5} {found.name(found.ends.new)}"
    steps = count.bit_length()
    yield "", f"  {count} to choose from: about {steps} step{'s' * (steps > 1)}"
    for note in found.notes:
        yield "yellow", f"  {note}"
    yield "", f"  all of it goes to {job.directory}"


def step(job: Bisection, each: Step) -> Iterator[Line]:
    """One revision judged."""
    left = f"{each.left} left" if each.why == "step" else each.why
    told = _verdict(job, each)
    took = f"build {each.builds:.0f} s, runs {each.runs:.1f} s"
    yield _STYLES[each.verdict], f"{left:>9}  {_name(job, each.revision)}: {told} ({took})"


def _verdict(job: Bisection, each: Step) -> str:
    terms = job.asked.terms
    word = {"old": terms.old, "new": terms.new}.get(each.verdict, each.verdict)
    if each.verdict == "skip":
        return f"skipped, it {each.reason}"
    reason = f": {each.reason}" if each.reason else ""
    return f"{word}, shown in {each.tally} runs{reason}"


def _name(job: Bisection, revision: str) -> str:
    if revision.startswith(WITHOUT):
        culprit = revision.removeprefix(WITHOUT)
        return f"{job.asked.terms.new} end without {job.history.name(culprit)}"
    return job.history.name(revision)


def record(job: Bisection, finding: Conclusion) -> dict[str, Any]:
    """The result as the JSON object that the command prints."""
    return {
        "culprit": finding.culprit,
        "name": job.history.name(finding.culprit) if finding.culprit else "",
        "parents": list(finding.parents),
        "confidence": round(finding.confidence, 6),
        "appears": finding.appears,
        "condition": job.symptom.label,
        "candidates": list(finding.candidates),
        "reverted": finding.reverted,
        "verified": finding.verified,
        "run_dir": str(job.directory),
        "tools": provenance.of_tools(job.asked.what.qemu),
        "steps": [
            asdict(each) | {"name": _name(job, each.revision), "tally": str(each.tally)}
            for each in finding.steps
        ],
        "held": [_held_record(job, each) for each in finding.held],
        "splats": [asdict(each) for each in finding.splats],
        "log": finding.log,
    }


def _held_record(job: Bisection, each: Held) -> dict[str, Any]:
    return {
        "revision": each.revision,
        "name": _name(job, each.revision),
        "runs": each.tally.runs,
        "shown": each.tally.shown,
        "requested_error": each.requested,
        "error": each.error,
        "least_rate": round(each.rate, 6),
    }


def _held(job: Bisection, each: Held) -> str:
    """How sure a side is that does not show it, and which rate that is about."""
    return (
        f"{_name(job, each.revision)}: shown in {each.tally} runs; that it would be shown in"
        f" {each.rate:.1%} of them or more has a probability of {each.error:.2g}"
        f" (requested: {each.requested:.2g})"
    )


def is_sure(job: Bisection, finding: Conclusion) -> bool:
    """Whether there is an answer, as sure as was asked, that no revert speaks against."""
    sure = finding.confidence >= job.asked.confidence
    return bool(finding.culprit) and finding.verified is not False and sure


def closing(job: Bisection, finding: Conclusion) -> Iterator[Line]:
    """The answer."""
    yield "", ""
    if not finding.culprit:
        yield "yellow", "what is left could not be judged: the change is one of"
        for each in finding.candidates:
            yield "", f"  {job.history.name(each)}"
    else:
        name = job.history.name(finding.culprit)
        comes = "comes" if finding.appears else "goes"
        yield "bold", f"{name}: with it {comes} what is looked for"
        asked = "" if is_sure(job, finding) else f", not the {job.asked.confidence:g} asked for"
        yield "" if not asked else "yellow", f"  confidence {finding.confidence:.4f}{asked}"
        yield from (("", f"  {_held(job, each)}") for each in finding.held)
        if finding.reverted:
            yield "", f"  the {job.asked.terms.new} end without it {finding.reverted}"
        for splat in finding.splats:
            yield "", f"  {'with' if finding.appears else 'without'} it: {splat.title}"
            yield from (("", f"    {line}") for line in symbolise.lines(splat))
    yield "", f"  a text for a report, a page and all runs: {job.directory}"


def status(job: Bisection, known: dict[str, Any]) -> Iterator[Line]:
    """How far a search has got."""
    yield from opening(job)
    yield "", f"{known['builds']} kernels built, {known['runs']} runs"
    if last := known["last"]:
        yield "", f"the last one: {_name(job, last['revision'])}: {last['reason']}"
    if result := known["result"]:
        yield "bold", f"found: {result['name'] or ', '.join(result['candidates'])}"
        yield "", f"  confidence {result['confidence']:.4f}"
    else:
        yield "bold", f"go on with: iommu-harness bisect resume {job.directory}"


def text(job: Bisection, finding: Conclusion) -> str:
    """For a regression report, to be sent as it is."""
    return _rendered("report.txt.jinja", job, finding)


def page(job: Bisection, finding: Conclusion) -> str:
    """The same for a browser."""
    return _rendered("report.html.jinja", job, finding)


def _rendered(name: str, job: Bisection, finding: Conclusion) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("harness.bisect", "."),
        autoescape=jinja2.select_autoescape(["html.jinja"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    told = environment.get_template(name).render(_facts(job, finding)).strip() + "\n"
    return printable(told)


def _facts(job: Bisection, finding: Conclusion) -> dict[str, Any]:
    asked, found = job.asked, job.history
    rows: list[dict[str, Any]] = [
        {"name": _name(job, each.revision), "told": _verdict(job, each), "step": each}
        for each in finding.steps
    ]
    return {
        "label": job.symptom.label,
        "finding": finding,
        "culprit": found.name(finding.culprit) if finding.culprit else "",
        "parents": [found.name(each) for each in finding.parents],
        "candidates": [found.name(each) for each in finding.candidates],
        "ends": [found.name(each) for each in found.ends.old],
        "new": found.name(found.ends.new),
        "terms": asked.terms,
        "rows": rows,
        "reports": [symbolise.text(each) for each in finding.splats],
        "held": [_held(job, each) for each in finding.held],
        "checks": [row for row in rows if row["step"].why in ("check", "revert")],
        "runs": sum(each.tally.runs for each in _last_of_each(finding.steps)),
        "author": _author(job, finding) if asked.where.tree else "",
        "introduced": bool(asked.where.tree) and finding.appears and is_sure(job, finding),
        "comes": "came" if finding.appears else "went",
        "hash": finding.culprit[:12],
        "subject": gitbisect.subject(found.repository, finding.culprit) if finding.culprit else "",
    }


def _last_of_each(steps: Sequence[Step]) -> list[Step]:
    return list({each.revision: each for each in steps}.values())


def _author(job: Bisection, finding: Conclusion) -> str:
    if not finding.culprit:
        return ""
    form = "--format=%an <%ae>, %ad"
    found = git.run(job.history.repository, "log", "-1", form, finding.culprit)
    return found.encode(errors="surrogateescape").decode(errors="replace")
