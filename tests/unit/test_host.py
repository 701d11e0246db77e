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


def test_run_returns_and_streams_the_output() -> None:
    lines: list[str] = []
    text = program.run(["sh", "-c", "echo a; echo b >&2"], on_line=lines.append)
    assert text == "a\nb"
    assert lines == ["a", "b"]


def test_run_with_stdout_only_omits_standard_error_from_the_output() -> None:
    assert program.run(["sh", "-c", "echo a; echo b >&2"], stdout_only=True) == "a"
    with pytest.raises(ProgramFailed, match="status 3: it broke"):
        program.run(["sh", "-c", "echo fine; echo it broke >&2; exit 3"], stdout_only=True)


def test_run_reads_standard_input_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("words\n")
    assert program.run(["cat"], stdin=tmp_path / "in") == "words"
    assert program.run(["cat"]) == ""


def test_run_kills_background_processes_of_a_program(tmp_path: Path) -> None:
    """Otherwise a background process that keeps the pipe open would block the reader."""
    pid = tmp_path / "pid"
    assert program.run(["sh", "-c", f"sleep 600 & echo $! > {pid}; echo done"]) == "done"
    assert wait_until(lambda: not alive(int(pid.read_text())))


def test_run_reports_the_status_and_last_line_of_a_failed_program() -> None:
    with pytest.raises(ProgramFailed, match="status 3: it broke"):
        program.run(["sh", "-c", "echo fine; echo it broke; exit 3"])


def test_run_reports_a_program_that_does_not_exist() -> None:
    with pytest.raises(ToolMissing, match="cannot find the program no-such-program"):
        program.run(["no-such-program"])


def test_run_does_not_pass_the_users_build_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ARCH", "sparc")
    monkeypatch.setenv("CFLAGS", "-broken")
    assert "sparc" not in program.run(["env"])
    assert "broken" not in program.run(["env"])


def test_an_interrupt_kills_the_whole_process_group(tmp_path: Path) -> None:
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


def test_killing_the_harness_kills_the_programs_it_runs() -> None:
    harness = subprocess.Popen([sys.executable, "-c", RUNS_FOREVER])
    assert wait_until(lambda: "sleep" in descendants(harness.pid).values())
    below = descendants(harness.pid)
    harness.kill()
    harness.wait()
    assert wait_until(lambda: not any(alive(pid) for pid in below))


def test_entry_creates_an_entry_once() -> None:
    made = []

    def make(into: Path) -> None:
        made.append(into)
        (into / "file").write_text("x")

    first = cache.entry("kind", "key", "making", make)
    assert cache.entry("kind", "key", "making", make) == first
    assert len(made) == 1
    assert (first / "file").read_text() == "x"


def test_an_interrupted_entry_leaves_no_files(private_cache: Path) -> None:
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


def start_making(mode: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDS_ENTRY, mode], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout
    assert process.stdout.readline() == "making\n"
    return process


def test_entry_recovers_from_a_killed_process(private_cache: Path) -> None:
    process = start_making("hang")
    process.kill()
    process.wait()
    entry = cache.entry("kind", "key", "making", lambda into: (into / "whole").touch())
    assert {path.name for path in entry.iterdir()} == {"whole", cache.SEAL}
    assert list((private_cache / "scratch").iterdir()) == []


def test_entry_waits_for_another_process_and_prints_a_note(
    capfd: pytest.CaptureFixture[str],
) -> None:
    process = start_making("finish")
    entry = cache.entry("kind", "key", "making", lambda _into: pytest.fail("made twice"))
    assert (entry / "half").exists()
    assert process.wait() == 0
    assert "another run is creating" in capfd.readouterr().err


def test_scratch_removes_only_unused_directories() -> None:
    with cache.scratch() as first, cache.scratch() as second:
        assert first.exists()
        assert second.exists()
    assert not first.exists()


def test_ensure_space_fails_if_the_disk_is_too_small() -> None:
    with pytest.raises(HostError, match="no space: x requires 1e\\+09 GB") as caught:
        cache.ensure_space(1e9, "x")
    assert caught.value.exit_code == 3


@given(st.lists(st.text(max_size=5), max_size=5), st.lists(st.text(max_size=5), max_size=5))
def test_digest_differs_for_different_lists(one: list[str], other: list[str]) -> None:
    assert (cache.digest(*one) == cache.digest(*other)) == (one == other)


def test_digest_files_depends_on_name_content_and_mode(tmp_path: Path) -> None:
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


def test_mirrors_reads_the_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_mirrors_reads_the_sources_of_apt(
    monkeypatch: pytest.MonkeyPatch, targets: str, expected: tuple[str, str]
) -> None:
    monkeypatch.delenv(debian.MIRROR_VARIABLE, raising=False)
    monkeypatch.setattr(debian, "run", lambda _argv: targets)
    assert debian.mirrors() == expected


def test_mirrors_rejects_a_host_without_a_debian_mirror(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(debian.MIRROR_VARIABLE, raising=False)
    monkeypatch.setattr(debian, "run", lambda _argv: "Ubuntu\tnoble\thttp://u/")
    with pytest.raises(HostError, match="has no Debian mirror"):
        debian.mirrors()


@given(st.text())
def test_printable_returns_only_printable_characters(text: str) -> None:
    shown = printable(text)
    assert all(character.isprintable() or character in "\n\t" for character in shown)


def test_printable_escapes_control_characters() -> None:
    assert printable("a\x1b[31m\r\u202e") == "a\\x1b[31m\\x0d\\u202e"


def test_create_makes_a_new_run_directory_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "runs", lambda: tmp_path)
    names = {rundir.create("../../x y").name for _ in range(3)}
    assert len(names) == 3
    assert all((tmp_path / name).is_dir() for name in names)


def test_create_rejects_a_run_directory_that_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="not empty"):
        rundir.create("x", tmp_path)


def test_json_lines_writes_each_record_immediately(tmp_path: Path) -> None:
    lines = rundir.JsonLines(tmp_path / "x")
    lines.add({"a": 1})
    assert (tmp_path / "x").read_text() == '{"a": 1}\n'
    lines.close()


def test_a_board_in_a_pipe_prints_each_row_and_the_pending_ones(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_NEXT_LINE", 0.05)
    monkeypatch.setattr(progress, "_FIRST_LINE", 0.01)
    printed: list[str] = []

    def is_printed(text: str) -> bool:
        printed.append(capfd.readouterr().err)
        return text in "".join(printed)

    with progress.board(["one", "two", "three"]) as board:
        for name in ("one", "two"):
            with board.row(name) as row:
                with progress.phase("kernel build", f"building {name}") as phase:
                    phase.step()
                    assert wait_until(partial(is_printed, f"building {name}"))
                row.end("built")
    output = "".join(printed) + capfd.readouterr().err
    assert "[1/3] building one: 1/1400" in output
    assert "; then two, three" in output
    assert "[1/3] one: built" in output
    assert "[2/3] building two: 1/1400" in output
    assert "then one" not in output


def test_a_board_on_a_terminal_prints_markup_in_titles_literally(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of a patch or directory may contain brackets."""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    titles = ["x[/b]", "[link=http://example.org]y[/link]"]
    with progress.board(titles) as board:
        for name in titles:
            with board.row(name), progress.phase("thing", name):
                pass
    output = capfd.readouterr().err
    assert all(title in output for title in titles)
    assert "\x1b]8" not in output


def test_a_phase_in_a_pipe_prints_plain_lines(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_NEXT_LINE", 0.05)
    monkeypatch.setattr(progress, "_FIRST_LINE", 0.01)
    with progress.phase("kernel build", "building x") as phase:
        for _ in range(30):
            phase.step()
        assert wait_until(lambda: phase.elapsed > 0.3)
    output = capfd.readouterr().err
    assert "building x: 30/1400" in output
    assert "remaining" in output
    assert "\x1b" not in output


def test_the_remaining_time_scales_with_the_number_of_parts() -> None:
    """The estimate assumes that one part takes as long as in the last run."""
    current = progress.Phase("x", 600.0, 300)
    assert current.remaining.startswith(("about 9 min 59", "about 10 min"))
    current.expect(0)
    assert (current.remaining, current.fraction) == ("no estimate yet", 0.0)
    current.expect(30)
    assert current.remaining in ("about 1 min 00 s remaining", "about 59 s remaining")


def test_a_phase_without_work_does_not_update_the_estimate() -> None:
    with progress.phase("thing", "x"):
        time.sleep(0.05)
    assert progress._estimate("thing")[0] > 0
    progress._record("kernel build", progress.Phase("x", 0, 0))
    assert progress._estimate("kernel build") == (170.0, 1400)


def test_this_host_has_every_tool() -> None:
    assert tools.missing() == []
    assert tools.apt_command(list(tools.TOOLS[:2])).startswith("apt-get install")
