#!/bin/sh
# compare.sh COMMIT: how many names each public package exported at a commit, how many it
# exports now (testdata), and how many of them it had then, as a table. A name is a
# constant, variable, function, type, method, or field of a struct.
set -eu
cd "$(dirname "$0")/../.."
before=$(mktemp -d)
trap 'git worktree remove --force "$before/tree" 2>/dev/null || true; rm -rf "$before"' EXIT
git worktree add -q --detach "$before/tree" "$1"
rm -rf "$before/tree/test/api"
mkdir -p "$before/tree/test/api/testdata"
cp test/api/*.go test/api/exceptions.txt "$before/tree/test/api/"
(cd "$before/tree" && go test ./test/api -run TestGolden -update >/dev/null)

# names FILE: one name a line, without its type.
names() {
	[ -f "$1" ] || return 0
	sed -E 's/^(const|var|func|type) ([A-Za-z0-9_]+)((: )(field|method|embeds|func) *(\([^)]*\) )?([*A-Za-z0-9_.\/]+))?.*/\2 \7/' "$1" | LC_ALL=C sort -u
}
echo '| Package | Names before | Now | Kept | Gone | New |'
echo '|---|---|---|---|---|---|'
for p in $( (cd test/api/testdata && find . -name '*.txt'; cd "$before/tree/test/api/testdata" && find . -name '*.txt') | sort -u); do
	names "$before/tree/test/api/testdata/$p" >"$before/a"
	names "test/api/testdata/$p" >"$before/b"
	kept=$(LC_ALL=C comm -12 "$before/a" "$before/b" | wc -l)
	a=$(wc -l <"$before/a") b=$(wc -l <"$before/b")
	p=${p#./}
	echo "| ${p%.txt} | $a | $b | $kept | $((a - kept)) | $((b - kept)) |"
done
