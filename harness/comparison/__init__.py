# SPDX-License-Identifier: GPL-2.0-only
"""Compare what two kernels, or two QEMUs, do in the same session or scenarios."""
