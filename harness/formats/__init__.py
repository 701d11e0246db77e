# SPDX-License-Identifier: GPL-2.0-only
"""Results in the formats that other tools read: KTAP and JUnit XML."""
