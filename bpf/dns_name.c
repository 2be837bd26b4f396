// SPDX-License-Identifier: GPL-2.0-only
#include "dns_name.h"

#include <stdio.h>
#include <string.h>

size_t dns_name_text(const unsigned char *wire, size_t size, char *text)
{
	size_t pos = 0, used = 0, end;

	while (pos < size && wire[pos] != 0) {
		end = pos + 1 + wire[pos];
		if (end > size)
			break;
		if (pos)
			text[used++] = '.';
		for (pos++; pos < end; pos++) {
			if (wire[pos] && strchr("\"().;\\@$", wire[pos])) {
				text[used++] = '\\';
				text[used++] = (char)wire[pos];
			} else if (wire[pos] > 0x20 && wire[pos] < 0x7f) {
				text[used++] = (char)wire[pos];
			} else {
				used += (size_t)sprintf(text + used, "\\%03u", wire[pos]);
			}
		}
	}
	if (pos < size && wire[pos] == 0)
		text[used++] = '.';
	text[used] = 0;
	return used;
}
