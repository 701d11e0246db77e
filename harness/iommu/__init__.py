# SPDX-License-Identifier: GPL-2.0-only
"""The code that is specific to IOMMUs: drivers and machines, groups, clients, VFIO, behaviours,
known issues and the audit.

Only harness.bisect, harness.repro, harness.suite and the packages above them import it. To test a
different subsystem, replace this package, harness.kernel.subject, kconfigs/iommu.config and
tests/scenarios.
"""
