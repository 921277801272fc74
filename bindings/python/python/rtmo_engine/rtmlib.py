"""RTMO, Body, Custom and PoseTracker as the package rtmlib 0.0.16 has them, computed by rtmo-engine.

    from rtmo_engine.rtmlib import Body        # in place of: from rtmlib import Body

Arguments and results are rtmlib's: images with blue, green, red; keypoints of shape (N, K, 2) in pixels and their scores (N, K),
as float32. Where no person is found, both have one person of zeros; ``empty_as_zeros=False`` gives arrays of length 0.

Programs that import rtmlib themselves, such as Sports2D and Pose2Sim, get these classes by :func:`install`.

What differs:

- There is only RTMO. A detector or another pose model is refused (UsageError). ``Body()`` without ``pose``, which is two
  networks in rtmlib, is RTMO here.
- The addresses of the authors' ONNX archives stand for the same models' ``.pth`` files: one that is here; else what rtmlib has
  kept in its own cache; else the file is fetched, as by :class:`rtmo_engine.Engine`. Their archives and ``end2end.onnx`` files are
  read, too: as weights, nothing in them is run.
- ``backend`` is not looked at. ``device`` may also be ``"auto"``; ``"mps"`` and ``"rocm"`` compute on the CPU, with a warning of the
  logger ``rtmo_engine``.
- PoseTracker has ids, ``track_ids``, and leaves people in the order of their scores.
"""

from __future__ import annotations

import functools
import logging
import os
from typing import Any, Callable, Optional, Union

import numpy as np
import numpy.typing as npt

from ._engine import Engine
from ._errors import UsageError
from ._people import Floats, People
from ._track import Tracker
from ._weights import models

__all__ = ["RTMO", "Body", "Custom", "PoseTracker", "convert_coco_to_openpose", "install"]

# The order of OpenPose's 18 keypoints in COCO's 17 and the neck: nose, neck, right arm, left arm, right leg, left leg, eyes, ears.
_OPENPOSE = [0, 17, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3]
_SHOULDERS = [5, 6]


def convert_coco_to_openpose(keypoints: Floats, scores: Floats) -> tuple[Floats, Floats]:
    """COCO's 17 keypoints, (N, 17, 2) and (N, 17), as OpenPose's 18. The neck is halfway between the shoulders, and its score
    is the lower one of theirs."""
    if keypoints.shape[1] != 17:
        raise UsageError(f"to_openpose: expected 17 keypoints, got {keypoints.shape[1]}")
    neck = keypoints[:, _SHOULDERS].mean(axis=1, keepdims=True)
    neck_score = scores[:, _SHOULDERS].min(axis=1, keepdims=True)
    with_neck = np.concatenate([keypoints, neck], axis=1)
    scores_with_neck = np.concatenate([scores, neck_score], axis=1)
    return with_neck[:, _OPENPOSE], scores_with_neck[:, _OPENPOSE]


def install() -> None:
    """Puts RTMO, Body, Custom and PoseTracker into the installed package rtmlib, for programs that import them from there. Call it
    before such a program is imported. What else rtmlib has stays."""
    import rtmlib  # type: ignore[import-not-found, import-untyped, unused-ignore]

    for name in ("RTMO", "Body", "Custom", "PoseTracker"):
        setattr(rtmlib, name, globals()[name])


def _rtmlib_cache() -> str:
    """Where rtmlib keeps what it has fetched: ONNX files by the names of their archives."""
    cache = os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "rtmlib")
    return os.path.join(os.path.expanduser(os.environ.get("TORCH_HOME", cache)), "hub", "checkpoints")


def _checkpoint(model: Union[str, "os.PathLike[str]"]) -> Union[str, "os.PathLike[str]"]:
    """What Engine takes for what rtmlib calls ``onnx_model``."""
    text = os.fspath(model)
    name = text.replace(os.sep, "/").rsplit("/", 1)[-1]
    stem = os.path.splitext(name)[0]
    if text.startswith(("http://", "https://")):
        for published in models():
            if os.path.splitext(published.url.rsplit("/", 1)[-1])[0] == stem:
                kept = os.path.join(_rtmlib_cache(), stem + ".onnx")
                return kept if published.path is None and os.path.isfile(kept) else published.name
        raise UsageError(f"{text!r}: no published RTMO model has this address; rtmo_engine.models() lists them")
    return model


class RTMO:
    """One RTMO network. ``onnx_model`` is the address of one of the authors' ONNX archives, a model's name such as
    ``"rtmo-s"``, or a ``.onnx``, ``.zip``, ``.pth`` or ``.safetensors`` file. ``model_input_size`` is (height, width), as in rtmlib; ``None``: the
    model's own. ``mean`` and ``std`` must be None: RTMO has none.

    Further arguments of :class:`rtmo_engine.Engine` may follow by name, such as ``precision`` and ``threads``.
    """

    def __init__(
        self,
        onnx_model: Union[str, "os.PathLike[str]"],
        model_input_size: Optional[tuple[int, int]] = (640, 640),
        mean: Optional[tuple[float, ...]] = None,
        std: Optional[tuple[float, ...]] = None,
        nms_thr: float = 0.45,
        score_thr: float = 0.7,
        to_openpose: bool = False,
        backend: str = "onnxruntime",
        device: str = "cpu",
        *,
        empty_as_zeros: bool = True,
        **engine: Any,
    ) -> None:
        if mean is not None or std is not None:
            raise UsageError("RTMO: mean and std: expected None, since RTMO takes pixels as they are")
        self.onnx_model = onnx_model
        self.model_input_size = model_input_size
        self.nms_thr = nms_thr
        self.score_thr = score_thr
        self.to_openpose = to_openpose
        self.backend = backend
        self.device = device
        self.empty_as_zeros = empty_as_zeros
        if device in ("mps", "rocm"):
            logging.getLogger("rtmo_engine").warning("device %r: not supported: computing on the CPU", device)
            device = "cpu"
        size = None if model_input_size is None else (model_input_size[1], model_input_size[0])
        self.engine = Engine(_checkpoint(onnx_model), device=device, size=size, compat="rtmlib", **engine)
        if to_openpose and self.engine.keypoints != 17:
            raise UsageError(f"to_openpose: expected a model of 17 keypoints, got {self.engine.keypoints}")

    def people(self, image: Any, nms_thr: Optional[float] = None, score_thr: Optional[float] = None) -> People:
        """The people, with scores and boxes; none where no person is found. Keypoints are COCO's."""
        nms_thr = self.nms_thr if nms_thr is None else nms_thr
        score_thr = self.score_thr if score_thr is None else score_thr
        found: People = self.engine.infer(image, score_thr=score_thr, nms_thr=nms_thr)
        return found

    def arrays(self, people: People) -> tuple[Floats, Floats]:
        """Keypoints (N, K, 2) and scores (N, K) in this model's form."""
        keypoints, scores = people.keypoints, people.keypoint_scores
        if not len(people) and self.empty_as_zeros:
            k = self.engine.keypoints
            keypoints, scores = np.zeros((1, k, 2), np.float32), np.zeros((1, k), np.float32)
        return convert_coco_to_openpose(keypoints, scores) if self.to_openpose else (keypoints, scores)

    def __call__(
        self, image: npt.NDArray[np.uint8], nms_thr: Optional[float] = None, score_thr: Optional[float] = None
    ) -> tuple[Floats, Floats]:
        """Keypoints (N, K, 2) in pixels and their scores (N, K) of the people on an image of blue, green, red."""
        return self.arrays(self.people(image, nms_thr, score_thr))


class Body:
    """RTMO by ``mode``: ``"lightweight"`` is rtmo-s, ``"balanced"`` rtmo-m, ``"performance"`` rtmo-l, all trained on body7.

    As in rtmlib, ``pose`` only has to name an RTMO, and ``mode`` decides; the input sizes and ``det`` are not looked at then.
    """

    RTMO_MODE = {"performance": "rtmo-l", "lightweight": "rtmo-s", "balanced": "rtmo-m"}

    def __init__(
        self,
        det: Optional[str] = None,
        det_input_size: tuple[int, int] = (640, 640),
        pose: Optional[str] = None,
        pose_input_size: tuple[int, int] = (288, 384),
        mode: str = "balanced",
        to_openpose: bool = False,
        backend: str = "onnxruntime",
        device: str = "cpu",
        **options: Any,
    ) -> None:
        if pose is not None and "rtmo" not in pose:
            raise UsageError(f"Body: pose {pose!r}: there is only RTMO here; expected an address or a name with 'rtmo' in it")
        if pose is None and det is not None:
            raise UsageError("Body: det: RTMO needs no detector; leave it out")
        if mode not in self.RTMO_MODE:
            raise UsageError(f"Body: mode {mode!r}: expected {', '.join(self.RTMO_MODE)}")
        self.one_stage = True
        self.pose_model = RTMO(
            self.RTMO_MODE[mode], (640, 640), to_openpose=to_openpose, backend=backend, device=device, **options
        )

    def __call__(self, image: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """Keypoints (N, K, 2) in pixels and their scores (N, K)."""
        return self.pose_model(image)


class Custom:
    """The RTMO that ``pose`` names, with ``pose_class="RTMO"`` and without a detector. ``pose_input_size`` is (height, width);
    default: the model's own. ``mode`` is not looked at."""

    def __init__(
        self,
        det_class: Optional[str] = None,
        det: Optional[str] = None,
        det_input_size: tuple[int, int] = (640, 640),
        det_mode: str = "human",
        det_categories: Optional[list[int]] = None,
        pose_class: Optional[str] = None,
        pose: Optional[str] = None,
        pose_input_size: Optional[tuple[int, int]] = None,
        mode: Optional[str] = None,
        to_openpose: bool = False,
        backend: str = "onnxruntime",
        device: str = "cpu",
        **options: Any,
    ) -> None:
        if det_class is not None:
            raise UsageError(f"Custom: det_class {det_class!r}: RTMO needs no detector; leave it out")
        if pose_class != "RTMO" or pose is None:
            raise UsageError(f"Custom: pose_class {pose_class!r}, pose {pose!r}: expected 'RTMO' and a model of it")
        self.one_stage = True
        self.pose_model = RTMO(
            pose, pose_input_size, to_openpose=to_openpose, backend=backend, device=device, **options
        )

    def __call__(self, image: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """Keypoints (N, K, 2) in pixels and their scores (N, K)."""
        return self.pose_model(image)


_EXPECTED = (
    "expected Body or Custom of rtmo_engine.rtmlib, since RTMO finds COCO's 17 keypoints (in Sports2D and Pose2Sim: pose_model 'body')"
)


class PoseTracker:
    """A solution (Body, or Custom by ``functools.partial``) with identities: after each call ``track_ids`` has the ids of the
    people that it returned, in the same order, from 1 on; -1 for those who have none yet, and all without ``tracking``.

    Ids are those of :class:`rtmo_engine.Tracker`, which needs the time between frames: ``fps`` are frames a second. Nobody is
    left out. ``det_frequency`` and ``tracking_thr`` are not looked at: there is no detector, and the tracker compares
    keypoints, too. ``tracker`` is another :class:`rtmo_engine.Tracker`.
    """

    def __init__(
        self,
        solution: Callable[..., Any],
        det_frequency: int = 1,
        tracking: bool = True,
        tracking_thr: float = 0.3,
        mode: Optional[str] = None,
        to_openpose: bool = False,
        backend: str = "onnxruntime",
        device: str = "cpu",
        *,
        fps: float = 30.0,
        tracker: Optional[Tracker] = None,
    ) -> None:
        if not 0 < fps < float("inf"):
            raise UsageError(f"PoseTracker: fps {fps}: expected a number above 0")
        wanted = solution
        while isinstance(wanted, functools.partial):
            wanted = wanted.func
        # Another class would fetch its networks first.
        if isinstance(wanted, type) and not issubclass(wanted, (Body, Custom)):
            raise UsageError(f"PoseTracker: solution {wanted.__name__}: {_EXPECTED}")
        options: dict[str, Any] = {"to_openpose": to_openpose, "backend": backend, "device": device}
        if mode is not None:
            options["mode"] = mode
        pose_model = getattr(solution(**options), "pose_model", None)
        if not isinstance(pose_model, RTMO):
            raise UsageError(f"PoseTracker: solution: {_EXPECTED}")
        self.pose_model = pose_model
        self.det_frequency = det_frequency
        self.tracking = tracking
        self.tracking_thr = tracking_thr
        self.fps = fps
        self.tracker = Tracker() if tracker is None else tracker
        self.track_ids: list[int] = []
        self.frame_cnt = 0

    def reset(self) -> None:
        """Begins anew, as for another video. No id is given twice."""
        self.tracker.reset()
        self.track_ids = []
        self.frame_cnt = 0

    def __call__(self, image: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """Keypoints (N, K, 2) in pixels and their scores (N, K) of the next frame."""
        people = self.pose_model.people(image)
        if self.tracking:
            people = self.tracker.update(people, self.frame_cnt / self.fps)
        self.frame_cnt += 1
        keypoints, scores = self.pose_model.arrays(people)
        self.track_ids = [-1] * len(keypoints) if people.ids is None or not len(people) else people.ids.tolist()
        return keypoints, scores
