#!/usr/bin/env python3
"""A container registry in memory that is correct until a test tells it otherwise.

It speaks the distribution protocol (manifests, blobs with Range, uploads, mounts, tags and catalogue with paging,
referrers, conditional requests) plainly or over TLS, openly or behind Basic or Bearer authentication with a token
endpoint of its own. Switches are attributes that may be changed at any time; single answers are bent with fault() and the
actions of faults.py. Every request is recorded (reqlog.RequestLog).

By hand:  python3 tests/lib/fakereg.py --port 5005 --demo      then  skopeo inspect --tls-verify=false docker://127.0.0.1:5005/demo/app:1.0
"""
import base64
import hashlib
import json
import os
import re
import secrets
import sys
import threading
import time
import urllib.parse

if not __package__:
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    __package__ = "lib"
    import lib                                    # noqa: F401  (so that the relative imports below resolve)

from .httpfake import Listener, Response

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
OCTETS = "application/octet-stream"
NAME = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*"
TAG = r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}"
HASHES = {"sha256": hashlib.sha256, "sha512": hashlib.sha512}


def digest_of(data, algorithm="sha256"):
    return f"{algorithm}:{HASHES[algorithm](data).hexdigest()}"


class Repo:
    def __init__(self):
        self.blobs = set()            # digests that may be read here
        self.manifests = {}           # digest -> (media type, bytes)
        self.tags = {}                # tag -> digest
        self.referrers = {}           # subject digest -> descriptors set by hand (see set_referrers)


def _ranged(request, response):
    """Applies a single Range to a 200 answer."""
    value = request.headers.get("range")
    if not value:
        return response
    size = len(response.body)
    m = re.fullmatch(r"bytes=(\d*)-(\d*)", value)
    if not m or not (m[1] or m[2]):
        return response               # several ranges or nonsense: the whole is a proper answer
    if m[1]:
        first, last = int(m[1]), min(int(m[2]) if m[2] else size - 1, size - 1)
    else:
        first, last = max(0, size - int(m[2])), size - 1
    if first > last:
        return Response.error(416, "RANGE_INVALID", **{"Content-Range": f"bytes */{size}"})
    response.body = response.body[first:last + 1]
    response.status = 206
    response.headers["Content-Range"] = f"bytes {first}-{last}/{size}"
    return response


class BlobHost(Listener):
    """Where blob requests are redirected to: an object store behind signed URLs, on a port of its own.

    Like S3 it answers 400 when Authorization comes along (unless refuse_auth is off) and 403 to HEAD. fault() works here
    too: `cdn.fault("GET", ".", faults.status(403))` is a signature that has expired.
    """

    def __init__(self, blobs, authority=None, name="cdn"):
        super().__init__(name, authority)
        self.blobs, self.refuse_auth, self.refuse_head, self.ranges = blobs, True, True, True
        self.signatures = set()

    def location(self, digest):
        signature = secrets.token_hex(8)
        self.signatures.add(signature)
        return f"{self.url}/cdn/{digest}?sig={signature}"

    def answer(self, request, body):
        m = re.fullmatch(r"/cdn/(.+)", request.path)
        signature = urllib.parse.parse_qs(request.query).get("sig", [""])[0]
        if not m or m[1] not in self.blobs:
            return Response(404, {"Content-Type": "application/xml"}, b"<Error><Code>NoSuchKey</Code></Error>")
        if self.refuse_auth and "authorization" in request.headers:
            return Response(400, {"Content-Type": "application/xml"},
                            b"<Error><Code>InvalidArgument</Code><Message>Only one auth mechanism allowed</Message></Error>")
        if signature not in self.signatures or (self.refuse_head and request.method == "HEAD"):
            return Response(403, {"Content-Type": "application/xml"}, b"<Error><Code>AccessDenied</Code></Error>")
        response = Response(200, {"Content-Type": "binary/octet-stream", "Accept-Ranges": "bytes"}, self.blobs[m[1]])
        return _ranged(request, response) if self.ranges else response


class FakeRegistry(Listener):
    """auth: None, "basic" or "bearer". authority: tls.Authority for https. Other attributes: see below."""

    def __init__(self, auth=None, authority=None, port=0, name="registry", cert=None):
        super().__init__(name, authority, port, cert)
        self.lock = threading.RLock()
        self.blobs, self.repos, self.uploads = {}, {}, {}
        # switches
        self.auth = auth
        self.users = {"user": "secret"}
        self.anonymous_pull = False   # bearer: a token without credentials may pull
        self.may = lambda user, repo, action: True      # finer rights; action: pull, push, delete; repo None: the catalogue
        self.token_ttl = 300
        self.token_field = "token"    # or "access_token"
        self.token_post = True        # OAuth2 form of the token request
        self.token_realm = None       # another URL than our own /token
        self.referrers_api = True
        self.catalog_api = True
        self.page_max = None          # upper limit of n, also the page size when n is not given
        self.null_tags = False        # "tags": null instead of []
        self.head_manifests = True    # False: 405
        self.ranges = True
        self.digest_header = True
        self.etags = True
        self.delete_tags = True       # DELETE of a tag; False: 400 as docker-registry 2.8
        self.delete_manifests = True  # False: 405
        self.single_post = True       # POST ?digest= stores at once; False: 202
        self.mounts = True
        self.immutable_tags = False
        self.check_references = True
        self.auto_create = True       # False: pushing to a repository that is not there is NAME_UNKNOWN, as ECR
        self.chunk_min = None
        self.cdn = None               # BlobHost: blob GETs are redirected there
        self.redirect_status = 307
        # tokens
        self.tokens = {}              # token -> (user, {(repo, action)}, expires)
        self.refresh_tokens = {}      # refresh token -> user

    # ---- content

    def repo(self, name):
        with self.lock:
            return self.repos.setdefault(name, Repo())

    def add_blob(self, repo, data, digest=None):
        digest = digest or digest_of(data)
        with self.lock:
            self.blobs[digest] = data
            self.repo(repo).blobs.add(digest)
        return digest

    def add_manifest(self, repo, data, media_type=MANIFEST, tag=None, digest=None):
        """Stores bytes as a manifest, unchecked: also nonsense, also under a digest that is not theirs."""
        digest = digest or digest_of(data)
        with self.lock:
            r = self.repo(repo)
            r.manifests[digest] = (media_type, data)
            if tag:
                r.tags[tag] = digest
        return digest

    def add(self, repo, image, *tags):
        """Stores an images.Image or images.Index with everything below it. Returns its digest."""
        with self.lock:
            for child in getattr(image, "children", ()):
                if hasattr(child, "manifest"):
                    self.add(repo, child)
            for digest, data in image.blobs():
                self.add_blob(repo, data, digest)
            self.add_manifest(repo, image.manifest, image.media_type)
            for tag in tags:
                self.repo(repo).tags[tag] = image.digest
        return image.digest

    def add_tags(self, repo, digest, tags):
        """Many tags for a manifest that is there: add_tags("app", d, (f"t{i:05}" for i in range(10000)))."""
        with self.lock:
            self.repo(repo).tags.update((t, digest) for t in tags)

    def add_repos(self, image, names, tag="1.0"):
        """The same image in many repositories."""
        for name in names:
            self.add(name, image, tag)

    def set_referrers(self, repo, subject, descriptors):
        """What the referrers API lists for `subject` besides real ones: also dangling or circular ones."""
        self.repo(repo).referrers[subject] = list(descriptors)

    def redirect_blobs(self, authority=None, name="cdn"):
        """Starts a BlobHost to which blob GETs go from now on; it ends with this registry."""
        self.cdn = BlobHost(self.blobs, authority, name).start()
        return self.cdn

    def stop(self):
        if self.cdn is not None:
            self.cdn.stop()
        super().stop()

    # ---- authentication

    def expire_tokens(self):
        """All tokens given out so far end now."""
        with self.lock:
            self.tokens.clear()

    def _basic_user(self, request):
        value = request.headers.get("authorization", "")
        if not value.lower().startswith("basic "):
            return None
        user, _, password = base64.b64decode(value[6:]).decode().partition(":")
        return user if self.users.get(user) == password else None

    def _token(self, request, body):
        """The token endpoint."""
        fields = urllib.parse.parse_qs((body.decode() if request.method == "POST" else request.query))
        get = lambda k: fields.get(k, [""])[0]     # noqa: E731
        user = self._basic_user(request)
        if request.method == "POST":
            if not self.token_post:
                return Response(404, {"Content-Type": "text/plain"}, b"404 page not found\n")
            if get("grant_type") == "refresh_token":
                user = self.refresh_tokens.get(get("refresh_token"))
            elif self.users.get(get("username")) == get("password"):
                user = get("username")
            if user is None:
                return Response.json({"error": "invalid_grant"}, 401)
        elif user is None and ("authorization" in request.headers or not self.anonymous_pull):
            return Response.error(401, "UNAUTHORIZED", **{"WWW-Authenticate": 'Basic realm="token"'})
        granted = set()
        for scope in " ".join(fields.get("scope", [])).split():
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            for action in actions.split(","):
                target = name if kind.startswith("repository") else None
                if (user is not None or action == "pull") and self.may(user, target, action):
                    granted.add((target, action))
        token = "tok-" + secrets.token_hex(12)
        answer = {self.token_field: token, "expires_in": self.token_ttl}
        with self.lock:
            self.tokens[token] = (user, granted, time.monotonic() + self.token_ttl)
            if get("offline_token") == "true" or get("access_type") == "offline":
                refresh = "ref-" + secrets.token_hex(12)
                self.refresh_tokens[refresh] = user
                answer["refresh_token"] = refresh
        return Response.json(answer)

    def _refused(self, request, repo, actions):
        """None if the request may pass, else the answer that says no. repo None: the catalogue; "": only the API probe."""
        if self.auth is None:
            return None
        if self.auth == "basic":
            user = self._basic_user(request)
            if user is None:
                return Response.error(401, "UNAUTHORIZED", **{"WWW-Authenticate": 'Basic realm="registry"'})
            if repo == "" or all(self.may(user, repo, a) for a in actions):
                return None
            return Response.error(403, "DENIED", "requested access to the resource is denied")
        value = request.headers.get("authorization", "")
        known = self.tokens.get(value[7:]) if value.lower().startswith("bearer ") else None
        valid = known and known[2] > time.monotonic()
        if valid and (repo == "" or all((repo, a) in known[1] for a in actions)):
            return None
        realm = self.token_realm or f"{self.url}/token"
        challenge = f'Bearer realm="{realm}",service="{self.host}"'
        if repo != "":
            scope = f"repository:{repo}:{','.join(actions)}" if repo else "registry:catalog:*"
            challenge += f',scope="{scope}"'
        if valid:
            challenge += ',error="insufficient_scope"'
        elif value:
            challenge += ',error="invalid_token"'
        return Response.error(401, "UNAUTHORIZED", "authentication required", **{"WWW-Authenticate": challenge})

    # ---- routes

    ROUTES = [
        (r"/v2/?", "_ping"),
        (r"/v2/_catalog", "_catalog"),
        (rf"/v2/(?P<name>{NAME})/tags/list", "_tags"),
        (rf"/v2/(?P<name>{NAME})/manifests/(?P<ref>[^/]+)", "_manifest"),
        (rf"/v2/(?P<name>{NAME})/blobs/uploads/", "_upload_start"),
        (rf"/v2/(?P<name>{NAME})/blobs/uploads/(?P<session>[^/]+)", "_upload"),
        (rf"/v2/(?P<name>{NAME})/blobs/(?P<digest>[^/]+)", "_blob"),
        (rf"/v2/(?P<name>{NAME})/referrers/(?P<digest>[^/]+)", "_referrers"),
    ]

    def answer(self, request, body):
        if request.path == "/token":
            return self._token(request, body)
        for pattern, method in self.ROUTES:
            m = re.fullmatch(pattern, request.path)
            if not m:
                continue
            where = m.groupdict()
            repo = where.get("name", "" if method == "_ping" else None)
            actions = {"GET": ["pull"], "HEAD": ["pull"], "DELETE": ["delete"]}.get(request.method, ["pull", "push"])
            if repo is None:
                actions = ["*"]
            no = self._refused(request, repo, actions)
            if no:
                return no
            with self.lock:
                response = getattr(self, method)(request, body, **where)
            response.headers.setdefault("Docker-Distribution-Api-Version", "registry/2.0")
            return response
        if request.path.startswith("/v2/"):
            return Response.error(400 if "/manifests/" in request.path or "/tags/" in request.path else 404, "NAME_INVALID")
        return Response(404, {"Content-Type": "text/plain"}, b"404 page not found\n")

    def _ping(self, request, body):
        return Response.json({})

    def _page(self, request, items):
        """(items of this page, headers): n, last and Link as the specification says."""
        q = urllib.parse.parse_qs(request.query)
        last = q.get("last", [None])[0]
        n = int(q["n"][0]) if "n" in q else self.page_max
        if self.page_max is not None:
            n = min(n, self.page_max)
        items = sorted(i for i in items if last is None or i > last)
        if n is None or len(items) <= n:
            return items, {}
        items = items[:n]
        query = urllib.parse.urlencode({"last": items[-1] if items else last or "", "n": n})
        return items, {"Link": f'<{request.path}?{query}>; rel="next"'}

    def _catalog(self, request, body):
        if not self.catalog_api:
            return Response.error(404, "UNSUPPORTED")
        names, headers = self._page(request, list(self.repos))
        return Response.json({"repositories": names}, **headers)

    def _tags(self, request, body, name):
        if name not in self.repos:
            return Response.error(404, "NAME_UNKNOWN", detail={"name": name})
        tags, headers = self._page(request, list(self.repos[name].tags))
        return Response.json({"name": name, "tags": tags or (None if self.null_tags else [])}, **headers)

    def _manifest(self, request, body, name, ref):
        repo = self.repos.get(name)
        if request.method == "PUT":
            return self._manifest_put(request, body, name, ref)
        if repo is None:
            return Response.error(404, "NAME_UNKNOWN", detail={"name": name})
        digest = ref if ":" in ref else repo.tags.get(ref)
        if request.method == "DELETE":
            return self._manifest_delete(repo, ref, digest)
        if request.method == "HEAD" and not self.head_manifests:
            return Response.error(405, "UNSUPPORTED")
        if digest not in repo.manifests:
            return Response.error(404, "MANIFEST_UNKNOWN", "manifest unknown", detail={"Tag": ref})
        media_type, data = repo.manifests[digest]
        accept = request.headers.get("accept", "*/*")
        if "*/*" not in accept and media_type.startswith("application/vnd.oci") and media_type not in accept:
            return Response.error(404, "MANIFEST_UNKNOWN", "OCI manifest found, but accept header does not support OCI manifests")
        headers = {"Content-Type": media_type}
        if self.digest_header:
            headers["Docker-Content-Digest"] = digest
        if self.etags:
            headers["ETag"] = f'"{digest}"'
            if request.headers.get("if-none-match", "").strip('"') == digest:
                return Response(304, headers)
        return Response(200, headers, data)

    def _manifest_put(self, request, body, name, ref):
        if name not in self.repos and not self.auto_create:
            return Response.error(404, "NAME_UNKNOWN", detail={"name": name})
        media_type = request.headers.get("content-type", "").split(";")[0]
        try:
            doc = json.loads(body)
            assert isinstance(doc, dict) and doc.get("mediaType", media_type) == media_type
        except (ValueError, AssertionError):
            return Response.error(400, "MANIFEST_INVALID")
        digest = digest_of(body, ref.split(":")[0] if ref.split(":")[0] in HASHES else "sha256")
        if ":" in ref and ref != digest:
            return Response.error(400, "DIGEST_INVALID")
        repo = self.repo(name)
        for d in [doc.get("config")] + (doc.get("layers") or []) if self.check_references else []:
            if d and d["digest"] not in repo.blobs and not d.get("urls"):
                return Response.error(400, "MANIFEST_BLOB_UNKNOWN", detail={"digest": d["digest"]})
        for d in (doc.get("manifests") or []) if self.check_references else []:
            if d["digest"] not in repo.manifests:
                return Response.error(400, "MANIFEST_BLOB_UNKNOWN", detail={"digest": d["digest"]})
        tags = urllib.parse.parse_qs(request.query).get("tag", []) if ":" in ref else [ref]
        for tag in tags:
            if not re.fullmatch(TAG, tag):
                return Response.error(400, "TAG_INVALID")
            if self.immutable_tags and repo.tags.get(tag, digest) != digest:
                return Response.error(400, "TAG_INVALID", "The image tag already exists and cannot be overwritten because "
                                      "the repository is immutable.")
        repo.manifests[digest] = (media_type, body)
        headers = {"Location": f"/v2/{name}/manifests/{digest}", "Docker-Content-Digest": digest}
        for tag in tags:
            repo.tags[tag] = digest
        if ":" in ref and tags:
            headers["OCI-Tag"] = ", ".join(tags)
        if doc.get("subject") and self.referrers_api:
            headers["OCI-Subject"] = doc["subject"]["digest"]
        return Response(201, headers)

    def _manifest_delete(self, repo, ref, digest):
        if ":" not in ref:
            if not self.delete_tags:
                return Response.error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
            if repo.tags.pop(ref, None) is None:
                return Response.error(404, "MANIFEST_UNKNOWN")
            return Response(202)
        if not self.delete_manifests:
            return Response.error(405, "UNSUPPORTED")
        if repo.manifests.pop(digest, None) is None:
            return Response.error(404, "MANIFEST_UNKNOWN")
        repo.tags = {t: d for t, d in repo.tags.items() if d != digest}
        return Response(202)

    def _blob(self, request, body, name, digest):
        repo = self.repos.get(name)
        if repo is None:
            return Response.error(404, "NAME_UNKNOWN", detail={"name": name})
        if digest not in repo.blobs:
            return Response.error(404, "BLOB_UNKNOWN", detail=digest)
        if request.method == "DELETE":
            repo.blobs.discard(digest)
            return Response(202)
        if self.cdn is not None and request.method == "GET":
            return Response(self.redirect_status, {"Location": self.cdn.location(digest)})
        headers = {"Content-Type": OCTETS}
        if self.digest_header:
            headers["Docker-Content-Digest"] = digest
        if self.etags:
            headers["ETag"] = f'"{digest}"'
        if self.ranges:
            headers["Accept-Ranges"] = "bytes"
        response = Response(200, headers, self.blobs[digest])
        return _ranged(request, response) if self.ranges and request.method == "GET" else response

    def _referrers(self, request, body, name, digest):
        if not self.referrers_api:
            return Response(404, {"Content-Type": "text/plain; charset=utf-8"}, b"404 page not found\n")
        repo = self.repos.get(name, Repo())
        found = list(repo.referrers.get(digest, []))
        for d, (media_type, data) in repo.manifests.items():
            try:
                doc = json.loads(data)
                if doc["subject"]["digest"] != digest:
                    continue
            except (ValueError, KeyError, TypeError):
                continue
            kind = doc.get("artifactType") or (doc.get("config") or {}).get("mediaType")
            entry = {"mediaType": media_type, "digest": d, "size": len(data)}
            if kind:
                entry["artifactType"] = kind
            if doc.get("annotations"):
                entry["annotations"] = doc["annotations"]
            found.append(entry)
        headers = {}
        wanted = urllib.parse.parse_qs(request.query).get("artifactType")
        if wanted:
            found = [f for f in found if f.get("artifactType") in wanted]
            headers["OCI-Filters-Applied"] = "artifactType"
        return Response.json({"schemaVersion": 2, "mediaType": INDEX, "manifests": found}, content_type=INDEX, **headers)

    # ---- uploads

    def _stored(self, name, data, digest):
        algorithm = digest.split(":")[0]
        if algorithm not in HASHES or digest_of(data, algorithm) != digest:
            return Response.error(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        self.add_blob(name, data, digest)
        return Response(201, {"Location": f"/v2/{name}/blobs/{digest}", "Docker-Content-Digest": digest})

    def _progress(self, name, session, status):
        done = len(self.uploads[session])
        headers = {"Location": f"/v2/{name}/blobs/uploads/{session}", "Range": f"0-{max(0, done - 1)}",
                   "Docker-Upload-UUID": session}
        if self.chunk_min:
            headers["OCI-Chunk-Min-Length"] = str(self.chunk_min)
        return Response(status, headers)

    def _upload_start(self, request, body, name):
        q = {k: v[0] for k, v in urllib.parse.parse_qs(request.query).items()}
        if name not in self.repos and not self.auto_create:
            return Response.error(404, "NAME_UNKNOWN", detail={"name": name})
        if request.method != "POST":
            return Response.error(405, "UNSUPPORTED")
        if "mount" in q and self.mounts and q["mount"] in self.repos.get(q.get("from", ""), Repo()).blobs:
            self.repo(name).blobs.add(q["mount"])
            return Response(201, {"Location": f"/v2/{name}/blobs/{q['mount']}", "Docker-Content-Digest": q["mount"]})
        if "digest" in q and self.single_post:
            return self._stored(name, body, q["digest"])
        session = secrets.token_hex(8)
        self.uploads[session] = bytearray()
        return self._progress(name, session, 202)

    def _upload(self, request, body, name, session):
        if session not in self.uploads:
            return Response.error(404, "BLOB_UPLOAD_UNKNOWN")
        data = self.uploads[session]
        if request.method == "GET":
            return self._progress(name, session, 204)
        if request.method == "DELETE":
            del self.uploads[session]
            return Response(204)
        m = re.fullmatch(r"(\d+)-(\d+)", request.headers.get("content-range", ""))
        if m and (int(m[1]) != len(data) or int(m[2]) - int(m[1]) + 1 != len(body)):
            return self._progress(name, session, 416)
        data += body
        if request.method == "PATCH":
            if self.chunk_min and len(body) < self.chunk_min:
                return Response.error(400, "BLOB_UPLOAD_INVALID", "Layer part is too small")
            return self._progress(name, session, 202)
        digest = urllib.parse.parse_qs(request.query).get("digest", [""])[0]
        response = self._stored(name, bytes(data), digest)
        if response.status == 201:
            del self.uploads[session]
        return response


def main():
    import argparse
    p = argparse.ArgumentParser(description="a container registry in memory, for hand tests")
    p.add_argument("--port", type=int, default=0)
    p.add_argument("--auth", choices=["basic", "bearer"], help="user 'user', password 'secret'")
    p.add_argument("--tls", metavar="DIR", help="https; the authority's files go there (DIR/ca.pem)")
    p.add_argument("--demo", action="store_true", help="with demo/app:1.0 (corner cases) and demo/many (1000 tags)")
    args = p.parse_args()
    from . import corner, images, tls
    reg = FakeRegistry(args.auth, tls.Authority(args.tls) if args.tls else None, args.port)
    if args.demo:
        reg.add("demo/app", corner.corner_case_image()[0], "1.0", "latest")
        small = images.Image([images.Layer([images.file("hello", b"hello\n")])])
        reg.add_tags("demo/many", reg.add("demo/many", small), (f"t{i:04}" for i in range(1000)))
    with reg:
        print(f"{reg.url}  (Ctrl-C ends)", flush=True)
        seen = 0
        try:
            while True:
                time.sleep(0.3)
                log = reg.requests()
                for r in log[seen:]:
                    print(r, flush=True)
                seen = len(log)
        except KeyboardInterrupt:
            pass


if __name__ == "__main__":
    main()
