"""The image of corner cases: every rule of merging layers and of reading tar, with the tree that must come out.

    image, expected = corner_case_image()                       everything
    image, expected = corner_case_image(disputed=False)         only what umoci 0.4.7 agrees with

Each case is a function that puts entries into three layers under a directory of its own and says what must be seen. The
disputed ones are those where tools differ; the expectation is this project's choice.
"""
import hashlib

from .images import Image, Layer
from .tarwriter import (MTIME, Entry, char, block, directory, fifo, file, global_header, hardlink, opaque, sparse, symlink,
                        to_bytes, whiteout)
from .treecmp import Node

KINDS = {b"0": "f", b"\0": "f", b"7": "f", b"S": "f", b"1": "f", b"2": "l", b"3": "c", b"4": "b", b"5": "d", b"6": "p"}
CASES = []


def node(e):
    """The Node an entry makes when nothing else touches it."""
    kind = KINDS[e.type]
    if kind == "f" and e.name.endswith(b"/"):
        kind = "d"
    n = Node(kind, e.mode & 0o7777, e.uid, e.gid, mtime_ns=e.mtime_ns, xattrs={**e.xattrs, **e.libarchive_xattrs})
    if kind != "d":
        n.nlink = 1
    if kind == "f":
        content = e.content if e.content is not None else bytes(e.data)
        n.size, n.sha256 = len(content), hashlib.sha256(content).hexdigest()
    elif kind == "l":
        n.link, n.size, n.mode = e.link, len(e.link), 0o777
    elif kind in "cb":
        n.rdev = (e.major, e.minor)
    return n


class Build:
    """What a case function gets: b(layer, entry) adds an entry, b.see(...) says what is expected."""

    def __init__(self):
        self.layers, self.tree = [[], [], []], {}

    def __call__(self, layer, *entries):
        self.layers[layer].extend(entries)
        return entries[0]

    def see(self, *entries, path=None):
        """The entries are seen as they are."""
        for e in entries:
            self.tree[path or e.name.rstrip(b"/")] = node(e)

    def put(self, layer, *entries):
        """Adds and expects."""
        self(layer, *entries)
        self.see(*entries)
        return entries[0]

    def implied(self, *paths):
        """Directories that no entry made."""
        for p in paths:
            self.tree[to_bytes(p)] = Node("d", 0o755, 0, 0, xattrs={})

    def linked(self, *paths):
        """All these are one inode, whose node is that of the first."""
        group = tuple(sorted(to_bytes(p) for p in paths))
        first = self.tree[to_bytes(paths[0])]
        for p in group:
            self.tree[p] = Node(**{**vars(first), "nlink": len(group), "group": group})


def case(disputed=False):
    def add(function):
        CASES.append((function, disputed))
        return function
    return add


def old(name, text=b"old", **kw):
    return file(name, text, mtime=MTIME - 1000, **kw)


@case()
def root_entry(b):
    b(0, directory("./", 0o755))
    e = directory("./", 0o750, uid=3, gid=4)
    b(1, e)
    b.see(e, path=b".")


@case()
def whiteouts(b):
    b.put(0, directory("wh"), file("wh/stay", "stay"))
    b(0, old("wh/gone"), directory("wh/dir"), old("wh/dir/a"), directory("wh/dir/b"), old("wh/dir/b/c"),
      symlink("wh/link", "stay"), directory("wh/.dots"), old("wh/.dots/x"))
    b(1, whiteout("wh/gone"), whiteout("wh/dir"), whiteout("wh/link"), whiteout("wh/.dots"), whiteout("wh/never-there"))


@case()
def whiteout_spares_its_own_layer(b):
    b.put(0, directory("own"))
    b(0, old("own/a"), directory("own/d"), old("own/d/x"))
    b.put(1, file("own/a", "new"), directory("own/d", 0o700), file("own/d/y", "y"))
    b(1, whiteout("own/a"), whiteout("own/d"))
    b(1, whiteout("own/before"))
    b.put(1, file("own/before", "b"))


@case()
def opaque_markers(b):
    for name, last in (("opq-last", True), ("opq-first", False)):
        b(0, directory(name), old(name + "/a"), directory(name + "/sub"), old(name + "/sub/c"))
        new = [file(name + "/new", "n"), directory(name + "/sub", 0o711), file(name + "/sub/d", "d")]
        b.put(1, directory(name, 0o2755, uid=9))
        if not last:
            b(1, opaque(name))
        b.put(1, *new)
        if last:
            b(1, opaque(name))


@case()
def opaque_leaves_later_layers_alone(b):
    b(0, directory("opq2"), old("opq2/a"))
    b.put(1, directory("opq2"))
    b(1, opaque("opq2"))
    b.put(1, file("opq2/b", "b"))
    b.put(2, file("opq2/a", "a again"))


@case()
def deleted_directory_made_again(b):
    b.put(0, directory("again"))
    b(0, directory("again/d"), old("again/d/old"))
    b(1, whiteout("again/d"))
    b.put(2, directory("again/d"), file("again/d/new", "n"))


@case()
def type_changes(b):
    b.put(0, directory("ch"), directory("ch/target"), file("ch/target/f", "f"))
    b(0, directory("ch/dir-file"), old("ch/dir-file/y"), old("ch/file-dir"), directory("ch/dir-link"),
      old("ch/dir-link/z"), symlink("ch/link-dir", "target"), symlink("ch/link-file", "target/f"), fifo("ch/fifo-file"),
      old("ch/file-char"))
    b.put(1, file("ch/dir-file", "now a file"), directory("ch/file-dir"), file("ch/file-dir/in", "i"),
          symlink("ch/dir-link", "target"), directory("ch/link-dir", 0o700), file("ch/link-dir/g", "g"),
          file("ch/link-file", "own content"), file("ch/fifo-file", "f"), char("ch/file-char", 1, 3))


@case()
def directory_attributes_are_replaced_and_contents_merged(b):
    b(0, directory("dd", 0o755, mtime=1))
    b.put(0, file("dd/low", "l"))
    b.put(1, directory("dd", 0o1770, uid=7, gid=8, mtime=1_600_000_000, xattrs={"user.dd": b"2"}), file("dd/high", "h"))


@case(disputed=True)        # umoci follows the symlink
def entry_below_a_lower_symlink(b):
    b.put(0, directory("bls"), directory("bls/real"), file("bls/real/f", "f"))
    b(0, symlink("bls/link", "real"), symlink("bls/abs", "/bls/real"), symlink("bls/out", "../../../../etc"))
    b.put(1, file("bls/link/g", "g"), file("bls/abs/h", "h"), file("bls/out/passwd", "p"))
    b.implied("bls/link", "bls/abs", "bls/out")


@case()
def duplicates_last_wins(b):
    b.put(0, directory("dup"))
    b(0, old("dup/x"), old("dup/x", b"older"), old("dup/y"), directory("dup/z"), directory("dup/attr", 0o700))
    b.put(0, file("dup/x", "last"), symlink("dup/y", "x"), directory("dup/attr", 0o755, uid=5))
    b.put(0, directory("dup/z", 0o711), file("dup/z/in", "in"))


@case()
def hard_links(b):
    b.put(0, directory("hl"), file("hl/a", "content of a", xattrs={"user.hl": b"x"}))
    b(0, hardlink("hl/b", "hl/a"), hardlink("hl/c", "hl/b"), hardlink("hl/dot", "./hl/a"), hardlink("hl/abs", "/hl/a"))
    b.linked("hl/a", "hl/b", "hl/c", "hl/dot", "hl/abs")
    b.put(0, symlink("hl/s", "a"))
    b(0, hardlink("hl/s2", "hl/s"))
    b.linked("hl/s", "hl/s2")


@case()
def hard_links_across_layers(b):
    b.put(0, directory("hx"), file("hx/a", "a"), file("hx/k", "k"), file("hx/w", "w"))
    b(0, hardlink("hx/b", "hx/a"))
    b(1, hardlink("hx/c", "hx/a"), hardlink("hx/l", "hx/k"), hardlink("hx/v", "hx/w"))
    b.see(file("hx/c", "a"))
    b.see(file("hx/l", "k"))
    b.see(file("hx/v", "w"))
    b.tree[b"hx/b"] = b.tree[b"hx/a"]
    b.linked("hx/b", "hx/c")
    b.put(2, file("hx/a", "a replaced"))             # the links keep the old content
    b(2, whiteout("hx/w"))                           # and survive the removal of their target
    del b.tree[b"hx/w"]
    b.linked("hx/k", "hx/l")


@case()
def hard_link_with_a_size(b):
    b.put(0, directory("hsize"), file("hsize/a", "12345"))
    b(0, hardlink("hsize/b", "hsize/a", size=5))
    b.linked("hsize/a", "hsize/b")
    b.put(0, file("hsize/next", "found"))


@case(disputed=True)        # umoci gives up
def hard_links_that_lead_nowhere(b):
    b.put(0, directory("hbad"), file("hbad/self", "s"))
    b(0, hardlink("hbad/self", "hbad/self"), hardlink("hbad/nowhere", "hbad/absent"), hardlink("hbad/todir", "hbad"),
      hardlink("hbad/forward", "hbad/later"))
    b.put(0, file("hbad/later", "l"), file("hbad/after", "still read"))
    b.linked("hbad/later", "hbad/forward")           # nothing below, so the one that comes later in the archive


@case()
def whiteout_that_is_a_hard_link(b):
    b.put(0, directory("whl"), file("whl/y", "y"))
    b(0, old("whl/x"))
    b(1, hardlink("whl/.wh.x", "whl/y"))


@case()
def whiteout_whose_target_is_whited_out_below(b):
    b.put(0, directory("ww"))
    b(0, directory("ww/test"), old("ww/test/test"))
    b(1, whiteout("ww/test"), whiteout("ww/test/test"))
    b.put(1, file("ww/other", "o"))


@case()
def aufs_leftovers(b):
    b.put(0, directory("aufs"), file("aufs/keep", "k"))
    b(0, file("aufs/.wh..wh.aufs"), file("aufs/.wh..wh.orph"))
    b(1, file("aufs/.wh..wh.plnk"))


@case(disputed=True)        # umoci makes a directory of that name
def marker_like_directories(b):
    b.put(0, directory("mdir"), file("mdir/x", "x"))
    b(1, file("mdir/.wh.x/y", "y"), file("mdir/.wh..opq/z", "z"))


@case()
def missing_parents(b):
    b.put(0, file("mp/a/b/c", "c"))
    b.implied("mp", "mp/a", "mp/a/b")
    b.put(0, directory("mp2", 0o700, uid=5))
    b.put(1, file("mp2/x", "x"))
    b.put(1, file("mp2/deep/y", "y"))
    b.implied("mp2/deep")


@case()
def odd_names(b):
    b.put(0, directory("nm"), directory("nm/sub"))
    for spelled, seen in (("./nm/dot", "nm/dot"), ("/nm/abs", "nm/abs"), ("nm//double", "nm/double"),
                          ("nm/./inner", "nm/inner"), ("nm/sub/../up", "nm/up"), ("//nm//./x", "nm/x")):
        e = b(0, file(spelled, seen))
        b.see(e, path=to_bytes(seen))
    for name in (b"nm/\xff\xfe-not-utf8", b"nm/new\nline", b"nm/tab\t\\back\"quote'", b"nm/ space ", b"nm/-dash", b"nm/\x01ctl",
                 b"nm/\xc3\xa4\xe2\x82\xac", b"nm/a\xcc\x88", b"nm/%41", b"nm/*", b"nm/:colon", b"nm/wh.", b"nm/..."):
        b.put(0, file(name, name))
    b.put(0, file(b"nm/" + b"n" * 255, "longest"), file("nm/" + "h" * 97, "exactly 100"))
    deep, parts = "nm", []
    for i in range(9):
        deep += f"/{i}" + "d" * 60
        parts.append(deep)
    for i, p in enumerate(parts):
        b.put(0, directory(p, format="pax" if i % 2 else "gnu"))
    b.put(0, file(deep + "/pax", "p"), file(deep + "/gnu", "g", format="gnu"),
          symlink(deep + "/paxlink", "t" * 150), symlink(deep + "/gnulink", "t" * 160, format="gnu"))
    b.put(0, file("nm/" + "p" * 60 + "/" + "q" * 60 + "/in-prefix", "x", format="ustar"))
    b.implied("nm/" + "p" * 60, "nm/" + "p" * 60 + "/" + "q" * 60)
    e = b(0, Entry("nm/v7dir/", b"\0", mode=0o750, format="v7"))
    b.see(e)
    b.put(0, Entry("nm/v7file", b"\0", b"v7", format="v7"))


@case()
def numbers(b):
    b.put(0, directory("num"))
    b.put(0, file("num/frac", "1", mtime="1700000000.123456789"), file("num/neg", "2", mtime=-100),
          file("num/neg-gnu", "3", mtime=-100, format="gnu"), file("num/negfrac", "4", mtime="-1.5"),
          file("num/biguid", "5", uid=3_000_000_000, gid=2_500_000), file("num/gnuuid", "6", uid=3_000_000, format="gnu"),
          file("num/b256", "seven", uid=70, gid=71, base256=True, format="gnu"), file("num/2040", "8", mtime=2**33 + 5),
          file("num/setuid", "9", mode=0o4755), file("num/setgid", "a", mode=0o2755), file("num/modebits", "b", mode=0o100640),
          file("num/none", "c", mode=0), file("num/named", "d", uid=12, uname="nobody", gname="no-such-group"),
          directory("num/sticky", 0o1777), file("num/epoch", "", mtime=0))
    e = b(0, file("num/paxsize", b"real size", size=0, pax=[("size", "9"), ("comment", "hi"), ("FOO.bar", "baz=1")]))
    b.see(e)
    e = b(0, file("num/renamed-from", "r", pax=[("path", "num/renamed")]))
    b.see(e, path=b"num/renamed")


@case()
def empty_pax_values_reset(b):
    b.put(0, directory("reset"))
    b.put(0, file("reset/path", "e", pax=[("path", "")]), file("reset/mtime", "m", mtime=77, pax=[("mtime", "")]),
          file("reset/xattr", "x", xattrs={"user.gone": b""}, pax=[("uid", "")]))
    b.tree[b"reset/xattr"].xattrs = {}


@case(disputed=True)        # tools differ on global headers
def global_headers(b):
    b.put(0, directory("glob"))
    b(0, global_header([("comment", "0123456789abcdef"), ("path", "glob/wrong"), ("size", "1")]))
    b.put(0, file("glob/one", "one"), file("glob/two", "two"))


@case()
def xattrs(b):
    b.put(0, directory("xa", xattrs={"user.dir": b"on a directory"}))
    caps = bytes.fromhex("0100000200200000000000000000000000000000")
    b.put(0, file("xa/bin", "b", xattrs={"user.nul": b"a\0b\n=c\xff", "user.other": b"v" * 300}),
          file("xa/caps", "c", xattrs={"security.capability": caps}),
          file("xa/trusted", "t", xattrs={"trusted.registryfs-test": b"t"}))


@case(disputed=True)        # umoci does not know these records
def libarchive_xattrs(b):
    b.put(0, directory("xl"))
    b.put(0, file("xl/a", "a", libarchive_xattrs={"user.lib": b"\0\1\2", "user.sp ace": b"x"}))


@case()
def sparse_files(b):
    b.put(0, directory("sp"))
    pieces = [(4096, b"one+" * 128), (100_352, b"two+" * 1024), (200_192, b"end"), (300_000, b"")]
    b.put(0, file("sp/before", "b"))
    for kind in ("0.0", "0.1", "1.0"):
        e = b(0, sparse(f"sp/pax-{kind}", pieces, 300_000, kind))
        b.see(e, path=to_bytes(f"sp/pax-{kind}"))
    e = b(0, sparse("sp/all-hole", [(5000, b"")], 5000, "1.0"))
    b.see(e, path=b"sp/all-hole")
    b.put(0, file("sp/after", "found behind the sparse ones"))


@case()                     # GNU tar wants whole blocks and cuts off after the last piece; others read the pieces densely
def sparse_files_with_odd_maps(b):
    b.put(0, directory("sph"))
    for kind in ("0.0", "0.1", "1.0"):
        e = b(0, sparse(f"sph/{kind}", [(0, b"start"), (70_000, b"end")], 99_999, kind))
        b.see(e, path=to_bytes(f"sph/{kind}"))
    b.put(0, file("sph/after", "a"))


@case(disputed=True)        # refused by several tools
def old_gnu_sparse_files(b):
    b.put(0, directory("spg"))
    b.put(0, sparse("spg/few", [(512, b"x" * 1024), (8192, b"y" * 10), (9000, b"")], 9000, "gnu"))
    many = [(i * 8192, bytes([65 + i % 26]) * 512) for i in range(60)]
    b.put(0, sparse("spg/many", many + [(60 * 8192, b"")], 60 * 8192, "gnu"), file("spg/after", "a"))


@case()
def special_files(b):
    b.put(0, directory("dev"), char("dev/null", 1, 3, mode=0o666), block("dev/sda", 8, 0, mode=0o660, gid=6), fifo("dev/pipe"),
          char("dev/big", 300, 70000), symlink("dev/dangling", "/no/where"), symlink("dev/loop", "loop"),
          symlink("dev/up", "../../../../../../etc/passwd"), symlink("dev/bytes", b"\xff\xfe"))


@case(disputed=True)
def contiguous_files(b):
    b.put(0, directory("cont"), Entry("cont/seven", b"7", b"content"))


@case()
def large_file(b):
    b.put(0, directory("big"), file("big/pattern", b"".join(i.to_bytes(4, "big") for i in range(800_000))))
    b.put(2, file("big/top", bytes(range(256)) * 4096))


def corner_case_image(disputed=True, compress=("gzip-multi", "gzip-named", "gzip", "gzip"), one_case=None):
    """(Image, expected tree). compress: of the layers (an empty one sits between the second and the third).

    one_case: name of a case function, for a test of that case alone.
    """
    b = Build()
    b.tree[b"."] = Node("d")
    for function, is_disputed in CASES:
        if one_case is not None and function.__name__ != one_case or is_disputed and not disputed:
            continue
        function(b)
    parts = [b.layers[0], b.layers[1], [], b.layers[2]]
    return Image([Layer(p, c) for p, c in zip(parts, compress)]), b.tree


def case_names(disputed=True):
    return [f.__name__ for f, d in CASES if disputed or not d]
