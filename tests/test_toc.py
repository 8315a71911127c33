"""Layers with a table of contents (eStargz, zstd:chunked): the same trees and bytes, little is fetched, nothing is believed."""
import hashlib
import json
import os
import pathlib
import random
import re
import subprocess
import tempfile

import pytest
from test_tree import manifest_of, unpacked_once

from lib import corner, faults, treecmp
from lib.images import Image, Layer, directory, file, hardlink, symlink, write_layout
from lib.tarwriter import char, fifo, tar_chunks, whiteout
from lib.tocimages import (FORMATS, TOC_DIGEST, converted_layout, toc_layer, toc_of, with_toc, without_annotations)

NOISE = random.Random(5).randbytes(3_000_000)
VARIANTS = {"estargz": ("estargz", {}), "estargz-chunks": ("estargz", {"chunk": 50_000}),
            "estargz-shared": ("estargz", {"chunk": 20_000, "min": 50_000}),
            "estargz-prefetch": ("estargz", {"prio": "usr/share/f7,etc/motd"}),
            "stargz-zstd": ("zstdchunked-stargz", {}), "stargz-zstd-shared": ("zstdchunked-stargz", {"chunk": 30_000, "min": 100_000}),
            "containers": ("zstdchunked-containers", {})}
LAZY = "user.registryfs.lazy"


def entries():
    lower = [directory("./", 0o755), directory("etc"), file("etc/motd", "hello\n"), file("etc/empty", b""),
             file("etc/secret", "x", mode=0o4600, uid=1000, gid=12), directory("usr"), directory("usr/share", 0o1777),
             file("usr/share/noise", NOISE), file("usr/share/zeros", bytes(300_000) + NOISE[:1000] + bytes(90_000)),
             file("usr/share/text", b"all work and no play\n" * 50_000), hardlink("usr/share/noise2", "usr/share/noise"),
             symlink("usr/link", "share/noise"), fifo("usr/fifo"), char("usr/null", 1, 3),
             file("usr/share/attr", b"with attributes", xattrs={b"user.a": b"\0\1\xff", b"user.b": b"v" * 300})]
    lower += [file(f"usr/share/f{i}", NOISE[i:i + i * 37]) for i in range(200)]
    upper = [whiteout("etc/empty"), file("etc/motd", "changed\n"), directory("opt"), file("opt/big", NOISE[::-1]),
             file("implied/deep/file", "deep\n")]
    return lower, upper


def tars():
    return [b"".join(tar_chunks(e, bytes(1024))) for e in entries()]


def plain():
    return Image([Layer(e, "gzip") for e in entries()])


@pytest.fixture(scope="session")
def lazy_image(tools):
    made = {}

    def image(variant):
        fmt, options = VARIANTS[variant]
        if variant not in made:
            made[variant] = Image([toc_layer(tars()[0], fmt, **options),
                                   toc_layer(tars()[1], fmt, **{k: v for k, v in options.items() if k != "prio"})])
        return made[variant]
    return image


@pytest.fixture(scope="session")
def expected(tools, tmp_path_factory):
    """What the plain image shows."""
    from lib.rfs import Mount
    root = tmp_path_factory.mktemp("plain")
    write_layout(root / "app", {"1.0": plain()})
    with Mount(f"dir:{root}", options="raw_links") as m:
        return treecmp.snapshot(m.path / "app/1.0/rootfs")


def ways(m, tag="1.0", repo="app"):
    n = sum(1 for x in os.listdir(m.path / repo / tag / "layers") if re.fullmatch(r"\d+", x))
    return [os.getxattr(m.path / repo / tag / "layers" / f"{i:02}", LAZY).decode() for i in range(n)]


def check(m, expected, tag="1.0"):
    treecmp.assert_same(expected, treecmp.snapshot(m.path / "app" / tag / "rootfs"))


def blob_requests(reg, layer=None):
    return [r for r in reg.requests(kind="blob_get") if not layer or layer.digest in r.path]


# ---- the same tree

@pytest.mark.parametrize("variant", VARIANTS)
def test_a_layer_with_a_table_of_contents_shows_what_the_plain_one_shows(fakereg, mount, lazy_image, expected, variant):
    image = lazy_image(variant)
    fakereg.add("app", image, "1.0")
    m = mount(fakereg.url, options="raw_links,prefetch=no")
    found = treecmp.snapshot(m.path / "app/1.0/rootfs", leave_out=("sha256",))
    treecmp.assert_same(expected, found, leave_out=("sha256",))
    stats = m.stats()
    assert (stats["toc_layers"], stats["toc_fallbacks"], stats["layers_indexed"], stats["toc_granules"]) == (2, 0, 0, 0)
    check(m, expected)
    stats = m.stats()
    assert stats["toc_granules"] > 2 and stats["layers_indexed"] == 0 and stats["toc_bytes_inflated"] > 6_000_000
    assert ways(m) == ["zstd:chunked" if "zstd" in image.layers[0].media_type else "estargz"] * 2
    assert (m.path / ".control/errors").read_text() == ""


@pytest.mark.parametrize("variant", VARIANTS)
def test_without_annotations_it_is_streamed_and_shows_the_same(fakereg, mount, lazy_image, expected, variant):
    fakereg.add("app", Image([without_annotations(la) for la in lazy_image(variant).layers]), "1.0")
    m = mount(fakereg.url, options="raw_links")
    check(m, expected)
    stats = m.stats()
    assert (stats["toc_layers"], stats["toc_fallbacks"], stats["layers_indexed"]) == (0, 0, 2)
    assert ways(m) == ["streamed"] * 2


@pytest.mark.parametrize("variant", VARIANTS)
def test_random_reads(fakereg, mount, lazy_image, variant):
    fakereg.add("app", lazy_image(variant), "1.0")
    m = mount(fakereg.url)
    rng, content = random.Random(variant), {"usr/share/noise": NOISE, "opt/big": NOISE[::-1], "usr/share/zeros":
                                            bytes(300_000) + NOISE[:1000] + bytes(90_000)}
    for _ in range(150):
        name = rng.choice(list(content))
        data, off, n = content[name], 0, rng.choice([1, 100, 5000, 70_000, 400_000])
        off = rng.randrange(len(data))
        with open(m.path / "app/1.0/rootfs" / name, "rb", buffering=0) as f:
            assert os.pread(f.fileno(), n, off) == data[off:off + n], (name, off, n)


LOST = {"libarchive_xattrs"}                                     # what a TOC does not say
CHANGED = {("estargz", "hard_links_that_lead_nowhere"), ("zstdchunked-stargz", "hard_links_that_lead_nowhere")}   # by the tool: drops a file
SPOILT = {("zstdchunked-containers", "sparse_files"), ("zstdchunked-containers", "sparse_files_with_odd_maps")}   # its tar is no sound one

REFUSED = {(fmt, name) for name, fmts in {                           # by the tool, which so makes no such layer
    "duplicates_last_wins": FORMATS[2:], "hard_links_that_lead_nowhere": FORMATS[2:], "hard_link_with_a_size": FORMATS[:2],
    "sparse_files": FORMATS[:2], "sparse_files_with_odd_maps": FORMATS[:2],
    "global_headers": FORMATS, "old_gnu_sparse_files": FORMATS, "contiguous_files": FORMATS}.items() for fmt in fmts}


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("name", corner.case_names())
def test_corner_case(fakereg, mount, tools, fmt, name):
    """The TOC's tree is the one that streaming the same blob gives, and what the case expects."""
    image, expected = corner.corner_case_image(one_case=name, compress=("none",) * 4)
    if (fmt, name) in REFUSED:
        with pytest.raises(ValueError, match="toctool: "):
            [toc_layer(la.tar, fmt) for la in image.layers]
        return
    layers = [toc_layer(la.tar, fmt) for la in image.layers]
    fakereg.add("lazy", Image(layers), "1.0")
    fakereg.add("whole", Image([without_annotations(la) for la in layers]), "1.0")
    m = mount(f"{fakereg.url}", options="raw_links", keep=None)
    lazy = treecmp.snapshot(m.path / "lazy/1.0/rootfs")
    whole = treecmp.snapshot(m.path / "whole/1.0/rootfs")
    if "stargz" in fmt or fmt == "estargz":
        for tree in (lazy, whole, expected):
            for n in tree.values():
                n.mtime_ns = (n.mtime_ns + 500_000_000) // 1_000_000_000 * 1_000_000_000 if n.mtime_ns is not None else None
    leave_out = ("xattrs",) if name in LOST else ()
    if (fmt, name) not in SPOILT:
        treecmp.assert_same(whole, lazy, leave_out=leave_out)
    if (fmt, name) not in CHANGED:
        treecmp.assert_same(expected, lazy, leave_out=leave_out)
    print(m.stats()["toc_layers"], "layers by their tables,", m.stats()["toc_fallbacks"], "fallbacks")


@pytest.mark.parametrize("source,fmt", [*(("oci", f) for f in FORMATS),
                                        pytest.param("ocifull", "estargz", marks=pytest.mark.long)])
def test_the_benchmark_image_is_umocis_tree(mount, tools, benchmark_image, source, fmt):
    layout = converted_layout(benchmark_image / source, fmt)
    m = mount(f"dir:{layout.parent}", options="raw_links")
    treecmp.assert_same(treecmp.snapshot(unpacked_once(benchmark_image / source)),
                        treecmp.snapshot(m.path / layout.name / "1.0/rootfs"))
    stats = m.stats()
    assert stats["toc_layers"] == 4 and stats["toc_fallbacks"] == 0 and stats["layers_indexed"] == 0


@pytest.mark.parametrize("fmt", FORMATS)
@pytest.mark.parametrize("last", [False, True])
def test_a_file_with_the_name_of_the_index(fakereg, mount, tools, fmt, last):
    """It shows, or does not, however the layer is read."""
    files = [file("a", "b"), file("stargz.index.json", b"mine")]
    layer = toc_layer(b"".join(tar_chunks([directory("./", 0o755), *(files if last else reversed(files))], bytes(1024))), fmt)
    fakereg.add("lazy", Image([layer]), "1.0")
    fakereg.add("whole", Image([without_annotations(layer)]), "1.0")
    m = mount(fakereg.url)
    lazy, whole = ({p.name for p in (m.path / r / "1.0/rootfs").iterdir()} for r in ("lazy", "whole"))
    assert lazy == whole and "a" in lazy and ("stargz.index.json" in lazy) == (fmt == "zstdchunked-containers" and not last)
    assert m.stats()["toc_layers"] == 1


# ---- little is fetched

@pytest.mark.parametrize("fmt", FORMATS)
def test_one_file_moves_less_than_two_percent_of_the_image(mount, proxy, registry28, tools, benchmark_image, fmt):
    layout = converted_layout(benchmark_image / "oci", fmt)
    treecmp.push_layout(layout, registry28.url, f"toc/{fmt}")
    layers = manifest_of(layout)[1]["layers"]
    p = proxy(registry28.url)
    m = mount(f"{p.url}/toc")
    assert b"Debian" in (m.path / fmt / "1.0/rootfs/usr/lib/os-release").read_bytes()
    moved, size = p.bytes_sent("blob_get"), sum(la["size"] for la in layers)
    print(f"{fmt}: {moved} of {size} bytes in {p.count('blob_get')} requests")
    assert moved < size * 0.02, p.dump()
    assert p.count("blob_get") <= 2 * len(layers) + 1, p.dump()
    before = p.count("blob_get")
    assert len(subprocess.run(["find", m.path / fmt / "1.0/rootfs"], capture_output=True, check=True).stdout.splitlines()) > 9000
    assert p.count("blob_get") == before, p.dump()


def test_reading_on_asks_for_more_at_once(fakereg, mount, lazy_image):
    fakereg.add("app", lazy_image("estargz-chunks"), "1.0")
    m = mount(fakereg.url)
    assert (m.path / "app/1.0/rootfs/usr/share/noise").read_bytes() == NOISE
    assert len(blob_requests(fakereg)) <= 2 + 3, fakereg.dump()


def test_a_restart_keeps_index_and_data(fakereg, mount, lazy_image, expected):
    fakereg.add("app", lazy_image("estargz"), "1.0")
    m = mount(fakereg.url, options="raw_links")
    check(m, expected)
    m.umount()
    fakereg.reset()
    m.start()
    check(m, expected)
    assert fakereg.count("blob_get") == 0, fakereg.dump()


def test_kill_9_at_any_time_loses_nothing(fakereg, mount, lazy_image, expected):
    fakereg.add("app", lazy_image("containers"), "1.0")
    m = mount(fakereg.url, options="raw_links", clean=False)
    reader = subprocess.Popen(["tar", "-cf", "/dev/null", "-C", m.path / "app/1.0/rootfs", "."], stderr=subprocess.DEVNULL)
    m.wait(0.3)
    m.kill9()
    reader.wait()
    m.start()
    check(m, expected)
    m.umount()


# ---- nothing is believed

def refused(m, n=1):
    stats = m.stats()
    assert stats["toc_fallbacks"] == n, stats
    assert m.log.count("is not read in parts but fetched whole") == n, m.log


def set_chunk(doc, path, **members):
    next(e for e in doc["entries"] if e["name"] == path and e["type"] == "reg").update(members)


def entry(doc, name):
    return next(e for e in doc["entries"] if e["name"] == name)


LIES = {
    "version": lambda d: d.update(version=2),
    "no entries": lambda d: d.pop("entries"),
    "entries twice": lambda d: d.update(Entries=[]),
    "entry is no object": lambda d: d["entries"].append([]),
    "unknown type": lambda d: entry(d, "etc/motd").update(type="door"),
    "negative size": lambda d: entry(d, "etc/motd").update(size=-1),
    "fraction": lambda d: entry(d, "etc/motd").update(size=6.5),
    "size too large": lambda d: entry(d, "etc/motd").update(size=7_000_000_000_000_000_000),
    "offset outside": lambda d: entry(d, "etc/motd").update(offset=1 << 40),
    "offset in the table": lambda d: entry(d, "etc/motd").update(offset=d["at"]),
    "offsets out of order": lambda d: entry(d, "usr/share/f150").update(offset=entry(d, "usr/share/f20")["offset"]),
    "same place twice": lambda d: entry(d, "usr/share/f150").update(offset=entry(d, "usr/share/f149")["offset"]),
    "chunks do not cover": lambda d: next(e for e in d["entries"] if e["type"] == "chunk").update(chunkOffset=5),
    "chunk of nothing": lambda d: d["entries"].insert(0, {"type": "chunk", "name": "x", "chunkSize": 5}),
    "chunk of another file": lambda d: next(e for e in d["entries"] if e["type"] == "chunk").update(name="etc/motd"),
    "no digest": lambda d: [entry(d, "etc/motd").pop(k) for k in ("digest", "chunkDigest")],
    "odd digest": lambda d: entry(d, "etc/motd").update(chunkDigest="sha256:12"),
    "odd time": lambda d: entry(d, "etc/motd").update(modtime="yesterday"),
    "odd base64": lambda d: entry(d, "usr/share/attr")["xattrs"].update({"user.a": "*"}),
    "lost bytes": lambda d: entry(d, "usr/share/f30").update(name="usr/share/\ufffd"),
    "case": lambda d: entry(d, "etc/motd").update(chunkdigest=""),
    "case beyond ASCII": lambda d: entry(d, "etc/motd").update({"\u017fize": 1}),
    "unknown chunk type": lambda d: entry(d, "etc/motd").update(chunkType="ones"),
    "too deep in its member": lambda d: entry(d, "etc/motd").update(innerOffset=1 << 33),
}


@pytest.fixture(scope="session")
def lower_layer(tools):
    return toc_layer(tars()[0], "estargz", chunk=50_000)


@pytest.fixture(scope="session")
def lower_expected(tools, tmp_path_factory):
    from lib.rfs import Mount
    root = tmp_path_factory.mktemp("lower")
    write_layout(root / "app", {"1.0": Image([Layer(entries()[0], "gzip")])})
    with Mount(f"dir:{root}", options="raw_links") as m:
        return treecmp.snapshot(m.path / "app/1.0/rootfs")


@pytest.mark.parametrize("lie", LIES)
def test_a_table_that_makes_no_sense_is_not_used(fakereg, mount, lower_layer, lower_expected, lie):
    def change(doc):
        doc["at"] = toc_of(lower_layer)[0]
        LIES[lie](doc)
    fakereg.add("app", Image([with_toc(lower_layer, change)]), "1.0")
    m = mount(fakereg.url, options="raw_links")
    check(m, lower_expected)
    refused(m)
    assert ways(m) == ["streamed"]


TEXTS = {"empty": b"", "no json": b"hello", "cut": b'{"version":1,"entries":[{"name":"a","type":"dir"}', "no list": b'{"version":1,"entries":{}}',
         "behind": b'{"version":1,"entries":[]} {}', "twice": b'{"entries":[],"entries":[]}', "comma": b'{"entries":[{"type":"dir"},]}',
         "latin1": b'{"version":1,"entries":[{"name":"\xe4","type":"dir"}]}', "surrogate": b'{"entries":[{"name":"\\ud800","type":"dir"}]}',
         "long s": '{"entrie\u017f":[{"name":"x","type":"dir"}],"entries":[]}'.encode(), "escape": b'{"entri\\u0065s":[]}', "deep": b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b',"entries":[]}'}


@pytest.mark.parametrize("text", TEXTS)
def test_a_table_that_is_no_json_is_not_used(fakereg, mount, lower_layer, lower_expected, text):
    fakereg.add("app", Image([with_toc(lower_layer, text=TEXTS[text])]), "1.0")
    m = mount(fakereg.url, options="raw_links")
    check(m, lower_expected)
    refused(m)


def broken_zstd(layer, **notes):
    return Layer.from_blob(layer.blob, layer.diff_id, layer.media_type, {**layer.annotations, **notes})


OURS, STARGZ = "io.github.containers.zstd-chunked.manifest-", "io.containers.zstd-chunked.manifest-"


def annotation_cases(layer):
    sum_, at = layer.annotations[OURS + "checksum"], layer.annotations[OURS + "position"]
    off, packed, size, _ = map(int, at.split(":"))
    other = "sha256:" + "0" * 64
    return {"checksum": {OURS + "checksum": other}, "no position": {OURS + "position": ""}, "type": {OURS + "position": f"{off}:{packed}:{size}:2"},
            "words": {OURS + "position": "a:b:c:1"}, "off by one": {OURS + "position": f"{off + 1}:{packed}:{size}:1"},
            "length": {OURS + "position": f"{off}:{packed - 1}:{size}:1"}, "size": {OURS + "position": f"{off}:{packed}:{size + 1}:1"},
            "outside": {OURS + "position": f"{1 << 50}:{packed}:{size}:1"}, "huge": {OURS + "position": f"{off}:{1 << 62}:{size}:1"},
            "overflow": {OURS + "position": f"{(1 << 64) - 1}:{packed}:{size}:1"}, "zero": {OURS + "position": f"{off}:0:{size}:1"},
            "two tables": {TOC_DIGEST: other}, "two dialects": {STARGZ + "checksum": sum_, STARGZ + "position": at},
            "digest": {OURS + "checksum": "md5:1"}}


@pytest.mark.parametrize("what", ["checksum", "no position", "type", "words", "off by one", "length", "size", "outside", "huge", "overflow",
                                  "zero", "two tables", "two dialects", "digest"])
def test_wrong_annotations(fakereg, mount, lazy_image, expected, what):
    layers = lazy_image("containers").layers
    fakereg.add("app", Image([broken_zstd(layers[0], **annotation_cases(layers[0])[what]), layers[1]]), "1.0")
    m = mount(fakereg.url, options="raw_links")
    check(m, expected)
    refused(m)
    assert ways(m) == ["streamed", "zstd:chunked"]


def test_a_wrong_digest_of_the_table_is_remembered_across_restarts(fakereg, mount, lower_layer, lower_expected):
    wrong = with_toc(lower_layer, digest="sha256:" + "0" * 64)
    fakereg.add("app", Image([wrong]), "1.0")
    m = mount(fakereg.url, options="raw_links")
    check(m, lower_expected)
    refused(m)
    m.umount()
    fakereg.reset()
    m.start()
    check(m, lower_expected)
    assert fakereg.count("blob_get") == 0 and m.stats()["toc_fallbacks"] == 0, fakereg.dump()


def test_a_table_in_another_image_is_not_looked_for(fakereg, mount, tools, lower_expected):
    fakereg.add("app", Image([toc_layer(tars()[0], "estargz-external")]), "1.0")
    m = mount(fakereg.url, options="raw_links")
    check(m, lower_expected)
    refused(m)
    assert "another image" in m.log


def test_the_footer_of_old_stargz(fakereg, mount, lower_layer, lower_expected):
    fakereg.add("app", Image([with_toc(lower_layer, legacy=True)]), "1.0")
    m = mount(fakereg.url, options="raw_links")
    check(m, lower_expected)
    assert m.stats()["toc_fallbacks"] == 0 and ways(m) == ["estargz"]


def test_another_manifest_cannot_bend_a_shared_layer(fakereg, mount, lower_layer, lower_expected):
    """The same blob under an annotation that names other contents is another layer, whoever comes first."""
    fakereg.add("bad", Image([broken_zstd(lower_layer, **{TOC_DIGEST: "sha256:" + "1" * 64})]), "1.0")
    fakereg.add("app", Image([lower_layer]), "1.0")
    m = mount(fakereg.url, options="raw_links")
    treecmp.assert_same(lower_expected, treecmp.snapshot(m.path / "bad/1.0/rootfs"))
    check(m, lower_expected)
    refused(m)


def lying(layer, *names):
    def change(doc):
        for n in names:
            set_chunk(doc, n, digest="sha256:" + "2" * 64, chunkDigest="sha256:" + "2" * 64)
    return with_toc(layer, change)


def test_a_table_that_is_not_about_this_blob_costs_a_stream_and_no_wrong_byte(fakereg, mount, lower_layer, lower_expected):
    fakereg.add("app", Image([lying(lower_layer, "usr/share/f150", "etc/motd")]), "1.0")
    m = mount(fakereg.url, options="raw_links")
    assert (m.path / "app/1.0/rootfs/usr/share/f20").read_bytes() == NOISE[20:20 + 20 * 37]
    check(m, lower_expected)
    refused(m)
    assert m.stats()["layers_indexed"] == 1 and (m.path / ".control/errors").read_text() == ""
    m.umount()
    fakereg.reset()
    m.start()
    check(m, lower_expected)
    assert fakereg.count("blob_get") == 0 and ways(m) == ["streamed"], fakereg.dump()


def test_a_file_that_only_the_table_knows_cannot_be_read(fakereg, mount, lower_layer):
    def change(doc):
        set_chunk(doc, "etc/motd", name="etc/fake", digest="sha256:" + "2" * 64, chunkDigest="sha256:" + "2" * 64)
    fakereg.add("app", Image([with_toc(lower_layer, change)]), "1.0")
    m = mount(fakereg.url)
    with pytest.raises(OSError):
        (m.path / "app/1.0/rootfs/etc/fake").read_bytes()
    assert "no such file" in (m.path / ".control/errors").read_text()
    refused(m)


def test_a_chunk_that_came_damaged_is_fetched_once_more(fakereg, mount, lower_layer, lower_expected):
    layer = lower_layer
    fakereg.add("app", Image([layer]), "1.0")
    m = mount(fakereg.url, options="raw_links")
    os.listdir(m.path / "app/1.0/rootfs")
    fakereg.fault("GET", f"/v2/app/blobs/{layer.digest}", faults.flip(-100))
    check(m, lower_expected)
    assert m.stats()["toc_fallbacks"] == 0 and m.stats()["layers_indexed"] == 0


def test_chunks_that_always_come_damaged_are_an_error(fakereg, mount, lower_layer):
    fakereg.add("app", Image([lower_layer]), "1.0")
    m = mount(fakereg.url, options="raw_links", clean=False)
    os.listdir(m.path / "app/1.0/rootfs")
    fakereg.fault("GET", f"/v2/app/blobs/{lower_layer.digest}", faults.flip(-100), times=None)
    with pytest.raises(OSError):
        (m.path / "app/1.0/rootfs/usr/share/noise").read_bytes()
    assert "does not match its digest" in (m.path / ".control/errors").read_text()
    m.umount()


@pytest.mark.parametrize("action", ["short", "flip", "ignore", "whole"])
def test_a_table_that_comes_damaged_once(fakereg, mount, lower_layer, lower_expected, action):
    fakereg.add("app", Image([lower_layer]), "1.0")
    bent = {"short": faults.short_body(100), "flip": faults.flip(-200), "ignore": faults.ignore_range(), "whole": faults.reset_body(50)}
    fakereg.fault("GET", f"/v2/app/blobs/{lower_layer.digest}", bent[action])
    m = mount(fakereg.url, options="raw_links")
    check(m, lower_expected)
    assert m.stats()["toc_fallbacks"] == 0 and ways(m) == ["estargz"], m.log


@pytest.mark.parametrize("code", [416, 400])
def test_a_registry_that_gives_no_parts_gives_the_layer(fakereg, mount, lower_layer, lower_expected, code):
    fakereg.add("app", Image([lower_layer]), "1.0")
    fakereg.fault("GET", f"/v2/app/blobs/{lower_layer.digest}",
                  lambda request, proper: faults.status(code)(request, proper) if "range" in request.headers else proper(), times=None)
    m = mount(fakereg.url, options="raw_links")
    check(m, lower_expected)
    assert m.stats()["toc_fallbacks"] == 1 and ways(m) == ["streamed"], m.log


def test_a_registry_that_ignores_range_sends_the_layer_once_more_not_once_per_part(fakereg, mount, lower_layer, lower_expected):
    fakereg.add("app", Image([lower_layer]), "1.0")
    fakereg.fault("GET", f"/v2/app/blobs/{lower_layer.digest}", faults.ignore_range(), times=None)
    m = mount(fakereg.url, options="raw_links")
    for p in sorted((m.path / "app/1.0/rootfs/usr/share").iterdir(), reverse=True):
        p.read_bytes()
    check(m, lower_expected)
    assert len(blob_requests(fakereg, lower_layer)) == 3, fakereg.dump()
    refused(m)


def test_a_blob_whose_tail_is_gone_is_an_error(fakereg, mount, lower_layer):
    """Its digest is not that of what comes, either way."""
    fakereg.add("app", Image([lower_layer]), "1.0")
    fakereg.fault("GET", f"/v2/app/blobs/{lower_layer.digest}", faults.replace_body(lower_layer.blob[:-5000]), times=None)
    m = mount(fakereg.url, clean=False)
    with pytest.raises(OSError):
        os.listdir(m.path / "app/1.0/rootfs/etc")
    m.umount()


def damage_objects(cache):
    """Turns a bit in each object that holds a layer's data or a tree, at five different places; says how many there were."""
    files = [f for k in ("layer", "span", "tree") for f in pathlib.Path(cache).rglob(f"{k}*/*/*") if f.is_file()]
    for i, f in enumerate(sorted(files)):
        data = bytearray(f.read_bytes())
        data[len(data) * (i % 5) // 5] ^= 0x10
        f.write_bytes(data)
    return len(files)


def test_a_damaged_cache_is_mended(fakereg, mount, lazy_image, expected):
    fakereg.add("app", lazy_image("estargz-chunks"), "1.0")
    m = mount(fakereg.url, options="raw_links")
    check(m, expected)
    m.umount()
    assert damage_objects(m.dir) > 5
    m.start()
    check(m, expected)
    assert m.stats()["cache_corrupt"] >= 3 and m.stats()["toc_fallbacks"] == 0


# ---- other writers

def test_podmans_own_push(mount, registry28, tools, tmp_path, expected):
    write_layout(tmp_path / "in", {"1.0": plain()})
    short = tempfile.TemporaryDirectory(dir="/tmp", prefix="podman-")       # podman limits the length of its paths
    store = ["--root", f"{short.name}/root", "--runroot", f"{short.name}/run", "--storage-driver", "vfs"]
    image = subprocess.run(["podman", *store, "pull", "-q", f"oci:{tmp_path}/in:1.0"], capture_output=True, text=True)
    assert image.returncode == 0, image.stderr
    host = registry28.url.removeprefix("http://")
    p = subprocess.run(["podman", *store, "push", "--tls-verify=false", "--compression-format", "zstd:chunked", "--format", "oci",
                        image.stdout.split()[-1], f"{host}/podman/app:1.0"], capture_output=True, text=True)
    assert p.returncode == 0, p.stderr
    m = mount(f"{registry28.url}/podman", options="raw_links")
    doc = json.loads((m.path / "app/1.0/manifest.json").read_text())
    # podman 4.3 still writes the names that stargz uses
    assert all({OURS + "checksum", STARGZ + "checksum"} & set(la.get("annotations", {})) for la in doc["layers"]), doc
    check(m, expected)
    assert ways(m) == ["zstd:chunked"] * 2 and m.stats()["layers_indexed"] == 0
    assert hashlib.sha256((m.path / "app/1.0/rootfs/opt/big").read_bytes()).hexdigest() == hashlib.sha256(NOISE[::-1]).hexdigest()
