# SPDX-License-Identifier: GPL-2.0-only
"""A kernel source of ten lines, for tests of the code around a build. A real kernel takes
minutes to build."""

from pathlib import Path

# The targets of kbuild that a build requests. The file "drivers/slow" contains the number of
# seconds by which a build is delayed.
_MAKEFILE = """\
VERSION = 6
PATCHLEVEL = 0
.SILENT:
allnoconfig:
\tgrep -v CONFIG_NOPE $(KCONFIG_ALLCONFIG) > $(O)/.config || true
Image:
\tmkdir -p $(O)/arch/arm64/boot
\tif [ -f drivers/slow ]; then echo "  CC      slow"; sleep $$(cat drivers/slow); fi
\tcat drivers/iommu/iommu.c > $(O)/arch/arm64/boot/Image
\t$(CC) -fsyntax-only drivers/iommu/iommu.c
\ttouch $(O)/vmlinux $(O)/Module.symvers
\techo "  CC      drivers/iommu/iommu.o"
modules:
\tmkdir -p $(O)/include/config
\techo 6.0.0 > $(O)/include/config/kernel.release
\ttouch $(O)/modules.order $(O)/modules.builtin $(O)/modules.builtin.modinfo
"""

_FILES = {
    "Makefile": _MAKEFILE,
    "Kbuild": "",
    "arch/arm64/Kconfig": "config NET\n\tbool\n",
    "drivers/iommu/iommu.c": "int one;\n",
}

NAMES = sorted(_FILES)
MAKEFILE = _MAKEFILE


# Applies to a tree that write() has created.
PATCH = """\
--- a/drivers/iommu/iommu.c
+++ b/drivers/iommu/iommu.c
@@ -1 +1,2 @@
 int one;
+int two;
"""


def write(root: Path, slow: float = 0) -> Path:
    """Write the tree to ``root``, and return ``root``. Its build takes ``slow`` more seconds."""
    files = dict(_FILES)
    if slow:
        files["drivers/slow"] = f"{slow}\n"
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root
