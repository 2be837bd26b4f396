// SPDX-License-Identifier: Apache-2.0
/* asks_* ask which version runs; reads_host reads beside it and does not. */
#include "core.h"

#define KCONFIG __attribute__((section(".kconfig")))
#define KSYMS __attribute__((section(".ksyms")))

extern int LINUX_KERNEL_VERSION KCONFIG;
extern int CONFIG_HZ KCONFIG;
extern const void linux_banner KSYMS;
extern const void jiffies KSYMS;

struct new_utsname {
	char nodename[65];
	char release[65];
};

struct uts_namespace {
	struct new_utsname name;
} CORE;

u64 sink;

SEC("kprobe/a")
int asks_extern(void *ctx)
{
	return LINUX_KERNEL_VERSION + CONFIG_HZ;
}

SEC("kprobe/b")
int asks_release(struct uts_namespace **ctx)
{
	char release[65];

	probe_read_kernel(&release, sizeof(release),
			  __builtin_preserve_access_index(&(*ctx)->name.release));
	sink = release[0];
	return 0;
}

SEC("kprobe/c")
int asks_banner(void *ctx)
{
	sink = (u64)&linux_banner;
	return 0;
}

SEC("kprobe/d")
int reads_host(struct uts_namespace **ctx)
{
	char host[65];

	probe_read_kernel(&host, sizeof(host),
			  __builtin_preserve_access_index(&(*ctx)->name.nodename));
	sink = host[0] + (u64)&jiffies;
	return 0;
}
