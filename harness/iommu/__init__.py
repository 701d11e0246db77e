# SPDX-License-Identifier: GPL-2.0-only
"""The subject: IOMMU drivers and machines, groups, clients, VFIO, behaviours, known issues, audit.

No other package below the jobs imports it: to test another subsystem, replace this package and
harness.kernel.subject.
"""
