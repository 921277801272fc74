"""Arrays of other libraries: objects that speak DLPack, made by hand, so that every form of the protocol can be had."""

import ctypes
import gc

import numpy as np
import pytest

import rtmo_engine

CPU, CUDA, CUDA_HOST = 1, 2, 3
UINT8, FLOAT32 = (1, 8, 1), (2, 32, 1)


class Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32 * 2),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Managed(ctypes.Structure):
    _fields_ = [("tensor", Tensor), ("context", ctypes.c_void_p), ("deleter", DELETER)]


class Versioned(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", DELETER),
        ("flags", ctypes.c_uint64),
        ("tensor", Tensor),
    ]


new_capsule = ctypes.pythonapi.PyCapsule_New
new_capsule.restype = ctypes.py_object
new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
capsule_name = ctypes.pythonapi.PyCapsule_GetName
capsule_name.restype = ctypes.c_char_p
capsule_name.argtypes = [ctypes.py_object]


class Foreign:
    """An array of a library that knows DLPack and nothing else. It counts capsules and calls of deleters."""

    def __init__(self, array, device=(CPU, 0), dtype=UINT8, version=None, strides=True, data=None, offset=0, shape=None):
        self.array, self.device, self.dtype, self.version, self.with_strides = array, device, dtype, version, strides
        self.data = array.ctypes.data if data is None else data
        self.offset = offset
        self.shape = array.shape if shape is None else shape
        self.deleted = 0
        self.capsules = []
        self.asked = []

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, **options):
        self.asked.append(options)
        if self.version is None and options:
            raise TypeError("an older library, which knows no max_version")
        shape = self.shape
        self.sides = (ctypes.c_int64 * len(shape))(*shape)
        item = max(1, self.array.itemsize)
        self.steps = (ctypes.c_int64 * len(shape))(*(s // item for s in self.array.strides[: len(shape)]))

        def count(_):
            self.deleted += 1

        self.deleter = DELETER(count)
        tensor = Tensor(
            self.data, self.device, len(shape), *self.dtype, self.sides, self.steps if self.with_strides else None, self.offset
        )
        if self.version is None:
            self.managed = Managed(tensor, None, self.deleter)
        else:
            self.managed = Versioned(*self.version, None, self.deleter, 1, tensor)
        name = b"dltensor" if self.version is None else b"dltensor_versioned"
        self.capsules.append(new_capsule(ctypes.addressof(self.managed), name, None))
        return self.capsules[-1]


def taken_once(image):
    """Whether its capsule was marked as used and its deleter called, each once."""
    names = {capsule_name(capsule) for capsule in image.capsules}
    return image.deleted == 1 and len(image.capsules) == 1 and names <= {b"used_dltensor", b"used_dltensor_versioned"}


def same(a, b):
    return np.array_equal(a.keypoints, b.keypoints) and np.array_equal(a.scores, b.scores)


@pytest.mark.parametrize("version", [None, (1, 0), (1, 9)])
@pytest.mark.parametrize("device", [(CPU, 0), (CUDA_HOST, 0)])
def test_arrays_in_the_computers_memory_are_pictures(quick, picture, version, device):
    expected = quick.infer(picture)
    image = Foreign(picture, version=version, device=device)
    assert same(quick.infer(image), expected) and taken_once(image)
    assert image.asked[0] == {"max_version": (1, 1)}
    plain = Foreign(picture, version=version, strides=False)
    assert same(quick.infer(plain), expected) and taken_once(plain)


def test_any_strides(quick, picture):
    wide = np.zeros((picture.shape[0], picture.shape[1] + 7, 3), np.uint8)
    wide[:, 2:-5] = picture
    for view in (wide[:, 2:-5], picture[::-1], picture[..., ::-1], picture[:, ::-1], picture[::2, ::3]):
        image = Foreign(view)
        assert same(quick.infer(image), quick.infer(np.ascontiguousarray(view))) and taken_once(image)
        assert same(quick.infer(Foreign(view), rgb=True), quick.infer(view, rgb=True))
    planes = np.ascontiguousarray(picture.transpose(2, 0, 1)).transpose(1, 2, 0)
    assert same(quick.infer(Foreign(planes)), quick.infer(picture))
    moved = Foreign(picture[5:], data=picture.ctypes.data, offset=5 * picture.strides[0])
    assert same(quick.infer(moved), quick.infer(picture[5:]))


def test_pixels_are_not_copied(quick, picture):
    """A picture of more bytes than there are: all rows are the same one, so that a copy would not fit."""
    row = np.ascontiguousarray(picture[:1])
    endless = np.lib.stride_tricks.as_strided(row, (1 << 20, 1 << 20, 3), (0, 0, 1))
    for image in (Foreign(endless), endless):
        with pytest.raises(rtmo_engine.UsageError, match="3298534883328 bytes of pixels: there is no memory for a copy"):
            quick.infer(image)


@pytest.mark.parametrize("version", [None, (1, 0)])
@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"dtype": FLOAT32}, TypeError, "expected an array of uint8, got float32; values"),
        ({"dtype": (0, 8, 1)}, TypeError, "got int8"),
        ({"dtype": (1, 8, 3)}, TypeError, "got 3 uint8"),
        ({"dtype": (77, 8, 1)}, TypeError, "got an element of DLPack's type 77"),
        ({"shape": (4, 4)}, ValueError, r"expected shape \(height, width, 3\), got \(4, 4\)"),
        ({"shape": ()}, ValueError, r"got \(\)"),
        ({"shape": (0, 4, 3)}, ValueError, "4x0 pixels"),
        ({"shape": (-4, 4, 3)}, BufferError, "negative side"),
        ({"shape": (4, 1 << 40, 3)}, ValueError, "1099511627776x4 pixels: expected 1 to 1048576"),
        ({"data": 0}, BufferError, "without data"),
    ],
)
def test_what_is_no_picture_is_given_back(quick, version, changes, error, text):
    image = Foreign(np.zeros((4, 4, 3), np.uint8), version=version, **changes)
    with pytest.raises(error, match=text):
        quick.infer(image)
    assert taken_once(image)
    with pytest.raises(error, match=r"images\[1\] of 2: image"):
        quick.infer([np.zeros((4, 4, 3), np.uint8), image])


def test_an_error_of_another_picture_gives_all_back(quick, picture):
    image = Foreign(picture)
    with pytest.raises(TypeError, match=r"images\[1\] of 2"):
        quick.infer([image, None])
    assert taken_once(image)
    image = Foreign(picture)
    with pytest.raises(FileNotFoundError):
        quick.infer([image, "no/such.jpg"])
    assert taken_once(image)


def test_a_version_to_come_is_given_back_unread(quick, picture):
    image = Foreign(picture, version=(2, 0))
    with pytest.raises(BufferError, match="version 2.0: expected 1.x"):
        quick.infer(image)
    assert taken_once(image)


def test_a_capsule_is_used_once(quick, picture):
    image = Foreign(picture)
    first = image.__dlpack__()
    image.__class__ = type("Stale", (Foreign,), {"__dlpack__": lambda self, **_: first})
    quick.infer(image)
    with pytest.raises(BufferError, match="got one that was used before"):
        quick.infer(image)
    assert image.deleted == 1
    image.__class__ = type("Wrong", (Foreign,), {"__dlpack__": lambda self, **_: 7})
    with pytest.raises(BufferError, match="expected a capsule of DLPack's, got int"):
        quick.infer(image)


def test_a_library_that_declines_is_asked_for_a_copy(quick, picture):
    class Declines(Foreign):
        def __dlpack__(self, **_):
            raise BufferError("not this one")

    with pytest.raises(BufferError, match="not this one"):
        quick.infer(Declines(picture))
    Declines.__array__ = lambda self, dtype=None, copy=None: self.array
    assert same(quick.infer(Declines(picture)), quick.infer(picture))


def test_a_stream_and_threads_give_all_back(quick, picture):
    images = [Foreign(picture[: 100 + i]) for i in range(5)]
    for image, (given, people) in zip(images, quick.stream(iter(images), batch=2)):
        assert given is image and same(people, quick.infer(image.array))
    assert all(map(taken_once, images))
    gc.collect()
    assert all(image.deleted == 1 for image in images)


def test_a_cpu_refuses_images_in_gpu_memory_by_name(quick):
    class Interface:
        __cuda_array_interface__ = {"shape": (4, 4, 3), "typestr": "|u1", "data": (4096, False), "version": 3}

    refused = "expected an array in the computer's memory, where this is computed; copy it there"
    for infer in (quick.infer, lambda image: list(quick.stream([image]))):
        with pytest.raises(TypeError, match=r"in the memory of a GPU \(CUDA\): " + refused):
            infer(Interface())
    with pytest.raises(TypeError, match=refused):
        quick.infer(np.zeros((4, 4, 3), np.uint8)).plot(Interface())
    for device, name in [((CUDA, 1), r"GPU 1 \(CUDA\)"), ((8, 0), r"GPU 0 \(Metal\)"), ((99, 5), "DLPack's type 99, number 5")]:
        image = Foreign(np.zeros((4, 4, 3), np.uint8), device=device)
        with pytest.raises(TypeError, match=f"in the memory of .*{name}: " + refused):
            quick.infer(image)
        assert not image.capsules, "nothing is asked for that would have to be given back"
    # One that says something else of its capsule than of itself.
    image = Foreign(np.zeros((4, 4, 3), np.uint8), device=(CUDA, 0))
    type(image).__dlpack_device__, honest = (lambda self: (CPU, 0)), type(image).__dlpack_device__
    try:
        with pytest.raises(TypeError, match="got one in that of GPU 0"):
            quick.infer(image)
    finally:
        Foreign.__dlpack_device__ = honest
    assert taken_once(image)


class Interface:
    """An array of a library that knows __cuda_array_interface__ and nothing else."""

    def __init__(self, **fields):
        self.__cuda_array_interface__ = {"shape": (6, 4, 3), "typestr": "|u1", "data": (4096, False), "version": 3, **fields}


def on_gpu(image, rgb=False):
    """What an engine on GPU 1 makes of an array; its stream has the handle 77."""
    return rtmo_engine._native.device_image(image, rgb, 1, 77)


def described(address=4096, width=4, height=6, stride=12, order="Bgr", stream="Ready"):
    return (
        f"DeviceImage {{ address: {address}, width: {width}, height: {height}, stride: {stride}, order: {order}, stream: {stream} }}"
    )


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {}),
        ({"version": 2}, {}),
        ({"strides": None, "stream": None, "mask": None}, {}),
        ({"strides": (20, 3, 1)}, {"stride": 20}),
        # Channels that run backwards: the first byte of a pixel is two before the first value.
        ({"strides": (20, 3, -1), "data": (4098, True)}, {"stride": 20, "order": "Rgb"}),
        ({"shape": (1, 4, 3), "strides": (5, 3, 1)}, {"height": 1}),
        ({"stream": 1}, {"stream": "Legacy"}),
        ({"stream": 2}, {"stream": "PerThread"}),
        ({"stream": 0x7F00_0000_1000}, {"stream": "Handle(139637976731648)"}),
    ],
)
def test_cuda_array_interface(fields, expected):
    assert on_gpu(Interface(**fields)) == described(**expected)
    swapped = {**expected, "order": "Bgr" if expected.get("order") == "Rgb" else "Rgb"}
    assert on_gpu(Interface(**fields), rgb=True) == described(**swapped)


@pytest.mark.parametrize(
    ("fields", "error", "text"),
    [
        ({"stream": 0}, TypeError, "'stream': expected None, 1, 2 or a stream's handle"),
        ({"stream": "x"}, TypeError, "'stream': expected"),
        ({"mask": Foreign}, TypeError, "'mask': expected None"),
        ({"data": None}, TypeError, "'data' is missing"),
        ({"data": 4096}, TypeError, "'data': expected an address and a truth value"),
        ({"data": (0, False)}, ValueError, "expected an address, got 0"),
        ({"data": (-1, False)}, TypeError, "'data': expected"),
        ({"shape": 4}, TypeError, "'shape': expected"),
        ({"strides": (3, 1)}, TypeError, "2 strides for 3 sides"),
        ({"strides": (1, 4, 24)}, ValueError, "got distances of 1, 4 and 24 bytes.*not rearranged"),
        ({"strides": (-12, 3, 1)}, ValueError, "not rearranged"),
        ({"typestr": "<f4"}, TypeError, "expected an array of uint8, got float32; values"),
        ({"shape": (3, 6, 5)}, ValueError, r"got \(3, 6, 5\); image.transpose"),
        ({"shape": (0, 4, 3)}, ValueError, "4x0 pixels"),
        ({"shape": (2, 1 << 30, 3)}, ValueError, "pixels: expected 1 to 1048576"),
    ],
)
def test_cuda_array_interface_that_is_no_picture(fields, error, text):
    with pytest.raises(error, match=text):
        on_gpu(Interface(**fields))


@pytest.mark.parametrize("version", [None, (1, 0)])
@pytest.mark.parametrize("kind", [CUDA, 13])
def test_dlpack_of_a_gpu(picture, version, kind):
    """The owner is told the engine's stream, and makes it wait."""

    class Owner(Foreign):
        def __dlpack__(self, *, stream, **options):
            capsule = super().__dlpack__(**options)
            self.asked[-1] = {"stream": stream, **options}
            return capsule

    image = Owner(picture[:6, :4], device=(kind, 1), version=version)
    expected = described(picture.ctypes.data, 4, 6, picture.strides[0])
    assert on_gpu(image) == expected and taken_once(image)
    assert image.asked[-1]["stream"] == 77
    with pytest.raises(TypeError, match=r"of GPU 2 \(CUDA.*\): expected an array in the memory of GPU 1 \(CUDA\), where this engine is"):
        on_gpu(Owner(picture, device=(kind, 2), version=version))
    # One whose capsule is of another place than it says.
    image = Owner(picture, device=(kind, 1), version=version)
    image.__class__ = type("Liar", (Owner,), {"__dlpack_device__": lambda self: (CUDA, 1)})
    image.device = (CPU, 0)
    with pytest.raises(TypeError, match="expected an array in the memory of GPU 1, got one in that of"):
        on_gpu(image)
    assert taken_once(image)


def test_torch(quick, picture):
    torch = pytest.importorskip("torch")
    tensor = torch.from_numpy(picture)
    assert same(quick.infer(tensor), quick.infer(picture))
    assert same(quick.infer(tensor.flip(1)), quick.infer(picture[:, ::-1]))
