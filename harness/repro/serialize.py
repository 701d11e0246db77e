# SPDX-License-Identifier: GPL-2.0-only
"""Serialize a replay as JSON objects."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from harness.guest.guest import Step
from harness.guest.state import State, changes
from harness.klog import splat
from harness.machine import provenance
from harness.report.commands import Command
from harness.repro.session_run import Judgement

if TYPE_CHECKING:
    from harness.repro.replay import Result


def result(replayed: Result) -> dict[str, Any]:
    """Serialize a replay as the object that ``repro --json`` prints."""
    commands = replayed.request.session.commands
    return {
        "verdict": replayed.verdict.word,
        "reason": replayed.verdict.reason,
        "symptom": replayed.verdict.symptom,
        "report": replayed.request.name,
        "kernel": replayed.kernel.label,
        "machine": replayed.request.machine.name,
        "provenance": {
            "kernel": provenance.of_kernel(replayed.kernel),
            "tools": provenance.of_tools(replayed.request.machine.qemu),
        },
        "run_dir": str(replayed.directory),
        "notes": [*replayed.request.notes, *replayed.kernel.notes, *replayed.notes],
        "claims": [claim(each) for each in replayed.judged],
        "steps": [
            step(commands[number], each, _about_step(replayed.judged, number))
            for number, each in enumerate(replayed.steps)
        ],
        "splats": [asdict(each) for each in replayed.splats],
        "lost_records": [list(gap) for gap in replayed.lost_records],
        "unmentioned_splats": [each.title for each in replayed.unmentioned],
    }


def _about_step(judged: Sequence[Judgement], number: int) -> list[Judgement]:
    return [each for each in judged if each.claim.step == number]


def claim(each: Judgement) -> dict[str, Any]:
    """Serialize a claim. ``held`` is null if this guest cannot show it. ``step`` counts from 1."""
    return {
        "kind": each.claim.kind,
        "text": each.claim.text,
        "where": each.claim.where,
        "step": None if each.claim.step is None else each.claim.step + 1,
        "symptom": each.claim.symptom,
        "held": each.held,
        "reason": each.reason,
    }


def step(command: Command, done: Step, judged: Sequence[Judgement]) -> dict[str, Any]:
    """Serialize a step: the command, the expected and the observed behaviour, the difference."""
    differing = [each for each in judged if each.held is False]
    return {
        "command": done.command,
        "exit_status": done.status,
        "shell_killed": done.killed,
        "stdout": done.out,
        "stderr": done.err,
        "expected": list(command.output),
        "expected_status": command.status,
        "matched": not differing,
        "difference": _difference(differing[0]) if differing else None,
        "refcounts": {name: list(counts) for name, counts in refcounts(done).items()},
        "groups": [_groups(done.before), _groups(done.after)],
        "untranslated": done.after.untranslated,
        "changes": changes(done.before, done.after),
        "kmsg": [asdict(entry) for entry in done.kmsg],
        "splats": [asdict(each) for each in splat.find([entry.text for entry in done.kmsg])],
        "seconds": round(done.seconds, 6),
    }


def _difference(each: Judgement) -> dict[str, str]:
    return {"expected": each.claim.text, "observed": each.reason}


def refcounts(done: Step) -> dict[str, tuple[int | None, int | None]]:
    """The refcounts before and after the step of each module that is loaded at one of these times.
    The refcount of a module that is not loaded is None."""
    names = sorted(done.before.modules.keys() | done.after.modules.keys())
    return {
        name: (done.before.refcount_if_loaded(name), done.after.refcount_if_loaded(name))
        for name in names
    }


def _groups(state: State) -> dict[str, Any]:
    return {
        str(number): {"type": group.type, "devices": list(group.devices)}
        for number, group in sorted(state.groups.items())
    }
