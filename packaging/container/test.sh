#!/usr/bin/env bash
# Builds both images without a registry, from bases that mmdebstrap makes of this
# machine's Debian mirror and Go, and runs the one for AF_XDP: between two network
# namespaces, with the capabilities and limits of compose.yaml and no others. Root, 5 minutes.
#
# buildah builds with --isolation chroot, which needs no container engine and works
# inside a container. The build uses this machine's caches of modules and objects.
set -euo pipefail
cd "$(dirname "$0")/../.."
caps=(net_raw net_admin bpf perfmon)
work=$(mktemp -d)
server=tpa-image-s$$ client=tpa-image-c$$
export STORAGE_DRIVER=vfs STORAGE_OPTS='' BUILDAH_ISOLATION=chroot
store=(--root "$work/store" --runroot "$work/run")
pid=
cleanup() {
  [ -z "$pid" ] || kill "$pid" 2>/dev/null || :
  ip netns del "$server" 2>/dev/null || :
  ip netns del "$client" 2>/dev/null || :
  buildah "${store[@]}" rm --all >/dev/null 2>&1 || :
  rm -rf "$work"
}
trap cleanup EXIT
image() { buildah "${store[@]}" bud --isolation chroot --quiet "$@" >>"$work/log" 2>&1 || { tail -40 "$work/log"; return 1; }; }

echo "The bases, for debian:12-slim and golang:1.26-bookworm"
mmdebstrap --quiet --variant=minbase --include=ca-certificates bookworm "$work/base.tar"
tar -C "$(go env GOROOT)" --transform 's,^\.,usr/local/go,' -cf "$work/go.tar" .
printf 'FROM scratch\nADD base.tar /\n' >"$work/Dockerfile.debian"
printf 'FROM localhost/debian\nADD go.tar /\nENV GOMODCACHE=/go/mod GOCACHE=/go/cache PATH=/usr/local/go/bin:/usr/sbin:/usr/bin:/sbin:/bin\n' >"$work/Dockerfile.go"
image -t debian -f "$work/Dockerfile.debian" "$work"
image -t golang -f "$work/Dockerfile.go" "$work"
rm "$work"/*.tar

args=(--build-arg GO_IMAGE=localhost/golang --build-arg RUN_IMAGE=localhost/debian
  --volume "$(go env GOMODCACHE):/go/mod" --volume "$(go env GOCACHE):/go/cache"
  --volume /etc/ssl/certs:/etc/ssl/certs:ro)
echo "Dockerfile.dpdk"
image "${args[@]}" -t tpa-redis-dpdk -f packaging/container/Dockerfile.dpdk .
echo "Dockerfile"
image "${args[@]}" -t tpa-redis -f packaging/container/Dockerfile .

echo "A server in the image's root, with ${caps[*]}"
root=$(buildah "${store[@]}" mount "$(buildah "${store[@]}" from localhost/tpa-redis)")
ip netns add "$server"
ip netns add "$client"
ip link add eth0 netns "$server" type veth peer name eth0 netns "$client"
for n in "$server 10.0.0.2/24" "$client 10.0.0.1/24"; do
  set -- $n
  ip -n "$1" link set lo up
  ip -n "$1" addr add "$2" dev eth0
  ip -n "$1" link set eth0 up
done
# Where the limit of locked memory cannot be lifted, it takes one more.
(ulimit -l unlimited) 2>/dev/null || caps+=(ipc_lock)
keep=$(printf ',+%s' "${caps[@]}")
# chroot(8) needs a capability that the server must not have, and the image has no
# shell to drop it in: so the set is bounded first, and the root changed by mounts.
# /proc and /sys are there, as in a container of any engine.
TPA_DEV=xdp:eth0 TPA_FALLBACK=never ip netns exec "$server" \
  unshare --mount --propagation private sh -euc '
    ulimit -l unlimited 2>/dev/null || :
    mount --bind "$1" "$1"; cd "$1"; mkdir -p old proc sys
    mount -t proc proc proc; mount --bind /sys sys; pivot_root . old
    exec /old/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 --library-path /old/lib/x86_64-linux-gnu:/old/usr/lib/x86_64-linux-gnu \
      /old/usr/bin/setpriv --bounding-set="-all$2" --inh-caps=-all /server' \
  sh "$root" "$keep" >"$work/server.log" 2>&1 &
pid=$!
for _ in $(seq 100); do
  if answer=$(ip netns exec "$client" redis-cli -h 10.0.0.2 -p 6380 set greeting hello 2>&1) && [ "$answer" = OK ]; then break; fi
  kill -0 "$pid" 2>/dev/null || { cat "$work/server.log"; echo "The server ended"; exit 1; }
  sleep 0.1
done
[ "$answer" = OK ] || { cat "$work/server.log"; echo "redis-cli said: $answer"; exit 1; }
grep -q accelerating "$work/server.log" || { cat "$work/server.log"; echo "It is not accelerated"; exit 1; }
grep CapBnd "/proc/$pid/status"
echo "It answered over AF_XDP: $(grep -o 'mode="[^"]*"' "$work/server.log" | head -1)"
