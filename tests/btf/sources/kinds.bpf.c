// SPDX-License-Identifier: Apache-2.0
/* Every relocation kind on fields, bitfields, arrays, anonymous nesting, flavours and enums. */
#include "core.h"

struct inner {
	int x;
	struct inner *next;
} CORE;

struct inner___v2 {
	long moved;
	int x;
} CORE;

typedef struct inner inner_t;
typedef int (*callback_t)(struct inner *one, u32 two);
typedef int (*other_t)(struct inner *one);

enum state { S_OLD, S_GONE, S_NEW };
enum state___late { S_EXTRA___x = 1, S_LAST = 2 };

struct widths {
	u32 grows;
	u64 shrinks;
	int is_signed;
	u16 narrow;
	void *pointer;
} CORE;

struct bits {
	u32 a : 3;
	u32 b : 29;
	u32 c : 7;
	int d : 5;
	u64 e : 40;
} CORE;

struct outer {
	int first;
	union {
		struct {
			int deep;
			char name[16];
		};
		long overlay;
	};
	int grid[3][4];
	inner_t in;
	enum state state;
	callback_t call;
	u16 tail[];
} CORE;

struct renamed___old {
	int counter;
} CORE;

struct renamed___new {
	int count;
	long fresh;
} CORE;

union variant {
	int number;
	void *address;
} CORE;

struct nowhere {
	int field;
} CORE;

u64 sink[64];

SEC("tp_btf/fields")
int fields(struct outer *o)
{
	sink[0] = field_offset(o->first);
	sink[1] = field_offset(o->deep);
	sink[2] = field_offset(o->name);
	sink[3] = field_offset(o->name[5]);
	sink[4] = field_offset(o->grid[2][1]);
	sink[5] = field_offset(o->in.next);
	sink[6] = field_offset(o->tail[7]);
	sink[7] = field_offset(o->overlay);
	sink[8] = field_offset(o[2].in.x);
	sink[9] = field_size(o->name);
	sink[10] = field_size(o->grid[1]);
	sink[11] = field_size(o->in);
	sink[12] = field_exists(o->call);
	sink[13] = field_exists(((struct inner___v2 *)o)->moved);
	sink[14] = field_exists(((struct nowhere *)o)->field);
	sink[15] = field_signed(o->first);
	sink[16] = field_signed(o->state);
	sink[17] = field_offset(((struct nowhere *)o)->field);
	return 0;
}

SEC("tp_btf/bitfields")
int bitfields(struct bits *b)
{
#define ALL(n, f)                         \
	do {                              \
		sink[n] = field_offset(f);    \
		sink[n + 1] = field_size(f);  \
		sink[n + 2] = field_exists(f); \
		sink[n + 3] = field_signed(f); \
		sink[n + 4] = field_lshift(f); \
		sink[n + 5] = field_rshift(f); \
	} while (0)
	ALL(0, b->a);
	ALL(6, b->b);
	ALL(12, b->c);
	ALL(18, b->d);
	ALL(24, b->e);
	return 0;
}

SEC("tp_btf/types")
int types(void *ctx)
{
	sink[0] = local_id(struct outer);
	sink[1] = target_id(struct outer);
	sink[2] = type_exists(struct outer);
	sink[3] = type_size(struct outer);
	sink[4] = type_exists(inner_t);
	sink[5] = type_size(inner_t);
	sink[6] = target_id(inner_t);
	sink[7] = type_exists(callback_t);
	sink[8] = type_exists(other_t);
	sink[9] = type_exists(union variant);
	sink[10] = type_size(union variant);
	sink[11] = type_exists(struct nowhere);
	sink[12] = type_size(struct nowhere);
	sink[13] = target_id(struct nowhere);
	sink[14] = type_exists(enum state);
	sink[15] = type_size(struct renamed___new);
#if __clang_major__ >= 15
	sink[16] = type_matches(struct inner);
	sink[17] = type_matches(struct widths);
	sink[18] = type_matches(struct renamed___new);
	sink[19] = type_matches(callback_t);
#endif
	return 0;
}

SEC("tp_btf/enums")
int enums(void *ctx)
{
	sink[0] = enum_exists(enum state, S_OLD);
	sink[1] = enum_exists(enum state, S_GONE);
	sink[2] = enum_value(enum state, S_NEW);
	sink[3] = enum_value(enum state, S_GONE);
	sink[4] = enum_exists(enum state___late, S_EXTRA___x);
	sink[5] = enum_value(enum state___late, S_LAST);
	return 0;
}

/* Loads whose width changes: unsigned and pointers adjust, signed ones are poisoned. */
SEC("tp_btf/loads")
int loads(struct widths **ctx)
{
	struct widths *w = *ctx;

	sink[0] = w->grows;
	sink[1] = w->shrinks;
	sink[2] = w->narrow;
	sink[3] = (u64)w->pointer;
	return 0;
}

SEC("tp_btf/signed_load")
int signed_load(struct widths **ctx)
{
	struct widths *w = *ctx;

	sink[0] = w->is_signed;
	return 0;
}

SEC("?tp_btf/optional")
int optional(struct renamed___old *r)
{
	sink[0] = field_offset(r->counter);
	return 0;
}
