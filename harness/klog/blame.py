# SPDX-License-Identifier: GPL-2.0-only
"""Find the function to blame for a splat, by the rule of its kind (``blame`` in kinds.toml).

Each rule returns candidates, likeliest first. ``guilty`` chooses the first candidate that is not
machinery. ``named`` is the function in the opening, or "".
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence

from harness.klog import machinery
from harness.klog.anatomy import Anatomy, Trace
from harness.klog.frame import Frame
from harness.klog.kinds import Blame

# A CPU in smp_call_function_single() or a similar function waits for another CPU.
_WAITING = "smp_call_function"


def place(found: Anatomy, named: str) -> list[str]:
    """The named function, the function of the program counter, then the frames outward of both."""
    first = [named] if named else []
    if found.pc and machinery.plain(found.pc.function) != machinery.plain(named):
        first.append(found.pc.function)
    main = _callers(found)
    known = not all(machinery.is_machinery(each) for each in first)
    if known and not any(each.reliable for each in found.main):
        main = []
    names = {machinery.plain(each) for each in first}
    after = next((i + 1 for i, each in enumerate(main) if machinery.plain(each) in names), 0)
    if found.jumped and not named:
        # The link register holds the function that jumped.
        first = [found.lr.function] if found.lr else []
    elif not main and found.lr:
        main = [found.lr.function]
    return _linked(found, [*first, *main[after:]])


def _linked(found: Anatomy, names: list[str]) -> list[str]:
    """Insert the function of the link register after the function of the program counter: a
    caller that is missing in the trace because it or its callee has no frame."""
    if not (found.linked and found.pc and found.lr) or found.jumped:
        return names
    pc, lr = found.pc.function, found.lr.function
    at = names.index(pc) if pc in names else len(names)
    if at == len(names) or lr in {pc, *names[at + 1 : at + 2]}:
        return names
    return [*names[: at + 1], lr, *names[at + 1 :]]


def trace(found: Anatomy, named: str) -> list[str]:
    """The frames of the call trace. Without a trace: the place, or the first lock."""
    return _callers(found) or place(found, named) or found.locks[:1]


def lock(found: Anatomy, named: str) -> list[str]:
    """The function that acquires the lock according to lockdep. If it is a locking function: its
    caller in the trace, or the place of the second lock."""
    acquired = [each for each in found.locks[:2] if not machinery.locks(each)]
    if acquired and acquired[0] == found.locks[0]:
        return place(found, acquired[0])
    return _reliable(found.main) or place(found, next(iter(acquired), named)) or found.locks[:1]


def order(found: Anatomy, named: str) -> list[str]:
    """The function that acquires the lock in an interrupt, from the first trace that lockdep
    prints."""
    first = next((each for each in found.traces if each.name == "dependency"), None)
    return _reliable(first.frames) if first else lock(found, named)


def hang(found: Anatomy, named: str) -> list[str]:
    """The function called by the dispatcher of the work. If the CPU waits for another CPU, the
    wait is to blame."""
    if found.pc and found.pc.function.startswith(_WAITING):
        return [_WAITING]
    for each in found.traces:
        names = _linked(found, _interrupted(each))
        if any(machinery.plain(name) == "rcu_gp_kthread" for name in names):
            continue
        # A sanitizer can be within the wait.
        innermost = next((name for name in names if not machinery.reports(name)), "")
        if innermost.startswith(_WAITING):
            return [_WAITING]
        if chosen := _dispatched(names) or [n for n in names if not machinery.is_machinery(n)]:
            return chosen
    return place(found, named)


def _dispatched(names: Sequence[str]) -> list[str]:
    """The function called by the innermost dispatcher, and the frames outward of it. Empty without
    a dispatcher."""
    outermost = max((i for i, name in enumerate(names) if _is_work(name)), default=-1)
    last = -1
    for index, name in enumerate(names):
        # A page fault of the kernel belongs to the work that caused it.
        dispatched = machinery.dispatches(name) and (
            index > outermost or not machinery.faults(name)
        )
        if dispatched and last >= 0 and not machinery.internal(names[last]):
            return list(names[last:])
        if _is_work(name) or (dispatched and last < 0 and not machinery.is_machinery(name)):
            last = index
    return []


def _is_work(name: str) -> bool:
    if machinery.named(name).startswith("sys_"):
        return True
    return not machinery.is_machinery(name) and not machinery.dispatches(name)


def _interrupted(each: Trace) -> list[str]:
    """The frames below the interrupt that detected the hang: the frames after the function that
    enters the interrupt, or after the mark."""
    names = _reliable(each.frames)
    mark, first = each.parts[0]
    entry = (i + 1 for i, name in enumerate(names) if machinery.interrupts(name))
    end = next(entry, len(_reliable(first)) if mark else 0)
    if not all(machinery.is_machinery(name) for name in names[:end]):
        return names
    return names[end:] or names


# The functions that wait for a grace period are not the cause if it does not end.
_GRACE_PERIOD = re.compile(r"_{0,2}(synchronize_(?:s?rcu|net|sched)|s?rcu_barrier)\w*")
# Since 5.1 RCU has only one flavour.
_FLAVOURS = {"synchronize_sched": "synchronize_rcu"}


def wait(found: Anatomy, named: str) -> list[str]:
    """The function that waits. For RCU, the wait itself."""
    names = trace(found, named)
    matches = [_GRACE_PERIOD.fullmatch(machinery.plain(each)) for each in names]
    at = next((i for i, match in enumerate(matches) if match), -1)
    # A task that waits for the mutex of a barrier waits for another task.
    locked = at > 0 and "mutex_lock" in names[at - 1]
    if (match := matches[at] if at >= 0 else None) and not locked:
        return [_FLAVOURS.get(match[1], match[1])]
    if all(machinery.is_machinery(each) for each in names):
        # It waits in a page fault.
        return [each for each in names if machinery.faults(each)] or names
    return [each for each in names if not machinery.waits(each)] or names


def outermost(found: Anatomy, named: str) -> list[str]:
    """The outermost function of the task's work: the bug was detected at some later time."""
    names = trace(found, named)
    for index in range(len(names) - 1, -1, -1):
        if not (machinery.is_machinery(names[index]) or machinery.dispatches(names[index])):
            return names[index:]
    return names


# A function in a recursion is at least this many times in the trace.
_RECURSION = 3


def recursion(found: Anatomy, named: str) -> list[str]:
    """The function that calls itself, in the trace of a task that overflowed its stack. In a cycle
    of several functions, the function called by the dispatcher of the work is to blame instead,
    or without a dispatcher the most frequent function."""
    names = place(found, named)
    own = Counter(n for n in names if not (machinery.is_machinery(n) or machinery.dispatches(n)))
    most = max(own.values(), default=0)
    if most < _RECURSION:
        return names
    first = next(index for index, name in enumerate(names) if own[name] == most)
    if names[first] == names[first + 1]:
        return names[first:]
    # A dispatcher within the cycle is part of the cycle.
    end = max(index for index, name in enumerate(names) if own[name] == most) + 1
    return _dispatched(names[end:]) or names[first:]


def page(found: Anatomy, named: str) -> list[str]:
    """The trace of the allocation, if the kernel tracks the owner of the page: the code that frees
    the page only finds the state that the owner left. Otherwise the call trace."""
    allocation = next((each for each in found.traces if each.name == "allocation"), None)
    return _reliable(allocation.frames) if allocation else trace(found, named)


def caller(found: Anatomy, named: str) -> list[str]:
    """The function in the line "caller is", even if it is machinery."""
    named_ones = [found.caller] if found.caller and not machinery.reports(found.caller) else []
    return named_ones or trace(found, named)


def text(found: Anatomy, named: str) -> list[str]:
    """Only the named function. Without a named function, the call trace."""
    return [named] if named else trace(found, named)


def work(found: Anatomy, _named: str) -> list[str]:
    """The current work of the first worker in the splat."""
    return [found.work] if found.work else []


def none(found: Anatomy, _named: str) -> list[str]:
    """No function, except the "last function" if the splat names it."""
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
    "leak": trace,
    "page": page,
    "locking": place,
    "text": text,
    "work": work,
    "none": none,
}


def _callers(found: Anatomy) -> list[str]:
    """The functions of the main trace. A return address at the start of a function belongs to the
    function before it, which ends with a call that does not return, and whose name is not
    printed."""
    return _reliable([each for each in found.main if each.offset != 0] or found.main)


def _reliable(frames: Sequence[Frame]) -> list[str]:
    real = [each for each in frames if not each.inline] or frames
    sure = [each.function for each in real if each.reliable]
    return sure or [each.function for each in real]


# The functions to skip, if they are not exactly the machinery.
_SKIPPED = {
    "place": machinery.waits_for_work,
    "lock": machinery.locks,
    "order": machinery.locks,
    "leak": machinery.allocates,
    "locking": machinery.locks_owned,
}


def _outside(skips: Callable[[str], bool], found: Anatomy, candidates: Sequence[str]) -> list[str]:
    """The candidates that are not skipped. In a module, only machinery that modules can contain,
    such as copies of inline functions, is skipped."""
    tests = ((machinery.is_modular if n in found.modular else skips, n) for n in candidates)
    return [name for skipped, name in tests if not skipped(name)]


def guilty(kind: Blame, found: Anatomy, candidates: Sequence[str]) -> tuple[str, str]:
    """Return the first candidate that is not machinery, and the next function outward. If all are
    machinery: the first that neither reports nor schedules, or that does not only print. A function
    that queues work is to blame if its own code failed."""
    real = _outside(_SKIPPED.get(kind, machinery.is_machinery), found, candidates)
    if candidates and machinery.queues(candidates[0]) and kind in {"place", "trace"}:
        real = [candidates[0], *real]
    if not real and kind == "leak":
        real = _outside(machinery.is_machinery, found, candidates)
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
