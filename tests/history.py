# SPDX-License-Identifier: GPL-2.0-only
"""A git history to be searched: Linux as Debian has it, and some seventy small changes to
its IOMMU and driver core code, with one bug among them and what gets in a search's way.

Two changes do not build, one does not boot, one makes the kernel warn about something
else; the changes after them mend that. Six come by a merge.
"""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from harness.host import cache, debian
from harness.kernel import debian_source

_IOMMU = ("iommu.c", "dma-iommu.c", "of_iommu.c", "iova.c", "iommu-sysfs.c", "virtio-iommu.c")
_FILES = [f"drivers/iommu/{name}" for name in _IOMMU]
_FILES += ["drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3.c"]
_BASE = [f"drivers/base/{name}" for name in ("dd.c", "core.c", "bus.c", "platform.c")]

_FUNCTION = re.compile(
    r"^(?:static )?(?:int|void|bool|ssize_t) (\w+)\([^;{}]*\)\n\{\n", re.MULTILINE
)

_CORE = "drivers/iommu/iommu.c"
_PUT = "\tdev->iommu_group = NULL;\n\tmodule_put(ops->owner);\n"
_LEAK = "\tdev->iommu_group = NULL;\n"
# A user's every third device keeps the module.
_SOMETIMES = _LEAK + "\tif (get_random_u32_below(100) >= 30)\n\t\tmodule_put(ops->owner);\n"

CULPRIT = "iommu: Simplify releasing a device"

# What a change puts into a function, and the one after it takes out again.
_PLANTED = {
    "does not build": ("iommu_init", "\treturn iommu_subsystem_ready;\n"),
    "does not boot": ("iommu_init", '\tpanic("no IOMMU");\n'),
    "warns": ("iommu_setup_default_domain", "\tWARN_ON(group);\n"),
}

_WHO = "A Developer <developer@example.org>"


@dataclass
class _Writer:
    """Commits for git fast-import, on branches with their files' texts."""

    lines: list[bytes] = field(default_factory=list)
    count: int = 0
    marks: dict[str, int] = field(default_factory=dict)

    def commit(
        self, branch: str, subject: str, files: dict[str, str], merges: str = "", start: str = ""
    ) -> None:
        self.count += 1
        message = f"{subject}\n".encode()
        head = [f"commit refs/heads/{branch}", f"mark :{self.count}"]
        head += [f"committer {_WHO} {1700000000 + self.count * 3600} +0000"]
        self.lines.append("\n".join(head).encode() + b"\n")
        self.lines.append(b"data %d\n" % len(message) + message)
        parent = self.marks.get(start or branch)
        if parent:
            self.lines.append(b"from :%d\n" % parent)
        if merges:
            self.lines.append(b"merge :%d\n" % self.marks[merges])
        for name, text in files.items():
            self.lines.append(_file(name, text.encode()))
        self.marks[branch] = self.count


def _file(name: str, data: bytes, mode: str = "100644") -> bytes:
    return f"M {mode} inline {name}\ndata {len(data)}\n".encode() + data + b"\n"


@dataclass
class _Line:
    """A branch: its files' present texts, and the functions that are still to be changed."""

    writer: _Writer
    branch: str
    texts: dict[str, str]
    todo: list[tuple[str, str]]

    def small(self, count: int, start: str = "") -> None:
        """One function after the other says that it was called."""
        for _ in range(count):
            path, name = self.todo.pop(0)
            self.insert(path, name, '\tpr_debug("%s\\n", __func__);\n')
            self.commit(path, f"{Path(path).stem}: Say when {name} is called", start)
            start = ""

    def insert(self, path: str, name: str, line: str) -> None:
        pattern = re.compile(rf"^(?:[\w *]+ \*?){name}\([^;{{}}]*\)\n\{{\n", re.MULTILINE)
        text = self.texts[path]
        found = pattern.search(text)
        assert found, name
        self.texts[path] = text[: found.end()] + line + text[found.end() :]

    def commit(self, path: str, subject: str, start: str = "") -> None:
        self.writer.commit(self.branch, subject, {path: self.texts[path]}, start=start)

    def plant(self, what: str) -> None:
        """A change with a fault, and the one that mends it."""
        name, line = _PLANTED[what]
        before = self.texts[_CORE]
        self.insert(_CORE, name, line)
        self.commit(_CORE, f"iommu: Look at {name} ({what})")
        self.texts[_CORE] = before
        self.commit(_CORE, f"iommu: Mend {name}")


def make(into: Path, *, sometimes: bool = False) -> list[str]:
    """Makes the repository; the hashes of its commits, in the order of git's log. The bug:
    a device that goes keeps the IOMMU's module, each time or in 30 % of times."""
    package = debian.find("linux-source-6.12", "arm64")
    tree = debian_source._entry(package) / "tree"
    texts = {name: (tree / name).read_text() for name in (*_FILES, *_BASE)}
    writer = _Writer()
    main = _Line(writer, "main", texts, _functions(texts, _FILES))
    writer.commit("main", "Linux 6.12", {})
    main.small(12)
    side = _Line(writer, "side", dict(texts), _functions(texts, _BASE))
    side.small(6, start="main")
    main.small(6)
    merged = {name: side.texts[name] for name in _BASE}
    main.texts |= merged
    writer.commit("main", "Merge branch 'driver-core'", merged, merges="side")
    main.plant("does not build")
    main.small(8)
    main.plant("warns")
    main.small(2)
    main.texts[_CORE] = main.texts[_CORE].replace(_PUT, _SOMETIMES if sometimes else _LEAK, 1)
    main.commit(_CORE, CULPRIT)
    main.small(1)
    main.plant("does not boot")
    main.small(4)
    main.plant("does not build")
    main.small(20)
    _import(writer, tree, into)
    log = subprocess.run(
        ["git", "-C", into, "log", "--reverse", "--format=%H", "main"],
        check=True,
        capture_output=True,
        text=True,
    )
    return log.stdout.split()


def _functions(texts: dict[str, str], names: list[str]) -> list[tuple[str, str]]:
    """One function of each file in turn."""
    found = {name: iter(_FUNCTION.findall(texts[name])) for name in names}
    order = []
    while found:
        for name in list(found):
            function = next(found[name], None)
            if function is None:
                del found[name]
            elif not function.startswith(("__", "trace")):
                order.append((name, function))
    return order


def _files(tree: Path) -> Iterator[bytes]:
    """All files of the source, one after the other."""
    for name in sorted(cache.sealed(tree.parent)):
        file = tree.parent / name
        inside = name.removeprefix("tree/")
        if file.is_symlink():
            yield _file(inside, str(file.readlink()).encode(), "120000")
        else:
            mode = "100755" if file.stat().st_mode & 0o100 else "100644"
            yield _file(inside, file.read_bytes(), mode)


def _import(writer: _Writer, tree: Path, into: Path) -> None:
    subprocess.run(["git", "init", "-q", "-b", "main", str(into)], check=True)
    settings = ["-c", "core.compression=0", "-c", "pack.compression=0"]
    command = ["git", *settings, "-C", str(into), "fast-import", "--quiet"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as process:
        assert process.stdin
        # The files of the first commit, which names none of its own.
        process.stdin.writelines(writer.lines[:2])
        process.stdin.writelines(_files(tree))
        process.stdin.writelines(writer.lines[2:])
    assert process.returncode == 0


if __name__ == "__main__":
    import sys

    print(len(make(Path(sys.argv[1]), sometimes="sometimes" in sys.argv)))
