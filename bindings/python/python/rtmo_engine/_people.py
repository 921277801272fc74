"""People as arrays."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import Any, Iterator, Optional, Union, overload

import numpy as np
import numpy.typing as npt

from . import _native
from ._checks import pair, whole
from ._errors import UsageError

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Person:
    """One person of :class:`People`, in pixels of the picture from its upper left corner."""

    score: float
    """Confidence, 0 to 1."""
    box: Floats
    """``x1, y1, x2, y2``, shape (4,)."""
    keypoints: Floats
    """``x, y`` of each keypoint, shape (K, 2). May lie outside of the picture."""
    keypoint_scores: Floats
    """Confidence that each keypoint is visible, 0 to 1, shape (K,)."""
    id: Optional[int] = None
    """Who it is, from a :class:`Tracker`: from 1 on; None without one, and while it is not sure."""


class People:
    """The people of one picture, best first. N people of K keypoints; all lengths are pixels of the picture.

    ``len(people)`` is N. Iterating gives :class:`Person`; ``people[i]`` is one, and ``people[1:]``,
    ``people[people.scores > 0.5]`` are People.

    Tracker and Smoother return new People and leave those they get as they are. The arrays may be written to.

    One can be made of arrays from anywhere, for tracking, drawing or evaluation. They are converted to float32.
    """

    keypoints: Floats
    """``x, y``, shape (N, K, 2). May lie outside of the picture."""
    keypoint_scores: Floats
    """Confidence that a keypoint is visible, 0 to 1, shape (N, K)."""
    scores: Floats
    """Confidence in each person, 0 to 1, shape (N,)."""
    boxes: Floats
    """``x1, y1, x2, y2``, shape (N, 4)."""
    ids: Optional[Ints]
    """Who it is, from a Tracker: from 1 on, -1 while that is not sure; shape (N,). None without a tracker."""
    not_finite: int
    """How many people are left out because the network's numbers for them were NaN or infinite. Above 0, the weights are
    broken, or too large for the precision."""
    size: Optional[tuple[int, int]]
    """Width and height of the picture; None if that is not known."""

    __slots__ = ("keypoints", "keypoint_scores", "scores", "boxes", "ids", "not_finite", "size")

    def __init__(
        self,
        keypoints: npt.ArrayLike,
        keypoint_scores: npt.ArrayLike,
        scores: npt.ArrayLike,
        boxes: npt.ArrayLike,
        ids: Optional[npt.ArrayLike] = None,
        not_finite: int = 0,
        size: Optional[tuple[int, int]] = None,
    ) -> None:
        self.keypoints = np.asarray(keypoints, np.float32)
        self.keypoint_scores = np.asarray(keypoint_scores, np.float32)
        self.scores = np.asarray(scores, np.float32)
        self.boxes = np.asarray(boxes, np.float32)
        self.ids = None if ids is None else np.asarray(ids, np.int64)
        self.not_finite = whole("not_finite", not_finite)
        self.size = None if size is None else pair("size", size)
        shape = self.keypoints.shape
        if len(shape) != 3 or shape[2] != 2:
            raise UsageError(f"people: expected keypoints of shape (N, K, 2), got {shape}")
        n, k = shape[:2]
        for name, expected in (("keypoint_scores", (n, k)), ("scores", (n,)), ("boxes", (n, 4)), ("ids", (n,))):
            array = getattr(self, name)
            if array is not None and array.shape != expected:
                raise UsageError(f"people: for {n} people of {k} keypoints expected {name} of shape {expected}, got {array.shape}")

    def replace(self, **changes: Any) -> People:
        """A copy with other attributes: ``people.replace(ids=None)``. What is not named is shared with this one."""
        arguments = {name: getattr(self, name) for name in self.__slots__}
        unknown = changes.keys() - arguments.keys()
        if unknown:
            raise TypeError(f"people: no attribute {', '.join(sorted(unknown))}; there are {', '.join(self.__slots__)}")
        return People(**{**arguments, **changes})

    def __len__(self) -> int:
        return len(self.scores)

    def __iter__(self) -> Iterator[Person]:
        return (self._person(i) for i in range(len(self)))

    @overload
    def __getitem__(self, index: int) -> Person: ...

    @overload
    def __getitem__(self, index: Union[slice, npt.NDArray[np.bool_], Ints, list[int]]) -> People: ...

    def __getitem__(self, index: Any) -> Union[Person, People]:
        """A person by number, or People by a slice, a mask or an array of numbers."""
        if isinstance(index, (int, np.integer)):
            if not -len(self) <= index < len(self):
                raise IndexError(f"person {index} of {len(self)}")
            return self._person(int(index))
        if isinstance(index, list):
            index = np.asarray(index, np.int64)
        if not isinstance(index, (slice, np.ndarray)):
            raise TypeError(f"people: expected a number, a slice or an array, got {type(index).__name__}")
        return People(
            self.keypoints[index],
            self.keypoint_scores[index],
            self.scores[index],
            self.boxes[index],
            None if self.ids is None else self.ids[index],
            self.not_finite,
            self.size,
        )

    def __repr__(self) -> str:
        of = "" if self.size is None else f", of a picture of {self.size[0]}x{self.size[1]}"
        return f"People({len(self)} of {self.keypoints.shape[1]} keypoints{of})"

    def _person(self, i: int) -> Person:
        number = None if self.ids is None or self.ids[i] < 0 else int(self.ids[i])
        return Person(float(self.scores[i]), self.boxes[i], self.keypoints[i], self.keypoint_scores[i], number)

    def to_json(self, image: Union[str, os.PathLike[str]] = "", *, names: bool = False) -> str:
        """One object, as the program writes a line for a picture: ``{"image": ..., "width": ..., "height": ..., "people":
        [{"score": s, "bbox": [x1, y1, x2, y2], "keypoints": [[x, y, score], ...]}]}``.

        Coordinates are in pixels, to three decimals. ``image`` is what the object calls the picture; with ``names`` it has the
        keypoints' names. Needs ``size``. Raises UsageError or ImageError if a number is not finite.
        """
        return _native.to_json(self, image, names)

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """COCO results of this picture: a list that, joined with other pictures' and written by ``json.dump``, is a results
        file for pycocotools, the program's ``eval`` and :func:`evaluate`. Keypoints are ``x, y, score`` in a row, boxes
        ``x, y, width, height`` in pixels, to three decimals."""
        results: list[dict[str, Any]] = json.loads(_native.to_coco(self, whole("image_id", image_id)))
        return results

    def to_supervision(self) -> Any:
        """The same as ``supervision.KeyPoints``. Needs the package supervision."""
        try:
            import supervision  # type: ignore[import-not-found, unused-ignore]
        except ImportError as error:
            raise ImportError("to_supervision needs the package supervision: pip install supervision") from error
        from inspect import signature

        arguments: dict[str, Any] = {
            "xy": self.keypoints,
            "class_id": np.zeros(len(self), int),
            "keypoint_confidence": self.keypoint_scores,
            "detection_confidence": self.scores,
            # Older versions know only that of keypoints, by this name.
            "confidence": self.keypoint_scores,
            "data": {} if self.ids is None else {"tracker_id": self.ids},
        }
        known = signature(supervision.KeyPoints).parameters
        if "keypoint_confidence" in known:
            del arguments["confidence"]
        return supervision.KeyPoints(**{name: value for name, value in arguments.items() if name in known})

    def plot(
        self,
        image: Any,
        *,
        rgb: bool = False,
        boxes: bool = False,
        keypoint_thr: float = 0.3,
        width: float = 1.0,
    ) -> npt.NDArray[np.uint8]:
        """A copy of a picture with these people drawn on it, uint8 of shape (height, width, 3).

        ``image`` is an array, a PIL image or a path, as for :meth:`Engine.infer`. The result has blue, green, red; with
        ``rgb`` red, green, blue, which an array must have, too. Keypoints whose score is below ``keypoint_thr`` (0 to 1) are
        left out. ``width`` multiplies the width of lines. People with ids keep their colours.
        """
        return _native.plot(self, image, rgb, boxes, keypoint_thr, width)
