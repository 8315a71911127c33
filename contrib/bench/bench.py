#!/usr/bin/env python3
"""Measures registryfs beside the tools that people use instead, all in one run on one machine; prints Markdown.

    contrib/bench/bench.py [--sections image,formats,link,tags,warm] [--runs 5] [--program build/registryfs] > result.md

A docker-registry on loopback serves the benchmark image (tests/fixtures). Every figure is the median of the runs, with the
least and the greatest; every run starts from nothing (no cache, no storage, page cache dropped). Ratios are to registryfs
measured in the same run. Nothing here is a test: it prints, and asserts only that the right bytes were read.

Sections:
  image        the image with plain gzip layers; beside the peers, what the machine itself allows (L, and the local disk)
  formats      the same image with tables of contents and a SOCI index, beside stargz-store
  link         the same, and with Python in it, over a link with --latency more per round trip and --rate
  tags         listing 10 000 tags
  warm         what is served from a full cache: contrib/bench/warm.py, in its own words

What is measured:
  first, last  one file of the lowest layer and one of the top layer, from nothing to the last byte
  find         walk of the whole tree, from nothing; and the same walk again
  all          all the image's regular files one after the other, from nothing; and once more; then
               4 KiB reads at random offsets of the twenty largest files, page cache dropped; 2000, or as many as fit in 10 s;
               then, stopped and started with what it keeps on disk, one file
  python       a start of the image's Python, from nothing, in a chroot
  rss          peak resident memory of the largest process
  moved        body bytes, requests and connections that the registry saw until the tool was ended; of rows behind the first
               read of everything, too

What is lazy (registryfs, ocifuse, ocifs, stargz-store, the pipe that looks for one file) starts from nothing for each of
these. The others fetch everything whatever is asked, so that one fetch a run counts for all.

So that an end is certain, a row may take --limit seconds (then "> 60" is printed, and the row is not tried again) and a peer
--budget seconds in all (then it has fewer runs than the others, "n=3"). What was limited is said below the tables.

Root is needed for podman, umoci, mounting, the link and for dropping the page cache. What apt, pip and go have is installed first
(--no-install: not), into the tests' cache: ${XDG_CACHE_HOME:-~/.cache}/registryfs-tests. Four peers cannot be had that way and
are used if found in PATH or in the cache's bin: see peers.py.
"""
import argparse
import os
import pathlib
import signal
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
sys.path.insert(0, str(ROOT / "contrib/bench"))
import layouts                                                       # noqa: E402
import limits                                                        # noqa: E402
import link                                                          # noqa: E402
import peers                                                         # noqa: E402
import proc                                                          # noqa: E402
import report                                                        # noqa: E402
import session                                                       # noqa: E402
from lib import images, servers, sociimages, tocimages               # noqa: E402

SECTIONS = ("image", "formats", "link", "tags", "warm")
PARTS = ("first", "last", "find", "all")
GZIP, ESTARGZ = "registryfs, gzip", "registryfs, estargz"
LINK_PEERS = ("podman", "ocifuse", "ocifs")


def variant(kind, **attributes):
    return type(kind.__name__, (kind,), attributes)


def ours(name, tag="1.0"):
    return variant(peers.Registryfs, name=name, beside=name, tag=tag)


class Bench:
    def __init__(self, args, names):
        self.args, self.parts, self.notes, self.kinds = args, args.only.split(","), [], {}
        for name, kind in [(n, peers.PEERS[n]) for n in names] + [("bare", limits.Bare), ("disk", limits.LocalDisk)]:
            why = kind.missing()
            if why:
                self.notes.append(f"{kind.name} not measured: {why}")
            else:
                self.kinds[name] = kind
        self.plain = servers.CACHE / "benchmark-image/oci"

    def some(self, names, beside):
        return [variant(self.kinds[n], beside=beside) for n in names if n in self.kinds]

    def section(self, title, kinds):
        return session.Section(title, self.args, kinds, self.notes)

    def versions(self):
        return list(dict.fromkeys(v for kind in self.kinds.values() for v in kind.versions()))

    def image(self):
        names = ["bare", "disk", *(n for n in self.kinds if n not in ("bare", "disk", "stargz-store"))]
        section = self.section("The image with gzip layers", [peers.Registryfs, *self.some(names, "registryfs")])
        with servers.DockerRegistry28() as registry:
            section.image(registry, {"1.0": self.plain}, self.plain, self.parts)
        return report.markdown(section)

    def formats(self):
        tags = {"1.0": self.plain, **{f: tocimages.converted_layout(self.plain, f) for f in tocimages.FORMATS},
                "soci": sociimages.indexed_layout(self.plain, "v2")}
        kinds = [ours(f"registryfs, {'gzip' if tag == '1.0' else tag}", tag) for tag in tags]
        section = self.section("Formats that are read in parts", kinds + self.some(["stargz-store"], ESTARGZ))
        with servers.DockerRegistry28() as registry:
            section.image(registry, tags, self.plain, self.parts)
        return report.markdown(section)

    def link(self):
        plain = layouts.with_python(self.plain)
        tags = {"1.0": plain, "estargz": tocimages.converted_layout(plain, "estargz")}
        kinds = [ours(GZIP), ours(ESTARGZ, "estargz"), *self.some(("bare", *LINK_PEERS), GZIP), *self.some(["stargz-store"], ESTARGZ)]
        title = f"A link of {self.args.latency:g} ms and {self.args.rate:g} Mbit/s"
        section = self.section(title, kinds)
        with link.Link(self.args.latency / 1000, self.args.rate * 1e6) as slow:
            registry = servers.DockerRegistry28()
            registry.address, registry.enter = slow.address, slow.enter
            with registry:
                section.image(registry, tags, plain, [p for p in ("first", "last", "find", "python") if p in (*self.parts, "python")])
        return report.markdown(section)

    def tags(self):
        section = self.section("Tags", [peers.Registryfs, *(k for n, k in self.kinds.items() if n not in ("bare", "disk"))])
        image = images.Image([images.Layer([images.file("a", "b")])])
        with servers.DockerRegistry28() as registry:
            section.registry, section.host = registry, registry.host
            images.fill_storage(registry.storage, {"many": {f"t{i:05}": image for i in range(10000)}})
            for _ in range(section.runs):
                for kind in section.kinds:
                    with session.scratch_dir() as scratch:
                        tags_of(section, kind(section, scratch), scratch)
        return report.markdown(section)

    def warm(self):
        command = [sys.executable, ROOT / "contrib/bench/warm.py", "--runs", str(self.args.runs), "--program", self.args.program,
                   *["--first"] * self.args.first]
        said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        return f"## Served from a full cache\n\n```\n{said.strip()}\n```"


def tags_of(section, tool, scratch):
    command = tool.tags(section.host, scratch)
    tool.deadline = section.deadline()
    if command:
        done = section.row(tool, "ls", lambda deadline: proc.run(*command, deadline=deadline, check=False))
        assert done is None or done.out.count(b"t09999") == 1, f"{tool.name}: not all tags"
    elif tool.ours:
        tool.open()
        try:
            listed = section.row(tool, "ls", lambda deadline: proc.run("ls", tool.mnt / "many", deadline=deadline))
            assert len(listed.out.split()) == 10000, len(listed.out.split())
            section.row(tool, "ls -l", lambda deadline: proc.run("ls", "-l", tool.mnt / "many", deadline=deadline))
        finally:
            tool.close()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", default=",".join(SECTIONS), help="(default: %(default)s)")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--peers", default="all", help=f"all, or some of: {','.join(peers.PEERS)}")
    parser.add_argument("--program", default=str(ROOT / "build" / "registryfs"))
    parser.add_argument("--only", default=",".join(PARTS), help="parts to measure (default: %(default)s)")
    parser.add_argument("--latency", type=float, default=20, help="of the link, ms more for a round trip (default: %(default)s)")
    parser.add_argument("--rate", type=float, default=100, help="of the link, Mbit/s each way (default: %(default)s)")
    parser.add_argument("--limit", type=float, default=60, help="seconds for a row (default: %(default)s)")
    parser.add_argument("--budget", type=float, default=100, help="seconds for a peer over all runs of a section (default: %(default)s)")
    parser.add_argument("--first", action="store_true", help="ask the scheduler to put what is measured before all others")
    parser.add_argument("--no-install", action="store_true", help="measure what is there")
    args = parser.parse_args()
    names = list(peers.PEERS) if args.peers == "all" else [p for p in args.peers.split(",") if p]
    sections = [s for s in args.sections.split(",") if s]
    for what, given, known in ("peer", names, peers.PEERS), ("section", sections, SECTIONS), ("part", args.only.split(","), PARTS):
        if unknown := [g for g in given if g not in known]:
            parser.error(f"unknown {what}: {', '.join(unknown)}")
    if args.first and os.getpid() != os.getsid(0):
        os.setsid()
    proc.first = args.first
    proc.go_first()
    if not args.no_install:
        peers.install()
    subprocess.run([ROOT / "tests/fixtures/make-benchmark-image.sh"], check=True, stdout=sys.stderr)
    bench = Bench(args, names)
    print("# registryfs measured\n")
    print(report.machine(args.runs, bench.versions()), "\n", sep="")
    print("Median (least-greatest) ×ratio: how much better registryfs is, below 1: worse.")
    for name in sections:
        print(f"\n{getattr(bench, name)()}", flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
