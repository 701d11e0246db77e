# SPDX-License-Identifier: GPL-2.0-only
"""The code that is specific to IOMMUs: drivers and machines, groups, clients, VFIO, behaviours,
known issues and the audit.

No package in the layers below the jobs imports it. To test a different subsystem, replace this
package and harness.kernel.subject.
"""
