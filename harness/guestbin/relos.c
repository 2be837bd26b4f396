// SPDX-License-Identifier: Apache-2.0
/* What libbpf did with every CO-RE relocation, and the instructions that came out. */
#include <stdlib.h>
#include <string.h>

#include "objcheck.h"

static void on_text(enum libbpf_print_level level, const char *text)
{
	size_t n = strlen(text);

	/* opening an ELF file is noisy too, and has relocations of its own */
	if (level == LIBBPF_DEBUG && !strstr(text, "CO-RE") &&
	    !(strstr(text, "prog '") && strstr(text, "relo #")))
		return;
	while (n && text[n - 1] == '\n')
		n--;
	js_line("libbpf");
	js_str("level", level_name(level));
	js_strn("text", text, n);
	js_end();
}

static void insns_line(struct bpf_program *prog, int err, const char *stage, const char *reason)
{
	const struct bpf_insn *insns = bpf_program__insns(prog);
	size_t n = bpf_program__insn_cnt(prog), i;
	const unsigned char *bytes = (const unsigned char *)insns;
	char *hex = malloc(n * sizeof(*insns) * 2 + 1);

	for (i = 0; i < n * sizeof(*insns); i++)
		sprintf(hex + 2 * i, "%02x", bytes[i]);
	js_line("insns");
	js_str("name", bpf_program__name(prog));
	js_str("section", bpf_program__section_name(prog));
	js_u64("count", n);
	js_bool("ok", !err);
	js_errno(err);
	js_str("stage", stage);
	js_str("reason", reason);
	js_strn("hex", n ? hex : "", n * sizeof(*insns) * 2);
	js_end();
	free(hex);
}

int cmd_dump_relos(int argc, char **argv)
{
	struct prog_names names;
	struct options o;
	struct log_buf log;
	size_t i;
	int status;

	if (options_parse(&o, argc, argv, false))
		return EXIT_USAGE;
	if (o.log_level < 0)
		o.log_level = LOG_STATS;	/* one load per program: the relocations come once */
	status = object_begin(&o, &log);
	if (status)
		return status;
	object_line(&o);
	names = object_programs(&o);
	for (i = 0; i < names.n; i++) {
		struct bpf_program *prog;
		struct attempt a;

		js_line("program");
		js_str("name", names.v[i].name);
		js_end();
		capture_to(on_text);
		a = load_attempt(&o, names.v[i].name, log);
		capture_to(NULL);
		prog = a.obj ? bpf_object__find_program_by_name(a.obj, names.v[i].name) : NULL;
		if (prog)
			insns_line(prog, a.err, a.stage, a.reason);
		attempt_free(&a);
	}
	free(names.v);
	js_line("end");
	js_end();
	return EXIT_RAN;
}
