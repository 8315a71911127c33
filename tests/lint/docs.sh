#!/bin/sh
# Nothing is documented that does not work, and nothing works that is not documented: every option
# that `registryfs --help` knows is in the man page and in README, and the other way round.
# usage: docs.sh PATH-TO-REGISTRYFS
set -eu
cd "$(dirname "$0")/../.."
bin=$1 bad=0
options=$("$bin" help mount | sed -nE 's/^ +(-o )?([a-z_]+)(=[^ ]*)? .*/\2/p' | sort -u)
[ -n "$options" ] || { echo "registryfs help mount lists no options"; exit 1; }
for o in $options; do
	for f in contrib/man/registryfs.1 README.md; do
		grep -qE "(^|[^a-z_])$o([^a-z_]|\$)" "$f" || { echo "$f does not mention the option $o"; bad=1; }
	done
done
for f in contrib/completions/registryfs.bash; do
	for o in $options; do
		grep -qE "(^|[^a-z_])$o([^a-z_]|\$)" "$f" || { echo "$f does not complete $o"; bad=1; }
	done
done
exit $bad
