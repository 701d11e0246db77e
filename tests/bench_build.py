# SPDX-License-Identifier: GPL-2.0-only
"""The time to build a kernel: cold, with a warm ccache, after a change of one line, and when
nothing changed. The command builds in a private cache, from sources that are already fetched.
The baseline is a bare make of the first version's configuration.
"""

import contextlib
import os
import random
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.host import cache, manifest, paths, tools
from tests import command

FIRST = Path(__file__).with_name("first.config")
KERNELS = ("debian:5.10", "debian:6.1", "debian:6.12", "debian:7.2")

# Build a kernel with a patch, boot it and wait for the first reply.
_ANSWER = """
import sys, tempfile
from pathlib import Path
from harness.guest import launch
from harness.iommu import machines
from harness.kernel import build, spec
built = build.build(spec.parse(sys.argv[1], [Path(sys.argv[2])]))
with tempfile.TemporaryDirectory() as scratch:
    with launch.booted(built, machines.named("smmuv3"), Path(scratch)) as running:
        assert running.run("echo here").out == "here\\n"
"""


@dataclass(frozen=True)
class Bench:
    """A private cache, on the same file system as the user's cache."""

    cache: Path

    @property
    def environment(self) -> dict[str, str]:
        return command.environment(IOMMU_HARNESS_CACHE=str(self.cache))

    def build(self, *arguments: str) -> float:
        """Run ``kernel build``, and return the seconds that it takes. Raises CalledProcessError
        if it fails."""
        return self.timed([*command.PROGRAM, "kernel", "build", *arguments])

    def timed(self, argv: list[str], **extra: str) -> float:
        started = time.perf_counter()
        subprocess.run(
            argv, check=True, env=self.environment | extra, stdout=subprocess.DEVNULL, stderr=2
        )
        return time.perf_counter() - started

    def clean(self) -> None:
        """Delete all builds, but not the objects of ccache."""
        for name in ("kernel", "work"):
            shutil.rmtree(self.cache / name, ignore_errors=True)


def measure(kernels: list[str], scratch: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each row of the benchmark as soon as it is measured."""
    bench = Bench(scratch / "cache")
    _share_sources(bench, kernels)
    for kernel in kernels:
        bench.clean()
        shutil.rmtree(bench.cache / "ccache", ignore_errors=True)
        cold = bench.build(kernel)
        objects = sum(1 for _ in (bench.cache / "work").rglob("*.o"))
        yield f"{kernel} cold", {"seconds": cold, "objects": objects}
        bench.clean()
        warm = bench.build(kernel)
        yield f"{kernel} warm ccache, empty tree", {"seconds": warm, "ratio": warm / cold}
        if kernel == "debian:6.12":
            yield from _more_rows(bench, kernel, scratch, cold)


def _more_rows(bench: Bench, kernel: str, scratch: Path, cold: float) -> Iterator[tuple[str, Any]]:
    seconds = [_change(bench, kernel, scratch, number) for number in range(3)]
    yield "a changed line of iommu.c to the first reply", {"seconds": statistics.median(seconds)}
    yield "nothing changed, debian:", {"seconds": _unchanged(bench, kernel)}
    (entry,) = bench.cache.glob("source/linux-source-6.12_*")
    tree = scratch / "linux"
    subprocess.run(["cp", "-a", str(entry / "tree"), str(tree)], check=True)
    yield "tree: warm ccache, first time", {"seconds": bench.build(f"tree:{tree}")}
    yield "nothing changed, tree:", {"seconds": _unchanged(bench, f"tree:{tree}")}
    _commit(tree)
    yield "git: warm ccache, first time", {"seconds": bench.build(f"git:{tree}@HEAD")}
    yield "nothing changed, git:", {"seconds": _unchanged(bench, f"git:{tree}@HEAD")}
    first = _first_version(bench, tree, scratch / "first")
    yield "6.12 cold, bare make, first version's options", first
    yield "our cold 6.12, relative to bare make", {"ratio": cold / first["seconds"]}


def kills(kernel: str, rounds: int, scratch: Path) -> Iterator[str]:
    """Kill builds at random moments, and yield a line for each. The cache must then be intact,
    and the next build must make the same kernel as an undisturbed build."""
    bench = Bench(scratch / "cache")
    _share_sources(bench, [kernel], "ccache")
    bench.clean()
    usual = bench.build(kernel)
    control = _artifact(bench)
    chance = random.Random(rounds)
    for number in range(1, rounds + 1):
        bench.clean()
        moment = chance.uniform(0, usual)
        process = command.start("kernel", "build", kernel, IOMMU_HARNESS_CACHE=str(bench.cache))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moment)
        process.kill()
        process.communicate()
        left = len(list(bench.cache.glob("kernel/*")))
        bench.timed([*command.PROGRAM, "cache", "verify"])
        bench.build(kernel)
        same = _artifact(bench) == control
        word = "the same kernel" if same else "A DIFFERENT KERNEL"
        yield f"{number}: killed after {moment:.1f} s, {left} entries left, then {word}"


def _artifact(bench: Bench) -> dict[str, str]:
    """The digests of all files of the only kernel, except the build log."""
    (entry,) = bench.cache.glob("kernel/*")
    files = manifest.scan(entry)
    return {name: key for name, key in files.items() if name not in (cache.SEAL, "build.log")}


def _share_sources(bench: Bench, kernels: list[str], *more: str) -> None:
    """Fetch the sources into the user's cache, which is not measured, and hard-link them."""
    bench.cache.mkdir(parents=True)
    for kernel in kernels:
        fetch = [*command.PROGRAM, "kernel", "config", kernel]
        subprocess.run(fetch, check=True, stdout=subprocess.DEVNULL)
    for name in ("source", "apt", *more):
        subprocess.run(["cp", "-al", str(paths.cache() / name), str(bench.cache)], check=True)


def _change(bench: Bench, kernel: str, scratch: Path, number: int) -> float:
    # The package's source, because the source in the work tree has the patch of the last round.
    (source,) = bench.cache.glob("source/linux-source-6.12_*/tree/drivers/iommu/iommu.c")
    last = len(source.read_text().splitlines())
    tail = source.read_text().splitlines()[-3:]
    context = "".join(f" {line}\n" for line in tail)
    name = "drivers/iommu/iommu.c"
    patch = scratch / f"{number}.patch"
    patch.write_text(
        f"--- a/{name}\n+++ b/{name}\n@@ -{last - 2},3 +{last - 2},4 @@\n{context}"
        f"+int harness_change_{number};\n"
    )
    return bench.timed([sys.executable, "-c", _ANSWER, kernel, str(patch)])


def _unchanged(bench: Bench, kernel: str) -> float:
    return statistics.median(bench.build(kernel) for _ in range(5))


def _commit(tree: Path) -> None:
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org", "-c", "gc.auto=0"]
    for arguments in (["init", "-q"], ["add", "-A", "--force"], ["commit", "-qm", "all"]):
        subprocess.run(["git", "-C", str(tree), *identity, *arguments], check=True)


def _first_version(bench: Bench, tree: Path, objects: Path) -> dict[str, Any]:
    """Time tinyconfig, the options and make, with an empty ccache as in our cold build."""
    shutil.rmtree(bench.cache / "ccache", ignore_errors=True)
    cross = f"CROSS_COMPILE={tools.CROSS}"
    make = ["make", "-s", "-C", str(tree), f"O={objects}", "ARCH=arm64", cross]
    make += [f"CC=ccache {tools.CROSS}gcc", f"-j{os.cpu_count() or 1}"]
    cached = {"CCACHE_DIR": str(bench.cache / "ccache")}
    objects.mkdir()
    seconds = bench.timed([*make, "tinyconfig"], **cached)
    with (objects / ".config").open("a") as file:
        file.write(FIRST.read_text())
    for goals in (["olddefconfig"], ["Image", "modules"]):
        seconds += bench.timed([*make, *goals], **cached)
    return {"seconds": seconds, "objects": sum(1 for _ in objects.rglob("*.o"))}
