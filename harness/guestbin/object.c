// SPDX-License-Identifier: Apache-2.0
/* Opening an object the way its own loader would: autoload, map fixes, settings. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "objcheck.h"

/* ---- settings: variables of .rodata, .data, .bss, found by the object's BTF ---- */

struct place {
	char *at;		/* inside the map's initial value */
	uint32_t type;		/* BTF id, modifiers included */
	size_t room;		/* bytes to the end of the section */
};

static const struct btf_type *strip(const struct btf *btf, uint32_t id)
{
	const struct btf_type *t = btf__type_by_id(btf, id);

	while (t && (btf_is_mod(t) || btf_is_typedef(t)))
		t = btf__type_by_id(btf, t->type);
	return t;
}

static bool ends_with(const char *s, const char *tail)
{
	size_t n = strlen(s), m = strlen(tail);

	return n >= m && !strcmp(s + n - m, tail);
}

static bool find_variable(struct bpf_object *obj, const struct btf *btf, const char *name,
			  struct place *where)
{
	uint32_t id;

	for (id = 1; id < btf__type_cnt(btf); id++) {
		const struct btf_type *sec = btf__type_by_id(btf, id);
		const struct btf_var_secinfo *v;
		const char *sec_name;
		struct bpf_map *map;
		int i;

		if (!btf_is_datasec(sec))
			continue;
		sec_name = btf__name_by_offset(btf, sec->name_off);
		for (i = 0, v = btf_var_secinfos(sec); i < btf_vlen(sec); i++, v++) {
			const struct btf_type *var = btf__type_by_id(btf, v->type);

			if (!btf_is_var(var) || strcmp(btf__name_by_offset(btf, var->name_off), name))
				continue;
			bpf_object__for_each_map(map, obj) {
				size_t size = 0;
				char *value;

				if (!bpf_map__is_internal(map) || !ends_with(bpf_map__name(map), sec_name))
					continue;
				value = (char *)bpf_map__initial_value(map, &size);
				if (!value || v->offset + v->size > size)
					continue;
				*where = (struct place){ value + v->offset, var->type, v->size };
				return true;
			}
		}
	}
	return false;
}

static bool enum_value(const struct btf *btf, const struct btf_type *t, const char *text,
		       int64_t *out)
{
	int i;

	for (i = 0; i < btf_vlen(t); i++) {
		if (btf_is_enum(t)) {
			const struct btf_enum *e = btf_enum(t) + i;

			*out = e->val;
			if (!strcmp(btf__name_by_offset(btf, e->name_off), text))
				return true;
		} else {
			const struct btf_enum64 *e = btf_enum64(t) + i;

			*out = (int64_t)btf_enum64_value((struct btf_enum64 *)e);
			if (!strcmp(btf__name_by_offset(btf, e->name_off), text))
				return true;
		}
	}
	return false;
}

/* NULL, or why the text is no value of an integer, bool or enum of this type. */
static const char *write_scalar(const struct btf *btf, const struct btf_type *t, char *at,
				const char *text)
{
	bool is_signed, is_enum = btf_is_enum(t) || btf_is_enum64(t);
	int64_t value = 0;
	unsigned int bits = t->size * 8;
	char *end;

	if (!(btf_is_int(t) || is_enum) || bits > 64)
		return "the variable is not an integer, a bool, an enum or an array of these";
	is_signed = is_enum ? true : btf_int_encoding(t) & BTF_INT_SIGNED;
	if (!is_enum && (btf_int_encoding(t) & BTF_INT_BOOL)) {
		if (!strcmp(text, "true") || !strcmp(text, "1"))
			value = 1;
		else if (strcmp(text, "false") && strcmp(text, "0"))
			return "a bool is true, false, 1 or 0";
	} else if (!is_enum || !enum_value(btf, t, text, &value)) {
		errno = 0;
		if (*text == '-') {
			value = strtoll(text, &end, 0);
			if (!is_signed)
				return "the variable is unsigned";
			if (bits < 64 && value < -(INT64_C(1) << (bits - 1)))
				return "the value is too small";
		} else {
			uint64_t u = strtoull(text, &end, 0);
			unsigned int usable = is_signed && !is_enum ? bits - 1 : bits;

			if (usable < 64 && u >> usable)
				return "the value is too large";
			value = (int64_t)u;
		}
		if (errno || end == text || *end)
			return is_enum ? "neither an enumerator nor a number" : "not a number";
	}
	/* little and big endian alike: store through the type of that width */
	switch (t->size) {
	case 1:
		*(uint8_t *)at = value;
		break;
	case 2:
		memcpy(at, &(uint16_t){ value }, 2);
		break;
	case 4:
		memcpy(at, &(uint32_t){ value }, 4);
		break;
	default:
		memcpy(at, &value, 8);
	}
	return NULL;
}

/* "1,2,3" fills an array from its start; "str:TEXT" a char array; the rest becomes zero. */
static const char *write_value(const struct btf *btf, const struct place *p, const char *text)
{
	const struct btf_type *t = strip(btf, p->type), *elem;
	const struct btf_array *array;
	char *copy, *rest, *item;
	const char *why = NULL;
	uint32_t i = 0;

	if (!t)
		return "the variable has no type";
	if (!btf_is_array(t))
		return write_scalar(btf, t, p->at, text);
	array = btf_array(t);
	elem = strip(btf, array->type);
	if (!elem || !(btf_is_int(elem) || btf_is_any_enum(elem)) ||
	    (uint64_t)array->nelems * elem->size > p->room)
		return "only arrays of integers can be set";
	if (elem->size == 1 && !strncmp(text, "str:", 4)) {
		if (strlen(text + 4) >= array->nelems)
			return "the text is too long";
		memset(p->at, 0, array->nelems);
		memcpy(p->at, text + 4, strlen(text + 4));
		return NULL;
	}
	memset(p->at, 0, (size_t)array->nelems * elem->size);
	rest = copy = strdup(text);
	while (!why && *text && (item = strsep(&rest, ","))) {
		if (i == array->nelems)
			why = "more values than the array has elements";
		else
			why = write_scalar(btf, elem, p->at + (size_t)i++ * elem->size, item);
	}
	free(copy);
	return why;
}

static int apply_setting(struct bpf_object *obj, const struct setting *set)
{
	const struct btf *btf = bpf_object__btf(obj);
	struct place where;
	const char *why;

	if (!btf || !find_variable(obj, btf, set->name, &where)) {
		js_error_line("set", set->name, "unknown variable '%s'", set->name);
		return -1;
	}
	why = write_value(btf, &where, set->value);
	if (why) {
		js_error_line("set", set->name, "%s=%s: %s", set->name, set->value, why);
		return -1;
	}
	return 0;
}

/* ---- maps ---- */

static int apply_map(struct bpf_object *obj, const struct map_fix *fix)
{
	struct bpf_map *map = bpf_object__find_map_by_name(obj, fix->name);
	int err = 0;

	if (!map) {
		js_error_line("map", fix->name, "unknown map '%s'", fix->name);
		return -1;
	}
	if (fix->unless_map >= 0 && libbpf_probe_bpf_map_type(fix->unless_map, NULL) == 1)
		return 0;
	if (fix->type >= 0)
		err = bpf_map__set_type(map, fix->type);
	if (!err && fix->key >= 0)
		err = bpf_map__set_key_size(map, fix->key);
	if (!err && fix->value >= 0)
		err = bpf_map__set_value_size(map, fix->value);
	if (!err && fix->max >= 0)
		err = bpf_map__set_max_entries(map, fix->max);
	if (err) {
		js_error_line("map", fix->name, "libbpf refuses the change: %s", strerror(-err));
		return -1;
	}
	return 0;
}

/* The map's own loader makes such a map first, and names it; libbpf keeps the descriptor. */
static int apply_inner(struct bpf_object *obj, const struct map_fix *fix)
{
	struct bpf_map *map = bpf_object__find_map_by_name(obj, fix->name);
	int fd, err;

	if (!map) {
		js_error_line("map", fix->name, "unknown map '%s'", fix->name);
		return -1;
	}
	if (fix->type < 0 || fix->key < 0 || fix->value < 0 || fix->max < 0) {
		js_error_line("map", fix->name, "--inner %s wants a type and all sizes", fix->name);
		return -1;
	}
	fd = bpf_map_create(fix->type, NULL, fix->key, fix->value, fix->max, NULL);
	err = fd < 0 ? fd : bpf_map__set_inner_map_fd(map, fd);
	if (err) {
		js_error_line("map", fix->name, "no inner map for '%s': %s", fix->name, strerror(-err));
		if (fd >= 0)
			close(fd);
		return -1;
	}
	return 0;
}

static bool may_have_no_entries(int type)
{
	switch (type) {
	case BPF_MAP_TYPE_PERF_EVENT_ARRAY:	/* libbpf fills in the number of CPUs */
	case BPF_MAP_TYPE_SK_STORAGE:
	case BPF_MAP_TYPE_INODE_STORAGE:
	case BPF_MAP_TYPE_TASK_STORAGE:
	case 32:				/* BPF_MAP_TYPE_CGRP_STORAGE: younger than some headers */
	case BPF_MAP_TYPE_CGROUP_STORAGE:
	case BPF_MAP_TYPE_PERCPU_CGROUP_STORAGE:
	case BPF_MAP_TYPE_STRUCT_OPS:
		return true;
	default:
		return false;
	}
}

/* Stack traces of the kernel's default depth (kernel.perf_event_max_stack). */
enum { STACK_BYTES = 127 * sizeof(uint64_t) };

/*
 * No kernel takes such a map: the object's own loader sizes it when it starts. The smallest that
 * works lets the programs be judged.
 */
static bool size_unsized(struct bpf_map *map)
{
	int type = bpf_map__type(map);
	bool ring = type == BPF_MAP_TYPE_RINGBUF || type == BPF_MAP_TYPE_USER_RINGBUF;
	bool sized = false;

	if (bpf_map__is_internal(map))
		return false;
	if (!bpf_map__max_entries(map) && !may_have_no_entries(type)) {
		bpf_map__set_max_entries(map, ring ? sysconf(_SC_PAGESIZE) : 1);
		sized = true;
	}
	if (type == BPF_MAP_TYPE_STACK_TRACE && !bpf_map__value_size(map)) {
		bpf_map__set_value_size(map, STACK_BYTES);
		sized = true;
	}
	return sized;
}

int object_fixups(const struct options *o, struct bpf_object *obj)
{
	struct bpf_map *map;
	size_t i;

	for (i = 0; i < o->nmaps; i++)
		if (apply_map(obj, &o->maps[i]))
			return -1;
	for (i = 0; i < o->ninner; i++)
		if (apply_inner(obj, &o->inner[i]))
			return -1;
	for (i = 0; i < o->nsettings; i++)
		if (apply_setting(obj, &o->settings[i]))
			return -1;
	bpf_object__for_each_map(map, obj)
		size_unsized(map);
	return 0;
}

void map_facts(struct bpf_map *map)
{
	js_str("name", bpf_map__name(map));
	js_str("map_type", map_type_name(bpf_map__type(map)));
	js_u64("key_size", bpf_map__key_size(map));
	js_u64("value_size", bpf_map__value_size(map));
	js_u64("max_entries", bpf_map__max_entries(map));
}

long fd_memlock(int fd)
{
	char path[64], line[128];
	long bytes = -1;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	f = fopen(path, "re");
	if (!f)
		return -1;
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "memlock: %ld", &bytes) == 1)
			break;
	fclose(f);
	return bytes;
}

/* ---- opening ---- */

static struct bpf_object *open_plain(const struct options *o)
{
	LIBBPF_OPTS(bpf_object_open_opts, opts, .btf_custom_path = o->btf);

	capture_start();
	return bpf_object__open_file(o->object, &opts);
}

/* SEC("fentry") without "/FUNCTION": its own loader names what it goes to before it loads. */
static bool lacks_target(const struct bpf_program *prog)
{
	enum bpf_prog_type type = bpf_program__type(prog);
	bool wants = type == BPF_PROG_TYPE_TRACING || type == BPF_PROG_TYPE_LSM ||
		     type == BPF_PROG_TYPE_EXT;

	return wants && !strchr(bpf_program__section_name(prog), '/');
}

struct opened object_open(const struct options *o, enum autoload how, const char *only)
{
	struct bpf_object *obj = open_plain(o);
	struct bpf_program *prog;

	if (!obj)
		return (struct opened){ .err = errno };
	bpf_object__for_each_program(prog, obj) {
		const char *name = bpf_program__name(prog);
		const struct optional_program *optional = options_optional(o, name);

		if (how == AUTOLOAD_ONE)
			bpf_program__set_autoload(prog, !strcmp(name, only));
		else if (how == AUTOLOAD_ALL)
			bpf_program__set_autoload(prog, options_wants(o, name));
		else if (o->nprograms)
			bpf_program__set_autoload(prog, options_wants(o, name));
		if (how == AUTOLOAD_TOGETHER && ((optional && optional->refused) || lacks_target(prog)))
			bpf_program__set_autoload(prog, false);
	}
	if (object_fixups(o, obj)) {
		bpf_object__close(obj);
		return (struct opened){ .err = EINVAL };
	}
	return (struct opened){ .obj = obj };
}

void object_line(const struct options *o)
{
	struct bpf_object *obj = open_plain(o);
	struct bpf_program *prog;
	struct bpf_map *map;
	struct {
		uint32_t type, value, max;
	} *declared;
	size_t i = 0;

	if (!obj)
		return;
	bpf_object__for_each_map(map, obj)
		i++;
	declared = calloc(i + 1, sizeof(*declared));
	i = 0;
	bpf_object__for_each_map(map, obj) {
		declared[i].type = bpf_map__type(map);
		declared[i].value = bpf_map__value_size(map);
		declared[i++].max = bpf_map__max_entries(map);
	}
	object_fixups(o, obj);
	js_line("object");
	js_str("path", o->object);
	js_str("btf", o->btf);
	js_str("libbpf", libbpf_version_string() + 1);
	js_array("programs");
	bpf_object__for_each_program(prog, obj)
		js_str(NULL, bpf_program__name(prog));
	js_close();
	js_array("maps");
	i = 0;
	bpf_object__for_each_map(map, obj) {
		js_object(NULL);
		map_facts(map);
		js_bool("retyped", declared[i].type != bpf_map__type(map));
		js_bool("sized", declared[i].value != bpf_map__value_size(map) ||
				 declared[i].max != bpf_map__max_entries(map));
		i++;
		js_bool("internal", bpf_map__is_internal(map));
		js_close();
	}
	js_close();
	js_end();
	free(declared);
	bpf_object__close(obj);
}

struct prog_names object_programs(const struct options *o)
{
	struct prog_names names = {};
	struct bpf_object *obj = open_plain(o);
	struct bpf_program *prog;

	if (!obj)
		return names;
	bpf_object__for_each_program(prog, obj)
		names.n++;
	names.v = calloc(names.n + 1, sizeof(*names.v));
	names.n = 0;
	bpf_object__for_each_program(prog, obj) {
		struct prog_name *p;

		if (!options_wants(o, bpf_program__name(prog)))
			continue;
		p = &names.v[names.n++];
		snprintf(p->name, sizeof(p->name), "%s", bpf_program__name(prog));
		p->optional = !bpf_program__autoload(prog);
	}
	bpf_object__close(obj);
	return names;
}

/* libbpf has error numbers of its own above errno's */
static const char *say(int err)
{
	static char text[128];

	libbpf_strerror(err, text, sizeof(text));
	return text;
}

/* Everything that can be wrong before a kernel has a say. */
int object_check(const struct options *o)
{
	struct bpf_object *obj;
	size_t i;
	int err = 0;

	if (access(o->object, R_OK)) {
		js_error_line("object", o->object, "cannot read '%s': %s", o->object, strerror(errno));
		return EXIT_UNREADABLE;
	}
	if (o->btf) {
		struct btf *btf = btf__parse(o->btf, NULL);

		if (!btf) {
			js_error_line("btf", o->btf, "no BTF in '%s': %s", o->btf, say(errno));
			return EXIT_UNREADABLE;
		}
		btf__free(btf);
	}
	obj = open_plain(o);
	if (!obj) {
		js_error_line("object", o->object, "libbpf cannot open '%s': %s\n%s", o->object,
			      say(errno), capture_warnings());
		return EXIT_UNREADABLE;
	}
	for (i = 0; i < o->nprograms && !err; i++) {
		if (!bpf_object__find_program_by_name(obj, o->programs[i])) {
			js_error_line("program", o->programs[i], "unknown program '%s'", o->programs[i]);
			err = EXIT_USAGE;
		}
	}
	for (i = 0; i < o->nmaps && !err; i++)
		err = apply_map(obj, &o->maps[i]) ? EXIT_USAGE : 0;
	for (i = 0; i < o->ninner && !err; i++)
		err = apply_inner(obj, &o->inner[i]) ? EXIT_USAGE : 0;
	for (i = 0; i < o->nsettings && !err; i++)
		err = apply_setting(obj, &o->settings[i]) ? EXIT_USAGE : 0;
	bpf_object__close(obj);
	return err;
}
