"""Who we are to a registry: every way of logging in works, nothing is tried with the wrong secret, no secret gets anywhere."""
import base64
import concurrent.futures
import contextlib
import errno
import http.client
import http.server
import json
import os
import pathlib
import re
import socket
import stat
import threading
import time
import urllib.parse

import pytest

from lib import faults, servers
from lib.httpfake import Listener
from lib.images import Image, Layer, file, push
from lib.rfs import Mount, below, program
from lib.servers import DockerRegistry28, TokenRegistry

PASSWORD = "s3cr3t-Pa55word-never-shown"
IMAGE = Image([Layer([file("etc/motd", "hello\n")], compress="none"), Layer([file("big", os.urandom(200_000))])])


def motd(m, repo="app"):
    return (m.path / repo / "1.0/rootfs/etc/motd").read_text()


def b64(text):
    return base64.b64encode(text.encode()).decode()


def basic(user, password):
    return {"auth": b64(f"{user}:{password}")}


def failure(call, *args):
    try:
        got = call(*args)
    except OSError as e:
        return e.errno
    raise AssertionError(f"succeeded: {str(got)[:100]}")


def refused_mount(source, **kw):
    """What a mount that must not succeed says."""
    m = Mount(source, clean=False, **kw)
    try:
        start = time.monotonic()
        with pytest.raises(AssertionError) as e:
            m.start()
        assert time.monotonic() - start < 30
        text = str(e.value) + m.log
        assert re.search(r"status [1-9]", text), text
        return text
    finally:
        m._remove()


@pytest.fixture
def guarded(make_fakereg):
    """guarded("bearer") -> a fake registry with the user alice and IMAGE in app and team/app."""
    def make(auth, **kw):
        reg = make_fakereg(auth=auth, **kw)
        reg.users = {"alice": PASSWORD, "bob": "b0b-" + PASSWORD}
        for repo in ("app", "team/app", "team/x/app"):
            reg.add(repo, IMAGE, "1.0")
        return reg
    return make


# ---- schemes

@pytest.mark.parametrize("auth", [None, "basic", "bearer"])
def test_every_scheme_works_and_the_password_goes_where_it_must_alone(guarded, mount, auth):
    reg = guarded(auth)
    m = mount(reg.url, auth={reg.host: ("alice", PASSWORD)})
    assert sorted(os.listdir(m.path)) == ["app", "team"]
    assert motd(m) == motd(m, "team/app") == "hello\n"
    sent = [r for r in reg.requests() if b64("alice:" + PASSWORD) in r.headers.get("authorization", "")]
    if auth is None:
        assert sent == [] and not any("authorization" in r.headers for r in reg.requests())
    elif auth == "bearer":
        assert sent and {r.path for r in sent} == {"/token"}
        scopes = {s for r in reg.requests(kind="token") for s in urllib.parse.parse_qs(r.query).get("scope", [])}
        assert {"repository:app:pull", "repository:team/app:pull", "registry:catalog:*"} <= scopes
        assert reg.count("token") <= 5
    assert m.stats()["fuse_errors"] == 0


@pytest.mark.parametrize("field", ["token", "access_token"])
def test_anonymous_pull_of_a_registry_with_tokens_needs_no_login(guarded, mount, field):
    reg = guarded("bearer")
    reg.anonymous_pull, reg.token_field = True, field
    m = mount(reg.url)
    assert motd(m) == "hello\n"
    assert not any(r.headers.get("authorization", "").startswith("Basic") for r in reg.requests())


def test_tokens_that_end_midway_are_fetched_again_and_nobody_notices(guarded, mount):
    reg = guarded("bearer")
    m = mount(reg.url, options="tag_ttl=1", auth={reg.host: ("alice", PASSWORD)})
    assert motd(m) == "hello\n"
    for _ in range(3):
        reg.expire_tokens()                              # the registry forgets them before they end
        time.sleep(1.1)
        assert motd(m) == "hello\n"
        assert os.listdir(m.path / "app") == ["1.0"]
        (m.path / "app/1.0/layers/01.tar.gz").read_bytes()
    reg.token_ttl = 1                                    # shorter than anybody should use
    reg.expire_tokens()
    time.sleep(1.1)
    assert motd(m, "team/app") == "hello\n"
    assert (m.path / ".control/errors").read_text() == ""


def test_a_token_that_ends_in_the_middle_of_a_blob_does_not_end_the_read(guarded, mount):
    reg = guarded("bearer")
    m = mount(reg.url, auth={reg.host: ("alice", PASSWORD)})
    os.stat(m.path / "app/1.0")

    def cut_and_expire(request, proper):
        r = faults.short_body(50_000)(request, proper)
        reg.expire_tokens()
        return r
    reg.fault("GET", IMAGE.layers[1].digest, cut_and_expire)
    assert (m.path / "app/1.0/layers/01.tar.gz").read_bytes() == IMAGE.layers[1].blob
    assert (m.path / ".control/errors").read_text() == ""


def test_a_registry_that_refuses_every_token_is_not_asked_for_ever(guarded, mount):
    reg = guarded("bearer")
    m = mount(reg.url, auth={reg.host: ("alice", PASSWORD)})
    reg.reset()
    reg.fault("*", "/v2/app", faults.unauthorized(f'Bearer realm="{reg.url}/token",service="x",scope="repository:app:pull"'), times=None)
    assert failure(os.listdir, m.path / "app") == errno.EACCES
    assert reg.count() <= 8, reg.dump()
    assert "HTTP 401" in (m.path / ".control/errors").read_text()


def test_forty_readers_share_one_token(guarded, mount):
    reg = guarded("bearer")
    for i in range(40):
        reg.add(f"many/r{i}", IMAGE, "1.0")
    m = mount(reg.url, auth={reg.host: ("alice", PASSWORD)})
    reg.reset()
    threads = [threading.Thread(target=lambda: os.listdir(m.path / "team/app")) for _ in range(40)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert reg.count("token") <= 2, reg.dump()


def test_identity_tokens_are_used_as_refresh_tokens(guarded, mount, tmp_path):
    reg = guarded("bearer")
    reg.refresh_tokens["ident-" + PASSWORD] = "alice"
    auth = tmp_path / "auth.json"
    auth.write_text(json.dumps({"auths": {reg.host: {"identitytoken": "ident-" + PASSWORD}}}))
    m = mount(reg.url, options=f"authfile={auth}")
    assert motd(m) == "hello\n"
    posts = reg.requests(kind="token", method="POST")
    assert posts and not reg.requests("ident-"), "a refresh token belongs into the body, not into a URL that is logged"


def test_a_registry_token_is_sent_as_it_is(guarded, mount, tmp_path):
    reg = guarded("bearer")
    token = "tok-" + PASSWORD
    reg.tokens[token] = ("alice", {(r, "pull") for r in ("app", "team/app")} | {(None, "*")}, time.monotonic() + 300)
    auth = tmp_path / "auth.json"
    auth.write_text(json.dumps({"auths": {reg.host: {"registrytoken": token}}}))
    m = mount(reg.url, options=f"authfile={auth}")
    assert motd(m) == "hello\n" and reg.count("token") == 0


def test_a_real_token_server_lets_us_read(tools, mount):
    with TokenRegistry() as reg:
        storage = reg.storage
        from lib import images
        images.fill_storage(storage, {"user/app": {"1.0": IMAGE}, "other/app": {"1.0": IMAGE}})
        m = mount(reg.url, auth={reg.host: (reg.user, reg.password)})
        assert motd(m, "user/app") == "hello\n"
        assert failure(motd, m, "other/app") == errno.EACCES     # its token says nothing about what is not the user's
        assert "other/app" in (m.path / ".control/errors").read_text()
        text = refused_mount(reg.url, auth={reg.host: (reg.user, "wrong")})
        assert re.search(r"refused the credentials of user user", text), text


# ---- TLS

def test_htpasswd_and_tls_with_an_authority_in_certs_d(tools, mount, authority):
    with DockerRegistry28(auth="htpasswd", authority=authority) as reg:
        push(reg.url, "app", "1.0", IMAGE, auth=(reg.user, reg.password), cafile=authority.ca)
        m = mount(reg.url, auth={reg.host: (reg.user, reg.password)}, cafile=authority.ca)
        assert motd(m) == "hello\n"
        text = refused_mount(reg.url, auth={reg.host: (reg.user, "wrong")}, cafile=authority.ca)
        assert re.search(r"401|refused|credentials", text) and "wrong" not in text.replace("wrong bytes", ""), text
        text = refused_mount(reg.url, cafile=authority.ca)
        assert re.search(r"(podman|docker) login", text), text


def test_an_authority_nobody_knows_and_a_wrong_name_are_refused_with_a_sentence(guarded, authority, tmp_path):
    reg = guarded("basic", authority=authority)
    text = refused_mount(reg.url, auth={reg.host: ("alice", PASSWORD)})
    assert re.search(rf"no trusted TLS connection to {reg.host}.*certs\.d/{reg.host}/ca\.crt", text), text
    assert reg.count() == 0
    wrong = guarded("basic", authority=authority, cert=authority.wrong_host())
    text = refused_mount(wrong.url, auth={wrong.host: ("alice", PASSWORD)}, cafile=authority.ca)
    assert re.search(rf"no trusted TLS connection to {wrong.host}", text), text
    assert wrong.count() == 0, "the request, with its credentials, was sent"


def test_tls_verify_no_is_a_choice(guarded, authority, mount):
    reg = guarded("basic", authority=authority, cert=authority.wrong_host())
    m = mount(reg.url, options="tls_verify=no", auth={reg.host: ("alice", PASSWORD)})
    assert motd(m) == "hello\n"


def test_plain_http_where_tls_was_meant_is_named(guarded):
    reg = guarded(None)
    text = refused_mount("https://" + reg.host)
    assert f"write http://{reg.host}" in text, text


# ---- credential files and helpers

def helper(directory, name, answers):
    """docker-credential-<name> that answers for these hosts and notes what it was asked."""
    path = directory / f"docker-credential-{name}"
    cases = "\n".join(f"{h}) echo '{json.dumps({'ServerURL': h, 'Username': u, 'Secret': s})}' ;;" for h, (u, s) in answers.items())
    path.write_text(f"#!/bin/sh\nread host\necho \"$1 $host\" >> {directory}/asked.{name}\ncase $host in\n{cases}\n"
                    "*) echo 'credentials not found in native keychain'; exit 1 ;;\nesac\n")
    path.chmod(0o755)


WAYS = ["docker config.json", "podman auth.json", "podman runtime", "REGISTRY_AUTH_FILE", "DOCKER_AUTH_CONFIG", "authfile", "credHelpers",
        "credsStore", "home .docker"]


@pytest.mark.parametrize("way", WAYS)
def test_every_place_where_docker_and_podman_keep_credentials_is_found(guarded, mount, tmp_path, way):
    reg = guarded("basic")
    entry = {"auths": {reg.host: basic("alice", PASSWORD)}}
    keep, env, options = tmp_path / "m", {}, ()
    put = lambda p: (p.parent.mkdir(parents=True, exist_ok=True), p.write_text(json.dumps(entry)))     # noqa: E731
    if way == "docker config.json":
        put(keep / "docker/config.json")
    elif way == "podman auth.json":
        put(keep / "config/containers/auth.json")
    elif way == "podman runtime":
        put(keep / "run/containers/auth.json")
    elif way == "home .docker":
        put(keep / "home/.docker/config.json")
        env["DOCKER_CONFIG"] = ""
    elif way in ("REGISTRY_AUTH_FILE", "authfile"):
        put(tmp_path / "x.json")
        if way == "authfile":
            options = f"authfile={tmp_path}/x.json"
        else:
            env[way] = str(tmp_path / "x.json")
    elif way == "DOCKER_AUTH_CONFIG":
        env[way] = json.dumps(entry)
    else:
        (tmp_path / "bin").mkdir()
        helper(tmp_path / "bin", "test", {reg.host: ("alice", PASSWORD)})
        entry = {"credHelpers": {reg.host: "test"}} if way == "credHelpers" else {"credsStore": "test", "auths": {reg.host: {}}}
        put(keep / "docker/config.json")
        env["PATH"] = f"{tmp_path}/bin:{os.environ['PATH']}"
    m = mount(reg.url, options=options, keep=keep, env=env)
    assert motd(m) == "hello\n"
    info = (m.path / ".control/info.json").read_text()
    assert "alice" in info and PASSWORD not in info
    json.loads(info)
    if way.startswith("creds") or way.startswith("credH"):
        assert set((tmp_path / "bin/asked.test").read_text().splitlines()) == {f"get {reg.host}"}


def test_a_helper_that_fails_says_which(guarded, tmp_path):
    reg = guarded("basic")
    for name, script in (("broken", f"#!/bin/sh\necho '{PASSWORD}'; exit 3\n"), ("garbage", f"#!/bin/sh\necho '{{{PASSWORD}'\n")):
        (tmp_path / f"docker-credential-{name}").write_text(script)
        (tmp_path / f"docker-credential-{name}").chmod(0o755)
        (tmp_path / "config.json").write_text(json.dumps({"credHelpers": {reg.host: name}}))
        text = refused_mount(reg.url, env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "DOCKER_CONFIG": str(tmp_path)})
        assert f"docker-credential-{name}" in text and PASSWORD not in text, text
    (tmp_path / "config.json").write_text(json.dumps({"credHelpers": {reg.host: "absent"}}))
    text = refused_mount(reg.url, env={"DOCKER_CONFIG": str(tmp_path)})
    assert "docker-credential-absent" in text, text


def test_the_most_specific_key_is_used(guarded, mount, tmp_path):
    reg = guarded("basic")
    reg.may = lambda user, repo, action: {"team/x/app": "bob"}.get(repo, "alice") == user
    auth = tmp_path / "auth.json"
    auth.write_text(json.dumps({"auths": {reg.host: basic("alice", PASSWORD), f"{reg.host}/team/x": basic("bob", "b0b-" + PASSWORD),
                                          f"{reg.host}/tea": basic("x", "y")}}))
    m = mount(reg.url, options=f"authfile={auth}")
    for repo in ("app", "team/app", "team/x/app"):
        assert motd(m, repo) == "hello\n", repo


def test_a_login_while_mounted_is_seen(guarded, mount, tmp_path):
    reg = guarded("basic")
    reg.users["alice"] = "new"
    auth = tmp_path / "auth.json"
    auth.write_text(json.dumps({"auths": {reg.host: basic("bob", "b0b-" + PASSWORD)}}))
    m = mount(reg.url, options=f"authfile={auth}")
    reg.users.pop("bob")
    assert failure(os.listdir, m.path / "app") == errno.EACCES
    auth.write_text(json.dumps({"auths": {reg.host: basic("alice", "new")}}))
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            assert os.listdir(m.path / "app") == ["1.0"]
            return
        except OSError as e:
            assert e.errno == errno.EACCES
            time.sleep(0.3)
    raise AssertionError("the new password is not used")


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_a_wrong_password_ends_the_mount_with_a_sentence(guarded, auth):
    reg = guarded(auth)
    text = refused_mount(reg.url, auth={reg.host: ("alice", "wrong-" + PASSWORD)})
    assert re.search(r"log in|login", text) and re.search("alice|credentials", text), text
    assert PASSWORD not in text and b64("alice:wrong-" + PASSWORD) not in text
    assert reg.count() <= 8, "a wrong password locks accounts"


@pytest.mark.parametrize("where", ["repository", "token"])
@pytest.mark.parametrize("who", [None, "alice"])
def test_a_refusal_says_what_to_do(guarded, mount, who, where):
    """A public registry refuses what does not exist, too: who has logged in need not be told to log in."""
    reg = guarded("bearer")
    reg.anonymous_pull = True
    reg.may = lambda user, repo, action: repo != "team/app"
    if where == "token":                                 # some give no token at all
        reg.fault("GET|POST", "^/token.*team", faults.error(403, "DENIED"), times=None)
    m = mount(reg.url, auth={reg.host: (who, PASSWORD)} if who else {})
    assert motd(m) == "hello\n"
    assert failure(motd, m, "team/app") == errno.EACCES
    [text] = {ln.split(" ", 1)[1] for ln in (m.path / ".control/errors").read_text().splitlines()}
    assert "check the name" in text and ("podman login" in text) == (who is None), text
    assert ("log in as another user" in text) == (who is not None) and ("exist" in text or who and where == "token"), text


# ---- access is per repository

@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_cached_bytes_cannot_be_read_through_a_repository_that_refuses(guarded, mount, auth, tmp_path):
    """The same digest in a repository that we may not read: the cache is no way around the registry."""
    reg = guarded(auth)
    forbidden = set()
    reg.may = lambda user, repo, action: repo not in forbidden
    forbidden.add("team/app")
    m = mount(reg.url, keep=tmp_path / "m", auth={reg.host: ("alice", PASSWORD)})
    assert motd(m) == "hello\n"
    (m.path / "app/1.0/layers/01.tar.gz").read_bytes()
    for again in (False, True):
        if again:                                        # also from a cache that another daemon filled
            m.umount()
            m = mount(reg.url, keep=tmp_path / "m", auth={reg.host: ("alice", PASSWORD)})
        hexa = IMAGE.digest.split(":")[1]
        blob = IMAGE.layers[0].digest.split(":")[1]
        for path in ("team/app/1.0/rootfs/etc/motd", f"team/app/{IMAGE.digest}/rootfs/etc/motd", f"team/app/{IMAGE.digest}/manifest.json",
                     "team/app/:1.0/config.json", f"team/app/{IMAGE.digest}/layers/00.tar", f"team/app/.oci/blobs/sha256/{hexa}",
                     f"team/app/.oci/blobs/sha256/{blob}", f".oci/team/app/blobs/sha256/{blob}", "team/app/.tar/1.0.tar"):
            got = failure((m.path / path).read_bytes)
            assert got in (errno.EACCES, errno.ENOENT), (path, errno.errorcode[got])
            if "sha256:" in path or "1.0/" in path:
                assert got == errno.EACCES, path
        assert motd(m) == "hello\n"


def test_nothing_stale_is_served_once_a_repository_refuses(guarded, mount):
    """Access that is taken away is gone within the ttl; a registry that is down is not a refusal."""
    reg = guarded("basic")
    forbidden = set()
    reg.may = lambda user, repo, action: repo not in forbidden
    m = mount(reg.url, options="tag_ttl=1", auth={reg.host: ("alice", PASSWORD)})
    assert motd(m) == motd(m, "team/app") == "hello\n"
    assert os.listdir(m.path / "app") == ["1.0"]
    digest = m.path / "app" / IMAGE.digest / "digest"
    assert digest.read_text().strip() == IMAGE.digest
    forbidden.add("app")
    time.sleep(1.3)
    for _ in range(2):
        assert failure(motd, m) == errno.EACCES
        assert failure(os.listdir, m.path / "app") == errno.EACCES
        assert failure((m.path / "app/1.0/config.json").read_bytes) == errno.EACCES
    pathlib.Path("/proc/sys/vm/drop_caches").write_text("2\n")     # what the kernel holds by digest is its own
    assert failure((m.path / "app" / IMAGE.digest / "config.json").read_bytes) == errno.EACCES
    assert motd(m, "team/app") == "hello\n"
    assert "serving what is cached" not in m.log
    reg.stop()                                           # down now: that does not make it readable again
    time.sleep(6)
    assert failure(motd, m) in (errno.EACCES, errno.EHOSTUNREACH, errno.EIO)
    assert motd(m, "team/app") == "hello\n"              # this one is served stale
    reg.start()


# ---- mirrors

def registries_conf(path, reg, *mirrors, extra=""):
    lines = [f'[[registry]]\nprefix = "{reg.host}"\nlocation = "{reg.host}"\ninsecure = true\n{extra}']
    lines += [f'[[registry.mirror]]\nlocation = "{h}"\ninsecure = true\n' for h in mirrors]
    path.write_text("\n".join(lines))
    return path


def hosts_toml(path, reg, *mirrors):
    d = path / reg.host
    d.mkdir(parents=True)
    (d / "hosts.toml").write_text(f'server = "{reg.url}"\n' + "".join(
        f'[host."{u}"]\n  capabilities = ["pull", "resolve"]\n' for u in mirrors))
    return path


@pytest.mark.parametrize("kind", ["registries.conf", "hosts.toml"])
def test_a_mirror_is_used_for_pulls_and_never_sees_the_upstreams_credentials(guarded, make_fakereg, mount, tmp_path, kind):
    reg, mirror = guarded("bearer"), make_fakereg(name="mirror")
    for repo in ("app", "team/app"):
        mirror.add(repo, IMAGE, "1.0")
    option = f"registries_conf={registries_conf(tmp_path / 'r.conf', reg, mirror.host)}" if kind == "registries.conf" \
        else f"hosts_dir={hosts_toml(tmp_path / 'hosts', reg, mirror.url)}"
    m = mount(reg.url, options=option, auth={reg.host: ("alice", PASSWORD)})
    assert motd(m) == "hello\n"
    assert (m.path / "app/1.0/layers/01.tar.gz").read_bytes() == IMAGE.layers[1].blob
    assert mirror.count("blob_get") >= 2 and reg.count("blob_get") == 0, reg.dump() + mirror.dump()
    assert os.listdir(m.path / "app") == ["1.0"] and reg.count("tags_list") == 1 and mirror.count("tags_list") == 0
    for r in mirror.requests():
        assert "authorization" not in r.headers, r


@pytest.mark.parametrize("trouble", ["dead", "lacks it", "503", "wrong password", "garbage", "wrong bytes"])
def test_a_mirror_in_trouble_is_passed_over(guarded, make_fakereg, mount, tmp_path, trouble):
    reg, mirror = guarded("basic"), make_fakereg(auth="basic" if trouble == "wrong password" else None, name="mirror")
    if trouble != "lacks it":
        mirror.add("app", IMAGE, "1.0")
    if trouble == "503":
        mirror.fault("*", ".", faults.server_error(), times=None)
    if trouble == "garbage":
        mirror.fault("*", ".", faults.status(404, html="<p>what?</p>"), times=None)
    if trouble == "wrong bytes":
        mirror.fault("GET", "/manifests/", faults.flip(30), times=None)
    if trouble == "dead":
        mirror.stop()
    conf = registries_conf(tmp_path / "r.conf", reg, mirror.host)
    m = mount(reg.url, options=f"registries_conf={conf}", auth={reg.host: ("alice", PASSWORD)})
    if trouble == "wrong bytes":                         # never shown; whether upstream is asked is a matter of taste
        try:
            assert motd(m) == "hello\n"
        except OSError as e:
            assert e.errno == errno.EIO
        return
    assert motd(m) == "hello\n"
    assert reg.count("blob_get") >= 2
    for r in mirror.requests():
        assert b64("alice:" + PASSWORD) not in str(r.headers)


def test_parts_that_a_mirror_spoils_come_from_the_registry(guarded, make_fakereg, mount, tmp_path):
    """A part of a layer is checked by the cache, which has the hashes; the mirror is not asked for that layer again. Read-ahead may
    have asked it for the next parts by then."""
    big = os.urandom(14 << 20)
    image = Image([Layer([file("big", big)])])
    reg, mirror = guarded(None), make_fakereg(name="mirror")
    for r in (reg, mirror):
        r.add("app", image, "1.0")
    m = mount(reg.url, options=f"prefetch=no,registries_conf={registries_conf(tmp_path / 'r.conf', reg, mirror.host)}")
    assert (m.path / "app/1.0/rootfs/big").read_bytes() == big
    assert mirror.count("blob_get") == 1 and reg.count("blob_get") == 0, reg.dump() + mirror.dump()
    m.umount()
    spans = sorted(f for f in pathlib.Path(m.env["XDG_CACHE_HOME"]).glob("registryfs/span/*/*"))
    assert len(spans) == 4
    for f in spans:
        f.unlink()
    mirror.reset(), reg.reset()
    mirror.fault("GET", "/blobs/", faults.flip(5), times=None)
    m.start()
    assert (m.path / "app/1.0/rootfs/big").read_bytes() == big
    wrong = mirror.requests(kind="blob_get")
    assert 1 <= len(wrong) < 4 and all("range" in w.headers for w in wrong), mirror.dump()
    assert reg.count("blob_get") >= 4, reg.dump() + mirror.dump()
    assert 1 <= m.stats()["integrity_failures"] <= len(wrong) and m.stats()["spans_refilled"] == 4


def test_all_who_read_what_a_mirror_spoils_get_the_right_bytes(guarded, make_fakereg, mount, tmp_path):
    """Also those whose part was under way when another's turned out wrong."""
    big = os.urandom(30 << 20)
    image = Image([Layer([file("big", big)])])
    reg, mirror = guarded(None), make_fakereg(name="mirror")
    for r in (reg, mirror):
        r.add("app", image, "1.0")
    m = mount(reg.url, options=f"registries_conf={registries_conf(tmp_path / 'r.conf', reg, mirror.host)}")
    assert (m.path / "app/1.0/rootfs/big").read_bytes() == big
    m.umount()
    for f in pathlib.Path(m.env["XDG_CACHE_HOME"]).glob("registryfs/span/*/*"):
        f.unlink()
    mirror.fault("GET", "/blobs/", faults.then(faults.flip(5), faults.stall(0.5)), times=None)
    m.start()
    path = m.path / "app/1.0/rootfs/big"
    os.stat(path)

    def part(off):
        with open(path, "rb", buffering=0) as f:
            return os.pread(f.fileno(), 4096, off)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for off, data in [(o, pool.submit(part, o)) for o in (0, 7 << 20, 14 << 20, 21 << 20)]:
            assert data.result() == big[off:off + 4096]


def test_a_blocked_registry_is_refused_with_a_sentence(guarded, tmp_path):
    reg = guarded(None)
    conf = registries_conf(tmp_path / "r.conf", reg, extra="blocked = true\n")
    text = refused_mount(reg.url, options=f"registries_conf={conf}")
    assert "blocked" in text and reg.count() == 0, text


# ---- proxies

class Proxy(Listener):
    """An HTTP proxy: absolute URIs and CONNECT; records whom it was asked for."""

    def __init__(self, to):
        super().__init__("proxy")
        self.to, self.connects = to, []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            log_message = lambda *a: None                # noqa: E731

            def do_GET(self):
                u = urllib.parse.urlsplit(self.path)
                outer.connects.append((self.command, u.netloc, dict(self.headers)))
                c = http.client.HTTPConnection(outer.to, timeout=30)
                c.request(self.command, u._replace(scheme="", netloc="").geturl(), headers={
                    k: v for k, v in self.headers.items() if k.lower() not in ("proxy-authorization", "proxy-connection", "connection")})
                r = c.getresponse()
                body = r.read()
                self.send_response(r.status)
                for k, v in r.getheaders():
                    if k.lower() not in ("connection", "content-length", "transfer-encoding"):
                        self.send_header(k, v)
                self.send_header("Content-Length", r.getheader("Content-Length") or str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)
            do_HEAD = do_GET

            def do_CONNECT(self):
                outer.connects.append(("CONNECT", self.path, dict(self.headers)))
                up = socket.create_connection(outer.to.rsplit(":", 1))
                self.send_response(200)
                self.end_headers()
                back = threading.Thread(target=self.pump, args=(up, self.connection), daemon=True)
                back.start()
                self.pump(self.connection, up)
                back.join(5)
                self.close_connection = True

            def pump(self, a, b):
                try:
                    while data := a.recv(65536):
                        b.sendall(data)
                    b.shutdown(socket.SHUT_WR)
                except OSError:
                    pass
        self.handler = Handler


def test_http_proxy_is_used_and_gets_its_own_password_alone(guarded, mount):
    """The name exists nowhere: only the proxy can know it."""
    reg = guarded("basic")
    host = "registry.nowhere.invalid:5000"
    with Proxy(reg.host) as proxy:
        m = mount("http://" + host, auth={host: ("alice", PASSWORD)}, env={"http_proxy": f"http://pu:pp@{proxy.host}"})
        assert motd(m) == "hello\n"
        assert {h for _, h, _ in proxy.connects} == {host}
        assert all(h.get("Proxy-Authorization") == "Basic " + b64("pu:pp") for _, _, h in proxy.connects)
        assert not any("proxy-authorization" in r.headers for r in reg.requests())


def test_https_proxy_tunnels_and_sees_no_credentials(guarded, mount, authority):
    reg = guarded("basic", authority=authority)
    with Proxy(reg.host) as proxy:
        env = {"https_proxy": f"http://{proxy.host}", "HTTPS_PROXY": f"http://{proxy.host}"}
        m = mount(reg.url, auth={reg.host: ("alice", PASSWORD)}, cafile=authority.ca, env=env)
        assert motd(m) == "hello\n"
        assert proxy.connects and all(c[0] == "CONNECT" and c[1] == reg.host for c in proxy.connects)
        assert b64("alice:" + PASSWORD) not in str(proxy.connects)


def test_no_proxy_is_respected_and_a_dead_proxy_is_named(guarded, mount):
    reg = guarded(None)
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        dead = f"http://127.0.0.1:{s.getsockname()[1]}"
        m = mount(reg.url, env={"http_proxy": dead, "no_proxy": "127.0.0.1"})
        assert motd(m) == "hello\n"
        text = refused_mount("http://registry.nowhere.invalid:5000", env={"http_proxy": dead})
        assert re.search(r"registry\.nowhere\.invalid|proxy", text), text


# ---- secrets stay secret

def secrets_of(reg):
    words = [PASSWORD, b64("alice:" + PASSWORD), *reg.tokens, *reg.refresh_tokens]
    return [w.encode() for w in words if w]


def texts_below(*roots):
    """The contents of all files below, by path; what is gone before it is read is left out."""
    texts = {}
    for p, st in below(*roots):
        if stat.S_ISREG(st.st_mode):
            with contextlib.suppress(FileNotFoundError):
                texts[str(p)] = p.read_bytes()
    return texts


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_no_secret_is_in_argv_mounts_log_control_files_or_cache(guarded, tmp_path, auth):
    """Everything that can be read about a mount, after every kind of use and failure, at log level debug."""
    reg = guarded(auth)
    cdn = reg.redirect_blobs()
    auth_file = tmp_path / "private" / "auth.json"
    auth_file.parent.mkdir()
    auth_file.write_text(json.dumps({"auths": {reg.host: basic("alice", PASSWORD)}}))
    m = Mount(reg.url, options=["log_level=debug", f"authfile={auth_file}", "tag_ttl=1"], keep=tmp_path / "m")
    with m:
        assert motd(m) == "hello\n"
        (m.path / "app/.oci/index.json").read_bytes()
        for action in (faults.error(403, "DENIED"), faults.unauthorized(), faults.server_error(), faults.reset(), faults.status(400),
                       faults.redirect_metadata()):
            rule = reg.fault("*", "team/x", action, times=None)
            with pytest.raises(OSError):
                os.listdir(m.path / "team/x/app")
            reg.clear_faults()
            (m.path / ".control/refresh").write_text("1")
            assert rule.hits
        reg.expire_tokens()
        os.listdir(m.path / "app")
        reg.users.clear()
        reg.expire_tokens()
        (m.path / ".control/refresh").write_text("1")
        with pytest.raises(OSError):
            os.listdir(m.path / "app")
        secrets = secrets_of(reg) + [PASSWORD[:12].encode(), b"tok-"]
        texts = {"mounts": pathlib.Path("/proc/mounts").read_bytes() + pathlib.Path("/proc/self/mountinfo").read_bytes(),
                 "argv": pathlib.Path(f"/proc/{m.pid}/cmdline").read_bytes()}
        for where in ("", "app", "app/1.0"):
            control = m.path / where / ".control"
            try:
                names = os.listdir(control)
            except OSError:
                continue
            for name in names:
                try:
                    texts[f"{where}/.control/{name}"] = (control / name).read_bytes()
                except OSError as e:
                    texts[f"{where}/.control/{name} error"] = str(e).encode()
        for p in (m.path, m.path / "app", m.path / "team/x"):
            try:
                texts[f"xattr {p}"] = os.getxattr(p, "user.registryfs.error")
            except OSError:
                pass
        texts["status"] = (lambda r: (r.stdout + r.stderr).encode())(m.run("status"))
        texts |= texts_below(m.dir / "cache", m.dir / "state", m.dir / "data", m.dir / "run")
        texts["log"], texts["output"] = m.log.encode(), (m.dir / "output").read_bytes()
        found = [(name, s) for name, text in texts.items() for s in secrets if s in text]
        assert not found, found
        assert len(texts) > 15 and any("errors" in n for n in texts)
    for r in cdn.requests():
        assert "authorization" not in r.headers


def test_no_child_and_no_environment_gets_a_password_and_core_dumps_are_not_for_others(guarded, mount):
    reg = guarded("basic")
    m = mount(reg.url, auth={reg.host: ("alice", PASSWORD)})
    motd(m)
    env = pathlib.Path(f"/proc/{m.pid}/environ").read_bytes()
    assert PASSWORD.encode() not in env
    cache = m.dir / "cache/registryfs"
    found = [(cache, cache.lstat()), *below(cache)]
    assert len(found) > 10
    for p, st in found:
        assert st.st_mode & 0o077 == 0, (p, oct(st.st_mode))


def test_a_password_in_the_source_is_refused_without_repeating_it(guarded):
    reg = guarded("basic")
    text = refused_mount(f"http://alice:{PASSWORD}@{reg.host}")
    # the command line of the test's own message is cut out
    text = re.sub(re.escape(program()) + r".*?: (status|no answer)", "", text)
    assert PASSWORD not in text, text
    assert reg.count() == 0
