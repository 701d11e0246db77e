# SPDX-License-Identifier: GPL-2.0-only
"""What ``--patch`` names: a diff, an mbox with a series or a whole thread, a
directory that ``git format-patch`` filled, or an archive's page.

From a thread the patches are taken that were posted as such, of the last version,
in their order; what replies quote or propose is left.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from harness import mail
from harness.errors import UsageError
from harness.mail import Message

# Where a diff begins, in a message or a file.
_DIFF = re.compile(rb"^(?:diff --git \S|--- \S.*\n\+\+\+ \S)", re.MULTILINE)

_TAG = re.compile(r"\[[^\]]*\bPATCH\b[^\]]*\]")
_VERSION = re.compile(r"\bv(\d+)\b", re.IGNORECASE)
_NUMBER = re.compile(r"\b(\d+)/(\d+)\]")


@dataclass(frozen=True, slots=True)
class Patch:
    """``name`` says which, to people; ``text`` is a diff that git can apply."""

    name: str
    text: bytes


@dataclass(frozen=True, slots=True)
class _Posted:
    """A message with a diff. ``number`` of ``total`` in its series; None for one that
    is not numbered."""

    message: Message
    diff: bytes
    version: int
    number: int | None
    total: int

    @property
    def is_posted(self) -> bool:
        """Whether it is a patch and not a reply with one."""
        return bool(_TAG.match(self.message.subject))


def read(path: Path) -> list[Patch]:
    """The patches, in the order in which they apply. Raises UsageError for a file
    without any, and for a series of which one is missing."""
    if path.is_dir():
        return _directory(path)
    posted = _chosen([each for message in mail.read(path) if (each := _posted(message))])
    if not posted:
        raise UsageError(f"{path.name} has no diff in it", "name a patch")
    _check_complete(posted, path.name)
    if len(posted) == 1:
        return [Patch(path.name, posted[0].diff)]
    return [Patch(_name(path.name, n, each), each.diff) for n, each in enumerate(posted, start=1)]


def _directory(path: Path) -> list[Patch]:
    files = sorted(path.glob("*.patch"))
    found = [(file, each) for file in files for each in mail.read(file)]
    patches = [Patch(file.name, diff) for file, each in found if (diff := _diff(each))]
    if not patches:
        raise UsageError(f"{path} has no *.patch file with a diff in it", "name another directory")
    return patches


def _diff(message: Message) -> bytes:
    """The diffs of the body, else of what is attached to it."""
    for part in (message.raw, b"".join(message.attachments)):
        if start := _DIFF.search(part):
            return part[start.start() :]
    return b""


def _posted(message: Message) -> _Posted | None:
    diff = _diff(message)
    if not diff:
        return None
    tag = match[0] if (match := _TAG.match(message.subject)) else ""
    version = _VERSION.search(tag)
    number = _NUMBER.search(tag)
    return _Posted(
        message,
        diff,
        int(version[1]) if version else 1,
        int(number[1]) if number else None,
        int(number[2]) if number else 1,
    )


def _chosen(posted: list[_Posted]) -> list[_Posted]:
    """Of what was posted as a patch the last version, in order; all that there is
    where subjects do not tell."""
    tagged = [each for each in posted if each.is_posted]
    if not tagged:
        return posted
    latest = max(each.version for each in tagged)
    chosen = [each for each in tagged if each.version == latest]
    return sorted(chosen, key=lambda each: each.number or 0)


def _check_complete(posted: list[_Posted], name: str) -> None:
    numbers = [each.number for each in posted if each.number]
    missing = set(range(1, max((each.total for each in posted), default=1) + 1)) - set(numbers)
    if len(numbers) > 1 and missing:
        listed = ", ".join(str(number) for number in sorted(missing))
        raise UsageError(
            f"{name} has {len(numbers)} patches of a series of {posted[0].total}: {listed} missing",
            "name the whole series, or single patches in a directory",
        )
    if len(numbers) != len(set(numbers)):
        raise UsageError(f"{name} has several patches of one number", "keep one version of each")


def _name(file: str, number: int, posted: _Posted) -> str:
    title = _TAG.sub("", posted.message.subject).strip()
    return f"{file} ({number}: {title})" if title else f"{file} ({number})"
