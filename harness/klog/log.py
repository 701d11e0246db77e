# SPDX-License-Identifier: GPL-2.0-only
"""The messages and the splats of any text of a kernel log, streamed."""

from collections.abc import Iterable, Iterator

from harness.klog import splat
from harness.klog.message import Message
from harness.klog.splat import Splat


def messages(lines: Iterable[bytes]) -> Iterator[Message]:
    """The messages in a log's lines, as a file opened for bytes gives them."""
    for number, line in enumerate(lines, start=1):
        yield Message(line.decode(errors="replace").rstrip("\r\n"), number)


def splats(lines: Iterable[bytes]) -> Iterator[Splat]:
    """The reports of a log, each when it ends; ``first`` and ``last`` are its lines, from 1."""
    texts = [each.text for each in messages(lines)]
    yield from splat.find(texts)
