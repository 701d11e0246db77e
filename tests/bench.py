# SPDX-License-Identifier: GPL-2.0-only
"""Benchmarks: ``python -m tests.bench NAME [--json]``. Each benchmark measures its baseline in
the same run, alternating with its subject.
"""

import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.errors import HarnessError
from harness.guest import launch, snapshot
from harness.guest.guest import Guest
from harness.host import paths, program, progress, tools
from harness.iommu import machines
from harness.kernel import build, spec
from harness.kernel.artifact import Kernel
from harness.kernel.spec import DEFAULT_KERNEL
from harness.machine import devicetree, process, qemu
from harness.machine.qemu import Boot
from harness.repro import replay, request
from harness.rootfs import cpio, initramfs
from harness.suite import matrix, run
from tests import bench_bisect, bench_build, bench_decode, bench_guests
from tests.bench_figures import alternating, measured_with_progress, report, timed
from tests.conftest import REPORTS

app = typer.Typer(add_completion=False, no_args_is_help=True)

KernelText = Annotated[str, typer.Option("--kernel")]
KernelTexts = Annotated[list[str], typer.Option("--kernel")]
Json = Annotated[bool, typer.Option("--json")]

# The user space of the bare boot.
_HELLO = """
#include <unistd.h>
int main(void) { write(1, "first line\\n", 11); for (;;) pause(); }
"""
_HELLO_LINE = b"first line"


@app.command()
def boot(kernel: KernelText = DEFAULT_KERNEL, rounds: int = 40, as_json: Json = False) -> None:
    """Time bare QEMU until the first line of user space, and our boot until the first reply."""
    built = build.build(spec.parse(kernel))
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        bare_boot = _bare(built, directory)
        bare, ours = measured_with_progress(
            "cold boots",
            rounds,
            lambda: _boot_bare(bare_boot, directory),
            lambda: _boot_ours(built, directory),
        )
    report("boot", "s", {"bare QEMU": bare, "our cold boot": ours}, as_json)


def _bare(kernel: Kernel, directory: Path) -> Boot:
    (directory / "hello.c").write_text(_HELLO)
    hello = directory / "hello"
    program.run([tools.CROSS + "gcc", "-static", "-O2", "-s", "-o", str(hello), f"{hello}.c"])
    initrd = directory / "bare.cpio"
    initrd.write_bytes(
        cpio.archive(
            [
                cpio.file("init", hello.read_bytes(), 0o755),
                cpio.character_device("dev/console", 5, 1),
            ]
        )
    )
    machine = machines.named("smmuv3")
    return Boot(machine, kernel.image, initrd, devicetree.blob(machine))


def _boot_bare(boot: Boot, directory: Path) -> float:
    argv = [*qemu.board(boot.machine), *qemu.payload(boot), "-serial", "chardev:console"]
    started = time.perf_counter()
    with process.started(argv, ["console"], directory / "qemu.log") as running:
        received = b""
        while _HELLO_LINE not in received:
            received += running.sockets["console"].recv(65536)
        return time.perf_counter() - started


def _boot_ours(kernel: Kernel, directory: Path) -> float:
    started = time.perf_counter()
    with launch.booted(kernel, machines.named("smmuv3"), directory) as running:
        running.run(":")
        return time.perf_counter() - started


@app.command()
def command(kernel: KernelText = DEFAULT_KERNEL, rounds: int = 3000, as_json: Json = False) -> None:
    """Time the round trip of a command, compared with a line-editing shell on ttyAMA0."""
    built = build.build(spec.parse(kernel))
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        with launch.booted(built, machines.named("smmuv3"), directory) as running:
            ours = _round_trips(running, ":", rounds)
            forked = _round_trips(running, "/bin/busybox true", rounds // 10)
        single = replace(machines.named("smmuv3"), single_console=True)
        with launch.booted(built, single, directory) as running:
            one_console = _round_trips(running, ":", rounds // 3)
        shell = _shell_round_trips(built, directory, 40)
    figures = {
        "line-editing shell on ttyAMA0": shell,
        "our command": ours,
        "our command that forks": forked,
        "our command on a single console": one_console,
    }
    milliseconds = {name: [each * 1e3 for each in values] for name, values in figures.items()}
    report("command", "ms", milliseconds, as_json)


def _round_trips(running: Guest, text: str, rounds: int) -> list[float]:
    for _ in range(100):
        running.run(text)
    return [timed(lambda: running.run(text)) for _ in range(rounds)]


def _shell_round_trips(kernel: Kernel, directory: Path, rounds: int) -> list[float]:
    """Type lines into the shell, wait for the output and the prompt of each, and return the
    seconds for each line."""
    machine = machines.named("smmuv3")
    boot = Boot(
        machine,
        kernel.image,
        initramfs.image(kernel),
        devicetree.blob(machine),
        "rdinit=/harness/shell",
    )
    argv = [*qemu.board(machine), *qemu.payload(boot), "-serial", "chardev:console"]
    with process.started(argv, ["console"], directory / "qemu.log") as running:
        console = running.sockets["console"]

        def until(text: bytes) -> None:
            received = b""
            while text not in received:
                received += console.recv(65536)

        def type_line(number: int) -> None:
            console.sendall(b"echo answer-$((%d))\n" % number)
            until(b"answer-%d\r\n/ # " % number)

        until(b"/ # ")
        type_line(0)
        return [timed(partial(type_line, number)) for number in range(1, rounds)]


@app.command("build")
def build_(
    kernel: KernelTexts = [],  # noqa: B006  typer copies it
    as_json: Json = False,
) -> None:
    """Time kernel builds: cold, with a warm ccache, after a change of one line, and unchanged."""
    # On the file system of the cache, because the sources are hard-linked from it.
    with tempfile.TemporaryDirectory(dir=paths.cache().parent) as scratch:
        rows = {}
        for title, row in bench_build.measure(kernel or list(bench_build.KERNELS), Path(scratch)):
            rows[title] = row
            if not as_json:
                print(f"  {title:<46} {_figures(row)}", flush=True)
    if as_json:
        json.dump({"benchmark": "build", "rows": rows}, sys.stdout)


@app.command()
def kills(kernel: KernelText = DEFAULT_KERNEL, count: int = 20) -> None:
    """Kill builds at random moments, and check that the next build makes the usual kernel."""
    with tempfile.TemporaryDirectory(dir=paths.cache().parent) as scratch:
        lines = []
        for line in bench_build.kills(kernel, count, Path(scratch)):
            lines.append(line)
            print(f"  {line}", flush=True)
    raise typer.Exit(1 if any("DIFFERENT" in line for line in lines) else 0)


def _figures(row: dict[str, Any]) -> str:
    parts = {"seconds": "{:7.2f} s", "ratio": "ratio {:.3f}", "objects": "{} objects"}
    return "  ".join(form.format(row[name]) for name, form in parts.items() if name in row)


@app.command()
def restore(
    kernel: KernelText = DEFAULT_KERNEL,
    rounds: int = 40,
    sustained: int = 500,
    workers: int = 2,
    as_json: Json = False,
) -> None:
    """Time guests that are restored by hand, restored by us, and booted; 16 guests in parallel;
    and hundreds of guests in a row."""
    built = build.build(spec.parse(kernel))
    saved = snapshot.warm(built, bench_guests.SMMUV3)
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        works = [
            lambda: bench_guests.by_hand(saved, directory),
            lambda: bench_guests.ours(saved, directory),
            lambda: bench_guests.cold(built, directory),
        ]
        by_hand, ours, cold = measured_with_progress(
            "restored guests and booted ones", rounds, *works
        )
        crowd = bench_guests.crowd(saved, 16, directory)
    started = time.perf_counter()
    results = []
    with progress.phase("benchmark: sustained", f"{sustained} guests in a row") as phase:
        phase.expect(sustained)
        for result in bench_guests.many(saved, sustained, workers):
            results.append(result)
            phase.step()
    per_second = sustained / (time.perf_counter() - started)
    bad = [result for result in results if result != "fine"]
    figures = {"restored by hand": by_hand, "our restore": ours, "our cold boot": cold}
    more = {
        "16 in parallel, s until all reply": crowd.seconds,
        "PSS of the first guest, MB": crowd.first_megabytes,
        "PSS of each further guest, MB": crowd.each_more_megabytes,
        f"guests a second, {sustained} in a row, {workers} at a time": per_second,
        "guests with an error": float(len(bad)),
    }
    report("restore", "s", figures, as_json, more)
    for result in bad:
        print(result, file=sys.stderr)
    raise typer.Exit(1 if bad else 0)


@app.command("suite")
def suite_(
    kernel: KernelText = DEFAULT_KERNEL,
    machine: str = "smmuv3",
    workers: int = 2,
    rounds: int = 2,
    as_json: Json = False,
) -> None:
    """Time the scenarios on one kernel and machine, with a warm cache. The baseline is as many
    guests restored by hand, which is the minimum for one guest per scenario."""
    chosen = spec.parse(kernel)
    saved = snapshot.warm(build.build(chosen), bench_guests.SMMUV3)
    request = run.RunRequest((chosen,), (machine,), workers=workers)
    with tempfile.TemporaryDirectory() as scratch, multiprocessing.Pool(workers) as pool:
        directory = Path(scratch)
        outcomes = run.run(request, directory, title="warming up")
        restore = partial(bench_guests.by_hand_anywhere, saved)
        by_hand, ours = alternating(
            rounds,
            lambda: timed(lambda: pool.map(restore, range(len(outcomes)))),
            lambda: timed(lambda: run.run(request, directory, number=2)),
        )
    more = {"scenarios": float(len(outcomes))}
    more |= {name: float(count) for name, count in matrix.counts(outcomes).items()}
    report("suite", "s", {"guests restored by hand": by_hand, "scenarios": ours}, as_json, more)


@app.command("bisect")
def bisect_(
    count: int = 50,
    rate: float = 0.3,
    before: Annotated[
        float | None, typer.Option(help="The rate from the first bad commit to a later change.")
    ] = None,
    length: int = 64,
    confidence: float = 0.99,
    as_json: Json = False,
) -> None:
    """Search for an intermittent bug with random results, compared with a search with a fixed
    number of runs per revision."""
    earlier = rate if before is None else before
    found = list(bench_bisect.searches(count, rate, earlier, length, confidence))
    right = sum(each.right for each in found)
    ours = [float(each.runs) for each in found]
    fixed = [float(each.fixed_runs) for each in found]
    more = {"right": float(right), "right, fixed runs": sum(each.fixed_right for each in found)}
    more["of"] = float(count)
    report("bisect", "runs", {"fixed runs": fixed, "ours": ours}, as_json, more)
    raise typer.Exit(0 if right >= confidence * count else 1)


@app.command()
def decode(megabytes: int = 100, as_json: Json = False) -> None:
    """Time reading a log of that many megabytes on one core, with a report per thousand lines
    and with reports only. The baseline is a search for two words in the log."""
    pieces = list(bench_decode.pieces(megabytes, 1000))
    search = timed(lambda: bench_decode.search(iter(pieces)))
    figures: dict[str, list[float]] = {"a search for two words": [search]}
    more = {"megabytes": float(megabytes)}
    for name, quiet in (("a report in 1,000 lines", 1000), ("reports only", 0)):
        reading = bench_decode.read(megabytes, quiet)
        figures[name] = [reading.seconds]
        more[f"reports, {name}"] = float(reading.reports)
        more[f"memory grows by, MB, {name}"] = reading.grown
    report("decode", "s", figures, as_json, more)


@app.command()
def faults(kernel: KernelText = DEFAULT_KERNEL, rounds: int = 10) -> None:
    """Cause each fault of a guest, and check that it is reported correctly and leaks nothing."""
    built = build.build(spec.parse(kernel))
    wrong = 0
    for name, problem, seconds in bench_guests.faults(built, rounds):
        wrong += bool(problem)
        print(f"  {name:<36} {seconds:6.2f} s  {problem or 'as expected'}", flush=True)
    panics = bench_guests.panic_latency(built, 2 * rounds)
    print(
        f"  a panic is reported {statistics.median(panics):.3f} s after its text, at most ",
        end="",
    )
    print(f"{max(panics):.3f} s; {wrong} of {rounds * 10} faults wrong")
    raise typer.Exit(1 if wrong else 0)


@app.command()
def soak(
    kernel: KernelText = DEFAULT_KERNEL, count: int = 200, workers: int = 2, as_json: Json = False
) -> None:
    """Replay the bundled report repeatedly, each time in a new guest, and print every verdict
    that is not "reproduced"."""
    built = build.build(spec.parse(kernel))
    started = time.perf_counter()
    with multiprocessing.Pool(workers) as pool:
        work = pool.imap_unordered(partial(_replay_once, built), range(count))
        results = []
        for number, result in enumerate(work, start=1):
            results.append(result)
            if number % 20 == 0 or result != "reproduced":
                print(f"  {number}/{count}: {result}", file=sys.stderr)
    seconds = time.perf_counter() - started
    tally = {result: results.count(result) for result in sorted(set(results))}
    if as_json:
        json.dump({"benchmark": "soak", "seconds": seconds, "verdicts": tally}, sys.stdout)
    else:
        print(f"soak: {count} replays, {workers} at a time, {seconds:.1f} s: {tally}")
    raise typer.Exit(0 if tally == {"reproduced": count} else 1)


def _replay_once(kernel: Kernel, _number: int) -> str:
    replay_request = request.create(REPORTS / "platform-client-pins-smmu.transcript")
    with tempfile.TemporaryDirectory() as scratch:
        try:
            verdict = replay.replay(replay_request, kernel, Path(scratch)).verdict
        except HarnessError as error:
            return f"{type(error).__name__}: {error}"
    return verdict.word if verdict.word == "reproduced" else f"{verdict.word}: {verdict.reason}"


if __name__ == "__main__":
    app()
