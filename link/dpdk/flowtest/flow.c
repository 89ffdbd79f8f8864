//go:build dpdk && cgo && linux

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <rte_errno.h>
#include <rte_flow.h>

#include "flow.h"

/* A symbol of the program's wins over a library's. */

/* Guards everything here: calls come from any thread. */
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;

static void unlock(int *unused)
{
	(void)unused;
	pthread_mutex_unlock(&mutex);
}

/* LOCKED holds the mutex to the end of a function. */
#define LOCKED __attribute__((cleanup(unlock))) int locked = pthread_mutex_lock(&mutex); (void)locked

static int playing;
static int refuse_validate, refuse_create, refuse_destroy, refuse_isolate; /* errno, or 0 */

static char text[65536];
static size_t used;

static void say(const char *format, ...)
{
	va_list args;

	va_start(args, format);
	used += vsnprintf(text + used, sizeof(text) - used, format, args);
	va_end(args);
	if (used >= sizeof(text))
		abort();
}

static void hex(const char *name, const void *data, size_t n)
{
	const unsigned char *b = data;
	size_t i;

	if (data == NULL)
		return;
	say(" %s=", name);
	for (i = 0; i < n; i++)
		say("%02x", b[i]);
}

static void item(const char *name, const struct rte_flow_item *i, size_t n)
{
	say(" / %s", name);
	hex("spec", i->spec, n);
	hex("mask", i->mask, n);
	hex("last", i->last, n);
}

static void dump(const struct rte_flow_attr *attr, const struct rte_flow_item *i, const struct rte_flow_action *a)
{
	const struct rte_flow_action_rss *rss;
	uint32_t q;

	say("group %u priority %u%s%s%s", attr->group, attr->priority, attr->ingress ? " ingress" : "",
	    attr->egress ? " egress" : "", attr->transfer ? " transfer" : "");
	for (; i->type != RTE_FLOW_ITEM_TYPE_END; i++) {
		switch (i->type) {
		case RTE_FLOW_ITEM_TYPE_ETH:
			item("eth", i, sizeof(struct rte_flow_item_eth));
			break;
		case RTE_FLOW_ITEM_TYPE_IPV4:
			item("ipv4", i, sizeof(struct rte_ipv4_hdr));
			break;
		case RTE_FLOW_ITEM_TYPE_IPV6:
			item("ipv6", i, sizeof(struct rte_ipv6_hdr));
			break;
		case RTE_FLOW_ITEM_TYPE_TCP:
			item("tcp", i, sizeof(struct rte_tcp_hdr));
			break;
		default:
			say(" / item %d", i->type);
		}
	}
	for (; a->type != RTE_FLOW_ACTION_TYPE_END; a++) {
		switch (a->type) {
		case RTE_FLOW_ACTION_TYPE_QUEUE:
			say(" -> queue %u", ((const struct rte_flow_action_queue *)a->conf)->index);
			break;
		case RTE_FLOW_ACTION_TYPE_RSS:
			rss = a->conf;
			say(" -> rss func %d level %u types %#llx", rss->func, rss->level, (unsigned long long)rss->types);
			hex("key", rss->key, rss->key_len);
			say(" queues");
			for (q = 0; q < rss->queue_num; q++)
				say(" %u", rss->queue[q]);
			break;
		default:
			say(" -> action %d", a->type);
		}
	}
}

static int refuse(int err, struct rte_flow_error *error)
{
	error->type = RTE_FLOW_ERROR_TYPE_UNSPECIFIED;
	error->message = "the test says no";
	rte_errno = err;
	return -err;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

int rte_flow_validate(uint16_t port, const struct rte_flow_attr *attr, const struct rte_flow_item pattern[],
		      const struct rte_flow_action actions[], struct rte_flow_error *error)
{
	LOCKED;
	if (!playing)
		return REAL(rte_flow_validate)(port, attr, pattern, actions, error);
	say("validate ");
	dump(attr, pattern, actions);
	say("\n");
	return refuse_validate ? refuse(refuse_validate, error) : 0;
}

struct rte_flow *rte_flow_create(uint16_t port, const struct rte_flow_attr *attr, const struct rte_flow_item pattern[],
				 const struct rte_flow_action actions[], struct rte_flow_error *error)
{
	static uintptr_t rules;
	LOCKED;

	if (!playing)
		return REAL(rte_flow_create)(port, attr, pattern, actions, error);
	say("create ");
	dump(attr, pattern, actions);
	if (refuse_create) {
		say("\n");
		refuse(refuse_create, error);
		return NULL;
	}
	say(" = rule\n");
	return (struct rte_flow *)(++rules * 64);
}

int rte_flow_destroy(uint16_t port, struct rte_flow *flow, struct rte_flow_error *error)
{
	LOCKED;
	if (!playing)
		return REAL(rte_flow_destroy)(port, flow, error);
	say("destroy\n");
	return refuse_destroy ? refuse(refuse_destroy, error) : 0;
}

int rte_flow_isolate(uint16_t port, int set, struct rte_flow_error *error)
{
	LOCKED;
	if (!playing)
		return REAL(rte_flow_isolate)(port, set, error);
	say("isolate %d\n", set);
	if (refuse_isolate == EBUSY) {
		/* Only as long as the port runs. */
		refuse_isolate = 0;
		return refuse(EBUSY, error);
	}
	return refuse_isolate ? refuse(refuse_isolate, error) : 0;
}

void flowtest_play(int on, int validate, int create, int destroy, int isolate)
{
	LOCKED;
	playing = on;
	refuse_validate = validate;
	refuse_create = create;
	refuse_destroy = destroy;
	refuse_isolate = isolate;
}

const char *flowtest_take(void)
{
	static char copy[sizeof(text)];
	LOCKED;

	memcpy(copy, text, used);
	copy[used] = 0;
	used = 0;
	return copy;
}
