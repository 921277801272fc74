"""Average precision."""

from __future__ import annotations

import os
from typing import Any, Mapping, Optional, Union

from . import _native
from ._checks import whole
from ._people import People


def evaluate(
    annotations: Union[str, os.PathLike[str]],
    results: Union[str, os.PathLike[str], list[dict[str, Any]], Mapping[int, People]],
    rule: str = "xtcocotools",
    benchmark: str = "coco",
) -> dict[str, Optional[float]]:
    """Judges results by annotations. Returns AP, AP50, AP75, AR and so on by name, 0 to 1; None where the annotations have
    no person to be counted.

    ``annotations`` is a file of COCO's or CrowdPose's form. ``results`` is a file of COCO results, a list of them (see
    :meth:`People.to_coco`), or People by image id. ``rule`` is ``"xtcocotools"``, by which RTMO's published figures were made,
    or ``"pycocotools"``; ``benchmark`` is ``"coco"`` (17 keypoints) or ``"crowdpose"`` (14).

    Raises MissingFileError or JsonError for files, UsageError for results that are not of these annotations.
    """
    if isinstance(results, Mapping):
        results = {whole("image id", image): people for image, people in results.items()}
    return _native.evaluate(annotations, results, rule, benchmark)
