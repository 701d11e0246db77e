# SPDX-License-Identifier: GPL-2.0-only
# The kernel's make reads this before its own makefiles (MAKEFILES), so the program runs
# in exactly the environment in which Kconfig is evaluated. The goal's name ends in
# "config" because kbuild requires no .config for such goals.
harness-explain-config:
	@$(HARNESS_EXPLAIN) Kconfig < $(HARNESS_SYMBOLS)
