# SPDX-License-Identifier: GPL-2.0-only
"""The shell sessions and the splats of a bug report."""

import re
from pathlib import Path

from harness import mail
from harness.errors import UsageError
from harness.klog import splat
from harness.klog.splat import Splat
from harness.scenario import transcript
from harness.scenario.transcript import Session

_LOG_STAMP = re.compile(r"^(?:[> \t]*)(?:<\d+>)?\[ *\d+\.\d+\](?:\[ *[TC]\d+\])? ?")


def read(path: Path) -> list[str]:
    """The texts of the report's messages. Raises UsageError as ``mail.read`` does."""
    return [message.text for message in mail.read(path)]


def sessions(messages: list[str]) -> list[Session]:
    """The sessions of all messages, in order, without those that repeat another."""
    return transcript.without_repeats(
        [session for message in messages for session in transcript.sessions(message)]
    )


def _first_count(messages: list[str], found: list[Session]) -> int:
    """How many of the sessions are in the first message that has any of them."""
    counts = (
        sum(session in found for session in transcript.sessions(message)) for message in messages
    )
    return next((count for count in counts if count), 0)


def choose(messages: list[str], number: int | None, name: str) -> Session:
    """The session to replay: ``number`` counts from 1 over ``sessions``; None takes
    the only one of the first message that has any.

    Raises UsageError, listing the sessions, when that is no answer.
    """
    found = sessions(messages)
    if not found:
        raise UsageError(
            f"no shell session in {name}", "a session is lines such as '$ modprobe arm-smmu-v3'"
        )
    if number is not None and 1 <= number <= len(found):
        return found[number - 1]
    if number is None and _first_count(messages, found) == 1:
        return found[0]
    problem = f"{name} has {len(found)} sessions"
    if number is not None:
        problem = f"no session {number} in {name}; it has {len(found)}"
    raise UsageError(f"{problem} ({listing(found)})", "choose one with --session N")


def listing(found: list[Session]) -> str:
    """The sessions in a line, numbered as ``choose`` takes them."""
    return ", ".join(f"{n}: {_title(session)}" for n, session in enumerate(found, start=1))


def _title(session: Session) -> str:
    first = session.commands[0]
    count = len(session.commands)
    commands = f"{count} command{'s' * (count > 1)} from '{first.text[:40]}'"
    return f"line {first.line} of its message, {commands}"


def splats(messages: list[str]) -> list[Splat]:
    """The splats that the report itself shows."""
    lines = [_LOG_STAMP.sub("", line) for message in messages for line in message.splitlines()]
    return splat.find(lines)
