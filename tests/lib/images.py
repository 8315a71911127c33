"""Images built without any other tool: layers from tar entries, manifests, indexes; written to a layout or pushed.

    image = Image([Layer([file("etc/motd", "hello\\n"), whiteout("usr/doc")]), Layer([...], compress="zstd")])
    Index([image, Image([...], platform="linux/arm64")])
    write_layout(path, {"1.0": image});  push(url, "app", "1.0", image)
"""
import base64
import hashlib
import http.client
import json
import os
import ssl
import tempfile
import urllib.parse
import zlib

from .tarwriter import (MTIME, Entry, Raw, block, char, compress, directory, encode, fifo, file, global_header,  # noqa: F401
                        hardlink, opaque, raw, sparse, symlink, tar_chunks, to_bytes, whiteout)

OCI = "application/vnd.oci.image."
DOCKER = "application/vnd.docker."
CONFIG = OCI + "config.v1+json"
MANIFEST = OCI + "manifest.v1+json"
INDEX = OCI + "index.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
LAYER_TYPES = {"none": "", "gzip": "+gzip", "gzip-multi": "+gzip", "gzip-named": "+gzip", "gzip-crc": "+gzip",
               "zstd": "+zstd", "zstd-multi": "+zstd"}
TITLE = "org.opencontainers.image.title"


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def descriptor(media_type, data, **more):
    return {"mediaType": media_type, "digest": sha256(data), "size": len(data), **more}


class Layer:
    """entries: tarwriter entries. compress: none, gzip, gzip-multi, gzip-named, gzip-crc, zstd, zstd-multi.

    `tar` are the uncompressed bytes, `blob` the compressed ones; append (garbage) and cut (bytes kept) spoil the blob,
    media_type may be a lie.
    """

    def __init__(self, entries=(), compress="gzip", media_type=None, annotations=None, end=b"\0" * 1024, append=b"",
                 cut=None, tar=None):
        self.entries = list(entries)
        self.tar = b"".join(tar_chunks(self.entries, end)) if tar is None else tar
        self._finish(_compress(self.tar, compress)[:cut] + append, sha256(self.tar), compress, media_type, annotations)

    def _finish(self, blob, diff_id, compress, media_type, annotations):
        self.blob, self.diff_id, self.digest = blob, diff_id, sha256(blob)
        self.media_type = media_type or OCI + "layer.v1.tar" + LAYER_TYPES[compress]
        self.annotations = annotations

    @classmethod
    def from_chunks(cls, chunks, media_type=None, annotations=None, level=1):
        """A layer too long to hold uncompressed: an iterable of bytes, gzipped as it comes. Has no .tar."""
        self, out = cls.__new__(cls), tempfile.SpooledTemporaryFile(64 << 20)
        z, h = zlib.compressobj(level, zlib.DEFLATED, 31), hashlib.sha256()
        for piece in chunks:
            h.update(piece)
            out.write(z.compress(piece))
        out.write(z.flush())
        out.seek(0)
        self.entries, self.tar = None, None
        self._finish(out.read(), "sha256:" + h.hexdigest(), "gzip", media_type, annotations)
        return self

    @classmethod
    def from_blob(cls, blob, diff_id, media_type, annotations=None):
        """Any bytes as a layer, with whatever diff id the test claims."""
        self = cls.__new__(cls)
        self.entries = self.tar = None
        self._finish(blob, diff_id, "none", media_type, annotations)
        return self

    def descriptor(self, docker=False):
        d = descriptor(self.media_type, self.blob)
        if docker:
            d["mediaType"] = DOCKER + "image.rootfs.diff.tar.gzip"
        if self.annotations:
            d["annotations"] = self.annotations
        return d


_compress = compress      # Layer's parameter has the same name


class _Document:
    """What images and indexes have in common: exact bytes, digest, descriptor."""

    children = ()

    def _seal(self, doc, media_type):
        self.document, self.media_type = doc, media_type
        self.manifest = json.dumps(doc, separators=(",", ":")).encode()
        self.digest, self.size = sha256(self.manifest), len(self.manifest)

    def descriptor(self, **more):
        d = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        if getattr(self, "platform", None):
            d["platform"] = self.platform
        if self.document.get("artifactType"):
            d["artifactType"] = self.document["artifactType"]
        return {**d, **more}

    def blobs(self):
        return []

    def walk(self):
        """This document and all below it, children first, each digest once."""
        seen = set()

        def go(doc):
            if doc.digest in seen:
                return
            for child in doc.children:
                if hasattr(child, "manifest"):
                    yield from go(child)
            seen.add(doc.digest)
            yield doc
        yield from go(self)


def _platform(text):
    if text is None or isinstance(text, dict):
        return text
    parts = text.split("/")
    return dict(zip(("os", "architecture", "variant"), parts))


class Image(_Document):
    """config: dict merged over the default, or bytes taken as they are. subject: Image, Index or descriptor."""

    def __init__(self, layers=(), config=None, annotations=None, subject=None, artifact_type=None,
                 platform="linux/amd64", config_media_type=CONFIG, docker=False, history=True):
        self.layers, self.platform = list(layers), _platform(platform)
        if isinstance(config, bytes):
            self.config = config
        else:
            doc = {"created": "2024-01-02T03:04:05Z", **(self.platform or {"os": "linux", "architecture": "amd64"}),
                   "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/usr/bin:/bin"]},
                   "rootfs": {"type": "layers", "diff_ids": [la.diff_id for la in self.layers]}}
            if history:
                doc["history"] = [{"created": "2024-01-02T03:04:05Z", "created_by": f"step {i}"} for i in range(len(self.layers))]
            self.config = json.dumps({**doc, **(config or {})}).encode()
        if docker:
            config_media_type = DOCKER + "container.image.v1+json"
        media_type = DOCKER + "distribution.manifest.v2+json" if docker else MANIFEST
        doc = {"schemaVersion": 2, "mediaType": media_type, "config": descriptor(config_media_type, self.config),
               "layers": [la.descriptor(docker) for la in self.layers]}
        if artifact_type:
            doc["artifactType"] = artifact_type
        if subject is not None:
            doc["subject"] = subject if isinstance(subject, dict) else \
                {k: v for k, v in subject.descriptor().items() if k in ("mediaType", "digest", "size")}
        if annotations:
            doc["annotations"] = annotations
        self._seal(doc, media_type)

    def blobs(self):
        return [(sha256(self.config), self.config)] + [(la.digest, la.blob) for la in self.layers]


def artifact(files, artifact_type, subject=None, annotations=None, media_type="application/octet-stream"):
    """A manifest whose layers are files under title annotations: {"sbom.json": b"..."}."""
    layers = [Layer.from_blob(to_bytes(data), None, media_type, {TITLE: name}) for name, data in files.items()]
    return Image(layers, b"{}", annotations, subject, artifact_type, None, EMPTY)


class Index(_Document):
    """manifests: Images, Indexes or plain descriptors; (image, {"annotations": ...}) adds to a descriptor."""

    def __init__(self, manifests=(), annotations=None, subject=None, artifact_type=None, docker=False):
        pairs = [m if isinstance(m, tuple) else (m, {}) for m in manifests]
        self.children = [m for m, _ in pairs]
        media_type = DOCKER + "distribution.manifest.list.v2+json" if docker else INDEX
        doc = {"schemaVersion": 2, "mediaType": media_type,
               "manifests": [{**(m if isinstance(m, dict) else m.descriptor()), **more} for m, more in pairs]}
        if artifact_type:
            doc["artifactType"] = artifact_type
        if subject is not None:
            doc["subject"] = subject if isinstance(subject, dict) else subject.descriptor()
        if annotations:
            doc["annotations"] = annotations
        self._seal(doc, media_type)


# ---- to disk and over the wire

def _write(path, data):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as f:
        f.write(data)


def write_layout(path, tagged, untagged=()):
    """An OCI image layout: tagged {"1.0": image, ...}."""
    path = str(path)
    entries = []
    for tag, image in [*tagged.items(), *((None, i) for i in untagged)]:
        for doc in image.walk():
            for digest, data in [*doc.blobs(), (doc.digest, doc.manifest)]:
                _write(os.path.join(path, "blobs", *digest.split(":")), data)
        note = {"annotations": {"org.opencontainers.image.ref.name": tag}} if tag else {}
        entries.append(image.descriptor(**note))
    _write(os.path.join(path, "oci-layout"), b'{"imageLayoutVersion":"1.0.0"}')
    _write(os.path.join(path, "index.json"), json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).encode())
    return path


class Client:
    """The few requests a push needs, over one connection. auth: (user, password) for Basic."""

    def __init__(self, url, auth=None, cafile=None):
        u = urllib.parse.urlsplit(url)
        if u.scheme == "https":
            self.conn = http.client.HTTPSConnection(u.netloc, timeout=60, context=ssl.create_default_context(cafile=cafile))
        else:
            self.conn = http.client.HTTPConnection(u.netloc, timeout=60)
        self.headers = {}
        if auth:
            self.headers["Authorization"] = "Basic " + base64.b64encode(":".join(auth).encode()).decode()

    def request(self, method, target, body=None, headers=None, ok=None):
        """(status, headers, body); raises unless the status is in `ok` (when given)."""
        if target.startswith("http"):
            target = urllib.parse.urlsplit(target)._replace(scheme="", netloc="").geturl()
        self.conn.request(method, target, body, {**self.headers, **(headers or {})})
        r = self.conn.getresponse()
        data = r.read()
        if ok and r.status not in ok:
            raise RuntimeError(f"{method} {target}: {r.status} {data[:300]!r}")
        return r.status, r.headers, data

    def push_blob(self, repo, digest, data):
        if self.request("HEAD", f"/v2/{repo}/blobs/{digest}")[0] == 200:
            return
        _, h, _ = self.request("POST", f"/v2/{repo}/blobs/uploads/", b"", ok=(202,))
        where = h["Location"] + ("&" if "?" in h["Location"] else "?") + urllib.parse.urlencode({"digest": digest})
        self.request("PUT", where, data, {"Content-Type": "application/octet-stream"}, ok=(201, 204))

    def push(self, repo, image, *tags):
        for doc in image.walk():
            for digest, data in doc.blobs():
                self.push_blob(repo, digest, data)
            for ref in (tags if doc is image and tags else (doc.digest,)):
                self.request("PUT", f"/v2/{repo}/manifests/{ref}", doc.manifest, {"Content-Type": doc.media_type}, ok=(201,))
        return image.digest


def push(url, repo, tag, image, auth=None, cafile=None):
    """Pushes to a registry over HTTP; returns the digest."""
    return Client(url, auth, cafile).push(repo, image, *([tag] if tag else []))


def fill_storage(root, repos):
    """Writes images straight into a docker-registry or distribution storage directory: quick for thousands.

    repos: {"team/app": {"1.0": image, ...}}. The server may be running; it keeps no list of its own.
    """
    base = os.path.join(str(root), "docker", "registry", "v2")
    done = set()

    def blob(digest, data):
        if digest not in done:
            done.add(digest)
            hexa = digest.split(":")[1]
            _write(os.path.join(base, "blobs", "sha256", hexa[:2], hexa, "data"), data)

    for name, tags in repos.items():
        here, linked = os.path.join(base, "repositories", name), set()
        for tag, image in tags.items():
            for doc in image.walk():
                if doc.digest in linked:
                    continue
                linked.add(doc.digest)
                blob(doc.digest, doc.manifest)
                _write(f"{here}/_manifests/revisions/sha256/{doc.digest.split(':')[1]}/link", doc.digest.encode())
                for digest, data in doc.blobs():
                    blob(digest, data)
                    _write(f"{here}/_layers/sha256/{digest.split(':')[1]}/link", digest.encode())
            link = image.digest.encode()
            _write(f"{here}/_manifests/tags/{tag}/current/link", link)
            _write(f"{here}/_manifests/tags/{tag}/index/sha256/{image.digest.split(':')[1]}/link", link)
