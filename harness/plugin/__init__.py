# SPDX-License-Identifier: GPL-2.0-only
"""The pytest plugin, which provides guests as fixtures and reports findings as test results."""
