#!/usr/bin/env python3
"""Measures how fast registryfs serves what its cache has, beside the same tree on the local disk. Needs root.

    contrib/bench/warm.py [--runs 5] [--program build/registryfs] [--baseline OTHER] [--only find,tar,small,read,iops,big,rss,many]

The image `ocifull` of tests/fixtures is unpacked with umoci onto the local disk, read there directly ("disk") and through
an overlayfs over it ("overlay"). Each program fills a cache of its own once; then every run mounts anew, one after the
other, so that a machine that others use too disturbs all alike. "rootfs" is the same daemon behind the kernel's EROFS
(`registryfs rootfs`). What counts is the ratio in the last column: to overlay
for find and tar, to disk for everything else. Every figure is a median, with the least and the greatest. It prints, and asserts
only that as much was read as is there.

Columns: find cold = everything dropped; find warm = the same again, middle of three; tar cold = tar of all of it, everything
dropped; small cold = all files up to 16 KiB
once their names are known, but no data are in memory; read = all files, data of the disk and of the cache in memory, the
mount's pages not; again = once more; iops cold = 4 KiB reads at random offsets of the largest files, everything dropped; iops
cache = only the mount's pages dropped; iops warm = all in memory; big = one file of 1 GiB, the mount's pages dropped; rss =
peak resident memory of the daemon, MiB, 8 processes reading everything; cpu = seconds that the daemon computed for "read".

With --only many, which takes minutes: a layer of ten million empty files in ten thousand directories. many index = from nothing
to the listing of the root; many ls = one directory, the middle of eleven; many bytes = memory per entry that stays resident,
peak = most MiB while indexing; many again = the first `ls` after a remount.
"""
import argparse
import os
import pathlib
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from lib import hostile, images, servers, treecmp                             # noqa: E402

SMALL, READERS, READS, BIG, MANY = 16 << 10, 8, 4000, 1 << 30, 10_000_000
MORE_IS_BETTER = ("iops",)
CLONE_NEWNS = 0x20000


def run(*command, **kw):
    return subprocess.run([str(c) for c in command], check=True, stdout=subprocess.DEVNULL, **kw)


def drop_caches():
    os.sync()
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")


def seconds(function, *args):
    start = time.monotonic()
    function(*args)
    return time.monotonic() - start


def find(root):
    run("find", f"{root}/")


def cat(root, names):
    run("xargs", "-0", "cat", "--", input=names, cwd=root)


def join(names):
    return b"\0".join(os.fsencode(n) for n in names) + b"\0"


class Files:
    """What is in the tree, taken from the local disk once."""

    def __init__(self, root):
        found = []
        for d, _, names in os.walk(root):
            for n in names:
                p = os.path.join(d, n)
                if os.path.isfile(p) and not os.path.islink(p):
                    found.append((os.path.getsize(p), os.path.relpath(p, root)))
        self.all, self.bytes = join(n for _, n in found), sum(s for s, _ in found)
        self.small = join(n for s, n in found if s <= SMALL)
        self.largest = sorted(found, reverse=True)[:20]
        self.shares = [join(n for _, n in found[i::READERS]) for i in range(READERS)]


def random_reads(root, files, drop):
    rng = random.Random(1)
    fds = [(os.open(os.path.join(root, n), os.O_RDONLY), size) for size, n in files.largest]
    places = [(fd, rng.randrange(max(1, size - 4096))) for fd, size in rng.choices(fds, k=READS)]
    drop(fds)
    start = time.monotonic()
    for fd, off in places:
        os.pread(fd, 4096, off)
    rate = READS / (time.monotonic() - start)
    for fd, _ in fds:
        os.close(fd)
    return rate


def drop_pages(fds):
    for fd, _ in fds:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


class Disk:
    name = "disk"

    def __init__(self, bench):
        self.bench = bench

    def open(self):
        return self.bench.tree

    def big(self):
        return self.bench.big_file

    def warm_up(self):
        """Data into memory, below the mount."""
        cat(self.bench.tree, self.bench.files.all)

    def cpu(self):
        return None

    rss = cpu

    def close(self):
        pass


class Overlay(Disk):
    name = "overlay"

    def open(self):
        self.mnt = tempfile.mkdtemp(prefix="registryfs-warm.")
        self.empty = tempfile.mkdtemp(prefix="registryfs-warm.")
        run("mount", "-t", "overlay", "-o", f"ro,lowerdir={self.empty}:{self.bench.tree}", "overlay", self.mnt)
        return self.mnt

    def close(self):
        run("umount", self.mnt)
        os.rmdir(self.mnt)
        os.rmdir(self.empty)


class Registryfs:
    def __init__(self, bench, name, program):
        self.bench, self.name, self.program = bench, name, program
        self.scratch = pathlib.Path(tempfile.mkdtemp(prefix="registryfs-warm."))
        self.mnt = self.scratch / "mnt"
        self.mnt.mkdir()
        root = self.open()
        cat(root, bench.files.all)
        if bench.big_file:
            run("cat", self.big())
        self.close()

    def open(self):
        env = {k: v for k, v in os.environ.items() if not k.startswith("XDG_")}
        run(self.program, "-o", f"cache={self.scratch}/cache", self.bench.url, self.mnt, env={**env, "HOME": str(self.scratch)})
        info = (self.mnt / ".control/info.json").read_text()
        self.pid = int(info.split('"pid":')[1].split(",")[0])
        self.bench.go_first(self.pid)
        os.stat(self.mnt / "app/1.0/rootfs/etc")
        return self.mnt / "app/1.0/rootfs"

    def mount_many(self, layout):
        run(self.program, "-o", f"cache={self.scratch}/many,cache_size=20G", f"dir:{layout}", self.mnt)
        self.pid = int((self.mnt / ".control/info.json").read_text().split('"pid":')[1].split(",")[0])
        return self.mnt / "1.0/rootfs"

    def big(self):
        return self.mnt / "big/1.0/rootfs/big"

    def warm_up(self):
        run("sh", "-c", f"find {self.scratch}/cache -type f -print0 | xargs -0 cat")

    def rss(self, what="VmHWM"):
        for line in pathlib.Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{what}:"):
                return int(line.split()[1]) / 1024

    def cpu(self):
        fields = pathlib.Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self):
        run(self.program, "umount", self.mnt)


class Rootfs(Registryfs):
    """The tree as a kernel file system, with the cache and the mount of another."""

    def __init__(self, other):
        self.__dict__.update(other.__dict__)
        self.name = f"{other.name} rootfs"
        self.top = self.scratch / "top"
        self.top.mkdir()

    def open(self):
        super().open()
        run(self.program, "rootfs", "-o", "erofs", self.mnt / "app/1.0", self.top)
        return self.top

    def close(self):
        run(self.program, "umount", self.top)
        super().close()


class Bench:
    def __init__(self, args):
        self.runs, self.only, self.figures = args.runs, args.only.split(","), {}
        self.big_file, self.first = None, args.first

    def go_first(self, pid):
        """Every session is a group of its own to the scheduler (autogroup): nice is not enough."""
        if self.first:
            pathlib.Path(f"/proc/{pid}/autogroup").write_text("-20")

    def note(self, figure, kind, value):
        if value is not None:
            self.figures.setdefault(figure, {}).setdefault(kind.name, []).append(value)

    def find(self, kind):
        drop_caches()
        root = kind.open()
        self.note("find cold", kind, seconds(find, root))
        self.note("find warm", kind, statistics.median(seconds(find, root) for _ in range(3)))
        kind.close()

    def tar(self, kind):
        drop_caches()
        root = kind.open()
        self.note("tar cold", kind, seconds(run, "sh", "-c", 'tar -C "$1" -cf - . | cat', "-", root))
        kind.close()

    def small(self, kind):
        drop_caches()
        root = kind.open()
        find(root)
        self.note("small cold", kind, seconds(cat, root, self.files.small))
        kind.close()

    def read(self, kind):
        root = kind.open()
        kind.warm_up()
        find(root)
        before = kind.cpu()
        self.note("read", kind, seconds(cat, root, self.files.all))
        if before is not None:
            self.note("cpu", kind, kind.cpu() - before)
        self.note("again", kind, statistics.median(seconds(cat, root, self.files.all) for _ in range(3)))
        kind.close()

    def iops(self, kind):
        root = kind.open()
        self.note("iops cold", kind, random_reads(root, self.files, lambda _: drop_caches()))
        kind.warm_up()
        self.note("iops cache", kind, random_reads(root, self.files, drop_pages if kind.cpu() is not None else lambda _: None))
        cat(root, join(n for _, n in self.files.largest))
        self.note("iops warm", kind, random_reads(root, self.files, lambda _: None))
        kind.close()

    def big(self, kind):
        if isinstance(kind, (Overlay, Rootfs)):
            return
        kind.open()
        kind.warm_up()
        run("cat", self.big_file)
        self.note("big", kind, seconds(run, "dd", f"if={kind.big()}", "of=/dev/null", "bs=1M", "status=none"))
        kind.close()

    def rss(self, kind):
        root = kind.open()
        readers = [subprocess.Popen(["xargs", "-0", "cat", "--"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=root)
                   for _ in range(READERS)]
        start = time.monotonic()
        for r, share in zip(readers, self.files.shares):
            r.stdin.write(share)
            r.stdin.close()
        for r in readers:
            assert r.wait() == 0
        self.note("8 readers", kind, time.monotonic() - start)
        self.note("rss", kind, kind.rss())
        kind.close()

    def many(self, kind):
        if not isinstance(kind, Registryfs):
            return
        root = kind.mount_many(self.many_layout)
        before = kind.rss("VmRSS")
        self.note("many index", kind, seconds(os.listdir, root))
        self.note("many peak", kind, kind.rss())
        self.note("many ls", kind, statistics.median(seconds(os.listdir, root / f"d{i * 777:05}") for i in range(11)))
        self.note("many bytes", kind, (kind.rss("VmRSS") - before) * (1 << 20) / MANY)
        kind.close()
        root = kind.mount_many(self.many_layout)
        self.note("many again", kind, seconds(os.listdir, root / "d00001"))
        kind.close()
        shutil.rmtree(kind.scratch / "many")

    def report(self):
        for figure, kinds in self.figures.items():
            print(f"\n{figure}")
            peer = kinds.get("overlay" if figure.startswith(("find", "tar")) else "disk")
            for name, values in kinds.items():
                m = statistics.median(values)
                ratio = ""
                if peer:
                    other = statistics.median(peer)
                    ratio = f"   x{m / other:.2f}"
                print(f"  {name:18}{m:12.3f} ({min(values):.3f}-{max(values):.3f}){ratio}")


def make_big(bench, registry, scratch):
    rng = random.Random(2)
    block = rng.randbytes(1 << 20)
    data = b"".join(i.to_bytes(8, "little") + block[8:] for i in range(BIG >> 20))
    bench.big_file = scratch / "big"
    bench.big_file.write_bytes(data)
    images.fill_storage(registry.storage, {"big": {"1.0": images.Image([images.Layer([images.file("big", data)], compress="none")])}})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--program", default=str(ROOT / "build" / "registryfs"))
    parser.add_argument("--baseline", help="another build, measured in turn with it")
    parser.add_argument("--only", default="find,tar,small,read,iops,big,rss")
    parser.add_argument("--first", action="store_true", help="ask the scheduler to put what is measured before all others")
    parser.add_argument("--cpu", type=int, help="measure on this processor alone: steadier, and without what waking another one costs")
    args = parser.parse_args()
    if args.cpu is not None:
        os.sched_setaffinity(0, {args.cpu})
    if args.first and os.getpid() != os.getsid(0):
        os.setsid()
    bench = Bench(args)
    bench.go_first("self")
    run(ROOT / "tests/fixtures/make-benchmark-image.sh")
    scratch = pathlib.Path(tempfile.mkdtemp(prefix="registryfs-warm."))
    kinds = []
    try:
        with servers.DockerRegistry28() as registry:
            layout = servers.CACHE / "benchmark-image/ocifull"
            bench.url, bench.tree = registry.url, scratch / "tree"
            treecmp.push_layout(layout, registry.url, "app")
            treecmp.umoci_unpack(layout, "1.0", bench.tree)
            bench.files = Files(bench.tree)
            if "big" in bench.only:
                make_big(bench, registry, scratch)
            if "many" in bench.only:
                bench.many_layout = scratch / "many"
                images.write_layout(bench.many_layout, {"1.0": hostile.many_entries(MANY)})
            kinds += [Disk(bench), Overlay(bench)]
            if args.baseline:
                kinds.append(Registryfs(bench, "baseline", pathlib.Path(args.baseline).resolve()))
            kinds.append(Registryfs(bench, "registryfs", pathlib.Path(args.program).resolve()))
            kinds.append(Rootfs(kinds[-1]))
            for number in range(args.runs):
                for what in bench.only:
                    for kind in kinds:
                        print(f"run {number + 1}: {what}: {kind.name}", file=sys.stderr)
                        getattr(bench, what)(kind)
    finally:
        for kind in kinds[2:]:
            shutil.rmtree(kind.scratch, ignore_errors=True)
        shutil.rmtree(scratch, ignore_errors=True)
    print(f"{os.cpu_count()} cores, kernel {os.uname().release}, {args.runs} runs: median (least-greatest) x ratio")
    bench.report()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
