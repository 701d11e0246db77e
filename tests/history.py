# SPDX-License-Identifier: GPL-2.0-only
"""A git history to bisect: Debian's Linux source, with about seventy small changes to its IOMMU
and driver core code. One of them introduces a bug.

Two changes do not build, one does not boot, and one causes an unrelated warning. The change
after each fixes that. Six changes are merged from a branch.
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
# About 30% of released devices keep the module.
_SOMETIMES = _LEAK + "\tif (get_random_u32_below(100) >= 30)\n\t\tmodule_put(ops->owner);\n"

CULPRIT = "iommu: Simplify releasing a device"

# The line that a faulty change adds to a function, and the next change removes.
_PLANTED = {
    "does not build": ("iommu_init", "\treturn iommu_subsystem_ready;\n"),
    "does not boot": ("iommu_init", '\tpanic("no IOMMU");\n'),
    "warns": ("iommu_setup_default_domain", "\tWARN_ON(group);\n"),
}

_AUTHOR = "A Developer <developer@example.org>"


@dataclass
class _Writer:
    """Writes commits for git fast-import. ``marks`` has the mark of each branch's last commit."""

    lines: list[bytes] = field(default_factory=list)
    count: int = 0
    marks: dict[str, int] = field(default_factory=dict)

    def commit(
        self, branch: str, subject: str, files: dict[str, str], merges: str = "", start: str = ""
    ) -> None:
        self.count += 1
        message = f"{subject}\n".encode()
        head = [f"commit refs/heads/{branch}", f"mark :{self.count}"]
        head += [f"committer {_AUTHOR} {1700000000 + self.count * 3600} +0000"]
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
class _Branch:
    """A branch, with the current texts of its files and the functions still to be changed."""

    writer: _Writer
    branch: str
    texts: dict[str, str]
    todo: list[tuple[str, str]]

    def add_messages(self, count: int, start: str = "") -> None:
        """Commit ``count`` changes, each of which adds a debug message to one function."""
        for _ in range(count):
            path, name = self.todo.pop(0)
            self.insert(path, name, '\tpr_debug("%s\\n", __func__);\n')
            self.commit(path, f"{Path(path).stem}: Log calls of {name}", start)
            start = ""

    def insert(self, path: str, name: str, line: str) -> None:
        pattern = re.compile(rf"^(?:[\w *]+ \*?){name}\([^;{{}}]*\)\n\{{\n", re.MULTILINE)
        text = self.texts[path]
        found = pattern.search(text)
        assert found, name
        self.texts[path] = text[: found.end()] + line + text[found.end() :]

    def commit(self, path: str, subject: str, start: str = "") -> None:
        self.writer.commit(self.branch, subject, {path: self.texts[path]}, start=start)

    def plant(self, fault: str) -> None:
        """Commit a faulty change, and the change that fixes it."""
        name, line = _PLANTED[fault]
        before = self.texts[_CORE]
        self.insert(_CORE, name, line)
        self.commit(_CORE, f"iommu: Change {name} ({fault})")
        self.texts[_CORE] = before
        self.commit(_CORE, f"iommu: Fix {name}")


def make(into: Path, *, sometimes: bool = False) -> list[str]:
    """Create the repository, and return the hashes of its commits, oldest first.

    The bug is that a removed device keeps its reference on the IOMMU driver's module, always or,
    with ``sometimes``, in 30% of removals.
    """
    package = debian.find("linux-source-6.12", "arm64")
    tree = debian_source._entry(package) / "tree"
    texts = {name: (tree / name).read_text() for name in (*_FILES, *_BASE)}
    writer = _Writer()
    main = _Branch(writer, "main", texts, _functions(texts, _FILES))
    writer.commit("main", "Linux 6.12", {})
    main.add_messages(12)
    side = _Branch(writer, "side", dict(texts), _functions(texts, _BASE))
    side.add_messages(6, start="main")
    main.add_messages(6)
    merged = {name: side.texts[name] for name in _BASE}
    main.texts |= merged
    writer.commit("main", "Merge branch 'driver-core'", merged, merges="side")
    main.plant("does not build")
    main.add_messages(8)
    main.plant("warns")
    main.add_messages(2)
    main.texts[_CORE] = main.texts[_CORE].replace(_PUT, _SOMETIMES if sometimes else _LEAK, 1)
    main.commit(_CORE, CULPRIT)
    main.add_messages(1)
    main.plant("does not boot")
    main.add_messages(4)
    main.plant("does not build")
    main.add_messages(20)
    _import(writer, tree, into)
    log = subprocess.run(
        ["git", "-C", into, "log", "--reverse", "--format=%H", "main"],
        check=True,
        capture_output=True,
        text=True,
    )
    return log.stdout.split()


def _functions(texts: dict[str, str], names: list[str]) -> list[tuple[str, str]]:
    """Pairs of a file and a function in it. The files alternate."""
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
    """Yield each file of the source in the format of fast-import."""
    for name in sorted(cache.read_seal(tree.parent)):
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
        # All files of the source belong to the first commit, which lists none.
        process.stdin.writelines(writer.lines[:2])
        process.stdin.writelines(_files(tree))
        process.stdin.writelines(writer.lines[2:])
    assert process.returncode == 0


if __name__ == "__main__":
    import sys

    print(len(make(Path(sys.argv[1]), sometimes="sometimes" in sys.argv)))
