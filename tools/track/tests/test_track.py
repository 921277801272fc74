"""python -m unittest tools.track.tests.test_track"""

import unittest

import numpy as np

from tools.track import score, trackers
from tools.track.scenes import KINDS, iou, scene


class Scenes(unittest.TestCase):
    def test_the_same_people_walk_the_same_ways_at_every_rate(self):
        for kind in KINDS:
            fast, slow = scene(kind, 4, 30, 3), scene(kind, 4, 5, 3)
            for i, frame in enumerate(slow):
                self.assertEqual(frame.time, fast[6 * i].time)
                self.assertEqual(frame.people, fast[6 * i].people)
                for identity, box in frame.truth.items():
                    np.testing.assert_array_equal(box, fast[6 * i].truth[identity])

    def test_a_seed_is_a_scene(self):
        self.assertEqual(scene("crowd", 1, 5, 2)[5].people, scene("crowd", 1, 5, 2)[5].people)
        self.assertNotEqual(scene("crowd", 1, 5, 2)[5].people, scene("crowd", 2, 5, 2)[5].people)

    def test_people_are_found_where_they_are(self):
        # More than four of five, and not all, with a box that overlaps by half.
        found = total = 0
        for kind in KINDS:
            for frame in scene(kind, 5, 1, 20):
                overlap = iou(list(frame.truth.values()), [person["bbox"] for person in frame.people])
                found += sum(row.max(initial=0) > 0.5 for row in overlap)
                total += len(frame.truth)
        self.assertGreater(found / total, 0.8)
        self.assertLess(found / total, 1.0)


class Scores(unittest.TestCase):
    def test_who_is_known_scores_full_and_who_is_swapped_does_not(self):
        frames = scene("crossing", 3, 5, 10)
        for frame in frames:
            frame.people = [{"score": 0.9, "bbox": list(box), "keypoints": []} for box in frame.truth.values()]
        known = [list(frame.truth) for frame in frames]
        result = score.evaluate([(frames, known)])
        self.assertAlmostEqual(result["HOTA"], 100)
        self.assertAlmostEqual(result["IDF1"], 100)
        self.assertEqual((result["switches"], result["ids"]), (0, result["people"]))
        half = len(known) // 2
        swapped = known[:half] + [[{1: 2, 2: 1}.get(i, i) for i in ids] for ids in known[half:]]
        result = score.evaluate([(frames, swapped)])
        self.assertEqual(result["switches"], 2)
        self.assertLess(result["HOTA"], 95)

    def test_plain_iou_follows_people_who_stand(self):
        frames = scene("crossing", 3, 30, 1)[:1] * 5
        ids = trackers.plain_iou(frames, 30)
        self.assertTrue(all(now == ids[0] for now in ids))


if __name__ == "__main__":
    unittest.main()
