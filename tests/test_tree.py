"""rootfs and layers: the merged tree is umoci's, byte for byte; links stay inside; every way to read gives the same bytes."""
import concurrent.futures
import errno
import fcntl
import gzip
import hashlib
import io
import json
import mmap
import os
import pathlib
import random
import shutil
import stat
import subprocess
import sys
import tarfile
import threading

import pytest

from lib import corner, servers, treecmp
from lib.images import Image, Layer, directory, fifo, file, hardlink, push, sparse, symlink, write_layout
from lib.rfs import Mount
from lib.syscalls import getdents, resolve, resolve_in_root, stays_below

BACKENDS = ["registry28", "distribution3", "ggcr", "dir"]
VARIANTS = ["oci", "ocizstd", "ocifull"]
# whose contents are read completely through which backend; everything else is compared everywhere
CONTENT = {("registry28", "oci"), ("distribution3", "ocizstd"), ("ggcr", "ocifull"), ("dir", "oci"), ("dir", "ocizstd")}
BLOCK = 4096


def manifest_of(layout):
    index = json.loads((layout / "index.json").read_text())
    digest = index["manifests"][0]["digest"]
    return digest, json.loads((layout / "blobs" / digest.replace(":", "/")).read_text())


def unpacked_once(layout):
    """umoci's tree of a layout's 1.0, kept between runs by manifest digest."""
    base = servers.CACHE / "unpacked"
    base.mkdir(parents=True, exist_ok=True)
    out = base / manifest_of(layout)[0].split(":")[1]
    with open(base / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not out.exists():
            shutil.rmtree(base / ".new", ignore_errors=True)
            treecmp.umoci_unpack(layout, "1.0", base / ".new")
            (base / ".new").rename(out)
    return out


@pytest.fixture(scope="session")
def unpacked(tools, benchmark_image):
    """variant -> the directory umoci made of it. umoci 0.4.7 reads no zstd; that variant holds the same tars."""
    def config(variant):
        m = manifest_of(benchmark_image / variant)[1]
        return json.loads((benchmark_image / variant / "blobs" / m["config"]["digest"].replace(":", "/")).read_text())
    assert config("oci")["rootfs"]["diff_ids"] == config("ocizstd")["rootfs"]["diff_ids"]
    oci, full = unpacked_once(benchmark_image / "oci"), unpacked_once(benchmark_image / "ocifull")
    return {"oci": oci, "ocizstd": oci, "ocifull": full}


@pytest.fixture(scope="session")
def umocis_tree(unpacked):
    """variant -> treecmp tree, contents included."""
    trees = {d: treecmp.snapshot(d) for d in set(unpacked.values())}
    return {v: trees[d] for v, d in unpacked.items()}


@pytest.fixture(scope="session")
def backend_source(request, tools, benchmark_image):
    """backend -> SOURCE, holding the variants as repositories."""
    filled = {}

    def source(backend):
        if backend == "dir":
            return f"dir:{benchmark_image}"
        if backend not in filled:
            server = request.getfixturevalue(backend)
            for v in VARIANTS:
                treecmp.push_layout(benchmark_image / v, server.url, f"tree/{v}")
            filled[backend] = f"{server.url}/tree"
        return filled[backend]
    return source


@pytest.fixture(scope="module", params=BACKENDS)
def backend(request, backend_source):
    """(name, a mount with raw_links) of each backend."""
    with Mount(backend_source(request.param), options="raw_links") as m:
        yield request.param, m


@pytest.fixture(scope="module")
def raw_mount(benchmark_image):
    """The benchmark image from dir:, links as they are."""
    with Mount(f"dir:{benchmark_image}", options="raw_links") as m:
        yield m


@pytest.fixture(scope="module")
def default_mount(benchmark_image):
    with Mount(f"dir:{benchmark_image}") as m:
        yield m


def expected_tree(one_case=None):
    return corner.corner_case_image(one_case=one_case, compress=("none",) * 4)[1]


def errors_text(m):
    return (m.path / ".control" / "errors").read_text()


# ---- the whole tree

@pytest.mark.parametrize("variant", VARIANTS)
def test_rootfs_is_umocis_tree(backend, umocis_tree, variant):
    name, m = backend
    expected = umocis_tree[variant]
    assert len(expected) > (25_000 if variant == "ocifull" else 9_000)
    leave_out = () if (name, variant) in CONTENT else ("sha256",)
    found = treecmp.snapshot(m.path / variant / "1.0" / "rootfs", leave_out=leave_out)
    treecmp.assert_same(expected, found)
    assert len(found) == len(expected)


def test_the_contents_of_every_variant_are_compared():
    assert {v for _, v in CONTENT} == set(VARIANTS) and {b for b, _ in CONTENT} == set(BACKENDS)


def mislabelled(image):
    """The same layers under media types that are not theirs."""
    kinds = [("gzip", "+zstd"), ("zstd", "+gzip"), ("none", "+gzip"), ("zstd-multi", "")]
    return Image([Layer(la.entries, c, media_type="application/vnd.oci.image.layer.v1.tar" + t)
                  for la, (c, t) in zip(image.layers, kinds)])


CORNER = {"gzip": ("gzip",) * 4, "gzip-multi": ("gzip-multi",) * 4, "gzip-named": ("gzip-named",) * 4,
          "gzip-crc": ("gzip-crc",) * 4, "zstd": ("zstd",) * 4, "zstd-multi": ("zstd-multi",) * 4, "none": ("none",) * 4,
          "mixed": ("none", "zstd", "gzip", "gzip-multi")}


@pytest.fixture(scope="module")
def corner_layouts(tools, tmp_path_factory):
    """A directory of layouts: corner-* in every compression, case-* one case each."""
    root = tmp_path_factory.mktemp("corner")
    for name, how in CORNER.items():
        write_layout(root / f"corner-{name}", {"1.0": corner.corner_case_image(compress=how)[0]})
    image = corner.corner_case_image()[0]
    write_layout(root / "corner-mislabelled", {"1.0": mislabelled(image)})
    write_layout(root / "corner-docker", {"1.0": Image(image.layers, docker=True)})
    for name in corner.case_names():
        write_layout(root / ("case-" + name.replace("_", "-")), {"1.0": corner.corner_case_image(one_case=name, compress=("none", "gzip", "none", "none"))[0]})
    return root


@pytest.fixture(scope="module")
def corner_mount(corner_layouts):
    with Mount(f"dir:{corner_layouts}", options="raw_links") as m:
        yield m


@pytest.mark.parametrize("how", [*CORNER, "mislabelled", "docker"])
def test_all_corner_cases_of_merging_and_of_tar(corner_mount, how):
    treecmp.assert_same(expected_tree(), treecmp.snapshot(corner_mount.path / f"corner-{how}" / "1.0" / "rootfs"))


@pytest.mark.parametrize("name", corner.case_names())
def test_corner_case(corner_mount, name):
    found = treecmp.snapshot(corner_mount.path / ("case-" + name.replace("_", "-")) / "1.0" / "rootfs")
    treecmp.assert_same(expected_tree(name), found)


@pytest.mark.parametrize("server", ["registry28", "distribution3", "ggcr"])
def test_all_corner_cases_over_http(request, mount, server):
    url = request.getfixturevalue(server).url
    image, expected = corner.corner_case_image(compress=CORNER["mixed"])
    push(url, "corner/cases", "1.0", image)
    m = mount(f"{url}/corner", options="raw_links")
    treecmp.assert_same(expected, treecmp.snapshot(m.path / "cases" / "1.0" / "rootfs"))


# ---- inode numbers

def check_inodes(top):
    """d_ino and d_type of every entry are those of lstat; `.` and `..` are there, once, first."""
    dirs, checked = [(os.fsencode(top), None)], 0
    while dirs:
        path, parent = dirs.pop()
        entries, st = getdents(path), os.lstat(path)
        assert [e[0] for e in entries[:2]] == [b".", b".."]
        names = [e[0] for e in entries]
        assert len(names) == len(set(names))
        assert entries[0][1] == st.st_ino, path
        # the kernel's own view of `..`
        assert not parent or entries[1][1] == parent.st_ino, path
        assert os.lstat(path + b"/..").st_ino == (parent.st_ino if parent else os.lstat(os.path.dirname(path)).st_ino)
        assert st.st_nlink == 2 + sum(1 for e in entries[2:] if e[2] == stat.S_IFDIR >> 12), path
        for name, ino, kind in entries[2:]:
            child = os.lstat(path + b"/" + name)
            assert (child.st_ino, stat.S_IFMT(child.st_mode) >> 12) == (ino, kind), path + b"/" + name
            checked += 1
            if stat.S_ISDIR(child.st_mode):
                dirs.append((path + b"/" + name, st))
    return checked


def test_readdir_and_stat_agree_about_inodes_and_types(raw_mount, default_mount, corner_mount):
    assert check_inodes(raw_mount.path / "oci" / "1.0" / "rootfs") > 9000
    assert check_inodes(default_mount.path / "oci" / "1.0" / "rootfs") > 9000
    for how in ("gzip", "none"):
        assert check_inodes(corner_mount.path / f"corner-{how}" / "1.0" / "rootfs") > 150
    for layer in sorted((corner_mount.path / "corner-gzip" / "1.0" / "layers").iterdir()):
        if layer.is_dir():
            check_inodes(layer)


def test_different_files_have_different_inode_numbers(raw_mount, umocis_tree):
    top = os.fsencode(raw_mount.path / "oci" / "1.0" / "rootfs")
    seen = {}
    for rel, node in umocis_tree["oci"].items():
        seen.setdefault(os.lstat(os.path.join(top, rel)).st_ino, set()).add(node.group or rel)
    assert all(len(v) == 1 for v in seen.values())


# ---- tools

def test_tar_of_rootfs_is_the_same_every_time(mount, benchmark_image):
    """Also the first time, when nothing is known yet."""
    m = mount(f"dir:{benchmark_image}", options="raw_links")
    sums = []
    for _ in range(2):
        p = subprocess.Popen(["tar", "-C", m.path / "oci" / "1.0" / "rootfs", "--xattrs", "--format=pax", "--numeric-owner",
                              "--pax-option=delete=atime,delete=ctime", "-c", "."], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        sums.append(hashlib.file_digest(p.stdout, "sha256").hexdigest())
        errors = p.stderr.read()
        assert p.wait() == 0 and not errors, errors
    assert sums[0] == sums[1]


def test_what_tar_packs_is_umocis_tree(raw_mount, umocis_tree, tmp_path):
    p = subprocess.run(f"tar -C '{raw_mount.path}/oci/1.0/rootfs' --xattrs --acls --format=pax -c . |"
                       f"tar -C '{tmp_path}' --xattrs '--xattrs-include=*' --acls --numeric-owner -xp", shell=True, capture_output=True)
    assert p.returncode == 0 and not p.stderr, p.stderr
    treecmp.assert_same(umocis_tree["oci"], treecmp.snapshot(tmp_path))


def test_rsync_copies_everything(raw_mount, corner_mount, umocis_tree, tmp_path):
    for source, expected in ((raw_mount.path / "oci" / "1.0" / "rootfs", umocis_tree["oci"]),
                             (corner_mount.path / "corner-zstd" / "1.0" / "rootfs", expected_tree())):
        out = tmp_path / "out"
        p = subprocess.run(["rsync", "-aHAX", "--numeric-ids", f"{source}/", out], capture_output=True, text=True)
        assert p.returncode == 0 and not p.stderr, p.stderr
        treecmp.assert_same(expected, treecmp.snapshot(out))
        p = subprocess.run(["rsync", "-aHAXni", "--numeric-ids", f"{source}/", out], capture_output=True, text=True)
        assert p.returncode == 0 and not p.stdout, p.stdout[:1000]
        shutil.rmtree(out)


def test_du_counts_each_file_once(raw_mount, corner_mount, umocis_tree):
    for top, expected in ((raw_mount.path / "oci" / "1.0" / "rootfs", umocis_tree["oci"]),
                          (corner_mount.path / "corner-gzip" / "1.0" / "rootfs", expected_tree())):
        files = {n.group or p: n.size or 0 for p, n in expected.items() if n.type != "d"}
        dirs = sum(os.lstat(os.path.join(os.fsencode(top), p)).st_size for p, n in expected.items() if n.type == "d")
        p = subprocess.run(["du", "-s", "--apparent-size", "-B1", top], capture_output=True, text=True)
        assert p.returncode == 0 and not p.stderr
        assert int(p.stdout.split()[0]) == sum(files.values()) + dirs
        p = subprocess.run(["du", "-s", "-B1", top], capture_output=True, text=True)
        assert p.returncode == 0 and not p.stderr and int(p.stdout.split()[0]) > sum(files.values()) * 0.9


def test_diff_finds_no_difference_to_umocis_tree(default_mount, unpacked):
    """Through the links as they are shown by default."""
    p = subprocess.run(["diff", "-r", default_mount.path / "oci" / "1.0" / "rootfs" / "etc", unpacked["oci"] / "etc"],
                       capture_output=True, text=True)
    lines = [x for x in p.stdout.splitlines() if "No such file" not in x]
    assert not lines, lines[:20]


# ---- links

DEEP = "deep/" + "/".join(f"d{i}" for i in range(20))


def nasty_links():
    """Entries of directories, files, symbolic and hard links, in an order in which mkdir, symlink and link can make them."""
    rng = random.Random(3)
    out = [directory("etc"), file("etc/passwd", "the image's own"), directory("tmp"), directory("usr"), directory("usr/bin"),
           file("usr/bin/x", "x"), directory("a"), directory("a/b"), directory("a/b/c"), file("a/b/c/f", "f"), file("f", "root f")]
    made = ""
    for part in DEEP.split("/"):
        made = f"{made}/{part}" if made else part
        out.append(directory(made))
    links = {
        # absolute ones, to what the host has too
        "passwd": "/etc/passwd", "root": "/", "dev": "/dev/null", "proc": "/proc/self/environ", "abs-twice": "//etc//passwd",
        "a/b/c/abs": "/etc/passwd", "a/b/c/root": "/", "hosts": "/etc/hostname", "tmpdir": "/tmp",
        # climbing
        "up": "..", "up4": "../../../..", "a/b/up9": "../" * 9 + "etc/passwd", "a/b/c/up": "../../../../../../../..",
        f"{DEEP}/up": "../" * 60 + "etc/passwd", "dots": "./././../.././etc/./passwd", "a/same": "../a/../a/b/../b/c/f",
        # through links
        "bin": "usr/bin", "via": "bin/x", "via2": "bin/../bin/x", "via-root": "root/etc/passwd", "via-up": "up4/up4/root/../etc/passwd",
        "a/b/c/via": "root/../../a/b/c/root/f", "to-deep": DEEP, "deep-up": "to-deep/../../../../../etc", "deep-abs": "to-deep/up",
        "from-deep": "to-deep/" + "../" * 30 + "etc/passwd", "bin-up": "bin/../../../etc/passwd", "bin-dot": "bin/.", "bin-slash": "bin/",
        # dangling, also in the middle, with `..` behind
        "nowhere": "/no/where", "gone": "a/b/gone", "past-gone": "gone/../../../../etc/passwd", "past-gone2": "a/gone/../../etc/passwd",
        "dangling": "deep/missing", "deep/dangling": "/", "past-dangling": "dangling/../../../etc/passwd",
        # what a lexical reading of the rest gets wrong: `dangling` leads to nothing, deep/dangling to the root
        "trap": "dangling/../../../../etc/passwd", "trap2": "deep/d0/dangle2/../../../../../etc/passwd",
        "deep/d0/dangle2": "../nothing", f"{DEEP}/trap": "dangle/../../../../../../../../../../../../../etc/passwd",
        f"{DEEP}/dangle": "nothing",
        # files used as directories
        "file-up": "f/../etc/passwd", "file-slash": "f/", "file-dot": "f/.", "file-in": "etc/passwd/x", "via-file": "passwd/..",
        "link-slash": "passwd/", "file-deep": "a/b/c/f/../../../../etc/passwd",
        # loops
        "self": "self", "self-dot": "./self-dot", "one": "two", "two": "one", "loop-dir": "loop-dir/x", "x": "y/z", "y": "x/w",
        "a/around": "../a/around/..", "through-loop": "self/../etc/passwd", "a/b/self": "/a/b/self/../../etc",
        # shape
        "dot": ".", "slashes": "///", "trailing": "a///", "a/b/dotdot": "../..", "a/b/dotdot-slash": "../../", "name-long": "n" * 255,
        "name-too-long": "n" * 256, "name-too-long-in": "n" * 256 + "/../etc/passwd", "long": "a/../" * 700 + "etc/passwd",
        "longest": "./" * 2042 + "etc/passwd", "long-up": "../" * 1300 + "etc/passwd", "space": " ", "new\nline": "a/b\n",
        b"bytes\xff": b"\xff\xfe/../etc", "\\": "a\\b", "control": "\x1b[2J",
    }
    assert len(links["longest"]) == 4094
    for i in range(60):                                  # chains: of 39, 40, 41 and more
        links[f"chain{i}"] = f"chain{i + 1}" if i < 59 else "etc/passwd"
        links[f"dirchain{i}"] = f"dirchain{i + 1}/../dirs" if i < 59 else "a"
    links["dirs"] = "a/b"
    for i in range(30):                                  # doubling: 2^30 for one that does not count
        links[f"fan{i}"] = f"fan{i + 1}/../fan{i + 1}/.." if i < 29 else "a/b"
    out += [symlink(k, v) for k, v in links.items()]
    # hard links to symbolic links, in directories of other depths: one text cannot be right for all
    out += [hardlink("hl-up", "a/b/up9"), hardlink("hl-abs", "a/b/c/abs"), hardlink("usr/bin/hl", "passwd"),
            hardlink(f"{DEEP}/hl", "passwd"), hardlink("hl-deep", f"{DEEP}/up"), hardlink("hl-same", "passwd"),
            hardlink("a/hl-via", "a/b/c/via"), hardlink("hl-self", "self")]
    # at random
    dirs = ["r"] + [f"r/{x}" for x in "abc"] + [f"r/{x}/{y}" for x in "abc" for y in "abc"] + \
           [f"r/{x}/{y}/{z}" for x in "abc" for y in "abc" for z in "abc"]
    out += [e for d in dirs for e in (directory(d), file(d + "/f", d))]
    names = []
    for d in dirs:
        for i in range(12):
            parts = [rng.choice(["a", "b", "c", "f", "..", "..", "..", ".", "", "zz", *(f"l{j}" for j in range(12))])
                     for _ in range(rng.randrange(1, 9))]
            target = rng.choice(["", "", "/", "/r/", "../"]) + "/".join(parts) + rng.choice(["", "", "", "/"])
            names.append(f"{d}/l{i}")
            out.append(symlink(names[-1], target or "."))
    out += [hardlink(f"{rng.choice(dirs)}/h{i}", rng.choice(names)) for i in range(200)]
    return out


def materialise(entries, top):
    """The entries made with mkdir, open, symlink and link below top."""
    top = os.fsencode(top)
    for e in entries:
        path = os.path.join(top, e.name.rstrip(b"/"))
        if e.type == b"5":
            os.mkdir(path)
        elif e.type == b"2":
            os.symlink(e.link, path)
        elif e.type == b"1":
            os.link(os.path.join(top, e.link), path, follow_symlinks=False)
        else:
            pathlib.Path(os.fsdecode(path)).write_bytes(e.data)


def check_links(shown, real, exact=True):
    """Every symbolic link below `shown` leads where it leads in `real` for a process that is rooted there."""
    top, wrong, n = os.fsencode(shown), [], 0
    for path, dirs, files in os.walk(top):
        for name in dirs + files:
            full = os.path.join(path, name)
            st = os.lstat(full)
            if not stat.S_ISLNK(st.st_mode):
                continue
            rel, text = full[len(top) + 1:], os.readlink(full)
            assert st.st_size == len(text), rel
            n += 1
            assert stays_below(rel, text), (rel, text)
            found = resolve(shown, rel)
            if not exact:
                continue
            should = resolve_in_root(real, rel)
            # what is shown is shorter than what the image has: more may be possible within the kernel's 40 links
            if found != should and should != (None, errno.ELOOP):
                wrong.append((rel, text, found, should))
            for more in (b"/", b"/f", b"/.."):
                a, b = resolve_below(shown, rel + more), resolve_in_root(real, rel + more)
                if a != b and b != (None, errno.ELOOP) and not (more == b"/.." and should == (b"", 0)):
                    wrong.append((rel + more, text, a, b))
    assert not wrong, f"{len(wrong)} links are wrong: {wrong[:10]}"
    return n


def resolve_below(shown, path):
    """resolve(), but `..` at the top of the tree, which the test itself has asked for, stays there."""
    try:
        return resolve(shown, path)
    except AssertionError:
        if path.endswith(b"/.."):
            assert resolve(shown, path[:-3]) == (b"", 0)
            return b"", 0
        raise


@pytest.fixture(scope="module")
def nasty(tools, tmp_path_factory):
    """(mount, directory with the same files made by hand)"""
    root = tmp_path_factory.mktemp("nasty")
    entries = nasty_links()
    (root / "real").mkdir()
    materialise(entries, root / "real")
    half = len(entries) // 2
    write_layout(root / "reg" / "one", {"1.0": Image([Layer(entries)])})
    write_layout(root / "reg" / "two", {"1.0": Image([Layer(entries[:half]), Layer(entries[half:], "zstd")])})
    with Mount(f"dir:{root / 'reg'}") as m:
        yield m, root / "real"


@pytest.mark.parametrize("repo", ["one", "two"])
def test_no_link_leads_out_of_the_tree_and_all_lead_where_chroot_would(nasty, repo):
    m, real = nasty
    assert check_links(m.path / repo / "1.0" / "rootfs", real) > 900


def test_links_of_a_layer_stay_inside_the_layer(nasty):
    m, real = nasty
    assert check_links(m.path / "one" / "1.0" / "layers" / "00", real) > 900
    assert check_links(m.path / "two" / "1.0" / "layers" / "00", real, exact=False) > 50
    assert check_links(m.path / "two" / "1.0" / "layers" / "01", real, exact=False) > 300


@pytest.mark.parametrize("variant", ["oci", "ocifull"])
def test_the_links_of_a_real_image_lead_where_chroot_would(default_mount, unpacked, variant):
    assert check_links(default_mount.path / variant / "1.0" / "rootfs", unpacked[variant]) > 400
    for layer in (default_mount.path / variant / "1.0" / "layers").iterdir():
        if layer.is_dir():
            check_links(layer, None, exact=False)


def test_hard_links_to_what_comes_later_do_not_lead_out_of_a_layer(mount, tmp_path):
    """In a layer's tree they are shown as symbolic links; those below them must not be guessed at."""
    here = "p/q/r/s/t"
    entries = [hardlink(f"{here}/hl", "d"), hardlink("hl2", f"{here}/hl"), directory("d"), directory("d/sub"),
               symlink("s", f"{here}/hl/sub/" + "../" * 9 + "etc/passwd"), symlink("s2", f"{here}/hl/../" * 5 + "etc/passwd"),
               symlink("s3", "hl2/sub/../../../../../../etc/passwd"), hardlink("elsewhere", "usr/lib/not/in/this/layer"),
               symlink("s4", "elsewhere/../../../../../../../etc/passwd"), symlink(f"{here}/s5", "../../../../../hl2/../../../etc")]
    write_layout(tmp_path / "a", {"1.0": Image([Layer(entries)])})
    for options in ("", "raw_links"):
        m = mount(f"dir:{tmp_path}", options=[options] if options else [])
        for tree in ("rootfs", "layers/00"):
            if not (options and tree == "rootfs"):
                for path, dirs, files in os.walk(os.fsencode(m.path / "a" / "1.0" / tree)):
                    for name in dirs + files:
                        if options and not name.startswith(b"hl"):
                            continue                # the image's own links are raw, as asked
                        full, top = os.path.join(path, name), m.path / "a" / "1.0" / tree
                        rel = full[len(os.fsencode(top)) + 1:]
                        resolve(top, rel)
                        assert not os.path.islink(full) or stays_below(rel, os.readlink(full)), (rel, os.readlink(full))


def test_raw_links_shows_the_bytes_of_the_image(nasty, mount):
    m, real = nasty
    raw = mount(m.source, options="raw_links")
    want = {k: n for k, n in treecmp.snapshot(real, leave_out=("sha256",)).items() if n.type == "l"}
    found = {k: n for k, n in treecmp.snapshot(raw.path / "two" / "1.0" / "rootfs", leave_out=("sha256",)).items() if n.type == "l"}
    treecmp.assert_same(want, found, only=("type", "mode", "link", "size", "nlink", "group"))


def test_links_too_long_for_linux_are_not_shown(mount, tmp_path):
    write_layout(tmp_path / "a", {"1.0": Image([Layer([symlink("ok", "t" * 4095), symlink("no", "t" * 4096), file("f", "f")])])})
    top = mount(f"dir:{tmp_path}", options="raw_links").path / "a" / "1.0" / "rootfs"
    assert sorted(os.listdir(top)) == ["f", "ok"] and len(os.readlink(top / "ok")) == 4095


# ---- layers as they are

def tar_names(data):
    """(all paths with their parents, {path: content} of the regular files that are last under their name)"""
    paths, content = set(), {}
    with tarfile.open(fileobj=io.BytesIO(data)) as t:
        for e in t:
            name = os.fsencode(e.name).strip(b"/")
            name = name[2:] if name.startswith(b"./") else name
            if name in (b"", b"."):
                continue
            parts = name.split(b"/")
            paths |= {b"/".join(parts[:i + 1]) for i in range(len(parts))}
            if e.isreg() and not e.islnk():
                content[name] = t.extractfile(e).read() if e.size < 1 << 20 else None
    return paths, content


def test_layers_show_their_own_entries_and_markers(raw_mount, benchmark_image):
    m = manifest_of(benchmark_image / "oci")[1]
    layers = raw_mount.path / "oci" / "1.0" / "layers"
    assert {f"{i:02}" for i in range(len(m["layers"]))} <= set(os.listdir(layers))
    markers = 0
    for i, d in enumerate(m["layers"]):
        blob = (benchmark_image / "oci" / "blobs" / d["digest"].replace(":", "/")).read_bytes()
        paths, content = tar_names(gzip.decompress(blob))
        top = os.fsencode(layers / f"{i:02}")
        found = {os.path.join(p, n)[len(top) + 1:] for p, ds, fs in os.walk(top) for n in ds + fs}
        assert found == paths
        markers += sum(1 for p in found if os.path.basename(p).startswith(b".wh."))
        names = random.Random(i).sample(sorted(n for n, c in content.items() if c is not None), min(150, len(content)))
        for name in names:
            with open(os.path.join(top, name), "rb") as f:
                assert f.read() == content[name], name
    assert markers > 0


def test_markers_are_shown_in_layers_and_nowhere_else(corner_mount):
    tag = corner_mount.path / "corner-gzip" / "1.0"
    assert (tag / "layers" / "01" / "wh" / ".wh.gone").read_bytes() == b""
    assert (tag / "layers" / "00" / "wh" / "gone").read_bytes() == b"old"
    assert (tag / "layers" / "01" / "opq-last" / ".wh..wh..opq").is_file()
    assert (tag / "layers" / "00" / "aufs" / ".wh..wh.aufs").exists()
    assert not os.listdir(tag / "layers" / "02")
    assert (tag / "layers" / "03" / "hx" / ".wh.w").exists()
    for path, dirs, files in os.walk(tag / "rootfs"):
        assert not [n for n in dirs + files if n.startswith(".wh.")], path


def test_layer_blobs_are_exact(raw_mount, benchmark_image):
    for variant in ("oci", "ocizstd"):
        m = manifest_of(benchmark_image / variant)[1]
        layers = raw_mount.path / variant / "1.0" / "layers"
        for i, d in enumerate(m["layers"]):
            name, = [n for n in os.listdir(layers) if n.startswith(f"{i:02}.")]
            assert (layers / name).stat().st_size == d["size"]
            with open(layers / name, "rb") as f:
                assert "sha256:" + hashlib.file_digest(f, "sha256").hexdigest() == d["digest"]


# ---- kinds of files and of attributes

@pytest.fixture(scope="module")
def cases(corner_mount):
    return corner_mount.path / "corner-zstd-multi" / "1.0" / "rootfs"


def test_sparse_files_read_as_written(cases):
    for name in ("pax-0.0", "pax-0.1", "pax-1.0"):
        data = (cases / "sp" / name).read_bytes()
        assert len(data) == 300_000 and data[4096:4100] == b"one+" and data[100_352:100_356] == b"two+"
        assert data[:4096] == bytes(4096) and data[200_192:200_195] == b"end" and not any(data[200_195:])
        with open(cases / "sp" / name, "rb") as f:
            for off in (0, 4090, 4095, 4608, 100_350, 104_440, 200_190, 299_999, 300_000):
                assert os.pread(f.fileno(), 20, off) == data[off:off + 20]
    assert (cases / "sp" / "all-hole").read_bytes() == bytes(5000)


def test_a_sparse_file_of_a_terabyte(mount, tmp_path):
    size = 1 << 40
    write_layout(tmp_path / "a", {"1.0": Image([Layer([corner_sparse(size), file("after", "a")])])})
    top = mount(f"dir:{tmp_path}").path / "a" / "1.0" / "rootfs"
    assert (top / "huge").stat().st_size == size and (top / "after").read_text() == "a"
    with open(top / "huge", "rb") as f:
        assert os.pread(f.fileno(), 10, 0) == b"begin" + bytes(5)
        assert os.pread(f.fileno(), 1 << 20, size // 2) == bytes(1 << 20)
        assert os.pread(f.fileno(), 100, size - 8) == bytes(5) + b"end"


def corner_sparse(size):
    """sparse() without the content in memory."""
    e = sparse("huge", [(0, b"begin" + bytes(507)), (512, b"end")], 600, "1.0")
    records = dict(e.pax)
    e.pax = [(k, str(size).encode() if k == b"GNU.sparse.realsize" else v) for k, v in records.items()]
    table = b"2\n0\n512\n%d\n3\n" % (size - 3)
    e.data = table + bytes(512 - len(table)) + b"begin" + bytes(507) + b"end"
    return e


def test_xattrs_are_the_images_and_behave_like_xattrs(cases, tmp_path):
    path = cases / "xa" / "bin"
    assert sorted(os.listxattr(path)) == ["user.nul", "user.other"]
    assert os.getxattr(path, "user.nul") == b"a\0b\n=c\xff" and os.getxattr(path, "user.other") == b"v" * 300
    assert os.getxattr(cases / "xa" / "caps", "security.capability") == bytes.fromhex("0100000200200000000000000000000000000000")
    assert os.getxattr(cases / "xa", "user.dir") == b"on a directory"
    assert os.getxattr(cases / "xl" / "a", "user.lib") == b"\0\1\2" and os.getxattr(cases / "xl" / "a", "user.sp ace") == b"x"
    for name in ("user.absent", "security.selinux", "system.posix_acl_access", "trusted.absent"):
        with pytest.raises(OSError) as e:
            os.getxattr(path, name)
        assert e.value.errno in (errno.ENODATA, errno.EOPNOTSUPP), name
    p = subprocess.run(["getcap", cases / "xa" / "caps"], capture_output=True, text=True)
    assert p.returncode != 0 or "cap_net_raw" in p.stdout
    for change in (lambda: os.setxattr(path, "user.x", b"1"), lambda: os.removexattr(path, "user.nul")):
        with pytest.raises(OSError) as e:
            change()
        assert e.value.errno == errno.EROFS


def test_ls_l_asks_an_image_without_labels_for_none(tmp_path, mount):
    acl = bytes.fromhex("0200000001000600ffffffff04000400ffffffff10000400ffffffff20000400ffffffff")
    files = [file(f"f{i:03}") for i in range(500)]
    write_layout(tmp_path / "a", {"plain": Image([Layer(files)]), "labels": Image([Layer([
        *files, file("l", xattrs={"security.selinux": b"system_u:object_r:etc_t:s0"}),
        file("a", xattrs={"system.posix_acl_access": acl})])])})
    m = mount(f"dir:{tmp_path}")
    plain, labels = (m.path / "a" / tag / "rootfs" for tag in ("plain", "labels"))
    assert os.getxattr(labels / "l", "security.selinux") == b"system_u:object_r:etc_t:s0"
    assert os.getxattr(labels / "a", "system.posix_acl_access") == acl
    assert len(os.listdir(plain)) == 500                          # all of the tree is there
    for path, eno in ((labels / "f000", errno.ENODATA), (plain / "f000", errno.EOPNOTSUPP)):
        for name in ("security.selinux", "system.posix_acl_access", "system.posix_acl_default"):
            with pytest.raises(OSError) as e:
                os.getxattr(path, name)
            assert e.value.errno == eno, (path, name)
    assert subprocess.run(["ls", "-l", labels], check=True, capture_output=True, text=True).stdout.count("\n") == 503
    before = m.stats()["fuse_ops"]
    assert subprocess.run(["ls", "-l", plain], check=True, capture_output=True, text=True).stdout.count("\n") == 501
    assert m.stats()["fuse_ops"] - before < 700                   # not 1000 and more; 500 if the kernel has just lost all names
    assert (m.path / ".control/errors").read_text() == ""


def test_a_path_through_symbolic_links_costs_nothing_once_they_are_known(tmp_path, mount):
    write_layout(tmp_path / "a", {"1.0": Image([Layer([directory("usr"), directory("usr/lib"), file("usr/lib/f", "x"),
                                                       symlink("lib", "usr/lib"), symlink("usr/lib/g", "f")])])})
    m = mount(f"dir:{tmp_path}")
    top = m.path / "a/1.0/rootfs"
    assert (top / "lib/g").stat().st_size == 1 and os.readlink(top / "lib") == "usr/lib"
    before = m.stats()["fuse_ops"]
    for _ in range(1000):
        assert (top / "lib/g").stat().st_size == 1
        assert os.readlink(top / "lib") == "usr/lib" and os.readlink(top / "usr/lib/g") == "f"
    assert m.stats()["fuse_ops"] - before < 50


def test_our_own_xattrs_answer_but_are_not_listed(default_mount):
    path = default_mount.path / "oci" / "1.0" / "rootfs" / "etc" / "passwd"
    layer = os.getxattr(path, "user.oci.layer").decode()
    assert (default_mount.path / "oci" / "1.0" / "layers" / layer / "etc" / "passwd").read_bytes() == path.read_bytes()
    assert os.getxattr(path, "user.oci.layer_digest").startswith(b"sha256:")
    assert not [n for n in os.listxattr(path) if n.startswith(("user.oci.", "user.registryfs."))]


def test_devices_fifos_and_odd_modes(cases):
    null, sda, big = (os.lstat(cases / "dev" / n) for n in ("null", "sda", "big"))
    assert stat.S_ISCHR(null.st_mode) and (os.major(null.st_rdev), os.minor(null.st_rdev)) == (1, 3)
    assert stat.S_ISBLK(sda.st_mode) and (os.major(sda.st_rdev), os.minor(sda.st_rdev)) == (8, 0)
    assert (os.major(big.st_rdev), os.minor(big.st_rdev)) == (300, 70000)
    assert stat.S_ISFIFO(os.lstat(cases / "dev" / "pipe").st_mode)
    assert stat.S_IMODE(os.lstat(cases / "num" / "setuid").st_mode) == 0o4755
    with pytest.raises(OSError) as e:      # nodev
        os.open(cases / "dev" / "null", os.O_RDWR)
    assert e.value.errno == errno.EACCES
    with open("/proc/self/mountinfo") as f:
        line, = [x for x in f if x.split()[4] == str(cases.parents[2])]
    assert {"nosuid", "nodev"} <= set(line.split()[5].split(","))


def test_times_before_1970_and_fractions(cases):
    times = {"frac": 1_700_000_000_123_456_789, "neg": -100 * 10**9, "neg-gnu": -100 * 10**9, "negfrac": -1_500_000_000,
             "2040": (2**33 + 5) * 10**9, "epoch": 0}
    for name, ns in times.items():
        assert os.lstat(cases / "num" / name).st_mtime_ns == ns, name


def test_names_are_bytes(cases):
    names = os.listdir(os.fsencode(cases / "nm"))
    for name in (b"\xff\xfe-not-utf8", b"new\nline", b"tab\t\\back\"quote'", b" space ", b"\x01ctl", b"n" * 255, b"..."):
        assert name in names
        path = os.path.join(os.fsencode(cases), b"nm", name)
        with open(path, "rb") as f:
            assert f.read() == (b"longest" if name == b"n" * 255 else b"nm/" + name)
    with pytest.raises(OSError) as e:
        os.stat(cases / "nm" / ("n" * 256))
    assert e.value.errno == errno.ENAMETOOLONG
    for absent in (b"\xff", b"nm", b"N" * 255, b"nm\xff\xfe-not-utf"):
        assert not os.path.lexists(os.path.join(os.fsencode(cases), b"nm", absent))


def test_a_full_length_name_in_every_place(mount, tmp_path):
    n = "ä" * 127 + "x"
    assert len(n.encode()) == 255
    write_layout(tmp_path / "a", {"1.0": Image([Layer([file(f"{n}/{n}/{n}", "deep"), symlink(f"{n}/l", f"../{n}/{n}"), fifo(f"{n}/p")])])})
    top = mount(f"dir:{tmp_path}").path / "a" / "1.0" / "rootfs"
    assert (top / n / n / n).read_text() == (top / n / "l" / n).read_text() == "deep"
    assert os.listdir(top) == [n]


# ---- ways to read

def large_files(tree, least):
    return sorted((p for p, n in tree.items() if n.type == "f" and n.size >= least), key=lambda p: -tree[p].size)


MMAP = """
import mmap, random, sys
for path, real in zip(sys.argv[1::2], sys.argv[2::2]):
    with open(path, "rb") as f, open(real, "rb") as g, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as found:
        real, rng = g.read(), random.Random(real)
        for _ in range(200):          # page faults all over, then everything
            at = rng.randrange(len(real))
            assert found[at:at + 10] == real[at:at + 10], path
        assert found[:] == real, path
"""


def test_mmap(default_mount, umocis_tree, unpacked):
    """In a process of its own: what cannot be read ends it with SIGBUS."""
    top = os.fsencode(default_mount.path / "oci" / "1.0" / "rootfs")
    pairs = [os.path.join(d, rel) for rel in large_files(umocis_tree["oci"], 1 << 20)[:6] for d in (top, os.fsencode(unpacked["oci"]))]
    p = subprocess.run([sys.executable, "-c", MMAP, *pairs], capture_output=True, text=True)
    assert p.returncode == 0, (p.returncode, p.stderr, errors_text(default_mount))


def test_direct_io_reads(default_mount, umocis_tree, unpacked):
    rel = large_files(umocis_tree["oci"], 4 << 20)[0]
    real = pathlib.Path(os.fsdecode(os.path.join(os.fsencode(unpacked["oci"]), rel))).read_bytes()
    fd = os.open(os.path.join(os.fsencode(default_mount.path / "oci" / "1.0" / "rootfs"), rel), os.O_RDONLY | os.O_DIRECT)
    try:
        buf, rng = mmap.mmap(-1, 1 << 20), random.Random(1)
        for _ in range(60):
            off = rng.randrange(0, len(real) // BLOCK + 1) * BLOCK
            size = rng.choice([BLOCK, 3 * BLOCK, 64 * BLOCK, 1 << 20])
            n = os.preadv(fd, [memoryview(buf)[:size]], off)
            assert buf[:n] == real[off:off + size] and n == min(size, max(0, len(real) - off))
    finally:
        os.close(fd)


def test_programs_run_from_rootfs(default_mount):
    top = default_mount.path / "oci" / "1.0" / "rootfs"
    loader, = [p for p in (top / "lib64").iterdir() if p.name.startswith("ld-linux")] if (top / "lib64").exists() else \
              [next((top / "lib").glob("ld-linux*"))]
    libraries = ":".join(str(top / d / p.name) for d in ("lib", "usr/lib") if (top / d).is_dir()
                         for p in (top / d).iterdir() if p.name.endswith("-linux-gnu"))
    p = subprocess.run([loader, "--library-path", libraries, top / "bin" / "ls", "-1", top / "etc"], capture_output=True, text=True)
    assert p.returncode == 0, p.stderr
    assert sorted(p.stdout.splitlines()) == sorted(n for n in os.listdir(top / "etc") if not n.startswith("."))


def test_a_chroot_runs_a_shell_and_perl(tools, default_mount):
    """Through whatever links the image has between its programs and libraries."""
    top = default_mount.path / "oci" / "1.0" / "rootfs"
    p = subprocess.run([tools("chroot"), top, "/bin/sh", "-c", "cat /etc/os-release && ls -l /usr/bin | wc -l && echo 'print 6*7' | perl"],
                       capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
    assert p.returncode == 0 and "Debian" in p.stdout and p.stdout.endswith("42"), p.stderr
    p = subprocess.run([tools("chroot"), top, "/bin/sh", "-c", "echo 'use POSIX; use Digest::SHA; print Digest::SHA::sha256_hex(7)' | perl"],
                       capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"})
    assert p.returncode == 0 and p.stdout == hashlib.sha256(b"7").hexdigest(), p.stderr


def read_randomly(top, real, tree, count, seed, files=400):
    rng, wrong = random.Random(seed), []
    names = [p for p, n in sorted(tree.items()) if n.type == "f" and n.size]
    some = rng.sample(names, min(files, len(names))) + large_files(tree, 1 << 20)[:30]
    top, real = os.fsencode(top), os.fsencode(real)
    for _ in range(count):
        rel = rng.choice(some)
        size = tree[rel].size
        off, length = rng.randrange(size + 10), rng.choice([1, 7, 512, 4096, 4097, 65536, 200_000, 1 << 20])
        if rng.random() < 0.2:
            off = max(0, size - rng.randrange(1, 5000))
        with open(os.path.join(top, rel), "rb", buffering=0) as f, open(os.path.join(real, rel), "rb", buffering=0) as g:
            if os.pread(f.fileno(), length, off) != os.pread(g.fileno(), length, off):
                wrong.append((rel, off, length))
    assert not wrong, wrong[:10]


@pytest.mark.parametrize("variant", VARIANTS)
def test_thousands_of_random_ranges(default_mount, unpacked, umocis_tree, variant):
    read_randomly(default_mount.path / variant / "1.0" / "rootfs", unpacked[variant], umocis_tree[variant], 3000, variant)


@pytest.mark.parametrize("variant", ["oci", "ocizstd"])
def test_random_ranges_when_the_cache_is_too_small(mount, benchmark_image, unpacked, umocis_tree, variant):
    """Pieces that were evicted are fetched and inflated again, from the middle of a stream."""
    m = mount(f"dir:{benchmark_image}", options="cache_size=67108864")
    # one zstd frame can only be entered at its start: each piece costs the layer up to it
    count = 400 if variant == "oci" else 40
    read_randomly(m.path / variant / "1.0" / "rootfs", unpacked[variant], umocis_tree[variant], count, "small" + variant)
    assert errors_text(m) == ""


@pytest.mark.parametrize("backend", ["registry28", "dir"])
def test_sixteen_readers_of_overlapping_files_from_nothing(mount, backend_source, unpacked, umocis_tree, backend):
    m = mount(backend_source(backend), options="raw_links")
    tree, top = umocis_tree["oci"], os.fsencode(m.path / "oci" / "1.0" / "rootfs")
    common = large_files(tree, 1 << 20)[:20]
    names = [p for p, n in sorted(tree.items()) if n.type == "f" and n.size]
    start = threading.Barrier(16)

    def reader(i):
        rng, bad = random.Random(i), []
        mine = common + rng.sample(names, 150)
        rng.shuffle(mine)
        start.wait()
        for rel in mine:
            with open(os.path.join(top, rel), "rb") as f:
                if hashlib.file_digest(f, "sha256").hexdigest() != tree[rel].sha256:
                    bad.append(rel)
        return bad

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        bad = [x for result in pool.map(reader, range(16)) for x in result]
    assert not bad, bad[:10]
    assert errors_text(m) == ""


# ---- what is looked at and what is not

def test_listing_the_image_fetches_no_layer_and_asking_for_the_root_gives_the_images_own(mount, registry28, proxy):
    p = proxy(registry28.url)
    image = Image([Layer([directory("./", 0o750, uid=3, gid=4), file("a", "a")])])
    push(registry28.url, "lazy/app", "1.0", image)
    m = mount(f"{p.url}/lazy")
    subprocess.run(["ls", "-l", "--color=always", m.path / "app" / "1.0"], check=True, capture_output=True)
    assert not p.requests(f"/blobs/{image.layers[0].digest}")
    m2 = mount(f"{p.url}/lazy")
    st = os.stat(m2.path / "app" / "1.0" / "rootfs")
    assert (stat.S_IMODE(st.st_mode), st.st_uid, st.st_gid) == (0o750, 3, 4)
    assert (stat.S_IMODE(os.stat(m2.path / "app" / "1.0" / "layers" / "00").st_mode)) == 0o750
