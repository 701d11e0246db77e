# SPDX-License-Identifier: GPL-2.0-only
"""``iommu-harness behaviours``: the behaviours and known issues of a kernel, with the
evidence for each."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from typing import Any

from harness.cli import options, output
from harness.cli.output import Line
from harness.iommu import behaviour, kernel_profile, known_issues
from harness.iommu.evidence import Evidence
from harness.iommu.kernel_profile import KernelProfile
from harness.kernel import build
from harness.kernel.spec import DEFAULT_KERNEL


def behaviours(
    kernel: options.Kernel = DEFAULT_KERNEL,
    patch: options.Patches = [],  # noqa: B006  typer copies it
    fragment: options.Fragments = [],  # noqa: B006
    variant: options.Variants = [],  # noqa: B006
    issues: options.KnownIssues = [],  # noqa: B006
    debian_mirror: options.Mirror = "",
    as_json: options.Json = False,
) -> None:
    """Print a kernel's behaviours and known issues, with the evidence for each.

    \b
      iommu-harness behaviours --kernel debian:6.1
      iommu-harness behaviours --kernel tree:~/src/linux --patch fix.patch

    A behaviour is a difference between kernels that is not a bug. A known issue is a bug in
    released kernels that scenarios run into. Both are looked up in the kernel's source. If the
    source does not decide, the result is a guess from the kernel's version.
    """
    (spec,) = options.kernels(
        [kernel], patch, fragment, variant, llvm=False, debian_mirror=debian_mirror
    )
    files = tuple(file.absolute() for file in issues)
    titles = {name: each.title for name, each in known_issues.issues(files).items()}
    built = build.build(spec)
    found = kernel_profile.of(spec, built, (), files)
    if as_json:
        output.print_json(_record(built.label, built.release, found))
    else:
        output.show(_lines(f"{built.label}: {built.release}", found, titles))


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


def _lines(title: str, found: KernelProfile, titles: Mapping[str, str]) -> Iterator[Line]:
    yield "bold", title
    what = {name: f"{each.summary}; since {each.since}" for name, each in behaviour.TABLE.items()}
    yield from _table(
        "behaviours (differences between kernels that are not bugs)", found.behaviours, what
    )
    yield from _table("known issues (bugs in released kernels)", found.issues, titles)


def _table(title: str, rows: Mapping[str, Evidence], what: Mapping[str, str]) -> Iterator[Line]:
    yield "bold", title
    for name, each in rows.items():
        style = "yellow" if each.guess else "green" if each.shown else ""
        yield style, f"  {'yes' if each.shown else 'no ':<4} {name:<40} {what[name]}"
        yield "dim", f"       {each.why}"
