// SPDX-License-Identifier: Apache-2.0
/* At which stage a load was refused, and why: out of libbpf's warnings and the verifier's log. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "objcheck.h"

/* Call number that libbpf writes over an instruction whose CO-RE relocation did not resolve. */
#define POISON_RELO "unknown#195896080"

/* libbpf's last "<kind> 'NAME': ... <what>": NAME, allocated, or NULL */
char *named_in_warnings(const char *kind, const char *what)
{
	const char *line = capture_warnings(), *end;
	char *name = NULL;

	for (; *line; line = *end ? end + 1 : end) {
		const char *hit, *start, *close;

		end = strchrnul(line, '\n');
		hit = memmem(line, end - line, kind, strlen(kind));
		if (!hit || !memmem(line, end - line, what, strlen(what)))
			continue;
		start = hit + strlen(kind);
		close = memchr(start, '\'', end - start);
		if (!close)
			continue;
		free(name);
		name = strndup(start, close - start);
	}
	return name;
}

static const char *map_reason(struct bpf_object *obj, const char *name, int err)
{
	struct bpf_map *map = name ? bpf_object__find_map_by_name(obj, name) : NULL;

	if (map && libbpf_probe_bpf_map_type(bpf_map__type(map), NULL) == 0)
		return "map-unsupported";
	if (err == EPERM || err == EACCES)
		return "permission";
	return err == ENOMEM ? "out-of-memory" : "map-refused";
}

static const char *verifier_reason(const char *log)
{
	if (strstr(log, POISON_RELO) || strstr(log, "<invalid CO-RE relocation>"))
		return "core-relocation";
	if (strstr(log, "BPF program is too large"))
		return "program-too-complex";
	if (strstr(log, "<invalid BPF map reference>"))
		return "map-not-created";
	/* fentry and its kin: in the BTF, but inlined everywhere */
	if (strstr(log, "The address of function "))
		return "attach-target-missing";
	/* before v5.13 a function whose address is taken (bpf_loop) is no subprogram */
	if (strstr(log, "number of funcs in func_info doesn't match number of subprogs"))
		return "instruction-unsupported";
	if (strstr(log, "unknown func ") || strstr(log, "invalid func ") ||
	    strstr(log, "cannot use helper "))
		return "helper-unsupported";
	/* the words of v5.4 to v7.3 for an atomic operation or an opcode they do not know */
	if (strstr(log, "uses reserved fields") || strstr(log, "unknown opcode ") ||
	    strstr(log, "invalid atomic opcode"))
		return "instruction-unsupported";
	return "verifier-rejected";
}

static const char *load_reason(struct bpf_object *obj, const char *program, int err)
{
	struct bpf_program *prog = program ? bpf_object__find_program_by_name(obj, program) : NULL;

	if (err == EPERM || err == EACCES)
		return "permission";
	if (capture_has("no BTF-based attach target"))
		return "attach-target-unset";
	if (capture_has("failed to find kernel BTF type ID"))
		return access(VMLINUX_BTF, R_OK) ? "kernel-btf-missing" : "attach-target-missing";
	if (prog && libbpf_probe_bpf_prog_type(bpf_program__type(prog), NULL) == 0)
		return "program-type-unsupported";
	if (err == E2BIG)
		return "program-too-long";
	if (err == ENOMEM)
		return "out-of-memory";
	return "load-refused";
}

/* Latest stage first: an optional failure of an earlier one leaves warnings too. */
void classify(struct attempt *a, const char *log)
{
	free(a->failed);
	a->failed = named_in_warnings("prog '", "fail");
	if (*log) {
		a->reason = verifier_reason(log);
		a->stage = !strcmp(a->reason, "core-relocation") ? "core-relocation" :
			   !strcmp(a->reason, "attach-target-missing") ? "load" : "verifier";
	} else if (capture_has("BPF program load failed") || capture_has("failed to prepare load")) {
		a->stage = "load";
		a->reason = load_reason(a->obj, a->failed, a->err);
	} else if (capture_has("ouldn't load trivial BPF program")) {
		a->stage = "load";
		a->reason = a->err == EPERM ? "permission" : "bpf-unavailable";
	} else if (capture_has("failed to create")) {
		char *map = named_in_warnings("map '", "failed to create");

		a->stage = "map";
		a->reason = map_reason(a->obj, map, a->err);
		free(map);
	} else if (capture_has("Error loading vmlinux BTF") ||
		   capture_has("failed to find valid kernel BTF") ||
		   capture_has("vmlinux BTF is not found")) {
		a->stage = "btf";
		a->reason = access(VMLINUX_BTF, R_OK) ? "kernel-btf-missing" : "kernel-btf-unreadable";
	} else if (capture_has("relo #") || capture_has("CO-RE")) {
		a->stage = "core-relocation";
		a->reason = "core-relocation";
	} else if (capture_has("extern ") || capture_has("ksym") ||
		   capture_has("Kconfig")) {
		a->stage = "load";
		a->reason = "extern-unresolved";
	} else if (capture_has("BTF")) {
		a->stage = "btf";
		a->reason = "btf-refused";
	} else {
		a->stage = "load";
		a->reason = a->err == EPERM ? "permission" : "load-refused";
	}
}
