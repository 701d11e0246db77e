# SPDX-License-Identifier: GPL-2.0-only
"""The command ``iommu-harness``. Its modules parse options, call the other packages, and print
the results as text or JSON."""
