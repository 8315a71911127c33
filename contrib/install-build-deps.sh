#!/bin/sh
# Installs what building registryfs on Debian needs (12 or newer).
#	contrib/install-build-deps.sh [--tests]		--tests: also clang and its sanitizers
set -eu

packages="gcc libc6-dev meson ninja-build pkg-config libfuse3-dev fuse3 libcurl4-openssl-dev libjansson-dev
	libssl-dev zlib1g-dev libzstd-dev libisal-dev ca-certificates"
[ "${1-}" != --tests ] || packages="$packages clang libclang-rt-14-dev python3 python3-pytest git"

missing=
for p in $packages; do
	dpkg-query -W -f '${Status}' "$p" 2>/dev/null | grep -q '^install ok installed' || missing="$missing $p"
done
[ -n "$missing" ] || exit 0

sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update -qq
# shellcheck disable=SC2086
$sudo apt-get install -y -qq --no-install-recommends $missing >/dev/null
