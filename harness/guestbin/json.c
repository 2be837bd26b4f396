// SPDX-License-Identifier: Apache-2.0
/* JSON lines on stdout. Strings come from kernels and objects: any byte may be in them. */
#include <stdarg.h>
#include <string.h>

#include "objcheck.h"

static char closers[16];
static int depth;
static bool first = true;

static void put_escaped(const char *s, size_t n);

static void put_key(const char *key)
{
	if (!first)
		putchar(',');
	first = false;
	if (key) {
		put_escaped(key, strlen(key));
		putchar(':');
	}
}

static void push(char opener, char closer)
{
	putchar(opener);
	closers[depth++] = closer;
	first = true;
}

/* Length of the valid UTF-8 sequence at s, or 0 (RFC 3629: no overlong forms, no surrogates). */
static size_t utf8_sequence(const unsigned char *s, size_t n)
{
	size_t len, i;

	if (s[0] < 0x80)
		return 1;
	if (s[0] >= 0xc2 && s[0] <= 0xdf)
		len = 2;
	else if (s[0] >= 0xe0 && s[0] <= 0xef)
		len = 3;
	else if (s[0] >= 0xf0 && s[0] <= 0xf4)
		len = 4;
	else
		return 0;
	if (len > n)
		return 0;
	for (i = 1; i < len; i++)
		if ((s[i] & 0xc0) != 0x80)
			return 0;
	if ((s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
	    (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f))
		return 0;
	return len;
}

static void put_escaped(const char *s, size_t n)
{
	const unsigned char *p = (const unsigned char *)s;
	size_t i, len;

	putchar('"');
	for (i = 0; i < n; i += len) {
		len = utf8_sequence(p + i, n - i);
		if (!len) {
			fputs("\\ufffd", stdout);
			len = 1;
		} else if (p[i] == '"' || p[i] == '\\') {
			putchar('\\');
			putchar(p[i]);
		} else if (p[i] == '\n') {
			fputs("\\n", stdout);
		} else if (p[i] == '\t') {
			fputs("\\t", stdout);
		} else if (p[i] < 0x20 || p[i] == 0x7f) {
			printf("\\u%04x", p[i]);
		} else {
			fwrite(p + i, 1, len, stdout);
		}
	}
	putchar('"');
}

void js_line(const char *type)
{
	first = true;
	push('{', '}');
	js_str("type", type);
}

void js_end(void)
{
	while (depth)
		js_close();
	putchar('\n');
	fflush(stdout);
}

void js_close(void)
{
	putchar(closers[--depth]);
	first = false;
}

void js_object(const char *key)
{
	put_key(key);
	push('{', '}');
}

void js_array(const char *key)
{
	put_key(key);
	push('[', ']');
}

void js_strn(const char *key, const char *s, size_t n)
{
	put_key(key);
	put_escaped(s, n);
}

void js_str(const char *key, const char *s)
{
	if (s)
		js_strn(key, s, strlen(s));
	else
		js_null(key);
}

void js_u64(const char *key, uint64_t v)
{
	put_key(key);
	printf("%llu", (unsigned long long)v);
}

void js_i64(const char *key, int64_t v)
{
	put_key(key);
	printf("%lld", (long long)v);
}

void js_bool(const char *key, bool v)
{
	put_key(key);
	fputs(v ? "true" : "false", stdout);
}

void js_maybe(const char *key, bool known, uint64_t v)
{
	if (known)
		js_u64(key, v);
	else
		js_null(key);
}

void js_null(const char *key)
{
	put_key(key);
	fputs("null", stdout);
}

void js_errno(int err)
{
	js_i64("errno", err);
	js_str("errno_name", err ? strerrorname_np(err) : NULL);
}

void js_error_line(const char *what, const char *name, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	js_line("error");
	js_str("what", what);
	js_str("name", name);
	js_str("text", text);
	js_end();
}
