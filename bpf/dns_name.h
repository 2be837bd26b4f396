/* SPDX-License-Identifier: GPL-2.0-only */
/* RFC 1035 presentation of a name in wire form. */
#ifndef DNS_NAME_H
#define DNS_NAME_H

#include <stddef.h>

/* Every octet of 255 escaped as \DDD, dots, end. */
#define DNS_NAME_TEXT_MAX (4 * 255 + 1)

/*
 * Writes `size` octets of whole labels as text; a root label ends it with a dot.
 * Dots and specials inside labels become \c, other octets that are no printable
 * ASCII \DDD, so that different names never look alike. `text` takes
 * DNS_NAME_TEXT_MAX. Returns its length.
 */
size_t dns_name_text(const unsigned char *wire, size_t size, char *text);

#endif
