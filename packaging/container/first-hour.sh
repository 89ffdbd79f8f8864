#!/usr/bin/env bash
# The first hour of a new user: a fresh Debian 12, from nothing to a container that is
# served by AF_XDP. It prints the transcript in docs/first-hour.md: each command, and
# what it said. `first-hour.sh --check FILE` compares it with the page, line by line,
# figures and names of the machine aside. Root, 5 minutes.
#
# The fresh Debian is a root that mmdebstrap makes of this machine's package mirror.
# What needs more of the Internet is taken from this machine, and marked in the
# transcript: Go, the clone, the modules and the base image.
set -euo pipefail
cd "$(dirname "$0")/../.."
repository=$PWD
check=
[ "${1-}" != --check ] || check=$2
work=$(mktemp -d)
root=$work/root
cleanup() {
  [ ! -s "$work/server.pid" ] || kill "$(cat "$work/server.pid")" 2>/dev/null || :
  for n in tpa-server tpa-client; do [ ! -e "$root/run/netns/$n" ] || inside "ip netns del $n" >/dev/null 2>&1 || :; done
  umount -R -l "$root" 2>/dev/null || :
  # What is mounted below is this machine's: then nothing is removed.
  if grep -q " $root/" /proc/self/mounts; then echo "still mounted: $root" >&2; else rm -rf "$work"; fi
}
trap cleanup EXIT

# inside runs a line in the fresh Debian, as root.
inside() {
  env -i HOME=/srv LANG=C.UTF-8 PATH=/usr/local/go/bin:/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive \
    ${http_proxy:+http_proxy="$http_proxy"} ${https_proxy:+https_proxy="$https_proxy"} GOPROXY=off \
    GOMODCACHE=/go/mod GOCACHE=/go/cache GOTOOLCHAIN=local STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot \
    chroot "$root" bash -c "cd ~/tpa 2>/dev/null || cd; $1"
}
say() { printf '%s\n' "$*" | tee -a "$work/transcript"; }
# run shows a command and what it says; with a second argument, only the lines that
# match, with a third, another command in its place.
run() {
  say "    \$ ${3-$1}"
  if ! inside "$1" >"$work/out" 2>&1; then
    sed 's/^/    /' "$work/out"
    echo "failed: $1" >&2
    exit 1
  fi
  { grep -E "${2:-.}" "$work/out" || :; } | cut -c1-170 | sed 's/^/    /; s/ *$//' | tee -a "$work/transcript"
}
# instead does on this machine what a newcomer fetches, and says so.
instead() { say "    \$ $1      # here: $2"; }

mmdebstrap --quiet --variant=minbase --include=ca-certificates bookworm "$root" >"$work/log" 2>&1 || { tail "$work/log"; exit 1; }
cp /etc/resolv.conf "$root/etc/resolv.conf"
mount --bind "$root" "$root" # ip wants its root to be a mount
mkdir -p "$root"/{go/mod,go/cache,src/modules}
mount --rbind /dev "$root/dev"; mount --make-rslave "$root/dev"
mount -t proc proc "$root/proc"
mount -t sysfs sysfs "$root/sys"
mount -t tmpfs tmpfs "$root/run"

say "## 1. What has to be there"
say ""
run "cat /etc/debian_version; id -un"
run "apt-get update -qq && apt-get install -y -qq --no-install-recommends git make iproute2 redis-tools iputils-ping buildah >/dev/null" 'not there'
run "dpkg -l buildah redis-tools | grep ^ii | awk '{print \$2, \$3}'"
instead "curl -sL https://go.dev/dl/go1.26.3.linux-amd64.tar.gz | tar -C /usr/local -xz" "this machine's Go"
mkdir -p "$root/usr/local/go"
tar -C "$(go env GOROOT)" -cf - . | tar -C "$root/usr/local/go" -xf -
run "go version"
instead "git clone https://github.com/gotpa/tpa && cd tpa" "a clone of this folder"
git clone --quiet --no-hardlinks "$repository" "$root/srv/tpa"
mount --bind "$(go env GOMODCACHE)/cache/download" "$root/src/modules"
inside "GOPROXY=file:///src/modules go mod download"
umount "$root/src/modules"

say ""
say "## 2. Does it fit this machine?"
say ""
run "CGO_ENABLED=0 go build -o bin/ ./cmd/tpa-bench ./examples/redis && ls bin"
run "bin/tpa-bench doctor" '^(✓|!|✗|Best|Use)'

say ""
say "## 3. Two hosts, as network namespaces"
say ""
run "ip netns add tpa-server && ip netns add tpa-client"
run "ip link add veth0 netns tpa-server type veth peer name veth1 netns tpa-client"
run "ip -n tpa-server addr add 10.0.0.2/24 dev veth0 && ip -n tpa-server link set veth0 up && ip -n tpa-server link set lo up"
run "ip -n tpa-client addr add 10.0.0.1/24 dev veth1 && ip -n tpa-client link set veth1 up"

say ""
say "## 4. The image"
say ""
instead "docker.io/library/golang:1.26-bookworm" "this Debian with Go, as localhost/golang"
tar -C "$root" --one-file-system --exclude=./srv --exclude=./go --exclude=./var/lib/apt --exclude=./var/cache -cf "$work/base.tar" .
mv "$work/base.tar" "$root/src/base.tar"
printf 'FROM scratch\nADD base.tar /\nENV GOMODCACHE=/go/mod GOCACHE=/go/cache PATH=/usr/local/go/bin:/usr/sbin:/usr/bin:/sbin:/bin\n' >"$root/src/Dockerfile"
inside "buildah bud --quiet -t golang -f /src/Dockerfile /src" >"$work/out" 2>&1 || { tail -20 "$work/out"; exit 1; }
rm "$root/src/base.tar"
run "buildah bud --quiet --build-arg GO_IMAGE=localhost/golang --build-arg GOPROXY=off --volume /go/mod:/go/mod --volume /go/cache:/go/cache -f packaging/container/Dockerfile -t tpa-redis . >/dev/null" . \
  "buildah bud -f packaging/container/Dockerfile -t tpa-redis .      # here: with that base, and the modules that the clone's build has fetched"
run "buildah images --format '{{.Name}} {{.Size}}' tpa-redis"

say ""
say "## 5. A container served by AF_XDP"
say ""
say "An engine starts it with the four capabilities of compose.yaml. Here is none: the image's root is mounted, and setpriv keeps those,"
say "and cap_ipc_lock where the limit of locked memory cannot be lifted."
say ""
run "ln -sfn \$(buildah mount \$(buildah from localhost/tpa-redis)) /src/image && ls /src/image/server"
say "    \$ TPA_DEV=xdp:veth0 … ip netns exec tpa-server setpriv … /server &      # the image's"
# chroot(8) needs a capability that the server must not have, and the image has no
# shell to drop it in: the set is bounded first, and the root changed by mounts.
# Where the limit of locked memory cannot be lifted, it takes one more.
keep=+net_raw,+net_admin,+bpf,+perfmon
(ulimit -l unlimited) 2>/dev/null || keep+=,+ipc_lock
inside 'TPA_DEV=xdp:veth0 TPA_FALLBACK=never TPA_SOCKET=/run/tpa/server.sock ip netns exec tpa-server \
  unshare --mount --propagation private sh -euc '"'"'
    ulimit -l unlimited 2>/dev/null || :
    image=$(readlink -f /src/image); mount --bind "$image" "$image"; mkdir -p "$image/old" "$image/proc" "$image/sys" "$image/run/tpa"
    mount -t proc proc "$image/proc"; mount --bind /sys "$image/sys"; mkdir -p /run/tpa; mount --bind /run/tpa "$image/run/tpa"
    cd "$image"; pivot_root . old
    exec /old/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2 --library-path /old/lib/x86_64-linux-gnu:/old/usr/lib/x86_64-linux-gnu \
      /old/usr/bin/setpriv --bounding-set="-all,'"$keep"'" --inh-caps=-all /server'"'"' & echo $! >/run/server.pid; wait' \
  >"$work/server.log" 2>&1 &
for _ in $(seq 300); do
  ! grep -q 'serving' "$work/server.log" || break
  sleep 0.1
done
cp "$root/run/server.pid" "$work/server.pid" 2>/dev/null || :
grep -q accelerating "$work/server.log" || { cat "$work/server.log"; echo "It is not accelerated" >&2; exit 1; }
grep -oE '(msg=accelerating|accelerating).*mode="[^"]*"|serving .*' "$work/server.log" | sed 's/^/    /' | tee -a "$work/transcript"
run "ip netns exec tpa-client redis-cli -h 10.0.0.2 -p 6380 set greeting hello"
run "ip netns exec tpa-client redis-cli -h 10.0.0.2 -p 6380 get greeting"
run "ip netns exec tpa-client ping -c 1 10.0.0.2" "received"
run "grep CapBnd /proc/\$(cat /run/server.pid)/status"
run "TPA_SOCKET=/run/tpa/server.sock bin/tpa-bench sockets"

[ -n "$check" ] || exit 0
# Figures, versions and what depends on the machine are no part of the comparison.
form() { sed -E 's/[0-9]+([.:][0-9]+)*(~deb[0-9a-z+]*)?/N/g; s/ +/ /g; s/[+~-][0-9a-zN.+~-]+//g; /^ (✓|!|✗|so:|fix:|Best|Use)/d' | grep -v '^ *$'; }
sed '1,/<!-- transcript -->/d' "$check" | form >"$work/want"
form <"$work/transcript" >"$work/got"
diff -u "$work/want" "$work/got" || { echo "$check is not what happened" >&2; exit 1; }
