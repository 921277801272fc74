"""The same person in successive frames."""

from __future__ import annotations

from typing import Optional, Sequence

from . import _native
from ._checks import whole
from ._people import People


class Tracker:
    """Gives people of successive frames their ids: the same person has the same id in every frame.

    It needs no engine: it works on any :class:`People`. All is in seconds, so the number of frames a second does not matter.

    ``min_iou`` (0.1): how alike a person and what is expected of a track must at least be, 0 to 1. ``max_unseen`` (2):
    seconds that a person may be out of sight and keep the id, at most 3600. ``min_score`` (0.3): score from which on a
    person may begin a track; people of lower scores continue tracks. ``min_hits`` (2): in how many frames a person must be
    seen before there is an id. ``sigmas``: for each keypoint how far it may be off, as OKS defines it.

    Raises UsageError if a value is out of range.
    """

    def __init__(
        self,
        *,
        min_iou: Optional[float] = None,
        max_unseen: Optional[float] = None,
        min_score: Optional[float] = None,
        min_hits: Optional[int] = None,
        sigmas: Optional[Sequence[float]] = None,
    ) -> None:
        self._native = _native.Tracker(
            min_iou,
            max_unseen,
            min_score,
            None if min_hits is None else whole("min_hits", min_hits),
            None if sigmas is None else list(sigmas),
        )

    def update(self, people: People, time: float) -> People:
        """The people of the next frame, which is at ``time`` in seconds, with ids: from 1 on, -1 for those who have none.

        Raises UsageError if ``time`` is not above that of the frame before, or a number is not finite.
        """
        tracked: People = self._native.update(people, time)
        return tracked

    def reset(self) -> None:
        """Begins anew, as for another video. Ids go on: none is given twice by one tracker."""
        self._native.reset()


class Smoother:
    """Takes the jitter out of keypoints of people with ids (One Euro filter): a joint that rests is held, one that moves is
    followed. People without ids stay as they are.

    ``min_cutoff`` (1.5): cutoff frequency in hertz of a joint that rests; lower is smoother. ``beta`` (15): by how many
    hertz it rises for a speed of one person's size a second; higher is less lag. ``speed_cutoff`` (4): cutoff frequency in
    hertz for the speed. ``min_score`` (0.3): keypoints of a lower score stay as they are. ``max_unseen`` (0.5): seconds after
    which a joint begins anew.

    Raises UsageError if a value is out of range.
    """

    def __init__(
        self,
        *,
        min_cutoff: Optional[float] = None,
        beta: Optional[float] = None,
        speed_cutoff: Optional[float] = None,
        min_score: Optional[float] = None,
        max_unseen: Optional[float] = None,
    ) -> None:
        self._native = _native.Smoother(min_cutoff, beta, speed_cutoff, min_score, max_unseen)

    def smooth(self, people: People, time: float) -> People:
        """The people of the next frame, which is at ``time`` in seconds, with smoothed keypoints.

        Raises UsageError if ``time`` is not above that of the frame before, two people have one id, or a number is not
        finite.
        """
        smoothed: People = self._native.smooth(people, time)
        return smoothed

    def reset(self) -> None:
        """Begins anew, as for another video."""
        self._native.reset()
