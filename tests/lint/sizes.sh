#!/bin/sh
# Files of at most 700 lines, functions of at most 100: a longer one holds two ideas.
set -eu
cd "$(dirname "$0")/../.."

awk '
function end_file() { if (n > 700) { print name ": " n " lines (limit 700)"; bad = 1 } }
FNR == 1 { if (name) end_file(); name = FILENAME; start = 0 }
{ n = FNR }
/^\{/ { start = FNR }
/^\}/ { if (start && FNR - start > 100) { print FILENAME ":" start ": function of " FNR - start " lines (limit 100)"; bad = 1 } start = 0 }
END { end_file(); exit bad }
' util/*.[ch] registry/*.[ch] cache/*.[ch] policy/*.[ch] fs/*.[ch]
