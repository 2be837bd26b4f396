// SPDX-License-Identifier: Apache-2.0
#include <string.h>
#include <sys/resource.h>

#include "objcheck.h"

static const struct {
	const char *name;
	int (*run)(int argc, char **argv);
} commands[] = {
	{ "features", cmd_features },
	{ "load", cmd_load },
	{ "attach", cmd_attach },
	{ "dump-relos", cmd_dump_relos },
	{ "ids", cmd_ids },
	{ "hot", cmd_hot },
	{ "maps", cmd_maps },
	{ "kprobe", cmd_kprobe },
	{ "runs", cmd_runs },
};

/* Since Linux v5.11 the memory cgroup is charged instead; before, 64 kB is all one gets. */
void raise_memlock(void)
{
	const struct rlimit all = { RLIM_INFINITY, RLIM_INFINITY };

	setrlimit(RLIMIT_MEMLOCK, &all);
}

int main(int argc, char **argv)
{
	size_t i;

	libbpf_set_strict_mode(LIBBPF_STRICT_ALL);
	capture_start();
	for (i = 0; argc > 1 && i < sizeof(commands) / sizeof(*commands); i++) {
		if (!strcmp(argv[1], commands[i].name)) {
			raise_memlock();
			return commands[i].run(argc - 1, argv + 1);
		}
	}
	js_error_line("usage", argc > 1 ? argv[1] : NULL,
		      "usage: objcheck features|load|attach|dump-relos|ids|hot|maps|kprobe|runs ...");
	return EXIT_USAGE;
}
