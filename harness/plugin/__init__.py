# SPDX-License-Identifier: GPL-2.0-only
"""The pytest plugin: guests as fixtures, and findings as test results."""
