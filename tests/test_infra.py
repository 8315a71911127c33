"""The test infrastructure tested, without registryfs: servers, proxy, fake registry and its faults, images, trees."""
import gzip
import http.client
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
import zlib

import pytest

from lib import corner, faults, hostile, images, servers, treecmp
from lib.fakereg import digest_of
from lib.images import Image, Index, Layer, directory, file, push, symlink, write_layout
from lib.rfs import Mount, is_mounted

ACCEPT = {"Accept": ", ".join([images.INDEX, images.MANIFEST, images.DOCKER + "distribution.manifest.v2+json",
                               images.DOCKER + "distribution.manifest.list.v2+json"])}


def small(text="hello\n", **kw):
    return Image([Layer([directory("etc"), file("etc/motd", text)])], **kw)


def ask(server, method, target, body=None, headers=None, cafile=None):
    """(status, headers, body) of one request."""
    return images.Client(server.url, cafile=cafile or (server.authority.ca if server.tls else None)).request(
        method, target, body, headers)


# ---- images and trees

def test_corner_cases_agree_with_umoci(tools, tmp_path):
    image, expected = corner.corner_case_image(disputed=False)
    write_layout(tmp_path / "oci", {"1.0": image})
    out = treecmp.umoci_unpack(tmp_path / "oci", "1.0", tmp_path / "out")
    treecmp.assert_same(expected, treecmp.snapshot(out), leave_out=("dir_mtime",))


@pytest.mark.parametrize("compress", ["none", "gzip", "gzip-multi", "gzip-named", "gzip-crc", "zstd", "zstd-multi"])
def test_compressed_layers_give_the_tar_back(tools, compress):
    layer = Layer([file("a", os.urandom(5000)), file("b", bytes(100_000))], compress)
    command = {"n": ["cat"], "g": ["gzip", "-dc"], "z": ["zstd", "-qdc"]}[compress[0]]
    assert subprocess.run(command, input=layer.blob, capture_output=True, check=True).stdout == layer.tar


@pytest.mark.parametrize("name", ["sparse_files", "old_gnu_sparse_files", "contiguous_files", "odd_names", "numbers", "hard_links",
                                  "special_files"])
def test_tar_entries_agree_with_gnu_tar(tmp_path, name):
    image, expected = corner.corner_case_image(one_case=name)
    (tmp_path / "tar").write_bytes(image.layers[0].tar)
    (tmp_path / "out").mkdir()
    # not checked: GNU tar refuses names with "..", which umoci is asked about
    subprocess.run(["tar", "-C", tmp_path / "out", "--xattrs", "--xattrs-include=*", "--numeric-owner", "-xpf", tmp_path / "tar"],
                   capture_output=True)
    found = treecmp.snapshot(tmp_path / "out")
    if name == "odd_names":
        expected.pop(b"nm/up")
    treecmp.assert_same(expected, found, leave_out=("dir_mtime",))


def test_snapshot_and_diff_see_every_kind_of_difference(tmp_path):
    a, b = tmp_path / "a", tmp_path / "b"
    for d in (a, b):
        d.mkdir()
        (d / "f").write_text("x")
        os.link(d / "f", d / "g")
        (d / "l").symlink_to("f")
        os.utime(d / "l", ns=(1, 1), follow_symlinks=False)
        for n in ("f", "."):
            os.utime(d / n, ns=(5, 5))
    assert treecmp.diff(treecmp.snapshot(a), treecmp.snapshot(b)) == []
    assert treecmp.snapshot(a)[b"f"].group == (b"f", b"g")
    (b / "f").write_text("y")
    os.chmod(b / "f", 0o600)
    (b / "l").unlink()
    lines = "\n".join(treecmp.diff(treecmp.snapshot(a), treecmp.snapshot(b)))
    for word in ("'f': sha256", "'f': mode", "'f': mtime_ns", "'l': missing"):
        assert word in lines


def test_hostile_images_are_what_their_names_say():
    made = hostile.hostile_images()
    assert len(made) > 50
    assert b"../escape" in made["dotdot"].layers[0].tar
    with pytest.raises(EOFError):
        gzip.decompress(made["truncated-gzip"].layers[0].blob)
    assert zlib.decompressobj(31).decompress(made["garbage-after-gzip"].layers[0].blob)
    assert len(made["exponential-index"].manifest) < 1000
    bomb = hostile.gzip_bomb(64 << 20).layers[0]
    assert len(bomb.blob) < (1 << 20) and len(gzip.decompress(bomb.blob)) > 64 << 20
    assert len(hostile.zstd_bomb(1 << 30).layers[0].blob) < 1 << 20
    some = hostile.many_entries(2500).layers[0]
    assert gzip.decompress(some.blob).count(b"ustar\x0000") == 2503


# ---- real registries

def check_round_trip(server, tmp_path, *options, **kw):
    image = small()
    assert push(server.url, "team/app", "1.0", image, **kw) == image.digest
    treecmp.skopeo_copy(f"docker://{server.host}/team/app:1.0", f"oci:{tmp_path}/out:1.0", *options)
    assert (tmp_path / "out" / "blobs" / "sha256" / image.digest[7:]).read_bytes() == image.manifest


@pytest.mark.parametrize("name", ["registry28", "distribution3", "ggcr", "fakereg"])
def test_an_image_pushed_is_pulled_by_skopeo(tools, request, tmp_path, name):
    check_round_trip(request.getfixturevalue(name), tmp_path)


def test_registry_with_htpasswd_and_tls(tools, authority, tmp_path):
    with servers.DockerRegistry28("htpasswd", authority) as reg:
        assert ask(reg, "GET", "/v2/")[0] == 401
        check_round_trip(reg, tmp_path, "--src-creds=user:secret", auth=("user", "secret"), cafile=authority.ca)


def test_registry_with_a_token_server(tools, tmp_path):
    with servers.TokenRegistry() as reg:
        status, headers, _ = ask(reg, "GET", "/v2/")
        assert status == 401 and headers["WWW-Authenticate"].startswith("Bearer realm=")
        write_layout(tmp_path / "in", {"1.0": small()})
        treecmp.skopeo_copy(f"oci:{tmp_path}/in:1.0", f"docker://{reg.host}/user/app:1.0", "--dest-creds=user:secret")


def test_a_server_comes_back_on_its_port_with_its_data(tools):
    with servers.DockerRegistry28() as reg:
        push(reg.url, "app", "1.0", small())
        port = reg.port
        reg.kill()
        reg.start()
        assert reg.port == port and ask(reg, "HEAD", "/v2/app/manifests/1.0", headers=ACCEPT)[0] == 200


def test_thousands_of_tags_written_to_a_storage_directory(tools):
    with servers.DockerRegistry28() as reg:
        image = small()
        images.fill_storage(reg.storage, {"many": {f"t{i:04}": image for i in range(2000)},
                                          **{f"n{i:03}/app": {"1.0": image} for i in range(50)}})
        assert len(json.loads(ask(reg, "GET", "/v2/many/tags/list")[2])["tags"]) == 2000
        assert len(json.loads(ask(reg, "GET", "/v2/_catalog?n=1000")[2])["repositories"]) == 51
        assert ask(reg, "GET", "/v2/many/manifests/t1234", headers=ACCEPT)[2] == image.manifest
        assert ask(reg, "GET", f"/v2/many/blobs/{image.layers[0].digest}")[2] == image.layers[0].blob


def test_crane_reads_and_the_proxy_counts(tools, registry28, proxy):
    push(registry28.url, "counted", "1.0", small())
    p = proxy(registry28.url)
    assert treecmp.crane("digest", f"{p.host}/counted:1.0") == small().digest
    assert p.count("manifest_head") + p.count("manifest_get") >= 1 and p.count("blob_get") == 0
    p.reset()
    assert p.count() == 0
    blob = small().layers[0]
    status, headers, body = ask(p, "GET", f"/v2/counted/blobs/{blob.digest}", headers={"Range": "bytes=2-9"})
    assert (status, body) == (206, blob.blob[2:10]) and headers["Content-Range"] == f"bytes 2-9/{len(blob.blob)}"
    [r] = p.requests("/blobs/", kind="blob_get")
    assert r.headers["range"] == "bytes=2-9" and r.status == 206 and r.bytes == 8
    ask(p, "GET", "/v2/counted/tags/list?n=5")
    ask(p, "GET", "/v2/_catalog")
    ask(p, "GET", f"/v2/counted/referrers/{small().digest}")
    assert (p.count("tags_list"), p.count("catalog"), p.count("referrers")) == (1, 1, 1)


def test_pushes_through_the_proxy(tools, registry28, distribution3, proxy, tmp_path):
    write_layout(tmp_path / "in", {"1.0": Image([Layer([file("big", os.urandom(3 << 20))])])})
    for reg in (registry28, distribution3):
        p = proxy(reg.url)
        treecmp.push_layout(tmp_path / "in", p.url, "through/proxy")
        assert p.count("upload") >= 4 and p.count("manifest_put") == 1
        assert all(r.status for r in p.requests())


def test_the_proxy_keeps_connections_alive(fakereg, proxy):
    p = proxy(fakereg.url)
    client = images.Client(p.url)
    before = client.request("GET", "/v2/") and client.conn.sock
    for _ in range(5):
        client.request("GET", "/v2/")
    assert client.conn.sock is before and p.count("ping") == 6


# ---- the fake registry when it is correct

def test_fake_manifests_follow_the_protocol(fakereg):
    image = small()
    fakereg.add("a/b", image, "1.0", "latest")
    target = "/v2/a/b/manifests/1.0"
    status, headers, body = ask(fakereg, "GET", target, headers=ACCEPT)
    assert (status, body, headers["Docker-Content-Digest"]) == (200, image.manifest, image.digest)
    assert headers["Content-Type"] == images.MANIFEST
    status, headers, body = ask(fakereg, "HEAD", target, headers=ACCEPT)
    assert (status, body, headers["Content-Length"]) == (200, b"", str(image.size))
    assert ask(fakereg, "GET", target, headers={"Accept": "application/json"})[0] == 404
    assert ask(fakereg, "GET", target, headers={**ACCEPT, "If-None-Match": f'"{image.digest}"'})[0] == 304
    assert json.loads(ask(fakereg, "GET", "/v2/a/b/manifests/nope")[2])["errors"][0]["code"] == "MANIFEST_UNKNOWN"
    assert json.loads(ask(fakereg, "GET", "/v2/nope/tags/list")[2])["errors"][0]["code"] == "NAME_UNKNOWN"
    assert ask(fakereg, "DELETE", target)[0] == 202 and ask(fakereg, "GET", target)[0] == 404
    fakereg.head_manifests = False
    assert ask(fakereg, "HEAD", "/v2/a/b/manifests/latest", headers=ACCEPT)[0] == 405
    fakereg.digest_header = False
    assert "Docker-Content-Digest" not in ask(fakereg, "GET", "/v2/a/b/manifests/latest", headers=ACCEPT)[1]


@pytest.mark.parametrize("asked,expected", [("bytes=0-3", slice(0, 4)), ("bytes=10-", slice(10, None)), ("bytes=-5", slice(-5, None)),
                                            ("bytes=5-99999999", slice(5, None))])
def test_fake_ranges(fakereg, asked, expected):
    blob = small().layers[0]
    fakereg.add("app", small(), "1.0")
    status, headers, body = ask(fakereg, "GET", f"/v2/app/blobs/{blob.digest}", headers={"Range": asked})
    assert status == 206 and body == blob.blob[expected]
    assert ask(fakereg, "GET", f"/v2/app/blobs/{blob.digest}", headers={"Range": "bytes=9999999-"})[0] == 416


def pages(server, target, key):
    out, requests = [], 0
    while target:
        _, headers, body = ask(server, "GET", target)
        out += json.loads(body)[key]
        link = headers.get("Link")
        target = urllib.parse.urljoin(target, link[1:link.index(">")]) if link else None
        requests += 1
    return out, requests


def test_fake_paging(fakereg):
    digest = fakereg.add("many", small())
    names = [f"t{i:05}" for i in range(10_000)]
    fakereg.add_tags("many", digest, names)
    assert pages(fakereg, "/v2/many/tags/list?n=1000", "tags") == (names, 10)
    assert pages(fakereg, "/v2/many/tags/list", "tags") == (names, 1)
    fakereg.page_max = 4000
    assert pages(fakereg, "/v2/many/tags/list", "tags") == (names, 3)
    fakereg.page_max = None
    repos = [f"r{i:04}/app" for i in range(5000)]
    fakereg.add_repos(small(), repos)
    assert pages(fakereg, "/v2/_catalog?n=1000", "repositories") == (["many"] + repos, 6)


def test_fake_referrers(fakereg):
    subject = small()
    sbom = images.artifact({"sbom.json": b"{}"}, "application/spdx+json", subject)
    sig = images.artifact({"sig": b"s"}, "application/sig", subject, {"a": "b"})
    for i in (subject, sbom, sig):
        fakereg.add("app", i)
    target = f"/v2/app/referrers/{subject.digest}"
    listed = json.loads(ask(fakereg, "GET", target)[2])["manifests"]
    assert {d["digest"]: d["artifactType"] for d in listed} == {sbom.digest: "application/spdx+json", sig.digest: "application/sig"}
    _, headers, body = ask(fakereg, "GET", target + "?artifactType=application/sig")
    assert headers["OCI-Filters-Applied"] == "artifactType" and len(json.loads(body)["manifests"]) == 1
    fakereg.set_referrers("app", sig.digest, [subject.descriptor()])        # a circle
    assert len(json.loads(ask(fakereg, "GET", f"/v2/app/referrers/{sig.digest}")[2])["manifests"]) == 1
    fakereg.referrers_api = False
    assert ask(fakereg, "GET", target)[0] == 404


def test_fake_pushes(fakereg, tmp_path, tools):
    index = Index([small("a", platform="linux/amd64"), small("b", platform="linux/arm64/v8")])
    assert push(fakereg.url, "app", "1.0", index) == index.digest
    write_layout(tmp_path / "in", {"1.0": index})
    treecmp.skopeo_copy(f"oci:{tmp_path}/in:1.0", f"docker://{fakereg.host}/other:1.0", "--all")
    assert fakereg.repos["other"].tags == {"1.0": index.digest}
    c = images.Client(fakereg.url)
    data, d = b"x" * 100, digest_of(b"x" * 100)
    where = c.request("POST", "/v2/app/blobs/uploads/", b"")[1]["Location"]
    assert c.request("PATCH", where, data[:60], {"Content-Range": "0-59"})[1]["Range"] == "0-59"
    assert c.request("PATCH", where, data[60:], {"Content-Range": "90-129"})[0] == 416
    assert c.request("GET", where)[1]["Range"] == "0-59"
    assert c.request("PUT", f"{where}?digest={digest_of(b'no')}", data[60:])[0] == 400
    where = c.request("POST", "/v2/app/blobs/uploads/", b"")[1]["Location"]
    assert c.request("PUT", f"{where}?digest={d}", data)[0] == 201
    assert c.request("POST", f"/v2/new/blobs/uploads/?mount={d}&from=app", b"")[0] == 201
    assert c.request("POST", f"/v2/new/blobs/uploads/?mount={digest_of(b'no')}&from=app", b"")[0] == 202
    dangling = json.dumps({"mediaType": images.MANIFEST, "layers": [{"digest": digest_of(b"no")}]}).encode()
    assert c.request("PUT", "/v2/app/manifests/x", dangling, {"Content-Type": images.MANIFEST})[0] == 400
    fakereg.immutable_tags = True
    assert c.request("PUT", "/v2/app/manifests/1.0", small("a").manifest, {"Content-Type": images.MANIFEST})[0] == 400


def test_fake_basic_auth_over_tls(make_fakereg, authority, tools, tmp_path):
    reg = make_fakereg("basic", authority)
    assert ask(reg, "GET", "/v2/")[0] == 401
    check_round_trip(reg, tmp_path, "--src-creds=user:secret", auth=("user", "secret"), cafile=authority.ca)
    with pytest.raises(ssl.SSLError):
        ask(reg, "GET", "/v2/", cafile="/etc/ssl/certs/ca-certificates.crt")


def test_fake_bearer_auth(make_fakereg, tools, tmp_path):
    reg = make_fakereg("bearer")
    reg.add("app", small(), "1.0")
    status, headers, _ = ask(reg, "GET", "/v2/app/manifests/1.0", headers=ACCEPT)
    assert status == 401 and f'realm="{reg.url}/token"' in headers["WWW-Authenticate"]
    assert 'scope="repository:app:pull"' in headers["WWW-Authenticate"]
    treecmp.skopeo_copy(f"docker://{reg.host}/app:1.0", f"oci:{tmp_path}/x:1.0", "--src-creds=user:secret")
    assert reg.count("token") >= 1
    scope = {**ACCEPT, "Authorization": "Basic dXNlcjpzZWNyZXQ="}
    token = json.loads(ask(reg, "GET", "/token?scope=repository:app:pull", headers=scope)[2])["token"]
    bearer = {**ACCEPT, "Authorization": f"Bearer {token}"}
    assert ask(reg, "GET", "/v2/app/manifests/1.0", headers=bearer)[0] == 200
    status, headers, _ = ask(reg, "DELETE", "/v2/app/manifests/1.0", headers=bearer)
    assert status == 401 and "insufficient_scope" in headers["WWW-Authenticate"]
    reg.expire_tokens()
    status, headers, _ = ask(reg, "GET", "/v2/app/manifests/1.0", headers=bearer)
    assert status == 401 and "invalid_token" in headers["WWW-Authenticate"]
    body = urllib.parse.urlencode({"grant_type": "password", "username": "user", "password": "secret", "access_type": "offline"})
    answer = json.loads(ask(reg, "POST", "/token", body)[2])
    body = urllib.parse.urlencode({"grant_type": "refresh_token", "refresh_token": answer["refresh_token"]})
    assert ask(reg, "POST", "/token", body)[0] == 200
    assert ask(reg, "GET", "/token", headers={"Authorization": "Basic eDp5"})[0] == 401
    reg.may = lambda user, repo, action: repo != "app"
    assert ask(reg, "GET", "/v2/app/manifests/1.0", headers=bearer)[0] == 401


def test_fake_redirects_to_a_host_that_takes_no_credentials(make_fakereg, authority):
    reg = make_fakereg("basic")
    cdn = reg.redirect_blobs()
    blob = small().layers[0]
    reg.add("app", small(), "1.0")
    auth = {"Authorization": "Basic dXNlcjpzZWNyZXQ="}
    status, headers, _ = ask(reg, "GET", f"/v2/app/blobs/{blob.digest}", headers=auth)
    assert status == 307 and headers["Location"].startswith(cdn.url)
    where = headers["Location"]
    assert ask(cdn, "GET", where, headers={"Range": "bytes=1-3"})[2] == blob.blob[1:4]
    assert ask(cdn, "GET", where, headers=auth)[0] == 400
    assert ask(cdn, "HEAD", where)[0] == 403
    cdn.fault("GET", ".", faults.status(403))
    assert [ask(cdn, "GET", where)[0] for _ in range(2)] == [403, 200]
    assert [r for r in cdn.requests() if "authorization" in r.headers]


# ---- faults

@pytest.fixture
def blob(fakereg):
    """(registry, path of a layer, its bytes)"""
    image = Image([Layer([file("data", os.urandom(300_000))])])
    fakereg.add("app", image, "1.0")
    return fakereg, f"/v2/app/blobs/{image.layers[0].digest}", image.layers[0].blob


def test_faults_apply_once_several_times_later_or_for_ever(blob):
    reg, path, data = blob
    rule = reg.fault("GET", "/blobs/", faults.server_error(500), times=2, after=1)
    assert [ask(reg, "GET", path)[0] for _ in range(4)] == [200, 500, 500, 200] and rule.hits == 2
    reg.fault("*", "/blobs/", faults.server_error(), times=None)
    assert {ask(reg, "GET", path)[0] for _ in range(5)} == {503}
    reg.clear_faults()
    assert ask(reg, "GET", path)[0] == 200


def test_answers_that_say_no(blob):
    reg, path, data = blob
    reg.fault("GET", "/blobs/", faults.too_many(7))
    status, headers, _ = ask(reg, "GET", path)
    assert (status, headers["Retry-After"]) == (429, "7")
    reg.fault("GET", "/blobs/", faults.html(502))
    status, headers, body = ask(reg, "GET", path)
    assert status == 502 and "html" in headers["Content-Type"] and b"<html>" in body
    reg.fault("GET", "/blobs/", faults.unauthorized())
    assert ask(reg, "GET", path)[1]["WWW-Authenticate"] == 'Basic realm="again"'
    reg.fault("GET", "/blobs/", faults.redirect_metadata())
    assert "169.254.169.254" in ask(reg, "GET", path)[1]["Location"]
    reg.fault("GET", "/blobs/", faults.redirect("http://elsewhere.example{path}", 302))
    assert ask(reg, "GET", path)[1]["Location"] == "http://elsewhere.example" + path
    reg.fault("HEAD", "/manifests/", faults.not_supported())
    assert ask(reg, "HEAD", "/v2/app/manifests/1.0", headers=ACCEPT)[0] == 405
    reg.fault("GET", "tags/list.*last=", faults.server_error(500))
    assert ask(reg, "GET", "/v2/app/tags/list?n=1")[0] == 200 and ask(reg, "GET", "/v2/app/tags/list?n=1&last=0")[0] == 500


@pytest.mark.parametrize("tls", [False, True])
def test_broken_connections(make_fakereg, authority, tls):
    reg = make_fakereg(authority=authority if tls else None)
    data = os.urandom(300_000)
    path = f"/v2/app/blobs/{reg.add_blob('app', data)}"
    reg.fault("GET", "/blobs/", faults.reset())
    with pytest.raises(ConnectionResetError):
        ask(reg, "GET", path)
    reg.fault("GET", "/blobs/", faults.close())
    with pytest.raises((http.client.RemoteDisconnected, ssl.SSLEOFError)):
        ask(reg, "GET", path)
    reg.fault("GET", "/blobs/", faults.short_body(1000))
    with pytest.raises((http.client.IncompleteRead, ssl.SSLEOFError)) as e:
        ask(reg, "GET", path)
    if not tls:
        assert e.value.partial == data[:1000]
    reg.fault("GET", "/blobs/", faults.reset_body(200_000))
    with pytest.raises((ConnectionResetError, http.client.IncompleteRead)):
        ask(reg, "GET", path)
    reg.fault("GET", "/blobs/", faults.claim_length(len(data) + 5))
    with pytest.raises((http.client.IncompleteRead, ssl.SSLEOFError)):
        ask(reg, "GET", path)
    assert ask(reg, "GET", path)[2] == data


def test_stalls_end_when_the_test_says_so(blob):
    reg, path, data = blob
    for fault in (faults.stall, lambda e: faults.stall_body(1000, e)):
        go, out = threading.Event(), []
        reg.fault("GET", "/blobs/", fault(go))
        t = threading.Thread(target=lambda: out.append(ask(reg, "GET", path)[2]))
        t.start()
        time.sleep(0.3)
        assert not out
        go.set()
        t.join(10)
        assert out == [data]
    reg.fault("GET", "/blobs/", faults.stall(0.4))
    start = time.monotonic()
    assert ask(reg, "GET", path)[0] == 200 and time.monotonic() - start > 0.35
    reg.fault("GET", "/blobs/", faults.stall_body(1000, threading.Event()))
    with socket.create_connection(("127.0.0.1", reg.port)) as s:
        s.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        got = b""
        s.settimeout(0.5)
        with pytest.raises(TimeoutError):
            while True:
                got += s.recv(65536)
        assert got.partition(b"\r\n\r\n")[2] == data[:1000]


def test_bodies_that_are_wrong(blob):
    reg, path, data = blob
    reg.fault("GET", "/blobs/", faults.flip(10))
    body = ask(reg, "GET", path)[2]
    assert len(body) == len(data) and [i for i in range(len(data)) if body[i] != data[i]] == [10]
    reg.fault("GET", "/blobs/", faults.wrong_size(-3))
    assert ask(reg, "GET", path)[2] == data[:-3]
    reg.fault("GET", "/blobs/", faults.wrong_size(2))
    assert ask(reg, "GET", path)[2] == data + b"xx"
    reg.fault("GET", "/blobs/", faults.ignore_range())
    assert ask(reg, "GET", path, headers={"Range": "bytes=5-6"})[::2] == (200, data)
    reg.fault("GET", "/blobs/", faults.shift_range())
    status, headers, body = ask(reg, "GET", path, headers={"Range": "bytes=5-6"})
    assert (status, body) == (206, data[6:8]) and headers["Content-Range"].startswith("bytes 6-7/")
    reg.fault("GET", "/blobs/", faults.chunked())
    status, headers, body = ask(reg, "GET", path)
    assert body == data and "Content-Length" not in headers
    reg.fault("GET", "/blobs/", faults.then(faults.flip(), faults.drop_header("docker-content-digest")))
    status, headers, body = ask(reg, "GET", path)
    assert body[0] != data[0] and "Docker-Content-Digest" not in headers
    reg.fault("GET", "/manifests/", faults.huge(100 << 20))
    assert len(ask(reg, "GET", "/v2/app/manifests/1.0", headers=ACCEPT)[2]) == 100 << 20
    loop = Index([{"mediaType": images.INDEX, "digest": "sha256:" + "1" * 64, "size": 1}]).manifest
    reg.fault("GET", "/manifests/", faults.replace_body(loop, images.INDEX), times=None)
    assert ask(reg, "GET", "/v2/app/manifests/sha256:" + "1" * 64)[0] == 404
    assert ask(reg, "GET", "/v2/app/manifests/1.0", headers=ACCEPT)[2] == loop
    reg.clear_faults()
    reg.fault("GET", "/manifests/", faults.index_loop(), times=None)
    for ref in ("1.0", "sha256:" + "1" * 64):
        assert b'"sha256:' + b"1" * 64 in ask(reg, "GET", f"/v2/app/manifests/{ref}")[2]
    start = time.monotonic()
    reg.fault("GET", "/blobs/", faults.slow(600_000))
    assert ask(reg, "GET", path)[2] == data and time.monotonic() - start > 0.3


def test_a_stopped_registry_refuses_and_comes_back(blob):
    reg, path, data = blob
    reg.stop()
    with pytest.raises(ConnectionRefusedError):
        ask(reg, "GET", path)
    reg.start()
    assert ask(reg, "GET", path)[2] == data


def test_requests_are_recorded_with_their_headers(blob):
    reg, path, data = blob
    ask(reg, "GET", path + "?x=y", headers={"Authorization": "Basic abc", "X-Test": "1"})
    [r] = reg.requests("x=y")
    assert (r.method, r.path, r.query, r.headers["authorization"], r.status, r.bytes) == \
        ("GET", path, "x=y", "Basic abc", 200, len(data))
    assert reg.count("blob_get") == 1
    reg.reset()
    assert reg.requests() == []


def test_fakereg_runs_by_hand(tmp_path, tools):
    p = subprocess.Popen([sys.executable, os.path.join(os.path.dirname(__file__), "lib", "fakereg.py"), "--demo"], stdout=subprocess.PIPE,
                         text=True)
    try:
        host = p.stdout.readline().split()[0].removeprefix("http://")
        treecmp.skopeo_copy(f"docker://{host}/demo/app:latest", f"oci:{tmp_path}/x:1")
    finally:
        p.kill()
        p.wait()
        p.stdout.close()


# ---- mounts, with a stand-in for registryfs

STANDIN = """#!/bin/bash
# mounts a tmpfs the way registryfs is called; the daemon ends when that is unmounted, with the status in $STANDIN_STATUS
if [ "$1" = umount ]; then exec umount "$2"; fi
for mnt; do :; done
all="$*"; log=${all#*log=}; log=${log%%[, ]*}
echo "source $3 home $HOME" >"$log"
[ -z "$STANDIN_LOG" ] || echo "$STANDIN_LOG" >>"$log"
[ -z "$STANDIN_FAIL" ] || { echo "no such registry"; exit 3; }
mount -t tmpfs standin "$mnt"
mkdir "$mnt/.control"
printf 'requests 3\\nratio 0.5\\nversion x y\\n' >"$mnt/.control/stats"
(exec >/dev/null 2>&1; trap '' HUP; while mountpoint -q "$mnt"; do sleep 0.05; done; exit ${STANDIN_STATUS:-0}) &
"""


@pytest.fixture
def standin(tmp_path, monkeypatch):
    (tmp_path / "registryfs").write_text(STANDIN)
    (tmp_path / "registryfs").chmod(0o755)
    monkeypatch.setenv("REGISTRYFS", str(tmp_path / "registryfs"))


def test_mount_starts_reads_and_ends(standin):
    with Mount("http://127.0.0.1:1", "tag_ttl=1", auth={"127.0.0.1:1": ("u", "p")}) as m:
        assert is_mounted(m.path) and m.alive()
        assert m.stats() == {"requests": 3, "ratio": 0.5, "version": "x y"}
        assert f"source http://127.0.0.1:1 home {m.dir}/home" in m.log
        assert (m.dir / "docker" / "config.json").exists()
        where = m.path
    assert not is_mounted(where) and not m.dir.exists() and m.status == 0


def test_mount_reports_what_went_wrong(standin):
    with pytest.raises(AssertionError, match="status 3"):
        Mount("x", env={"STANDIN_FAIL": "1"}).__enter__()
    with pytest.raises(AssertionError, match="ended with 7"):
        with Mount("x", env={"STANDIN_STATUS": "7"}):
            pass
    with pytest.raises(AssertionError, match="AddressSanitizer"):
        with Mount("x", env={"STANDIN_LOG": "==1==ERROR: AddressSanitizer: heap-use-after-free"}):
            pass
    with Mount("x", env={"STANDIN_STATUS": "7"}, clean=False):
        pass


def test_symlinks_keep_their_bytes(tmp_path):
    layer = Layer([symlink("l", b"\xff\n")])
    subprocess.run(["tar", "-C", tmp_path, "-xf", "-"], input=layer.tar, check=True)
    assert os.readlink(os.fsencode(tmp_path / "l")) == b"\xff\n"
