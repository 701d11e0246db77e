# SPDX-License-Identifier: GPL-2.0-only
"""The pytest plugin: guests as fixtures, their findings as results."""
