# SPDX-License-Identifier: GPL-2.0-only
"""A replay as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from harness.guest.guest import Step
from harness.guest.state import State, changes
from harness.klog import splat
from harness.machine import provenance
from harness.report.part import Command
from harness.repro.replayed import Judgement

if TYPE_CHECKING:
    from harness.repro.replay import Result


def result(done: Result) -> dict[str, Any]:
    """The result as the JSON object that the command prints."""
    commands = done.request.session.commands
    return {
        "verdict": done.verdict.word,
        "reason": done.verdict.reason,
        "symptom": done.verdict.symptom,
        "report": done.request.name,
        "kernel": done.kernel.label,
        "machine": done.request.machine.name,
        "provenance": {
            "kernel": provenance.of_kernel(done.kernel),
            "tools": provenance.of_tools(done.request.machine.qemu),
        },
        "run_dir": str(done.directory),
        "notes": [*done.request.notes, *done.kernel.notes, *done.notes],
        "claims": [claim(each) for each in done.judged],
        "steps": [
            step(commands[number], each, _of_step(done.judged, number))
            for number, each in enumerate(done.steps)
        ],
        "splats": [asdict(each) for each in done.splats],
        "lost_records": [list(gap) for gap in done.lost_records],
        "unmentioned_splats": [each.title for each in done.unmentioned],
    }


def _of_step(judged: Sequence[Judgement], number: int) -> list[Judgement]:
    return [each for each in judged if each.claim.step == number]


def claim(each: Judgement) -> dict[str, Any]:
    """One claim as JSON; ``held`` is null where this guest cannot show it."""
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
    """One step as JSON: what was typed, expected and seen."""
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
        "refcounts": refcounts(done),
        "groups": [_groups(done.before), _groups(done.after)],
        "untranslated": done.after.untranslated,
        "changes": changes(done.before, done.after),
        "kmsg": [asdict(entry) for entry in done.kmsg],
        "splats": [asdict(each) for each in splat.find([entry.text for entry in done.kmsg])],
        "seconds": round(done.seconds, 6),
    }


def _difference(each: Judgement) -> dict[str, str]:
    return {"expected": each.claim.text, "observed": each.reason}


def refcounts(done: Step) -> dict[str, list[int | None]]:
    """Before and after, of each module loaded at either time; None when it is not."""
    names = sorted(done.before.modules.keys() | done.after.modules.keys())
    return {
        name: [done.before.refcount_if_loaded(name), done.after.refcount_if_loaded(name)]
        for name in names
    }


def _groups(state: State) -> dict[str, Any]:
    return {
        str(number): {"type": group.type, "devices": list(group.devices)}
        for number, group in sorted(state.groups.items())
    }
