// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a kernel's own Kconfig says about symbols: linked with the tree's
 * scripts/kconfig, run by explain.mk with the environment of its conf.
 *
 * explain KCONFIG: reads names from standard input, one a line, and prints for
 * each what menuconfig's search shows: where it is defined, what it depends on
 * and what selects it, with the values that the .config gives.
 */
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "lkc.h"

static void explain(const char *name)
{
	struct symbol *found[2] = { sym_find(name), NULL };
	struct gstr text;

	printf("harness-symbol %s\n", name);
	if (!found[0] || found[0]->type == S_UNKNOWN)
		return;
	sym_calc_value(found[0]);
	text = get_relations_str(found, NULL);
	fputs(str_get(&text), stdout);
	str_free(&text);
}

int main(int argc, char **argv)
{
	char name[256];

	if (argc != 2)
		return 2;
	conf_parse(argv[1]);
	conf_read(NULL);
	while (fgets(name, sizeof(name), stdin)) {
		name[strcspn(name, "\n")] = '\0';
		explain(name);
	}
	return 0;
}
