//go:build ignore

// The filter decides, frame by frame, whether the kernel or a socket of this
// process gets it. A frame is ours when all of this holds:
//
//   - it is Ethernet to a unicast address, without a VLAN tag,
//   - carrying IPv4 without options and not a fragment, or IPv6 without extension
//     headers,
//   - carrying TCP to a local address in `addrs`,
//   - to a port that `ports` marks as claimed for that address.
//
// `flows` has exceptions in both directions: flows that the kernel keeps at
// claimed ports, and flows that stay ours at ports that are claimed no more.
//
// All else, and whatever does not parse, is passed on unchanged.
//
// There are three programs around that one decision. tpa_filter runs as XDP and
// hands our frames to AF_XDP sockets. Where the interface's XDP is in use, the
// other two do its work: tpa_tap is the socket filter of a packet socket, which
// gets a copy of our frames, and tpa_ingress, right behind it, keeps the kernel
// from seeing them, too.
//
// The file includes no headers: what it needs of the kernel's interface is below,
// so that the object depends on the compiler alone.

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;

#define SEC(name) __attribute__((section(name), used))
#define inline inline __attribute__((always_inline))
#define uint_attr(name, val) int(*name)[val]
#define type_attr(name, val) typeof(val) *name

// From linux/bpf.h.
enum { XDP_PASS = 2, XDP_REDIRECT = 4 };
enum { TCX_NEXT = -1, TCX_DROP = 2 };
enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_XSKMAP = 17,
};
enum { BPF_F_NO_PREALLOC = 1 };
struct xdp_md {
	__u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex;
};
struct __sk_buff {
	__u32 len, pkt_type, mark, queue_mapping, protocol, vlan_present;
};
static void *(*bpf_map_lookup_elem)(void *map, const void *key) = (void *)1;
static long (*bpf_skb_load_bytes)(const void *skb, __u32 offset, void *to, __u32 len) = (void *)26;
static long (*bpf_redirect_map)(void *map, __u64 key, __u64 flags) = (void *)51;

#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
#define be16(x) __builtin_bswap16(x)
#define be32(x) __builtin_bswap32(x)
#else
#define be16(x) (x)
#define be32(x) (x)
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
enum { ROWS = 64, WORDS = 65536 / 64, MAX_FLOWS = 65536, MAX_QUEUES = 256 };

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

// sockets has the socket of each receive queue.
struct {
	uint_attr(type, BPF_MAP_TYPE_XSKMAP);
	uint_attr(max_entries, MAX_QUEUES);
	type_attr(key, __u32);
	type_attr(value, __u32);
} sockets SEC(".maps");

// The order is that of Verdicts in filter.go.
enum verdict {
	REDIRECTED,
	NO_SOCKET,
	NOT_IP,
	NOT_TCP,
	FRAGMENT,
	IP_OPTIONS,
	MALFORMED,
	OTHER_ADDRESS,
	OTHER_PORT,
	VERDICTS,
};

// verdicts counts frames.
struct {
	uint_attr(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	uint_attr(max_entries, VERDICTS);
	type_attr(key, __u32);
	type_attr(value, __u64);
} verdicts SEC(".maps");

static inline void count(__u32 verdict)
{
	__u64 *n = bpf_map_lookup_elem(&verdicts, &verdict);
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

// classify returns REDIRECTED for a frame that is ours.
static inline enum verdict classify(void *data, void *end)
{
	struct flow flow = {};
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
		if (ip->version_ihl != 0x45)
			return ip->version_ihl >> 4 == 4 ? IP_OPTIONS : MALFORMED;
		if (ip->fragment & be16(0x3fff)) // more fragments, or an offset
			return FRAGMENT;
		map_ipv4(&flow.local, ip->dst);
		map_ipv4(&flow.remote, ip->src);
		tcp = (void *)(ip + 1);
	} else if (eth->type == be16(0x86dd)) {
		struct ipv6_header *ip = (void *)(eth + 1);
		if ((void *)(ip + 1) > end)
			return MALFORMED;
		switch (ip->next) {
		case 6:
			break;
		case 44:
			return FRAGMENT;
		case 0: // hop-by-hop
		case 43: // routing
		case 51: // authentication
		case 60: // destination options
			return IP_OPTIONS;
		default:
			return NOT_TCP;
		}
		if ((ip->version_class_flow & be32(0xf0000000)) != be32(0x60000000))
			return MALFORMED;
		__builtin_memcpy(&flow.local, ip->dst, sizeof(flow.local));
		__builtin_memcpy(&flow.remote, ip->src, sizeof(flow.remote));
		tcp = (void *)(ip + 1);
	} else {
		return NOT_IP;
	}

	if ((void *)(tcp + 1) > end)
		return MALFORMED;

	__u32 *row = bpf_map_lookup_elem(&addrs, &flow.local);
	if (!row)
		return OTHER_ADDRESS;
	__u32 port = be16(tcp->dst);
	__u32 index = *row * WORDS + port / 64;
	struct port_word *word = bpf_map_lookup_elem(&ports, &index);
	if (!word)
		return OTHER_PORT;
	__u64 bit = 1ULL << port % 64;
	int ours = (word->claimed & bit) != 0;
	if (word->mixed & bit) {
		flow.local_port = tcp->dst;
		flow.remote_port = tcp->src;
		__u8 *owner = bpf_map_lookup_elem(&flows, &flow);
		if (owner)
			ours = *owner == OURS;
	}
	return ours ? REDIRECTED : OTHER_PORT;
}

SEC("xdp")
int tpa_filter(struct xdp_md *ctx)
{
	enum verdict verdict = classify((void *)(long)ctx->data, (void *)(long)ctx->data_end);
	if (verdict != REDIRECTED) {
		count(verdict);
		return XDP_PASS;
	}
	// XDP_PASS where the queue has no socket.
	int action = bpf_redirect_map(&sockets, ctx->rx_queue_index, XDP_PASS);
	count(action == XDP_REDIRECT ? REDIRECTED : NO_SOCKET);
	return action;
}

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

static inline enum verdict classify_packet(struct __sk_buff *skb)
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
	return classify(&head.eth, &head + 1);
}

SEC("socket")
int tpa_tap(struct __sk_buff *skb)
{
	return classify_packet(skb) == REDIRECTED ? skb->len : 0;
}

SEC("tc")
int tpa_ingress(struct __sk_buff *skb)
{
	enum verdict verdict = classify_packet(skb);
	count(verdict);
	return verdict == REDIRECTED ? TCX_DROP : TCX_NEXT;
}
