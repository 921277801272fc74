"""HOTA, IDF1 and identity switches by TrackEval, over boxes."""

import numpy as np
from trackeval.metrics import CLEAR, HOTA, Identity

from .scenes import iou


def data_of(frames, ids):
    """One sequence as TrackEval's metrics take it."""
    true_names, names = {}, {}
    data = {"gt_ids": [], "tracker_ids": [], "similarity_scores": []}
    for frame, given in zip(frames, ids, strict=True):
        tracked = [(names.setdefault(i, len(names)), person["bbox"]) for i, person in zip(given, frame.people, strict=True) if i is not None]
        data["gt_ids"].append(np.array([true_names.setdefault(i, len(true_names)) for i in frame.truth], int))
        data["tracker_ids"].append(np.array([i for i, _ in tracked], int))
        data["similarity_scores"].append(iou(list(frame.truth.values()), [box for _, box in tracked]))
        assert len({i for i, _ in tracked}) == len(tracked), "an identity twice in one frame"
    data["num_timesteps"] = len(frames)
    data["num_gt_ids"], data["num_tracker_ids"] = len(true_names), len(names)
    data["num_gt_dets"] = sum(map(len, data["gt_ids"]))
    data["num_tracker_dets"] = sum(map(len, data["tracker_ids"]))
    return data


def evaluate(sequences):
    """Of sequences of (frames, ids) together: HOTA, AssA, IDF1 (all in percent), switches, and identities given for people
    that there are."""
    quiet = {"PRINT_CONFIG": False}
    metrics = {"hota": HOTA(), "clear": CLEAR(quiet), "identity": Identity(quiet)}
    data = [data_of(frames, ids) for frames, ids in sequences]
    all_of = lambda m: m.combine_sequences({str(i): m.eval_sequence(d) for i, d in enumerate(data)})
    hota, clear, identity = (all_of(metric) for metric in metrics.values())
    return {
        "HOTA": 100 * float(hota["HOTA"].mean()),
        "AssA": 100 * float(hota["AssA"].mean()),
        "IDF1": 100 * float(identity["IDF1"]),
        "switches": int(clear["IDSW"]),
        "ids": sum(d["num_tracker_ids"] for d in data),
        "people": sum(d["num_gt_ids"] for d in data),
    }
