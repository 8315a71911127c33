#!/bin/bash
# Installs what the tests need on Debian 12: packages with apt, and a few Go programs into
# ${REGISTRYFS_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/registryfs-tests}/bin.
#
#   tests/install-tools.sh            install what is missing (nothing to do: well under a second)
#   tests/install-tools.sh --check    say what is missing, install nothing; exit status 1 if anything is
#
# Safe to run again at any time. Needs root only when a package is missing. Where the distribution's Go is too old
# for the Go programs, a newer toolchain is fetched as an ordinary Go module and kept in the cache.
set -euo pipefail
export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

HERE=$(cd "$(dirname "$0")" && pwd)
CACHE=${REGISTRYFS_TEST_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/registryfs-tests}
BIN=$CACHE/bin
GO_MIN=1.26          # what the programs below need
GO_FETCH=1.26.8      # what is fetched when the Go at hand is older

# command:package; a path instead of a command is tested for existence
PACKAGES='docker-registry:docker-registry skopeo:skopeo umoci:umoci podman:podman buildah:buildah crun:crun
	rsync:rsync jq:jq getfattr:attr setfacl:acl getcap:libcap2-bin fusermount3:fuse3 zstd:zstd xz:xz-utils debootstrap:debootstrap
	busybox:busybox-static curl:curl openssl:openssl htpasswd:apache2-utils fio:fio git:git
	fsck.erofs:erofs-utils ip:iproute2 gcc:gcc /usr/include/zlib.h:zlib1g-dev
	groff:groff-base mandoc:mandoc python3:python3 /usr/lib/python3/dist-packages/pytest:python3-pytest
	/etc/ssl/certs/ca-certificates.crt:ca-certificates'

# name package@version
GO_TOOLS='distribution3 github.com/distribution/distribution/v3/cmd/registry@v3.1.2
ggcr-registry github.com/google/go-containerregistry/cmd/registry@v0.22.1
crane github.com/google/go-containerregistry/cmd/crane@v0.22.1
token-server github.com/docker/distribution/contrib/token-server@v2.8.3+incompatible
referrers-registry ./servers/referrers
toctool ./fixtures/toctool
socitool ./fixtures/socitool'      # folders of ours, with a go.mod of their own

say() { printf 'install-tools: %s\n' "$*"; }
die() { say "$*" >&2; exit 1; }

missing_packages() {
	local entry what
	for entry in $PACKAGES; do
		what=${entry%%:*}
		case $what in
		/*) [ -e "$what" ] ;;
		*) command -v "$what" >/dev/null ;;
		esac || printf '%s\n' "${entry#*:}"
	done
}

# What the stamp beside a tool says: the version, or the digest of our own sources.
version_of() {
	case $1 in
	./*) cat "$HERE/$1/main.go" "$HERE/$1/go.mod" "$HERE/$1/go.sum" | sha256sum ;;
	*) printf '%s\n' "$1" ;;
	esac
}

missing_go_tools() {
	local name pkg
	while read -r name pkg; do
		[ -x "$BIN/$name" ] && [ "$(cat "$BIN/.$name.version" 2>/dev/null)" = "$(version_of "$pkg")" ] ||
			printf '%s\n' "$name"
	done <<<"$GO_TOOLS"
}

apt_install() {
	local policy=/usr/sbin/policy-rc.d made= rc=0
	[ "$(id -u)" = 0 ] || die "missing: $*; run this as root once"
	# docker-registry's package would start a service on port 5000; the tests run their own servers.
	if [ ! -e "$policy" ]; then
		printf '#!/bin/sh\nexit 101\n' >"$policy"
		chmod 755 "$policy"
		made=1
	fi
	DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 -qq -y install --no-install-recommends "$@" \
		>"$CACHE/apt.log" 2>&1 </dev/null || rc=$?
	[ -z "$made" ] || rm -f "$policy"
	return $rc
}

install_packages() {
	say "apt: $*"
	if ! apt_install "$@"; then
		say "apt: once more, with fresh lists"
		apt-get -o DPkg::Lock::Timeout=600 -qq update >"$CACHE/apt.log" 2>&1 || :
		apt_install "$@" || { tail -n 20 "$CACHE/apt.log" >&2; die "apt could not install: $*"; }
	fi
}

go_is_new() {
	local have
	have=$("$1" env GOVERSION 2>/dev/null) || return 1
	have=${have#go}
	[ "$(printf '%s\n%s\n' "$GO_MIN" "${have%%[- ]*}" | sort -V | head -n 1)" = "$GO_MIN" ]
}

# Sets GO to a new enough go command.
find_go() {
	local old arch dir
	GO=$CACHE/go/bin/go
	go_is_new "$GO" && return 0
	old=$(command -v go || :)
	if [ -n "$old" ] && go_is_new "$old"; then
		GO=$old
		return 0
	fi
	[ -n "$old" ] || { install_packages golang-go; old=$(command -v go); }
	arch=$(dpkg --print-architecture)
	say "go: $("$old" env GOVERSION) is older than $GO_MIN, fetching $GO_FETCH as a module"
	# The module holds the toolchain's tree, without execute bits and with go.mod files renamed to _go.mod.
	dir=$(cd "$CACHE" && GOFLAGS=-modcacherw GO111MODULE=on "$old" mod download -json \
		"golang.org/toolchain@v0.0.1-go$GO_FETCH.linux-$arch" | sed -n 's/^\t"Dir": "\(.*\)",*$/\1/p')
	[ -d "$dir" ] || die "the Go toolchain could not be fetched"
	rm -rf "$CACHE/go.part" "$CACHE/go"
	cp -r --no-preserve=mode "$dir" "$CACHE/go.part"
	find "$CACHE/go.part" -name _go.mod -execdir mv _go.mod go.mod \;
	chmod -R +x "$CACHE/go.part/bin" "$CACHE/go.part/pkg/tool"
	mv "$CACHE/go.part" "$CACHE/go"
	go_is_new "$GO" || die "the fetched Go toolchain does not run"
}

go_install() { # PACKAGE DIR
	local pkg=$1 cgo=0
	case $pkg in
	./fixtures/socitool) cgo=1 ;;&
	./*) cd "$HERE/$pkg" || return; pkg=. ;;
	esac
	env -u GOROOT GOBIN="$2" GOFLAGS=-modcacherw GOTOOLCHAIN=local CGO_ENABLED=$cgo "$GO" install "$pkg"
}

build_go_tools() {
	local name pkg out
	find_go
	mkdir -p "$BIN"
	for name; do
		pkg=$(awk -v n="$name" '$1 == n { print $2 }' <<<"$GO_TOOLS")
		say "go: building $name ($pkg)"
		out=$(mktemp -d "$CACHE/gobin.XXXXXX")
		(go_install "$pkg" "$out") \
			>"$CACHE/go.log" 2>&1 || { tail -n 20 "$CACHE/go.log" >&2; die "could not build $name"; }
		mv "$out"/* "$BIN/$name"
		rmdir "$out"
		version_of "$pkg" >"$BIN/.$name.version"
	done
}

# mapfile, so that an empty answer is an empty list
mapfile -t packages < <(missing_packages)
mapfile -t tools < <(missing_go_tools)
if [ "${#packages[@]}" -eq 0 ] && [ "${#tools[@]}" -eq 0 ]; then
	say "everything is there (Go tools in $BIN)"
	exit 0
fi
case ${1-} in
--check) die "missing: ${packages[*]} ${tools[*]}" ;;
'') ;;
*) die "usage: ${0##*/} [--check]" ;;
esac

mkdir -p "$CACHE"
exec 9>"$CACHE/.install-lock"      # two at once would build everything twice
flock 9
mapfile -t packages < <(missing_packages)
mapfile -t tools < <(missing_go_tools)
[ "${#packages[@]}" -eq 0 ] || install_packages "${packages[@]}"
[ "${#tools[@]}" -eq 0 ] || build_go_tools "${tools[@]}"
say "done (Go tools in $BIN)"
