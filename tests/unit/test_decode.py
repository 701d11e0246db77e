# SPDX-License-Identifier: GPL-2.0-only
"""The decode command, on logs in various encodings."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import command

LOG = """[    1.000000] ------------[ cut here ]------------
[    1.000001] WARNING: CPU: 1 PID: 71 at drivers/iommu/iommu.c:512 iommu_deinit_device+0x54/0x80
[    1.000002] Modules linked in: arm_smmu_v3
[    1.000003] CPU: 1 UID: 0 PID: 71 Comm: rmmod Not tainted 6.12.117 #1
[    1.000004] pc : iommu_deinit_device+0x54/0x80
[    1.000005] lr : iommu_release_device+0x4c/0x88
[    1.000006] Call trace:
[    1.000007]  iommu_deinit_device+0x54/0x80
[    1.000008]  iommu_release_device+0x4c/0x88
[    1.000009]  el0t_64_sync+0x190/0x194
[    1.000010] ---[ end trace 0000000000000000 ]---
"""


def decode(path: Path, data: bytes, *arguments: str) -> command.Result:
    path.write_bytes(data)
    return command.run("decode", path, *arguments)


def test_decode_prints_a_splat_with_its_location_and_task(tmp_path: Path) -> None:
    done = decode(tmp_path / "log", LOG.encode())
    assert done.status == 0
    shown = done.out.splitlines()
    assert shown[0] == "WARNING in iommu_deinit_device"
    assert "  location  drivers/iommu/iommu.c:512" in shown
    assert "  function  iommu_deinit_device from iommu_release_device" in shown
    assert "  task      CPU 1, PID 71, rmmod" in shown
    assert "    iommu_release_device+0x4c/0x88" in shown
    assert shown[-1] == f"1 splat in 11 lines of {tmp_path / 'log'}"


def test_decode_with_json_prints_one_object(tmp_path: Path) -> None:
    done = decode(tmp_path / "log", LOG.encode(), "--json")
    found = json.loads(done.out)
    assert found["lines"] == 11
    (splat,) = found["splats"]
    assert splat["kind"] == "WARNING"
    assert (splat["file"], splat["line"]) == ("drivers/iommu/iommu.c", 512)
    assert (splat["function"], splat["caller"]) == ("iommu_deinit_device", "iommu_release_device")
    assert (splat["kernel"], splat["cpu"], splat["pid"]) == ("6.12.117", 1, 71)
    assert splat["frames"][0] == "iommu_deinit_device"
    assert splat["chains"][0]["frames"][0]["offset"] == 0x54


@pytest.mark.parametrize(
    "data",
    [
        LOG.encode("utf-16"),
        b"\xff\xfe" + LOG.encode("utf-16-le"),
        b"\xef\xbb\xbf" + LOG.encode(),
        b"na\xefve line\n" + LOG.encode(),
        LOG.replace("\n", "\r\n").encode(),
        gzip.compress(LOG.encode()),
        bytes(range(256)) * 9 + b"\n" + LOG.encode(),
    ],
    ids=["utf-16", "utf-16-le", "utf-8 with BOM", "latin-1", "crlf", "gzip", "binary"],
)
def test_decode_finds_a_splat_in_any_encoding(tmp_path: Path, data: bytes) -> None:
    done = decode(tmp_path / "log", data)
    assert done.status == 0, done.err
    assert done.out.startswith("WARNING in iommu_deinit_device\n")


@pytest.mark.parametrize("data", [b"", b"\0" * 5000, b"\x1f", b"quiet\n", os.urandom(5000)])
def test_decode_prints_one_line_for_a_log_without_a_splat(tmp_path: Path, data: bytes) -> None:
    done = decode(tmp_path / "log", data)
    assert done.status == 0, done.err
    assert done.out.startswith("no splat in ")
    assert len(done.out.splitlines()) == 1


def test_decode_reads_a_truncated_gzip_file_and_prints_a_note(tmp_path: Path) -> None:
    whole = gzip.compress(LOG.encode() + os.urandom(200_000))
    done = decode(tmp_path / "log.gz", whole[: len(whole) // 2])
    assert done.status == 0
    assert done.out.startswith("WARNING in iommu_deinit_device\n")
    assert "ends early" in done.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("/nowhere/log",), "cannot read '/nowhere/log': no such file"),
        (("",), "cannot read '': no such file"),
        (("/",), "cannot read /: is a directory"),
        (("/dev/null", "--kernel", "linux"), "unknown kernel 'linux'"),
        (("/dev/null", "--variant", "debuginfo"), "require --kernel; add --kernel SPEC"),
        (("x" * 5000,), "cannot read"),
    ],
)
def test_decode_prints_one_line_for_a_usage_error(arguments: tuple[str, ...], message: str) -> None:
    done = command.run("decode", *arguments)
    assert done.status == 2
    assert done.out == ""
    assert message in done.err
    assert len(done.err.splitlines()) == 1


def test_decode_escapes_control_characters_in_a_log(tmp_path: Path) -> None:
    hostile = LOG.replace("Comm: rmmod", "Comm: rm\x9b31m\u202e")
    done = decode(tmp_path / "log", hostile.encode())
    assert "\x9b" not in done.out
    assert "\u202e" not in done.out


def test_decode_reads_standard_input(tmp_path: Path) -> None:
    for arguments in (["decode", "-"], ["decode"]):
        done = subprocess.run(
            [*command.PROGRAM, *arguments],
            input=LOG,
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
            env=command.environment(),
        )
        assert done.stdout.splitlines()[-1] == "1 splat in 11 lines of standard input"


def test_decode_survives_a_closed_pipe(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(LOG * 2000)
    program = " ".join([sys.executable, "-c", "'from harness.cli.main import main; main()'"])
    done = subprocess.run(
        ["sh", "-c", f"{program} decode {tmp_path / 'log'} | head -1"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "WARNING in iommu_deinit_device\n"
