#!/bin/bash
# Installs what is needed, builds, and runs every test of registryfs.
#
#	tests/run.sh			short loops; under 30 minutes on two cores, less when built before
#	tests/run.sh --long		full durations and counts
#	tests/run.sh --only PART	one of: build lint unit tsan mount fuzz
#	tests/run.sh --no-install	what is needed is there
#
# Each part prints its own results; the last line counts them all: "N passed, N failed".
set -uo pipefail
cd "$(dirname "$0")/.."

long= only= install=1 passed=0 failed=0 failures=()
while [ $# -gt 0 ]; do
	case $1 in
	--long) long=--long ;;
	--only) only=${2:?--only PART}; shift ;;
	--no-install) install= ;;
	-h|--help) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//p}' "$0"; exit 0 ;;
	*) echo "run.sh: unknown argument $1 (see --help)" >&2; exit 2 ;;
	esac
	shift
done
out=${TEST_BUILD_DIR:-build-test}
mkdir -p "$out"
jobs=$(nproc)

wanted() { [ -z "$only" ] || [ "$only" = "$1" ]; }
title() { printf '\n=== %s\n' "$*"; }
# count NAME PASSED FAILED
count() {
	passed=$((passed + $2)) failed=$((failed + $3))
	[ "$3" -eq 0 ] || failures+=("$1")
}
# one NAME COMMAND...: a test that is one command
one() {
	local name=$1 log; shift
	log=$out/one.log
	if "$@" >"$log" 2>&1; then count "$name" 1 0; echo "ok $name"; else
		count "$name" 0 1; echo "not ok $name"; tail -n 60 "$log"; fi
}
# configured DIR OPTIONS...: a build directory with these options, made anew when they changed
configured() {
	local dir=$out/$1; shift
	if [ ! -f "$dir/build.ninja" ]; then
		rm -rf "$dir"
		env ${CC_FOR:+CC=$CC_FOR} meson setup "$dir" "$@" >"$out/setup.log" 2>&1 || { cat "$out/setup.log"; return 1; }
	fi
}
built() { # NAME CC OPTIONS...
	local name=$1; CC_FOR=$2; shift 2
	configured "$name" --werror "$@" && meson compile -C "$out/$name" -j "$jobs" >"$out/compile.log" 2>&1 ||
		{ grep -E 'error|warning|FAILED' "$out/compile.log" | head -40; return 1; }
}
# unit DIR: every unit test and lint of a build; counts what the programs count
unit() {
	local dir=$1 t log r p f
	for t in "$out/$dir"/tests/test_*; do
		[ -x "$t" ] && [ -f "$t" ] || continue
		log=$out/unit.log
		timeout 600 "$t" >"$log" 2>&1; r=$?
		p=$(sed -nE 's/^([0-9]+) passed, ([0-9]+) failed$/\1/p' "$log" | tail -n 1)
		f=$(sed -nE 's/^([0-9]+) passed, ([0-9]+) failed$/\2/p' "$log" | tail -n 1)
		if [ -z "$p" ] || { [ $r -ne 0 ] && [ "$f" -eq 0 ]; }; then
			p=${p:-0} f=1
		fi
		count "$dir/${t##*/}" "$p" "$f"
		echo "$dir/${t##*/}: $p passed, $f failed"
		[ "$f" -eq 0 ] || grep -vE '^ok ' "$log" | tail -n 60
	done
}

# pytests LOT FILES...: those mount tests, their output into a file
pytests() {
	local lot=$1; shift
	REGISTRYFS=$PWD/$out/asan/registryfs python3 -m pytest -q -rf --tb=short --durations=5 -p no:cacheprovider \
		$long "$@" >"$out/pytest-$lot.log" 2>&1
}
# counted LOT STATUS: shows what a lot of mount tests printed, and counts it
counted() {
	local log=$out/pytest-$1.log p f
	# pytest's own summary is reworded, so that only the last line of all counts the whole
	sed -E 's/^([0-9]+ passed.*|[0-9]+ failed.*)$/mount tests ('"$1"'): \1/' "$log"
	p=$(grep -oE '[0-9]+ passed' "$log" | tail -n 1 | cut -d' ' -f1)
	f=$(tail -n 1 "$log" | grep -oE '[0-9]+ (failed|error)' | awk '{ n += $1 } END { print n + 0 }')
	[ "$2" -eq 0 ] || [ "$f" -gt 0 ] || f=1
	count "mount tests ($1)" "${p:-0}" "$f"
}

# fuzz TARGET: runs it for $seconds, its output and at last "exit STATUS" into a file
fuzz() {
	local name=${1##*/fuzz_}
	mkdir -p "$out/corpus/$name"
	"$1" -max_total_time="$seconds" -timeout=20 -rss_limit_mb=2048 -artifact_prefix="$out/crash-$name-" \
		"$out/corpus/$name" tests/fuzz/corpus/"$name" >"$out/fuzz-$name.log" 2>&1
	echo "exit $?" >>"$out/fuzz-$name.log"
}
export -f fuzz
finished() { tail -n 60 "$1"; [ "$(tail -n 1 "$1")" = "exit 0" ]; }

if [ -n "$install" ]; then
	title "install"
	contrib/install-build-deps.sh --tests || { echo "cannot install what the build needs" >&2; exit 1; }
	tests/install-tools.sh || { echo "cannot install what the tests need" >&2; exit 1; }
fi
export ASAN_OPTIONS=${ASAN_OPTIONS-detect_leaks=1:abort_on_error=0:allocator_may_return_null=1}
export LSAN_OPTIONS=${LSAN_OPTIONS-suppressions=$PWD/tests/lsan.supp:print_suppressions=0}
export UBSAN_OPTIONS=${UBSAN_OPTIONS-print_stacktrace=1:halt_on_error=1}
export TSAN_OPTIONS=${TSAN_OPTIONS-halt_on_error=0:second_deadlock_stack=1:suppressions=$PWD/tests/tsan.supp}

if wanted build; then
	title "build: gcc and clang, warnings are errors"
	one "gcc" built gcc gcc
	one "clang" built clang clang
	one "gcc with zlib instead of ISA-L" built gcc-zlib gcc -Disal=disabled
fi
if wanted lint; then
	title "lint"
	for s in includes sizes replies; do one "lint $s" tests/lint/$s.sh; done
	one "lint build" built gcc gcc
	one "lint docs" tests/lint/docs.sh "$out/gcc/registryfs"
fi
san=(-Db_sanitize=address,undefined -Db_lundef=false -Dbuildtype=debugoptimized)
if wanted unit; then
	title "unit tests, AddressSanitizer and UBSan"
	one "asan build" built asan clang "${san[@]}"
	unit asan
	one "zlib build" built gcc-zlib gcc -Disal=disabled
	for t in inflate layer; do
		one "zlib/test_$t" "$out/gcc-zlib/tests/test_$t"
	done
fi
if wanted tsan; then
	title "unit and engine tests, ThreadSanitizer"
	one "tsan build" built tsan clang -Db_sanitize=thread -Db_lundef=false
	unit tsan
fi
if wanted mount; then
	title "mount tests, real registries and clients, AddressSanitizer and UBSan"
	one "asan build" built asan clang "${san[@]}"
	# Two lots side by side; what measures delays runs alone.
	big=(tests/test_tree.py tests/test_hostile.py tests/test_cache.py tests/test_toc.py tests/test_soci.py)
	alone=(tests/test_stall.py)
	rest=()
	for t in tests/test_*.py; do
		[[ " ${big[*]} ${alone[*]} " = *" $t "* ]] || rest+=("$t")
	done
	pytests big "${big[@]}" & big_pid=$!
	pytests rest "${rest[@]}"; rest_status=$?
	wait "$big_pid"; big_status=$?
	pytests alone "${alone[@]}"; alone_status=$?
	counted big "$big_status"; counted rest "$rest_status"; counted alone "$alone_status"
fi
if wanted fuzz; then
	title "fuzzers"
	one "fuzz build" built fuzz clang -Dfuzz=true -Db_lundef=false
	targets=()
	for t in "$out"/fuzz/tests/fuzz_*; do
		[ -x "$t" ] && [ -f "$t" ] && targets+=("$t")
	done
	# one on each core; 2.5 minutes in all (5 of two cores), --long: 10 minutes each
	seconds=$((150 * jobs / ${#targets[@]})); [ "$seconds" -ge 3 ] || seconds=3
	[ -z "$long" ] || seconds=600
	export out seconds
	printf '%s\n' "${targets[@]}" | xargs -P "$jobs" -I{} bash -c 'fuzz {}'
	for t in "${targets[@]}"; do
		name=${t##*/fuzz_}
		one "fuzz $name (${seconds}s)" finished "$out/fuzz-$name.log"
	done
fi

title "summary"
for f in "${failures[@]}"; do echo "failed: $f"; done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
