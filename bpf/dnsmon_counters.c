// SPDX-License-Identifier: GPL-2.0-only
/* Counters: summed over CPUs, as JSON members or Prometheus text. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "dnsmon.h"

int read_counters(int fd, struct dns_counters *total)
{
	int cpus = libbpf_num_possible_cpus(), i, j, err;
	struct dns_counters *values;
	__u32 zero = 0;

	if (cpus < 0)
		return cpus;
	values = calloc((size_t)cpus, sizeof(*values));
	if (!values)
		return -ENOMEM;
	memset(total, 0, sizeof(*total));
	err = bpf_map_lookup_elem(fd, &zero, values);
	for (i = 0; i < cpus && !err; i++)
		for (j = 0; j < DNS_C_MAX; j++)
			total->n[j] += values[i].n[j];
	free(values);
	return err;
}

void write_counters(struct json *json, const struct dns_counters *total)
{
	int i;

	for (i = 0; i < DNS_C_MAX; i++)
		json_u64(json, dns_counter_names[i], total->n[i]);
}

/* Prometheus text: classes that lose an event are reasons of one metric. */
void write_prometheus(FILE *out, const struct dns_counters *total)
{
	static const enum dns_counter dropped[] = { DNS_C_SAMPLED_OUT, DNS_C_RATE_LIMITED,
						    DNS_C_RING_FULL, DNS_C_CORKED,
						    DNS_C_KERNEL_PAGES, DNS_C_GSO_MULTI,
						    DNS_C_FAULT, DNS_C_SEGMENTS,
						    DNS_C_MALFORMED };
	static const char *const reasons[] = { "sampling", "rate_limit", "ring_full", "corked",
					       "kernel_pages", "gso_multi", "fault", "segments",
					       "malformed" };
	static const char *const help[] = {
#define X(id, name, help) help,
		DNS_COUNTERS(X)
#undef X
	};
	size_t i;

	fputs("# HELP dns_events_total DNS datagrams whose event was handed to user space.\n"
	      "# TYPE dns_events_total counter\n",
	      out);
	fprintf(out, "dns_events_total %llu\n", total->n[DNS_C_SUBMITTED]);
	fputs("# HELP dns_events_dropped_total Datagrams to or from a DNS port without an event.\n"
	      "# TYPE dns_events_dropped_total counter\n",
	      out);
	for (i = 0; i < sizeof(dropped) / sizeof(dropped[0]); i++)
		fprintf(out, "dns_events_dropped_total{reason=\"%s\"} %llu\n", reasons[i],
			total->n[dropped[i]]);
	fputs("# HELP dns_hook_total Entries of the hooks by what became of them.\n"
	      "# TYPE dns_hook_total counter\n",
	      out);
	for (i = DNS_C_HITS + 1; i <= DNS_C_SUBMITTED; i++)
		fprintf(out, "dns_hook_total{class=\"%s\"} %llu\n", dns_counter_names[i], total->n[i]);
	for (i = DNS_C_SUBMITTED + 1; i < DNS_C_MAX; i++)
		fprintf(out, "# HELP dns_%s_total %s.\n# TYPE dns_%s_total counter\ndns_%s_total %llu\n",
			dns_counter_names[i], help[i], dns_counter_names[i], dns_counter_names[i],
			total->n[i]);
}

/* The observers of this machine are found by the name and shape of their counters. */
int cmd_stats(const struct options *o)
{
	struct bpf_map_info info;
	struct dns_counters total;
	int found = 0, fd, err;
	struct json json;
	__u32 id = 0, size;

	while (!bpf_map_get_next_id(id, &id)) {
		fd = bpf_map_get_fd_by_id(id);
		if (fd < 0)
			continue;
		memset(&info, 0, sizeof(info));
		size = sizeof(info);
		err = bpf_obj_get_info_by_fd(fd, &info, &size);
		if (!err && strcmp(info.name, "dns_counters") == 0 && info.value_size == sizeof(total) &&
		    info.type == BPF_MAP_TYPE_PERCPU_ARRAY && !read_counters(fd, &total)) {
			found++;
			if (o->prometheus) {
				write_prometheus(stdout, &total);
			} else {
				json_open(&json, stdout, "stats");
				json_u64(&json, "map_id", id);
				write_counters(&json, &total);
				json_close(&json);
			}
		}
		close(fd);
	}
	if (found)
		return EXIT_OK;
	if (errno == EPERM)
		return fail(EXIT_UNKNOWN, "privilege", "run as root", "not permitted to list BPF maps");
	return fail(EXIT_REFUSED, "behaviour", NULL, "no observer runs here");
}
