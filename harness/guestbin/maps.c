// SPDX-License-Identifier: Apache-2.0
/* The maps that the kernel holds now: their memory, and how many elements are in those that grow. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "objcheck.h"

enum { WALK_LIMIT = 100000 };	/* elements of a map; 0.2 s under emulation */

/* Maps whose elements come and go, and whose keys can be walked. Arrays are full from the start. */
static bool grows(uint32_t type)
{
	switch (type) {
	case BPF_MAP_TYPE_HASH:
	case BPF_MAP_TYPE_PERCPU_HASH:
	case BPF_MAP_TYPE_LRU_HASH:
	case BPF_MAP_TYPE_LRU_PERCPU_HASH:
	case BPF_MAP_TYPE_LPM_TRIE:
	case BPF_MAP_TYPE_HASH_OF_MAPS:
	case BPF_MAP_TYPE_SOCKHASH:
	case BPF_MAP_TYPE_DEVMAP_HASH:
		return true;
	default:
		return false;
	}
}

/*
 * Elements, at most WALK_LIMIT, or -1: no such walk. When a key vanishes under the walk the kernel
 * begins again, so a map at work may be counted too high; one at rest is not.
 */
static int64_t count_elements(int fd, const struct bpf_map_info *info)
{
	char *key = calloc(1, info->key_size), *next = calloc(1, info->key_size);
	int64_t n = 0;
	int err = 0;

	while (n < WALK_LIMIT && !(err = bpf_map_get_next_key(fd, n ? key : NULL, next))) {
		memcpy(key, next, info->key_size);
		n++;
	}
	if (err && errno != ENOENT)
		n = -1;
	free(key);
	free(next);
	return n;
}

static void map_line(uint32_t id, int fd)
{
	struct bpf_map_info info = {};
	uint32_t len = sizeof(info);
	int64_t elements = -1;
	long memlock;

	if (bpf_obj_get_info_by_fd(fd, &info, &len)) {
		js_error_line("map", NULL, "map %u does not tell what it is: %s", id, strerror(errno));
		return;
	}
	if (grows(info.type))
		elements = count_elements(fd, &info);
	memlock = fd_memlock(fd);
	js_line("map");
	js_u64("id", id);
	js_strn("name", info.name, strnlen(info.name, sizeof(info.name)));
	js_str("of", map_type_name((int)info.type));
	js_u64("key_size", info.key_size);
	js_u64("value_size", info.value_size);
	js_u64("max_entries", info.max_entries);
	js_bool("prealloc", !(info.map_flags & BPF_F_NO_PREALLOC));
	js_maybe("memlock_bytes", memlock >= 0, (uint64_t)memlock);
	js_maybe("elements", elements >= 0, (uint64_t)elements);
	js_bool("more", elements == WALK_LIMIT);
	js_end();
}

int cmd_maps(int argc, char **argv)
{
	uint32_t id = 0;

	if (argc != 1) {
		js_error_line("usage", argv[1], "maps takes no argument");
		return EXIT_USAGE;
	}
	while (!bpf_map_get_next_id(id, &id)) {
		int fd = bpf_map_get_fd_by_id(id);

		if (fd < 0 && errno == ENOENT)	/* gone meanwhile */
			continue;
		if (fd < 0) {
			js_error_line("map", NULL, "map %u cannot be opened: %s", id, strerror(errno));
			continue;
		}
		map_line(id, fd);
		close(fd);
	}
	if (errno != ENOENT)
		js_error_line("map", NULL, "the walk over maps ended: %s", strerror(errno));
	js_line("end");
	js_end();
	return EXIT_RAN;
}
