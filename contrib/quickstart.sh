#!/bin/sh
# From a bare Debian 12 to a mounted registry: installs what is needed, builds, makes a small image,
# mounts, and shows what can be done with it.  Running it again does no harm.
#
#	contrib/quickstart.sh [MOUNTPOINT]		default: ~/registryfs
set -eu

case ${1-} in -*) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0"; exit 2 ;; esac
mnt=${1:-$HOME/registryfs}
cd "$(dirname "$0")/.."
here=$PWD

step() { printf '\n== %s\n' "$*"; }
# Prints a command as one would type it, and runs it in the mount.
show() {
	printf '\n$ %s\n' "$*"
	(cd "$mnt" && sh -c "$*") || [ $? -eq 1 ]	# diff says 1 when it finds something
}

step "what is needed"
contrib/install-build-deps.sh
if ! command -v busybox >/dev/null; then
	sudo=
	[ "$(id -u)" = 0 ] || sudo=sudo
	$sudo apt-get update -qq
	DEBIAN_FRONTEND=noninteractive $sudo apt-get install -y -qq --no-install-recommends busybox-static >/dev/null
fi
echo "everything is there"

step "building"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
[ -f build/build.ninja ] || meson setup build -Dtests=false >"$log" 2>&1 || { cat "$log"; exit 1; }
meson compile -C build >"$log" 2>&1 || { cat "$log"; exit 1; }
registryfs=
for f in build/registryfs build/fs/registryfs; do
	[ ! -x "$f" ] || registryfs=$here/$f
done
"$registryfs" version

step "a small image in the embedded registry, with tar, gzip and sha256sum"
registry=${XDG_DATA_HOME:-$HOME/.local/share}/registryfs/registry
contrib/sample-image.sh "$registry/sample"
echo "$registry/sample"

step "mounting"
mkdir -p "$mnt"
if "$registryfs" status "$mnt" >/dev/null 2>&1; then
	echo "mounted already"
else
	echo "\$ registryfs $mnt"
	"$registryfs" "$mnt"
fi

step "looking around (in $mnt)"
show 'ls local/sample'
show 'ls local/sample/1.1'
show 'cat local/sample/1.1/rootfs/etc/motd'
show 'ls -l local/sample/1.1/rootfs/bin'
show 'cat local/sample/1.1/digest'
show 'cat local/sample/1.1/history.txt'
show 'diff local/sample/1.0/rootfs/etc/motd local/sample/1.1/rootfs/etc/motd'
show 'ls -A local/sample/1.1/layers local/sample/1.1/layers/01/usr/share/doc'
show 'cat local/sample/1.1/referrers/*/*/files/sbom.spdx.json'
show 'tar -tf local/sample/.tar/1.1.tar'
show "'$registryfs' status ."

cat <<END

The mount stays at $mnt.  Any other registry is one name away, with the credentials that
docker or podman know:

	ls $mnt/ghcr.io/OWNER/IMAGE

To unmount:

	$registryfs umount $mnt
END
