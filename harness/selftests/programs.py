# SPDX-License-Identifier: GPL-2.0-only
"""Build the programs of tools/testing/selftests from the source of a kernel, for its guests."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.errors import ProgramFailed
from harness.host import cache, debian, program, progress
from harness.kernel import build
from harness.kernel.artifact import Kernel
from harness.kernel.kbuild import Kbuild
from harness.kernel.spec import KernelSpec

# Part of the key. Raise it when the steps below produce a different result.
_RECIPE = "1"

# The libraries with which the programs are linked. Their -dev packages have static libraries.
_LIBRARIES = ("libcap-dev", "uuid-dev")

_ROOT = "tools/testing/selftests"
_ERROR = re.compile(r"\berror: .*|undefined reference to .*|\*\*\* .*")
_FILE = "programs.json"


@dataclass(frozen=True, slots=True)
class Programs:
    """The programs of a directory of selftests. ``files`` are the programs that compile, by name.
    ``broken`` are those that do not, with the compiler's first error. A tree without the directory
    has none."""

    files: Mapping[str, Path]
    broken: Mapping[str, str]


def of(spec: KernelSpec, kernel: Kernel, directories: Sequence[str]) -> dict[str, Programs]:
    """Return the programs of these directories of tools/testing/selftests, compiled from the source
    of the kernel if they are not in the cache. Raises BuildError if the headers cannot be built,
    and HostError if the archive with the libraries cannot be read."""
    libraries = _libraries()
    key = cache.digest(_RECIPE, kernel.key, libraries.name, *directories)

    def make(into: Path) -> None:
        with (
            progress.phase("selftests", f"building the selftests of {kernel.label}"),
            build.open_source(spec) as kbuild,
        ):
            kbuild.make("headers")
            found = {name: _build(kbuild, libraries, name, into / name) for name in directories}
        (into / _FILE).write_text(json.dumps(found))

    entry = cache.entry("selftests", key, f"selftests of {kernel.label}", make)
    records: dict[str, dict[str, str]] = json.loads((entry / _FILE).read_text())
    return {name: _programs(record, entry / name) for name, record in records.items()}


def _programs(record: Mapping[str, str], directory: Path) -> Programs:
    return Programs(
        {name: directory / name for name, error in record.items() if not error},
        {name: error for name, error in record.items() if error},
    )


def _build(kbuild: Kbuild, libraries: Path, name: str, into: Path) -> dict[str, str]:
    """Build the programs of one directory, and return the name of each with its error, which is
    "" for one that compiles."""
    into.mkdir()
    if not (kbuild.tree.source / _ROOT / name / "Makefile").is_file():
        return {}
    with cache.scratch() as output:
        names = list(_names(kbuild, output, name))
        try:
            _make(kbuild, output, name, *_flags(libraries), "--keep-going", "all")
            error = ""
        except ProgramFailed as failure:
            error = _first_error(failure.output)
        found = {each: "" if (output / each).is_file() else error for each in names}
        for each in (each for each, broken in found.items() if not broken):
            program.run(["aarch64-linux-gnu-strip", "-o", str(into / each), str(output / each)])
    return found


def _names(kbuild: Kbuild, output: Path, name: str) -> Iterator[str]:
    """The names of the programs, from lib.mk's own list."""
    for line in _make(kbuild, output, name, "COLLECTION=-", "emit_tests").splitlines():
        if line.startswith("-:"):
            yield line.removeprefix("-:")


def _flags(libraries: Path) -> list[str]:
    root = libraries / "root/usr"
    (archives,) = root.glob("lib/*/libcap.a")
    return [
        f"USERCFLAGS=-I{root}/include",
        f"USERLDFLAGS=-static -L{archives.parent}",
    ]


def _make(kbuild: Kbuild, output: Path, name: str, *words: str) -> str:
    tree = kbuild.tree
    command = ["make", "--no-print-directory", "-C", str(tree.source / _ROOT / name)]
    command += [f"OUTPUT={output}", "ARCH=arm64", *kbuild.toolchain.variables]
    command += [f"KHDR_INCLUDES=-isystem {tree.objects}/usr/include", *words]
    return program.run(command, env=kbuild.environment(), log=kbuild.log)


def _first_error(output: str) -> str:
    match = _ERROR.search(output)
    return match[0] if match else "make failed"


def _libraries() -> Path:
    """The cache entry with the arm64 libraries."""
    packages = [debian.find(name, "arm64") for name in _LIBRARIES]

    def make(into: Path) -> None:
        with cache.scratch() as scratch, progress.phase("selftests", "fetching libraries"):
            for each in packages:
                debian.unpack(debian.download(each, scratch), into / "root")

    key = cache.digest(_RECIPE, *(f"{each.name}={each.version}" for each in packages))
    return cache.entry("libraries", key, "libraries for selftests", make)
