// SPDX-License-Identifier: Apache-2.0
/* What BPF objects the kernel holds now, for leak checks. */
#include <errno.h>
#include <unistd.h>

#include "objcheck.h"

struct walk {
	const char *kind;
	int (*next)(uint32_t id, uint32_t *next_id);
	int (*open)(uint32_t id);
};

static void info_line(const struct walk *w, uint32_t id, int fd)
{
	union {
		struct bpf_prog_info prog;
		struct bpf_map_info map;
		struct bpf_link_info link;
		struct bpf_btf_info btf;
	} info = {};
	char btf_name[64] = "";
	const char *name = NULL, *of = NULL;
	uint32_t len;

	switch (*w->kind) {
	case 'p':
		len = sizeof(info.prog);
		if (!bpf_obj_get_info_by_fd(fd, &info, &len)) {
			name = info.prog.name;
			of = prog_type_name(info.prog.type);
		}
		break;
	case 'm':
		len = sizeof(info.map);
		if (!bpf_obj_get_info_by_fd(fd, &info, &len)) {
			name = info.map.name;
			of = map_type_name(info.map.type);
		}
		break;
	case 'l':
		len = sizeof(info.link);
		if (!bpf_obj_get_info_by_fd(fd, &info, &len))
			of = libbpf_bpf_link_type_str(info.link.type);
		break;
	default:
		len = sizeof(info.btf);
		info.btf.name = (uintptr_t)btf_name;
		info.btf.name_len = sizeof(btf_name);
		if (bpf_obj_get_info_by_fd(fd, &info, &len)) {
			/* before v5.11 there is no name, and asking for one is refused */
			info.btf = (struct bpf_btf_info){};
			len = sizeof(info.btf);
			bpf_obj_get_info_by_fd(fd, &info, &len);
		} else {
			name = btf_name;
		}
		of = info.btf.kernel_btf ? "kernel" : "program";
	}
	js_line("id");
	js_str("kind", w->kind);
	js_u64("id", id);
	js_str("name", name);
	js_str("of", of);
	js_end();
}

int cmd_ids(int argc, char **argv)
{
	static const struct walk walks[] = {
		{ "program", bpf_prog_get_next_id, bpf_prog_get_fd_by_id },
		{ "map", bpf_map_get_next_id, bpf_map_get_fd_by_id },
		{ "link", bpf_link_get_next_id, bpf_link_get_fd_by_id },
		{ "btf", bpf_btf_get_next_id, bpf_btf_get_fd_by_id },
	};
	enum { KINDS = sizeof(walks) / sizeof(*walks) };
	int64_t counts[KINDS];
	int errs[KINDS];
	size_t i;

	if (argc != 1) {
		js_error_line("usage", argv[1], "ids takes no argument");
		return EXIT_USAGE;
	}
	for (i = 0; i < KINDS; i++) {
		const struct walk *w = &walks[i];
		uint32_t id = 0;

		counts[i] = 0;
		while (!w->next(id, &id)) {
			int fd = w->open(id);

			if (fd < 0 && errno == ENOENT)	/* gone meanwhile */
				continue;
			counts[i]++;
			info_line(w, id, fd);
			if (fd >= 0)
				close(fd);
		}
		errs[i] = errno == ENOENT ? 0 : errno;
	}
	js_line("ids");
	for (i = 0; i < KINDS; i++)	/* null: this kernel has no such walk (links: since v5.8) */
		js_maybe(walks[i].kind, !errs[i], counts[i]);
	js_end();
	js_line("end");
	js_end();
	return EXIT_RAN;
}
