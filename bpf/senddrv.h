/* SPDX-License-Identifier: GPL-2.0-only */
/* Send driver: datagrams in every way they can leave, and what an observer must make of each. */
#ifndef SENDDRV_H
#define SENDDRV_H

#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/socket.h>

#define QUERY_MAX 512
#define LABEL_MAX 40

struct query {
	unsigned char data[QUERY_MAX];
	size_t len;
	unsigned id;
	unsigned qtype;
	unsigned name_len; /* of the wire name at offset 12 */
};

/* The next question: a name with the run's label and its own number, id and type of its own. */
void query_next(struct query *query);
/* The run's random label. */
extern char run_label[LABEL_MAX + 1];

/*
 * One case at a time: begin, say what is to be expected, end with what the send
 * returned. `classes` counts every hook hit of the case.
 */
void case_begin(const char *name);
void case_class(const char *class, unsigned count);
/* An event is a "submitted" of its own. `dest` NULL: the address is not checked. */
void case_event(const struct query *query, int hook, const struct sockaddr *dest, int fd, int connected,
		size_t len);
/* As above, for a line of the corpus. */
void case_datagram(const char *status, const char *qtype, const char *qclass, const char *name_wire,
		   unsigned id, size_t len);
void case_end(long result, int error);
/* The kernel cannot: `probe` says what was asked and what it answered. */
void case_unsupported(const char *probe, int error);

/* "--only NAME": skip the others; 1 when `name` is to run. */
int case_wanted(const char *name);

int run_matrix(void);
/* Its io_uring cases, from a socket that is connected to `destination`. */
void run_uring(int connected, const struct sockaddr *destination);
int run_corpus(const char *path);

struct flood {
	unsigned long count; /* datagrams of all threads together; 0: until duration */
	unsigned long rate;  /* a second, all threads together; 0: as fast as it goes */
	unsigned long burst; /* sent at once, by each thread, then the pause that the rate asks for */
	unsigned threads;
	unsigned duration_s;
	const char *cpus; /* "0,2-3" or NULL */
	int non_dns;      /* to port 9, with no DNS inside */
	int v6;
	int unroutable; /* to a place without a route: every send fails, after the hook */
	int answers; /* each question is answered from port 53 to its sender */
	int one_name; /* of all questions: only socket and id tell them apart */
	unsigned retries; /* after its last question each thread asks them all again, so often */
};
int run_flood(const struct flood *flood);

#endif
