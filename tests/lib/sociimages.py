"""Images with SOCI indexes; the zTOCs, and where it says so the manifests, by the SOCI snapshotter's own library.

    image, index = soci_image([layer, ...], "v2", span=200_000)      # two documents, to be pushed into one repository
    add_soci(fakereg, "app", [layer, ...], "v1")                     # both, under the tag 1.0
    layout = indexed_layout(benchmark_image / "oci", "v2")           # kept between runs
"""
import fcntl
import json
import pathlib
import shutil
import struct
import subprocess
import tempfile

from . import servers
from .images import Image, Layer

TOOL = servers.CACHE / "bin" / "socitool"
TYPES = {"v1": "application/vnd.amazon.soci.index.v1+json", "v2": "application/vnd.amazon.soci.index.v2+json"}
INDEX_DIGEST = "com.amazon.soci.index-digest"
LAYER_DIGEST = "com.amazon.soci.image-layer-digest"


def run(*args):
    p = subprocess.run([TOOL, *map(str, args)], capture_output=True, text=True)
    if p.returncode:
        raise ValueError(p.stderr)
    return json.loads(p.stdout)


def ztoc_of(layer, span=4 << 20):
    with tempfile.TemporaryDirectory(prefix="socitool-") as tmp:
        blob, out = pathlib.Path(tmp, "blob"), pathlib.Path(tmp, "ztoc")
        blob.write_bytes(layer.blob)
        run("ztoc", f"-span={span}", *([] if layer.media_type.endswith("gzip") else ["-plain"]), blob, out)
        return out.read_bytes()


def index_layer(layer, ztoc):
    return Layer.from_blob(ztoc, None, "application/octet-stream",
                           {LAYER_DIGEST: layer.digest, "com.amazon.soci.image-layer-mediaType": layer.media_type})


def soci_index(layers, version, ztocs, subject=None):
    """The index manifest. ztocs: by layer number; a layer without one is left out."""
    return Image([index_layer(layers[i], z) for i, z in sorted(ztocs.items())], b"{}", platform=None,
                 config_media_type=TYPES[version], subject=subject)


def soci_image(layers, version, span=4 << 20, ztocs=None):
    """(image, index)."""
    if ztocs is None:
        ztocs = {i: ztoc_of(la, span) for i, la in enumerate(layers)}
    if version == "v1":
        image = Image(layers)
        return image, soci_index(layers, version, ztocs, image)
    index = soci_index(layers, version, ztocs)
    return Image(layers, annotations={INDEX_DIGEST: index.digest}), index


def add_soci(reg, repo, layers, version, tag="1.0", **options):
    image, index = soci_image(layers, version, **options)
    reg.add(repo, index)
    reg.add(repo, image, tag)
    return image, index


def indexed_layout(layout, version, **options):
    """A copy of the layout whose image 1.0 has an index, both made by the library."""
    base = servers.CACHE / "toc-images"
    base.mkdir(parents=True, exist_ok=True)
    doc = json.loads((layout / "index.json").read_text())
    digest = doc["manifests"][0]["digest"]
    name = digest.split(":")[1][:16] + "-soci-" + version + "".join(f"-{k}{v}" for k, v in sorted(options.items()))
    with open(base / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (base / name).exists():
            shutil.rmtree(base / ".new", ignore_errors=True)
            shutil.copytree(layout, base / ".new")
            made = run(version, *(f"-{k}={v}" for k, v in options.items()), base / ".new", digest)
            note = {"org.opencontainers.image.ref.name": "1.0"}
            top = {**{k: made[k] for k in ("mediaType", "digest", "size")}, "annotations": note} if version == "v2" else \
                {**doc["manifests"][0], "annotations": note}
            others = [] if version == "v2" else [{**{k: made[k] for k in ("mediaType", "digest", "size")}, "artifactType": TYPES["v1"]}]
            (base / ".new" / "index.json").write_text(json.dumps({**doc, "manifests": [top, *others]}))
            (base / ".new").rename(base / name)
    return base / name


# ---- changing a zTOC: just enough of a FlatBuffer

def _table(z, at):
    slots = at - struct.unpack_from("<i", z, at)[0]
    n = (struct.unpack_from("<H", z, slots)[0] - 4) // 2
    return {i: at + off for i, off in enumerate(struct.unpack_from(f"<{n}H", z, slots + 4)) if off}


def _follow(z, at):
    return at + struct.unpack_from("<I", z, at)[0]


class Ztoc(bytearray):
    """Fields can be overwritten in place, with values of the same length."""

    def root(self):
        return _table(self, _follow(self, 0))

    def files(self):
        vector = _follow(self, _table(self, _follow(self, self.root()[4]))[0])
        n = struct.unpack_from("<I", self, vector)[0]
        return [_table(self, _follow(self, vector + 4 + 4 * i)) for i in range(n)]

    def text(self, at):
        at = _follow(self, at)
        return bytes(self[at + 4:at + 4 + struct.unpack_from("<I", self, at)[0]])

    def set_text(self, at, value):
        assert len(value) == len(self.text(at))
        at = _follow(self, at)
        self[at + 4:at + 4 + len(value)] = value

    def file(self, name):
        return next(f for f in self.files() if self.text(f[0]) == name.encode())

    def number(self, at):
        return struct.unpack_from("<q", self, at)[0]

    def set_number(self, at, value):
        struct.pack_into("<q", self, at, value)

    def points(self):
        """Where the blob of checkpoints begins."""
        return _follow(self, _table(self, _follow(self, self.root()[5]))[3]) + 4

    def digests(self):
        vector = _follow(self, _table(self, _follow(self, self.root()[5]))[2])
        return [vector + 4 + 4 * i for i in range(struct.unpack_from("<I", self, vector)[0])]
