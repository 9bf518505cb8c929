import pickle

import pyarrow as pa

from baal_ray.image_set import ImageSet

IMAGES = pa.array([b"one", b"two", b"four", b"", None], pa.binary())


def test_an_image_is_in_the_set_if_its_bytes_are():
    known = ImageSet([IMAGES, pa.chunked_array([[b"eleven", b"one"]], pa.binary())])
    assert len(known) == 4
    asked = [b"two", b"six", b"one!", b"four", b"eleven", b"ONE"]  # some only as long
    for kind in (pa.binary(), pa.large_binary()):
        for images in (pa.array(asked, kind), pa.chunked_array([asked[:2], asked[2:]], kind)):
            assert known.contains(images).tolist() == [True, False, False, True, True, False]
    assert pickle.loads(pickle.dumps(known)).contains(IMAGES).tolist() == [True] * 3 + [False] * 2


def test_an_image_without_bytes_is_in_no_set():
    nothing = pa.array([b"", None], pa.binary())
    assert len(ImageSet([nothing])) == 0
    assert not ImageSet([nothing, IMAGES]).contains(nothing).any()
    assert not ImageSet([]).contains(IMAGES).any()
    assert ImageSet([IMAGES]).contains(pa.array([], pa.binary())).tolist() == []
