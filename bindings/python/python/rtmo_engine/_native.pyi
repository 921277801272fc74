"""The native module. Its names are no interface: the package's own are."""

import os
from typing import Any, Callable, Optional, TypedDict, Union, final

import numpy as np
import numpy.typing as npt

from ._people import People

_Path = Union[str, os.PathLike[str]]
_Floats = npt.NDArray[np.float32]
# Keypoints (N, K, 2), keypoint scores (N, K), scores (N,), boxes (N, 4), ids (N,), people left out, width and height.
_Arrays = tuple[_Floats, _Floats, _Floats, _Floats, Optional[npt.NDArray[np.int64]], int, Optional[tuple[int, int]]]

class _About(TypedDict):
    name: str
    aliases: list[str]
    url: str
    keypoints: int
    input_size: tuple[int, int]
    training_data: str
    benchmark: str
    ap: float
    path: Optional[str]

__all__ = [
    "VERSION",
    "Engine",
    "Smoother",
    "Tracker",
    "device_image",
    "download",
    "evaluate",
    "find",
    "models",
    "plot",
    "skeleton",
    "to_coco",
    "to_json",
]

VERSION: str

@final
class Engine:
    def __new__(
        cls,
        request: dict[str, Any],
        *,
        device: str,
        precision: Optional[str],
        size: Optional[tuple[int, int]],
        threads: Optional[int],
        compat: str,
        score_thr: Optional[float],
        nms_thr: Optional[float],
        max_people: Optional[int],
    ) -> Engine: ...
    def infer(
        self, images: list[Any], rgb: bool, score_thr: Optional[float], nms_thr: Optional[float]
    ) -> list[_Arrays]: ...
    @staticmethod
    def in_gpu_memory(images: list[Any]) -> bool: ...
    def submit(self, images: list[Any], rgb: bool) -> None: ...
    def collect(self) -> Optional[list[_Arrays]]: ...
    def discard(self) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def weights(self) -> str: ...
    @property
    def input_size(self) -> tuple[int, int]: ...
    @property
    def keypoints(self) -> int: ...
    @property
    def description(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def precision(self) -> Optional[str]: ...
    @property
    def threads(self) -> Optional[int]: ...
    @property
    def queue_depth(self) -> int: ...

@final
class Tracker:
    def __new__(
        cls,
        min_iou: Optional[float],
        max_unseen: Optional[float],
        min_score: Optional[float],
        min_hits: Optional[int],
        sigmas: Optional[list[float]],
    ) -> Tracker: ...
    def update(self, people: People, time: float) -> People: ...
    def reset(self) -> None: ...

@final
class Smoother:
    def __new__(
        cls,
        min_cutoff: Optional[float],
        beta: Optional[float],
        speed_cutoff: Optional[float],
        min_score: Optional[float],
        max_unseen: Optional[float],
    ) -> Smoother: ...
    def smooth(self, people: People, time: float) -> People: ...
    def reset(self) -> None: ...

def device_image(image: Any, rgb: bool, ordinal: int, stream: int) -> str: ...
def to_json(people: People, image: _Path, names: bool) -> str: ...
def to_coco(people: People, image_id: int) -> str: ...
def plot(
    people: People, image: Any, rgb: bool, boxes: bool, keypoint_thr: float, width: float
) -> npt.NDArray[np.uint8]: ...
def skeleton(keypoints: int) -> Optional[tuple[list[str], list[tuple[int, int]]]]: ...
def evaluate(
    annotations: _Path, results: Any, rule: str, benchmark: str
) -> dict[str, Optional[float]]: ...
def download(
    name: str,
    folder: Optional[_Path],
    mirror: Optional[str],
    allow_http: bool,
    force: bool,
    progress: Optional[Callable[[int, Optional[int]], object]],
) -> str: ...
def models() -> list[_About]: ...
def find(name: str) -> Optional[str]: ...
