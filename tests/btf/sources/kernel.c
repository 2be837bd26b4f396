// SPDX-License-Identifier: Apache-2.0
/* A kernel's types in several versions (-DVERSION=1, 2, 3): only its BTF is used. */
typedef unsigned long long u64;
typedef unsigned int u32;
typedef unsigned short u16;
typedef unsigned char u8;

struct inner {
#if VERSION >= 2
	long moved;
#endif
	int x;
	struct inner *next;
};

#if VERSION == 3
enum state { S_NEW = 5, S_OLD = -7, S_EXTRA = 9 };
#elif VERSION == 2
enum state { S_OLD, S_NEW, S_LAST };
#else
enum state { S_OLD, S_GONE, S_NEW };
#endif

typedef struct inner inner_t;
typedef int (*callback_t)(struct inner *one, u32 two);

struct widths {
#if VERSION == 1
	u32 grows;
	u64 shrinks;
	int is_signed;
	u16 narrow;
#else
	u64 grows;
	u32 shrinks;
	long is_signed;
	u32 narrow;
#endif
	void *pointer;
};

struct bits {
#if VERSION == 1
	u32 a : 3;
	u32 b : 29;
	u32 c : 7;
	int d : 5;
	u64 e : 40;
#elif VERSION == 2
	u64 pad;
	u32 c : 9;
	u32 a : 6;
	int d : 17;
	u32 b : 12;
	u64 e : 33;
#else
	u32 a;
	u8 b;
	u16 c;
	int d;
	u64 e;
#endif
};

struct outer {
	int first;
#if VERSION != 3
	union {
		struct {
			int deep;
			char name[VERSION == 1 ? 16 : 24];
		};
		long overlay;
	};
	int grid[3][VERSION + 3];
#else
	int deep;
	char name[8];
	int *grid;
#endif
	inner_t in;
	enum state state;
	callback_t call;
	u16 tail[];
};

#if VERSION == 2
struct renamed {
	int count;
	long fresh;
};
#else
struct renamed {
	int counter;
};
#endif

union variant {
	int number;
	void *address;
};

struct outer *keep_outer;
struct widths *keep_widths;
struct bits *keep_bits;
struct renamed *keep_renamed;
#if VERSION != 3
union variant *keep_variant;
#endif

int kernel_function(struct outer *o, int n)
{
	return o->first + n;
}
