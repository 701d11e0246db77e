# SPDX-License-Identifier: GPL-2.0-only
"""The function that a report is about, from what its lines say."""

import re
from collections import Counter
from collections.abc import Callable, Sequence

from harness.klog import machinery
from harness.klog.anatomy import Anatomy, Trace
from harness.klog.frame import Frame
from harness.klog.kinds import Blame

# A processor in smp_call_function_single and the like waits for what another does.
_WAITING = "smp_call_function"


def place(found: Anatomy, named: str) -> list[str]:
    """The functions to choose from, the likeliest first, of a report whose opening names
    one ("" where it does not)."""
    first = [named] if named else []
    if found.pc and machinery.plain(found.pc.function) != machinery.plain(named):
        first.append(found.pc.function)
    main = _reliable(found.main)
    known = not all(machinery.is_machinery(each) for each in first)
    if known and not any(each.reliable for each in found.main):
        main = []
    names = {machinery.plain(each) for each in first}
    behind = next((i + 1 for i, each in enumerate(main) if machinery.plain(each) in names), 0)
    if found.jumped and not named:
        # Who has jumped there is in the link register.
        first = [found.lr.function] if found.lr else []
    elif not main and found.lr:
        main = [found.lr.function]
    return _linked(found, [*first, *main[behind:]])


def _linked(found: Anatomy, names: list[str]) -> list[str]:
    """With the function of the link register behind that of the program counter: a caller
    that the trace lacks, because its callee or itself has made no frame."""
    if not (found.linked and found.pc and found.lr) or found.jumped:
        return names
    pc, lr = found.pc.function, found.lr.function
    at = names.index(pc) if pc in names else len(names)
    if at == len(names) or lr in {pc, *names[at + 1 : at + 2]}:
        return names
    return [*names[: at + 1], lr, *names[at + 1 :]]


def trace(found: Anatomy, named: str) -> list[str]:
    """Of one that only its call trace locates; lockdep's without one, its first lock."""
    return _reliable(found.main) or place(found, named) or found.locks[:1]


def lock(found: Anatomy, named: str) -> list[str]:
    """Of lockdep's, which says where the lock is taken; where that is a lock's own function,
    the trace says from where, or else the place of another lock."""
    taken = [each for each in found.locks[:2] if not machinery.locks(each)]
    if taken and taken[0] == found.locks[0]:
        return place(found, taken[0])
    return _reliable(found.main) or place(found, next(iter(taken), named)) or found.locks[:1]


def order(found: Anatomy, named: str) -> list[str]:
    """Of lockdep's about interrupts: who takes the lock in one, which it shows first."""
    first = next((each for each in found.traces if each.name == "dependency"), None)
    return _reliable(first.frames) if first else lock(found, named)


def hang(found: Anatomy, named: str) -> list[str]:
    """Of one about what goes on for too long: inside of what dispatched the work. A
    processor that waits for another is not to blame: the waiting is."""
    if found.pc and found.pc.function.startswith(_WAITING):
        return [_WAITING]
    for each in found.traces:
        names = _linked(found, _interrupted(each))
        if any(machinery.plain(name) == "rcu_gp_kthread" for name in names):
            continue
        if names and names[0].startswith(_WAITING):
            return [_WAITING]
        if chosen := _inside(names):
            return chosen
    return place(found, named)


def _inside(names: Sequence[str]) -> list[str]:
    outermost = max((i for i, name in enumerate(names) if _is_work(name)), default=-1)
    last = -1
    for index, name in enumerate(names):
        # A fault that is not a user's is of the work that it has interrupted.
        dispatched = machinery.dispatches(name) and (
            index > outermost or not machinery.faults(name)
        )
        if dispatched and last >= 0 and not machinery.internal(names[last]):
            return list(names[last:])
        if _is_work(name) or (dispatched and last < 0 and not machinery.is_machinery(name)):
            last = index
    return [name for name in names if not machinery.is_machinery(name)]


def _is_work(name: str) -> bool:
    if machinery.named(name).startswith("sys_"):
        return True
    return not machinery.is_machinery(name) and not machinery.dispatches(name)


def _interrupted(each: Trace) -> list[str]:
    """Behind the functions of the interrupt that found it: what enters one is the last of
    them, or the mark says where they end."""
    names = _reliable(each.frames)
    mark, first = each.parts[0]
    entry = (i + 1 for i, name in enumerate(names) if machinery.interrupts(name))
    end = next(entry, len(_reliable(first)) if mark else 0)
    if not all(machinery.is_machinery(name) for name in names[:end]):
        return names
    return names[end:] or names


# What ends a grace period is somewhere else than what waits for its end.
_GRACE_PERIOD = re.compile(r"_?(synchronize_(?:s?rcu|net|sched)|s?rcu_barrier)\w*")
# Since 5.1 RCU has one flavour.
_FLAVOURS = {"synchronize_sched": "synchronize_rcu"}


def wait(found: Anatomy, named: str) -> list[str]:
    """Of a task that waits for too long: what waits, or that it is for RCU."""
    names = trace(found, named)
    matches = [_GRACE_PERIOD.fullmatch(machinery.plain(each)) for each in names]
    at = next((i for i, match in enumerate(matches) if match), -1)
    # What waits for the lock of a barrier waits for some other task's.
    locked = at > 0 and "mutex_lock" in names[at - 1]
    if (match := matches[at] if at >= 0 else None) and not locked:
        return [_FLAVOURS.get(match[1], match[1])]
    if all(machinery.is_machinery(each) for each in names):
        # It waits for memory that a page fault has to read or to map.
        return [each for each in names if machinery.faults(each)] or names
    return [each for each in names if not machinery.waits(each)] or names


def outermost(found: Anatomy, named: str) -> list[str]:
    """Of one that came to light by chance: the work that the task was at."""
    names = trace(found, named)
    for index in range(len(names) - 1, -1, -1):
        if not (machinery.is_machinery(names[index]) or machinery.dispatches(names[index])):
            return names[index:]
    return names


# A function that calls itself, directly or through others, appears more often.
_RECURSION = 3


def recursion(found: Anatomy, named: str) -> list[str]:
    """Of one that has used up its stack: the function that the trace repeats most."""
    names = place(found, named)
    own = Counter(n for n in names if not machinery.is_machinery(n))
    most = max(own.values(), default=0)
    if most < _RECURSION:
        return names
    first = next(index for index, name in enumerate(names) if own[name] == most)
    return names[first:]


def caller(found: Anatomy, named: str) -> list[str]:
    """Of one that names its caller in a line of its own: that function, whatever it is."""
    named_ones = [found.caller] if found.caller and not machinery.reports(found.caller) else []
    return named_ones or trace(found, named)


def text(found: Anatomy, named: str) -> list[str]:
    """Of one whose opening says it, or nothing does."""
    return [named] if named else trace(found, named)


def work(found: Anatomy, _named: str) -> list[str]:
    """Of one that shows what the workers are at, if it does."""
    return [found.work] if found.work else []


def none(found: Anatomy, _named: str) -> list[str]:
    """Of one that is about no function, unless it says which was the last."""
    return [found.last_function] if found.last_function else []


BLAMES: dict[Blame, Callable[[Anatomy, str], list[str]]] = {
    "place": place,
    "trace": trace,
    "lock": lock,
    "order": order,
    "hang": hang,
    "wait": wait,
    "outermost": outermost,
    "recursion": recursion,
    "caller": caller,
    "text": text,
    "work": work,
    "none": none,
}


def _reliable(frames: Sequence[Frame]) -> list[str]:
    real = [each for each in frames if not each.inline] or frames
    sure = [each.function for each in real if each.reliable]
    return sure or [each.function for each in real]


# What is passed over when the first function to blame is looked for.
_ASIDE = {"lock": machinery.locks, "order": machinery.locks}


def guilty(kind: Blame, found: Anatomy, candidates: Sequence[str]) -> tuple[str, str]:
    """The first of the functions that is not machinery, and the next one outward; where
    all are, the first that does not report, or at least does not only print."""
    aside = _ASIDE.get(kind, machinery.is_machinery)
    sides = ((machinery.of_modules if n in found.modular else aside, n) for n in candidates)
    real = [name for side, name in sides if not side(name)]
    if not real:
        other = [each for each in candidates if not machinery.reports(each)]
        other = [each for each in other if not machinery.schedules(each)] or other
        other = other or [each for each in candidates if not machinery.prints(each)]
        return machinery.named(next(iter(other or candidates), "")), ""
    if machinery.runs_tests(real[0]):
        real = [*candidates[: candidates.index(real[0])][-1:], *real]
    outward = (machinery.named(each) for each in real[1:])
    function = machinery.named(real[0])
    return function, next((each for each in outward if each != function), "")
