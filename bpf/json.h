/* SPDX-License-Identifier: GPL-2.0-only */
/* JSON lines: one object a line, members in the order of the calls. */
#ifndef JSON_H
#define JSON_H

#include <stddef.h>
#include <stdio.h>

struct json {
	FILE *out;
	int first; /* no comma before the next member */
};

void json_open(struct json *json, FILE *out, const char *type);
void json_close(struct json *json);
/* An object or array inside; `key` NULL in an array. `brackets` is "{}" or "[]". */
void json_push(struct json *json, const char *key, const char *brackets);
void json_pop(struct json *json, const char *brackets);

void json_u64(struct json *json, const char *key, unsigned long long value);
void json_s64(struct json *json, const char *key, long long value);
void json_bool(struct json *json, const char *key, int value);
void json_null(struct json *json, const char *key);
/* `text` NULL writes null. Octets that are no ASCII become \u00XX. */
void json_text(struct json *json, const char *key, const char *text);
void json_text_n(struct json *json, const char *key, const void *text, size_t max);
void json_hex(struct json *json, const char *key, const void *data, size_t size);

#endif
