# SPDX-License-Identifier: GPL-2.0-only
"""The output of a bisection: its progress, its JSON record, and a regression report as text and
as HTML.
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


def opening(bisection: Bisection) -> Iterator[Line]:
    """The lines before the first build: the symptom, the endpoints and the search space."""
    history, terms = bisection.history, bisection.request.terms
    count = gitbisect.count(history.repository, history.endpoints)
    yield "bold", f"symptom: {bisection.symptom.label}"
    for old in history.endpoints.old:
        yield "", f"  {terms.old:<5} {history.name(old)}"
    yield "", f"  {terms.new:<5} {history.name(history.endpoints.new)}"
    steps = count.bit_length()
    left = "1 revision" if count == 1 else f"{count} revisions"
    yield "", f"  {left} left to test (roughly {steps} step{'s' * (steps > 1)})"
    for note in history.notes:
        yield "yellow", f"  {note}"
    yield "", f"  run directory: {bisection.directory}"


def step(bisection: Bisection, each: Step) -> Iterator[Line]:
    """The line of a step: the revision and its verdict."""
    head = f"{each.left} left" if each.kind == "step" else each.kind
    name, verdict = _name(bisection, each.revision), _verdict(bisection, each)
    took = f"build {each.builds:.0f} s, runs {each.runs:.1f} s"
    yield _STYLES[each.verdict], f"{head:>9}  {name}: {verdict} ({took})"


def _verdict(bisection: Bisection, each: Step) -> str:
    terms = bisection.request.terms
    if each.verdict == "skip":
        return f"skip, {each.reason}"
    term = {"old": terms.old, "new": terms.new}[each.verdict]
    reason = f": {each.reason}" if each.reason else ""
    return f"{term}, symptom in {each.tally} runs{reason}"


def _name(bisection: Bisection, revision: str) -> str:
    if revision.startswith(WITHOUT):
        first_bad = revision.removeprefix(WITHOUT)
        name = bisection.history.name(first_bad)
        return f"{bisection.request.terms.new} endpoint without {name}"
    return bisection.history.name(revision)


def record(bisection: Bisection, found: Conclusion) -> dict[str, Any]:
    """The result as the JSON object that the command prints."""
    return {
        "culprit": found.first_bad,
        "name": bisection.history.name(found.first_bad) if found.first_bad else "",
        "parents": list(found.parents),
        "confidence": round(found.confidence, 6),
        "appears": found.appears,
        "symptom": bisection.symptom.label,
        "candidates": list(found.candidates),
        "reverted": found.reverted,
        "verified": found.verified,
        "run_dir": str(bisection.directory),
        "tools": provenance.of_tools(bisection.request.predicate.qemu),
        "steps": [
            asdict(each) | {"name": _name(bisection, each.revision), "tally": str(each.tally)}
            for each in found.steps
        ],
        "held": [_held_record(bisection, each) for each in found.held],
        "splats": [asdict(each) for each in found.splats],
        "log": found.log,
    }


def _held_record(bisection: Bisection, each: Held) -> dict[str, Any]:
    return {
        "revision": each.revision,
        "name": _name(bisection, each.revision),
        "runs": each.tally.runs,
        "shown": each.tally.shown,
        "requested_error": each.requested,
        "error": each.error,
        "least_rate": round(each.rate, 6),
    }


def _held(bisection: Bisection, each: Held) -> str:
    """The final check of an unaffected revision, in one line."""
    return (
        f"{_name(bisection, each.revision)}: symptom in {each.tally} runs; probability of error"
        f" {each.error:.2g} (requested: {each.requested:.2g}) at a rate of {each.rate:.1%} or more"
    )


def is_sure(bisection: Bisection, found: Conclusion) -> bool:
    """Whether the first bad commit has the requested confidence, and its revert does not
    contradict it."""
    is_confident = found.confidence >= bisection.request.confidence
    return bool(found.first_bad) and found.verified is not False and is_confident


def _first(bisection: Bisection) -> str:
    """A phrase like "first bad commit", in the user's terms and the history's noun."""
    return f"first {bisection.request.terms.new} {bisection.history.noun}"


def closing(bisection: Bisection, found: Conclusion) -> Iterator[Line]:
    """The lines of the result."""
    yield "", ""
    if found.first_bad:
        yield from _found(bisection, found)
    else:
        yield "yellow", f"only skipped revisions are left; the {_first(bisection)} is one of:"
        for each in found.candidates:
            yield "", f"  {bisection.history.name(each)}"
    yield "", f"  report.txt, report.html and all runs: {bisection.directory}"


def _found(bisection: Bisection, found: Conclusion) -> Iterator[Line]:
    request = bisection.request
    yield "bold", f"{_first(bisection)}: {bisection.history.name(found.first_bad)}"
    if request.either_way:
        yield "", f"  the symptom {'appears' if found.appears else 'disappears'} with it"
    missed = found.confidence < request.confidence
    below = f", below the requested {request.confidence:g}" if missed else ""
    yield "yellow" if missed else "", f"  confidence {found.confidence:.4f}{below}"
    yield from (("", f"  {_held(bisection, each)}") for each in found.held)
    if found.reverted:
        yield "", f"  the {request.terms.new} endpoint without it {found.reverted}"
    for splat in found.splats:
        yield "", f"  {'with' if found.appears else 'without'} it: {splat.title}"
        yield from (("", f"    {line}") for line in symbolise.lines(splat))


def status(bisection: Bisection, progress: dict[str, Any]) -> Iterator[Line]:
    """The lines of ``bisect status``: the progress and, if there is one, the result."""
    yield from opening(bisection)
    yield "", f"{progress['builds']} kernels built, {progress['runs']} runs"
    if last := progress["last"]:
        yield "", f"last run: {_name(bisection, last['revision'])}: {last['reason']}"
    if result := progress["result"]:
        name = result["name"] or f"one of {', '.join(result['candidates'])}"
        yield "bold", f"{_first(bisection)}: {name}"
        yield "", f"  confidence {result['confidence']:.4f}"
    else:
        yield "bold", f"resume with: iommu-harness bisect resume {bisection.directory}"


def text(bisection: Bisection, found: Conclusion) -> str:
    """The regression report as text, ready to send."""
    return _rendered("report.txt.jinja", bisection, found)


def page(bisection: Bisection, found: Conclusion) -> str:
    """The regression report as HTML."""
    return _rendered("report.html.jinja", bisection, found)


def _rendered(name: str, bisection: Bisection, found: Conclusion) -> str:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("harness.bisect", "."),
        autoescape=jinja2.select_autoescape(["html.jinja"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    rendered = environment.get_template(name).render(_variables(bisection, found))
    return printable(rendered.strip() + "\n")


def _variables(bisection: Bisection, found: Conclusion) -> dict[str, Any]:
    request, history = bisection.request, bisection.history
    rows: list[dict[str, Any]] = [
        {
            "name": _name(bisection, each.revision),
            "verdict": _verdict(bisection, each),
            "step": each,
        }
        for each in found.steps
    ]
    is_tree = bool(request.space.tree)
    return {
        "label": bisection.symptom.label,
        "found": found,
        "first": _first(bisection),
        "noun": history.noun,
        "first_bad": history.name(found.first_bad) if found.first_bad else "",
        "parents": [history.name(each) for each in found.parents],
        "candidates": [history.name(each) for each in found.candidates],
        "old_endpoints": [history.name(each) for each in history.endpoints.old],
        "new_endpoint": history.name(history.endpoints.new),
        "terms": request.terms,
        "rows": rows,
        "splats": [symbolise.text(each) for each in found.splats],
        "held": [_held(bisection, each) for each in found.held],
        "checks": [row for row in rows if row["step"].kind in ("check", "revert")],
        "runs": sum(each.tally.runs for each in _last_of_each(found.steps)),
        "author": _author(bisection, found) if is_tree else "",
        "introduced": is_tree and found.appears and is_sure(bisection, found),
        "appears": "appears" if found.appears else "disappears",
        "with_it": "with" if found.appears else "without",
        "hash": found.first_bad[:12],
        "subject": gitbisect.subject(history.repository, found.first_bad)
        if found.first_bad
        else "",
    }


def _last_of_each(steps: Sequence[Step]) -> list[Step]:
    return list({each.revision: each for each in steps}.values())


def _author(bisection: Bisection, found: Conclusion) -> str:
    if not found.first_bad:
        return ""
    form = "--format=%an <%ae>, %ad"
    author = git.run(bisection.history.repository, "log", "-1", form, found.first_bad)
    return author.encode(errors="surrogateescape").decode(errors="replace")
