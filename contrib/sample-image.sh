#!/bin/sh
# Writes a small OCI image layout with nothing but tar, gzip and sha256sum: something to look at.
#
#	contrib/sample-image.sh DIR
#
# DIR becomes a repository: put it below a local registry, such as
# ~/.local/share/registryfs/registry/sample.  It holds two tags, 1.0 and 1.1, which share a base layer
# with busybox; the upper layer of each changes files and deletes one (a whiteout); and a software
# list (SPDX) that refers to 1.1.  The same busybox always gives the same digests, so running it
# again changes nothing.
set -eu

[ $# -eq 1 ] || { sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
mkdir -p "$1"
out=$(cd "$1" && pwd)
busybox=$(command -v busybox) || { echo "sample-image.sh: busybox is missing (Debian: busybox-static)" >&2; exit 1; }
umask 022
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
created=2024-05-01T12:00:00Z
mkdir -p "$out/blobs/sha256"

case $(uname -m) in
x86_64) arch=amd64 ;;
aarch64) arch=arm64 ;;
i?86) arch=386 ;;
armv7*) arch=arm ;;
*) arch=$(uname -m) ;;
esac

sha() { sha256sum "$1" | cut -d' ' -f1; }
size() { wc -c <"$1" | tr -d ' '; }

# blob FILE: moves it to its place; sets $digest and $bytes
blob() {
	digest=$(sha "$1") bytes=$(size "$1")
	chmod 644 "$1"
	mv "$1" "$out/blobs/sha256/$digest"
}

# layer NAME: the directory $tmp/NAME as a gzip layer; sets $layer_desc and $layer_diff
layer() {
	tar -C "$tmp/$1" --sort=name --mtime="$created" --owner=0 --group=0 --numeric-owner --format=gnu \
		-cf "$tmp/$1.tar" .
	layer_diff=sha256:$(sha "$tmp/$1.tar")
	gzip -n -9 <"$tmp/$1.tar" >"$tmp/$1.tar.gz"
	blob "$tmp/$1.tar.gz"
	layer_desc="{\"mediaType\":\"application/vnd.oci.image.layer.v1.tar+gzip\",\"digest\":\"sha256:$digest\",\"size\":$bytes}"
}

# image TAG BASE_DIFF TOP_DIFF BASE_DESC TOP_DESC: sets $digest and $bytes of its manifest
image() {
	cat >"$tmp/config" <<-END
	{"created":"$created","architecture":"$arch","os":"linux",
	"config":{"Env":["PATH=/bin"],"Cmd":["/bin/sh"],"Labels":{"org.opencontainers.image.title":"sample $1"}},
	"rootfs":{"type":"layers","diff_ids":["$2","$3"]},
	"history":[
	{"created":"$created","created_by":"busybox and a few files"},
	{"created":"$created","created_by":"ENV PATH=/bin","empty_layer":true},
	{"created":"$created","created_by":"release $1: new message, old notes deleted"}]}
	END
	blob "$tmp/config"
	cat >"$tmp/manifest" <<-END
	{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
	"config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:$digest","size":$bytes},
	"layers":[$4,$5]}
	END
	blob "$tmp/manifest"
}

# What the image holds.
mkdir -p "$tmp/base/bin" "$tmp/base/etc" "$tmp/base/usr/share/doc" "$tmp/base/tmp"
chmod 1777 "$tmp/base/tmp"
cp "$busybox" "$tmp/base/bin/busybox"
chmod 755 "$tmp/base/bin/busybox"
for applet in sh ls cat echo uname date; do ln -s busybox "$tmp/base/bin/$applet"; done
ln -s /etc/motd "$tmp/base/usr/share/message"
printf 'NAME="registryfs sample"\nID=sample\n' >"$tmp/base/etc/os-release"
printf 'root:x:0:0:root:/:/bin/sh\n' >"$tmp/base/etc/passwd"
echo "the base layer" >"$tmp/base/etc/motd"
echo "notes of the base layer" >"$tmp/base/usr/share/doc/old-notes"
echo "busybox: many small programs in one" >"$tmp/base/usr/share/doc/README"
layer base
base_diff=$layer_diff base_desc=$layer_desc

# release TAG: the upper layer, and the image; sets $entry for index.json, without its end
release() {
	mkdir -p "$tmp/$1/etc" "$tmp/$1/usr/share/doc"
	echo "hello from release $1" >"$tmp/$1/etc/motd"
	: >"$tmp/$1/usr/share/doc/.wh.old-notes"
	layer "$1"
	image "$1" "$base_diff" "$layer_diff" "$base_desc" "$layer_desc"
	entry="{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"digest\":\"sha256:$digest\",\"size\":$bytes"
}

release 1.0
one=$entry
release 1.1
two=$entry

# An artifact that refers to 1.1.
cat >"$tmp/sbom" <<END
{"spdxVersion":"SPDX-2.3","dataLicense":"CC0-1.0","SPDXID":"SPDXRef-DOCUMENT","name":"sample 1.1",
"documentNamespace":"https://example.com/sample-1.1","creationInfo":{"created":"$created","creators":["Tool: sample-image.sh"]},
"packages":[{"name":"busybox","SPDXID":"SPDXRef-busybox","downloadLocation":"NOASSERTION"}]}
END
blob "$tmp/sbom"
sbom="{\"mediaType\":\"application/spdx+json\",\"digest\":\"sha256:$digest\",\"size\":$bytes,\"annotations\":{\"org.opencontainers.image.title\":\"sbom.spdx.json\"}}"
printf '{}' >"$tmp/empty"
blob "$tmp/empty"
cat >"$tmp/manifest" <<END
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","artifactType":"application/spdx+json",
"config":{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:$digest","size":$bytes},
"layers":[$sbom],"subject":$two},
"annotations":{"org.opencontainers.image.created":"$created"}}
END
blob "$tmp/manifest"
artifact="{\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\"digest\":\"sha256:$digest\",\"size\":$bytes,\"artifactType\":\"application/spdx+json\"}"

# index.json last and by rename: a layout that has one is complete.
printf '{"imageLayoutVersion":"1.0.0"}' >"$tmp/oci-layout"
mv "$tmp/oci-layout" "$out/oci-layout"
cat >"$out/index.json.new" <<END
{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[
$one,"annotations":{"org.opencontainers.image.ref.name":"1.0"}},
$two,"annotations":{"org.opencontainers.image.ref.name":"1.1"}},
$artifact]}
END
mv "$out/index.json.new" "$out/index.json"
