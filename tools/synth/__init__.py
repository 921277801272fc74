"""Rendered scenes of people with exact COCO keypoints."""
