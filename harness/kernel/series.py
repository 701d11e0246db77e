# SPDX-License-Identifier: GPL-2.0-only
"""Read the patches for ``--patch``: a diff, an mbox with a series or a whole thread, a directory
written by ``git format-patch``, or a page of a mail archive.

From a thread, the patches of the latest version are used, in order. Diffs in replies are ignored.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from harness.errors import UsageError
from harness.host import mail
from harness.host.mail import Message

# Where a diff begins, in a message or a file.
_DIFF = re.compile(rb"^(?:diff --git \S|--- \S.*\n\+\+\+ \S)", re.MULTILINE)

# The tags in brackets before a subject: "[PATCH v2 1/3]", "[list] [RFC 2/5]",
# "[PATCHv2]", "[patch 1/2 v3]".
_TAGS = re.compile(r"(?:\[[^\]]*\]\s*)+")
_IS_PATCH = re.compile(r"\b(?:patch|rfc)", re.IGNORECASE)
_VERSION = re.compile(r"(?:\b|patch|rfc)v(\d+)\b", re.IGNORECASE)
_NUMBER = re.compile(r"\b(\d+)/(\d+)\b")


@dataclass(frozen=True, slots=True)
class Patch:
    """A patch. ``name`` identifies it for users, ``title`` is its subject, and ``text`` is a diff
    that git can apply."""

    name: str
    text: bytes
    title: str = ""


@dataclass(frozen=True, slots=True)
class _Posted:
    """A message with a diff. ``name`` is its subject without the ``tags`` in brackets before it.
    It is ``number`` of ``total`` in its series; ``number`` is None if it is not numbered."""

    name: str
    diff: bytes
    tags: str
    version: int
    number: int | None
    total: int

    @property
    def is_patch(self) -> bool:
        """Whether the message was posted as a patch and is not a reply."""
        return bool(_IS_PATCH.search(self.tags))


def read(path: Path) -> list[Patch]:
    """Read the patches of a file or directory, in the order in which they apply. Raises UsageError
    if there is no patch, or if the series is incomplete."""
    if path.is_dir():
        return _directory(path)
    posted = _posted(path)
    chosen = _latest(posted)
    if not chosen:
        raise UsageError(
            f"{path.name} has no diff", "give a patch, an mbox or a directory of patches"
        )
    if len([each for each in posted if each.is_patch]) > 1:
        _check_complete(chosen, path.name)
    if len(chosen) == 1:
        return [Patch(path.name, chosen[0].diff, chosen[0].name)]
    return [
        Patch(
            f"{path.name} ({number}{f': {each.name}' if each.name else ''})", each.diff, each.name
        )
        for number, each in enumerate(chosen, start=1)
    ]


def _directory(path: Path) -> list[Patch]:
    """Read the patches in ``*.patch``, by file name, because git numbers the files."""
    found = [(file, each) for file in sorted(path.glob("*.patch")) for each in _posted(file)]
    if not found:
        raise UsageError(f"{path} has no *.patch file with a diff", "give a directory of patches")
    versions = sorted({each.version for _, each in found})
    if len(versions) > 1:
        listed = " and ".join(f"v{version}" for version in versions)
        raise UsageError(f"{path} has patches of {listed}", "keep the patches of one version")
    return [Patch(file.name, each.diff, each.name) for file, each in found]


def _posted(path: Path) -> list[_Posted]:
    """Read the messages with a diff. The cover letter (number 0) is skipped, because it may have a
    diff against the previous version of the series."""
    found = (_parsed(message) for message in mail.read(path))
    return [each for each in found if each and each.number != 0]


def _parsed(message: Message) -> _Posted | None:
    diff = _diff(message)
    if not diff:
        return None
    tags = match[0] if (match := _TAGS.match(message.subject)) else ""
    version = _VERSION.search(tags)
    number = _NUMBER.search(tags)
    return _Posted(
        message.subject.removeprefix(tags).strip(),
        diff,
        tags,
        int(version[1]) if version else 1,
        int(number[1]) if number else None,
        int(number[2]) if number else 1,
    )


def _diff(message: Message) -> bytes:
    """The diffs in the body, otherwise the diffs in the attachments."""
    for part in (message.raw, b"".join(message.attachments)):
        if start := _DIFF.search(part):
            return part[start.start() :]
    return b""


def _latest(posted: list[_Posted]) -> list[_Posted]:
    """The patches of the latest version, in order. If no subject marks a patch, all messages."""
    patches = [each for each in posted if each.is_patch]
    if not patches:
        return posted
    latest = max(each.version for each in patches)
    chosen = [each for each in patches if each.version == latest]
    return sorted(chosen, key=lambda each: each.number or 0)


def _check_complete(chosen: list[_Posted], name: str) -> None:
    numbers = [each.number for each in chosen if each.number]
    missing = set(range(1, max(each.total for each in chosen) + 1)) - set(numbers)
    if numbers and missing:
        listed = ", ".join(str(number) for number in sorted(missing))
        version = f"v{chosen[0].version}, " if chosen[0].version > 1 else ""
        raise UsageError(
            f"{name} lacks patches of its series ({version}{chosen[0].total} in all): {listed}",
            "give the whole series, or a directory with the patches to apply",
        )
    if len(numbers) != len(set(numbers)):
        raise UsageError(f"{name} has two patches with the same number", "keep one of them")
