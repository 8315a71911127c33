"""Layers that are streamed: what several threads make of one is what one makes of it."""
import os
import random
import shutil

import pytest

from lib.images import Image, Layer, file, write_layout

MIB = 1 << 20


def half_random(seed, size):
    """Bytes that shrink to about a half."""
    rng = random.Random(seed)
    return b"".join(rng.randbytes(512) + bytes([rng.randrange(256)]) * 512 for _ in range(size // 1024))


@pytest.mark.parametrize("compress", ["gzip-multi", "zstd-multi"])
def test_a_layer_of_many_members_or_frames_is_inflated_by_several_threads(mount, tmp_path, compress):
    contents = {f"f{i}": half_random(i, 2 * MIB) for i in range(12)}
    layer = Layer([file(name, data) for name, data in contents.items()], compress=compress)
    write_layout(tmp_path / "site" / "app", {"1.0": Image([layer])})
    for attempt in range(10):       # on a busy machine one thread may be through before the others have begun
        cache = tmp_path / f"cache{attempt}"
        m = mount(f"dir:{tmp_path / 'site'}", options=f"cache={cache}")
        root = m.path / "app" / "1.0" / "rootfs"
        for name, data in contents.items():
            assert (root / name).read_bytes() == data
        stats = m.stats()
        m.umount()
        assert stats["layer_bytes_inflated"] == len(layer.tar)
        if stats["layer_bytes_ahead"] > 0 or len(os.sched_getaffinity(0)) == 1:
            break
    else:
        pytest.fail("one thread has done it all")

    # what was evicted is decoded again from a checkpoint that stands between two members or frames
    shutil.rmtree(cache / "span")
    m = mount(f"dir:{tmp_path / 'site'}", options=f"cache={cache}")
    root = m.path / "app" / "1.0" / "rootfs"
    for name, data in reversed(contents.items()):
        assert (root / name).read_bytes() == data
    stats = m.stats()
    assert stats["spans_refilled"] > 0 and stats["layers_indexed"] == 0
