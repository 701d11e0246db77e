# SPDX-License-Identifier: GPL-2.0-only
"""Plant patches in a kernel, one at a time: build the patched kernel, run it, and remove it."""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from harness.errors import HostError
from harness.guest import snapshot
from harness.host import cache
from harness.iommu import kernel_profile, machine_file
from harness.iommu.kernel_profile import KernelProfile
from harness.kernel import build
from harness.kernel.artifact import Kernel
from harness.suite import resolved, run
from harness.suite.mutant import Mutant
from harness.suite.resolved import Resolved
from harness.suite.run import RunRequest
from harness.suite.scenario_result import ScenarioResult


def check_base(request: RunRequest, into: Path) -> None:
    """Run the scenarios on the kernel without a patch. Raises HostError if any scenario fails
    or is inconclusive, because a failure on a patched kernel then means nothing."""
    into.mkdir()
    failed = [
        each.scenario
        for each in run.run(request, into, title=f"scenarios on {request.kernels[0]}")
        if each.result in (ScenarioResult.FAILED, ScenarioResult.INCONCLUSIVE)
    ]
    if failed:
        names = ", ".join(failed[:3]) + (", ..." if len(failed) > 3 else "")
        raise HostError(
            f"scenarios fail or are inconclusive on {request.kernels[0]} without a patch: {names}",
            f"make them pass first; the results are in {into}",
        )


def release(request: RunRequest) -> str:
    """Build the request's only kernel, and return its release."""
    (base,) = request.kernels
    return build.build(
        base.with_variants(machine_file.machine(request.machines[0]).variants)
    ).release


def inapplicable(mutant: Mutant, request: RunRequest, release: str) -> str:
    """Why the patch is not a bug on the request's kernel and machines, or "" if it is a bug."""
    if not mutant.since.include(release):
        return f"it is a bug only since {mutant.since.marks[0]}"
    unmet = [_unmet(mutant, request, name) for name in mutant.machines(request.machines)]
    if not unmet:
        return "it is a bug only on other machines"
    return unmet[0] if all(unmet) else ""


def _unmet(mutant: Mutant, request: RunRequest, machine: str) -> str:
    """The first requirement of the patch that the kernel for this machine does not meet, with the
    evidence, or "" if it meets all of them."""
    required = mutant.requires
    profile = _profile(request, machine) if required else KernelProfile({}, {})
    for name, value in required.items():
        found = profile.behaviours.get(name) or profile.issues[name]
        if found.shown != value:
            return f"it requires {'' if value else 'no-'}{name}: {found.why}"
    return ""


def _profile(request: RunRequest, machine: str) -> KernelProfile:
    """The profile of the request's only kernel, with the variants that the machine requires."""
    (base,) = request.kernels
    spec = base.with_variants(machine_file.machine(machine).variants)
    profiles = resolved.profiles(request.resolved) if request.resolved else {}
    return profiles.get(spec.key) or kernel_profile.of(spec, build.build(spec), request.behaviours)


@contextlib.contextmanager
def planted(mutant: Mutant, request: RunRequest, into: Path) -> Iterator[RunRequest]:
    """Build the kernel with the patch, and yield the request to run it on the machines on which
    the patch is a bug. When the block ends, remove the kernel and its guests from the cache.

    The patched kernel has the profile of the kernel without the patch, because a bug that looks
    like a different behaviour is still a bug. A file with the profile is written to ``into``.
    Raises as ``build.build`` does."""
    (base,) = request.kernels
    spec = replace(base, patches=(*base.patches, mutant.patch))
    named = mutant.machines(request.machines)
    machines = tuple(name for name in named if not _unmet(mutant, request, name))
    profiles = resolved.profiles(request.resolved) if request.resolved else {}
    built: list[Kernel] = []
    kernels = []
    try:
        for variants in {machine_file.machine(name).variants for name in machines}:
            kernel = build.build(spec.with_variants(variants))
            built.append(kernel)
            if own := profiles.get(base.with_variants(variants).key):
                kernels.append(Resolved(spec.with_variants(variants), kernel, own))
        file = resolved.write(kernels, resolved.file_in(into)) if kernels else None
        yield replace(request, kernels=(spec,), machines=machines, resolved=file)
    finally:
        for kernel in {each.key: each for each in built}.values():
            snapshot.forget(kernel)
            cache.discard_unused(kernel.directory)
