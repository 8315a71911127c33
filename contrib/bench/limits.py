"""What the machine itself allows: rows that no file system can be much better than.

    Bare        L: `curl | igzip -dc` of all layers, in parallel, thrown away ("first"), and of the top layer ("last")
    LocalDisk   the unpacked tree on the local disk, read through overlayfs, all caches dropped
"""
import shlex
import statistics

import peers
import proc


class Bare(peers.Tool):
    name, programs, version, lazy = "L: curl, igzip, thrown away", ("curl", "igzip"), (), True
    parts = ("first", "last")

    def open(self):
        return None

    def read_one(self, what):
        urls = [f"{self.bench.registry.url}/v2/app/blobs/{la['digest']}" for la in self.bench.manifest(self.tag)["layers"]]
        urls = urls if what == "first" else urls[-1:]
        pipes = [f"curl -sSf {shlex.quote(u)} | igzip -dc >/dev/null || echo failed" for u in urls]
        said = proc.run("sh", "-c", "".join(f"{{ {p}; }} & " for p in pipes) + "wait", deadline=self.deadline).out
        if said:
            raise proc.Failed("curl | igzip failed")

    def rss(self):
        return None


class LocalDisk(peers.Tool):
    name, lazy, counted = "local disk, overlayfs", True, False

    def open(self):
        empty = self.scratch / "empty"
        for d in (empty, self.mnt):
            d.mkdir()
        self.run("mount", "-t", "overlay", "-o", f"ro,lowerdir={empty}:{self.bench.tree}", "overlay", self.mnt)
        return self.mnt

    def rss(self):
        return None

    def close(self):
        if proc.mounted(self.mnt):
            proc.unmount(self.mnt)


def aims(section):
    """(what, the aim, measured, in words), of the plain gzip image; as far as it was measured."""
    have = {(tool, f): statistics.median(v) for tool, figures in section.figures.items() for f, v in figures.items()}
    ours = lambda f: have.get(("registryfs", f))                                                   # noqa: E731
    bare, find, read = have.get((Bare.name, "first")), have.get((LocalDisk.name, "find")), have.get((LocalDisk.name, "all"))
    rows = [("file of the last layer", 0.080, ours("last"), "80 ms")]
    if bare:
        rows += [("file of the first layer", 1.25 * bare, ours("first"), "1.25 L")]
        if find:
            rows += [("find", bare + find, ours("find"), "L + find on the local disk")]
        if read:
            rows += [("read all files", 1.1 * (bare + read), ours("all"), "1.1 (L + reading on the local disk)")]
    return [r for r in rows if r[2]]
