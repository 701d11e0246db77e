# SPDX-License-Identifier: GPL-2.0-only
"""Assemble the messages of a log into splats."""

import heapq
import re
from collections.abc import Iterator

from harness.klog import frame
from harness.klog.block import (
    BOOT,
    CONSEQUENCE,
    CONTENT,
    CUT,
    END,
    MODULES,
    MOST_BEFORE,
    Block,
    End,
    append,
    awaits_place,
    continues,
    describes_warning,
    interrupts,
    is_end_rule,
    is_interrupted,
    opens,
)
from harness.klog.kinds import Kind
from harness.klog.message import Message

_MAX_STRAYS = 30
_MAX_LINES = 3000
# A panic at most this many lines after a splat can be its consequence.
_AFTERMATH = 400
# A splat can continue after at most this many lines of other callers.
_SILENCE = 400
# Two one-line splats within this many lines can be one splat: six messages, because a record of
# /dev/kmsg for a device has three lines.
_NEAR = 20
# At most this many splats are open at a time.
_MAX_OPEN = 64
_NEVER = 1 << 62
# The prefix of each line of kmemleak in the log. The lines of its debugfs file have no prefix.
_EACH_LINE = "kmemleak: "


class Assembler:
    """Assembles messages into blocks.

    Call ``feed`` with each message in order, and then ``finish``. Both return the blocks that are
    complete, in the order of their first lines. In a log with callers (CONFIG_PRINTK_CALLER) each
    caller has its own open block.
    """

    def __init__(self) -> None:
        self._open: dict[str, Block] = {}
        self._cut: dict[str, list[Message]] = {}
        self._cut_until = _NEVER
        self._recent: dict[str, Block] = {}
        # The oops that a splat of another CPU interrupted, in a log without callers.
        self._parked: Block | None = None
        self._last_single: Block | None = None
        # A heap ordered by first line. The running number makes its entries unique.
        self._done: list[tuple[int, int, Block]] = []
        self._count = 0
        # The first line of all blocks that can still change, and the line at which the next of
        # them expires.
        self._oldest = _NEVER
        self._expiry = _NEVER
        self._stale = False

    @property
    def idle(self) -> bool:
        """Whether messages without a needle have no effect."""
        return not self._open and not self._cut

    def feed(self, message: Message) -> list[Block]:
        if message.text.startswith(_EACH_LINE):
            message = message._replace(text=message.text.removeprefix(_EACH_LINE))
        if message.number > self._expiry:
            self._expire(message.number)
        self._dispatch(message)
        if self._stale:
            self._changed()
        ready = []
        while self._done and self._done[0][0] < self._oldest:
            ready.append(heapq.heappop(self._done)[2])
        return ready

    def finish(self) -> Iterator[Block]:
        for key in list(self._open):
            self._end(key, "log")
        self._forget()
        if self._last_single is not None:
            self._finished(self._last_single)
            self._last_single = None
        while self._done:
            yield heapq.heappop(self._done)[2]

    def _finished(self, block: Block) -> None:
        self._count += 1
        heapq.heappush(self._done, (block.first, self._count, block))

    def _changed(self) -> None:
        self._stale = False
        held = [*self._open.values(), *self._recent.values()]
        held += [each for each in (self._last_single, self._parked) if each is not None]
        self._oldest = min((each.first for each in held), default=_NEVER)
        recent = (each.last + _AFTERMATH for each in self._recent.values())
        silent = (each.messages[-1].number + _SILENCE for each in self._open.values())
        single = [] if self._last_single is None else [self._last_single.first + _NEAR]
        cut = [self._cut_until] if self._cut else []
        self._expiry = min((*recent, *silent, *single, *cut), default=_NEVER)

    def _expire(self, number: int) -> None:
        """Close the blocks that have had no line for too long."""
        last = self._last_single
        if last is not None and last.first + _NEAR < number:
            self._finished(last)
            self._last_single = None
        self._cut = {key: each for key, each in self._cut.items() if number < self._cut_until}
        for key, each in list(self._open.items()):
            if each.messages[-1].number + _SILENCE < number:
                self._close(key, "others")
        for key, each in list(self._recent.items()):
            if each.last + _AFTERMATH < number:
                self._forget(key)
        self._stale = True

    def _dispatch(self, message: Message) -> None:
        key = message.caller
        block = self._open.get(key)
        if message.marked and self._begins(key, message):
            return
        if block is not None:
            self._line(key, block, message)
        elif key in self._cut:
            self._warn_text(key, message)
        elif key and self._open:
            self._foreign(message)

    def _foreign(self, message: Message) -> None:
        """Handle a line of a caller without an open splat. The backtraces of other CPUs are part
        of the splat of a hang."""
        text = message.text
        is_frame = frame.parse(text) is not None
        for block in self._open.values():
            if block.kind.blame == "hang" and (is_frame or CONTENT.match(text)):
                append(block, message, content=True)
                block.framed = block.framed or is_frame
                return
            block.foreign = block.foreign or is_frame

    def _begins(self, key: str, message: Message) -> bool:
        """Handle the opening of a splat, a cut mark or a boot. Returns False for other messages."""
        block, text = self._open.get(key), message.text
        if (opened := opens(text)) is not None:
            self._opening(key, message, *opened)
        elif CUT.match(text):
            if block is None or not awaits_place(block):
                self._end(key, "opening")
                self._cut = {key: []}
                self._cut_until = message.number + _SILENCE
                self._expiry = min(self._expiry, self._cut_until)
        elif BOOT.match(text):
            for each in list(self._open):
                self._end(each, "boot")
            self._forget()
        else:
            return False
        return True

    def _warn_text(self, key: str, message: Message) -> None:
        self._cut[key].append(message)
        if len(self._cut[key]) > MOST_BEFORE:
            del self._cut[key]

    def _opening(self, key: str, message: Message, kind: Kind, match: re.Match[str]) -> None:
        block = self._open.get(key)
        if kind.name == "panic" and self._is_consequence(key, message, match):
            return
        if kind.alone:
            if block is not None and continues(block, kind):
                append(block, message, content=True)
            else:
                self._single(kind, match, message)
            return
        described = block is not None and describes_warning(block, kind)
        if block is not None and (described or continues(block, kind)):
            block.kind = kind if described else block.kind
            block.openings.append(match)
            append(block, message, content=True)
            return
        if block is not None and not key and interrupts(block, kind):
            append(block, message, content=True)
            block.foreign = True
            return
        if block is not None and not key and is_interrupted(block, kind):
            self._parked = self._open.pop(key)
            block.foreign = True
        self._end(key, "opening")
        self._forget(key)
        before = self._cut.pop(key, []) if kind.ends else []
        if len(self._open) >= _MAX_OPEN:
            self._close(next(iter(self._open)), "others")
        self._open[key] = Block(kind, [match], [message], before)
        if len(self._open) > 1:
            for each in self._open.values():
                each.foreign = True
        self._stale = True

    def _single(self, kind: Kind, match: re.Match[str], message: Message) -> None:
        last = self._last_single
        near = last is not None and message.number <= last.first + _NEAR
        if last is not None and near and last.kind.name in kind.within and len(last.openings) == 1:
            last.openings.append(match)
            append(last, message, content=True)
            return
        if last is not None:
            self._finished(last)
        self._last_single = Block(kind, [match], [message], end="mark")
        self._stale = True

    def _is_consequence(self, key: str, message: Message, match: re.Match[str]) -> bool:
        """Add a panic to the last splat if the splat caused it. Returns False otherwise."""
        block, ended = self._open.get(key), self._recent.get(key)
        if block is not None and ended is not None:
            # The ended splat interrupted the open one, which continues after the panic.
            ended.panic = ended.panic or match["what"].strip()
            append(ended, message, content=True)
            return True
        bare = block is not None and not block.framed
        block = block or ended
        if not bare and not CONSEQUENCE.match(match["what"]):
            return False
        if block is None or block.panic or message.number > block.last + _AFTERMATH:
            return False
        block.panic = match["what"].strip()
        if ended is not None:
            del block.messages[block.length :]
            self._open[key] = self._recent.pop(key)
            self._stale = True
            block.strays = 0
        append(block, message, content=True)
        return True

    def _line(self, key: str, block: Block, message: Message) -> None:
        text = message.text
        if not key and self._parked is not None and block.framed and MODULES.match(text):
            self._close(key, "others")
            block = self._open[key]
        is_frame = frame.parse(text) is not None
        block.framed = block.framed or is_frame
        append(block, message, content=is_frame or CONTENT.match(text) is not None)
        if ("[ end" in text and END.match(text)) or is_end_rule(block, text):
            block.length = len(block.messages)
            self._close(key, "mark")
        elif block.strays > _MAX_STRAYS or len(block.messages) > _MAX_LINES:
            self._close(key, "others")

    def _end(self, key: str, end: End) -> None:
        """Close the splat of a caller, and the splat that it interrupted."""
        self._close(key, end)
        self._close(key, end)

    def _close(self, key: str, end: End) -> None:
        block = self._open.pop(key, None)
        if block is None:
            return
        block.end = end
        self._forget(key)
        if end in {"boot", "log"} or block.panic:
            self._finished(block)
        else:
            self._recent[key] = block
        if not key and self._parked is not None:
            self._open[key], self._parked = self._parked, None
        self._stale = True

    def _forget(self, key: str | None = None) -> None:
        """Complete the last splats of a caller or of all callers. They can no longer cause a
        panic."""
        for each in [key] if key is not None else list(self._recent):
            if each in self._recent:
                self._finished(self._recent.pop(each))
        self._stale = True
