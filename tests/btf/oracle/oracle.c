// SPDX-License-Identifier: Apache-2.0
/*
 * Asks an unmodified libbpf what it decides, without a kernel: bpf(2) is answered here.
 *
 * usage: oracle [-a] TARGET.btf OBJECT... [-- KCONFIG]
 *
 * Prints libbpf's debug log, and for every program that would be loaded a line
 *   PROGRAM name type attach_btf_id hex-of-instructions
 * For every object: OBJECT path, ..., RESULT errno-of-load (or OPEN errno).
 * -a loads SEC("?...") programs too.
 *
 * This executable exports syscall(), open() and friends, so the dynamic linker gives them to
 * libbpf.so in place of libc's. The file that plays /sys/kernel/btf/vmlinux is TARGET.btf.
 */
#define _GNU_SOURCE
#include <bpf/libbpf.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#define PRETEND_SIZE (1 << 26)

static const char *target_btf;

static int pretend_fd(void)
{
	/* Internal maps get mmap()ed: give the descriptor some room. */
	int fd = memfd_create("pretend", MFD_CLOEXEC);

	if (fd >= 0 && ftruncate(fd, PRETEND_SIZE) < 0)
		perror("ftruncate");
	return fd;
}

static void print_program(const union bpf_attr *attr)
{
	const unsigned char *code = (const void *)(unsigned long)attr->insns;
	unsigned int i;

	/* libbpf probes kernel features with nameless or two-instruction programs. */
	printf("PROGRAM %.16s %u %u ", attr->prog_name[0] ? attr->prog_name : "-", attr->prog_type,
	       attr->attach_btf_id);
	for (i = 0; i < attr->insn_cnt * 8; i++)
		printf("%02x", code[i]);
	printf("\n");
}

static long pretend_bpf(int command, const union bpf_attr *attr)
{
	switch (command) {
	case BPF_PROG_LOAD:
		print_program(attr);
		return pretend_fd();
	case BPF_MAP_CREATE:
	case BPF_BTF_LOAD:
	case BPF_LINK_CREATE:
	case BPF_OBJ_GET:
		return pretend_fd();
	case BPF_PROG_GET_NEXT_ID:
	case BPF_MAP_GET_NEXT_ID:
	case BPF_BTF_GET_NEXT_ID:
		errno = ENOENT;
		return -1;
	default:
		return 0;
	}
}

long syscall(long number, ...)
{
	static long (*real)(long, ...);
	long arg[6];
	va_list list;
	int i;

	va_start(list, number);
	for (i = 0; i < 6; i++)
		arg[i] = va_arg(list, long);
	va_end(list);
	if (number == SYS_bpf)
		return pretend_bpf((int)arg[0], (const union bpf_attr *)arg[1]);
	if (!real)
		real = dlsym(RTLD_NEXT, "syscall");
	return real(number, arg[0], arg[1], arg[2], arg[3], arg[4], arg[5]);
}

static const char *redirected(const char *path)
{
	const char *to = NULL;

	if (!strcmp(path, "/sys/kernel/btf/vmlinux"))
		to = target_btf;
	else if (!strcmp(path, "/proc/kallsyms"))
		to = getenv("ORACLE_KALLSYMS");
	else if (!strcmp(path, "/proc/config.gz") || !strncmp(path, "/boot/config-", 13))
		to = getenv("ORACLE_KCONFIG");
	return to ? to : path;
}

FILE *fopen(const char *path, const char *mode)
{
	static FILE *(*real)(const char *, const char *);

	if (!real)
		real = dlsym(RTLD_NEXT, "fopen");
	return real(redirected(path), mode);
}

FILE *fopen64(const char *path, const char *mode)
{
	return fopen(path, mode);
}

int access(const char *path, int mode)
{
	static int (*real)(const char *, int);

	if (!real)
		real = dlsym(RTLD_NEXT, "access");
	return real(redirected(path), mode);
}

int faccessat(int dir, const char *path, int mode, int flags)
{
	static int (*real)(int, const char *, int, int);

	if (!real)
		real = dlsym(RTLD_NEXT, "faccessat");
	return real(dir, redirected(path), mode, flags);
}

int open(const char *path, int flags, ...)
{
	static int (*real)(const char *, int, ...);
	va_list list;
	int mode;

	va_start(list, flags);
	mode = va_arg(list, int);
	va_end(list);
	if (!real)
		real = dlsym(RTLD_NEXT, "open");
	return real(redirected(path), flags, mode);
}

int open64(const char *path, int flags, ...)
{
	va_list list;
	int mode;

	va_start(list, flags);
	mode = va_arg(list, int);
	va_end(list);
	return open(path, flags, mode);
}

int uname(struct utsname *name)
{
	const char *release = getenv("ORACLE_RELEASE");
	static int (*real)(struct utsname *);
	int err;

	if (!real)
		real = dlsym(RTLD_NEXT, "uname");
	err = real(name);
	if (!err && release)
		snprintf(name->release, sizeof(name->release), "%s", release);
	return err;
}

static int to_stdout(enum libbpf_print_level level, const char *format, va_list list)
{
	return vprintf(format, list);
}

static void ask(const char *path, const char *kconfig, int all)
{
	LIBBPF_OPTS(bpf_object_open_opts, opts, .btf_custom_path = target_btf,
		    .kconfig = kconfig);
	struct bpf_program *prog;
	struct bpf_object *obj;

	printf("OBJECT %s\n", path);
	obj = bpf_object__open_file(path, &opts);
	if (!obj) {
		printf("OPEN %d\n", errno);
		return;
	}
	if (all)
		bpf_object__for_each_program(prog, obj)
			bpf_program__set_autoload(prog, true);
	printf("RESULT %d\n", -bpf_object__load(obj));
	bpf_object__close(obj);
}

int main(int argc, char **argv)
{
	const char *kconfig = NULL;
	int i, all = 0, last = argc;

	if (argc > 1 && !strcmp(argv[1], "-a")) {
		all = 1;
		argv++;
		last = --argc;
	}
	if (argc < 3) {
		fprintf(stderr, "usage: oracle [-a] TARGET.btf OBJECT... [-- KCONFIG]\n");
		return 2;
	}
	for (i = 2; i < argc; i++)
		if (!strcmp(argv[i], "--")) {
			last = i;
			kconfig = i + 1 < argc ? argv[i + 1] : "";
			break;
		}
	target_btf = argv[1];
	libbpf_set_print(to_stdout);
	libbpf_set_strict_mode(LIBBPF_STRICT_ALL);
	for (i = 2; i < last; i++)
		ask(argv[i], kconfig, all);
	return 0;
}
