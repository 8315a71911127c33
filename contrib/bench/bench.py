#!/usr/bin/env python3
"""Measures registryfs beside the tools that people use instead, all in one run on one machine; prints Markdown.

    contrib/bench/bench.py [--runs 5] [--peers all|podman,umoci,...] [--program build/registryfs] > result.md

A docker-registry on loopback serves the benchmark image (tests/fixtures). Every figure is the median of the runs, with the
least and the greatest; every run starts from nothing (no cache, no storage, page cache dropped). Ratios are to registryfs
measured in the same run. Nothing here is a test: it prints, and asserts only that the right bytes were read.

What is measured:
  first, last  one file of the lowest layer and one of the top layer, from nothing to the last byte
  find         walk of the whole tree, from nothing; and the same walk again
  read         all the image's regular files, one after the other; and once more
  iops         4 KiB reads at random offsets of the twenty largest files, page cache dropped; 2000, or as many as fit in 10 s
  tags         listing 10 000 tags
  rss          peak resident memory of the largest process

registryfs, ocifuse and the pipe that looks for one file start from nothing for each of first, last and find. The others fetch
everything whatever is asked, so that one fetch a run counts for all three.

So that an end is certain, a row may take --limit seconds (then "> 60" is printed, and the row is not tried again) and a peer
--budget seconds in all (then it has fewer runs than the others, "n=3"). What was limited is said below the tables.

Root is needed for podman, umoci, mounting EROFS and for dropping the page cache. What apt, pip and go have is installed first
(--no-install: not), into the tests' cache: ${XDG_CACHE_HOME:-~/.cache}/registryfs-tests. Three peers cannot be had that way and
are used if found in PATH or in the cache's bin: ocifuse (github.com/imjasonh/ocifuse), ocifs (github.com/greatliontech/ocifs)
and a mkfs.erofs with --oci (erofs-utils 1.9 configured with --enable-oci).
"""
import argparse
import contextlib
import os
import pathlib
import signal
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "contrib/bench"))
import peers                                                         # noqa: E402
import proc                                                          # noqa: E402
import report                                                        # noqa: E402
from lib import images, servers, tocimages, treecmp                  # noqa: E402

FILES = {"first": peers.FIRST, "last": peers.LAST}
TREE = ("find", "warm", "read", "again", "iops")


@contextlib.contextmanager
def scratch_dir():
    path = tempfile.mkdtemp(prefix="registryfs-bench.")
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


class Bench:
    def __init__(self, args, kinds):
        self.program = pathlib.Path(args.program).resolve()
        self.runs, self.limit, self.budget, self.kinds = args.runs, args.limit, args.budget, kinds
        self.tools = [kind.name for kind in kinds]
        self.figures, self.over, self.failed = {}, {}, set()
        self.spent, self.next_run, self.spent_out = {}, {}, set()
        self.notes = [f"a row to {self.limit:.0f} s, a tool to {self.budget:.0f} s over all runs"]

    def remark(self, text):
        if text not in self.notes:
            self.notes.append(text)
            print(text, file=sys.stderr)

    def note(self, tool, figure, value):
        self.figures.setdefault(tool.name, {}).setdefault(figure, []).append(value)

    def deadline(self):
        return time.monotonic() + self.limit

    def row(self, tool, figure, function, *args, before=0.0):
        """Measures one row that took `before` already; None if it takes too long, now or in an earlier run."""
        if (tool.name, figure) in self.over:
            return None
        start = time.monotonic()
        try:
            result = function(*args, start + self.limit - before)
        except proc.TooLong:
            self.over[tool.name, figure] = self.limit
            return None
        self.note(tool, figure, result if figure == "iops" else before + time.monotonic() - start)
        return result

    # ---- one image

    def reference(self, layout, tree):
        """What umoci makes of the image is what all are compared with."""
        root = pathlib.Path(treecmp.umoci_unpack(layout, "1.0", tree))
        root = next(p.parent.parent.parent for p in root.glob(f"**/{peers.FIRST}"))
        self.expected = {what: (root / path).read_bytes() for what, path in FILES.items()}
        self.entries = proc.walk(root, self.deadline())
        found = [os.path.join(d, f) for d, _, names in os.walk(root) for f in names]
        found = sorted((p for p in found if os.path.isfile(p) and not os.path.islink(p)), key=lambda p: (-os.lstat(p).st_size, p))
        self.largest, self.names = pathlib.Path(f"{tree}.largest"), pathlib.Path(f"{tree}.names")
        relative = [os.path.relpath(p, root) for p in found]
        # hard links left out: not every peer can read them
        self.largest.write_text("\0".join([r for r, p in zip(relative, found) if os.lstat(p).st_nlink == 1][:20]))
        self.names.write_text("".join(f"{p}\0" for p in sorted(relative)))

    def tree(self, tool, root, opened):
        entries = self.row(tool, "find", proc.walk, root, before=opened)
        if entries is not None:
            self.row(tool, "warm", proc.walk, root)
            if entries != self.entries:
                self.remark(f"{tool.name} shows {entries} entries where the image has {self.entries}")
        unread = self.row(tool, "read", proc.read_all, root, self.names)
        if unread is not None:
            self.row(tool, "again", proc.read_all, root, self.names)
            if unread:
                self.remark(f"{tool.name} could not read {unread} of the files")
        self.row(tool, "iops", proc.iops, root, self.largest)
        self.note(tool, "rss", tool.rss())
        if tool.rss() <= proc.own_peak():
            self.remark(f"{tool.name} takes at most the memory printed, which is that of the benchmark before exec")

    def session(self, kind, parts):
        """One start from nothing, then the parts: first, last, find."""
        with scratch_dir() as scratch:
            tool = kind(self, scratch)
            proc.drop_caches()
            try:
                start = time.monotonic()
                tool.deadline = start + self.limit
                try:
                    root = tool.open()
                except proc.TooLong:
                    for part in parts:
                        self.over.update({(kind.name, f): self.limit for f in (TREE if part == "find" else (part,))})
                    return
                opened = time.monotonic() - start
                for part in parts:
                    if part == "find":
                        self.tree(tool, root, opened)
                        continue
                    if root is not None:
                        data = self.row(tool, part, proc.cat, root / FILES[part], before=opened)
                    else:
                        data = self.row(tool, part, lambda deadline: tool.read_one(part))
                    if data not in (None, self.expected[part]):
                        raise proc.Failed(f"{FILES[part]}: wrong bytes")
            finally:
                tool.close()

    def measure(self, kind, parts):
        """A peer that fails is reported and measured no further; we ourselves must not fail."""
        todo = [p for p in kind.parts if p in parts and (kind.name, p) not in self.over]
        begun, over = time.monotonic(), len(self.over)
        for these in [[p] for p in todo] if kind.lazy else [todo]:
            if not these or kind.name in self.failed:
                continue
            print(f"{kind.name}: {', '.join(these)}", file=sys.stderr)
            try:
                self.session(kind, these)
            except (proc.Failed, OSError, subprocess.SubprocessError) as e:
                if kind is peers.Registryfs:
                    raise
                self.failed.add(kind.name)
                self.remark(f"{kind.name} failed ({self.public(e)})")
        took = time.monotonic() - begun
        self.spent[kind.name] = self.spent.get(kind.name, 0) + took
        self.next_run[kind.name] = max(0, took - self.limit * (len(self.over) - over))

    @staticmethod
    def public(error):
        """A message without this machine's paths."""
        words = (os.path.basename(w.strip("'\"`,:")) if "/" in w else w for w in str(error).split())
        return " ".join(words)[:160]

    def image(self, layout, plain, parts):
        with servers.DockerRegistry28() as self.registry, scratch_dir() as scratch:
            self.host = self.registry.host
            treecmp.push_layout(layout, self.registry.url, "app")
            self.reference(plain, f"{scratch}/tree")
            for number in range(self.runs):
                for kind in self.kinds:
                    if kind is peers.Registryfs or self.affordable(kind, number):
                        self.measure(kind, parts)

    def affordable(self, kind, number):
        """Whether one more run like the last one, less the rows that are given up, stays within the budget."""
        if kind.name in self.failed or kind.name in self.spent_out:
            return False
        if number and self.spent[kind.name] + self.next_run[kind.name] > self.budget:
            self.spent_out.add(kind.name)
            self.remark(f"{kind.name} has {number} of {self.runs} runs")
            return False
        return True

    # ---- many tags

    def tags(self):
        image = images.Image([images.Layer([images.file("a", "b")])])
        with servers.DockerRegistry28() as self.registry:
            self.host = self.registry.host
            images.fill_storage(self.registry.storage, {"many": {f"t{i:05}": image for i in range(10000)}})
            for _ in range(self.runs):
                for kind in self.kinds:
                    if kind.name not in self.failed:
                        with scratch_dir() as scratch:
                            self.tags_of(kind(self, scratch), scratch)

    def tags_of(self, tool, scratch):
        command = tool.tags(self.host, scratch)
        tool.deadline = self.deadline()
        if command:
            done = self.row(tool, "ls", lambda deadline: proc.run(*command, deadline=deadline, check=False))
            assert done is None or done.out.count(b"t09999") == 1, f"{tool.name}: not all tags"
        elif isinstance(tool, peers.Registryfs):
            tool.open()
            try:
                listed = self.row(tool, "ls", lambda deadline: proc.run("ls", tool.mnt / "many", deadline=deadline))
                assert len(listed.out.split()) == 10000, len(listed.out.split())
                self.row(tool, "ls -l", lambda deadline: proc.run("ls", "-l", tool.mnt / "many", deadline=deadline))
            finally:
                tool.close()


def choose(names):
    """The tools to measure, and why the others are not."""
    kinds, left_out = [peers.Registryfs], []
    for name in names:
        kind = peers.PEERS[name]
        why = kind.missing()
        if why:
            left_out.append(f"{kind.name} not measured: {why}")
        else:
            kinds.append(kind)
    return kinds, left_out


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--peers", default="all", help=f"all, or some of: {','.join(peers.PEERS)}")
    parser.add_argument("--program", default=str(ROOT / "build" / "registryfs"))
    parser.add_argument("--format", default="gzip", choices=["gzip", *tocimages.FORMATS], help="of the image's layers (default: %(default)s)")
    parser.add_argument("--only", default="first,last,find,tags", help="parts to measure (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=60, help="seconds for a row (default: %(default)s)")
    parser.add_argument("--budget", type=float, default=100, help="seconds for a peer over all runs (default: %(default)s)")
    parser.add_argument("--no-install", action="store_true", help="measure what is there")
    args = parser.parse_args()
    names = list(peers.PEERS) if args.peers == "all" else [p for p in args.peers.split(",") if p]
    unknown = [p for p in names if p not in peers.PEERS]
    if unknown:
        parser.error(f"unknown peer: {', '.join(unknown)}")
    if not args.no_install:
        peers.install()
    kinds, left_out = choose(names)
    bench = Bench(args, kinds)
    for text in left_out:
        bench.remark(text)
    subprocess.run([ROOT / "tests/fixtures/make-benchmark-image.sh"], check=True, stdout=sys.stderr)
    only = args.only.split(",")
    parts = [p for p in ("first", "last", "find") if p in only]
    if parts:
        plain = servers.CACHE / "benchmark-image/oci"
        bench.image(plain if args.format == "gzip" else tocimages.converted_layout(plain, args.format), plain, parts)
    if "tags" in only:
        bench.tags()
    versions = list(dict.fromkeys(v for kind in kinds for v in kind.versions()))
    print(report.markdown(bench, versions))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
