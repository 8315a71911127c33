"""What real tools do with a mount: each test is a promise of DESIGN.md 3 as a user of cp, rsync, skopeo or podman sees it."""
import errno
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import tarfile
import tempfile
import time

import pytest

from lib import faults, images, servers, treecmp
from lib.images import (Image, Index, Layer, artifact, directory, file, hardlink, push, sha256, symlink, whiteout,
                        write_layout)
from lib.rfs import Mount
from lib.treecmp import assert_same, run, skopeo_copy, snapshot, umoci_unpack

BUSYBOX = pathlib.Path("/usr/bin/busybox")
ATTESTATION = {"annotations": {"vnd.docker.reference.type": "attestation-manifest"},
               "platform": {"os": "unknown", "architecture": "unknown"}}


# ---- the images that the tests look at

def base_layer():
    return Layer([directory("./"), directory("usr"), directory("bin"), file("bin/busybox", BUSYBOX.read_bytes(), mode=0o755), hardlink("bin/sh", "bin/busybox", mode=0o755),
                  symlink("bin/cat", "/bin/busybox"), symlink("bin/echo", "busybox"), symlink("bin/ls", "busybox"),
                  directory("etc"), file("etc/motd", "hello\n"), file("etc/gone", "x"),
                  directory("tmp", mode=0o1777), directory("usr/share"), symlink("usr/up", "../../../etc"),
                  file("usr/share/data", bytes(range(256)) * 4000, uid=1000, gid=100, mode=0o640)])


def app(version, **kw):
    top = Layer([whiteout("etc/gone"), directory("srv"), file("srv/version", version + "\n", mtime=1700000000),
                 file("srv/same", "same\n")])
    return Image([BASE, top], config={"created": f"2024-01-0{version[0]}T00:00:00Z"}, **kw)


BASE = base_layer()
APP1, APP2 = app("1.0"), app("2.0")
ARM = Image([Layer([file("arch", "arm64\n")])], platform="linux/arm64/v8")
AMD = Image([Layer([file("arch", "amd64\n")])], platform="linux/amd64")
WIN = Image([Layer([file("arch", "windows\n")])], platform="windows/amd64")
PROVENANCE = Image([Layer.from_blob(b'{"predicate":"amd64"}', None, "application/vnd.in-toto+json")], platform="unknown/unknown")
MULTI = Index([AMD, ARM, WIN, (PROVENANCE, {**ATTESTATION, "annotations": {
    **ATTESTATION["annotations"], "vnd.docker.reference.digest": AMD.digest}})])
CHART = artifact({"Chart.yaml": b"name: x\n", "templates/a.yaml": b"a\n", "templates/deep/b.yaml": b"b\n",
                  "../../evil": b"no\n"}, "application/vnd.example.chart")
SHOP = {
    "app": {"1.0": APP1, "2.0": APP2, "latest": APP2},
    "app/blobs": {"1.0": APP1},
    "app/index.json": {"x": AMD},
    "team/deep/tool": {"1.0": AMD},
    "clash": {"1.0": APP1, "only-tag": APP1},
    "clash/1.0": {"inner": AMD},
    "multi": {"1.0": MULTI},
    "chart": {"1.0": CHART},
}


def fill(url, repos):
    client = images.Client(url)
    for repo, tags in repos.items():
        for tag, image in tags.items():
            client.push(repo, image, tag)


def tree_of(image, tmp, name="expected"):
    """What umoci makes of it."""
    write_layout(tmp / f"{name}-layout", {"1.0": image})
    return snapshot(umoci_unpack(tmp / f"{name}-layout", "1.0", tmp / name))


@pytest.fixture(scope="module")
def shop(tools):
    """A real registry with SHOP in it, mounted with raw links once for all tests that only read."""
    with servers.DockerRegistry28() as reg:
        fill(reg.url, SHOP)
        with Mount(reg.url, options="raw_links") as m:
            m.registry = reg
            yield m


def sh(command, **kw):
    return subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, **kw)


def names(path):
    return sorted(os.listdir(path))


def errno_of(call, *args, **kw):
    try:
        call(*args, **kw)
    except OSError as e:
        return errno.errorcode[e.errno]
    return None


def digest_file(path):
    h = hashlib.sha256()
    with open(path, "rb") as f:
        while piece := f.read(1 << 20):
            h.update(piece)
    return "sha256:" + h.hexdigest()


# ---- images as layouts and archives

def test_skopeo_copies_out_of_the_layout(shop, tmp_path):
    for tag, image in SHOP["app"].items():
        skopeo_copy(f"oci:{shop.path}/app/.oci:{tag}", f"dir:{tmp_path}/{tag}")
        assert (tmp_path / tag / "manifest.json").read_bytes() == image.manifest
        for digest, data in image.blobs():
            assert (tmp_path / tag / digest[7:]).read_bytes() == data
    skopeo_copy(f"oci:{shop.path}/multi/.oci:1.0", f"oci:{tmp_path}/multi:1.0", "--all")
    assert (tmp_path / "multi" / "blobs" / "sha256" / ARM.digest[7:]).read_bytes() == ARM.manifest


def test_umoci_unpacks_the_layout(shop, tmp_path):
    out = umoci_unpack(f"{shop.path}/app/.oci", "1.0", tmp_path / "out")
    assert_same(tree_of(APP1, tmp_path), snapshot(out))


@pytest.fixture
def short_dir():
    """podman refuses a runroot of more than 50 characters."""
    d = pathlib.Path(tempfile.mkdtemp(prefix="p.", dir="/tmp"))
    yield d
    shutil.rmtree(d, ignore_errors=True)


def podman(tmp, *args, check=True):
    conf = tmp / "storage.conf"
    conf.write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{tmp}/root"\nrunroot = "{tmp}/runroot"\n')
    env = {**os.environ, "HOME": str(tmp), "TMPDIR": str(tmp), "XDG_RUNTIME_DIR": str(tmp), "CONTAINERS_STORAGE_CONF": str(conf)}
    return run("podman", "--root", tmp / "root", "--runroot", tmp / "runroot", "--storage-driver", "vfs", "--events-backend", "file",
               *args, env=env, check=check)


def test_podman_loads_the_tar(shop, tmp_path, short_dir):
    out = podman(short_dir, "load", "-q", "-i", shop.path / "app/.tar/1.0.tar").stdout.decode()
    assert f"{shop.registry.host}/app:1.0" in out
    name = f"{shop.registry.host}/app:1.0"
    assert json.loads(podman(short_dir, "image", "inspect", name).stdout)[0]["Id"] == sha256(APP1.config)[7:]
    top = podman(short_dir, "image", "mount", name).stdout.decode().strip()
    assert_same(tree_of(APP1, tmp_path), snapshot(top), leave_out=("dir_mtime",))


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
def test_skopeo_reads_the_tar(shop, tmp_path, kind):
    skopeo_copy(f"{kind}:{shop.path}/app/.tar/2.0.tar", f"dir:{tmp_path}/out")
    got = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert got["config"]["digest"] == sha256(APP2.config)
    if kind == "oci-archive":
        assert (tmp_path / "out" / "manifest.json").read_bytes() == APP2.manifest


def test_the_tar_of_an_index_is_read_by_skopeo(shop, tmp_path):
    tar = shop.path / "multi/.tar/1.0.tar"
    skopeo_copy(f"oci-archive:{tar}", f"oci:{tmp_path}/all:1.0", "--all")
    assert (tmp_path / "all" / "blobs" / "sha256" / ARM.digest[7:]).exists()
    skopeo_copy(f"docker-archive:{tar}", f"dir:{tmp_path}/one")
    assert json.loads((tmp_path / "one" / "manifest.json").read_text())["config"]["digest"] == sha256(AMD.config)


def test_two_reads_of_the_tar_are_byte_equal(shop, tmp_path):
    tar = shop.path / "app/.tar/1.0.tar"
    first = tar.read_bytes()
    assert len(first) == tar.stat().st_size
    with Mount(shop.registry.url) as again:          # another daemon, another cache, odd read sizes
        other = bytearray()
        with open(again.path / "app/.tar/1.0.tar", "rb", buffering=0) as f:
            while piece := f.read(70_001):
                other += piece
            assert os.pread(f.fileno(), 1000, len(first) - 300) == first[-300:]
            assert os.pread(f.fileno(), 10, len(first)) == b""
        assert bytes(other) == first
        assert again.path.joinpath("app/.tar/1.0.tar").stat().st_mtime == tar.stat().st_mtime
    with tarfile.open(tar) as t:
        blobs = {n.split("/")[-1]: hashlib.sha256(t.extractfile(n).read()).hexdigest() for n in t.getnames() if n.startswith("blobs/sha256/")}
    assert blobs and all(a == b for a, b in blobs.items())


def test_tar_lists_one_archive_for_each_tag(shop):
    assert names(shop.path / "app/.tar") == ["1.0.tar", "2.0.tar", "latest.tar"]
    assert errno_of(os.stat, shop.path / "app/.tar/3.0.tar") == "ENOENT"
    assert errno_of(os.stat, shop.path / "app/.tar/1.0") == "ENOENT"


# ---- rsync

def rsync(*args):
    """(files sent, what it says about single files)."""
    p = run("rsync", "-a", "--itemize-changes", "--stats", *args)
    text = p.stdout.decode()
    return int(re.search(r"Number of regular files transferred: ([\d,]+)", text)[1].replace(",", "")), \
        [line.split(" ", 1)[1] for line in text.splitlines() if line.startswith(">f")]


def all_digests(root, repos=SHOP):
    return {f"{r}:{t}": (root / r / (":" + t) / "digest").read_text().strip() for r, tags in repos.items() for t in tags}


@pytest.mark.parametrize("server", ["registry28", "ggcr", "dir"])
def test_rsync_twice_sends_no_blob_and_the_copy_shows_the_same_digests(tools, request, tmp_path, mount, server):
    signed = {**SHOP, "signed": {"1.0": APP1, "sig": artifact({"s": b"sig"}, "application/vnd.example.sig", subject=APP1)}}
    if server == "dir":
        for repo, tags in signed.items():
            where = repo.replace("app/blobs", "app/%blobs").replace("app/index.json", "app/%index.json")
            write_layout(tmp_path / "source" / where, tags)
        url = f"dir:{tmp_path}/source"
    else:
        url = request.getfixturevalue(server).url
        fill(url, signed)
    m = mount(url)
    sent, _ = rsync(f"{m.path}/.oci/", f"{tmp_path}/copy/")
    assert sent > len(SHOP)
    sent, files = rsync(f"{m.path}/.oci/", f"{tmp_path}/copy/")
    assert [f for f in files if "blobs/" in f] == [] and sent == 0, files
    again = mount(f"dir:{tmp_path}/copy")
    assert all_digests(again.path, signed) == {f"{r}:{t}": i.digest for r, tags in signed.items() for t, i in tags.items()}
    assert (again.path / "app/1.0/rootfs/srv/version").read_text() == "1.0\n"
    assert names(again.path / "signed/1.0/referrers") == ["application_vnd.example.sig"]
    # a third one from a daemon that has just started
    m.umount()
    m.start()
    sent, files = rsync(f"{m.path}/.oci/", f"{tmp_path}/copy/")
    assert [f for f in files if "blobs/" in f] == [] and sent == 0, files


def test_rsync_sends_what_is_new_and_a_moved_tag_of_equal_size(fakereg, tmp_path, mount):
    one, two = (Image([Layer([file("v", c)])]) for c in "12")
    assert len(one.manifest) == len(two.manifest)        # index.json does not change its size
    fakereg.add("app", one, "1.0")
    m = mount(fakereg.url, options="tag_ttl=1")
    rsync(f"{m.path}/.oci/", f"{tmp_path}/copy/")
    fakereg.add("app", two, "1.0")
    time.sleep(2.5)
    sent, files = rsync(f"{m.path}/.oci/", f"{tmp_path}/copy/")
    assert "app/index.json" in files and sent == 4, files       # manifest, config, layer
    assert two.digest in (tmp_path / "copy/app/index.json").read_text()


def test_an_archive_of_a_moved_tag_is_sent_again(fakereg, tmp_path, mount):
    one, two = (Image([Layer([file("v", c)], compress="none")]) for c in "12")
    fakereg.add("app", one, "1.0")
    m = mount(fakereg.url, options="tag_ttl=1")
    assert rsync(f"{m.path}/app/.tar/", f"{tmp_path}/copy/")[0] == 1
    assert rsync(f"{m.path}/app/.tar/", f"{tmp_path}/copy/")[0] == 0
    fakereg.add("app", two, "1.0")
    time.sleep(1.5)
    assert rsync(f"{m.path}/app/.tar/", f"{tmp_path}/copy/")[0] == 1
    assert two.digest[7:].encode() in (tmp_path / "copy/1.0.tar").read_bytes()


def test_nested_repositories_and_percent_names(shop):
    top = shop.path / ".oci"
    assert names(top) == ["app", "chart", "clash", "multi", "team"]
    assert names(top / "app") == ["%blobs", "%index.json", "blobs", "index.json", "oci-layout"]
    assert names(top / "team") == ["deep"] and names(top / "team/deep") == ["tool"]
    assert names(top / "team/deep/tool") == ["blobs", "index.json", "oci-layout"]
    assert AMD.digest in (top / "app/%index.json/index.json").read_text()
    assert APP1.digest in (top / "app/%blobs/index.json").read_text()
    assert json.loads((top / "app/oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    assert errno_of(os.stat, top / "app/%app") == "ENOENT"
    assert errno_of(os.stat, top / "%app") == "ENOENT"


# ---- files and directories

def test_cp_r_of_a_tag_does_what_it_says(shop, tmp_path):
    run("cp", "-a", shop.path / "app/1.0", tmp_path / "X")
    x = tmp_path / "X"
    assert names(x) == ["config.json", "digest", "history.txt", "layers", "manifest.json", "referrers", "rootfs"]
    assert (x / "manifest.json").read_bytes() == APP1.manifest
    assert (x / "config.json").read_bytes() == APP1.config
    assert (x / "digest").read_text() == APP1.digest + "\n"
    assert names(x / "layers") == ["00", "00.tar.gz", "01", "01.tar.gz"]
    expected, found = tree_of(APP1, tmp_path), snapshot(x / "rootfs")
    # on the first look cp notes the time of rootfs itself before anybody has seen the layers
    assert_same(*({p: n for p, n in t.items() if p != b"."} for t in (expected, found)))
    run("cp", "-a", shop.path / "app/1.0", tmp_path / "again")
    assert_same(expected, snapshot(tmp_path / "again/rootfs"))
    assert (x / "layers/01/etc/.wh.gone").exists()
    assert [digest_file(x / f"layers/0{i}.tar.gz") for i in (0, 1)] == [la.digest for la in APP1.layers]
    run("cp", "-r", shop.path / "app/1.0", tmp_path / "Y")
    assert (tmp_path / "Y/rootfs/srv/version").read_text() == "1.0\n"


def test_tar_of_rootfs_is_the_image(shop, tmp_path):
    (tmp_path / "out").mkdir()
    p = sh(f"tar -C {shop.path}/app/1.0/rootfs --xattrs --numeric-owner -c . | tar -C {tmp_path}/out --xattrs --numeric-owner -xp")
    assert (p.returncode, p.stderr) == (0, "")
    assert_same(tree_of(APP1, tmp_path), snapshot(tmp_path / "out"))


def test_diff_r_of_two_tags_shows_what_changed(shop, mount):
    m = mount(shop.registry.url)                                  # links stay inside: diff follows them
    p = sh(f"diff -r {m.path}/app/1.0/rootfs {m.path}/app/2.0/rootfs")
    assert p.returncode == 1 and p.stderr == ""
    assert "-1.0" in p.stdout or "< 1.0" in p.stdout
    assert [line for line in p.stdout.splitlines() if line.startswith(("diff", "Only", "Binary"))] == \
        [f"diff -r {m.path}/app/1.0/rootfs/srv/version {m.path}/app/2.0/rootfs/srv/version"]
    p = sh(f"diff -r {m.path}/app/2.0 {m.path}/app/latest")
    assert (p.returncode, p.stdout, p.stderr) == (0, "", "")


def test_a_shell_runs_in_a_chroot_with_an_overlay_on_rootfs(shop, tmp_path):
    for d in ("upper", "work", "m"):
        (tmp_path / d).mkdir()
    run("mount", "-t", "overlay", "overlay", "-o",
        f"lowerdir={shop.path}/app/1.0/rootfs,upperdir={tmp_path}/upper,workdir={tmp_path}/work", tmp_path / "m")
    try:
        p = run("chroot", tmp_path / "m", "/bin/sh", "-c",
                "cat /srv/version && /bin/ls -ld /tmp && echo new > /etc/motd && cat /etc/motd && echo $((6*7)) > /tmp/x && exec cat /tmp/x")
        out = p.stdout.decode().splitlines()
        assert out[0] == "1.0" and out[1].startswith("drwxrwxrwt") and out[2:] == ["new", "42"]
    finally:
        run("umount", tmp_path / "m")
    assert (tmp_path / "upper/etc/motd").read_text() == "new\n"
    assert (shop.path / "app/1.0/rootfs/etc/motd").read_text() == "hello\n"


def test_a_program_runs_straight_from_the_mount(shop):
    p = run("chroot", shop.path / "app/2.0/rootfs", "/bin/sh", "-c", "cat /srv/version; /bin/echo $0")
    assert p.stdout == b"2.0\n/bin/sh\n"


def test_what_would_change_the_mount_is_refused_as_read_only(shop, tmp_path):
    a, t = shop.path / "app", tmp_path / "file"
    t.write_text("x")
    calls = [(os.rename, a / "1.0", a / "1.1"), (os.symlink, "1.0", a / "stable"), (os.mkdir, shop.path / "new"), (os.rmdir, a / "1.0"),
             (os.unlink, a / "1.0/digest"), (os.link, a / "1.0/digest", a / "1.0/d2"), (os.rename, a / "1.0", shop.path / "team/1.0"),
             (os.mknod, a / "x"), (os.chmod, a / "1.0/digest", 0o600), (os.chown, a / "1.0/digest", 1, 1), (os.utime, a / "1.0/digest"),
             (os.truncate, a / "1.0/digest", 0), (os.setxattr, a / "1.0/digest", "user.x", b"1"), (os.removexattr, a / "1.0", "user.oci.digest"),
             (open, a / "1.0/digest", "w"), (open, a / "1.0/digest", "a"), (open, a / "1.0/new", "w"), (open, a / "1.0/rootfs/etc/motd", "r+"),
             (open, a / "1.0/layers/00.tar.gz", "r+"), (os.unlink, a / "1.0/rootfs/etc/motd"), (os.mkdir, a / "1.0/rootfs/new"),
             (os.unlink, a / ".oci/index.json"), (open, a / ".tar/3.0.tar", "w"), (os.unlink, a / ".control/tags.tsv"),
             (open, a / ".control/tags.tsv", "w"), (os.rmdir, a), (os.rename, a / "1.0/digest", a / "1.0/d")]
    got = [(f.__name__, str(args[0])[len(str(shop.path)):], errno_of(f, *args)) for f, *args in calls]
    assert [g for g in got if g[2] != "EROFS"] == []
    for command in (f"mv {a}/1.0 {a}/1.1", f"ln -s 1.0 {a}/stable", f"mkdir {shop.path}/x", f"rmdir {a}/1.0", f"rm {a}/1.0/digest",
                    f"cp {t} {a}/1.0/", f"touch {a}/1.0/digest", f"echo x > {a}/1.0/digest"):
        p = sh(command)
        assert p.returncode != 0 and "Read-only file system" in p.stderr, (command, p.stderr)


def test_find_du_and_ls_lr_walk_everything_without_an_error(shop):
    for command in (f"find {shop.path} -ls", f"ls -lR {shop.path}", f"find {shop.path}/app/.oci {shop.path}/app/.tar {shop.path}/.control -ls"):
        p = sh(command)
        assert (p.returncode, p.stderr) == (0, ""), p.stderr[:2000]
        assert "?" not in p.stdout
    found = sh(f"cd {shop.path}/app/1.0 && find . -not -name . | sort").stdout.split()
    assert "./rootfs/usr/share/data" in found and "./layers/01/etc/.wh.gone" in found
    assert not [f for f in found if "/.oci" in f or "/.control" in f or "/.tar" in f]
    size = int(sh(f"du -sb --apparent-size {shop.path}/app/1.0/rootfs").stdout.split()[0])
    assert size >= BUSYBOX.stat().st_size + 256 * 4000
    assert size < 2 * BUSYBOX.stat().st_size + 256 * 4000     # the hard link is counted once
    assert int(sh(f"du -sk {shop.path}/app/1.0/rootfs").stdout.split()[0]) >= (BUSYBOX.stat().st_size + 256 * 4000) // 1024


def test_layers_are_exact_blobs(shop):
    p = sh(f"cd {shop.path}/app/1.0/layers && sha256sum 0?.tar.gz && stat -c %s 00.tar.gz 01.tar.gz")
    lines = p.stdout.splitlines()
    assert ["sha256:" + line.split()[0] for line in lines[:2]] == [la.digest for la in APP1.layers]
    assert [int(x) for x in lines[2:]] == [len(la.blob) for la in APP1.layers]


@pytest.mark.parametrize("how,suffix", [("none", "tar"), ("gzip", "tar.gz"), ("zstd", "tar.zst")])
def test_a_layer_file_is_named_after_its_compression(fakereg, mount, how, suffix):
    image = Image([Layer([file("a", "x")], compress=how)])
    fakereg.add("app", image, "1.0")
    m = mount(fakereg.url)
    assert names(m.path / "app/1.0/layers") == ["00", f"00.{suffix}"]
    assert (m.path / f"app/1.0/layers/00.{suffix}").read_bytes() == image.layers[0].blob
    assert (m.path / "app/1.0/layers/00/a").read_text() == "x"


def test_xattrs_say_what_things_are(shop):
    get = lambda p, n: os.getxattr(shop.path / p, n).decode()     # noqa: E731
    assert get("app/1.0", "user.oci.digest") == APP1.digest
    assert get("app/1.0", "user.oci.media_type") == images.MANIFEST
    assert get("app/1.0", "user.oci.reference") == f"{shop.registry.host}/app:1.0"
    assert get(f"app/{APP1.digest}", "user.oci.reference") == f"{shop.registry.host}/app@{APP1.digest}"
    assert get("app", "user.oci.reference") == f"{shop.registry.host}/app"
    assert get("app/1.0/layers/01.tar.gz", "user.oci.digest") == APP1.layers[1].digest
    assert get("app/1.0/rootfs/srv/version", "user.oci.layer") == "01"
    assert get("app/1.0/rootfs/etc/motd", "user.oci.layer_digest") == BASE.digest
    assert get("chart/1.0", "user.oci.artifact_type") == "application/vnd.example.chart"
    text = sh(f"getfattr -d {shop.path}/app/1.0 2>/dev/null").stdout
    assert f'user.oci.digest="{APP1.digest}"' in text and "user.oci.reference=" in text
    assert "user.oci.artifact_type=" in sh(f"getfattr -d {shop.path}/chart/1.0 2>/dev/null").stdout
    # an image's files show the image's own alone, or `rsync -X` and `tar --xattrs` would copy ours
    assert os.listxattr(shop.path / "app/1.0/rootfs/srv/version") == []
    assert errno_of(os.getxattr, shop.path / "app/1.0/digest", "user.none") == "ENODATA"


def test_history_says_how_the_image_was_made(shop):
    lines = (shop.path / "app/1.0/history.txt").read_text().splitlines()
    assert len(lines) == 3 and lines[0].split()[:2] == ["LAYER", "SIZE"]
    for i, line in enumerate(lines[1:]):
        assert re.match(rf"0{i} +[\d.]+ k?M?B +2024-01-02T03:04:05Z +step {i}$", line), line
    start = lines[0].index("CREATED BY")
    assert all(line[start:].startswith("step") for line in lines[1:])


def test_times_are_those_of_the_image(shop):
    created = 1704067200                                          # 2024-01-01
    for name in ("", "manifest.json", "digest", "config.json", "layers", "layers/00.tar.gz"):
        assert (shop.path / "app/1.0" / name).stat().st_mtime == created, name
    assert (shop.path / "app/1.0/rootfs/srv/version").stat().st_mtime == 1700000000


def test_links_do_not_lead_out_of_the_tree(shop, tmp_path):
    with Mount(shop.registry.url) as m:
        root = m.path / "app/1.0/rootfs"
        assert os.readlink(root / "bin/cat") == "busybox"
        assert os.path.realpath(root / "usr/up") == str(root / "etc")
        assert (root / "usr/up/motd").read_text() == "hello\n"
        assert digest_file(root / "bin/cat") == digest_file(BUSYBOX)
    assert os.readlink(shop.path / "app/1.0/rootfs/bin/cat") == "/bin/busybox"


# ---- names

def test_a_repository_wins_the_plain_name_and_a_colon_always_means_the_tag(shop):
    clash = shop.path / "clash"
    assert names(clash) == ["1.0", "only-tag"]
    assert names(clash / "1.0") == ["inner"]
    assert (clash / ":1.0/digest").read_text() == APP1.digest + "\n"
    assert (clash / "1.0/inner/digest").read_text() == AMD.digest + "\n"
    assert (clash / ":only-tag/digest").read_text() == (clash / "only-tag/digest").read_text()
    assert errno_of(os.stat, clash / ":none") == "ENOENT"
    assert errno_of(os.stat, clash / "none") == "ENOENT"


def test_an_image_answers_to_its_digest_and_is_not_listed(shop):
    d = shop.path / "app" / APP1.digest
    assert (d / "manifest.json").read_bytes() == APP1.manifest
    assert (d / "rootfs/srv/version").read_text() == "1.0\n"
    assert names(shop.path / "app") == ["1.0", "2.0", "blobs", "index.json", "latest"]
    assert names(d) == names(shop.path / "app/1.0")
    for wrong in ("sha256:" + "0" * 64, "sha256:xyz", "sha256:", "md5:" + "0" * 32, APP1.digest.upper(), ARM.digest):
        assert errno_of(os.stat, shop.path / "app" / wrong) == "ENOENT", wrong


def test_hidden_names_answer_and_are_never_listed(shop):
    for where, hidden in ((shop.path, (".oci", ".control")), (shop.path / "app", (".oci", ".tar", ".control")),
                          (shop.path / "app/1.0", (".control",))):
        for name in hidden:
            assert (where / name).is_dir(), (where, name)
            assert os.listdir(where / name), (where, name)
        assert not [n for n in os.listdir(where) if n.startswith(".")]
    assert errno_of(os.stat, shop.path / ".tar") == "ENOENT"      # the root is no repository here
    for name in (".git", ".hidden", ".Trash", ".DS_Store", ".oc", "..x"):
        assert errno_of(os.stat, shop.path / "app" / name) == "ENOENT"
    assert ".control" not in sh(f"find {shop.path} -name '.*'").stdout


def test_names_that_can_be_nothing_are_absent_without_a_request(shop, proxy, mount):
    p = proxy(shop.registry.url)
    m = mount(p.url)
    p.reset()
    for name in ("A b", "x~", "#x#", "desktop.ini ", "a" * 250, ".xdg-volume-info", "autorun.inf\n", "-x", "%s", "ünï"):
        assert errno_of(os.stat, m.path / "app" / name) == "ENOENT", name
    assert p.requests("x~|ini|xdg") == []
    assert errno_of(os.stat, m.path / "app" / ("a" * 256)) == "ENAMETOOLONG"


# ---- indexes

def test_an_index_shows_its_platforms_and_stands_for_the_hosts(shop):
    d = shop.path / "multi/1.0"
    assert (d / "manifest.json").read_bytes() == MULTI.manifest
    assert (d / "digest").read_text() == MULTI.digest + "\n"
    assert names(d / "platforms") == ["linux-amd64", "linux-arm64", "windows-amd64"]
    machine = {"x86_64": AMD, "aarch64": ARM}[os.uname().machine]
    assert (d / "config.json").read_bytes() == machine.config
    assert (d / "rootfs/arch").read_text() == {"x86_64": "amd64\n", "aarch64": "arm64\n"}[os.uname().machine]
    arm = d / "platforms/linux-arm64"
    assert (arm / "digest").read_text() == ARM.digest + "\n"
    assert (arm / "rootfs/arch").read_text() == "arm64\n"
    assert (arm / "layers/00/arch").read_text() == "arm64\n"
    assert names(arm) == ["config.json", "digest", "history.txt", "layers", "manifest.json", "referrers", "rootfs"]
    assert (d / "platforms/windows-amd64/rootfs/arch").read_text() == "windows\n"


@pytest.mark.parametrize("option,arch", [("linux/arm64", "arm64\n"), ("linux/arm64/v8", "arm64\n"), ("windows/amd64", "windows\n")])
def test_the_platform_option_says_which_image_an_index_stands_for(shop, mount, option, arch):
    m = mount(shop.registry.url, options=f"platform={option}")
    assert (m.path / "multi/1.0/rootfs/arch").read_text() == arch


def test_an_index_without_the_platform_shows_its_platforms_alone(shop, mount):
    m = mount(shop.registry.url, options="platform=plan9/mips")
    assert names(m.path / "multi/1.0") == ["digest", "manifest.json", "platforms", "referrers"]
    assert errno_of(os.stat, m.path / "multi/1.0/rootfs") == "ENOENT"
    p = sh(f"find {m.path}/multi -ls; cat {m.path}/multi/1.0/.control/info.json")
    assert p.stderr == ""


# ---- artifacts

def test_an_artifact_shows_its_files_under_their_titles(shop, tmp_path):
    d = shop.path / "chart/1.0"
    assert names(d) == ["config.json", "digest", "files", "layers", "manifest.json", "referrers"]
    assert names(d / "files") == ["03.blob", "Chart.yaml", "templates"]
    assert names(d / "files/templates") == ["a.yaml", "deep"]
    assert (d / "files/templates/deep/b.yaml").read_text() == "b\n"
    assert (d / "files/Chart.yaml").read_text() == "name: x\n"
    assert (d / "files/03.blob").read_text() == "no\n"             # a title that would lead out is not used
    assert errno_of(os.stat, d / "rootfs") == "ENOENT"
    run("cp", "-r", d, tmp_path / "X")
    assert (tmp_path / "X/files/templates/a.yaml").read_text() == "a\n"


def test_titles_that_collide_or_hide_each_other_lose_nothing(fakereg, mount):
    blob = lambda data, title: Layer.from_blob(data, None, "application/octet-stream", {images.TITLE: title})    # noqa: E731
    fakereg.add("a", Image([blob(b"1", "x"), blob(b"2", "x"), blob(b"3", "x/y"), blob(b"4", "d"), blob(b"5", "d/e"), blob(b"6", "")],
                           b"{}", config_media_type=images.EMPTY, artifact_type="application/vnd.t"), "1.0")
    m = mount(fakereg.url)
    p = sh(f"cd {m.path}/a/1.0/files && find . -type f -exec cat {{}} +")
    assert p.stderr == "" and sorted(p.stdout) == list("123456"), p.stdout + sh(f"find {m.path}/a/1.0/files -ls").stdout


# ---- referrers

def referrers(path):
    return {t: names(path / t) for t in names(path)} if path.exists() else None


def test_referrers_by_the_api(fakereg, mount):
    push(fakereg.url, "ref/api", "1.0", APP1)
    sig = artifact({"sig.json": b"signature"}, "application/vnd.example.signature", subject=APP1)
    sbom = artifact({"sbom.json": b"{}"}, "application/spdx+json", subject=APP1)
    of_sig = artifact({"s": b"s"}, "application/vnd.example.signature", subject=sig)
    for a in (sig, sbom, of_sig):
        push(fakereg.url, "ref/api", a.digest, a)
    m = mount(fakereg.url)
    r = m.path / "ref/api/1.0/referrers"
    assert referrers(r) == {"application_spdx+json": [sbom.digest], "application_vnd.example.signature": [sig.digest]}
    d = r / "application_vnd.example.signature" / sig.digest
    assert (d / "files/sig.json").read_text() == "signature"
    assert (d / "manifest.json").read_bytes() == sig.manifest
    assert referrers(d / "referrers") == {"application_vnd.example.signature": [of_sig.digest]}
    assert errno_of(os.stat, r / "application_spdx+json" / sig.digest) == "ENOENT"
    assert errno_of(os.stat, r / "none") == "ENOENT"
    assert sorted(referrers(m.path / "ref/api/.oci/blobs")["sha256"])
    index = json.loads((m.path / "ref/api/.oci/index.json").read_text())["manifests"]
    assert {i["digest"] for i in index} == {APP1.digest, sig.digest, sbom.digest, of_sig.digest}


def test_referrers_by_the_api_of_a_real_registry(referrers_registry, mount, proxy):
    """go-containerregistry's; the fallback tag is not even asked for."""
    reg, kind = referrers_registry, "application/vnd.example.signature"
    push(reg.url, "ref/real", "1.0", APP1)
    sig = Image([Layer.from_blob(b"signature", None, kind, {"org.opencontainers.image.title": "sig.json"})], b"{}",
                config_media_type=kind, subject=APP1)
    of_sig = Image([Layer.from_blob(b"s", None, kind)], b"{}", config_media_type=kind, subject=sig)
    for a in (sig, of_sig):
        push(reg.url, "ref/real", a.digest, a)
    p = proxy(reg.url)
    m = mount(p.url)
    r = m.path / "ref/real/1.0/referrers"
    assert referrers(r) == {kind.replace("/", "_"): [sig.digest]}
    d = r / kind.replace("/", "_") / sig.digest
    assert (d / "manifest.json").read_bytes() == sig.manifest
    assert referrers(d / "referrers") == {kind.replace("/", "_"): [of_sig.digest]}
    asked = p.requests("/referrers/")
    assert [(q.path.rpartition("/")[2], q.status) for q in asked] == [(APP1.digest, 200), (sig.digest, 200)]
    assert not p.requests("/manifests/sha256-")


def fallback_tag(reg, repo):
    """An image, and a signature of it that only the tag sha256-... tells of."""
    push(reg.url, repo, "1.0", APP1)
    sig = artifact({"sig.json": b"signature"}, "application/vnd.example.signature", subject=APP1)
    push(reg.url, repo, sig.digest, sig)
    push(reg.url, repo, APP1.digest.replace(":", "-"), Index([sig]))
    return sig


@pytest.mark.parametrize("name", ["registry28", "distribution3", "ggcr"])
def test_referrers_by_the_fallback_tag(request, mount, name):
    reg = request.getfixturevalue(name)
    sig = fallback_tag(reg, "ref/fallback")
    m = mount(reg.url)
    assert referrers(m.path / "ref/fallback/1.0/referrers") == {"application_vnd.example.signature": [sig.digest]}
    d = m.path / "ref/fallback/1.0/referrers/application_vnd.example.signature" / sig.digest
    assert (d / "files/sig.json").read_text() == "signature"
    assert names(m.path / "ref/fallback") == ["1.0"]              # the tag itself is machinery


def test_a_404_page_for_the_referrers_api_makes_us_ask_the_fallback_tag(fakereg, mount):
    """A proxy that knows the routes of old registries only. When it answers everything so, it is an error."""
    fakereg.referrers_api = False
    sig = fallback_tag(fakereg, "ref/page")
    fakereg.fault("GET", "/referrers/", faults.html(404), times=None)
    m = mount(fakereg.url)
    assert referrers(m.path / "ref/page/1.0/referrers") == {"application_vnd.example.signature": [sig.digest]}
    d = m.path / "ref/page/1.0/referrers/application_vnd.example.signature" / sig.digest
    fakereg.fault("GET", "/manifests/sha256-", faults.html(404), times=None)
    assert errno_of(os.listdir, d / "referrers") == "EIO"


def test_referrers_by_cosign_tags(registry28, mount):
    push(registry28.url, "ref/cosign", "1.0", APP1)
    parts = {}
    for suffix in ("sig", "att", "sbom"):
        parts[suffix] = Image([Layer.from_blob(suffix.encode(), None, "application/vnd.dev.cosign.simplesigning.v1+json")])
        push(registry28.url, "ref/cosign", f"{APP1.digest.replace(':', '-')}.{suffix}", parts[suffix])
    m = mount(registry28.url)
    assert names(m.path / "ref/cosign") == ["1.0"]
    assert referrers(m.path / "ref/cosign/1.0/referrers") == {
        f"application_vnd.dev.cosign.artifact.{s}.v1+json": [parts[s].digest] for s in ("sig", "att", "sbom")}
    d = m.path / "ref/cosign/1.0/referrers/application_vnd.dev.cosign.artifact.sig.v1+json" / parts["sig"].digest
    assert [p.read_bytes() for p in (d / "layers").iterdir() if p.is_file()] == [b"sig"]


def test_attestations_of_buildkit_are_referrers(shop):
    kind = "application_vnd.docker.attestation.manifest.v1+json"
    assert referrers(shop.path / "multi/1.0/referrers") == {kind: [PROVENANCE.digest]}
    assert referrers(shop.path / "multi/1.0/platforms/linux-amd64/referrers") == {kind: [PROVENANCE.digest]}
    assert referrers(shop.path / "multi/1.0/platforms/linux-arm64/referrers") == {}
    d = shop.path / "multi/1.0/referrers" / kind / PROVENANCE.digest
    assert (d / "manifest.json").read_bytes() == PROVENANCE.manifest


def test_an_image_that_refers_to_itself_ends_somewhere(fakereg, mount):
    fakereg.add("loop", APP1, "1.0")
    fakereg.set_referrers("loop", APP1.digest, [APP1.descriptor(artifactType="application/x")])
    m = mount(fakereg.url)
    p = sh(f"timeout 60 find {m.path}/loop -name rootfs -prune -o -print")
    assert p.returncode in (0, 1) and p.stdout.count("referrers") < 50
    assert "Too many levels" in p.stderr or p.returncode == 0


# ---- control files

def test_control_files_are_the_owners_and_say_what_is(shop):
    c = shop.path / ".control"
    assert names(c) == ["config", "errors", "info.json", "metrics", "refresh", "stats"]
    assert names(shop.path / "app/.control") == ["info.json", "refresh", "tags.tsv"]
    assert names(shop.path / "app/1.0/.control") == ["info.json", "prefetch"]
    for d in (c, shop.path / "app/.control", shop.path / "app/1.0/.control"):
        assert d.stat().st_mode & 0o7777 == 0o700, d
        for f in d.iterdir():
            assert f.stat().st_mode & 0o7777 == 0o600, f
            assert f.read_bytes() is not None
    info = json.loads((c / "info.json").read_text())
    assert info["mountpoint"] == str(shop.path) and info["pid"] == shop.pid and info["source"] == shop.registry.url
    assert info["registries"][0]["name"] == shop.registry.host
    repo = json.loads((shop.path / "app/.control/info.json").read_text())
    assert repo["repository"] == "app" and repo["tags"] == 3
    image = json.loads((shop.path / "app/1.0/.control/info.json").read_text())
    assert image["digest"] == APP1.digest and image["layers"] == 2 and image["created"] == "2024-01-01T00:00:00Z"
    assert image["compressed_bytes"] == sum(len(la.blob) for la in APP1.layers)
    multi = json.loads((shop.path / "multi/1.0/.control/info.json").read_text())
    assert multi["images"] == 4
    assert "raw_links" in (c / "config").read_text()


def test_metrics_parse_as_prometheus_text(shop):
    text = (shop.path / ".control/metrics").read_text()
    kinds, values = {}, {}
    for line in text.splitlines():
        if m := re.fullmatch(r"# TYPE ([a-zA-Z_:][\w:]*) (counter|gauge|histogram)", line):
            assert m[1] not in kinds
            kinds[m[1]] = m[2]
        elif not line.startswith("# HELP "):
            m = re.fullmatch(r"([a-zA-Z_:][\w:]*)(\{[^}]*\})? (-?[\d.e+]+|[+-]Inf|NaN)", line)
            assert m, line
            base = re.sub(r"_(bucket|sum|count)$", "", m[1])
            assert m[1] in kinds or base in kinds, f"{m[1]} has no TYPE"
            values[m[1]] = float(m[3])
    assert text.endswith("\n") and len(kinds) > 10
    assert any(v > 0 for k, v in values.items() if "http" in k)
    assert shop.stats()


def test_errors_are_said_in_words(fakereg, mount):
    from lib import faults
    fakereg.add("app", APP1, "1.0")
    m = mount(fakereg.url)
    fakereg.fault("*", "/manifests/", faults.error(403, "DENIED", "you may not"), times=None)
    assert errno_of(os.listdir, m.path / "app/1.0") == "EACCES"
    text = (m.path / ".control/errors").read_text()
    line = text.splitlines()[-1]
    assert "/app: " in line and "1.0" in line and "403" in line and "EACCES" in line
    assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ", line)
    assert b"403" in os.getxattr(m.path / "app", "user.registryfs.error")
    assert "tag 1.0 of app" in m.log


def test_refresh_shows_a_moved_tag_at_once(fakereg, mount):
    fakereg.add("app", APP1, "1.0")
    m = mount(fakereg.url, options="tag_ttl=3600")
    assert (m.path / "app/1.0/rootfs/srv/version").read_text() == "1.0\n"
    assert names(m.path / "app") == ["1.0"] and errno_of(os.stat, m.path / "app/2.0") == "ENOENT"
    tar = (m.path / "app/.tar/1.0.tar").read_bytes()
    assert APP1.digest in (m.path / "app/.oci/index.json").read_text()
    fakereg.add("app", APP2, "1.0", "2.0")
    assert (m.path / "app/1.0/digest").read_text() == APP1.digest + "\n"
    (m.path / "app/.control/refresh").write_text("1\n")
    time.sleep(0.2)
    assert (m.path / "app/1.0/digest").read_text() == APP2.digest + "\n"
    assert (m.path / "app/1.0/rootfs/srv/version").read_text() == "2.0\n"
    assert names(m.path / "app") == ["1.0", "2.0"]
    assert (m.path / "app/2.0/digest").read_text() == APP2.digest + "\n"
    assert (m.path / "app/.tar/1.0.tar").read_bytes() != tar
    assert APP2.digest in (m.path / "app/.oci/index.json").read_text()
    fakereg.add("other", APP1, "1.0")
    sh(f"echo > {m.path}/.control/refresh")
    time.sleep(0.2)
    assert names(m.path) == ["app", "other"]


def test_a_moved_tag_is_seen_after_its_ttl_and_open_files_stay_what_they_were(fakereg, mount):
    fakereg.add("app", APP1, "1.0")
    m = mount(fakereg.url, options="tag_ttl=1")
    with open(m.path / "app/1.0/rootfs/srv/version") as f:
        old = os.open(m.path / "app/1.0/rootfs", os.O_RDONLY)
        fakereg.add("app", APP2, "1.0")
        time.sleep(1.5)
        assert (m.path / "app/1.0/rootfs/srv/version").read_text() == "2.0\n"
        assert f.read() == "1.0\n"
        fd = os.open("srv/version", os.O_RDONLY, dir_fd=old)
        assert os.read(fd, 10) == b"1.0\n"
        os.close(fd)
        os.close(old)


def test_tags_tsv_lists_tags_and_what_is_known_of_them(fakereg, mount):
    fakereg.add("app", APP1, "1.0", "2.0")
    m = mount(fakereg.url)
    (m.path / "app/1.0/digest").read_text()
    fakereg.reset()
    lines = (m.path / "app/.control/tags.tsv").read_text().splitlines()
    assert lines == ["tag\tdigest", f"1.0\t{APP1.digest}", "2.0\t"]
    assert fakereg.count() <= 1 and fakereg.count("tags_list") <= 1


def test_a_mount_without_source_lists_local_and_looks_up_hosts(registry28, mount, tmp_path):
    push(registry28.url, "onhost/app", "1.0", APP1)
    m = mount(None, options=["tls_verify=no"])
    assert "local" in names(m.path)
    assert names(m.path / "local") == []
    local = pathlib.Path(m.env["XDG_DATA_HOME"]) / "registryfs/registry"
    write_layout(local / "mine", {"1.0": APP1})
    (m.path / ".control/refresh").write_text("x")
    assert (m.path / "local/mine/1.0/digest").read_text() == APP1.digest + "\n"
    assert names(m.path / "local") == ["mine"]
    for name in ("nothing", "no-such-host.invalid", ".x", "169.254.169.254"):
        assert errno_of(os.stat, m.path / name) == "ENOENT", name


def test_a_tree_that_is_walked_by_many_at_once_is_the_same_for_all(shop, tmp_path):
    with Mount(shop.registry.url) as m:
        ps = [subprocess.Popen(["tar", "-C", str(m.path / "app/1.0/rootfs"), "--sort=name", "-cf", str(tmp_path / f"{i}.tar"), "."])
              for i in range(6)]
        assert [p.wait(120) for p in ps] == [0] * 6
        assert len({digest_file(tmp_path / f"{i}.tar") for i in range(6)}) == 1
    shutil.rmtree(tmp_path)
