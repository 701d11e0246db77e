# SPDX-License-Identifier: GPL-2.0-only
"""Inspection of small module objects from the cross compiler, intact and damaged."""

import contextlib
import json
import resource
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import UsageError
from harness.host import tools
from harness.iommu import drivers, inspection
from harness.kernel import elf, subject
from harness.kernel.artifact import Kernel

RELEASE = "6.0.0"

# The same layout as the kernel's macros produce.
HEAD = """
struct of_device_id { char name[32]; char type[32]; char compatible[128]; void *data; };
#define INFO(line) \\
    static const char __attribute__((section(".modinfo"), used, aligned(1))) \\
    UNIQUE(__LINE__)[] = line;
#define UNIQUE(n) UNIQUE_(n)
#define UNIQUE_(n) info_##n
#define EXPORT(symbol, section) \\
    asm(".pushsection " section ",\\"a\\"; __ksymtab_" #symbol ": .long 0, 0, 0; .popsection");
"""

DRIVER = """
INFO("license=GPL v2")
INFO("name=arm_smmu_v3")
INFO("vermagic=6.0.0 SMP mod_unload aarch64")
INFO("depends=base-lib")
INFO("alias=of:N*T*Carm,smmu-v3")
INFO("alias=of:N*T*Carm,smmu-v3C*")
INFO("parm=disable_bypass:block unknown streams")
INFO("parmtype=disable_bypass:bool")
static const struct of_device_id of_match[] = { { .compatible = "arm,smmu-v3" }, { } };
extern void kernel_function(void), gpl_function(void), lib_function(void);
extern void maybe(void) __attribute__((weak));
const void *use(void)
{ kernel_function(); gpl_function(); lib_function(); if (maybe) maybe(); return of_match; }
"""
VMLINUX = 'EXPORT(kernel_function, "__ksymtab") EXPORT(gpl_function, "__ksymtab_gpl")'
LIBRARY = 'INFO("license=GPL")\nINFO("name=base_lib")\nEXPORT(lib_function, "__ksymtab_gpl")'


def compile_object(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    command = [tools.CROSS + "gcc", "-x", "c", "-c", "-O1", "-o", str(path), "-"]
    subprocess.run(command, input=HEAD + text, text=True, check=True)
    return path


@pytest.fixture(scope="session")
def objects(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a kernel with one correct IOMMU driver."""
    root = tmp_path_factory.mktemp("kernel")
    compile_object(root / "vmlinux", VMLINUX)
    compile_object(root / f"modules/{RELEASE}/arm_smmu_v3.ko", DRIVER)
    compile_object(root / f"modules/{RELEASE}/base-lib.ko", LIBRARY)
    (root / f"modules/{RELEASE}/modules.builtin").write_text("kernel/iommu/arm-smmu.ko\n")
    (root / "config").write_text("CONFIG_ARM_SMMU_V3=m\n# CONFIG_VIRTIO_IOMMU is not set\n")
    return root


@pytest.fixture
def kernel(objects: Path) -> Kernel:
    return Kernel("key", "fake", RELEASE, "gcc", objects)


def findings(kernel: Kernel, tmp_path: Path, text: str) -> list[str]:
    path = compile_object(tmp_path / "driver.ko", text)
    return list(inspection.inspect(kernel, str(path)).findings)


def test_inspect_has_no_finding_for_a_correct_driver(kernel: Kernel) -> None:
    result = inspection.inspect(kernel, "arm-smmu-v3")
    assert result.findings == ()
    (module,) = result.modules
    assert module.object.compatibles == ("arm,smmu-v3",)
    assert {(each.symbol, each.provider, each.gpl, each.weak) for each in module.imports} == {
        ("kernel_function", "vmlinux", False, False),
        ("gpl_function", "vmlinux", True, False),
        ("lib_function", "base_lib", True, False),
        ("maybe", "", False, True),
    }
    text = "\n".join(text for _, text in inspection.lines(result))
    assert "disable_bypass (bool): block unknown streams" in text
    assert "lib_function (GPL) from base_lib" in text
    assert json.loads(json.dumps(inspection.record(result)))["modules"][0]["license"] == "GPL v2"


def test_inspect_reports_a_driver_that_is_not_a_module(kernel: Kernel) -> None:
    assert inspection.inspect(kernel, None).findings == (
        "arm_smmu is built in, not a module",
        "virtio_iommu is not a module: CONFIG_VIRTIO_IOMMU is n",
    )
    with pytest.raises(UsageError, match="fake has no module 'frob'") as caught:
        inspection.inspect(kernel, "frob")
    assert "give a module of this kernel" in caught.value.hint


@pytest.mark.parametrize(
    ("old", "new", "finding"),
    [
        (
            "license=GPL v2",
            "license=Proprietary",
            "license 'Proprietary' taints the kernel, but it imports gpl_function, lib_function,"
            " which only GPL modules may use",
        ),
        ("license=GPL v2", "author=x", "license 'none' taints the kernel"),
        ("depends=base-lib", "depends=", "lib_function not exported by vmlinux"),
        ("depends=base-lib", "depends=gone", "depends on gone, which this kernel does not have"),
        ("vermagic=6.0.0", "vermagic=5.9.0", "built for 5.9.0, but the kernel is 6.0.0"),
        (
            'compatible = "arm,smmu-v3" }',
            'compatible = "arm,smmu-v3" }, { .compatible = "x,new" }',
            "no alias for x,new, so udev does not load it for these devices",
        ),
        ("alias=of:N*T*Carm,smmu-v3", "alias=of:N*T*Cx", "no alias for arm,smmu-v3"),
    ],
)
def test_inspect_reports_license_dependency_vermagic_and_alias_errors(
    kernel: Kernel, tmp_path: Path, old: str, new: str, finding: str
) -> None:
    found = findings(kernel, tmp_path, DRIVER.replace(old, new))
    assert any(finding in each for each in found)


def test_inspect_reports_an_import_without_an_export(kernel: Kernel, tmp_path: Path) -> None:
    found = findings(kernel, tmp_path, DRIVER.replace("lib_function", "unexported"))
    assert any("unexported not exported by vmlinux or base_lib" in each for each in found)


def test_inspect_reports_an_object_without_modinfo(kernel: Kernel, tmp_path: Path) -> None:
    assert findings(kernel, tmp_path, "int x;") == [
        "driver: has no .modinfo section, so the kernel does not load it"
    ]


def test_read_gets_gpl_exports_from_kflagstab(tmp_path: Path) -> None:
    """__kflagstab contains one byte for each entry of __ksymtab, in the same order."""
    flags = 'asm(".pushsection __kflagstab,\\"a\\"; .byte 0, 1; .popsection");'
    text = 'EXPORT(first, "__ksymtab") EXPORT(second, "__ksymtab")' + flags
    read = elf.read(compile_object(tmp_path / "x.ko", text))
    assert read.exports == {"first": False, "second": True}


def test_read_returns_the_build_id(tmp_path: Path) -> None:
    note = "".join(f".byte {n};" for n in (*struct.pack("<III", 4, 20, 3), *b"GNU\0", *range(20)))
    text = f'asm(".pushsection .note.gnu.build-id,\\"a\\"; {note} .popsection");'
    assert elf.read(compile_object(tmp_path / "x.ko", text)).build_id == bytes(range(20)).hex()


@pytest.fixture
def bounded() -> Iterator[None]:
    """Limit a test to ten seconds and to 256 MB more memory than the process already uses."""
    used = next(
        int(line.split()[1]) << 10
        for line in Path("/proc/self/status").read_text().splitlines()
        if line.startswith("VmSize")
    )
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + (256 << 20), before[1]))
    started = time.monotonic()
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
    assert time.monotonic() - started < 10


def with_header(data: bytes, **fields: int) -> bytes:
    """Return ``data`` with the given fields of its Elf64_Ehdr changed."""
    known = {
        "machine": (18, "<H"),
        "shoff": (40, "<Q"),
        "shentsize": (58, "<H"),
        "shnum": (60, "<H"),
    }
    changed = bytearray(data)
    for name, value in fields.items():
        offset, form = known[name]
        struct.pack_into(form, changed, offset, value)
    return bytes(changed)


def with_section_field(data: bytes, offset: int, form: str, value: int) -> bytes:
    """Return ``data`` with one field of every section header set to ``value``."""
    table, size, count = (
        struct.unpack_from(form_, data, at)[0] for form_, at in (("<Q", 40), ("<H", 58), ("<H", 60))
    )
    changed = bytearray(data)
    for number in range(1, count):
        struct.pack_into(form, changed, table + number * size + offset, value)
    return bytes(changed)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda _: b"",
    "text": lambda _: b"not an object\n" * 100,
    "half": lambda data: data[: len(data) // 2],
    "header only": lambda data: data[:64],
    "a byte short": lambda data: data[:-1],
    "for x86": lambda data: with_header(data, machine=62),
    "no sections": lambda data: with_header(data, shnum=0),
    "60000 sections": lambda data: with_header(data, shnum=60000),
    "headers out of range": lambda data: with_header(data, shoff=1 << 60),
    "headers without size": lambda data: with_header(data, shentsize=0),
    "huge sections": lambda data: with_section_field(data, 32, "<Q", 1 << 62),
    "sections out of range": lambda data: with_section_field(data, 24, "<Q", (1 << 64) - 8),
    "links out of range": lambda data: with_section_field(data, 40, "<I", 0xFFFF),
    "entries without size": lambda data: with_section_field(data, 56, "<Q", 0),
}


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("name", DAMAGES)
def test_inspect_rejects_a_damaged_object(kernel: Kernel, tmp_path: Path, name: str) -> None:
    intact = (kernel.modules / "arm_smmu_v3.ko").read_bytes()
    path = tmp_path / "broken.ko"
    path.write_bytes(DAMAGES[name](intact))
    with pytest.raises(UsageError, match=r"a damaged kernel object|is for X86_64, not for arm64"):
        inspection.inspect(kernel, str(path))


@pytest.mark.usefixtures("bounded")
@pytest.mark.parametrize("table", [".strtab", ".shstrtab"])
def test_inspect_rejects_unterminated_names(kernel: Kernel, tmp_path: Path, table: str) -> None:
    """Without terminators, each name extends to the end of the string table."""
    name = "v" * 200
    form = f'int {name}{{0}} __attribute__((section("s{name}{{0}}")));\n'
    text = DRIVER + "".join(form.format(number) for number in range(500))
    path = compile_object(tmp_path / "x.ko", text)
    with path.open("r+b") as file:
        found = ELFFile(file).get_section_by_name(table)
        assert found
        place, size = found["sh_offset"], found["sh_size"]
        file.seek(place + 1)
        file.write(b"n" * (size - 1))
    with pytest.raises(UsageError, match="a damaged kernel object"):
        inspection.inspect(kernel, str(path))


@pytest.mark.usefixtures("bounded")
def test_read_parses_overlapping_tables_once(tmp_path: Path) -> None:
    aliases = "".join(
        f'asm(".set again{n}, of_match; .type again{n}, %object");' for n in range(999)
    )
    read = elf.read(compile_object(tmp_path / "x.ko", DRIVER + aliases))
    assert read.compatibles == ("arm,smmu-v3",)


@pytest.mark.usefixtures("bounded")
def test_inspect_reports_an_object_without_section_names(kernel: Kernel, tmp_path: Path) -> None:
    intact = (kernel.modules / "arm_smmu_v3.ko").read_bytes()
    path = tmp_path / "broken.ko"
    path.write_bytes(with_section_field(intact, 0, "<I", 0xFFFFFFF0))
    assert "no .modinfo" in inspection.inspect(kernel, str(path)).findings[0]


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_inspecting_hostile_objects_raises_only_usage_errors(
    objects: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    intact = bytearray((objects / f"modules/{RELEASE}/arm_smmu_v3.ko").read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(intact) - 8))
        value = data.draw(st.sampled_from([0, 1, 0x7F, 0xFF, 0xFFFF, 1 << 31, (1 << 64) - 1]))
        struct.pack_into("<Q", intact, at, value)
    path = tmp_path_factory.mktemp("x") / "x.ko"
    path.write_bytes(intact)
    with contextlib.suppress(UsageError):
        inspection.inspect(Kernel("key", "fake", RELEASE, "gcc", objects), str(path))


def test_drivers_and_subject_list_the_same_iommu_drivers() -> None:
    """harness.kernel must not import harness.iommu, so the list exists twice."""
    assert tuple(drivers.DRIVERS) == subject.DRIVERS
