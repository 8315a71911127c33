#!/usr/bin/env python3
"""Measures registryfs beside the tools that people use instead, all in one run on one machine.

    contrib/bench/bench.py [--runs 5] [--peers all|podman,umoci,...] [--program build/registryfs]

podman, skopeo, umoci and crane come with tests/install-tools.sh; ratarmount (PyPI), ocifuse (github.com/imjasonh/ocifuse) and
ocifs (github.com/greatliontech/ocifs) have to be on PATH or in the tests' cache to be measured.

A docker-registry on loopback serves the benchmark image (tests/fixtures). Every figure is the median of the runs, with the
least and the greatest; every run starts from nothing (no cache, no storage) unless it says "warm". The last columns are
ratios to registryfs measured in the same run. Nothing here is a test: it prints, and asserts only that the right bytes
were read.

Columns: first = one file of the lowest layer, from nothing to its last byte; last = one file of the top layer; find = walk of
the whole tree from nothing; warm = the same walk again; read = all files; again = all files once more; iops = 4 KiB reads
at random offsets of the largest files, page cache dropped; rss = peak resident memory of the daemon or the largest process.
"""
import argparse
import os
import pathlib
import random
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from lib import servers, treecmp                                     # noqa: E402

FIRST, LAST = "usr/lib/os-release", "etc/motd"
FIGURES = ["first", "last", "find", "warm", "read", "again", "iops", "rss"]


def run(*command, **kw):
    return subprocess.run([str(c) for c in command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **kw)


def drop_caches():
    try:
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")
    except OSError:
        pass


def peak(pid):
    for line in pathlib.Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return 0.0


def walk(root):
    return int(subprocess.run(f"find {root}/ | wc -l", shell=True, capture_output=True, text=True, check=True).stdout)


def read_all(root):
    run("sh", "-c", f"find {root}/ -type f -print0 | xargs -0 cat >/dev/null")


def random_reads(root, count=2000):
    """4 KiB reads per second over the twenty largest files."""
    files = sorted(((os.lstat(p).st_size, p) for p in
                    (os.path.join(d, f) for d, _, names in os.walk(root) for f in names) if os.path.isfile(p) and not os.path.islink(p)),
                   reverse=True)[:20]
    rng = random.Random(1)
    fds = [(os.open(p, os.O_RDONLY), size) for size, p in files]
    drop_caches()
    start = time.monotonic()
    for _ in range(count):
        fd, size = rng.choice(fds)
        os.pread(fd, 4096, rng.randrange(max(1, size - 4096)))
    rate = count / (time.monotonic() - start)
    for fd, _ in fds:
        os.close(fd)
    return rate


class Tool:
    """Makes the image's tree appear at a path; open() is timed."""
    name = ""

    def __init__(self, bench, scratch):
        self.bench, self.scratch = bench, pathlib.Path(scratch)

    def open(self):
        raise NotImplementedError

    def close(self):
        pass

    def rss(self):
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


class Registryfs(Tool):
    name = "registryfs"

    def open(self):
        mnt = self.scratch / "mnt"
        mnt.mkdir()
        env = {**os.environ, "HOME": str(self.scratch)}
        for v in ("XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"):
            env.pop(v, None)
        run(self.bench.program, "-o", f"cache={self.scratch}/cache", self.bench.registry.url, mnt, env=env)
        info = (mnt / ".control/info.json").read_text()
        self.pid = int(info.split('"pid":')[1].split(",")[0])
        self.mnt = mnt
        return mnt / "app/1.0/rootfs"

    def rss(self):
        return peak(self.pid)

    def close(self):
        run(self.bench.program, "umount", self.mnt)


class Podman(Tool):
    name = "podman pull + mount"

    def podman(self, *args):
        return subprocess.run(["podman", "--root", self.scratch / "root", "--runroot", self.scratch / "run", *args],
                              check=True, capture_output=True, text=True).stdout.strip()

    def open(self):
        ref = f"{self.bench.host}/app:1.0"
        self.podman("pull", "-q", "--tls-verify=false", ref)
        return pathlib.Path(self.podman("image", "mount", ref))

    def close(self):
        self.podman("image", "umount", "--all", "--force")
        self.podman("rmi", "--all", "--force")


class Umoci(Tool):
    name = "skopeo + umoci"

    def open(self):
        run("skopeo", "copy", "--src-tls-verify=false", f"docker://{self.bench.host}/app:1.0", f"oci:{self.scratch}/oci:1.0")
        run("umoci", "raw", "unpack", "--image", f"{self.scratch}/oci:1.0", self.scratch / "rootfs")
        return self.scratch / "rootfs"


class Crane(Tool):
    name = "crane export | tar"

    def open(self):
        (self.scratch / "rootfs").mkdir()
        run("sh", "-c", f"{servers.tool('crane')} export --insecure {self.bench.host}/app:1.0 - | tar -x -C {self.scratch}/rootfs")
        return self.scratch / "rootfs"


class Ratarmount(Tool):
    name = "skopeo + ratarmount"

    def open(self):
        run("skopeo", "copy", "--src-tls-verify=false", f"docker://{self.bench.host}/app:1.0", f"oci:{self.scratch}/oci:1.0")
        import json
        blobs = self.scratch / "oci/blobs/sha256"
        index = json.loads((self.scratch / "oci/index.json").read_text())
        manifest = json.loads((blobs / index["manifests"][0]["digest"][7:]).read_text())
        layers = [blobs / layer["digest"][7:] for layer in manifest["layers"]]
        self.mnt = self.scratch / "mnt"
        self.mnt.mkdir()
        run("ratarmount", "--index-folders", self.scratch, *layers, self.mnt)
        return self.mnt

    def close(self):
        run("fusermount3", "-u", self.mnt)


class Ocifuse(Tool):
    name = "ocifuse"

    def open(self):
        self.mnt = self.scratch / "mnt"
        self.mnt.mkdir()
        env = {**os.environ, "HOME": str(self.scratch), "XDG_CACHE_HOME": str(self.scratch / "cache")}
        self.process = subprocess.Popen([servers.tool("ocifuse"), self.mnt], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not os.path.ismount(self.mnt):
            assert self.process.poll() is None, "ocifuse ended"
            time.sleep(0.005)
        return self.mnt / self.bench.host / "app:1.0"

    def rss(self):
        return peak(self.process.pid)

    def close(self):
        run("fusermount3", "-uz", self.mnt)
        self.process.terminate()
        self.process.wait()


class Ocifs(Ocifuse):
    name = "ocifs"

    def open(self):
        self.mnt = self.scratch / "mnt"
        self.mnt.mkdir()
        self.process = subprocess.Popen([servers.tool("ocifs"), "-i", f"{self.bench.host}/app:1.0", "-m", self.mnt,
                                         "-w", self.scratch / "work"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while not os.path.ismount(self.mnt):
            assert self.process.poll() is None, "ocifs ended"
            time.sleep(0.005)
        return self.mnt


PEERS = {"podman": Podman, "umoci": Umoci, "crane": Crane, "ratarmount": Ratarmount, "ocifuse": Ocifuse, "ocifs": Ocifs}


class Bench:
    def __init__(self, args):
        self.program = pathlib.Path(args.program).resolve()
        self.runs, self.figures, self.failed = args.runs, {}, {}

    def note(self, tool, figure, value):
        self.figures.setdefault(tool, {}).setdefault(figure, []).append(value)

    def timed(self, tool, figure, function, *args):
        start = time.monotonic()
        result = function(*args)
        self.note(tool, figure, time.monotonic() - start)
        return result

    def one(self, kind, what):
        """One run from nothing; what: first, last or find."""
        scratch = tempfile.mkdtemp(prefix="registryfs-bench.")
        drop_caches()
        tool = kind(self, scratch)
        try:
            start = time.monotonic()
            root = tool.open()
            if what == "find":
                entries = walk(root)
                self.note(tool.name, "find", time.monotonic() - start)
                self.timed(tool.name, "warm", walk, root)
                assert entries > 9000, f"{tool.name}: {entries} entries"
                self.timed(tool.name, "read", read_all, root)
                self.timed(tool.name, "again", read_all, root)
                self.note(tool.name, "iops", random_reads(root))
                self.note(tool.name, "rss", tool.rss())
            else:
                data = (root / (FIRST if what == "first" else LAST)).read_bytes()
                self.note(tool.name, what, time.monotonic() - start)
                assert data == self.expected[what], f"{tool.name}: wrong bytes"
        finally:
            try:
                tool.close()
            finally:
                shutil.rmtree(scratch, ignore_errors=True)

    def guarded(self, kind, what):
        """A peer that fails is reported and measured no further; we ourselves must not fail."""
        try:
            self.one(kind, what)
        except (AssertionError, OSError, subprocess.SubprocessError) as e:
            if kind is Registryfs:
                raise
            print(f"{kind.name}: {what}: {e}", file=sys.stderr)
            self.failed.setdefault(kind.name, f"{what}: {e}")

    def tags(self):
        """ls of 10 000 tags, beside crane ls."""
        images = __import__("lib.images", fromlist=["images"])
        image = images.Image([images.Layer([images.file("a", "b")])])
        with servers.DockerRegistry28() as registry:
            images.fill_storage(registry.storage, {"many": {f"t{i:05}": image for i in range(10000)}})
            for _ in range(self.runs):
                start = time.monotonic()
                run(servers.tool("crane"), "ls", "--insecure", f"{registry.host}/many" if ":" in registry.host else f"{registry.host}:{registry.port}/many")
                self.note("crane", "ls 10 000 tags", time.monotonic() - start)
                scratch = tempfile.mkdtemp(prefix="registryfs-bench.")
                mnt = pathlib.Path(scratch) / "mnt"
                mnt.mkdir()
                run(self.program, "-o", f"cache={scratch}/cache", registry.url, mnt, env={**os.environ, "HOME": scratch})
                start = time.monotonic()
                count = len(os.listdir(mnt / "many"))
                self.note("registryfs", "ls 10 000 tags", time.monotonic() - start)
                assert count == 10000, count
                start = time.monotonic()
                run("ls", "-l", mnt / "many")
                self.note("registryfs", "ls -l, after it", time.monotonic() - start)
                run(self.program, "umount", mnt)
                shutil.rmtree(scratch, ignore_errors=True)

    def report(self):
        def cell(values):
            return f"{statistics.median(values):9.3f} ({min(values):.3f}-{max(values):.3f})" if values else f"{'-':>9}"
        for name, why in self.failed.items():
            print(f"failed: {name}: {why}")
        own = self.figures["registryfs"]
        for figure in [*FIGURES, "ls 10 000 tags", "ls -l, after it"]:
            print(f"\n{figure}")
            for tool, figures in self.figures.items():
                values = figures.get(figure)
                if not values:
                    continue
                ratio = ""
                if tool != "registryfs" and own.get(figure):
                    a, b = statistics.median(values), statistics.median(own[figure])
                    ratio = f"   x{(b / a if figure == 'iops' else a / b):.2f}"
                print(f"  {tool:24}{cell(values)}{ratio}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--peers", default="podman,umoci,crane")
    parser.add_argument("--program", default=str(ROOT / "build" / "registryfs"))
    parser.add_argument("--only", default="first,last,find,tags")
    args = parser.parse_args()
    peers = list(PEERS) if args.peers == "all" else [p for p in args.peers.split(",") if p]
    bench = Bench(args)
    run(ROOT / "tests/fixtures/make-benchmark-image.sh")
    image = servers.CACHE / "benchmark-image"
    with servers.DockerRegistry28() as registry, tempfile.TemporaryDirectory() as scratch:
        bench.registry, bench.host = registry, registry.url.split("://")[1]
        treecmp.push_layout(image / "oci", registry.url, "app")
        treecmp.umoci_unpack(image / "oci", "1.0", pathlib.Path(scratch) / "tree")
        bench.expected = {w: next(pathlib.Path(scratch).glob(f"tree/{f}")).read_bytes() for w, f in (("first", FIRST), ("last", LAST))}
        for number in range(args.runs):
            for kind in [Registryfs, *(PEERS[p] for p in peers)]:
                for what in ("first", "last", "find"):
                    if what in args.only.split(","):
                        print(f"run {number + 1}: {kind.name}: {what}", file=sys.stderr)
                        bench.guarded(kind, what)
    if "tags" in args.only.split(","):
        bench.tags()
    print(f"{os.cpu_count()} cores, kernel {os.uname().release}, {args.runs} runs, seconds (rss: MiB, iops: per second): median (least-greatest) x ratio")
    bench.report()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    main()
