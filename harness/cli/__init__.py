# SPDX-License-Identifier: GPL-2.0-only
"""The command ``iommu-harness``: it parses options, calls the packages below, and prints
their results as text or JSON."""
