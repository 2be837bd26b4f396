/* SPDX-License-Identifier: Apache-2.0 */
/* The few kernel types that the test objects touch; CO-RE finds the real offsets. */
#ifndef KERNEL_TYPES_H
#define KERNEL_TYPES_H

#include <linux/types.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct task_struct {
	int pid;
	int tgid;
};

struct task_struct___none {
	int no_such_member;
};

#pragma clang attribute pop

struct pt_regs;

#endif
