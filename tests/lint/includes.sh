#!/bin/sh
# The include rule of ARCHITECTURE.md: three pillars on one base under one roof, one third-party
# library per file that needs it.  Prints each violation; exit status 1 when there is one.
set -eu
cd "$(dirname "$0")/../.."

awk '
function ours(dir, file, inc) {
	if (inc == "util/banned.h") return 1
	top = inc; sub(/\/.*/, "", top)
	if (top == dir || top == "util") return 1
	if (dir == "fs")
		return inc ~ /^(registry\/(registry|push|ref|oci|oci_write)|cache\/(cache|tree|tree_stack|ztoc_build)|policy\/(policy|readahead))\.h$/
	return 0
}
function theirs(file, inc) {
	if (inc ~ /^curl\//) return file ~ /^registry\/http[a-z_]*\.[ch]$/
	if (inc ~ /^openssl\//) return file == "util/digest.c"
	if (inc == "jansson.h") return file == "util/json.c"
	if (inc == "zlib.h") return file ~ /^cache\/(gzip_zlib|ztoc_gzip)\.c$/
	if (inc ~ /^isa-l/) return file == "cache/gzip_isal.c"
	if (inc ~ /^zstd/) return file == "cache/zstd.c"
	if (inc ~ /^fuse/) return file ~ /^fs\/(fuse_[a-z]+\.[ch]|notify\.c)$/
	return 1
}
FNR == 1 { dir = FILENAME; sub(/\/.*/, "", dir) }
/^[ \t]*#[ \t]*include[ \t]*"/ {
	split($0, p, "\"")
	if (!ours(dir, FILENAME, p[2])) { print FILENAME ":" FNR ": may not include " p[2]; bad = 1 }
}
/^[ \t]*#[ \t]*include[ \t]*</ {
	inc = $0; sub(/^[^<]*</, "", inc); sub(/>.*/, "", inc)
	if (!theirs(FILENAME, inc)) { print FILENAME ":" FNR ": may not include <" inc ">"; bad = 1 }
}
END { exit bad }
' util/*.[ch] registry/*.[ch] cache/*.[ch] policy/*.[ch] fs/*.[ch]
