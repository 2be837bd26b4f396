// SPDX-License-Identifier: GPL-2.0-only
#include "json.h"

#include <string.h>

static void string(FILE *out, const unsigned char *text, size_t size)
{
	size_t i;

	putc('"', out);
	for (i = 0; i < size; i++) {
		if (text[i] == '"' || text[i] == '\\')
			fprintf(out, "\\%c", text[i]);
		else if (text[i] < 0x20 || text[i] > 0x7e)
			fprintf(out, "\\u%04x", text[i]);
		else
			putc(text[i], out);
	}
	putc('"', out);
}

static void member(struct json *json, const char *key)
{
	if (!json->first)
		putc(',', json->out);
	json->first = 0;
	if (key) {
		string(json->out, (const unsigned char *)key, strlen(key));
		putc(':', json->out);
	}
}

void json_open(struct json *json, FILE *out, const char *type)
{
	json->out = out;
	json->first = 1;
	putc('{', out);
	json_text(json, "type", type);
}

void json_close(struct json *json)
{
	fputs("}\n", json->out);
}

void json_push(struct json *json, const char *key, const char *brackets)
{
	member(json, key);
	putc(brackets[0], json->out);
	json->first = 1;
}

void json_pop(struct json *json, const char *brackets)
{
	putc(brackets[1], json->out);
	json->first = 0;
}

void json_u64(struct json *json, const char *key, unsigned long long value)
{
	member(json, key);
	fprintf(json->out, "%llu", value);
}

void json_s64(struct json *json, const char *key, long long value)
{
	member(json, key);
	fprintf(json->out, "%lld", value);
}

void json_bool(struct json *json, const char *key, int value)
{
	member(json, key);
	fputs(value ? "true" : "false", json->out);
}

void json_null(struct json *json, const char *key)
{
	member(json, key);
	fputs("null", json->out);
}

void json_text_n(struct json *json, const char *key, const void *text, size_t max)
{
	member(json, key);
	string(json->out, text, strnlen(text, max));
}

void json_text(struct json *json, const char *key, const char *text)
{
	if (text)
		json_text_n(json, key, text, strlen(text));
	else
		json_null(json, key);
}

void json_hex(struct json *json, const char *key, const void *data, size_t size)
{
	const unsigned char *octet = data;
	size_t i;

	member(json, key);
	putc('"', json->out);
	for (i = 0; i < size; i++)
		fprintf(json->out, "%02x", octet[i]);
	putc('"', json->out);
}
