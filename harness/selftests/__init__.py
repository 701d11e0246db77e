# SPDX-License-Identifier: GPL-2.0-only
"""Run the kernel's own tests of IOMMUs in guests: kselftest programs and KUnit modules."""
