//go:build dpdk && cgo && linux

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <rte_bus.h>
#include <rte_dev.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_ether.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_string_fns.h>

#include "internal.h"
#include "shim.h"

static const struct {
	enum tpa_offload ours;
	uint64_t rx, tx;
} offloads[] = {
	{TPA_RX_IPV4_CHECKSUM, RTE_ETH_RX_OFFLOAD_IPV4_CKSUM, 0},
	{TPA_RX_TCP_CHECKSUM, RTE_ETH_RX_OFFLOAD_TCP_CKSUM, 0},
	{TPA_RX_SCATTER, RTE_ETH_RX_OFFLOAD_SCATTER, 0},
	{TPA_TX_IPV4_CHECKSUM, 0, RTE_ETH_TX_OFFLOAD_IPV4_CKSUM},
	{TPA_TX_TCP_CHECKSUM, 0, RTE_ETH_TX_OFFLOAD_TCP_CKSUM},
	{TPA_TX_TSO, 0, RTE_ETH_TX_OFFLOAD_TCP_TSO},
	{TPA_TX_MULTI_SEGS, 0, RTE_ETH_TX_OFFLOAD_MULTI_SEGS},
	{TPA_TX_FAST_FREE, 0, RTE_ETH_TX_OFFLOAD_MBUF_FAST_FREE},
	{TPA_RX_VLAN_FILTER, RTE_ETH_RX_OFFLOAD_VLAN_FILTER, 0},
};

#define RSS_TYPES (RTE_ETH_RSS_IPV4 | RTE_ETH_RSS_IPV6 | \
		   RTE_ETH_RSS_NONFRAG_IPV4_TCP | RTE_ETH_RSS_NONFRAG_IPV6_TCP)

/* Ports whose device was pulled out. Set in the interrupt thread. */
static bool gone[RTE_MAX_ETHPORTS];

static int on_removal(uint16_t port, enum rte_eth_event_type event, void *arg, void *ret)
{
	(void)event;
	(void)arg;
	(void)ret;
	__atomic_store_n(&gone[port], true, __ATOMIC_RELAXED);
	return 0;
}

bool tpa_port_gone(uint16_t port)
{
	return __atomic_load_n(&gone[port], __ATOMIC_RELAXED);
}

/* Finds the port of a probed device: by the device's name, which need not be
 * the port's. */
static int find_port(const char *name, uint16_t *port)
{
	struct rte_eth_dev_info info;
	uint16_t p;

	RTE_ETH_FOREACH_DEV(p) {
		if (rte_eth_dev_info_get(p, &info) == 0 && info.device != NULL &&
		    strcmp(rte_dev_name(info.device), name) == 0) {
			*port = p;
			return 0;
		}
	}
	return -ENODEV;
}

int tpa_probe(const char *devargs, const char *name, uint16_t *port)
{
	int ret;

	if (find_port(name, port) == 0)
		return -EEXIST;
	tpa_quiet(true);
	ret = rte_dev_probe(devargs);
	tpa_quiet(false);
	if (ret == 0)
		ret = find_port(name, port);
	return ret;
}

int tpa_remove(uint16_t port)
{
	struct rte_eth_dev_info info;
	int ret;

	ret = rte_eth_dev_info_get(port, &info);
	if (ret != 0)
		return ret;
	tpa_quiet(true);
	(void)rte_eth_dev_stop(port); /* or closing is refused */
	ret = rte_eth_dev_close(port);
	if (ret == 0)
		ret = rte_dev_remove(info.device);
	tpa_quiet(false);
	return ret;
}

static void ring_limits(struct tpa_ring_limits *l, const struct rte_eth_desc_lim *lim, uint16_t wish)
{
	l->min = lim->nb_min;
	l->max = lim->nb_max;
	l->align = lim->nb_align;
	l->wish = wish;
}

/* The greatest MTU that ethdev lets pass: the device's, and what its greatest
 * frame leaves of it. */
static uint16_t max_mtu(const struct rte_eth_dev_info *dev)
{
	uint32_t overhead = RTE_ETHER_HDR_LEN + RTE_ETHER_CRC_LEN;

	if (dev->max_mtu != UINT16_MAX && dev->max_rx_pktlen > dev->max_mtu)
		overhead = dev->max_rx_pktlen - dev->max_mtu;
	return RTE_MIN(dev->max_mtu, dev->max_rx_pktlen - overhead);
}

int tpa_get_info(uint16_t port, struct tpa_info *info)
{
	struct rte_eth_dev_info dev;
	struct rte_ether_addr mac;
	unsigned i;
	int ret;

	memset(info, 0, sizeof(*info));
	ret = rte_eth_dev_info_get(port, &dev);
	if (ret != 0)
		return ret;
	ret = rte_eth_macaddr_get(port, &mac);
	if (ret != 0)
		return ret;
	ret = rte_eth_dev_get_mtu(port, &info->mtu);
	if (ret != 0)
		return ret;
	if (dev.driver_name != NULL)
		strlcpy(info->driver, dev.driver_name, sizeof(info->driver));
	memcpy(info->mac, mac.addr_bytes, sizeof(info->mac));
	info->numa = rte_eth_dev_socket_id(port);
	info->if_index = dev.if_index;
	info->max_queues = RTE_MIN(dev.max_rx_queues, dev.max_tx_queues);
	ring_limits(&info->rx, &dev.rx_desc_lim, dev.default_rxportconf.ring_size);
	ring_limits(&info->tx, &dev.tx_desc_lim, dev.default_txportconf.ring_size);
	info->min_mtu = dev.min_mtu;
	info->max_mtu = max_mtu(&dev);
	/* Drivers that do not care about the MTU (memif, ring, null) do not have the
	 * operation; the others cannot run it yet and say so. */
	info->sets_mtu = rte_eth_dev_set_mtu(port, info->mtu) != -ENOTSUP;
	info->pads = strcmp(rte_bus_name(rte_dev_bus(dev.device)), "vdev") != 0;
	for (i = 0; i < RTE_DIM(offloads); i++) {
		if ((dev.rx_offload_capa & offloads[i].rx) == offloads[i].rx &&
		    (dev.tx_offload_capa & offloads[i].tx) == offloads[i].tx)
			info->offloads |= offloads[i].ours;
	}
	if (dev.flow_type_rss_offloads & RSS_TYPES) {
		info->reta_size = dev.reta_size;
		info->key_size = dev.hash_key_size != 0 ? dev.hash_key_size : 40;
	}
	return 0;
}

int tpa_configure(uint16_t port, const struct tpa_setup *setup)
{
	struct rte_eth_conf conf = {0};
	struct rte_eth_dev_info dev;
	unsigned i;
	int ret;

	ret = rte_eth_dev_info_get(port, &dev);
	if (ret != 0)
		return ret;
	for (i = 0; i < RTE_DIM(offloads); i++) {
		if (setup->offloads & offloads[i].ours) {
			conf.rxmode.offloads |= offloads[i].rx;
			conf.txmode.offloads |= offloads[i].tx;
		}
	}
	if (setup->sets_mtu)
		conf.rxmode.mtu = setup->mtu;
	conf.intr_conf.rmv = (*dev.dev_flags & RTE_ETH_DEV_INTR_RMV) != 0;
	if (setup->queues > 1 && (dev.flow_type_rss_offloads & RSS_TYPES) != 0) {
		conf.rxmode.mq_mode = RTE_ETH_MQ_RX_RSS;
		conf.rx_adv_conf.rss_conf.rss_hf = dev.flow_type_rss_offloads & RSS_TYPES;
	}
	tpa_quiet(true);
	ret = rte_eth_dev_configure(port, setup->queues, setup->queues, &conf);
	if (ret == 0) {
		gone[port] = false;
		ret = rte_eth_dev_callback_register(port, RTE_ETH_EVENT_INTR_RMV, on_removal, NULL);
	}
	tpa_quiet(false);
	return ret;
}

int tpa_setup_queue(uint16_t port, uint16_t queue, const struct tpa_setup *setup, void *pool)
{
	int numa = rte_eth_dev_socket_id(port);
	int ret;

	tpa_quiet(true);
	ret = rte_eth_rx_queue_setup(port, queue, setup->rx_ring, numa, NULL, pool);
	if (ret == 0)
		ret = rte_eth_tx_queue_setup(port, queue, setup->tx_ring, numa, NULL);
	tpa_quiet(false);
	return ret;
}

int tpa_start(uint16_t port, const struct tpa_setup *setup)
{
	int ret;

	tpa_quiet(true);
	ret = rte_eth_dev_start(port);
	if (ret == 0) {
		/* Some drivers have no such thing, and refuse. Multicast is what IPv6
		 * finds its neighbours by. */
		(void)(setup->promiscuous ? rte_eth_promiscuous_enable(port)
					  : rte_eth_promiscuous_disable(port));
		(void)rte_eth_allmulticast_enable(port);
		/* A device that filters (virtio's does so unasked) has to know. */
		if (setup->offloads & TPA_RX_VLAN_FILTER)
			ret = rte_eth_dev_vlan_filter(port, setup->vlan, 1);
	}
	(void)rte_eth_stats_reset(port);
	(void)rte_eth_xstats_reset(port);
	tpa_quiet(false);
	return ret;
}

bool tpa_link_up(uint16_t port)
{
	struct rte_eth_link link;

	return rte_eth_link_get_nowait(port, &link) == 0 && link.link_status == RTE_ETH_LINK_UP;
}

uint64_t tpa_link_speed(uint16_t port)
{
	struct rte_eth_link link;

	if (rte_eth_link_get_nowait(port, &link) != 0 || link.link_status != RTE_ETH_LINK_UP ||
	    link.link_speed == RTE_ETH_SPEED_NUM_UNKNOWN)
		return 0;
	return link.link_speed * UINT64_C(1000000);
}

int tpa_get_stats(uint16_t port, struct tpa_link_stats *stats)
{
	struct rte_eth_stats s;
	int ret;

	ret = rte_eth_stats_get(port, &s);
	if (ret != 0)
		return ret;
	stats->rx_packets = s.ipackets;
	stats->rx_bytes = s.ibytes;
	stats->tx_packets = s.opackets;
	stats->tx_bytes = s.obytes;
	stats->rx_missed = s.imissed;
	stats->rx_no_buffer = s.rx_nombuf;
	stats->rx_errors = s.ierrors;
	stats->tx_errors = s.oerrors;
	return 0;
}

int tpa_get_xstats(uint16_t port, struct tpa_xstat *list, unsigned n)
{
	struct rte_eth_xstat_name *names;
	struct rte_eth_xstat *values;
	int have = rte_eth_xstats_get_names(port, NULL, 0);
	int i;

	if (have <= 0 || list == NULL || n < (unsigned)have)
		return have;
	names = calloc(have, sizeof(*names));
	values = calloc(have, sizeof(*values));
	if (names == NULL || values == NULL) {
		have = -ENOMEM;
		goto out;
	}
	if (rte_eth_xstats_get_names(port, names, have) != have ||
	    rte_eth_xstats_get(port, values, have) != have) {
		have = -EAGAIN;
		goto out;
	}
	for (i = 0; i < have; i++) {
		/* values[i].id is the index of the name */
		strlcpy(list[i].name, names[values[i].id].name, sizeof(list[i].name));
		list[i].value = values[i].value;
	}
out:
	free(names);
	free(values);
	return have;
}

int tpa_get_rss(uint16_t port, uint8_t *key, uint8_t key_size, uint16_t *table, uint16_t table_size)
{
	struct rte_eth_rss_conf conf = {.rss_key = key, .rss_key_len = key_size};
	struct rte_eth_rss_reta_entry64 reta[RTE_ETH_RSS_RETA_SIZE_512 / RTE_ETH_RETA_GROUP_SIZE] = {0};
	unsigned i;
	int ret;

	if (table_size > RTE_ETH_RSS_RETA_SIZE_512)
		return -ERANGE;
	ret = rte_eth_dev_rss_hash_conf_get(port, &conf);
	if (ret != 0)
		return ret;
	for (i = 0; i < table_size; i++)
		reta[i / RTE_ETH_RETA_GROUP_SIZE].mask |= UINT64_C(1) << i % RTE_ETH_RETA_GROUP_SIZE;
	ret = rte_eth_dev_rss_reta_query(port, reta, table_size);
	if (ret != 0)
		return ret;
	for (i = 0; i < table_size; i++)
		table[i] = reta[i / RTE_ETH_RETA_GROUP_SIZE].reta[i % RTE_ETH_RETA_GROUP_SIZE];
	return 0;
}

int tpa_set_rss(uint16_t port, const uint8_t *key, uint8_t key_size, const uint16_t *table, uint16_t table_size)
{
	struct rte_eth_rss_reta_entry64 reta[RTE_ETH_RSS_RETA_SIZE_512 / RTE_ETH_RETA_GROUP_SIZE] = {0};
	struct rte_eth_rss_conf conf = {0};
	struct rte_eth_dev_info dev;
	unsigned i;
	int ret;

	if (table_size > RTE_ETH_RSS_RETA_SIZE_512)
		return -ERANGE;
	ret = rte_eth_dev_info_get(port, &dev);
	if (ret != 0)
		return ret;
	conf.rss_key = (uint8_t *)key;
	conf.rss_key_len = key_size;
	conf.rss_hf = dev.flow_type_rss_offloads & RSS_TYPES;
	ret = rte_eth_dev_rss_hash_update(port, &conf);
	if (ret != 0)
		return ret;
	for (i = 0; i < table_size; i++) {
		struct rte_eth_rss_reta_entry64 *group = &reta[i / RTE_ETH_RETA_GROUP_SIZE];

		group->mask |= UINT64_C(1) << i % RTE_ETH_RETA_GROUP_SIZE;
		group->reta[i % RTE_ETH_RETA_GROUP_SIZE] = table[i];
	}
	return rte_eth_dev_rss_reta_update(port, reta, table_size);
}

void *tpa_pool_new(const char *name, unsigned n, unsigned cache, unsigned room, int numa, int *err)
{
	struct rte_mempool *pool;

	tpa_quiet(true);
	pool = rte_pktmbuf_pool_create(name, n, cache, 0, room + RTE_PKTMBUF_HEADROOM,
				       numa < 0 ? SOCKET_ID_ANY : numa);
	tpa_quiet(false);
	*err = pool == NULL ? -rte_errno : 0;
	return pool;
}

unsigned tpa_pool_in_use(void *pool)
{
	return rte_mempool_in_use_count(pool);
}

unsigned tpa_pool_size(void *pool)
{
	return ((struct rte_mempool *)pool)->size;
}

void tpa_pool_free(void *pool)
{
	rte_mempool_free(pool);
}
