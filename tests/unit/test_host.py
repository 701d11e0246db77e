# SPDX-License-Identifier: GPL-2.0-only
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import HostError, ProgramFailed, ToolMissing, UsageError
from harness.host import cache, debian, paths, program, progress, rundir, tools
from harness.host.text import printable
from tests.processes import alive, descendants, wait_until


def test_output_comes_back_and_is_streamed() -> None:
    lines: list[str] = []
    text = program.run(["sh", "-c", "echo a; echo b >&2"], on_line=lines.append)
    assert text == "a\nb"
    assert lines == ["a", "b"]


def test_what_is_parsed_has_no_complaints_in_it() -> None:
    assert program.run(["sh", "-c", "echo a; echo b >&2"], apart=True) == "a"
    with pytest.raises(ProgramFailed, match="status 3: it broke"):
        program.run(["sh", "-c", "echo fine; echo it broke >&2; exit 3"], apart=True)


def test_a_program_can_be_given_a_file_to_read(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("words\n")
    assert program.run(["cat"], stdin=tmp_path / "in") == "words"
    assert program.run(["cat"]) == ""


def test_what_a_program_leaves_running_is_ended(tmp_path: Path) -> None:
    """It has our pipe, and would keep us waiting."""
    pid = tmp_path / "pid"
    assert program.run(["sh", "-c", f"sleep 600 & echo $! > {pid}; echo done"]) == "done"
    assert wait_until(lambda: not alive(int(pid.read_text())))


def test_a_failure_has_the_last_line() -> None:
    with pytest.raises(ProgramFailed, match="status 3: it broke"):
        program.run(["sh", "-c", "echo fine; echo it broke; exit 3"])


def test_a_missing_program_has_the_mend() -> None:
    with pytest.raises(ToolMissing, match="no-such-program is not installed"):
        program.run(["no-such-program"])


def test_the_users_environment_does_not_leak_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCH", "sparc")
    monkeypatch.setenv("CFLAGS", "-broken")
    assert "sparc" not in program.run(["env"])
    assert "broken" not in program.run(["env"])


def test_an_interrupt_ends_the_whole_group(tmp_path: Path) -> None:
    pids = tmp_path / "pids"

    def interrupt(_line: str) -> None:
        raise KeyboardInterrupt

    script = f"sleep 60 & echo $! $$ > {pids}; echo go; wait"
    with pytest.raises(KeyboardInterrupt):
        program.run(["sh", "-c", script], on_line=interrupt)
    assert wait_until(lambda: not any(alive(int(pid)) for pid in pids.read_text().split()), 2)


RUNS_FOREVER = """
import sys
from harness.host import program
program.run(["sh", "-c", "sleep 61.5; true"], on_line=print)
"""


def test_kill_9_takes_all_that_was_started_along() -> None:
    ours = subprocess.Popen([sys.executable, "-c", RUNS_FOREVER])
    assert wait_until(lambda: "sleep" in descendants(ours.pid).values())
    below = descendants(ours.pid)
    ours.kill()
    ours.wait()
    assert wait_until(lambda: not any(alive(pid) for pid in below))


def test_an_entry_is_made_once() -> None:
    made = []

    def make(into: Path) -> None:
        made.append(into)
        (into / "file").write_text("x")

    first = cache.entry("kind", "key", "making", make)
    assert cache.entry("kind", "key", "making", make) == first
    assert len(made) == 1
    assert (first / "file").read_text() == "x"


def test_a_failed_entry_leaves_nothing(private_cache: Path) -> None:
    def make(into: Path) -> None:
        (into / "half").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.entry("kind", "key", "making", make)
    left = [path for path in private_cache.rglob("*") if path.is_file()]
    assert left == []
    assert list((private_cache / "kind").iterdir()) == []


HOLDS_ENTRY = """
import sys, time
from pathlib import Path
from harness.host import cache
def make(into):
    (into / "half").write_text("x")
    print("making", flush=True)
    if sys.argv[1] == "hang":
        time.sleep(60)
    time.sleep(1.5)
cache.entry("kind", "key", "making the thing", make)
"""


def holder(mode: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS_ENTRY, mode], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "making\n"
    return process


def test_a_killed_maker_leaves_no_lock_and_no_half_entry(private_cache: Path) -> None:
    process = holder("hang")
    process.kill()
    process.wait()
    entry = cache.entry("kind", "key", "making", lambda into: (into / "whole").touch())
    assert {path.name for path in entry.iterdir()} == {"whole", cache.SEAL}
    assert list((private_cache / "scratch").iterdir()) == []


def test_a_second_run_waits_and_says_so(capfd: pytest.CaptureFixture[str]) -> None:
    process = holder("finish")
    entry = cache.entry("kind", "key", "making", lambda _into: pytest.fail("made twice"))
    assert (entry / "half").exists()
    assert process.wait() == 0
    assert "another run is making" in capfd.readouterr().err


def test_a_living_scratch_directory_is_left_alone() -> None:
    with cache.scratch() as first, cache.scratch() as second:
        assert first.exists()
        assert second.exists()
    assert not first.exists()


def test_no_space_is_an_error_of_the_host() -> None:
    with pytest.raises(HostError, match="no space: x needs 1e\\+09 GB") as caught:
        cache.make_room(1e9, "x")
    assert caught.value.exit_code == 3


@given(st.lists(st.text(max_size=5), max_size=5), st.lists(st.text(max_size=5), max_size=5))
def test_keys_tell_lists_apart(one: list[str], other: list[str]) -> None:
    assert (cache.digest(*one) == cache.digest(*other)) == (one == other)


def test_files_are_told_apart_by_name_content_and_mode(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "a").write_text("x")
    keys = [cache.digest_files(root)]
    (root / "a").chmod(0o755)
    keys.append(cache.digest_files(root))
    (root / "a").write_text("y")
    keys.append(cache.digest_files(root))
    (root / "a").rename(root / "b")
    keys.append(cache.digest_files(root))
    assert len(set(keys)) == 4


def test_mirrors_are_the_users_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(debian.MIRROR_VARIABLE, "https://mirror.example/debian/")
    assert debian.mirrors() == (
        "https://mirror.example/debian/",
        "https://mirror.example/debian-security",
    )


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (
            "Debian\tbookworm\thttp://m/debian/\nDebian\tbookworm-security\thttp://s/sec/",
            ("http://m/debian/", "http://s/sec/"),
        ),
        ("$(ORIGIN)\tbookworm\thttp://m/debian/", ("http://m/debian/", "http://m/debian-security")),
        (
            "Other\tstable\thttp://o/\nDebian\tbookworm\thttp://m/d",
            ("http://m/d", "http://m/d-security"),
        ),
    ],
)
def test_mirrors_are_those_of_apt(
    monkeypatch: pytest.MonkeyPatch, targets: str, expected: tuple[str, str]
) -> None:
    monkeypatch.delenv(debian.MIRROR_VARIABLE, raising=False)
    monkeypatch.setattr(debian, "run", lambda _argv: targets)
    assert debian.mirrors() == expected


def test_no_debian_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(debian.MIRROR_VARIABLE, raising=False)
    monkeypatch.setattr(debian, "run", lambda _argv: "Ubuntu\tnoble\thttp://u/")
    with pytest.raises(HostError, match="names no Debian mirror"):
        debian.mirrors()


@given(st.text())
def test_nothing_untrusted_reaches_the_terminal(text: str) -> None:
    shown = printable(text)
    assert all(character.isprintable() or character in "\n\t" for character in shown)


def test_escapes_are_written_out() -> None:
    assert printable("a\x1b[31m\r\u202e") == "a\\x1b[31m\\x0d\\u202e"


def test_a_run_directory_is_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paths, "runs", lambda: tmp_path)
    names = {rundir.create("../../x y").name for _ in range(3)}
    assert len(names) == 3
    assert all((tmp_path / name).is_dir() for name in names)


def test_a_run_directory_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="not empty"):
        rundir.create("x", tmp_path)


def test_records_are_there_at_once(tmp_path: Path) -> None:
    lines = rundir.JsonLines(tmp_path / "x")
    lines.add({"a": 1})
    assert (tmp_path / "x").read_text() == '{"a": 1}\n'
    lines.close()


def test_a_board_in_a_pipe_tells_of_all(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_PLAIN_EVERY", 0.05)
    monkeypatch.setattr(progress, "_PLAIN_FIRST", 0.01)
    heard: list[str] = []

    def told(text: str) -> bool:
        heard.append(capfd.readouterr().err)
        return text in "".join(heard)

    with progress.board(["one", "two", "three"]) as board:
        for name in ("one", "two"):
            with board.row(name) as row:
                with progress.phase("kernel build", f"building {name}") as phase:
                    phase.step()
                    assert wait_until(partial(told, f"building {name}"))
                row.end("built")
    said = "".join(heard) + capfd.readouterr().err
    assert "[1/3] building one: 1/1400" in said
    assert "; then two, three" in said
    assert "[1/3] one: built" in said
    assert "[2/3] building two: 1/1400" in said
    assert "then one" not in said


def test_titles_on_a_terminal_are_no_markup(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A patch's or a directory's name may have brackets in it."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    titles = ["x[/b]", "[link=http://example.org]y[/link]"]
    with progress.board(titles) as board:
        for name in titles:
            with board.row(name), progress.phase("thing", name):
                assert wait_until(lambda: True)
    said = capfd.readouterr().err
    assert all(title in said for title in titles)
    assert "\x1b]8" not in said


def test_progress_in_a_pipe_is_plain_lines(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_PLAIN_EVERY", 0.05)
    monkeypatch.setattr(progress, "_PLAIN_FIRST", 0.01)
    with progress.phase("kernel build", "building x") as phase:
        for _ in range(30):
            phase.step()
        assert wait_until(lambda: phase.elapsed > 0.3)
    said = capfd.readouterr().err
    assert "building x: 30/1400" in said
    assert "left" in said
    assert "\x1b" not in said


def test_what_is_left_follows_how_much_there_is() -> None:
    """As long for each part as the last time, whatever the number was then."""
    current = progress.Phase("x", 600.0, 300)
    assert current.left.startswith(("about 9 min 59", "about 10 min"))
    current.expect(0)
    assert (current.left, current.fraction) == ("no telling yet how long", 0.0)
    current.expect(30)
    assert current.left in ("about 1 min 00 s left", "about 59 s left")


def test_durations_are_remembered_but_not_a_warm_caches() -> None:
    with progress.phase("thing", "x"):
        time.sleep(0.05)
    assert progress._remembered("thing")[0] > 0
    progress._remember("kernel build", progress.Phase("x", 0, 0))
    assert progress._remembered("kernel build") == (170.0, 1400)


def test_the_table_of_tools_is_whole() -> None:
    assert tools.missing() == []
    assert tools.apt_command(list(tools.TOOLS[:2])).startswith("apt-get install")
