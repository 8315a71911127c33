"""Writing into registries and layouts (registry/push.h through tests/pushtool.c): what is there afterwards, and at what cost."""
import base64
import hashlib
import json
import os
import pathlib
import re
import subprocess
import threading
import types

import pytest

from lib import faults, images, rfs, servers
from lib.httpfake import Listener, Response

EMPTY = b"{}"
BIG = hashlib.shake_256(b"big").digest(24 << 20)


def pushtool():
    return pathlib.Path(rfs.program()).parent / "tests" / "pushtool"


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


@pytest.fixture
def push(tmp_path):
    """push(source, repo, what, bytes, ...) -> digest, sent, requests; or status and words when ok=False."""
    def run(source, repo, what, data, *more, ok=True, auth=None):
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        path = tmp_path / hashlib.sha256(data).hexdigest()[:16]
        path.write_bytes(data)
        env = {"PATH": os.environ["PATH"], "HOME": str(home), "DOCKER_CONFIG": str(home)}
        if auth:
            host, pair = auth
            secret = base64.b64encode(pair.encode()).decode()
            (home / "config.json").write_text(json.dumps({"auths": {host: {"auth": secret}}}))
        p = subprocess.run([pushtool(), str(source), repo, what, path, *more], env=env, capture_output=True, text=True, timeout=60)
        assert "Sanitizer" not in p.stderr and "runtime error" not in p.stderr, p.stderr
        if not ok:
            assert p.returncode not in (0, 255), p.stdout
            return types.SimpleNamespace(status=p.returncode, words=p.stderr)
        assert p.returncode == 0, p.stderr
        m = re.fullmatch(r"(\S+) sent=(\d+) requests=(\d+)\n", p.stdout)
        return types.SimpleNamespace(digest=m[1], sent=int(m[2]), requests=int(m[3]))
    return run


def new_layout(path):
    (path / "blobs" / "sha256").mkdir(parents=True)
    (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (path / "index.json").write_text('{"schemaVersion":2,"manifests":[]}')
    return path


@pytest.fixture(params=["docker-registry 2.8", "distribution 3", "go-containerregistry", "with referrers", "fake", "dir"])
def place(request, tools, tmp_path):
    """source for registryfs, spelling for skopeo, kind."""
    if request.param == "dir":
        for repo in ("app", "base", "ref"):
            new_layout(tmp_path / "layouts" / repo)
        top = tmp_path / "layouts"
        return types.SimpleNamespace(kind="dir", source=f"dir:{top}", skopeo=lambda repo, tag: f"oci:{top}/{repo}:{tag}", top=top)
    fixture = {"docker-registry 2.8": "registry28", "distribution 3": "distribution3", "go-containerregistry": "ggcr",
               "with referrers": "referrers_registry", "fake": "fakereg"}[request.param]
    server = request.getfixturevalue(fixture)
    return types.SimpleNamespace(kind=request.param, source=server.url, skopeo=lambda repo, tag: f"docker://{server.host}/{repo}:{tag}")


def image_of(layer, **more):
    config = json.dumps({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [digest(layer)]}}).encode()
    doc = {"schemaVersion": 2, "mediaType": images.MANIFEST, "config": images.descriptor(images.CONFIG, config),
           "layers": [images.descriptor(images.OCI + "layer.v1.tar", layer)], **more}
    return config, json.dumps(doc).encode()


def test_blobs_and_a_manifest_are_there_for_other_tools_and_a_second_push_sends_nothing(place, push, tools, tmp_path):
    config, manifest = image_of(BIG)
    assert push(place.source, "app", "blob", BIG).digest == digest(BIG)
    push(place.source, "app", "blob", config)
    assert push(place.source, "app", "manifest", manifest, images.MANIFEST, "1.0").digest == digest(manifest)
    raw = subprocess.run(["skopeo", "inspect", "--raw", "--tls-verify=false", place.skopeo("app", "1.0")], capture_output=True, check=True)
    assert raw.stdout == manifest
    subprocess.run(["skopeo", "copy", "-q", "--src-tls-verify=false", place.skopeo("app", "1.0"), f"dir:{tmp_path}/copy"], check=True)
    again = push(place.source, "app", "blob", BIG)
    assert again.sent == 0 and again.requests <= 1


def test_a_blob_of_another_repository_moves_no_byte(place, push):
    data = hashlib.shake_256(place.kind.encode()).digest(3 << 20)
    push(place.source, "base", "blob", data)
    if place.kind not in ("dir", "fake"):          # some take only what an image of the other repository has
        config, manifest = image_of(data)
        push(place.source, "base", "blob", config)
        push(place.source, "base", "manifest", manifest, images.MANIFEST, "1.0")
    got = push(place.source, "app", "blob", data, "base")
    assert got.sent == 0 and got.requests <= 2, got


def test_a_referrer_is_listed_for_other_tools(place, push, tools):
    subject = images.Image([images.Layer([images.file("f", place.kind)])])
    wanted = []
    for i in range(2):
        doc = {"schemaVersion": 2, "mediaType": images.MANIFEST, "config": images.descriptor("test/kind", EMPTY), "layers": [],
               "subject": {"mediaType": images.MANIFEST, "digest": subject.digest, "size": subject.size}, "annotations": {"n": str(i)}}
        push(place.source, "ref", "blob", EMPTY)
        wanted.append(push(place.source, "ref", "manifest", json.dumps(doc).encode(), images.MANIFEST).digest)
    if place.kind == "dir":
        found = json.loads((place.top / "ref" / "index.json").read_text())["manifests"]
    elif place.kind in ("with referrers", "fake"):
        _, _, body = images.Client(place.source).request("GET", f"/v2/ref/referrers/{subject.digest}", ok=(200,))
        found = json.loads(body)["manifests"]
    else:
        tag = subject.digest.replace(":", "-")
        raw = subprocess.run(["skopeo", "inspect", "--raw", "--tls-verify=false", place.skopeo("ref", tag)], capture_output=True, check=True)
        found = json.loads(raw.stdout)["manifests"]
    found = {f["digest"]: f for f in found}
    assert set(wanted) <= set(found)
    assert found[wanted[1]]["artifactType"] == "test/kind" and found[wanted[1]]["annotations"] == {"n": "1"}


@pytest.mark.parametrize("reads", [1, 2], ids=["before we look", "after we looked"])
def test_a_referrer_that_somebody_else_overwrites_is_put_in_again(push, fakereg, reads):
    fakereg.referrers_api = False
    subject, other = images.Image(), images.Image(annotations={"a": "b"})
    fakereg.add("app", other)
    tag = subject.digest.replace(":", "-")
    rival = json.dumps({"schemaVersion": 2, "mediaType": images.INDEX, "manifests": [other.descriptor()]}).encode()
    seen = []

    def overwritten(request, proper):
        answer = proper() if reads == 2 else None
        if tag in fakereg.repos["app"].tags:
            seen.append(1)
            if len(seen) == 1:
                fakereg.add_manifest("app", rival, images.INDEX, tag)
        return answer or proper()
    fakereg.fault("GET", f"/manifests/{tag}", overwritten, times=None)
    push(fakereg.url, "app", "blob", EMPTY)
    doc = {"schemaVersion": 2, "mediaType": images.MANIFEST, "config": images.descriptor("test/kind", EMPTY), "layers": [],
           "subject": subject.descriptor()}
    mine = push(fakereg.url, "app", "manifest", json.dumps(doc).encode(), images.MANIFEST).digest
    repo = fakereg.repos["app"]
    index = json.loads(repo.manifests[repo.tags[tag]][1])
    assert [m["digest"] for m in index["manifests"]] == [other.digest, mine]


# ---- credentials

@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_a_user_who_may_write_writes_with_one_token(push, make_fakereg, auth):
    reg = make_fakereg(auth=auth)
    push(reg.url, "app", "blob", BIG, auth=(reg.host, "user:secret"))
    assert digest(BIG) in reg.repos["app"].blobs
    assert len([r for r in reg.requests() if r.path == "/token"]) == (auth == "bearer")
    assert len([r for r in reg.requests() if r.status == 401]) <= 1


def test_a_user_who_may_only_read_is_told_so(push, make_fakereg):
    reg = make_fakereg(auth="bearer")
    reg.may = lambda user, repo, action: action == "pull"
    no = push(reg.url, "app", "blob", BIG, auth=(reg.host, "user:secret"), ok=False)
    assert no.status == 13 and "may not write there" in no.words, no.words
    assert not reg.repos.get("app") or not reg.repos["app"].blobs


def test_nobody_is_told_to_log_in(push, make_fakereg):
    reg = make_fakereg(auth="bearer")
    reg.anonymous_pull = True
    no = push(reg.url, "app", "blob", BIG, ok=False)
    assert no.status == 13 and "podman login" in no.words, no.words


class UploadHost(Listener):
    """Takes the last request of uploads for a registry, on a port of its own."""

    def __init__(self, registry):
        super().__init__("uploads")
        self.registry, self.secrets = registry, []

    def answer(self, request, body):
        if "authorization" in request.headers:
            self.secrets.append(request.headers["authorization"])
        return self.registry._upload(request, body, "app", request.path.split("/")[-1])


def test_an_upload_that_goes_on_elsewhere_gets_no_credentials(push, make_fakereg):
    reg = make_fakereg(auth="basic")
    elsewhere = UploadHost(reg).start()
    try:
        def away(request, proper):
            response = proper()
            response.headers["Location"] = elsewhere.url + response.headers["Location"] + "?state=1"
            return response
        reg.single_post = False
        reg.fault("POST", "/blobs/uploads/", away, times=None)
        push(reg.url, "app", "blob", BIG, auth=(reg.host, "user:secret"))
        assert digest(BIG) in reg.repos["app"].blobs
        assert not elsewhere.secrets
        assert [r.query.split("&")[0] for r in elsewhere.requests()] == ["state=1"]
    finally:
        elsewhere.stop()


# ---- troubles

def test_an_upload_that_breaks_off_begins_again(push, fakereg):
    def broken(request, proper):
        response = Response(500)
        response.silent = response.reset = True
        return response
    fakereg.fault("PUT", "/blobs/uploads/", broken)
    push(fakereg.url, "app", "blob", BIG)
    assert digest(BIG) in fakereg.repos["app"].blobs
    assert len([r for r in fakereg.requests() if r.method == "POST"]) == 2


def test_a_lost_answer_is_no_second_upload(push, fakereg):
    def lost(request, proper):
        response = proper()
        response.silent = True
        return response
    fakereg.fault("PUT", "/blobs/uploads/", lost)
    push(fakereg.url, "app", "blob", BIG)
    assert len([r for r in fakereg.requests() if r.method == "PUT"]) == 1


def test_a_proxy_that_refuses_large_bodies_gets_chunks(push, fakereg):
    fakereg.fault("PUT", "/blobs/uploads/", faults.status(413, html="too large"))
    push(fakereg.url, "app", "blob", BIG)
    assert digest(BIG) in fakereg.repos["app"].blobs
    assert [r.status for r in fakereg.requests() if r.method == "PATCH"] == [202] * 3


def test_a_server_that_is_busy_is_asked_again(push, fakereg):
    fakereg.fault("POST", "/blobs/uploads/", faults.server_error(503), times=2)
    fakereg.fault("PUT", "/manifests/", faults.server_error(502), times=2)
    config, manifest = image_of(b"x")
    for data in (config, b"x"):
        push(fakereg.url, "app", "blob", data)
    push(fakereg.url, "app", "manifest", manifest, images.MANIFEST, "1.0")
    assert fakereg.repos["app"].tags["1.0"] == digest(manifest)


def test_a_manifest_whose_blobs_are_missing_is_refused_in_the_registrys_words(push, fakereg):
    no = push(fakereg.url, "app", "manifest", image_of(b"y")[1], images.MANIFEST, "1.0", ok=False)
    assert no.status == 22 and "MANIFEST_BLOB_UNKNOWN" in no.words
    assert not fakereg.repos.get("app") or "1.0" not in fakereg.repos["app"].tags


def test_an_immutable_tag_is_an_error_unless_it_has_that_digest_already(push, fakereg):
    fakereg.check_references = False
    first, second = image_of(b"1")[1], image_of(b"2")[1]
    push(fakereg.url, "app", "manifest", first, images.MANIFEST, "1.0")
    fakereg.immutable_tags = True
    push(fakereg.url, "app", "manifest", first, images.MANIFEST, "1.0")
    fakereg.fault("PUT", "/manifests/", faults.error(400, "TAG_INVALID", "already exists"))          # ECR: even then
    push(fakereg.url, "app", "manifest", first, images.MANIFEST, "1.0")
    no = push(fakereg.url, "app", "manifest", second, images.MANIFEST, "1.0", ok=False)
    assert no.status == 1 and "immutable" in no.words
    assert fakereg.repos["app"].tags["1.0"] == digest(first)


def test_a_read_only_registry_says_so(push, tools):
    class ReadOnly(servers.DockerRegistry28):
        def command(self):
            command, config = super().command(), self.dir / "config.yml"
            config.write_text(config.read_text().replace("  maintenance:\n", "  maintenance:\n    readonly:\n      enabled: true\n"))
            return command
    with ReadOnly() as reg:
        no = push(reg.url, "app", "blob", BIG, ok=False)
        assert no.status == 95 and "read-only" in no.words, no.words


# ---- layouts

def test_skopeo_and_umoci_read_and_write_a_layout_while_we_write(tmp_path, push, tools):
    layout = new_layout(tmp_path / "app")
    images.write_layout(tmp_path / "other", {"1.0": images.Image([images.Layer([images.file("f", "x")])])})
    subprocess.run(["skopeo", "copy", "-q", f"oci:{tmp_path}/other:1.0", f"oci:{layout}:first"], check=True)
    errors, done, turn = [], threading.Event(), threading.Lock()      # skopeo's own writing is not atomic

    def others():
        while not done.is_set():
            for command in (["umoci", "list", "--layout", layout],
                            ["skopeo", "inspect", f"oci:{layout}:first"]):
                with turn:
                    p = subprocess.run(command, capture_output=True, text=True)
                if p.returncode:
                    errors.append(p.stderr)
    t = threading.Thread(target=others)
    t.start()
    for i in range(20):
        config, manifest = image_of(b"%d" % i)
        for data in (config, b"%d" % i):
            push(f"dir:{tmp_path}", "app", "blob", data)
        push(f"dir:{tmp_path}", "app", "manifest", manifest, images.MANIFEST, f"t{i}")
        if i % 5 == 0:
            with turn:
                subprocess.run(["skopeo", "copy", "-q", f"oci:{tmp_path}/other:1.0", f"oci:{layout}:s{i}"], check=True)
    done.set()
    t.join()
    assert not errors, errors[0]
    tags = subprocess.run(["umoci", "list", "--layout", layout], capture_output=True, text=True, check=True).stdout.split()
    assert sorted(tags) == sorted([f"t{i}" for i in range(20)] + [f"s{i}" for i in range(0, 20, 5)] + ["first"])
    assert not [p for p in layout.rglob(".registryfs-*")]


def test_a_layout_that_may_not_be_written_says_so(tmp_path, push):
    if os.geteuid() == 0:
        new_layout(tmp_path / "app")
        subprocess.run(["mount", "--bind", "-o", "ro", tmp_path / "app", tmp_path / "app"], check=True)
        subprocess.run(["mount", "-o", "remount,bind,ro", tmp_path / "app"], check=True)
        try:
            no = push(f"dir:{tmp_path}", "app", "blob", b"x", ok=False)
        finally:
            subprocess.run(["umount", tmp_path / "app"], check=True)
        assert no.status == 30 and "ead-only" in no.words, no.words
    else:
        (new_layout(tmp_path / "app")).chmod(0o555)
        assert push(f"dir:{tmp_path}", "app", "blob", b"x", ok=False).status == 13
