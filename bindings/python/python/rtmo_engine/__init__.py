"""Finds people and their joints in photos and videos: fast inference for RTMO, the one-stage real-time multi-person pose model.

>>> import rtmo_engine
>>> engine = rtmo_engine.Engine("rtmo-s")
>>> for person in engine.infer("family.jpg"):
...     print(f"{person.score:.2f}", person.keypoints[0])

See :class:`Engine`, :class:`People`, :class:`Tracker`, :func:`evaluate`, :func:`download`; :mod:`rtmo_engine.rtmlib` has the
classes of the package rtmlib.
"""

from ._engine import Engine
from ._errors import (
    DeviceError,
    DownloadError,
    Error,
    FileError,
    ImageError,
    JsonError,
    MissingFileError,
    UsageError,
    WeightsError,
)
from ._evaluate import evaluate
from ._native import VERSION as __version__
from ._people import People, Person
from ._track import Smoother, Tracker
from ._weights import Model, download, models

__all__ = [
    "DeviceError",
    "DownloadError",
    "Engine",
    "Error",
    "FileError",
    "ImageError",
    "JsonError",
    "MissingFileError",
    "Model",
    "People",
    "Person",
    "Smoother",
    "Tracker",
    "UsageError",
    "WeightsError",
    "__version__",
    "download",
    "evaluate",
    "models",
]
