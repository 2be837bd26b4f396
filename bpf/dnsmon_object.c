// SPDX-License-Identifier: GPL-2.0-only
/* The BPF object: settings, buffer and limiter by probe, load, the verifier's figures. */
#include <bpf/btf.h>
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dnsmon.h"

#define NO_BTF_HINT                                                                          \
	"give the kernel's BTF with --btf PATH: from an archive of BTF for distribution kernels " \
	"(BTFHub), or made of the distribution's debug vmlinux with "                        \
	"'pahole --btf_encode_detached=PATH vmlinux'"
#define CAPABILITY_HINT "run as root, or with CAP_BPF and CAP_PERFMON (CAP_SYS_ADMIN before Linux 5.8)"
#define LOG_LINE_MAX 4096

static char *log_text;
static size_t log_size, log_used;

/* Keeps the tail: the verifier says at the end what it did not like. */
static int keep(enum libbpf_print_level level, const char *format, va_list args)
{
	static char line[1 << 20];
	size_t size, room;
	int n;

	if (level == LIBBPF_DEBUG || !log_text)
		return 0;
	n = vsnprintf(line, sizeof(line), format, args);
	if (n < 0)
		return n;
	size = (size_t)n < sizeof(line) ? (size_t)n : sizeof(line) - 1;
	room = log_size - 1;
	if (size >= room) {
		memcpy(log_text, line + size - room, room);
		log_used = room;
	} else {
		if (log_used + size > room) {
			size_t drop = log_used + size - room;

			memmove(log_text, log_text + drop, log_used - drop);
			log_used -= drop;
		}
		memcpy(log_text + log_used, line, size);
		log_used += size;
	}
	log_text[log_used] = 0;
	return n;
}

void log_keep(unsigned long bytes)
{
	log_text = calloc(1, bytes);
	log_size = bytes;
	libbpf_set_print(keep);
}

void log_print(void)
{
	if (log_text)
		fputs(log_text, stderr);
}

/* Where the variable lies in .rodata, its size, and that of an element of an array. */
static void *locate(struct bpf_object *object, const char *name, size_t *size, size_t *element)
{
	struct bpf_map *map = bpf_object__find_map_by_name(object, ".rodata");
	const struct btf *btf = bpf_object__btf(object);
	const struct btf_var_secinfo *variable;
	const struct btf_type *section, *type;
	size_t length;
	char *data;
	int i, id;

	if (!map || !btf)
		return NULL;
	data = (char *)bpf_map__initial_value(map, &length);
	id = btf__find_by_name_kind(btf, ".rodata", BTF_KIND_DATASEC);
	if (!data || id < 0)
		return NULL;
	section = btf__type_by_id(btf, (__u32)id);
	variable = btf_var_secinfos(section);
	for (i = 0; i < btf_vlen(section); i++, variable++) {
		type = btf__type_by_id(btf, variable->type);
		if (strcmp(btf__name_by_offset(btf, type->name_off), name) != 0)
			continue;
		type = btf__type_by_id(btf, type->type);
		while (btf_is_mod(type) || btf_is_typedef(type))
			type = btf__type_by_id(btf, type->type);
		*size = *element = variable->size;
		if (btf_is_array(type))
			*element = variable->size / btf_array(type)->nelems;
		return data + variable->offset;
	}
	return NULL;
}

void *setting(struct bpf_object *object, const char *name, size_t *size)
{
	size_t element;

	return locate(object, name, size, &element);
}

/* "name=1" or, for an array, "name=1,2"; elements not named become 0. */
static int apply(struct bpf_object *object, const char *text)
{
	const char *equals = strchr(text, '=');
	size_t size, element, offset = 0;
	unsigned long long value;
	char name[64], *end, *data;
	const char *at;

	if (!equals || (size_t)(equals - text) >= sizeof(name))
		return fail(EXIT_USAGE, "usage", "write --set NAME=VALUE", "bad setting '%s'", text);
	memcpy(name, text, (size_t)(equals - text));
	name[equals - text] = 0;
	data = locate(object, name, &size, &element);
	if (!data)
		return fail(EXIT_USAGE, "usage", NULL, "the object has no setting '%s'", name);
	memset(data, 0, size);
	for (at = equals + 1;; at = end + 1) {
		errno = 0;
		value = strtoull(at, &end, 0);
		if (errno || end == at || *at == '-' || (*end && *end != ',') ||
		    (element < 8 && value >> (8 * element)) || offset + element > size)
			return fail(EXIT_USAGE, "usage", NULL, "bad value in setting '%s'", text);
		memcpy(data + offset, &value, element);
		offset += element;
		if (!*end)
			return 0;
	}
}

static __u32 setting_u32(struct bpf_object *object, const char *name)
{
	__u32 value = 0;
	size_t size;
	void *data = setting(object, name, &size);

	if (data && size <= sizeof(value))
		memcpy(&value, data, size);
	return value;
}

static int check_settings(struct bpf_object *object)
{
	if (setting_u32(object, "rate_limit") && !setting_u32(object, "rate_burst"))
		return fail(EXIT_USAGE, "usage", "set rate_burst to 1 or more, or rate_limit to 0",
			    "a rate limit with a burst of 0 admits nothing");
	return 0;
}

/* libbpf has error numbers of its own, above the system's. */
static int fail_open(const char *path, int err)
{
	char text[128];

	libbpf_strerror(err, text, sizeof(text));
	return fail(EXIT_USAGE, "usage", NULL, "cannot open object '%s': %s", path, text);
}

/* "xadd" programs have the plain name, their gcra twins a suffix. */
static int wanted(const char *program, enum limiter_kind limiter)
{
	size_t length = strlen(program);
	int gcra = length > 5 && strcmp(program + length - 5, "_gcra") == 0;

	if (strncmp(program, "dns_udp", 7) != 0)
		return 0;
	return gcra == (limiter == LIMITER_GCRA);
}

static int pick_buffer(struct monitor *m, const struct options *o)
{
	int by_btf = probe_ringbuf_btf(o->btf), by_map = probe_ringbuf_map();
	struct bpf_map *events = bpf_object__find_map_by_name(m->object, "events");
	long page = sysconf(_SC_PAGESIZE);
	size_t size;
	__u8 *force;
	int err;

	if (!events)
		return fail(EXIT_USAGE, "usage", NULL, "'%s' has no map 'events'", o->object);
	if (o->buffer == BUFFER_RINGBUF && by_map == 0)
		return fail(EXIT_REFUSED, "map-unsupported", "use --buffer auto",
			    "this kernel has no ring buffer");
	m->buffer = o->buffer != BUFFER_PERF && by_btf > 0 && by_map != 0 ? BUFFER_RINGBUF : BUFFER_PERF;
	m->ring_bytes = o->ring_bytes ? o->ring_bytes : m->buffer == BUFFER_PERF ? 65536 : 262144;
	if (m->ring_bytes & (m->ring_bytes - 1) || m->ring_bytes % (unsigned long)page)
		return fail(EXIT_USAGE, "usage", NULL,
			    "--ring-bytes %lu is no power of two of whole pages (%ld)", m->ring_bytes, page);
	if (m->buffer == BUFFER_RINGBUF)
		return bpf_map__set_max_entries(events, (__u32)m->ring_bytes) ? EXIT_UNKNOWN : 0;
	err = bpf_map__set_type(events, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	if (!err)
		err = bpf_map__set_key_size(events, 4);
	if (!err)
		err = bpf_map__set_value_size(events, 4);
	if (!err)
		err = bpf_map__set_max_entries(events, 0);
	if (err)
		return fail(EXIT_UNKNOWN, "infra", NULL, "cannot retype the map 'events': %s", strerror(-err));
	force = setting(m->object, "force_perf", &size);
	if (force && by_btf > 0)
		*force = 1;
	return 0;
}

static int pick_limiter(struct monitor *m, const struct options *o)
{
	int has_fetch = probe_atomic_fetch();

	if (o->limiter == LIMITER_GCRA && has_fetch == 0)
		return fail(EXIT_REFUSED, "verifier-rejected", "use --limiter auto",
			    "this kernel has no compare-and-swap for BPF programs");
	m->limiter = o->limiter == LIMITER_AUTO ? (has_fetch > 0 ? LIMITER_GCRA : LIMITER_XADD) :
						  o->limiter;
	return 0;
}

int monitor_open(struct monitor *m, const struct options *o, const char *only)
{
	LIBBPF_OPTS(bpf_object_open_opts, open, .btf_custom_path = o->btf);
	struct bpf_program *program;
	int i, err;

	memset(m, 0, sizeof(*m));
	if (!o->btf && !probe_kernel_btf())
		return fail(EXIT_REFUSED, "btf-missing", NO_BTF_HINT,
			    "this kernel has no BTF: /sys/kernel/btf/vmlinux is missing or unreadable");
	if (o->btf && access(o->btf, R_OK))
		return fail(EXIT_USAGE, "usage", NULL, "cannot read '%s': %s", o->btf, strerror(errno));
	m->object = bpf_object__open_file(o->object, &open);
	if (!m->object) {
		err = errno;
		log_print();
		return fail_open(o->object, err);
	}
	err = pick_buffer(m, o);
	if (!err)
		err = pick_limiter(m, o);
	for (i = 0; i < o->n_sets && !err; i++)
		err = apply(m->object, o->sets[i]);
	if (!err)
		err = check_settings(m->object);
	if (err) {
		bpf_object__close(m->object);
		m->object = NULL;
		return err;
	}
	bpf_object__for_each_program(program, m->object) {
		const char *name = bpf_program__name(program);

		bpf_program__set_autoload(program, only ? strcmp(name, only) == 0 : wanted(name, m->limiter));
	}
	return 0;
}

/* Says why a load failed, in the words of the taxonomy that the harness uses. */
static const char *load_cause(int err)
{
	if (strstr(log_text, "CO-RE relocation") || strstr(log_text, "failed to relocate"))
		return "core-relocation";
	if (strstr(log_text, "failed to create"))
		return "map-unsupported";
	return err == -EPERM ? "privilege" : "verifier-rejected";
}

int monitor_load(struct monitor *m, const struct options *o)
{
	int err = bpf_object__load(m->object);

	if (!err)
		return 0;
	log_print();
	if (err == -EPERM && *missing_capabilities())
		return fail(EXIT_UNKNOWN, "privilege", CAPABILITY_HINT, "not permitted: missing %s",
			    missing_capabilities());
	if (err == -EPERM)
		return fail(EXIT_UNKNOWN, "privilege",
			    "before Linux 5.11 maps count against RLIMIT_MEMLOCK: raise it (ulimit -l unlimited)",
			    "not permitted though capabilities suffice: locked memory or a lockdown policy");
	return fail(EXIT_REFUSED, load_cause(err), NULL, "cannot load '%s': %s", o->object, strerror(-err));
}

/* The number behind the last "processed " of a verifier log, or 0. */
static unsigned long processed(const char *log)
{
	unsigned long count = 0;
	const char *at = log;

	while ((at = strstr(at, "processed "))) {
		at += strlen("processed ");
		count = strtoul(at, NULL, 10);
	}
	return count;
}

static int load_one(const struct options *o, const char *name, const char *section)
{
	struct bpf_prog_info info = {};
	struct bpf_program *program;
	__u32 info_size = sizeof(info);
	char *log = calloc(1, o->log_bytes);
	struct monitor m;
	struct json json;
	int err;

	if (!log)
		return fail(EXIT_UNKNOWN, "infra", NULL, "no memory for a log of %lu", o->log_bytes);
	err = monitor_open(&m, o, name);
	if (err) {
		free(log);
		return err;
	}
	program = bpf_object__find_program_by_name(m.object, name);
	bpf_program__set_log_buf(program, log, o->log_bytes);
	bpf_program__set_log_level(program, 4);
	err = bpf_object__load(m.object);
	json_open(&json, stdout, "program");
	json_text(&json, "name", name);
	json_text(&json, "section", section);
	json_bool(&json, "loaded", !err);
	json_u64(&json, "insns_processed", processed(log));
	if (err) {
		json_text(&json, "error", strerror(-err));
		json_text(&json, "log_tail", strlen(log) > 2000 ? log + strlen(log) - 2000 : log);
	} else if (!bpf_obj_get_info_by_fd(bpf_program__fd(program), &info, &info_size)) {
		json_u64(&json, "xlated_bytes", info.xlated_prog_len);
		json_u64(&json, "jited_bytes", info.jited_prog_len);
		json_u64(&json, "verified_insns", info.verified_insns);
	}
	json_close(&json);
	bpf_object__close(m.object);
	free(log);
	if (!err)
		return 0;
	return err == -EPERM && *missing_capabilities() ? EXIT_UNKNOWN : EXIT_REFUSED;
}

int cmd_load(const struct options *o)
{
	struct bpf_object *list = bpf_object__open_file(o->object, NULL);
	int err, status = 0, gcra = probe_atomic_fetch();
	struct bpf_program *program;
	struct monitor all;
	struct json json;

	if (!list)
		return fail_open(o->object, errno);
	bpf_object__for_each_program(program, list) {
		const char *name = bpf_program__name(program);
		/* As the object says it: SEC("?...") is not loaded unless asked for. */
		int optional = !bpf_program__autoload(program);

		if (optional && !o->all)
			continue;
		err = load_one(o, name, bpf_program__section_name(program));
		if (err == EXIT_REFUSED && optional && gcra == 0)
			err = 0;
		if (err > status)
			status = err;
	}
	bpf_object__close(list);
	err = monitor_open(&all, o, NULL);
	if (err)
		return err;
	err = monitor_load(&all, o);
	json_open(&json, stdout, "object");
	json_bool(&json, "loaded", !err);
	json_text(&json, "buffer", all.buffer == BUFFER_PERF ? "perf" : "ringbuf");
	json_text(&json, "limiter", all.limiter == LIMITER_GCRA ? "gcra" : "xadd");
	json_close(&json);
	bpf_object__close(all.object);
	return err > status ? err : status;
}
