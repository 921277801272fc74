"""Trackers in one form: frames of people in, an identity (or None) for each person out."""

import json
import subprocess
import warnings

import numpy as np

from .scenes import iou


def ours(program, *options):
    """This project's tracker, by the example program `track`."""

    def run(frames, fps):
        lines = "".join(json.dumps({"time": frame.time, "people": frame.people}) + "\n" for frame in frames)
        done = subprocess.run([program, *options], input=lines, capture_output=True, text=True, check=True)
        tracked = [json.loads(line)["people"] for line in done.stdout.splitlines()]
        return [[person.get("id") for person in people] for people in tracked]

    return run


def boxes(run):
    """This project's tracker without keypoints."""

    def bare(frames, fps):
        import dataclasses

        people = lambda frame: [{**person, "keypoints": []} for person in frame.people]
        return run([dataclasses.replace(frame, people=people(frame)) for frame in frames], fps)

    return bare


def plain_iou(frames, fps, least=0.3, score=0.3, unseen=1.0):
    """Each person continues the track that it overlaps most, the best pairs first."""
    tracks, last, out = {}, 0, []
    for frame in frames:
        tracks = {i: track for i, track in tracks.items() if frame.time - track[1] <= unseen + 1e-6}
        ids = [None] * len(frame.people)
        names = list(tracks)
        overlap = iou([tracks[i][0] for i in names], [person["bbox"] for person in frame.people])
        while overlap.size and overlap.max() >= least:
            row, column = np.unravel_index(overlap.argmax(), overlap.shape)
            ids[column] = names[row]
            overlap[row], overlap[:, column] = -1, -1
        for place, person in enumerate(frame.people):
            if ids[place] is None and person["score"] >= score:
                last += 1
                ids[place] = last
            if ids[place] is not None:
                tracks[ids[place]] = (person["bbox"], frame.time)
        out.append(ids)
    return out


def peer(name, **options):
    """A tracker of the package `trackers`, which sees boxes and scores."""

    def run(frames, fps):
        import supervision
        import trackers

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tracker = getattr(trackers, name)(frame_rate=fps, **options)
            out = []
            for frame in frames:
                n = len(frame.people)
                found = supervision.Detections(
                    xyxy=np.array([person["bbox"] for person in frame.people], float).reshape(-1, 4),
                    confidence=np.array([person["score"] for person in frame.people], float),
                    class_id=np.zeros(n, int),
                    data={"place": np.arange(n)},
                )
                ids = [None] * n
                tracked = tracker.update(found)
                if len(tracked):
                    for place, identity in zip(tracked.data["place"], tracked.tracker_id):
                        ids[int(place)] = int(identity) if identity is not None and identity >= 0 else None
                out.append(ids)
            return out

    return run


def rtmlib(frames, fps, score=0.3):
    """The tracking part of rtmlib's PoseTracker, over given keypoints. It returns no identities; these are its own, as it
    keeps them from frame to frame."""
    from rtmlib.tools.solution.pose_tracker import PoseTracker

    class Model:
        def __init__(self, **_):
            self.pose_model = self

        def __call__(self, image):
            return self.keypoints, self.scores

    warnings.simplefilter("ignore")
    import contextlib, io

    with contextlib.redirect_stdout(io.StringIO()):
        tracker = PoseTracker(Model)
    given = {}
    choose = tracker.track_by_iou

    def remember(box):
        identity, match = choose(box)
        given.setdefault("ids", []).append(identity)
        return identity, match

    tracker.track_by_iou = remember
    out = []
    for frame in frames:
        places = [i for i, person in enumerate(frame.people) if person["score"] >= score]
        model = tracker.pose_model
        model.keypoints = np.array([[k[:2] for k in frame.people[i]["keypoints"]] for i in places])
        model.scores = np.array([[k[2] for k in frame.people[i]["keypoints"]] for i in places])
        given.clear()
        if places:
            tracker(None)
        else:
            # An empty frame, as rtmlib's RTMO gives it: one person of zeros.
            model.keypoints, model.scores = np.zeros((1, 17, 2)), np.zeros((1, 17))
            tracker(None)
            given.clear()
        ids = [None] * len(frame.people)
        for place, identity in zip(places, given.get("ids", [])):
            ids[place] = identity if identity >= 0 else None
        out.append(ids)
    return out
