# SPDX-License-Identifier: GPL-2.0-only
"""Apply patches to a directory with ``git apply``. A patch applies completely or not at all, and
never outside the directory.

Notes report the hunks that have moved. If a hunk does not apply, the error shows the most similar
lines.
"""

import difflib
import re
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from harness.errors import PatchMismatch, ProgramFailed, UsageError
from harness.host import program
from harness.kernel.series import Patch

# The lines of context that must match on each side of a hunk: all, then two, then one.
_CONTEXTS = ((), ("-C2",), ("-C1",))

_CHECKING = re.compile(r"Checking patch (.+)\.\.\.")
_MOVED = re.compile(r"Hunk #(\d+) succeeded at (\d+) \(offset (-?\d+) lines?\)\.")
_REDUCED = re.compile(r"Context reduced to \((\d+)/(\d+)\) to apply fragment at (\d+)")
_FAILED = re.compile(r"error: patch failed: (.+):(\d+)")
_FILE = re.compile(r"\+\+\+ (?:b/)?([^\t\n]+)")
_HUNK = re.compile(r"@@ -(\d+)(?:,\d+)? \+\d+(?:,\d+)? @@")


def touched_files(patch: Patch) -> set[str]:
    """The old and new paths of all files that the patch touches. Raises UsageError for a path
    outside the tree."""
    names: set[str] = set()
    with tempfile.TemporaryDirectory() as empty:
        # git lists only the new name of a renamed file, so both directions are listed.
        for direction in ((), ("--reverse",)):
            listing = _git_apply(Path(empty), patch, "--numstat", "-z", *direction)
            names |= {field.split("\t")[-1] for field in listing.split("\0")} - {""}
    for name in names:
        if name.startswith("/") or ".." in Path(name).parts:
            raise UsageError(f"{patch.name} has a path outside the tree: {name}", "fix the patch")
    return names


def apply(tree: Path, patch: Patch) -> list[str]:
    """Apply the patch, and return a note for each hunk that did not apply exactly.

    Raises PatchMismatch with the first hunk that does not apply.
    """
    failures = []
    for context in _CONTEXTS:
        try:
            output = _git_apply(tree, patch, "--verbose", *context)
        except _Rejected as rejection:
            failures.append(rejection.output)
        else:
            return list(_notes(output))
    raise _diagnosed(tree, patch, failures[0])


class _Rejected(Exception):
    def __init__(self, output: str) -> None:
        super().__init__(output)
        self.output = output


def _git_apply(tree: Path, patch: Patch, *options: str) -> str:
    # Otherwise git resolves the paths relative to a repository above the tree.
    env = program.environment(GIT_CEILING_DIRECTORIES=str(tree.parent), HOME=str(tree.parent))
    with tempfile.NamedTemporaryFile(suffix=".patch") as file:
        file.write(patch.text)
        file.flush()
        command = ["git", "apply", "--whitespace=nowarn", *options, "--", file.name]
        try:
            return program.run(command, cwd=tree, env=env, errors="surrogateescape")
        except ProgramFailed as failure:
            if "--numstat" in options:
                raise _unreadable(patch, failure) from failure
            raise _Rejected(failure.output) from failure


def _errors(output: str) -> list[str]:
    lines = (line for line in output.splitlines() if line.startswith("error: "))
    return [line.removeprefix("error: ") for line in lines]


def _unreadable(patch: Patch, failure: ProgramFailed) -> UsageError:
    reason = (_errors(failure.output) or [failure.message])[0]
    return UsageError(
        f"git cannot read {patch.name}: {reason}",
        "export it again with git format-patch, or download it with b4 am",
    )


def _notes(output: str) -> Iterator[str]:
    """Yield a note for each hunk that git applied with an offset or with fuzz."""
    file = ""
    for line in output.splitlines():
        if match := _CHECKING.match(line):
            file = match[1]
        elif match := _MOVED.match(line):
            yield f"{file}, hunk {match[1]}, moved {int(match[3]):+d} lines to {match[2]}"
        elif match := _REDUCED.match(line):
            yield (
                f"{file}, line {match[3]}: applied with fuzz: only {match[1]} lines before "
                f"and {match[2]} after match the patch"
            )


def _diagnosed(tree: Path, patch: Patch, output: str) -> PatchMismatch:
    if _is_applied(tree, patch):
        return PatchMismatch(f"{patch.name} is already in this kernel", "leave it out")
    failed = next((match for line in output.splitlines() if (match := _FAILED.match(line))), None)
    if failed is None or not (tree / failed[1]).is_file():
        reason = (_errors(output) or ["git rejects it"])[0]
        return PatchMismatch(
            f"{patch.name} does not apply: {reason}", "use a patch for this kernel"
        )
    name, line = failed[1], int(failed[2])
    expected = _preimage(patch, name, line)
    present = (tree / name).read_text(errors="replace").splitlines()
    at = _nearest(expected, present, line - 1)
    return PatchMismatch(
        f"{patch.name} does not apply to {name}:{line}: {_first_difference(expected, present, at)}",
        "use a patch for this kernel",
        detail=_comparison(name, expected, present, at),
    )


def _is_applied(tree: Path, patch: Patch) -> bool:
    try:
        _git_apply(tree, patch, "--reverse", "--check")
    except _Rejected:
        return False
    return True


@dataclass(frozen=True, slots=True)
class _Hunk:
    file: str
    line: int
    preimage: list[str]


def _hunks(text: str) -> Iterator[_Hunk]:
    """Yield the hunks of a patch, each with the lines that it expects in the file."""
    file = ""
    hunk: _Hunk | None = None
    for line in text.splitlines():
        if match := _HUNK.match(line):
            hunk = _Hunk(file, int(match[1]), [])
            yield hunk
        elif match := _FILE.match(line):
            file, hunk = match[1], None
        elif hunk and line[:1] in (" ", "-", ""):
            hunk.preimage.append(line[1:])
        elif not line.startswith(("+", "\\")):
            hunk = None


def _preimage(patch: Patch, name: str, line: int) -> list[str]:
    hunks = list(_hunks(patch.text.decode(errors="replace")))
    found = (hunk for hunk in hunks if hunk.file == name and hunk.line == line)
    return next((hunk.preimage for hunk in found), [])


def _nearest(expected: list[str], present: list[str], near: int) -> int:
    """The position in ``present`` where the most lines match ``expected``. Of equally good
    positions, the one nearest to ``near``."""

    def match(at: int) -> tuple[int, int]:
        window = present[at : at + len(expected)]
        same = sum(a.strip() == b.strip() for a, b in zip(expected, window, strict=False))
        return same, -abs(at - near)

    return max(range(len(present)), key=match, default=0)


def _first_difference(expected: list[str], present: list[str], at: int) -> str:
    for number, line in enumerate(expected, start=at):
        found = present[number] if number < len(present) else None
        if found != line:
            there = "the file ends" if found is None else f"the tree has {found.strip()!r}"
            return f"it expects {line.strip()!r}, but at line {number + 1} {there}"
    return "the expected lines occur more than once"


def _comparison(name: str, expected: list[str], present: list[str], at: int) -> str:
    """A diff between the lines that the hunk expects and the most similar lines of the file."""
    window = present[at : at + len(expected)]
    difference = difflib.unified_diff(expected, window, lineterm="", n=len(expected))
    body = list(difference)[3:]
    heading = (
        f"{name}: the lines that the patch expects (-), and lines {at + 1}-{at + len(window)} (+)"
    )
    return "\n".join([heading, *body])
