"""Published weights."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Callable, Optional, Union

from . import _native
from ._engine import _true


@dataclass(frozen=True)
class Model:
    """A checkpoint that the authors of RTMO published."""

    name: str
    """Short name, such as ``rtmo-s-coco``."""
    aliases: list[str]
    """Other names it answers to."""
    url: str
    """Official address of the ``.pth`` file."""
    keypoints: int
    """Keypoints a person: 17 (COCO) or 14 (CrowdPose)."""
    input_size: tuple[int, int]
    """Network input, width and height in pixels."""
    training_data: str
    """Data it was trained on."""
    benchmark: str
    """Data that ``ap`` was measured on."""
    ap: float
    """Published average precision, 0 to 1."""
    path: Optional[str]
    """Where it is on this machine; None if it is not here."""


def models() -> list[Model]:
    """The published checkpoints, and where those are that are here."""
    return [Model(**about) for about in _native.models()]


def download(
    name: str = "rtmo-s",
    folder: Union[str, os.PathLike[str], None] = None,
    *,
    mirror: Optional[str] = None,
    allow_http: Optional[bool] = None,
    force: bool = False,
    progress: Optional[Callable[[int, Optional[int]], object]] = None,
) -> str:
    """Fetches a published checkpoint, unless it is here, and returns its path.

    ``folder`` is by default the user's cache folder, where :class:`Engine` finds it by name. ``mirror`` is the address of a
    folder on another server that has the files under their official names (default: the environment's RTMO_MIRROR, else the
    authors' server); ``allow_http`` permits one without encryption (RTMO_ALLOW_HTTP). ``force`` fetches also what is here.
    ``progress`` is called with the bytes that have come and those of the whole file, or None if the server does not say.

    The file appears complete or not at all, and only if its SHA-256 is right. Ctrl-C ends it; the next call goes on from there.

    Raises UsageError for a name that is not published, DownloadError, or FileError.
    """
    mirror = mirror or os.environ.get("RTMO_MIRROR") or None
    allow_http = _true("RTMO_ALLOW_HTTP") if allow_http is None else allow_http
    return _native.download(name, folder, mirror, allow_http, force, progress)
