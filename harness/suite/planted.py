# SPDX-License-Identifier: GPL-2.0-only
"""Plant patches in a kernel, one at a time: build it, run it, and release it."""

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
from harness.suite.result import ScenarioResult
from harness.suite.run import RunRequest


def check_base(request: RunRequest, into: Path) -> None:
    """Raises HostError if scenarios fail on the kernel without a patch: then a failure with one
    means nothing."""
    into.mkdir()
    failed = [
        each.scenario
        for each in run.run(request, into, title=f"scenarios on {request.kernels[0]}")
        if each.result in (ScenarioResult.FAILED, ScenarioResult.INCONCLUSIVE)
    ]
    if failed:
        raise HostError(
            f"{len(failed)} scenarios fail on {request.kernels[0]} without a patch: {failed[0]}",
            f"fix that first; see {into}",
        )


def release(request: RunRequest) -> str:
    """The release of the request's only kernel."""
    (base,) = request.kernels
    return build.build(
        base.with_variants(machine_file.machine(request.machines[0]).variants)
    ).release


def inapplicable(mutant: Mutant, request: RunRequest, release: str) -> str:
    """Why the patch is a bug only of other kernels or machines; "" if it is one of these."""
    if not mutant.since.include(release):
        return f"it is a bug since {mutant.since.marks[0]}"
    unmet = [_unmet(mutant, request, name) for name in mutant.machines(request.machines)]
    if not unmet:
        return "it is a bug on other machines"
    return unmet[0] if all(unmet) else ""


def _unmet(mutant: Mutant, request: RunRequest, machine: str) -> str:
    """The first behaviour that the patch requires and the machine's kernel lacks, with the
    evidence; "" if it lacks none."""
    required = mutant.requires
    profile = _profile(request, machine) if required else KernelProfile({}, {})
    for name, value in required.items():
        found = profile.behaviours.get(name) or profile.issues[name]
        if found.shown != value:
            return f"it requires {'' if value else 'no-'}{name}: {found.why}"
    return ""


def _profile(request: RunRequest, machine: str) -> KernelProfile:
    """The profile of the request's only kernel, as it is built for the machine."""
    (base,) = request.kernels
    spec = base.with_variants(machine_file.machine(machine).variants)
    profiles = resolved.profiles(request.resolved) if request.resolved else {}
    return profiles.get(spec.key) or kernel_profile.of(spec, build.build(spec), request.behaviours)


@contextlib.contextmanager
def planted(mutant: Mutant, request: RunRequest, into: Path) -> Iterator[RunRequest]:
    """The request for the mutant's kernel, which is built, and the mutant's machines.

    The kernel has the profile of the kernel without the patch, because a bug that looks like
    another behaviour is still a bug; ``into`` gets a file with it. Afterwards the kernel and its
    guests are removed from the cache. Raises as ``build.build`` does."""
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
