"""Layers with a SOCI index: the same trees and bytes, little is fetched, nothing is believed, nothing waits for an index that is not there."""
import hashlib
import os
import random
import struct
import subprocess
import time

import pytest
from test_toc import NOISE, blob_requests, check, damage_objects, entries, expected, plain, refused, ways  # noqa: F401
from test_tree import unpacked_once

from lib import corner, faults, treecmp
from lib.images import Image, Index, Layer, directory, file, write_layout
from lib.rfs import program
from lib.sociimages import TYPES, Ztoc, add_soci, indexed_layout, run, soci_image, soci_index, ztoc_of

SPAN = 300_000
COMPRESS = ["gzip", "none", "gzip-multi", "gzip-named"]


@pytest.fixture(scope="session")
def made(tools):
    """Layers of test_toc's image, and their zTOCs, by compression."""
    kept = {}

    def layers(compress="gzip"):
        if compress not in kept:
            both = [Layer(e, compress) for e in entries()]
            kept[compress] = both, {i: ztoc_of(la, SPAN) for i, la in enumerate(both)}
        return kept[compress]
    return layers


@pytest.fixture
def soci(fakereg, made):
    """The image with an index in the registry; change: a function of the lower layer's Ztoc."""
    def add(version="v2", compress="gzip", change=None, tag="1.0", repo="app"):
        layers, ztocs = made(compress)
        if change:
            z = Ztoc(ztocs[0])
            change(z)
            ztocs = {**ztocs, 0: bytes(z)}
        add_soci(fakereg, repo, layers, version, tag, ztocs=ztocs)
        return layers
    return add


# ---- the same tree

@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("compress", COMPRESS)
def test_an_indexed_layer_shows_what_the_plain_one_shows(fakereg, mount, soci, expected, compress, version):  # noqa: F811
    soci(version, compress)
    m = mount(fakereg.url, options="raw_links")
    found = treecmp.snapshot(m.path / "app/1.0/rootfs", leave_out=("sha256",))
    treecmp.assert_same(expected, found, leave_out=("sha256",))
    stats = m.stats()
    assert (stats["toc_layers"], stats["toc_fallbacks"], stats["layers_indexed"], stats["toc_granules"]) == (2, 0, 0, 0), m.log
    check(m, expected)
    stats = m.stats()
    assert stats["toc_granules"] > 10 and stats["layers_indexed"] == 0 and stats["toc_fallbacks"] == 0, m.log
    assert ways(m) == ["soci"] * 2 and stats["soci_indexes"] == 1
    assert (m.path / ".control/errors").read_text() == ""


def test_random_reads(fakereg, mount, soci):
    soci()
    m = mount(fakereg.url)
    rng, content = random.Random(7), {"usr/share/noise": NOISE, "opt/big": NOISE[::-1],
                                      "usr/share/zeros": bytes(300_000) + NOISE[:1000] + bytes(90_000)}
    for _ in range(150):
        name = rng.choice(list(content))
        data, n = content[name], rng.choice([1, 100, 5000, 70_000, 400_000])
        off = rng.randrange(len(data))
        with open(m.path / "app/1.0/rootfs" / name, "rb", buffering=0) as f:
            assert os.pread(f.fileno(), n, off) == data[off:off + n], (name, off, n)


REFUSED = {"global_headers", "old_gnu_sparse_files", "contiguous_files"}     # by the library, which so makes no index
SPARSE = {"sparse_files", "sparse_files_with_odd_maps"}                      # a zTOC cannot describe them


@pytest.mark.parametrize("compress", ["gzip", "none"])
@pytest.mark.parametrize("name", corner.case_names())
def test_corner_case(fakereg, mount, tools, name, compress):
    """The zTOC's tree is the one that streaming the same blob gives, and what the case expects."""
    image, want = corner.corner_case_image(one_case=name, compress=("none",) * 4)
    pad = random.Random(1).randbytes(70_000)                                # behind the archive: a tiny layer is streamed anyway
    layers = [Layer(compress=compress, tar=la.tar + pad) for la in image.layers]
    try:
        ztocs = {i: ztoc_of(la) for i, la in enumerate(layers)}
    except ValueError as e:
        assert name in REFUSED or "tar" in str(e), e
        assert name in REFUSED | SPARSE | {"empty_pax_values_reset", "hard_link_with_a_size", "odd_names", "numbers"}, e
        return
    add_soci(fakereg, "lazy", layers, "v2", ztocs=ztocs)
    fakereg.add("whole", Image(layers), "1.0")
    m = mount(fakereg.url, options="raw_links,soci=v2")
    lazy = treecmp.snapshot(m.path / "lazy/1.0/rootfs")
    stats, how = m.stats(), ways(m, repo="lazy")
    treecmp.assert_same(want, lazy)
    treecmp.assert_same(treecmp.snapshot(m.path / "whole/1.0/rootfs"), lazy)
    print(name, how, stats["toc_fallbacks"], "fallbacks")
    assert stats["toc_fallbacks"] == 0 or name in SPARSE | {"hard_link_with_a_size"}, m.log
    assert "soci" in how or stats["toc_fallbacks"], how


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_the_benchmark_image_is_umocis_tree(mount, tools, benchmark_image, version):
    layout = indexed_layout(benchmark_image / "oci", version)
    m = mount(f"dir:{layout.parent}", options="raw_links")
    treecmp.assert_same(treecmp.snapshot(unpacked_once(benchmark_image / "oci")), treecmp.snapshot(m.path / layout.name / "1.0/rootfs"))
    stats = m.stats()
    print(ways(m, repo=layout.name), {k: v for k, v in stats.items() if k.startswith(("toc", "soci"))})
    # a layer that is smaller than its zTOC is streamed
    assert (stats["toc_layers"], stats["toc_fallbacks"], stats["layers_indexed"]) == (3, 0, 1)


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("server", ["registry28", "distribution3", "ggcr", "referrers_registry"])
def test_by_real_registries(request, mount, made, expected, server, version):  # noqa: F811
    """v1 by the API, or by the tag where there is none."""
    from lib.images import Client
    reg, (layers, ztocs) = request.getfixturevalue(server), made()
    image, index = soci_image(layers, version, ztocs=ztocs)
    repo, client = f"soci/{version}", Client(reg.url)
    client.push(repo, image, "1.0")
    client.push(repo, index)
    if version == "v1" and client.request("GET", f"/v2/{repo}/referrers/{image.digest}")[0] != 200:
        client.push(repo, Index([(index, {"artifactType": TYPES["v1"]})]), image.digest.replace(":", "-"))
    m = mount(f"{reg.url}/soci", options="raw_links")
    treecmp.assert_same(expected, treecmp.snapshot(m.path / version / "1.0/rootfs"))
    assert ways(m, repo=version) == ["soci"] * 2 and m.stats()["toc_fallbacks"] == 0, m.log


# ---- little is fetched

def test_one_file_costs_the_index_and_a_span(fakereg, mount, soci, made):
    layers = soci()
    m = mount(fakereg.url)
    with open(m.path / "app/1.0/rootfs/usr/share/noise", "rb", buffering=0) as f:
        assert os.pread(f.fileno(), 10, 1_000_000) == NOISE[1_000_000:1_000_010]
    stats, ztocs = m.stats(), made()[1]
    assert stats["toc_granules"] <= 2, stats
    assert stats["toc_bytes_compressed"] <= 2 * 2 * SPAN and stats["layers_indexed"] == 0
    whole = [r for r in blob_requests(fakereg) if "range" not in {k.lower() for k in r.headers}]
    assert len(whole) <= len(ztocs) + 1, fakereg.dump()
    assert len(blob_requests(fakereg, layers[0])) <= 2, fakereg.dump()


def test_a_restart_keeps_index_and_data(fakereg, mount, soci, expected):  # noqa: F811
    soci("v1")
    m = mount(fakereg.url, options="raw_links")
    check(m, expected)
    m.umount()
    fakereg.reset()
    m.start()
    check(m, expected)
    assert fakereg.count("blob_get") == 0 and fakereg.count("referrers") == 0, fakereg.dump()
    assert ways(m) == ["soci"] * 2


def test_a_streamed_layer_in_the_cache_is_used(fakereg, mount, soci, made, expected):  # noqa: F811
    fakereg.add("whole", Image(made()[0]), "1.0")
    m = mount(fakereg.url, options="raw_links,soci=v2")
    treecmp.assert_same(expected, treecmp.snapshot(m.path / "whole/1.0/rootfs"))
    fakereg.reset()
    layers = soci()
    check(m, expected)
    assert ways(m) == ["streamed"] * 2 and not any(blob_requests(fakereg, la) for la in layers), fakereg.dump()


def test_layers_without_a_ztoc_are_streamed(fakereg, mount, made, expected):  # noqa: F811
    layers, ztocs = made()
    add_soci(fakereg, "app", layers, "v2", ztocs={0: ztocs[0]})
    m = mount(fakereg.url, options="raw_links")
    check(m, expected)
    assert ways(m) == ["soci", "streamed"] and m.stats()["toc_fallbacks"] == 0


# ---- whose index

def test_option_soci(fakereg, mount, soci, expected):  # noqa: F811
    soci("v1", repo="one")
    soci("v2", repo="two")
    for mode, want in {"auto": ("soci", "soci"), "v2": ("soci", "streamed"), "off": ("streamed", "streamed")}.items():
        m = mount(fakereg.url, options=f"raw_links,soci={mode}")
        fakereg.reset()
        got = []
        for repo in ("two", "one"):
            os.listdir(m.path / repo / "1.0/rootfs/usr")
            got.append(ways(m, repo=repo)[0])
        assert tuple(got) == want, mode
        assert (fakereg.count("referrers") > 0) == (mode == "auto"), fakereg.dump()
        m.umount()


def test_an_index_about_another_image_is_not_used(fakereg, mount, made, expected):  # noqa: F811
    layers, ztocs = made()
    image, other = Image(layers), Image(layers[:1])
    wrong = soci_index(layers, "v1", ztocs, other)
    fakereg.add("app", other)
    fakereg.add("app", wrong)
    fakereg.add("app", image, "1.0")
    fakereg.set_referrers("app", image.digest, [wrong.descriptor(artifactType=TYPES["v1"])])
    m = mount(fakereg.url, options="raw_links")
    check(m, expected)
    assert ways(m) == ["streamed"] * 2 and m.stats()["soci_failures"] == 1 and "another image" in m.log


def test_an_index_that_is_gone_costs_nothing_but_a_line(fakereg, mount, made, expected):  # noqa: F811
    layers, _ = made()
    for named in ("sha256:" + "7" * 64, "what"):
        fakereg.add("app", Image(layers, annotations={"com.amazon.soci.index-digest": named}), "1.0")
        m = mount(fakereg.url, options="raw_links")
        check(m, expected)
        assert ways(m) == ["streamed"] * 2 and m.stats()["soci_failures"] == 1
        assert m.log.count("are not read by a SOCI index") == 1
        m.umount()


def test_small_images_are_not_asked_about(fakereg, mount):
    fakereg.add("app", Image([Layer([directory("./", 0o755), file("a", "b")])]), "1.0")
    m = mount(fakereg.url)
    assert (m.path / "app/1.0/rootfs/a").read_text() == "b"
    assert fakereg.count("referrers") == 0, fakereg.dump()


def test_that_there_is_none_is_remembered(fakereg, mount, expected):  # noqa: F811
    fakereg.add("app", plain(), "1.0")
    m = mount(fakereg.url, options="raw_links")
    check(m, expected)
    assert fakereg.count("referrers") == 1 and m.stats()["soci_failures"] == 0, fakereg.dump()
    m.umount()
    for kind in ("layer", "span", "tree"):
        subprocess.run(["find", m.dir, "-path", f"*/{kind}/*", "-type", "f", "-delete"], check=True)
    fakereg.reset()
    m.start()
    check(m, expected)
    assert fakereg.count("referrers") == 0 and fakereg.count("blob_get") >= 2, fakereg.dump()


@pytest.mark.parametrize("how", ["hangs", "500", "html", "nonsense"])
def test_a_registry_that_fails_to_list_referrers_delays_nobody(fakereg, mount, expected, how):  # noqa: F811
    fakereg.add("app", plain(), "1.0")
    fakereg.add("app", Image(plain().layers, annotations={"x": "y"}), "2.0")
    act = {"hangs": faults.stall(20), "500": faults.status(500), "html": faults.html(), "nonsense": faults.replace_body(b"{}[")}[how]
    for path in ("referrers", "manifests/sha256-"):
        fakereg.fault("GET", f"/v2/app/{path}", act, times=None)
    m = mount(fakereg.url, options="raw_links")
    os.stat(m.path / "app/1.0/manifest.json")
    start = time.monotonic()
    assert (m.path / "app/1.0/rootfs/etc/motd").read_text() == "changed\n"
    assert time.monotonic() - start < 3
    check(m, expected)
    check(m, expected, "2.0")
    assert ways(m) == ["streamed"] * 2 and m.stats()["soci_failures"] >= 1
    assert fakereg.count("referrers") <= 8, fakereg.dump()


# ---- nothing is believed

def points(z, i, what, change):
    at = z.points() + 12 + i * (17 + 32768) + {"in": 0, "out": 8}[what]
    struct.pack_into("<Q", z, at, change(struct.unpack_from("<Q", z, at)[0]))


def overwrite(at, data):
    return lambda z: z.__setitem__(slice(at, at + len(data)), data)


LIES = {
    "version": lambda z: z.set_text(z.root()[0], b"1.0"),
    "size of the layer": lambda z: z.set_number(z.root()[2], z.number(z.root()[2]) + 1),
    "size of the tar": lambda z: z.set_number(z.root()[3], 1 << 62),
    "negative size": lambda z: z.set_number(z.root()[3], -1),
    "type": lambda z: z.set_text(z.file("etc/motd")[1], b"dor"),
    "time": lambda z: z.set_text(z.file("etc/motd")[10], b"x" * len(z.text(z.file("etc/motd")[10]))),
    "offset outside": lambda z: z.set_number(z.file("etc/motd")[2], 1 << 40),
    "offset in the header": lambda z: z.set_number(z.file("etc/motd")[2], z.number(z.file("etc/motd")[2]) - 512),
    "odd offset": lambda z: z.set_number(z.file("etc/motd")[2], z.number(z.file("etc/motd")[2]) + 1),
    "size of a file": lambda z: z.set_number(z.file("usr/share/f150")[3], 1 << 50),
    "negative size of a file": lambda z: z.set_number(z.file("usr/share/f150")[3], -5),
    "more checkpoints": lambda z: struct.pack_into("<I", z, z.points(), 1 << 31),
    "checkpoints out of order": lambda z: points(z, 2, "in", lambda n: 5000),
    "checkpoint behind the end": lambda z: points(z, 3, "in", lambda n: 1 << 50),
    "checkpoint of nothing": lambda z: points(z, 3, "out", lambda n: 1),
    "digest": lambda z: z.__setitem__(slice(i := bytes(z).index(b"sha256:"), i + 3), b"md5"),
    "root": overwrite(0, b"\xff\xff\xff\x7f"),
    "no root": overwrite(0, b"\0\0\0\0"),
    "empty": lambda z: z.__setitem__(slice(4, None), bytes(len(z) - 4)),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_index_that_makes_no_sense_is_not_used(fakereg, mount, soci, expected, lie):  # noqa: F811
    soci(change=LIES[lie])
    m = mount(fakereg.url, options="raw_links")
    check(m, expected)
    refused(m)
    assert ways(m) == ["streamed", "soci"]


def bend_digest(z):
    at = bytes(z).rindex(b"sha256:") + 20
    z[at:at + 4] = b"0000"


MISTAKES = {
    "a span's digest": bend_digest,
    "where a span decodes to": lambda z: points(z, 2, "out", lambda n: n + 512),
    "what is before a span": lambda z: z.__setitem__(slice(at := z.points() + 12 + 2 * 32785 - 500, at + 500), bytes(500)),
    "a name": lambda z: z.set_text(z.file("usr/share/f150")[0], b"usr/share/g150"),
    "a mode": lambda z: z.set_number(z.file("usr/share/f150")[5], 0o100755),
    "an owner": lambda z: struct.pack_into("<I", z, z.file("etc/secret")[6], 7),
    "a place": lambda z: z.set_number(z.file("usr/share/f199")[2], z.number(z.file("usr/share/f199")[2]) + 512),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_an_index_that_is_not_about_this_blob_costs_a_stream_and_no_wrong_byte(fakereg, mount, soci, expected, mistake):  # noqa: F811
    """Names and attributes are the index's; contents never come from the wrong place."""
    soci(change=MISTAKES[mistake])
    m = mount(fakereg.url, options="raw_links", clean=False)
    for p, n in sorted((os.fsdecode(p), n) for p, n in expected.items() if n.type == "f"):
        path = m.path / "app/1.0/rootfs" / p
        if p.endswith("f150") and mistake == "a name":
            with pytest.raises(OSError):
                path.with_name("g150").read_bytes()
        else:
            assert hashlib.sha256(path.read_bytes()).hexdigest() == n.sha256, p
    refused(m)
    m.umount()
    m.start()
    check(m, expected)                              # the refusal is remembered
    assert ways(m) == ["streamed", "soci"]
    m.umount()


def test_a_ztoc_that_is_not_what_its_digest_says(fakereg, mount, soci, made, expected):  # noqa: F811
    soci()
    from lib.images import sha256
    fakereg.fault("GET", f"/v2/app/blobs/{sha256(made()[1][0])}", faults.flip(-100), times=None)
    m = mount(fakereg.url, options="raw_links")
    check(m, expected)
    refused(m)


@pytest.mark.parametrize("action", ["short", "flip", "reset"])
def test_a_ztoc_that_comes_damaged_once(fakereg, mount, soci, made, expected, action):  # noqa: F811
    from lib.images import sha256
    soci()
    bent = {"short": faults.short_body(100), "flip": faults.flip(-200), "reset": faults.reset_body(50)}
    fakereg.fault("GET", f"/v2/app/blobs/{sha256(made()[1][0])}", bent[action])
    m = mount(fakereg.url, options="raw_links")
    check(m, expected)
    assert m.stats()["toc_fallbacks"] == 0 and ways(m) == ["soci"] * 2, m.log


def test_a_span_that_came_damaged_is_fetched_once_more(fakereg, mount, soci, expected):  # noqa: F811
    layers = soci()
    m = mount(fakereg.url, options="raw_links")
    os.listdir(m.path / "app/1.0/rootfs")
    fakereg.fault("GET", f"/v2/app/blobs/{layers[0].digest}", faults.flip(-100))
    check(m, expected)
    assert m.stats()["toc_fallbacks"] == 0 and m.stats()["layers_indexed"] == 0


def test_spans_that_always_come_damaged_are_an_error(fakereg, mount, soci):
    layers = soci()
    m = mount(fakereg.url, options="raw_links", clean=False)
    os.listdir(m.path / "app/1.0/rootfs")
    fakereg.fault("GET", f"/v2/app/blobs/{layers[0].digest}", faults.flip(-100), times=None)
    with pytest.raises(OSError):
        (m.path / "app/1.0/rootfs/usr/share/noise").read_bytes()
    assert "does not match its digest" in (m.path / ".control/errors").read_text()
    m.umount()


def test_a_registry_that_ignores_range_sends_the_layer_once_more_not_once_per_part(fakereg, mount, soci, expected):  # noqa: F811
    layers = soci()
    fakereg.fault("GET", f"/v2/app/blobs/{layers[0].digest}", faults.ignore_range(), times=None)
    m = mount(fakereg.url, options="raw_links")
    for p in sorted((m.path / "app/1.0/rootfs/usr/share").iterdir(), reverse=True):
        p.read_bytes()
    check(m, expected)
    assert len(blob_requests(fakereg, layers[0])) <= 3, fakereg.dump()


def test_evicted_spans_come_again(fakereg, mount, soci, expected):  # noqa: F811
    soci()
    m = mount(fakereg.url, options="raw_links,cache_size=16M")
    check(m, expected)
    m.umount()
    subprocess.run(["find", m.dir, "-path", "*/span/*", "-type", "f", "-delete"], check=True)
    m.start()
    check(m, expected)
    assert m.stats()["toc_fallbacks"] == 0 and m.stats()["layers_indexed"] == 0


def test_a_damaged_cache_is_mended(fakereg, mount, soci, expected):  # noqa: F811
    soci()
    m = mount(fakereg.url, options="raw_links")
    check(m, expected)
    m.umount()
    assert damage_objects(m.dir) > 5
    m.start()
    check(m, expected)
    assert m.stats()["cache_corrupt"] >= 3 and m.stats()["toc_fallbacks"] == 0


def test_kill_9_at_any_time_loses_nothing(fakereg, mount, soci, expected):  # noqa: F811
    soci()
    m = mount(fakereg.url, options="raw_links", clean=False)
    reader = subprocess.Popen(["tar", "-cf", "/dev/null", "-C", m.path / "app/1.0/rootfs", "."], stderr=subprocess.DEVNULL)
    m.wait(0.3)
    m.kill9()
    reader.wait()
    m.start()
    check(m, expected)
    m.umount()


# ---- the library's own manifests

@pytest.mark.parametrize("version", ["v1", "v2"])
def test_an_index_by_the_library(mount, tools, tmp_path, expected, version):  # noqa: F811
    layout = tmp_path / "app"
    image = plain()
    write_layout(layout, {"1.0": image})
    made = run(version, f"-span={SPAN}", layout, image.digest)
    m = mount(f"dir:{tmp_path}", options="raw_links")
    where = "app/1.0" if version == "v1" else f"app/{made['digest']}"
    treecmp.assert_same(expected, treecmp.snapshot(m.path / where / "rootfs"))
    stats = m.stats()
    assert stats["toc_layers"] == 2 and stats["layers_indexed"] == 0 and stats["toc_fallbacks"] == 0, m.log


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_an_index_by_registryfs_itself_is_used_from_then_on(mount, tmp_path, expected, version):  # noqa: F811
    write_layout(tmp_path / "app", {"1.0": plain()})
    flags = ["--v2", "2.0"] if version == "v2" else []
    p = subprocess.run([program(), "index", "--span-size", "512K", "--min-layer-size", "0", *flags, f"dir:{tmp_path}/app:1.0"],
                       capture_output=True, text=True)
    assert p.returncode == 0, p.stderr
    m = mount(f"dir:{tmp_path}", options="raw_links")
    check(m, expected, "2.0" if version == "v2" else "1.0")
    stats = m.stats()
    assert stats["soci_indexes"] and (stats["toc_layers"], stats["layers_indexed"], stats["toc_fallbacks"]) == (2, 0, 0), m.log
