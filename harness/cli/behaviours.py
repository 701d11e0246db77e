# SPDX-License-Identifier: GPL-2.0-only
"""``iommu-harness behaviours``: what a kernel does, and why we think so."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Annotated, Any

import typer

from harness.cli import options, output
from harness.iommu import behaviour, kernel_profile, known_issues
from harness.iommu.evidence import Evidence
from harness.iommu.kernel_profile import KernelProfile
from harness.kernel import build
from harness.kernel.spec import DEFAULT_KERNEL


def behaviours(
    kernel: Annotated[
        str, typer.Option("--kernel", metavar="SPEC", help=options.SPEC)
    ] = DEFAULT_KERNEL,
    patch: options.Patches = [],  # noqa: B006  typer copies it
    fragment: options.Fragments = [],  # noqa: B006
    variant: options.Variants = [],  # noqa: B006
    debian_mirror: options.Mirror = "",
    as_json: options.Json = False,
) -> None:
    """What a kernel does where kernels differ, and which known issues it has: by its
    source, and only where that does not decide by its version, which is a guess."""
    (spec,) = options.kernels(
        [kernel], patch, fragment, variant, llvm=False, debian_mirror=debian_mirror
    )
    built = build.build(spec)
    found = kernel_profile.of(spec, built)
    if as_json:
        output.print_json(_record(built.label, built.release, found))
    else:
        output.say(_lines(f"{built.label}: {built.release}", found))


def _record(label: str, release: str, found: KernelProfile) -> dict[str, Any]:
    return {
        "kernel": label,
        "release": release,
        "behaviours": [
            _row(name, each, since=str(behaviour.TABLE[name].since))
            for name, each in found.behaviours.items()
        ],
        "issues": [_row(name, each) for name, each in found.issues.items()],
    }


def _row(name: str, each: Evidence, **more: str) -> dict[str, Any]:
    return {"name": name, **asdict(each), "guess": each.guess, **more}


def _lines(title: str, found: KernelProfile) -> Iterator[tuple[str, str]]:
    yield "bold", title
    what = {name: f"{each.summary}; since {each.since}" for name, each in behaviour.TABLE.items()}
    yield from _table("behaviours", found.behaviours, what)
    titles = {name: issue.title for name, issue in known_issues.issues().items()}
    yield from _table("known issues", found.issues, titles)


def _table(
    title: str, rows: Mapping[str, Evidence], what: Mapping[str, str]
) -> Iterator[tuple[str, str]]:
    yield "bold", title
    for name, each in rows.items():
        style = "yellow" if each.guess else "green" if each.shown else ""
        yield style, f"  {'yes' if each.shown else 'no ':<4} {name:<40} {what[name]}"
        yield "dim", f"       {each.why}"
