"""The engine: pictures in, people out."""

from __future__ import annotations

import os
import threading
from collections import deque
from itertools import islice
from typing import Any, Iterable, Iterator, Optional, TypeVar, Union, overload

from . import _native
from ._checks import pair, whole
from ._errors import UsageError
from ._people import People

Path = Union[str, "os.PathLike[str]"]
T = TypeVar("T")


def _true(variable: str) -> bool:
    """Whether a variable of the environment is set to something that does not mean no; the program reads it so, too."""
    return os.environ.get(variable, "").lower() not in ("", "0", "f", "false", "n", "no", "off")


def _is_path(model: str) -> bool:
    """Whether a text is a path and no model's name: names have no slashes and no suffix."""
    return "/" in model or os.sep in model or model.startswith(".") or model.endswith((".pth", ".safetensors", ".onnx", ".zip"))


class Engine:
    """A network, prepared for a device: pictures in, people out.

    ``model`` is the name of a published model (see :func:`models`), of a file of your own in the folders where weights are
    looked for, or ``"rtmo-n-demo"``, a small demonstration model that is part of the package; or the path of a ``.pth``,
    ``.safetensors`` or ``.onnx`` file (the authors' ``end2end.onnx``, or the archive that it comes in). A published model that is not here is fetched once from the authors' server, into the user's cache
    folder, and a warning of the logger ``rtmo_engine`` says so. Without ``model`` it is the first published model that is
    here, else rtmo-s is fetched, else the demonstration model is taken, also with a warning.

    ``device`` is ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"cuda:1"``; ``precision`` is ``"fp32"``, ``"bf16"``, ``"bf16x3"`` or
    ``"fp16"`` (default: fp32 on a CPU, fp16 on a GPU). ``size`` is the network's input in pixels, one number or (width,
    height), multiples of 32: larger finds smaller people. ``threads`` is for CPUs; default: one a core.

    People below ``score_thr`` (0 to 1; default 0.1, the demonstration model's 0.5) are left out, and the lesser of two
    whose boxes overlap (IoU) by more than ``nms_thr`` (0.65); at most ``max_people`` remain. ``compat="rtmlib"`` follows
    rtmlib's conventions: its geometry, and thresholds of 0.7 and 0.45.

    ``offline=True`` forbids to fetch; the default is what the environment says: RTMO_OFFLINE, and RTMO_MIRROR and
    RTMO_ALLOW_HTTP for another server. RTMO_WEIGHTS names a folder or file of weights.

    **Threads.** An engine may be used by several threads. It is locked during a call; others wait. Python's lock is
    released meanwhile. **Forks.** In a process that was forked from the one that made it, an engine raises DeviceError: its
    threads are not there. **Arrays** must not be written to while they are computed.

    Raises MissingFileError, WeightsError, DownloadError, DeviceError or UsageError; all are :class:`Error`.
    """

    def __init__(
        self,
        model: Optional[Path] = None,
        *,
        device: str = "auto",
        precision: Optional[str] = None,
        size: Union[int, tuple[int, int], None] = None,
        threads: Optional[int] = None,
        score_thr: Optional[float] = None,
        nms_thr: Optional[float] = None,
        max_people: Optional[int] = None,
        compat: str = "mmpose",
        offline: Optional[bool] = None,
    ) -> None:
        if model is not None and not isinstance(model, (str, os.PathLike)):
            raise TypeError(f"model: expected a name or a path, got {type(model).__name__}")
        path = model is not None and not (isinstance(model, str) and not _is_path(model))
        request = {
            "model": None if path else model,
            "weights": model if path else None,
            "offline": _true("RTMO_OFFLINE") if offline is None else offline,
            "mirror": os.environ.get("RTMO_MIRROR") or None,
            "allow_http": _true("RTMO_ALLOW_HTTP"),
        }
        if size is not None:
            size = pair("size", size if isinstance(size, (tuple, list)) else (size, size))
        self._native = _native.Engine(
            request,
            device=device,
            precision=precision,
            size=size,
            threads=None if threads is None else whole("threads", threads),
            compat=compat,
            score_thr=score_thr,
            nms_thr=nms_thr,
            max_people=None if max_people is None else whole("max_people", max_people),
        )
        self._stream = threading.Lock()

    @overload
    def infer(
        self,
        images: Union[list[Any], tuple[Any, ...]],
        *,
        rgb: bool = False,
        score_thr: Optional[float] = None,
        nms_thr: Optional[float] = None,
    ) -> list[People]: ...

    @overload
    def infer(
        self,
        images: Any,
        *,
        rgb: bool = False,
        score_thr: Optional[float] = None,
        nms_thr: Optional[float] = None,
    ) -> People: ...

    def infer(
        self,
        images: Any,
        *,
        rgb: bool = False,
        score_thr: Optional[float] = None,
        nms_thr: Optional[float] = None,
    ) -> Union[People, list[People]]:
        """The people on one picture, or of each of a list or tuple of pictures.

        A picture is

        - a numpy array of uint8 and shape (height, width, 3) with blue, green, red, as OpenCV has it; red, green, blue with
          ``rgb=True``. Slices, crops and ``image[..., ::-1]`` are read in place; other layouts are copied once.
        - an array of another library in the computer's memory, by DLPack or ``__array__``, of the same dtype and shape.
        - such an array in the memory of the engine's GPU, by DLPack or ``__cuda_array_interface__``; its three channels side by
          side. It is not copied to the host, and the caller's stream is waited for. A list has all or none of them there.
        - a PIL image, whose own channel order is known. PIL does not turn photos upright: ``ImageOps.exif_transpose`` does.
        - the path of a JPEG, PNG, WebP, BMP, TIFF, GIF or PNM file, which is turned upright.

        Pictures may differ in size. On a GPU a list is one batch, which is faster than its pictures one by one. On a CPU one
        is computed after another, and Ctrl-C is heeded in between.

        ``score_thr`` and ``nms_thr`` replace the engine's for this call.

        Raises TypeError for what is no picture, UsageError (a ValueError) for another shape, MissingFileError, FileError or
        ImageError for files.
        """
        if isinstance(images, (list, tuple)):
            return [People(*found) for found in self._native.infer(list(images), rgb, score_thr, nms_thr)]
        return People(*self._native.infer([images], rgb, score_thr, nms_thr)[0])

    def stream(self, images: Iterable[T], *, batch: int = 1, rgb: bool = False) -> Iterator[tuple[T, People]]:
        """Pairs of each picture and its people, in order, as they are known: for frames of a video, or more pictures than
        memory holds.

        ``images`` is any iterable of pictures as :meth:`infer` takes them; ``batch`` of them are computed together. On a GPU
        the next batch is uploaded while one is computed, so that results come up to two batches late. Until the iteration has ended
        an engine on a GPU refuses other calls.

        A batch with a picture that cannot be used ends the iteration with its error.
        """
        return self._batches(images, whole("batch", batch, 1), rgb)

    def _batches(self, images: Iterable[T], batch: int, rgb: bool) -> Iterator[tuple[T, People]]:
        pictures = iter(images)
        chunks = iter(lambda: list(islice(pictures, batch)), [])
        native = self._native
        if native.queue_depth < 2:
            for chunk in chunks:
                yield from zip(chunk, self.infer(chunk, rgb=rgb))
            return
        if not self._stream.acquire(blocking=False):
            raise UsageError("another stream of this engine has not ended: iterate to its end, or close() it")
        waiting: deque[list[T]] = deque()
        try:
            for chunk in chunks:
                if native.in_gpu_memory(chunk):
                    while waiting:
                        yield from self._collect(waiting)
                    yield from zip(chunk, self.infer(chunk, rgb=rgb))
                    continue
                if len(waiting) == native.queue_depth:
                    yield from self._collect(waiting)
                try:
                    native.submit(chunk, rgb)
                except Exception:
                    # Those before it are known first, as on a CPU.
                    while waiting:
                        yield from self._collect(waiting)
                    raise
                waiting.append(chunk)
            while waiting:
                yield from self._collect(waiting)
        finally:
            native.discard()
            self._stream.release()

    def _collect(self, waiting: deque[list[T]]) -> Iterator[tuple[T, People]]:
        found = self._native.collect() or []
        return zip(waiting.popleft(), [People(*people) for people in found])

    @property
    def name(self) -> str:
        """``"rtmo-s"`` and the like, by the network's width, or ``"custom"`` with that width."""
        return self._native.name

    @property
    def weights(self) -> str:
        """The weights file."""
        return self._native.weights

    @property
    def input_size(self) -> tuple[int, int]:
        """Network input, width and height in pixels."""
        return self._native.input_size

    @property
    def keypoints(self) -> int:
        """K, the number of keypoints a person: 17 for COCO, 14 for CrowdPose."""
        return self._native.keypoints

    @property
    def keypoint_names(self) -> Optional[list[str]]:
        """Names of the keypoints in order; None if the model has neither 17 nor 14."""
        known = _native.skeleton(self.keypoints)
        return known[0] if known else None

    @property
    def bones(self) -> Optional[list[tuple[int, int]]]:
        """Pairs of keypoints that a drawing joins; None if the model has neither 17 nor 14."""
        known = _native.skeleton(self.keypoints)
        return known[1] if known else None

    @property
    def device(self) -> str:
        """``"cpu"`` or ``"cuda:0"`` and the like: what was chosen."""
        return self._native.device

    @property
    def precision(self) -> Optional[str]:
        """``"fp32"``, ``"bf16"``, ``"bf16x3"`` or ``"fp16"``: what was chosen."""
        return self._native.precision

    @property
    def threads(self) -> Optional[int]:
        """Threads on a CPU; None on a GPU."""
        return self._native.threads

    def __repr__(self) -> str:
        (w, h), native = self.input_size, self._native
        return f"Engine({native.name} {w}x{h}, {native.description}, {self.weights!r})"
