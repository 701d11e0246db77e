# SPDX-License-Identifier: GPL-2.0-only
"""The command ``iommu-harness``: options in, words or JSON out, no logic of its own."""
