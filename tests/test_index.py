"""`registryfs index`: what it puts into registries, and what the SOCI library makes of it."""
import hashlib
import json
import os
import random
import subprocess

import pytest

from lib import images, servers, treecmp
from lib.images import Image, Index, Layer, directory, file, hardlink, symlink
from lib.rfs import Mount
from lib.tarwriter import char, fifo, global_header, sparse

V1, V2 = "application/vnd.amazon.soci.index.v1+json", "application/vnd.amazon.soci.index.v2+json"
NOISE = random.Random(7).randbytes(12 << 20)
TEXT = b"".join(b"line %d of something that compresses well\n" % i for i in range(200_000))
SMALL = ["--min-layer-size", "0", "--span-size", "256K"]


def entries(seed=0):
    return [directory("./", 0o755), directory("etc"), file("etc/motd", "hello %d\n" % seed), file("etc/empty", b""),
            file("usr/bin/su", b"x", mode=0o4755, uid=0, gid=12), directory("tmp", 0o1777), file("usr/noise", NOISE[seed << 16:]),
            file("usr/text", TEXT), hardlink("usr/noise2", "usr/noise"), symlink("usr/link", "noise"), fifo("run/fifo"),
            char("dev/null", 1, 3), file("a" * 90 + "/" + "b" * 200, b"long"), file("usr/attr", b"y", xattrs={b"user.a": b"1"}),
            file("big/owner", b"z", uid=3_000_000_000, gid=70000), file("äö/ü", b"umlauts")]


@pytest.fixture(scope="session")
def soci():
    """The SOCI library's view: soci("dump", path) and the like (fixtures/socitool)."""
    def run(*args):
        p = subprocess.run([servers.tool("socitool"), *map(str, args)], capture_output=True)
        assert p.returncode == 0, p.stderr.decode()
        return p.stdout
    return run


@pytest.fixture
def place(tmp_path):
    """A Mount that is not mounted, for its environment."""
    m = Mount("unused", keep=tmp_path / "place")
    yield m
    m.finish()


def index(place, *args, ok=True):
    p = place.run("index", *args, timeout=120)
    assert (p.returncode == 0) == ok, p.stdout + p.stderr
    return p


def blob(layout, digest):
    return (layout / "blobs" / digest.replace(":", "/")).read_bytes()


def found(layout):
    """The SOCI index in a layout's index.json: its document."""
    entry = [m for m in json.loads((layout / "index.json").read_text())["manifests"] if m.get("artifactType") == V1]
    assert len(entry) == 1
    return json.loads(blob(layout, entry[0]["digest"]))


VARIANTS = {"gzip": "gzip", "members": "gzip-multi", "named": "gzip-named", "header crc": "gzip-crc", "plain": "none"}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_ztoc_is_what_the_soci_library_makes_of_the_same_layer(place, tmp_path, soci, variant):
    image = Image([Layer(entries(), VARIANTS[variant])])
    images.write_layout(tmp_path / "app", {"1.0": image})
    index(place, *SMALL, f"dir:{tmp_path}/app:1.0")
    doc = found(tmp_path / "app")
    layer = tmp_path / "app" / "blobs" / image.layers[0].digest.replace(":", "/")
    mine = tmp_path / "app" / "blobs" / doc["layers"][0]["digest"].replace(":", "/")
    soci("ztoc", "-span", 256 << 10, *(["-plain"] if variant == "plain" else []), layer, tmp_path / "theirs")
    ours, theirs = json.loads(soci("dump", mine)), json.loads(soci("dump", tmp_path / "theirs"))
    assert ours.pop("BuildToolIdentifier").startswith("registryfs") and theirs.pop("BuildToolIdentifier")
    assert ours == theirs
    assert len(ours["SpanDigests"]) > 40 and len(ours["FileMetadata"]) == len(entries())


def test_the_index_says_what_the_soci_tools_say(place, tmp_path):
    image = Image([Layer([file("small", "x")]), Layer(entries()), Layer(entries(1), "zstd"), Layer(entries(2))])
    images.write_layout(tmp_path / "app", {"1.0": image})
    p = index(place, "--min-layer-size", "1M", f"dir:{tmp_path}/app:1.0")
    assert "left out: it is smaller than 1048576 bytes" in p.stdout and "left out: it is compressed with zstd" in p.stdout
    doc = found(tmp_path / "app")
    assert doc["config"] == {"mediaType": V1, "digest": "sha256:" + hashlib.sha256(b"{}").hexdigest(), "size": 2}
    assert doc["subject"] == {"mediaType": images.MANIFEST, "digest": image.digest, "size": image.size}
    assert [la["annotations"]["com.amazon.soci.image-layer-digest"] for la in doc["layers"]] == [image.layers[1].digest, image.layers[3].digest]
    assert {la["mediaType"] for la in doc["layers"]} == {"application/octet-stream"}
    assert doc["layers"][0]["annotations"]["com.amazon.soci.span-size"] == str(4 << 20)
    assert doc["layers"][0]["annotations"]["com.amazon.soci.image-layer-mediaType"] == image.layers[1].media_type
    before = (tmp_path / "app" / "index.json").read_bytes()
    index(place, "--min-layer-size", "1M", f"dir:{tmp_path}/app:1.0")
    assert (tmp_path / "app" / "index.json").read_bytes() == before             # the same once more: nothing new


@pytest.mark.parametrize("bad, words", [
    ([file("f", "x"), sparse("s", [(0, b"x" * 512)], 1 << 20)], "sparse"),
    ([global_header([("comment", "x")]), file("f", "x")], "for all files"),
], ids=["sparse", "global header"])
def test_a_layer_that_the_format_has_no_words_for_is_left_out_with_the_reason(place, tmp_path, bad, words):
    images.write_layout(tmp_path / "app", {"1.0": Image([Layer(bad), Layer(entries())])})
    p = index(place, *SMALL, f"dir:{tmp_path}/app:1.0")
    assert words in p.stdout.splitlines()[0] + p.stdout.splitlines()[1]
    assert len(found(tmp_path / "app")["layers"]) == 1


@pytest.mark.parametrize("spoil, words", [({"cut": -100}, "cut off"), ({"append": b"garbage"}, "damaged")], ids=["cut", "garbage behind"])
def test_a_damaged_stream_is_left_out(place, tmp_path, spoil, words):
    images.write_layout(tmp_path / "app", {"1.0": Image([Layer(entries(), **spoil)])})
    p = index(place, *SMALL, f"dir:{tmp_path}/app:1.0", ok=False)
    assert words in p.stdout and "none of its layers can be indexed" in p.stderr


def test_a_layer_with_other_bytes_than_its_digest_is_an_error_and_nothing_is_put(place, fakereg):
    image = Image([Layer(entries())])
    fakereg.add("app", image, "1.0")
    d = image.layers[0].digest
    fakereg.blobs[d] = fakereg.blobs[d][:9] + b"!" + fakereg.blobs[d][10:]        # in the gzip header, where nothing depends on it
    p = index(place, *SMALL, f"{fakereg.url}/app:1.0", ok=False)
    assert "digest" in p.stderr
    assert not [r for r in fakereg.requests() if r.method in ("PUT", "POST", "PATCH")]


# ---- registries

@pytest.fixture(params=["registry28", "distribution3", "ggcr", "referrers_registry"])
def registry(request, tools):
    return request.getfixturevalue(request.param)


def referrers(registry, repo, digest):
    status, _, body = images.Client(registry.url).request("GET", f"/v2/{repo}/referrers/{digest}", ok=(200, 404))
    if status == 404:
        _, _, body = images.Client(registry.url).request("GET", f"/v2/{repo}/manifests/{digest.replace(':', '-')}",
                                                         headers={"Accept": images.INDEX}, ok=(200,))
    return json.loads(body)["manifests"]


def test_the_index_is_put_next_to_the_image_and_its_spans_hold_the_files(place, registry, soci, tmp_path):
    image = Image([Layer(entries())])
    images.push(registry.url, "soci/app", "1.0", image)
    index(place, *SMALL, f"{registry.url}/soci/app:1.0")
    mine = [r for r in referrers(registry, "soci/app", image.digest) if r["artifactType"] == V1]
    assert len(mine) == 1
    client = images.Client(registry.url)
    doc = json.loads(client.request("GET", f"/v2/soci/app/manifests/{mine[0]['digest']}", headers={"Accept": images.MANIFEST}, ok=(200,))[2])
    ztoc = client.request("GET", f"/v2/soci/app/blobs/{doc['layers'][0]['digest']}", ok=(200,))[2]
    (tmp_path / "ztoc").write_bytes(ztoc)
    (tmp_path / "layer").write_bytes(image.layers[0].blob)
    for name, want in (("usr/noise", NOISE), ("usr/text", TEXT), ("etc/motd", b"hello 0\n")):
        assert soci("extract", tmp_path / "ztoc", tmp_path / "layer", name) == want
    head = client.request("HEAD", "/v2/soci/app/manifests/1.0", headers={"Accept": images.MANIFEST}, ok=(200,))[1]
    assert head["Docker-Content-Digest"] == image.digest


def test_v2_is_another_image_under_another_tag(place, registry, tools):
    image = Image([Layer(entries())], docker=True)
    images.push(registry.url, "soci/two", "1.0", image)
    index(place, *SMALL, "--v2", "1.0-soci", f"{registry.url}/soci/two:1.0")
    client = images.Client(registry.url)

    def get(ref):
        return json.loads(client.request("GET", f"/v2/soci/two/manifests/{ref}", headers={"Accept": f"{images.INDEX}, {images.MANIFEST}"}, ok=(200,))[2])
    top = get("1.0-soci")
    real, soci_index = top["manifests"]
    manifest = get(real["digest"])
    assert top["mediaType"] == images.INDEX and real["platform"] == soci_index["platform"] == {"architecture": "amd64", "os": "linux"}
    assert manifest["annotations"]["com.amazon.soci.index-digest"] == soci_index["digest"]
    assert manifest["mediaType"] == images.MANIFEST and manifest["config"]["mediaType"] == images.CONFIG
    assert manifest["layers"] == image.document["layers"]
    assert soci_index["artifactType"] == V2 and soci_index["annotations"] == {"com.amazon.soci.image-manifest-digest": real["digest"]}
    assert "subject" not in get(soci_index["digest"])
    subprocess.run([servers.tool("crane"), "validate", "--insecure", "--remote", f"{registry.host}/soci/two:1.0-soci", "--platform", "linux/amd64"],
                   check=True)


def test_platforms(place, tmp_path):
    many = Index([Image([Layer(entries(i))], platform=p) for i, p in enumerate(["linux/amd64", "linux/arm64"])])
    images.write_layout(tmp_path / "app", {"1.0": many})
    index(place, *SMALL, "--platform", "linux/arm64", f"dir:{tmp_path}/app:1.0")
    assert found(tmp_path / "app")["subject"]["digest"] == many.children[1].digest
    p = index(place, "--platform", "linux/s390x", f"dir:{tmp_path}/app:1.0", ok=False)
    assert "no image for linux/s390x" in p.stderr
    index(place, *SMALL, "--all-platforms", "--v2", "2.0", f"dir:{tmp_path}/app:1.0")
    entry = [m for m in json.loads((tmp_path / "app" / "index.json").read_text())["manifests"]
             if (m.get("annotations") or {}).get("org.opencontainers.image.ref.name") == "2.0"]
    top = json.loads(blob(tmp_path / "app", entry[0]["digest"]))
    assert [m.get("artifactType") for m in top["manifests"]] == [None, V2, None, V2]
    index(place, *SMALL, "--all-platforms", "--v2", "3.0", f"dir:{tmp_path}/app:2.0")       # again: replaces, does not pile up
    for m in top["manifests"]:
        if "artifactType" not in m:
            assert json.loads(blob(tmp_path / "app", m["digest"]))["annotations"]["com.amazon.soci.index-digest"] in [x["digest"] for x in top["manifests"]]


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_a_mount_reads_by_the_index_from_then_on_and_shows_the_same(place, mount, registry, version):
    repo = f"soci/mount-{version}"
    images.push(registry.url, repo, "1.0", Image([Layer(entries()), Layer([file("etc/motd", "changed"), file("opt/big", NOISE)])]))
    m = mount(registry.url)
    before = treecmp.snapshot(m.path / repo / "1.0" / "rootfs")
    assert m.stats()["toc_layers"] == 0
    index(place, *SMALL, *(["--v2", "2.0"] if version == "v2" else []), f"{registry.url}/{repo}:1.0")
    m = mount(registry.url)
    image = m.path / repo / ("2.0" if version == "v2" else "1.0")
    assert (image / "rootfs" / "etc" / "motd").read_text() == "changed"
    assert [os.getxattr(image / "layers" / n, "user.registryfs.lazy") for n in ("00", "01")] == [b"soci", b"soci"]
    treecmp.assert_same(before, treecmp.snapshot(image / "rootfs"))
    assert m.stats()["toc_layers"] == 2 and m.stats()["toc_fallbacks"] == 0


# ---- refusals

def test_who_may_not_write_is_told_so_and_nothing_is_there(place, make_fakereg, tmp_path):
    reg = make_fakereg(auth="bearer")
    reg.may = lambda user, repo, action: action == "pull"
    reg.add("app", Image([Layer(entries())]), "1.0")
    m = Mount("unused", keep=tmp_path / "reader", auth={reg.host: ("user", "secret")})
    p = index(m, *SMALL, f"{reg.url}/app:1.0", ok=False)
    assert p.returncode == 1 and "may not write there" in p.stderr and p.stderr.count("\n") == 1
    assert len(reg.repos["app"].manifests) == 1


def test_a_tag_that_may_not_change_stays_and_that_is_said(place, fakereg):
    image = Image([Layer(entries())])
    fakereg.add("app", image, "1.0", "2.0")
    fakereg.immutable_tags = True
    p = index(place, *SMALL, "--v2", "2.0", f"{fakereg.url}/app:1.0", ok=False)
    assert p.returncode == 1 and "immutable" in p.stderr and p.stderr.count("\n") == 1
    assert fakereg.repos["app"].tags["2.0"] == image.digest


@pytest.mark.parametrize("args, words", [
    ([], "usage"), (["--v2", "no tag", "h/a:1"], "not one"), (["--span-size", "1", "h/a:1"], "--span-size is from"),
    (["--span-size", "4Q", "h/a:1"], "a size such as"), (["--frob", "h/a:1"], "not understood"), (["host"], "names no image"),
    (["localhost/UPPER:1"], "not the name of a repository"), (["--v2"], "needs a value"), (["-o", "frob", "h/a:1"], "unknown option"),
])
def test_a_wrong_word_is_one_sentence(place, args, words):
    p = place.run("index", *args)
    assert p.returncode == 2 and words in p.stderr and p.stderr.count("\n") == 1, p.stderr


def test_an_image_that_is_not_there_is_one_sentence(place, fakereg, tmp_path):
    for image in (f"{fakereg.url}/nothing:1.0", f"dir:{tmp_path}/nothing:1.0"):
        p = index(place, image, ok=False)
        assert p.returncode == 1 and p.stderr.count("\n") == 1, p.stderr
