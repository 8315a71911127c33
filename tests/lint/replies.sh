#!/bin/sh
# Places that must stay few (style of the engine, ARCHITECTURE.md "Operations"):
# replies that carry an entry only where the books are kept, kernel notifications only in the
# notify thread, logging above debug only in fs/, no exit or abort outside the command line.
set -eu
cd "$(dirname "$0")/../.."
bad=0
only() { # PATTERN ALLOWED-REGEX FILES...
	pattern=$1 allowed=$2; shift 2
	if grep -nE "$pattern" "$@" | grep -vE "^($allowed):"; then
		echo "  ^ $pattern belongs into $allowed only"; bad=1
	fi
}
only 'fuse_reply_entry|fuse_reply_create|fuse_add_direntry_plus' 'fs/fuse_[a-z]+\.c' fs/*.c
only 'fuse_lowlevel_notify_' 'fs/notify\.c' fs/*.c
only '\blog_(error|warn|info)\(' 'util/log\.[ch]' util/*.c util/*.h registry/*.c cache/*.c policy/*.c
only '\b(exit|abort|_exit)\(' 'fs/(main|cmd_[a-z]+|daemon)\.c|registry/creds_helper\.c' util/*.c registry/*.c cache/*.c policy/*.c fs/*.c
only 'curl_multi_' 'registry/http[a-z_]*\.[ch]' registry/*.c
exit $bad
