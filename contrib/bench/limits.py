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


def lazy_aims(have, whole):
    """Of every format that says where everything is, beside the plain image of `whole` MiB and stargz-store."""
    rows, plain = [], have.get(("registryfs, gzip", "all"))
    theirs = {f: have.get((peers.StargzStore.name, f)) for f in ("find", "warm", "again", "restart", "rss")}
    for tool in dict.fromkeys(t for t, _ in have if t.startswith("registryfs, ") and not t.endswith(" gzip")):
        name = tool.removeprefix("registryfs, ")
        rows += [(f"{name}: first file", 0.060, have.get((tool, "first")), "60 ms"),
                 (f"{name}: MiB for it", 0.02 * whole, have.get((tool, "first MiB")), "2 % of the image"),
                 (f"{name}: read all files", plain, have.get((tool, "all")), "as the plain image")]
        rows += [(f"{name}: {what}", theirs[f], have.get((tool, f)), "as stargz-store") for f, what in
                 (("find", "find"), ("warm", "find again"), ("again", "read all again"), ("restart", "restart"), ("rss", "memory"))]
    return [r for r in rows if r[1] and r[2]]


def aims(section):
    """(what, the aim, measured, in words), as far as it was measured: of the plain gzip image, or of the other formats."""
    have = {(tool, f): statistics.median(v) for tool, figures in section.figures.items() for f, v in figures.items()}
    whole = have.get(("registryfs, gzip", "all MiB"))
    if whole:
        return lazy_aims(have, whole)
    own = lambda f: have.get(("registryfs", f))                                                    # noqa: E731
    bare, find, read = have.get((Bare.name, "first")), have.get((LocalDisk.name, "find")), have.get((LocalDisk.name, "all"))
    rows = [("file of the last layer", 0.080, own("last"), "80 ms")]
    if bare:
        rows += [("file of the first layer", 1.25 * bare, own("first"), "1.25 L")]
        if find:
            rows += [("find", bare + find, own("find"), "L + find on the local disk")]
        if read:
            rows += [("read all files", 1.1 * (bare + read), own("all"), "1.1 (L + reading on the local disk)")]
    return [r for r in rows if r[2]]
