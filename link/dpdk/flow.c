//go:build dpdk && cgo && linux

#include <errno.h>
#include <string.h>

#include <rte_byteorder.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_flow.h>
#include <rte_string_fns.h>

#include "internal.h"
#include "shim.h"

/* A rule as rte_flow wants it. It points into itself. */
struct flow {
	struct rte_flow_attr attr;
	struct rte_flow_item items[4];
	struct rte_flow_item_ipv4 ipv4, ipv4_mask;
	struct rte_flow_item_ipv6 ipv6, ipv6_mask;
	struct rte_flow_item_tcp tcp, tcp_mask;
	struct rte_flow_action actions[2];
	struct rte_flow_action_queue queue;
	struct rte_flow_action_rss rss;
};

static void build(struct flow *f, const struct tpa_rule *rule)
{
	struct rte_flow_item *ip = &f->items[1], *tcp = &f->items[2];

	memset(f, 0, sizeof(*f));
	f->attr.ingress = 1;

	f->items[0].type = RTE_FLOW_ITEM_TYPE_ETH;
	/* Without spec and mask an item matches every header of its kind. */
	if (rule->ipv6) {
		ip->type = RTE_FLOW_ITEM_TYPE_IPV6;
		if (rule->has_addr) {
			memcpy(f->ipv6.hdr.dst_addr, rule->addr, 16);
			memset(f->ipv6_mask.hdr.dst_addr, 0xff, 16);
			ip->spec = &f->ipv6;
			ip->mask = &f->ipv6_mask;
		}
	} else {
		ip->type = RTE_FLOW_ITEM_TYPE_IPV4;
		if (rule->has_addr) {
			memcpy(&f->ipv4.hdr.dst_addr, rule->addr, 4);
			f->ipv4_mask.hdr.dst_addr = RTE_BE32(0xffffffff);
			ip->spec = &f->ipv4;
			ip->mask = &f->ipv4_mask;
		}
	}
	tcp->type = RTE_FLOW_ITEM_TYPE_TCP;
	f->tcp.hdr.dst_port = rte_cpu_to_be_16(rule->port);
	f->tcp_mask.hdr.dst_port = rte_cpu_to_be_16(rule->port_mask);
	tcp->spec = &f->tcp;
	tcp->mask = &f->tcp_mask;
	f->items[3].type = RTE_FLOW_ITEM_TYPE_END;

	if (rule->queues == 1) {
		f->queue.index = rule->queue[0];
		f->actions[0].type = RTE_FLOW_ACTION_TYPE_QUEUE;
		f->actions[0].conf = &f->queue;
	} else {
		f->rss.types = rule->ipv6 ? RTE_ETH_RSS_NONFRAG_IPV6_TCP : RTE_ETH_RSS_NONFRAG_IPV4_TCP;
		f->rss.queue_num = rule->queues;
		f->rss.queue = rule->queue;
		f->actions[0].type = RTE_FLOW_ACTION_TYPE_RSS;
		f->actions[0].conf = &f->rss;
	}
	f->actions[1].type = RTE_FLOW_ACTION_TYPE_END;
}

static int failed(int ret, const struct rte_flow_error *error, char *why, size_t size)
{
	if (error->message != NULL)
		strlcpy(why, error->message, size);
	if (ret < 0)
		return ret;
	return rte_errno > 0 ? -rte_errno : -EINVAL;
}

int tpa_flow_create(uint16_t port, const struct tpa_rule *rule, void **flow, char *why, size_t size)
{
	struct rte_flow_error error = {0};
	struct flow f;
	int ret;

	build(&f, rule);
	tpa_quiet(true);
	ret = rte_flow_validate(port, &f.attr, f.items, f.actions, &error);
	if (ret == 0) {
		*flow = rte_flow_create(port, &f.attr, f.items, f.actions, &error);
		if (*flow == NULL)
			ret = failed(0, &error, why, size);
	} else {
		ret = failed(ret, &error, why, size);
	}
	tpa_quiet(false);
	return ret;
}

int tpa_flow_destroy(uint16_t port, void *flow, char *why, size_t size)
{
	struct rte_flow_error error = {0};
	int ret;

	tpa_quiet(true);
	ret = rte_flow_destroy(port, flow, &error);
	tpa_quiet(false);
	return ret == 0 ? 0 : failed(ret, &error, why, size);
}

int tpa_flow_isolate(uint16_t port, bool on, char *why, size_t size)
{
	struct rte_flow_error error = {0};
	int ret;

	tpa_quiet(true);
	ret = rte_flow_isolate(port, on, &error);
	if (ret == -EBUSY) {
		/* mlx5 wants the port stopped. */
		ret = rte_eth_dev_stop(port);
		if (ret == 0) {
			int started;

			ret = rte_flow_isolate(port, on, &error);
			started = rte_eth_dev_start(port);
			if (ret == 0)
				ret = started;
		}
	}
	tpa_quiet(false);
	return ret == 0 ? 0 : failed(ret, &error, why, size);
}
