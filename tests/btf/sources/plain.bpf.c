// SPDX-License-Identifier: Apache-2.0
/* Compiled without -g: an object of the time before BTF. */
extern int absent_function(int n);

__attribute__((section("socket"), used))
int program(void *ctx)
{
	return absent_function(1);
}

char LICENSE[] __attribute__((section("license"), used)) = "GPL";
