// SPDX-License-Identifier: GPL-2.0-only
/*
 * Explain symbols of a kernel's Kconfig: linked with the tree's scripts/kconfig and run by
 * explain.mk in the environment of conf.
 *
 * explain KCONFIG: read names from standard input, one per line, and print for each what
 * menuconfig's search shows: the definition, the dependencies and the selecting symbols,
 * with their values in the .config.
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
