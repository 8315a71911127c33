"""What looking at a registry costs it, counted at the registry: DESIGN.md 3.1 "never one request per entry"."""
import concurrent.futures
import contextlib
import errno
import os
import subprocess
import threading
import time

import pytest

from lib import faults, images, servers
from lib.images import Image, Index, Layer, file, push, write_layout

SMALL = Image([Layer([file("etc/motd", "hello\n")])])
BIG = Image([Layer([file("big", os.urandom(3 << 20))]), Layer([file("small", "x")])])
TAGS = [f"v{i:05}" for i in range(10_000)]
REPOS = [f"group{i % 50:02}/repo{i:04}" for i in range(5_000)]


def sh(command, timeout=120):
    p = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=timeout)
    assert p.returncode == 0, f"{command}\n{p.stdout[-500:]}{p.stderr[-2000:]}"
    return p.stdout


def kinds(log):
    """{kind: count} of the requests since the last reset."""
    out = {}
    for r in log.requests():
        out[r.kind] = out.get(r.kind, 0) + 1
    return out


@contextlib.contextmanager
def in_memory(directory):
    """60 000 files and directories on a disk take a minute to remove."""
    directory.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512M,nr_inodes=0,mode=755", "tmpfs", directory], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", directory], check=True)


@pytest.fixture(scope="module")
def crowded(tools):
    """docker-registry 2.8 with 10 000 tags in one repository and 5 000 repositories, behind a counting proxy."""
    with servers.DockerRegistry28() as reg, in_memory(reg.storage):
        images.fill_storage(reg.storage, {"many/tags": {"first": SMALL}})
        tags = reg.storage / "docker/registry/v2/repositories/many/tags/_manifests/tags"
        for t in TAGS:
            (tags / t / "current").mkdir(parents=True)
            (tags / t / "current" / "link").write_text(SMALL.digest)
        base = reg.storage / "docker/registry/v2/repositories"
        for r in REPOS:
            (base / r / "_manifests/tags/1.0/current").mkdir(parents=True)
            (base / r / "_manifests/tags/1.0/current/link").write_text(SMALL.digest)
            (base / r / "_layers").mkdir()
        with servers.CountingProxy(reg.url) as proxy:
            yield proxy


@pytest.fixture
def crowd(crowded):
    crowded.reset()
    return crowded


@pytest.fixture
def fake_crowd(fakereg):
    fakereg.page_max = 1000
    fakereg.add_tags("many/tags", fakereg.add("many/tags", SMALL, "first"), TAGS)
    fakereg.add_repos(SMALL, REPOS)
    return fakereg


def only_lists(log, **exact):
    """Nothing but list pages, and of the named kinds exactly so many; forgets them."""
    got = kinds(log)
    assert set(got) <= {"ping", "tags_list", "catalog"}, log.dump()[:3000]
    for kind, n in exact.items():
        assert got.get(kind, 0) == n, (kind, got)
    log.reset()


# ---- many tags

@pytest.mark.parametrize("which", ["crowd", "fake_crowd"])
def test_ls_of_10_000_tags_costs_the_list_pages_and_nothing_else(request, mount, which):
    log = request.getfixturevalue(which)
    pages = {"crowd": 1, "fake_crowd": 11}[which]                # 2.8 ignores n; the fake one gives 1000 a page
    m = mount(log.url, options="tag_ttl=600")
    os.stat(m.path / "many/tags")
    log.reset()
    assert len(sh(f"ls {m.path}/many/tags").splitlines()) == 10_001
    only_lists(log, tags_list=pages)
    assert len(sh(f"ls -l {m.path}/many/tags").splitlines()) == 10_002
    assert len(sh(f"ls -lR --color=always -d {m.path}/many/tags/*").splitlines()) == 10_001
    assert len(sh(f"find {m.path}/many/tags -maxdepth 1 -printf '%s %t %m %n\\n'").splitlines()) == 10_002
    assert len(sh(f"compgen -d {m.path}/many/tags/v0").splitlines()) == 10_000
    assert len(sh(f"echo {m.path}/many/tags/v0999*").split()) == 10
    assert len(os.listdir(m.path / "many/tags")) == 10_001
    assert log.count() == 0, log.dump()[:2000]


def test_ls_of_10_000_tags_makes_no_nodes_of_names_that_nobody_looks_at(fake_crowd, mount):
    m = mount(fake_crowd.url, options="tag_ttl=600")
    sh(f"ls {m.path}/many/tags")
    assert m.stats()["fuse_nodes"] < 1500
    before = m.stats()["fuse_ops"]
    sh(f"ls -l {m.path}/many/tags")
    assert m.stats()["fuse_nodes"] > 9_900
    assert m.stats()["fuse_ops"] - before < 300      # and not one or more per entry


def test_ls_l_of_tags_asks_no_manifest_when_it_is_the_first_thing_done(fake_crowd, mount):
    m = mount(fake_crowd.url, options="tag_ttl=600")
    fake_crowd.reset()
    assert len(sh(f"ls -l {m.path}/many/tags").splitlines()) == 10_002
    got = kinds(fake_crowd)
    assert set(got) <= {"tags_list", "catalog", "manifest_head"} and got.get("manifest_head", 0) == 0, fake_crowd.dump()[:2000]


def test_shell_completion_asks_no_manifest(fakereg, mount):
    fakereg.add("app", SMALL, "1.0", "1.1")
    fakereg.add("app/sub", SMALL, "1.0")
    m = mount(fakereg.url)
    fakereg.reset()
    for line in ("", "ap", "app/", "app/1", "app/sub/"):
        sh(f"compgen -f {m.path}/{line}")
        sh(f"compgen -d {m.path}/{line}")
    assert kinds(fakereg).keys() <= {"tags_list", "catalog"}, fakereg.dump()


# ---- many repositories

@pytest.mark.parametrize("which", ["crowd", "fake_crowd"])
def test_ls_of_5_000_repositories_costs_the_list_pages_and_nothing_else(request, mount, which):
    log = request.getfixturevalue(which)
    m = mount(log.url, options="tag_ttl=600")
    log.reset()
    assert len(sh(f"ls {m.path}").splitlines()) == 51
    pages = log.count("catalog")
    assert pages <= {"crowd": 51, "fake_crowd": 6}[which], log.dump()[:1000]
    only_lists(log, tags_list=0)
    assert len(sh(f"ls -l {m.path}/group07").splitlines()) == 101
    assert len(sh(f"ls -d {m.path}/*/*").splitlines()) == 5_000 + 1
    assert sh(f"find {m.path} -mindepth 2 -maxdepth 2 | wc -l").strip() == "5001"
    assert log.count() == 0, log.dump()[:2000]
    # a repository's own tags are asked for when it is opened: one page
    assert os.listdir(m.path / "group07/repo0007") == ["1.0"]
    only_lists(log, tags_list=1, catalog=0)


# ---- time to live

def test_a_second_look_within_the_ttl_costs_nothing_and_after_it_one_page(fakereg, mount):
    fakereg.add("app", SMALL, *(f"t{i}" for i in range(50)))
    m = mount(fakereg.url, options="tag_ttl=2")
    sh(f"ls -l {m.path}/app")
    start = time.monotonic()
    fakereg.reset()
    for _ in range(5):
        sh(f"ls -l {m.path}/app; ls {m.path}")
    if time.monotonic() - start < 1.5:
        assert fakereg.count() == 0, fakereg.dump()
    time.sleep(4.5)
    fakereg.reset()
    sh(f"ls -l {m.path}/app")
    assert kinds(fakereg) == {"tags_list": 1, "catalog": 1}, fakereg.dump()


def test_looking_up_what_was_listed_long_ago_costs_one_list_not_a_request_each(fakereg, mount):
    tags = [f"t{i}" for i in range(300)]
    fakereg.add("app", SMALL, *tags)
    m = mount(fakereg.url, options="tag_ttl=3")
    assert sorted(os.listdir(m.path / "app")) == sorted(tags)
    time.sleep(6.5)
    fakereg.reset()
    for tag in tags:
        os.stat(m.path / "app" / tag)
    got = kinds(fakereg)
    assert got.get("tags_list", 0) <= 2 and got.get("manifest_head", 0) <= 25 and got.get("manifest_get", 0) == 0, fakereg.dump()[:2000]


def test_a_tag_is_revalidated_with_one_cheap_request(fakereg, mount):
    fakereg.add("app", SMALL, "1.0")
    m = mount(fakereg.url, options="tag_ttl=1")
    assert (m.path / "app/1.0/rootfs/etc/motd").read_text() == "hello\n"
    time.sleep(1.3)
    fakereg.reset()
    assert (m.path / "app/1.0/rootfs/etc/motd").read_text() == "hello\n"
    got = kinds(fakereg)
    assert got.get("manifest_head", 0) == 1 and got.get("blob_get", 0) == 0 and got.get("manifest_get", 0) == 0, fakereg.dump()
    assert fakereg.count() <= 3, fakereg.dump()


# ---- the first look at an image

def test_the_first_digest_costs_four_requests(fakereg, mount):
    """catalog + HEAD tag (both at once: a repository app/1.0 would win the name), GET manifest, GET config (its time)."""
    fakereg.add("app", SMALL, "1.0")
    m = mount(fakereg.url)
    fakereg.reset()
    assert (m.path / "app/1.0/digest").read_text() == SMALL.digest + "\n"
    got = kinds(fakereg)
    assert got.pop("tags_list", 0) == 0
    assert got == {"catalog": 1, "manifest_head": 1, "manifest_get": 1, "blob_get": 1}, fakereg.dump()
    fakereg.reset()
    for name in ("manifest.json", "config.json", "history.txt", "digest"):
        (m.path / "app/1.0" / name).read_bytes()
    os.listdir(m.path / "app/1.0")
    assert fakereg.count() == 0, fakereg.dump()


def test_ls_l_of_an_image_fetches_no_layer(fakereg, mount):
    fakereg.add("app", BIG, "1.0")
    fakereg.add("multi", Index([BIG, Image([Layer([file("a", "b")])], platform="linux/arm64")]), "1.0")
    m = mount(fakereg.url)
    fakereg.reset()
    for d in ("app/1.0", "app/1.0/layers", f"app/{BIG.digest}", "multi/1.0", "multi/1.0/platforms", "multi/1.0/platforms/linux-amd64"):
        out = sh(f"ls -la {m.path}/{d} && ls -laZ {m.path}/{d} >/dev/null && getfattr -dR -m - {m.path}/{d} --max-depth=0 2>/dev/null || ls -la {m.path}/{d}")
        assert "rootfs" in out or "00.tar.gz" in out or "linux" in out
    layers = [la.digest for la in BIG.layers]
    assert [r for r in fakereg.requests(kind="blob_get") if any(d in r.path for d in layers)] == [], fakereg.dump()
    sh(f"bash -c 'compgen -f {m.path}/app/1.0/; compgen -f {m.path}/app/1.0/layers/'")
    assert [r for r in fakereg.requests(kind="blob_get") if any(d in r.path for d in layers)] == [], fakereg.dump()


def test_reading_a_layer_file_fetches_that_layer_alone_and_once(fakereg, mount):
    fakereg.add("app", BIG, "1.0")
    m = mount(fakereg.url)
    fakereg.reset()
    assert (m.path / "app/1.0/layers/01.tar.gz").read_bytes() == BIG.layers[1].blob
    assert (m.path / "app/1.0/layers/01/small").read_text() == "x"
    got = [r.path.rsplit("/", 1)[1] for r in fakereg.requests(kind="blob_get")]
    assert BIG.layers[0].digest not in got and got.count(BIG.layers[1].digest) == 1, fakereg.dump()
    assert (m.path / "app/1.0/rootfs/small").read_text() == "x"
    assert len((m.path / "app/1.0/rootfs/big").read_bytes()) == 3 << 20
    got = [r.path.rsplit("/", 1)[1] for r in fakereg.requests(kind="blob_get")]
    assert got.count(BIG.layers[0].digest) == 1 and got.count(BIG.layers[1].digest) == 1, fakereg.dump()


def test_tags_of_one_digest_share_one_manifest_and_its_layers(fakereg, mount):
    fakereg.add("app", SMALL, "1.0", "1", "latest")
    m = mount(fakereg.url)
    for t in ("1.0", "1", "latest", ":1", SMALL.digest):
        assert (m.path / "app" / t / "rootfs/etc/motd").read_text() == "hello\n"
    assert fakereg.count("manifest_get") == 1 and fakereg.count("blob_get") == 1, fakereg.dump()


def test_twenty_readers_share_one_fetch(fakereg, mount):
    fakereg.add("app", BIG, "1.0")
    m = mount(fakereg.url)
    gate = threading.Event()
    fakereg.reset()
    fakereg.fault("GET", "/blobs/", faults.stall(gate), times=None)
    with concurrent.futures.ThreadPoolExecutor(20) as pool:
        jobs = [pool.submit((m.path / "app/1.0/rootfs/big").read_bytes) for _ in range(20)]
        time.sleep(1)
        gate.set()
        assert {j.result(60) == BIG.layers[0].tar[512:512 + (3 << 20)] or len(j.result()) for j in jobs} <= {True, 3 << 20}
    got = kinds(fakereg)
    assert got["manifest_get"] == 1 and got["manifest_head"] == 1, fakereg.dump()
    assert len({r.path for r in fakereg.requests(kind="blob_get")}) == got["blob_get"] <= 3, fakereg.dump()


def test_find_over_an_image_costs_its_layers_and_nothing_per_file(fakereg, mount):
    fakereg.add("app", Image([Layer([file(f"d{i % 20}/f{i}", str(i)) for i in range(2000)])]), "1.0")
    m = mount(fakereg.url)
    fakereg.reset()
    assert sh(f"find {m.path}/app/1.0/rootfs -type f -printf '%s\\n' | wc -l").strip() == "2000"
    first = fakereg.count()
    assert fakereg.count("blob_get") <= 2 and first <= 6, fakereg.dump()
    sh(f"cat {m.path}/app/1.0/rootfs/*/* | wc -c; ls -lR {m.path}/app/1.0/rootfs")
    assert fakereg.count() == first, fakereg.dump()


# ---- absent names

def test_a_name_that_is_absent_is_asked_for_once(fakereg, mount):
    fakereg.add("app", SMALL, "1.0")
    m = mount(fakereg.url, options="tag_ttl=30")
    os.listdir(m.path / "app")
    fakereg.reset()
    for _ in range(10):
        assert not (m.path / "app/none").exists()
    assert fakereg.count("manifest_head") == 0, fakereg.dump()    # the list says so
    assert fakereg.count() <= 1, fakereg.dump()


# ---- registries without catalogue, and with a prefix

def test_without_a_catalogue_names_that_were_visited_are_listed(fakereg, mount):
    fakereg.catalog_api = False
    fakereg.add("team/app", SMALL, "1.0")
    fakereg.add("solo", SMALL, "2.0")
    m = mount(fakereg.url)
    assert os.listdir(m.path) == []
    assert (m.path / "team/app/1.0/digest").read_text() == SMALL.digest + "\n"
    assert os.listdir(m.path / "solo") == ["2.0"]
    assert sorted(os.listdir(m.path)) == ["solo", "team"]
    assert os.listdir(m.path / "team") == ["app"]
    assert os.listdir(m.path / "team/app") == ["1.0"]
    assert os.listdir(m.path / ".oci") == ["solo", "team"] or sorted(os.listdir(m.path / ".oci")) == ["solo", "team"]
    assert not (m.path / "team/app/none").exists()
    assert not (m.path / "solo/none").exists()
    before = fakereg.count("catalog")
    os.listdir(m.path)
    sh(f"ls -lR {m.path} >/dev/null")
    assert fakereg.count("catalog") == before, "a registry without catalogue is not asked again and again"
    with pytest.raises(OSError) as e:
        os.listdir(m.path / "typo")
    assert e.value.errno == errno.ENOENT
    assert sorted(os.listdir(m.path)) == ["solo", "team"]


@pytest.mark.parametrize("server", ["registry28", "distribution3", "fakereg"])
def test_a_source_with_a_prefix_shows_what_is_below_it_alone(request, proxy, mount, server):
    reg = request.getfixturevalue(server)
    for name in ("pre/a", "pre/b/c", "other/x", "prefix/no"):
        push(reg.url, name, "1.0", SMALL)
    push(reg.url, "pre/a", "2.0", SMALL)
    p = proxy(reg.url)
    m = mount(p.url + "/pre")
    assert sorted(os.listdir(m.path)) == ["a", "b"]
    assert os.listdir(m.path / "b") == ["c"]
    assert sorted(os.listdir(m.path / "a")) == ["1.0", "2.0"]
    assert (m.path / "b/c/1.0/rootfs/etc/motd").read_text() == "hello\n"
    assert sorted(os.listdir(m.path / ".oci")) == ["a", "b"]
    assert not (m.path / "x").exists() and not (m.path / "other").exists()
    m2 = mount(p.url + "/pre/a")                                  # a repository as the root
    assert sorted(os.listdir(m2.path)) == ["1.0", "2.0"]
    assert (m2.path / "1.0/digest").read_text() == SMALL.digest + "\n"
    assert (m2.path / ":2.0/digest").read_text() == SMALL.digest + "\n"
    assert (m2.path / SMALL.digest / "rootfs/etc/motd").read_text() == "hello\n"
    assert sorted(os.listdir(m2.path / ".oci")) == ["blobs", "index.json", "oci-layout"]
    assert sorted(os.listdir(m2.path / ".tar")) == ["1.0.tar", "2.0.tar"]


# ---- layouts

def test_a_layout_costs_one_manifest_for_each_distinct_image(fakereg, mount):
    fakereg.add("app", SMALL, *(f"t{i}" for i in range(300)))
    fakereg.add("app", BIG, "big")
    m = mount(fakereg.url, options="tag_ttl=600")
    fakereg.reset()
    sh(f"ls -lR {m.path}/app/.oci")
    assert fakereg.count("manifest_get") == 2, kinds(fakereg)
    assert fakereg.count("manifest_head") <= 301 and fakereg.count("blob_get") == 0, kinds(fakereg)
    fakereg.reset()
    sh(f"ls -lR {m.path}/app/.oci; cat {m.path}/app/.oci/index.json")
    assert fakereg.count() == 0, fakereg.dump()[:2000]


def test_a_directory_of_layouts_needs_no_network_and_lists_everything(tmp_path, mount):
    for i in range(200):
        write_layout(tmp_path / "src" / f"g{i % 10}" / f"r{i}", {"1.0": SMALL, "2.0": SMALL})
    m = mount(f"dir:{tmp_path}/src")
    assert len(sh(f"ls -d {m.path}/*/*/*").splitlines()) == 400
    assert len(sh(f"ls -d {m.path}/.oci/*/*/index.json").splitlines()) == 200


@pytest.mark.parametrize("ttl,images_, tags", [(0, 1, 4200), (1, 600, 600)])
def test_a_layout_of_many_images_comes_together_whatever_the_ttl(fakereg, mount, ttl, images_, tags):
    """More than one operation may want at once, and longer than a tag's answer is good for."""
    made = [Image([], {"created": f"{i}"}) for i in range(images_)]
    for i in range(tags):
        fakereg.add("app", made[i % images_], f"t{i}")
    m = mount(fakereg.url, options=f"tag_ttl={ttl}")
    assert len(os.listdir(m.path / "app/.oci/blobs/sha256")) == 2 * images_
    assert fakereg.count("manifest_head") < 3 * tags
    assert len(fakereg.requests("/sha256:", kind="manifest_get")) == images_


def test_everything_works_without_any_ttl(fakereg, mount):
    fakereg.add("app", SMALL, "1.0")
    fakereg.add("app", Index([SMALL, Image([Layer([file("a", "b")])], platform="linux/arm64")]), "2.0")
    m = mount(fakereg.url, options="tag_ttl=0")
    assert sh(f"find {m.path} -type f | wc -l").strip() != "0"
    sh(f"cat {m.path}/app/.oci/index.json {m.path}/app/.tar/*.tar | wc -c; ls -lR {m.path}/app/.oci")
    fakereg.add("app", BIG, "1.0")
    assert (m.path / "app/1.0/digest").read_text() == BIG.digest + "\n"


# ---- what is gone

def test_a_repository_that_is_gone_is_not_listed_any_more(fakereg, mount):
    fakereg.add("app", SMALL, "1.0")
    fakereg.add("gone", SMALL, "1.0")
    m = mount(fakereg.url, options="tag_ttl=1")
    assert (m.path / "gone/1.0/digest").read_text() and sorted(os.listdir(m.path)) == ["app", "gone"]
    del fakereg.repos["gone"]
    time.sleep(2.5)
    assert os.listdir(m.path) == ["app"]
    assert not (m.path / "gone").exists()
    fakereg.catalog_api = False
    m2 = mount(fakereg.url, options="tag_ttl=1")
    assert (m2.path / "app/1.0/digest").read_text() and os.listdir(m2.path) == ["app"]
    del fakereg.repos["app"]
    time.sleep(1.5)
    with pytest.raises(OSError):
        os.listdir(m2.path / "app")
    assert os.listdir(m2.path) == []


def test_a_catalogue_that_is_refused_is_as_good_as_none(make_fakereg, mount):
    reg = make_fakereg(auth="bearer")
    reg.may = lambda user, repo, action: repo is not None and action == "pull"
    reg.add("team/app", SMALL, "1.0")
    m = mount(reg.url, auth={reg.host: ("user", "secret")})
    assert os.listdir(m.path) == []
    assert (m.path / "team/app/1.0/digest").read_text() == SMALL.digest + "\n"
    assert os.listdir(m.path) == ["team"] and os.listdir(m.path / "team") == ["app"]


# ---- all or error

@pytest.mark.parametrize("page", ["tags/list.*last=", "_catalog.*last="])
def test_a_page_that_fails_makes_the_listing_fail(fake_crowd, mount, page):
    m = mount(fake_crowd.url)
    fake_crowd.fault("GET", page, faults.server_error(503), times=None)
    where = m.path / "many/tags" if "tags" in page else m.path
    with pytest.raises(OSError) as e:
        os.listdir(where)
    assert e.value.errno == errno.EIO
    assert "503" in (m.path / ".control/errors").read_text()
    fake_crowd.clear_faults()
    (m.path / ".control/refresh").write_text("x")
    assert len(os.listdir(where)) == (10_001 if "tags" in page else 51)
