//go:build ignore

// The filter decides, frame by frame, whether the kernel or a socket of this
// process gets it. A frame is ours when all of this holds:
//
//   - it is Ethernet to a unicast address, without a VLAN tag,
//   - carrying IPv4 or IPv6,
//   - carrying TCP to a local address in `addrs`,
//   - to a port that `ports` marks as claimed for that address.
//
// Of a packet in fragments, the first has the port; the others follow it by
// `fragments`. One that overtakes the first goes to the kernel, which never gets
// to see the rest of it.
//
// `flows` has exceptions in both directions: flows that the kernel keeps at
// claimed ports, and flows that stay ours at ports that are claimed no more.
//
// The kernel may have connections of its own from our ports: those of a container
// behind NAT. A port where somebody only listens sends no SYN, so a SYN-ACK that comes
// to it is the answer to such a connection: `natted` has it from then on, and the
// kernel gets its segments. Ports that connections of ours begin at are in `dials`:
// there, SYN-ACKs are ours.
//
// All else, and whatever does not parse, is passed on unchanged.
//
// Of what is ours, SYNs whose source is in no prefix of `allowed` go no further: the
// filter drops them. Nor do SYNs to the ports in `syn_ports`: the filter
// answers them itself, with a cookie that TCP will know, or drops them. A flood
// of them then costs this process nothing.
//
// The programs around these decisions are these. tpa_filter runs as XDP and
// hands our frames to AF_XDP sockets. It sends its answers by itself, too, unless
// the driver may lose them (veth): tpa_answer, behind XDP, then does that. Where
// the interface's XDP is in use, the other two do its work: tpa_tap is the socket
// filter of a packet socket, which gets a copy of our frames, and tpa_ingress,
// right behind it, keeps the kernel from seeing them, too.
//
// tpa_filter and tpa_ingress answer no SYNs: the kernel takes as long to verify what
// does as for all else. tpa_filter_syn and tpa_ingress_syn are the same with it, and
// take their places when there are SYNs to answer, as tpa_answer does then.
//
// The file includes no headers: what it needs of the kernel's interface is below,
// so that the object depends on the compiler alone.

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef long long __s64;

#define SEC(name) __attribute__((section(name), used))
#define inline inline __attribute__((always_inline))
#define noinline __attribute__((noinline))
#define uint_attr(name, val) int(*name)[val]
#define type_attr(name, val) typeof(val) *name

// From linux/bpf.h.
enum { XDP_DROP = 1, XDP_PASS = 2, XDP_TX = 3, XDP_REDIRECT = 4 };
enum { TCX_NEXT = -1, TCX_DROP = 2 };
enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_LPM_TRIE = 11,
	BPF_MAP_TYPE_XSKMAP = 17,
};
enum { BPF_F_NO_PREALLOC = 1 };
struct xdp_md {
	__u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex;
};
struct __sk_buff {
	__u32 len, pkt_type, mark, queue_mapping, protocol, vlan_present;
	__u32 vlan_tci, vlan_proto, priority, ingress_ifindex, ifindex;
	__u32 tc_index, cb[5], hash, tc_classid, data, data_end;
};
static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*bpf_map_update_elem)(void *map, const void *key, const void *value, __u64 flags) = (void *)2;
static long (*bpf_map_delete_elem)(void *map, const void *key) = (void *)3;
static __u64 (*bpf_ktime_get_ns)(void) = (void *)5;
static long (*bpf_redirect)(__u32 ifindex, __u64 flags) = (void *)23;
static long (*bpf_skb_load_bytes)(const void *skb, __u32 offset, void *to, __u32 len) = (void *)26;
static long (*bpf_skb_change_tail)(struct __sk_buff *skb, __u32 len, __u64 flags) = (void *)38;
static long (*bpf_skb_pull_data)(struct __sk_buff *skb, __u32 len) = (void *)39;
static long (*bpf_redirect_map)(void *map, __u64 key, __u64 flags) = (void *)51;
static long (*bpf_xdp_adjust_tail)(struct xdp_md *ctx, int delta) = (void *)65;

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define be16(x) __builtin_bswap16(x)
#define be32(x) __builtin_bswap32(x)
#define le64(x) (x)
#else
#define be16(x) (x)
#define be32(x) (x)
#define le64(x) __builtin_bswap64(x)
#endif

struct eth_header {
	__u8 dst[6], src[6];
	__u16 type;
};

struct ipv4_header {
	__u8 version_ihl, tos;
	__u16 len, id, fragment;
	__u8 ttl, protocol;
	__u16 checksum;
	__u32 src, dst;
};

struct ipv6_header {
	__u32 version_class_flow;
	__u16 len;
	__u8 next, hop_limit;
	__u32 src[4], dst[4];
};

// Numbers of IPv6 extension headers.
enum { HOP_BY_HOP = 0, ROUTING = 43, FRAGMENTED = 44, DESTINATION = 60 };

// The first bytes of an IPv6 extension header; all but the first two are those of a
// fragment header.
struct extension_header {
	__u8 next, len;
	__u16 fragment;
	__u32 id;
};

struct tcp_header {
	__u16 src, dst;
	__u32 seq, ack;
	__u16 flags, window, checksum, urgent;
};

// An address in network byte order, IPv4 mapped into IPv6 (::ffff:0:0/96).
struct addr {
	__u32 word[4];
};

// ROWS is the greatest number of local addresses, WORDS the number of 64-bit
// words that hold one bit for each port.
enum { ROWS = 256, WORDS = 65536 / 64, MAX_FLOWS = 65536, MAX_QUEUES = 256, MAX_SYN_PORTS = 4096, MAX_FRAGMENTED = 4096, MAX_NATTED = 16384, MAX_ALLOWED = 1024 };

// addrs leads from a local address to its row in ports.
struct {
	uint_attr(type, BPF_MAP_TYPE_HASH);
	uint_attr(max_entries, ROWS);
	type_attr(key, struct addr);
	type_attr(value, __u32);
} addrs SEC(".maps");

// 64 ports of one local address, one bit each.
struct port_word {
	__u64 claimed;
	// flows has exceptions for these ports.
	__u64 mixed;
};

// ports has WORDS words for each row.
struct {
	uint_attr(type, BPF_MAP_TYPE_ARRAY);
	uint_attr(max_entries, ROWS * WORDS);
	type_attr(key, __u32);
	type_attr(value, struct port_word);
} ports SEC(".maps");

// A flow as an arriving frame shows it, in network byte order.
struct flow {
	struct addr local, remote;
	__u16 local_port, remote_port;
};

// The owner of a flow at a mixed port.
enum { KERNEL, OURS };

// flows has the owners of flows that are exceptions at their port.
struct {
	uint_attr(type, BPF_MAP_TYPE_HASH);
	uint_attr(max_entries, MAX_FLOWS);
	uint_attr(map_flags, BPF_F_NO_PREALLOC);
	type_attr(key, struct flow);
	type_attr(value, __u8);
} flows SEC(".maps");

// natted has flows of the kernel's from our ports that the filter has found: values are
// of no use.
struct {
	uint_attr(type, BPF_MAP_TYPE_LRU_HASH);
	uint_attr(max_entries, MAX_NATTED);
	type_attr(key, struct flow);
	type_attr(value, __u8);
} natted SEC(".maps");

// nat_ports has a bit for each port, whatever the address, that natted has flows of. CPUs
// that set bits at the same time may lose one: the flow's next SYN-ACK sets it again.
struct {
	uint_attr(type, BPF_MAP_TYPE_ARRAY);
	uint_attr(max_entries, WORDS);
	type_attr(key, __u32);
	type_attr(value, __u64);
} nat_ports SEC(".maps");

// dials has a bit for each port, whatever the address, that connections of ours begin
// at.
struct {
	uint_attr(type, BPF_MAP_TYPE_ARRAY);
	uint_attr(max_entries, WORDS);
	type_attr(key, __u32);
	type_attr(value, __u64);
} dials SEC(".maps");

// A packet that arrives in fragments, in network byte order.
struct fragmented {
	struct addr local, remote;
	__u32 id;
};

// fragments has packets whose first fragment was ours.
struct {
	uint_attr(type, BPF_MAP_TYPE_LRU_HASH);
	uint_attr(max_entries, MAX_FRAGMENTED);
	type_attr(key, struct fragmented);
	type_attr(value, __u8);
} fragments SEC(".maps");

// sockets has the socket of each receive queue.
struct {
	uint_attr(type, BPF_MAP_TYPE_XSKMAP);
	uint_attr(max_entries, MAX_QUEUES);
	type_attr(key, __u32);
	type_attr(value, __u32);
} sockets SEC(".maps");

// Addresses that begin with the first bits of addr.
struct prefix {
	__u32 bits;
	struct addr addr;
};

// allowed has the sources whose SYNs are ours.
struct {
	uint_attr(type, BPF_MAP_TYPE_LPM_TRIE);
	uint_attr(max_entries, MAX_ALLOWED);
	uint_attr(map_flags, BPF_F_NO_PREALLOC);
	type_attr(key, struct prefix);
	type_attr(value, __u8);
} allowed SEC(".maps");

// What becomes of the SYNs to a port.
enum { ANSWER, DROP };

// syn_ports has the ports, in host byte order, whose SYNs stay here.
struct {
	uint_attr(type, BPF_MAP_TYPE_HASH);
	uint_attr(max_entries, MAX_SYN_PORTS);
	uint_attr(map_flags, BPF_F_NO_PREALLOC);
	type_attr(key, __u32);
	type_attr(value, __u8);
} syn_ports SEC(".maps");

// What answers are made of.
struct cookies {
	__u64 key[2];
	__u32 minute;
	__u16 mss4, mss6; // ours
	// The checksum of the answer to a SYN that came without one is left open, too.
	__u16 partial;
	// tpa_answer answers, not tpa_filter.
	__u16 behind;
};

struct {
	uint_attr(type, BPF_MAP_TYPE_ARRAY);
	uint_attr(max_entries, 1);
	type_attr(key, __u32);
	type_attr(value, struct cookies);
} cookies SEC(".maps");

// What becomes of a frame, and why. The order is that of Counts in counts.go.
enum action {
	REDIRECTED,
	NO_SOCKET,
	NOT_IP,
	NOT_TCP,
	FRAGMENT,
	IP_OPTIONS,
	MALFORMED,
	OTHER_ADDRESS,
	OTHER_PORT,
	ANSWERED,
	DROPPED,
	NOT_ALLOWED,
	ACTIONS,
};

// frames counts frames by action.
struct {
	uint_attr(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	uint_attr(max_entries, ACTIONS);
	type_attr(key, __u32);
	type_attr(value, __u64);
} frames SEC(".maps");

static inline void count(__u32 action)
{
	__u64 *n = bpf_map_lookup_elem(&frames, &action);
	if (n)
		(*n)++; // this CPU's own
}

static inline void map_ipv4(struct addr *a, __u32 ipv4)
{
	a->word[0] = 0;
	a->word[1] = 0;
	a->word[2] = be32(0xffff);
	a->word[3] = ipv4;
}

// A SYN as the hash of its cookie has it. The rest is 0.
union syn {
	struct {
		struct flow flow;
		__u32 seq; // network byte order
	};
	__u64 word[5];
};

// The flags of a TCP header with its data offset.
enum { FIN = 1, SYN = 2, RST = 4, ACK = 16 };

// was_natted tells whether the kernel had flows from a port.
static inline int was_natted(__u32 port)
{
	__u32 index = port / 64;
	__u64 *found = bpf_map_lookup_elem(&nat_ports, &index);
	return found && *found & 1ULL << port % 64;
}

// of_nat tells whether a segment to one of our ports belongs to a flow of the kernel's.
static inline int of_nat(const struct tcp_header *tcp, __u16 flags, __u32 port, struct flow *flow)
{
	__u32 index = port / 64;
	__u64 bit = 1ULL << port % 64, *found = bpf_map_lookup_elem(&nat_ports, &index);
	if (!found)
		return 0;
	// The answers to a SYN: of the peer that takes it, and of one that refuses.
	if (flags == be16(SYN | ACK) || (flags == be16(RST | ACK) && tcp->seq == 0)) {
		__u64 *ours = bpf_map_lookup_elem(&dials, &index);
		if (!ours || *ours & bit)
			return 0;
		if (flags == be16(SYN | ACK)) {
			__u8 one = 1;
			*found |= bit;
			bpf_map_update_elem(&natted, flow, &one, 0);
		}
		return 1;
	}
	return *found & bit && bpf_map_lookup_elem(&natted, flow);
}

// owner returns REDIRECTED for a segment that is ours, ANSWERED, DROPPED or NOT_ALLOWED
// for a SYN of which that is to be done. It completes syn, which has the addresses.
static inline enum action owner(const struct tcp_header *tcp, union syn *syn)
{
	__u32 *row = bpf_map_lookup_elem(&addrs, &syn->flow.local);
	if (!row)
		return OTHER_ADDRESS;
	__u32 port = be16(tcp->dst);
	__u32 index = *row * WORDS + port / 64;
	struct port_word *word = bpf_map_lookup_elem(&ports, &index);
	if (!word)
		return OTHER_PORT;
	__u64 bit = 1ULL << port % 64;
	int ours = (word->claimed & bit) != 0;
	syn->flow.local_port = tcp->dst;
	syn->flow.remote_port = tcp->src;
	if (word->mixed & bit) {
		__u8 *owner = bpf_map_lookup_elem(&flows, &syn->flow);
		if (owner)
			ours = *owner == OURS;
	}
	if (!ours)
		return OTHER_PORT;
	__u16 flags = tcp->flags & be16(SYN | ACK | RST | FIN);
	if (flags != be16(SYN))
		return of_nat(tcp, flags, port, &syn->flow) ? OTHER_PORT : REDIRECTED;
	if (was_natted(port))
		bpf_map_delete_elem(&natted, &syn->flow); // its addresses begin a new one
	struct prefix from = { 128, syn->flow.remote };
	if (!bpf_map_lookup_elem(&allowed, &from))
		return NOT_ALLOWED;
	__u8 *what = bpf_map_lookup_elem(&syn_ports, &port);
	if (!what)
		return REDIRECTED;
	syn->seq = tcp->seq;
	return *what == ANSWER ? ANSWERED : DROPPED;
}

// classify returns what owner does, or why the frame is none of ours. FRAGMENT and
// IP_OPTIONS are for find to decide.
static inline enum action classify(void *data, void *end, union syn *syn)
{
	struct tcp_header *tcp;

	struct eth_header *eth = data;
	if ((void *)(eth + 1) > end)
		return MALFORMED;
	if (eth->dst[0] & 1) // broadcast and multicast: ARP, ND and such
		return NOT_IP;

	if (eth->type == be16(0x0800)) {
		struct ipv4_header *ip = (void *)(eth + 1);
		if ((void *)(ip + 1) > end)
			return MALFORMED;
		if (ip->protocol != 6)
			return NOT_TCP;
		if (ip->version_ihl >> 4 != 4 || ip->version_ihl < 0x45)
			return MALFORMED;
		if (ip->fragment & be16(0x3fff)) // more fragments, or an offset
			return FRAGMENT;
		if (ip->version_ihl != 0x45)
			return IP_OPTIONS;
		map_ipv4(&syn->flow.local, ip->dst);
		map_ipv4(&syn->flow.remote, ip->src);
		tcp = (void *)(ip + 1);
	} else if (eth->type == be16(0x86dd)) {
		struct ipv6_header *ip = (void *)(eth + 1);
		if ((void *)(ip + 1) > end)
			return MALFORMED;
		switch (ip->next) {
		case 6:
			break;
		case FRAGMENTED:
			return FRAGMENT;
		case HOP_BY_HOP:
		case ROUTING:
		case DESTINATION:
			return IP_OPTIONS;
		default:
			return NOT_TCP;
		}
		if ((ip->version_class_flow & be32(0xf0000000)) != be32(0x60000000))
			return MALFORMED;
		__builtin_memcpy(&syn->flow.local, ip->dst, sizeof(syn->flow.local));
		__builtin_memcpy(&syn->flow.remote, ip->src, sizeof(syn->flow.remote));
		tcp = (void *)(ip + 1);
	} else {
		return NOT_IP;
	}

	if ((void *)(tcp + 1) > end)
		return MALFORMED;
	return owner(tcp, syn);
}

// load copies bytes of a frame, which are those of skb or else of xdp.
static inline long load(struct xdp_md *xdp, struct __sk_buff *skb, __u32 at, void *to, const __u32 len)
{
	if (skb)
		return bpf_skb_load_bytes(skb, at, to, len);
	void *data = (void *)(long)xdp->data, *end = (void *)(long)xdp->data_end;
	void *from = data + (at & 0xfff);
	if (from + len > end)
		return -1;
	__builtin_memcpy(to, from, len);
	return 0;
}

// find is classify for packets with IPv4 options or IPv6 extension headers, and for
// fragments. unsure is what the frame is where that cannot be told.
static inline enum action find(struct xdp_md *xdp, struct __sk_buff *skb, union syn *syn, enum action unsure)
{
	struct fragmented packet = {};
	struct tcp_header tcp = {};
	__u32 at = sizeof(struct eth_header);
	__u16 offset = 0; // of the fragment, in eight bytes
	int more = 0;	  // fragments follow
	__u16 type;
	if (load(xdp, skb, 12, &type, sizeof(type)))
		return MALFORMED;
	if (type == be16(0x0800)) {
		struct ipv4_header ip;
		if (load(xdp, skb, at, &ip, sizeof(ip)))
			return MALFORMED;
		map_ipv4(&packet.local, ip.dst);
		map_ipv4(&packet.remote, ip.src);
		packet.id = ip.id;
		offset = be16(ip.fragment) & 0x1fff;
		more = (ip.fragment & be16(0x2000)) != 0;
		at += (ip.version_ihl & 15) * 4;
	} else {
		struct ipv6_header ip;
		if (load(xdp, skb, at, &ip, sizeof(ip)))
			return MALFORMED;
		__builtin_memcpy(&packet.local, ip.dst, sizeof(packet.local));
		__builtin_memcpy(&packet.remote, ip.src, sizeof(packet.remote));
		at += sizeof(ip);
		__u8 next = ip.next;
		// Hop-by-hop, destination, routing and fragment headers, and destination
		// options once more (RFC 8200 section 4.1).
#pragma unroll
		for (int i = 0; i < 5; i++) {
			struct extension_header e;
			if (next == 6 || offset)
				break;
			if (load(xdp, skb, at, &e, sizeof(e)))
				return MALFORMED;
			if (next == FRAGMENTED) {
				packet.id = e.id;
				offset = be16(e.fragment) >> 3;
				more = (e.fragment & be16(1)) != 0;
				at += sizeof(e);
			} else if (next == HOP_BY_HOP || next == ROUTING || next == DESTINATION) {
				at += (e.len + 1) * 8;
			} else {
				return NOT_TCP;
			}
			next = e.next;
		}
		if (next != 6 && !offset)
			return unsure;
	}
	if (offset)
		return bpf_map_lookup_elem(&fragments, &packet) ? REDIRECTED : FRAGMENT;
	// The first fragment may be as short as eight bytes.
	if (load(xdp, skb, at, &tcp, sizeof(tcp)) && (!more || load(xdp, skb, at, &tcp, 8)))
		return MALFORMED;
	syn->flow.local = packet.local;
	syn->flow.remote = packet.remote;
	enum action action = owner(&tcp, syn);
	if (more && action == REDIRECTED) {
		__u8 one = 1;
		bpf_map_update_elem(&fragments, &packet, &one, 0);
	} else if (more) {
		bpf_map_delete_elem(&fragments, &packet); // an earlier packet of that number
	}
	return action == ANSWERED ? DROPPED : action; // check expects plain headers
}

static noinline enum action find_xdp(struct xdp_md *ctx, union syn *syn, enum action unsure)
{
	return find(ctx, 0, syn, unsure);
}

static noinline enum action find_packet(struct __sk_buff *skb, union syn *syn, enum action unsure)
{
	return find(0, skb, syn, unsure);
}

#define rotate(x, n) ((x) << (n) | (x) >> (64 - (n)))
#define sip_round()                                                                            \
	do {                                                                                   \
		v0 += v1, v1 = rotate(v1, 13), v1 ^= v0, v0 = rotate(v0, 32);                  \
		v2 += v3, v3 = rotate(v3, 16), v3 ^= v2;                                       \
		v0 += v3, v3 = rotate(v3, 21), v3 ^= v0;                                       \
		v2 += v1, v1 = rotate(v1, 17), v1 ^= v2, v2 = rotate(v2, 32);                  \
	} while (0)

// make_cookie is Key.Make of internal/syncookie.
static noinline __u32 make_cookie(const struct cookies *c, const union syn *syn, __u32 mss)
{
	// SipHash-2-4 of the SYN, and four bytes more.
	__u64 v0 = c->key[0] ^ 0x736f6d6570736575ULL, v1 = c->key[1] ^ 0x646f72616e646f6dULL;
	__u64 v2 = c->key[0] ^ 0x6c7967656e657261ULL, v3 = c->key[1] ^ 0x7465646279746573ULL;
#pragma unroll
	for (int i = 0; i < 6; i++) {
		__u64 word = i < 5 ? le64(syn->word[i]) : (__u64)(sizeof(*syn) + 4) << 56 | (__u32)(c->minute << 3 | mss);
		v3 ^= word;
		sip_round();
		sip_round();
		v0 ^= word;
	}
	v2 ^= 0xff;
	sip_round();
	sip_round();
	sip_round();
	sip_round();
	return ((__u32)(v0 ^ v1 ^ v2 ^ v3) & ~31u) | (c->minute & 3) << 3 | mss;
}

// What a SYN says in its first options: the MSS, or the value that holds without
// one, the window scale, 15 for none, whether it permits SACK, and where in the
// options the value of its timestamp is, 0 for none.
struct told {
	__u32 mss, shift, sack, stamp;
};

static noinline void read_options(const __u8 *options, __u32 len, void *end, struct told *t)
{
	__u32 at = 0;
#pragma unroll
	for (int i = 0; i < 8; i++) {
		const __u8 *o = options + (at & 63);
		if (at + 3 > len || (void *)(o + 3) > end || o[0] == 0)
			break;
		if (o[0] == 1) {
			at++;
			continue;
		}
		if (o[1] < 2)
			break;
		if (o[0] == 2 && o[1] == 4 && at + 4 <= len && (void *)(o + 4) <= end)
			t->mss = o[2] << 8 | o[3];
		if (o[0] == 3 && o[1] == 3)
			t->shift = o[2] > 14 ? 14 : o[2];
		if (o[0] == 4 && o[1] == 2)
			t->sack = 1;
		if (o[0] == 8 && o[1] == 10 && at + 10 <= len)
			t->stamp = (at & 63) + 2;
		at += o[1];
	}
}

// at_least returns 1 if x is at least y, else 0, without a branch: those multiply
// what the verifier walks through.
static inline __u32 at_least(__u64 x, __u64 y)
{
	x -= y;
	asm volatile("" : "+r"(x));
	return ~x >> 63;
}

// fold returns a sum of 32-bit words as one of 16 bits.
static inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	return (sum & 0xffff) + (sum >> 16);
}

static inline __u64 add_words(__u64 sum, const __u32 *words, const int n)
{
#pragma unroll
	for (int i = 0; i < n; i++)
		sum += words[i];
	return sum;
}

// What check returns: the place of the peer's MSS in sizes of internal/syncookie,
// and these.
enum { MSS = 7, SOUND = 8, OPEN = 16, TOLD = 32, EITHER = 64, SHIFT = 8, SACK = 1 << 12, STAMP = 13 };

// check returns 0 for a SYN that is not sound. OPEN: its checksum was left open,
// EITHER: or it was not, the value is right for both, TOLD: it has options. From the
// bits SHIFT and STAMP on stand the window scale and the place of the timestamp, if
// the SYN has one and room for an answer with all options. A SYN with data is not sound here: its sender tries
// without (RFC 7413 section 3).
static inline __u32 check(void *data, void *end)
{
	struct eth_header *eth = data;
	struct tcp_header *tcp;
	__u64 pseudo; // the header that TCP's checksum covers, but for the length
	__u32 len;    // of the TCP segment
	if ((void *)(eth + 1) > end)
		return 0;
	if (eth->type == be16(0x0800)) {
		struct ipv4_header *ip = (void *)(eth + 1);
		tcp = (void *)(ip + 1);
		if ((void *)(tcp + 1) > end || fold(add_words(0, (__u32 *)ip, 5)) != 0xffff)
			return 0;
		len = be16(ip->len) - sizeof(*ip);
		pseudo = add_words(be16(6), &ip->src, 2);
	} else {
		struct ipv6_header *ip = (void *)(eth + 1);
		tcp = (void *)(ip + 1);
		if ((void *)(tcp + 1) > end)
			return 0;
		len = be16(ip->len);
		pseudo = add_words(be16(6), ip->src, 8);
	}
	__u32 offset = be16(tcp->flags) >> 12;
	if (offset < 5 || len != offset * 4)
		return 0;

	__u32 *option = (void *)(tcp + 1);
	__u32 left = offset - 5;
	struct told t = { .mss = 536, .shift = 15 };
	read_options((void *)option, left * 4, end, &t);
	__u32 peer = t.mss & 0xffff;
	__u32 mss = at_least(peer, 536) + at_least(peer, 768) + at_least(peer, 996) + at_least(peer, 1220) +
		    at_least(peer, 1360) + at_least(peer, 1440) + at_least(peer, 1460);

	pseudo += be16(len);
	__u64 sum = add_words(pseudo, (__u32 *)tcp, 5);
#pragma unroll
	for (int i = 0; i < 10; i++) {
		if ((void *)(option + i + 1) > end)
			break;
		sum += option[i] & -(__u64)at_least(left, i + 1);
	}
	if ((void *)tcp + len > end)
		return 0;
	// The field of a checksum left open holds the sum of the pseudo-header.
	__u32 open = tcp->checksum == fold(pseudo), right = fold(sum) == 0xffff;
	if (!open && !right)
		return 0;
	__u32 sound = SOUND | open * OPEN | (open & right) * EITHER | at_least(left, 1) * TOLD | mss;
	if (left < 5 || !t.stamp)
		return sound;
	return sound | (t.shift & 15) << SHIFT | (t.sack & 1) * SACK | (t.stamp & 63) << STAMP;
}

enum { WINDOW_SHIFT = 7 }; // of internal/syncookie

// answer makes a SYN that check found sound its own answer, and returns how long
// that is: never longer than the SYN. 0 is failure. Where it cannot be told whether
// the SYN's checksum was left open, the urgent pointer makes that of the answer right
// for both.
static inline __u32 answer(void *data, void *end, const union syn *syn, __u32 sound)
{
	__u32 zero = 0;
	struct cookies *c = bpf_map_lookup_elem(&cookies, &zero);
	struct eth_header *eth = data;
	if (!c || (void *)(eth + 1) > end)
		return 0;
	struct tcp_header *tcp;
	// Without options in the SYN there is no room for one in the answer.
	__u32 stamp = sound >> STAMP & 63, len = sizeof(*tcp) + (stamp ? 20 : sound & TOLD ? 4 : 0), size, mss;
	__u64 pseudo;
	if (eth->type == be16(0x0800)) {
		struct ipv4_header *ip = (void *)(eth + 1);
		tcp = (void *)(ip + 1);
		if ((void *)(tcp + 1) > end)
			return 0;
		ip->tos = 0;
		ip->len = be16(sizeof(*ip) + len);
		ip->id = 0;
		ip->fragment = be16(0x4000); // don't
		ip->ttl = 64;
		ip->checksum = 0;
		ip->src = syn->flow.local.word[3];
		ip->dst = syn->flow.remote.word[3];
		ip->checksum = ~fold(add_words(0, (__u32 *)ip, 5));
		pseudo = add_words(be16(6), &ip->src, 2);
		size = sizeof(*eth) + sizeof(*ip) + len;
		mss = c->mss4;
	} else {
		struct ipv6_header *ip = (void *)(eth + 1);
		tcp = (void *)(ip + 1);
		if ((void *)(tcp + 1) > end)
			return 0;
		ip->version_class_flow = be32(0x60000000);
		ip->len = be16(len);
		ip->hop_limit = 64;
		__builtin_memcpy(ip->src, &syn->flow.local, sizeof(ip->src));
		__builtin_memcpy(ip->dst, &syn->flow.remote, sizeof(ip->dst));
		pseudo = add_words(be16(6), ip->src, 8);
		size = sizeof(*eth) + sizeof(*ip) + len;
		mss = c->mss6;
	}
	tcp->src = syn->flow.local_port;
	tcp->dst = syn->flow.remote_port;
	tcp->ack = be32(be32(syn->seq) + 1);
	tcp->seq = be32(make_cookie(c, syn, sound & MSS));
	tcp->flags = be16(len / 4 << 12 | SYN | ACK);
	tcp->window = 0xffff;
	tcp->checksum = 0;
	tcp->urgent = 0;
	pseudo += be16(len);
	__u64 sum = add_words(pseudo, (__u32 *)tcp, 5);
	if (sound & TOLD) {
		__u32 *option = (void *)(tcp + 1);
		if ((void *)(option + 1) > end)
			return 0;
		if (stamp) {
			const __u8 *theirs = (__u8 *)option + stamp;
			if ((void *)(option + 5) > end || (void *)(theirs + 4) > end)
				return 0;
			__u32 echo;
			__builtin_memcpy(&echo, theirs, 4);
			// Stamp of internal/syncookie.
			__u32 millis = bpf_ktime_get_ns() / 1000000, shift = sound >> SHIFT & 15, sack = sound & SACK ? 1 : 0;
			option[1] = be32((sack ? 4 << 24 | 2 << 16 : 1 << 24 | 1 << 16) | 8 << 8 | 10);
			option[2] = be32((millis & ~63u) | sack << 4 | shift);
			option[3] = echo;
			option[4] = be32(shift == 15 ? 0x01010101 : 1 << 24 | 3 << 16 | 3 << 8 | WINDOW_SHIFT);
			sum = add_words(sum, option + 1, 4);
		}
		*option = be32(2 << 24 | 4 << 16 | mss);
		sum += *option;
	}
	if (c->partial && sound & EITHER)
		tcp->urgent = ~fold(sum + fold(pseudo)); // without URG it means nothing
	tcp->checksum = sound & OPEN && c->partial ? fold(pseudo) : ~fold(sum);

	__u8 station[6];
	__builtin_memcpy(station, eth->dst, 6);
	__builtin_memcpy(eth->dst, eth->src, 6);
	__builtin_memcpy(eth->src, station, 6);
	return size;
}

// addressed reads the SYN that check found sound.
static inline void addressed(void *data, void *end, union syn *syn)
{
	struct eth_header *eth = data;
	struct tcp_header *tcp;
	if ((void *)(eth + 1) > end)
		return;
	if (eth->type == be16(0x0800)) {
		struct ipv4_header *ip = (void *)(eth + 1);
		tcp = (void *)(ip + 1);
		if ((void *)(tcp + 1) > end)
			return;
		map_ipv4(&syn->flow.local, ip->dst);
		map_ipv4(&syn->flow.remote, ip->src);
	} else {
		struct ipv6_header *ip = (void *)(eth + 1);
		tcp = (void *)(ip + 1);
		if ((void *)(tcp + 1) > end)
			return;
		__builtin_memcpy(&syn->flow.local, ip->dst, sizeof(syn->flow.local));
		__builtin_memcpy(&syn->flow.remote, ip->src, sizeof(syn->flow.remote));
	}
	syn->flow.local_port = tcp->dst;
	syn->flow.remote_port = tcp->src;
	syn->seq = tcp->seq;
}

// The four functions that follow are not static: the verifier walks through them once,
// not once for each way that leads there, which took it 200 ms. They may have no
// pointers but that to the frame then.

noinline __u32 check_xdp(struct xdp_md *ctx) { return check((void *)(long)ctx->data, (void *)(long)ctx->data_end); }

noinline __u32 check_packet(struct __sk_buff *skb) { return check((void *)(long)skb->data, (void *)(long)skb->data_end); }

noinline __u32 answer_xdp(struct xdp_md *ctx, __u32 sound)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	union syn syn = {};
	addressed(data, end, &syn);
	return answer(data, end, &syn, sound);
}

noinline __u32 answer_skb(struct __sk_buff *skb, __u32 sound)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	union syn syn = {};
	addressed(data, end, &syn);
	return answer(data, end, &syn, sound);
}

// answered_behind tells whether tpa_answer answers.
static inline int answered_behind(void)
{
	__u32 zero = 0;
	struct cookies *c = bpf_map_lookup_elem(&cookies, &zero);
	return c && c->behind;
}


static inline int filter(struct xdp_md *ctx, const int answers)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	union syn syn = {};
	enum action action = classify(data, end, &syn);
	if (action == FRAGMENT || action == IP_OPTIONS)
		action = find_xdp(ctx, &syn, action);
	if (action == ANSWERED || action == DROPPED || action == NOT_ALLOWED) {
		// A pinned filter outlives its process, and then keeps nothing from the kernel.
		__u32 queue = ctx->rx_queue_index;
		if (!bpf_map_lookup_elem(&sockets, &queue))
			action = NO_SOCKET;
	}
	if (action == ANSWERED) {
		if (answered_behind())
			return XDP_PASS;
		__u32 sound = answers ? check_xdp(ctx) : 0;
		if (sound) {
			int size = end - data, len = answer_xdp(ctx, sound);
			if (len && bpf_xdp_adjust_tail(ctx, len - size) == 0) {
				count(ANSWERED);
				return XDP_TX;
			}
		}
		action = DROPPED;
	}
	if (action != REDIRECTED) {
		count(action);
		return action == DROPPED || action == NOT_ALLOWED ? XDP_DROP : XDP_PASS;
	}
	// XDP_PASS where the queue has no socket.
	int xdp = bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_PASS);
	count(xdp == XDP_REDIRECT ? REDIRECTED : NO_SOCKET);
	return xdp;
}

SEC("xdp")
int tpa_filter(struct xdp_md *ctx) { return filter(ctx, 0); }

SEC("xdp")
int tpa_filter_syn(struct xdp_md *ctx) { return filter(ctx, 1); }

// The headers of a packet, of whose data only some may lie in one piece.
struct head {
	__u16 align; // the IP header to 4 bytes
	struct eth_header eth;
	__u8 rest[sizeof(struct ipv6_header) + sizeof(struct tcp_header)];
};

static inline long load_headers(struct __sk_buff *skb, struct head *head, const __u32 ip)
{
	bpf_skb_load_bytes(skb, sizeof(head->eth) + ip, head->rest + ip, sizeof(struct tcp_header));
	return bpf_skb_load_bytes(skb, sizeof(head->eth), head->rest, ip);
}

static inline enum action classify_packet(struct __sk_buff *skb, union syn *syn)
{
	struct head head = {};
	if (skb->vlan_present) // the tag is not in the data any more
		return NOT_IP;
	if (bpf_skb_load_bytes(skb, 0, &head.eth, sizeof(head.eth)) < 0)
		return MALFORMED;
	// Where no whole TCP header follows, its ports stay 0, which nobody claims.
	if (head.eth.type == be16(0x0800)) {
		if (load_headers(skb, &head, sizeof(struct ipv4_header)) < 0)
			return MALFORMED;
	} else if (head.eth.type == be16(0x86dd)) {
		if (load_headers(skb, &head, sizeof(struct ipv6_header)) < 0)
			return MALFORMED;
	}
	enum action action = classify(&head.eth, &head + 1, syn);
	return action == FRAGMENT || action == IP_OPTIONS ? find_packet(skb, syn, action) : action;
}

SEC("socket")
int tpa_tap(struct __sk_buff *skb)
{
	union syn syn = {};
	return classify_packet(skb, &syn) == REDIRECTED ? skb->len : 0;
}

// answer_packet answers a SYN, or drops it.
static inline int answer_packet(struct __sk_buff *skb)
{
	__u32 sound;
	if (bpf_skb_pull_data(skb, skb->len) == 0 && (sound = check_packet(skb))) {
		__u32 len = answer_skb(skb, sound);
		if (len && bpf_skb_change_tail(skb, len, 0) == 0) {
			count(ANSWERED);
			return bpf_redirect(skb->ifindex, 0);
		}
	}
	count(DROPPED);
	return TCX_DROP;
}

SEC("tc")
int tpa_answer(struct __sk_buff *skb)
{
	union syn syn = {};
	if (!answered_behind())
		return TCX_NEXT;
	return classify_packet(skb, &syn) == ANSWERED ? answer_packet(skb) : TCX_NEXT;
}

static inline int ingress(struct __sk_buff *skb, const int answers)
{
	union syn syn = {};
	enum action action = classify_packet(skb, &syn);
	if (action == ANSWERED) {
		if (answers)
			return answer_packet(skb);
		action = DROPPED;
	}
	count(action);
	return action == REDIRECTED || action == DROPPED || action == NOT_ALLOWED ? TCX_DROP : TCX_NEXT;
}

SEC("tc")
int tpa_ingress(struct __sk_buff *skb) { return ingress(skb, 0); }

SEC("tc")
int tpa_ingress_syn(struct __sk_buff *skb) { return ingress(skb, 1); }
