# SPDX-License-Identifier: GPL-2.0-only
"""Shell syntax that the guest's shell lacks, and how lines look on a terminal."""

import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.report import error_message, lines, prompt, shell_syntax


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("cat /sys/{a,b}", "cat /sys/a /sys/b"),
        ("cp a{,.bak}", "cp a a.bak"),
        ("ls {a,b}/{c,d}", "ls a/c a/d b/c b/d"),
        ("for i in {1,2}; do :; done", "for i in 1 2; do :; done"),
        ("echo {a,b}>x", "echo a b>x"),
    ],
)
def test_expand_braces_expands_lists(text: str, expanded: str) -> None:
    assert shell_syntax.expand_braces(text) == expanded


@pytest.mark.parametrize(
    "text",
    [
        "awk '{print $1,$2}'",
        "echo ${a,b}",
        'echo "{a,b}"',
        "{ a,b; }",
        "f() { x,y; }",
        "echo {1..3} {a}",
        "cat <<E\nint a[] = {1,2};\nE",
    ],
)
def test_expand_braces_keeps_everything_else(text: str) -> None:
    assert shell_syntax.expand_braces(text) == text


@pytest.mark.skipif(not shutil.which("bash"), reason="compares with bash")
@given(st.from_regex(r"[abc/]{0,3}(\{[ab]{0,2},[ab]{1,2}\}[a/]{0,2}){1,2}", fullmatch=True))
def test_expand_braces_agrees_with_bash(word: str) -> None:
    printed = subprocess.check_output(["bash", "-c", f"echo {word}"], text=True)
    ours = " ".join(shell_syntax.expand_braces(f"echo {word}").split()[1:])
    assert ours == " ".join(printed.split())


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("cat <<< word; ls", "cat <<'END_OF_STRING'; ls\nword\nEND_OF_STRING"),
        ("tee x <<<'a b' > /dev/null", "tee x <<'END_OF_STRING' > /dev/null\na b\nEND_OF_STRING"),
        ('cat <<< "$x"', 'cat <<< "$x"'),
        ("cat <<E\nx\nE", "cat <<E\nx\nE"),
        ("echo a", "echo a"),
    ],
)
def test_expand_here_string_makes_a_here_document(text: str, expanded: str) -> None:
    assert shell_syntax.expand_here_string(text) == expanded


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("modpeo\b \b\b \brobe e1000e", "modprobe e1000e"),
        ("ab\b\b\bc", "cb"),
        ("lsmod x\b \b", "lsmod"),
    ],
)
def test_parse_applies_backspaces(typed: str, shown: str) -> None:
    assert [each.text for each in lines.parse(typed)] == [shown]


@pytest.mark.parametrize(
    ("line", "directory", "command"),
    [
        (
            "➜  linux git:(main) ✗ sudo modprobe x                 [21:44:02]",
            "linux",
            "sudo modprobe x",
        ),
        ("➜  linux git:(main) ✗                                 [21:44:31]", "linux", ""),
        ("➜  linux git:(main) modprobe x", "linux", "modprobe x"),
        ("➜  e1000e echo 1 > bind", "e1000e", "echo 1 > bind"),
        ("➜  / lsmod", "/", "lsmod"),
        ("➜  ~ lsmod", "~", "lsmod"),
        ("➜ modprobe x", "", "modprobe x"),
        ("root@host:~# echo [21:44:02]", "~", "echo [21:44:02]"),
    ],
)
def test_parse_reads_prompts_of_zsh_themes(line: str, directory: str, command: str) -> None:
    found = prompt.parse(line)
    assert found
    assert (found.directory, found.command) == (directory, command)


def test_error_of_tee_is_the_error_of_open_or_write() -> None:
    reported = error_message.parse("tee: /sys/bus/x/unbind: Permission denied")
    assert reported
    opening = error_message.parse("sh: can't create /sys/bus/x/unbind: Permission denied")
    writing = error_message.parse("sh: write error: Permission denied")
    busy = error_message.parse("sh: write error: Device or resource busy")
    assert opening
    assert writing
    assert busy
    assert error_message.same_kind(reported, opening)
    assert error_message.same_kind(reported, writing)
    assert not error_message.same_kind(reported, busy)
