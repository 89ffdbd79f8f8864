#!/usr/bin/python3
"""Writes frames that no host may take for what they pretend to be.

Reads from standard input, as JSON: the way of a connection (dst_mac, src_mac,
dst, src, dport, sport), where it stands (seq, ack: of the next segment), seed,
and pcap, the file to write. Prints a line for each frame: what is wrong with it.
Frames of one datagram have the same line, ending in "#" and a number. Lines that
begin with "ICMP:" are of those that a host may, by its RFC, report to the source
by an ICMP error; to all others silence is the answer.

The same input gives the same frames.
"""

import json
import random
import struct
import sys

from scapy.all import (AH, ARP, ICMP, IP, TCP, UDP, Dot1AD, Dot1Q, Ether, ICMPv6EchoRequest,
                       ICMPv6ND_NA, ICMPv6ND_NS, ICMPv6ND_RA, IPv6, IPv6ExtHdrDestOpt,
                       IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, IPv6ExtHdrRouting, Raw, RawPcapWriter,
                       conf, fuzz)

o = json.load(sys.stdin)
random.seed(o["seed"])
conf.verb = 0
v6 = ":" in o["dst"]

PAYLOAD = b"0123456789abcdef"
frames, lines = [], []


def add(line, frame):
    frames.append(bytes(frame))
    lines.append(line)


def ether(**kw):
    return Ether(dst=o["dst_mac"], src=o["src_mac"], **kw)


def ip(**kw):
    kw.setdefault("src", o["src"])
    kw.setdefault("dst", o["dst"])
    return IPv6(**kw) if v6 else IP(**kw)


def tcp(**kw):
    """The header of the next segment of the connection."""
    for k, v in dict(sport=o["sport"], dport=o["dport"], seq=o["seq"], ack=o["ack"], flags="PA", window=65535).items():
        kw.setdefault(k, v)
    return TCP(**kw)


def good(payload=PAYLOAD):
    return bytes(ether() / ip() / tcp() / Raw(payload))


def randbytes(n):
    return bytes(random.randrange(256) for _ in range(n))


AT_IP = 14
AT_TCP = AT_IP + (40 if v6 else 20)


def poke(frame, at, value):
    return frame[:at] + bytes(value) + frame[at + len(bytes(value)):]


def ones_sum(data):
    if len(data) % 2:
        data += b"\0"
    s = sum(struct.unpack("!%dH" % (len(data) // 2), data))
    while s >> 16:
        s = (s & 0xffff) + (s >> 16)
    return s


def fix_ip(frame):
    """Corrects the checksum of IPv4's header, as far as there is one."""
    size = (frame[AT_IP] & 15) * 4
    if v6 or size < 20 or len(frame) < AT_IP + size:
        return frame
    frame = poke(frame, AT_IP + 10, b"\0\0")
    return poke(frame, AT_IP + 10, struct.pack("!H", 0xffff ^ ones_sum(frame[AT_IP:AT_IP + size])))


def fix_tcp(frame):
    """Corrects the checksum of TCP behind a plain IP header."""
    segment = poke(frame[AT_TCP:], 16, b"\0\0")
    addrs = frame[AT_IP + 8:AT_IP + 40] if v6 else frame[AT_IP + 12:AT_IP + 20]
    check = 0xffff ^ ones_sum(addrs + struct.pack("!HH", 6, len(segment)) + segment)
    return poke(frame, AT_TCP + 16, struct.pack("!H", check))


def fix_length(frame):
    """Corrects the length in the IP header."""
    n = len(frame) - AT_IP
    if v6:
        return poke(frame, AT_IP + 4, struct.pack("!H", n - 40))
    return fix_ip(poke(frame, AT_IP + 2, struct.pack("!H", n)))


def spoil(frame, at):
    """Makes a right checksum a wrong one."""
    old, = struct.unpack("!H", frame[at:at + 2])
    return poke(frame, at, struct.pack("!H", old ^ random.randrange(1, 0xffff)))


def segment(header, payload=PAYLOAD):
    """A frame of which scapy has filled in nothing that contradicts its length."""
    return fix_tcp(fix_length(bytes(ether() / ip() / header / Raw(payload))))


# Ethernet

for n in range(20):
    tags = [Dot1Q(vlan=random.randrange(4095))]
    if n % 3 == 1:
        tags.insert(0, Dot1AD(vlan=random.randrange(4095)))
    if n % 3 == 2:
        tags *= random.randrange(2, 5)
    frame = ether()
    for tag in tags:
        frame /= tag
    add("Ethernet: VLAN", frame / ip() / tcp() / Raw(PAYLOAD))
for n in range(10):
    add("Ethernet: another station", poke(good(), 3, randbytes(2)))
for n in range(20):
    ether_type = random.choice([0x0801, 0x6003, 0x8035, 0x8137, 0x8847, 0x8848, 0x8863, 0x8864, 0x888e, 0x88f7, 0x9000, 0xffff])
    add("Ethernet: type %#x" % ether_type, poke(good(), 12, struct.pack("!H", ether_type)))
for n in range(5):
    add("Ethernet: a length for the type", poke(good(), 12, struct.pack("!H", random.randrange(1500))))
add("Ethernet: the type of the other IP version", poke(good(), 12, b"\x08\x00" if v6 else b"\x86\xdd"))
for n in range(25):
    add("Ethernet: cut off in the IP header", good()[:random.randrange(AT_IP, AT_TCP)])

# IP of both versions

for n in range(16):
    if n != (6 if v6 else 4):
        add("IP: version %d" % n, fix_ip(poke(good(), AT_IP, [n << 4 | (0 if v6 else 5)])))
for n in range(20):
    too_great = len(good()) - AT_IP - (40 if v6 else 0) + random.randrange(1, 20000)
    add("IP: length too great", fix_ip(poke(good(), AT_IP + (4 if v6 else 2), struct.pack("!H", too_great))))
for n in range(20):
    # Of 40 bytes of IPv6's payload, 36 are headers and data: none of these is right.
    too_small = random.randrange(20) if v6 else random.randrange(1, 40)
    add("IP: length too small", fix_ip(poke(good(), AT_IP + (4 if v6 else 2), struct.pack("!H", too_small))))
for src in (["ff02::1", "ff0e::1234", "::1", o["dst"]] if v6 else
            ["224.0.0.1", "239.1.2.3", "255.255.255.255", "127.0.0.1", "127.9.9.9", o["dst"]]):
    add("IP: source %s" % src, ether() / ip(src=src) / tcp() / Raw(PAYLOAD))
    add("IP: source %s, SYN" % src, ether() / ip(src=src) / tcp(flags="S"))
for n in range(10):
    dst = "fd99:1::%x" % random.randrange(0x100, 0xffff) if v6 else "10.99.1.%d" % random.randrange(100, 250)
    add("IP: another host's address", ether() / ip(dst=dst) / tcp() / Raw(PAYLOAD))

# TCP

for n in range(120):
    header = fuzz(TCP(sport=o["sport"], dport=o["dport"], dataofs=5 + n % 11))
    frame = segment(header, randbytes(random.randrange(64)))
    add("TCP: fuzz() with a wrong checksum", spoil(frame, AT_TCP + 16))
for n in range(30):
    frame = poke(good(), len(good()) - 1 - n % len(PAYLOAD), randbytes(1))
    if frame != good():
        add("TCP: payload changed", frame)
for n in range(5):
    add("TCP: data offset %d" % n, fix_tcp(poke(good(), AT_TCP + 12, [n << 4])))
for n in range(10, 16):
    add("TCP: data offset %d" % n, fix_tcp(poke(good(), AT_TCP + 12, [n << 4])))
for n in range(1, 20):
    add("TCP: cut off", fix_length(good()[:AT_TCP + n]))
for n in range(100):
    # A segment that is neither SYN, ACK nor RST is dropped in every state, whatever
    # its options: but they are read before that is seen.
    options = randbytes(4 * random.randrange(1, 11))
    if n % 3 == 0:  # kinds that exist, with lengths that do not
        options = bytes(b for _ in range(20) for b in (random.choice([2, 3, 4, 5, 8, 19, 30, 34]), random.choice([0, 1, 2, 3, 40, 255])))
    header = bytes(tcp(flags=0, dataofs=5))[:12] + bytes([(5 + len(options) // 4) << 4, random.choice([0, 1, 8, 9, 0x20, 0x29])]) + struct.pack("!HHH", 65535, 0, 0)
    frame = fix_tcp(fix_length(bytes(ether() / ip(nh=6) if v6 else ether() / ip(proto=6)) + header + options + PAYLOAD))
    if n % 2:  # to the listener instead
        frame = fix_tcp(poke(frame, AT_TCP, struct.pack("!H", o["sport"] ^ 1)))
    add("TCP: option garbage", frame)
for n in range(20):
    options = randbytes(40)
    header = bytes(tcp(dataofs=15))[:12] + bytes([15 << 4, 4]) + struct.pack("!HHH", 65535, 0, 0)
    frame = bytes(ether() / ip(nh=6) if v6 else ether() / ip(proto=6)) + header + options
    frame = poke(frame, AT_TCP + 4, struct.pack("!I", (o["seq"] + random.randrange(1 << 30, 1 << 31)) % (1 << 32)))
    add("TCP: reset beyond the window, option garbage", fix_tcp(fix_length(frame)))
for n in range(20):
    payload = randbytes(random.randrange(1461, 2800))
    add("TCP: jumbo frame with a wrong checksum", spoil(segment(tcp(), payload), AT_TCP + 16))

# Neighbours of TCP. Whoever has no UDP does not look at its checksum.

if v6:
    for n in range(30):
        message = random.choice([ICMPv6EchoRequest(data=randbytes(20)), ICMPv6ND_NS(tgt=o["dst"]), ICMPv6ND_NA(tgt=o["src"]), ICMPv6ND_RA()])
        frame = bytes(ether() / ip(hlim=255) / message)
        add("checksum of ICMPv6: wrong checksum", spoil(frame, AT_TCP + 2))
    for n in range(10):
        add("ICMPv6: neighbour discovery from beyond a router", ether() / ip(hlim=random.randrange(1, 255)) / ICMPv6ND_NS(tgt=o["dst"]))
else:
    for n in range(30):
        frame = bytes(ether() / ip() / ICMP(type=random.choice([0, 3, 4, 5, 8, 11, 12]), code=0) / Raw(randbytes(28)))
        add("checksum of ICMP: wrong checksum", spoil(frame, AT_TCP + 2))
    for n in range(30):
        arp = bytearray(bytes(ether() / ARP(op=1, psrc=o["src"], pdst=o["dst"])))
        # Anything but Ethernet and IPv4, with addresses of their lengths.
        i = random.randrange(6)
        arp[14 + i] ^= random.randrange(1, 256)
        add("ARP: for another kind of network", arp)
    for n in range(10):
        add("ARP: cut off", bytes(ether() / ARP(op=1, psrc=o["src"], pdst=o["dst"]))[:14 + random.randrange(28)])
for n in range(10):
    frame = bytes(ether() / ip() / UDP(sport=1, dport=random.randrange(1, 65536)) / Raw(randbytes(20)))
    add("ICMP: UDP: wrong checksum", spoil(frame, AT_TCP + 6))
for n in range(10):
    frame = bytes(ether() / ip() / UDP(sport=1, dport=7, chksum=1) / Raw(randbytes(20)))
    add("ICMP: UDP: wrong length", poke(frame, AT_TCP + 4, struct.pack("!H", random.choice([0, 1, 7, 29, 1000, 65535]))))

datagram = 0


def pieces(line, parts, whole=True):
    """Adds the fragments of one datagram: (offset, more, bytes)."""
    global datagram
    datagram += 1
    for offset, more, data in parts:
        if v6:
            packet = IPv6ExtHdrFragment(id=datagram, offset=offset // 8, m=more, nh=6)
        frame = ether() / ip(nh=44) / packet / Raw(data) if v6 else \
            ether() / ip(id=datagram, flags="MF" if more else 0, frag=offset // 8, proto=6) / Raw(data)
        add("%s #%d" % (line, datagram), frame)


whole = good(randbytes(44))[AT_TCP:]  # 64 bytes, with the right checksum
for n in range(20):
    at = random.choice([8, 16, 24, 32, 40])
    pieces("fragments: overlap", [(0, 1, whole[:48]), (at, 0, whole[at:])])
for n in range(5):
    pieces("fragments: one inside another", [(0, 1, whole[:48]), (8, 1, b"\xff" * 8)])
for n in range(20):
    pieces("ICMP: fragment: not a multiple of 8 bytes", [(8 * n, 1, randbytes(8 * random.randrange(1, 8) + random.randrange(1, 8)))])
for n in range(10):
    pieces("ICMP: fragment: beyond 64 KB", [(65528 - 8 * n, 0, randbytes(8 * n + 9 + random.randrange(100)))])
for n in range(10):
    pieces("ICMP: fragment: more to come beyond 64 KB", [(65528 - 8 * (n % 2), 1, randbytes(24))])

if v6:
    for n in range(40):
        # Options of kinds 01xxxxxx: a host that does not know them drops the packet.
        header = random.choice([IPv6ExtHdrHopByHop, IPv6ExtHdrDestOpt])
        options = bytes([0x40 | random.randrange(0x40), 4]) + randbytes(4)
        raw = bytes([6, 0]) + options
        nh = 0 if header is IPv6ExtHdrHopByHop else 60
        add("extension header: an option that drops", ether() / ip(nh=nh) / Raw(raw + bytes(tcp()) + PAYLOAD))
    for n in range(40):
        nh = random.choice([0, 43, 60])
        raw = bytes([6, random.randrange(8, 256)]) + randbytes(6)
        add("ICMP: extension header: longer than the packet", ether() / ip(nh=nh) / Raw(raw + bytes(tcp()) + PAYLOAD))
    for n in range(20):
        raw = bytes([6, 0]) + bytes([random.choice([1, 5, 0xc2]), random.randrange(5, 256)]) + randbytes(4)
        add("ICMP: extension header: an option longer than it", ether() / ip(nh=random.choice([0, 60])) / Raw(raw + bytes(tcp()) + PAYLOAD))
    for n in range(20):
        add("ICMP: extension header: routing, with segments left",
            ether() / ip() / IPv6ExtHdrRouting(type=random.choice([0, 1, 3, 200]), segleft=1, addresses=[o["src"]]) / tcp() / Raw(PAYLOAD))
    for n in range(10):
        add("ICMP: extension header: hop-by-hop behind another",
            ether() / ip() / IPv6ExtHdrDestOpt() / IPv6ExtHdrHopByHop() / tcp() / Raw(PAYLOAD))
    for n in range(10):
        raw = bytes([60, 0, 1, 4, 0, 0, 0, 0]) * random.randrange(20, 60)
        frame = ether() / ip(nh=60) / Raw(raw + bytes([59, 0, 1, 4, 0, 0, 0, 0]) + bytes(tcp()) + PAYLOAD)
        add("extension header: many, and nothing behind them", frame)
    for n in range(10):
        # RFC 2675: a jumbogram's length is at least 65536, and IPv6's then 0.
        raw = bytes([6, 0, 0xc2, 4]) + struct.pack("!I", random.choice([0, 100, 65535, 65536, 1 << 31]))
        add("ICMP: jumbogram", ether() / ip(nh=0, plen=random.choice([0, None])) / Raw(raw + bytes(tcp()) + PAYLOAD))
    for n in range(10):
        add("ICMP: authentication header", ether() / ip() / AH(payloadlen=4, spi=n, icv=randbytes(12)) / tcp() / Raw(PAYLOAD))
    for n in range(20):
        frame = bytes(ether() / fuzz(IPv6(src=o["src"], dst=o["dst"], version=6, nh=6, plen=20 + len(PAYLOAD))) / tcp() / Raw(PAYLOAD))
        add("IPv6: fuzz() with a wrong checksum", spoil(fix_tcp(frame), AT_TCP + 16))
else:
    for n in range(60):
        frame = bytes(ether() / fuzz(IP(src=o["src"], dst=o["dst"], version=4, ihl=5, frag=0, flags=0)) / tcp() / Raw(PAYLOAD))
        add("IPv4: fuzz() with a wrong checksum", spoil(fix_length(frame), AT_IP + 10))
    for n in range(5):
        add("IPv4: header of %d bytes" % (4 * n), poke(good(), AT_IP, [0x40 | n]))
    for n in range(5):
        add("IPv4: header longer than the packet", poke(good(), AT_IP, [0x4f])[:AT_IP + 20 + 4 * n])
    for n in range(40):
        # Options that run out of their room, or that are too short for what they are.
        kind = random.choice([7, 68, 148, 130, 131, 137, random.randrange(2, 256)])
        options = bytes([kind, random.choice([0, 1, 41, 255])]) + randbytes(2 + 4 * random.randrange(9))
        frame = bytes(ether() / ip(proto=6)) + options + bytes(tcp()) + PAYLOAD
        frame = poke(frame, AT_IP, [0x45 + len(options) // 4])
        add("ICMP: IPv4: option of a wrong length", fix_length(frame))

pcap = RawPcapWriter(o["pcap"], linktype=1)
pcap.write_header(None)
for f in frames:
    pcap.write_packet(f, sec=0, usec=0)
pcap.close()
print("\n".join(lines))
