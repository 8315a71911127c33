"""Images made to do harm. A mount may refuse them or show what is sane of them; it must not crash, hang, leave its tree or
take more memory than its limits.

hostile_images() gives the small ones ready made; large_hostile_images() gives functions, since those take seconds.
"""
import hashlib
import zlib

from .images import Image, Index, Layer, descriptor
from .tarwriter import (Entry, char, compress, directory, file, global_header, hardlink, head, opaque, raw, sparse, symlink,
                        tar_chunks, whiteout)

OK = [directory("ok"), file("ok/file", "fine")]
SENTINEL = b"registryfs-escape-sentinel"      # content of every file that tries to land outside


def hostile_images():
    """dict: name -> Image or Index."""
    out = {}

    def layer(name, entries, **kw):
        out[name] = Image([Layer([*OK, *entries], **kw)])

    layer("dotdot", [file("../escape", SENTINEL), file("../../../../tmp/escape", SENTINEL), file("ok/../../escape", SENTINEL),
                     file("..", SENTINEL), directory("../dir"), file(".", SENTINEL), file("", SENTINEL), file("/", SENTINEL)])
    layer("absolute", [file("/etc/escape", SENTINEL), file("//escape", SENTINEL)])
    layer("symlinked-parent", [symlink("ln", "/tmp"), file("ln/escape", SENTINEL), symlink("up", "../../.."),
                               file("up/escape", SENTINEL), symlink("a", "b"), symlink("b", "/"), file("a/tmp/escape", SENTINEL)])
    layer("symlink-escape", [symlink("passwd", "/etc/passwd"), symlink("rel", "../../../../../../../etc/passwd"),
                             symlink("deep", "ok/../../../etc/passwd"), symlink("proc", "/proc/self/root/etc/passwd")])
    layer("symlink-cycle", [symlink("a", "b"), symlink("b", "a"), symlink("self", "self"), symlink("x", "y/z"),
                            directory("y"), symlink("y/z", "../x"), *(symlink(f"c{i}", f"c{i + 1}") for i in range(200))])
    layer("symlink-fanout", [directory("d"), *(symlink(f"d/l{i}", f"l{i + 1}/../l{i + 1}/..") for i in range(60))])
    layer("hardlink-escape", [hardlink("passwd", "/etc/passwd"), hardlink("rel", "../../../../etc/passwd"),
                              hardlink("viadots", "ok/../../etc/passwd"), symlink("ln", "/etc"), hardlink("vialn", "ln/passwd")])
    layer("hardlink-loop", [hardlink("a", "b"), hardlink("b", "a"), hardlink("c", "c"), hardlink("dir", "ok"),
                            hardlink("d1", "d2"), hardlink("d2", "d3"), hardlink("d3", "d1")])
    layer("hardlink-to-marker", [file(".wh.x"), hardlink("y", ".wh.x"), hardlink("z", "ok/.wh..wh..opq")])
    layer("bare-whiteout", [file(".wh."), file("ok/.wh."), whiteout(".."), whiteout("."), whiteout("ok/.."), opaque("."),
                            opaque(".."), file("ok/.wh..."), file("ok/.wh..wh.")])
    layer("duplicates", [e for i in range(2000) for e in (file("dup", str(i)), directory("dup"), file("dup/x", str(i)))])
    layer("not-utf8", [file(bytes([0x80 + i]) * 20, "x") for i in range(100)] + [file(b"\xed\xa0\x80", "surrogate"),
          file(b"\xc0\xaf", "overlong slash"), file(b"ok/\x1b[2J\x07", "terminal"), symlink(b"ok/l\xff", b"\xff" * 50)])
    layer("control-names", [file(bytes([c]), "x") for c in range(1, 32)] + [file(b"a\rb\nc", "x"), file(b"\x7f", "x")])
    layer("nul-in-pax", [file("nul", "x", pax=[(b"path", b"ok/a\0b")]), file("nul2", "x", pax=[(b"linkpath", b"a\0b")])])
    layer("long-names", [file("c" * 256, "256"), file("c" * 300 + "/x", "in 300"), file("/".join(["p" * 200] * 30), "6000"),
                         file("n" * 100_000, "100 k"), symlink("l", "t" * 5000), symlink("l2", "t" * 100_000), symlink("l3", "")])
    layer("deep", [file("/".join(["d"] * 2000), "2000 levels"), directory("/".join(["e"] * 1000))])
    layer("pax-overflow", [file("a", b"x", pax=[("size", "99999999999999999999999")]), file("b", b"x", pax=[("uid", "-5")]),
                           file("c", b"x", pax=[("mtime", "9" * 400)]), file("d", b"x", pax=[("size", "-1")])])
    layer("pax-junk", [raw(_pax(b"99999999999 path=x\n")), raw(_pax(b"5 a=b")), raw(_pax(b"0 =\n")), raw(_pax(b"-4 a=b\n")),
                       raw(_pax(b"garbage without any structure")), raw(_pax(b"")), raw(_pax(b"12 pathnoeq\n")), file("after", "a")])
    layer("pax-huge", [file("a", b"x", pax=[("comment", "c" * (8 << 20))]), file("b", "x", xattrs={"user.big": b"v" * (2 << 20)}),
                       file("c", "x", xattrs={f"user.n{i}": b"v" for i in range(5000)})])
    layer("pax-chain", [raw(_pax(b"12 path=abc\n") * 1) for _ in range(5000)] + [file("after", "a")])
    layer("global-headers", [global_header([("path", "../escape"), ("size", "1000000")]), file("a", "a"), file("b", "b")])
    layer("longlink-huge", [raw(_longlink(b"L", 0o77777777777)), file("after", "x")])
    layer("sizes", [Entry("neg", b"0", b"", size=-1, format="gnu"), file("after", "x")])
    layer("size-2^62", [Entry("huge", b"0", b"", size=1 << 62, format="gnu")])
    layer("sparse-lies", [file("a", b"x" * 10, pax=[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"),
                          ("GNU.sparse.realsize", str(1 << 62)), ("GNU.sparse.name", "../../a")]),
                          file("b", b"5\n", pax=[("GNU.sparse.map", "0,10,5,10"), ("GNU.sparse.size", "100"), ("GNU.sparse.numblocks", "2")]),
                          file("c", b"9" * 1024, pax=[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "5")])])
    layer("sparse-overlap", [sparse("s", [(100, b"a" * 100), (50, b"b" * 100)], 400, "gnu"), file("t", "t")])
    layer("devices", [char("mem", 1, 1, mode=0o666), file("suid", "#!/bin/sh\n", mode=0o6777), char("wh", 0, 0)])
    layer("overlay-xattrs", [file("o", "o", xattrs={"trusted.overlay.opaque": b"y", "trusted.overlay.redirect": b"/etc",
                                                    "user.overlay.opaque": b"y", "user.registryfs.error": b"lie"})])
    layer("unknown-types", [Entry("V", b"V", b"volume"), Entry("Z", b"Z", b"zz"), Entry("M", b"M", b"m"), file("after", "a")])
    layer("bad-checksum", [raw(_spoil(head(file("bad", "x")), 148)), file("after", "a")])
    layer("bad-octal", [raw(_spoil(head(file("bad", "x")), 130)), file("after", "a")])

    good = Layer([*OK, file("data", bytes(range(256)) * 2000)])
    whole = good.tar
    out["truncated-tar"] = Image([Layer(tar=whole[:len(whole) // 2])])
    out["truncated-header"] = Image([Layer(tar=whole[:700])])
    out["no-end-blocks"] = Image([Layer([*OK], end=b"")])
    out["empty-tar"] = Image([Layer(tar=b"")])
    out["not-a-tar"] = Image([Layer(tar=b"this is no tar at all\n" * 100)])
    out["garbage-after-end"] = Image([Layer([*OK], end=b"\0" * 1024 + b"garbage" * 1000)])
    out["truncated-gzip"] = Image([Layer([*OK, file("data", _noise(200_000))], cut=100_000)])
    out["truncated-zstd"] = Image([Layer([*OK, file("data", _noise(200_000))], "zstd", cut=100_000)])
    out["garbage-after-gzip"] = Image([Layer([*OK], append=b"garbage behind the stream" * 10)])
    out["zeros-after-gzip"] = Image([Layer([*OK], append=b"\0" * 4096)])
    out["half-member-after-gzip"] = Image([Layer([*OK], append=b"\x1f\x8b\x08\0\0")])
    out["bad-gzip-crc"] = Image([Layer.from_blob(_spoil(good.blob, len(good.blob) - 6), good.diff_id, good.media_type)])
    out["wrong-diff-id"] = Image([Layer.from_blob(good.blob, "sha256:" + "0" * 64, good.media_type)])
    out["wrong-media-type"] = Image([Layer([*OK], "zstd", media_type=good.media_type),
                                     Layer([file("b", "b")], "none", media_type=good.media_type),
                                     Layer([file("c", "c")], "gzip", media_type="application/vnd.oci.image.layer.v1.tar")])
    out["missing-diff-ids"] = Image([good], config={"rootfs": {"type": "layers", "diff_ids": []}})
    out["config-not-json"] = Image([good], config=b"\0\1\2 not json")
    out["config-nulls"] = Image([good], config={"config": None, "history": None, "rootfs": None, "created": None})
    out["config-escapes"] = Image([good], config={"history": [{"created_by": "RUN \x1b]0;title\x07 \x1b[2J\n\r fake line"}],
                                                  "author": "\x9b31m"})
    out["no-layers"] = Image([])
    out["same-layer-300-times"] = Image([good] * 300)
    out["absent-layer"] = Image([good])
    out["absent-layer"].document["layers"].append({**good.descriptor(), "digest": "sha256:" + "ab" * 32})
    out["bad-digests"] = Image([good])
    out["bad-digests"].document["layers"] += [{**good.descriptor(), "digest": d} for d in
                                              ("sha256:../../../etc/passwd", "sha256:" + "A" * 64, "md5:" + "0" * 32, "", "sha256:")]
    out["bad-sizes"] = Image([good])
    out["bad-sizes"].document["layers"] += [{**good.descriptor(), "size": s} for s in (-1, 1 << 63, 0, 1.5, "12", None)]
    out["foreign-urls"] = Image([Layer([*OK])])
    out["foreign-urls"].document["layers"][0].update(
        mediaType="application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", urls=["http://169.254.169.254/latest/", "file:///etc/passwd"])
    out["titles"] = Image([Layer.from_blob(b"t%d" % i, None, "text/plain", {"org.opencontainers.image.title": t}) for i, t in
                           enumerate(["../../escape", "/etc/escape", "a/b", "", ".", "..", "same", "same", "x" * 300, "\x1b[2J", "a\0b"])],
                          b"{}", artifact_type="application/x", config_media_type="application/vnd.oci.empty.v1+json")
    for name in ("absent-layer", "bad-digests", "bad-sizes", "foreign-urls"):
        out[name]._seal(out[name].document, out[name].media_type)
    nest = out["no-layers"]
    for _ in range(200):
        nest = Index([nest])
    out["nested-indexes"] = nest
    out["index-of-junk"] = Index([descriptor("application/x-unknown", b"?"), {"digest": "sha256:" + "cd" * 32}, {},
                                  {"mediaType": nest.media_type, "digest": "nonsense", "size": 1}, Image([good])])
    fan = Index([Image([good])])
    for _ in range(25):               # 2^25 leaves for one that forgets what it has seen
        fan = Index([fan, fan])
    out["exponential-index"] = fan
    return out


def _noise(n):
    """Bytes that do not compress, the same every time."""
    return b"".join(hashlib.sha256(b"%d" % i).digest() for i in range(n // 32))


def _spoil(data, at):
    data = bytearray(data)
    data[at] ^= 0x55
    return bytes(data)


def _pax(body):
    e = Entry("PaxHeaders/x", b"x", body)
    return head(e) + body + b"\0" * (-len(body) % 512)


def _longlink(kind, size):
    return head(Entry("././@LongLink", kind, b"", size=size, format="gnu"))


def many_entries(count=1_000_000, per_directory=1000):
    """A layer of that many empty files, made streaming: a header is put together from pieces, for the millions."""
    first = next(tar_chunks([file("d00000/f0000")], b""))
    assert len(first) == 512 and first[148:156] == b"%06o\0 " % (sum(first[:148]) + 8 * 32 + sum(first[156:]))
    base = sum(first[:148]) + 8 * 32 + sum(first[156:]) - 9 * 48
    names = [(b"/f%04d" % i, sum(b"%04d" % i)) for i in range(per_directory)]

    def chunks():
        for d in range(-(-count // per_directory)):
            number, here = b"%05d" % d, names[:count - d * per_directory]
            total = base + sum(number)
            yield from tar_chunks([directory(f"d{d:05}")], b"")
            yield b"".join(b"d%b%b%b%06o\0 %b" % (number, name, first[12:148], total + n, first[156:]) for name, n in here)
        yield bytes(1024)
    return Image([Layer.from_chunks(chunks())])


def large_xattrs(layers=8, files=5000, size=64_000):
    """Few entries whose attributes, all different, are `files * size` bytes a layer, and nearly nothing on the wire."""
    def chunks(n):
        for i in range(files):
            value = b"%08d" % (n * files + i)
            yield from tar_chunks([file(f"l{n}/f{i:05}", xattrs={"user.x": value + bytes(size - len(value))})], b"")
        yield bytes(1024)
    return Image([Layer.from_chunks(chunks(n)) for n in range(layers)])


def gzip_bomb(size=4 << 30):
    """A file of `size` zeros: a thousand times smaller on the wire."""
    piece = bytes(1 << 20)
    return Image([Layer.from_chunks(tar_chunks([*OK, Entry("zeros", b"0", (piece for _ in range(size >> 20)), size=size)]))])


def zstd_bomb(size=16 << 30):
    """The same with zstd, about thirty thousand times smaller. Its diff id is wrong."""
    start = b"".join(tar_chunks([*OK], b"")) + head(Entry("zeros", b"0", b"", size=size, format="gnu"))
    piece = compress(bytes(64 << 20), "zstd")
    blob = compress(start, "zstd") + piece * (size >> 26) + compress(bytes(1024), "zstd")
    return Image([Layer.from_blob(blob, "sha256:" + "0" * 64, "application/vnd.oci.image.layer.v1.tar+zstd")])


def gzip_member_bomb(members=300_000):
    """Very many empty gzip members before the content."""
    z = zlib.compressobj(9, zlib.DEFLATED, 31)
    empty = z.flush()
    good = Layer([*OK])
    return Image([Layer.from_blob(empty * members + good.blob, good.diff_id, good.media_type)])


def large_hostile_images():
    """dict: name -> function that makes the image (seconds each)."""
    return {"million-entries": many_entries, "gzip-bomb": gzip_bomb, "zstd-bomb": zstd_bomb, "gzip-members": gzip_member_bomb}
