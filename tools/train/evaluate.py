"""Average precision by object keypoint similarity, as COCO defines it, on a bank or an annotated folder.

    python -m tools.train.evaluate --weights w.safetensors --bank val.pt
    python -m tools.train.evaluate --weights w.safetensors --coco keypoints.json --images folder [--only held-out.txt]
"""
import argparse
import json

import numpy as np
import torch

from . import augment, data, model

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0, 1, 101)
MOST = 20


def similarities(predicted, truth, visible, areas, boxes, sigmas):
    """OKS of all pairs, numpy: [p, K, 2], [g, K, 2], [g, K], [g], [g, 4] to [p, g].

    Of people without annotated keypoints, distances are to the box enlarged threefold, as COCO has it.
    """
    seen = (visible > 0).astype(float)
    unknown = seen.sum(-1) == 0
    size = boxes[:, 2:] - boxes[:, :2]
    low, high = (boxes[:, :2] - size)[:, None], (boxes[:, 2:] + size)[:, None]
    outside = np.maximum(low - predicted[:, None], 0) + np.maximum(predicted[:, None] - high, 0)
    offset = np.where(unknown[:, None, None], outside, predicted[:, None] - truth)
    e = (offset ** 2).sum(-1) / (2 * np.asarray(sigmas)) ** 2 / (areas[:, None] + np.spacing(1)) / 2
    seen[unknown] = 1
    return (np.exp(-e) * seen).sum(-1) / seen.sum(-1)


class Precision:
    """Collects people of pictures; `result` gives AP over thresholds 0.5 to 0.95, AP50, AP75 and AR."""

    def __init__(self, sigmas):
        self.sigmas = sigmas
        self.scores, self.hits, self.ignored = [], [], []
        self.truths = 0

    def add(self, keypoints, scores, truth, visible, areas, boxes):
        """One picture: predictions [p, K, 2], [p] and annotation [g, K, 2], [g, K], [g], [g, 4], arrays or tensors.

        Annotated people without a visible keypoint count neither as found nor as missed.
        """
        keypoints, scores, truth, visible, areas, boxes = (np.asarray(x, np.float64) for x in (
            keypoints, scores, truth, visible, areas, boxes))
        order = np.argsort(-scores, kind='mergesort')[:MOST]
        ignore = (visible > 0).sum(-1) == 0 if len(truth) else np.zeros(0, bool)
        rank = np.argsort(ignore, kind='mergesort')
        ignore = ignore[rank]
        pairs = np.zeros((len(order), len(truth)))
        if pairs.size:
            pairs = similarities(keypoints[order], truth[rank], visible[rank], areas[rank], boxes[rank], self.sigmas)
        hits, ignored = np.zeros((2, len(THRESHOLDS), len(order)), bool)
        for t, threshold in enumerate(THRESHOLDS):
            taken = np.zeros(len(truth), bool)
            for p in range(len(order)):
                best, match = min(threshold, 1 - 1e-10), -1
                for g in range(len(truth)):
                    if taken[g] or (match >= 0 and not ignore[match] and ignore[g]):
                        continue
                    if pairs[p, g] >= best:
                        best, match = pairs[p, g], g
                if match >= 0:
                    taken[match] = True
                    hits[t, p], ignored[t, p] = True, ignore[match]
        self.scores.append(scores[order])
        self.hits.append(hits)
        self.ignored.append(ignored)
        self.truths += int((~ignore).sum())

    def result(self):
        if not self.truths or not self.scores:
            return dict(ap=float('nan'), ap50=float('nan'), ap75=float('nan'), ar=float('nan'), people=0)
        order = np.argsort(-np.concatenate(self.scores), kind='mergesort')
        hits, ignored = (np.concatenate(x, 1)[:, order] for x in (self.hits, self.ignored))
        precisions, recalls = [], []
        for t in range(len(THRESHOLDS)):
            true = np.cumsum(hits[t] & ~ignored[t])
            false = np.cumsum(~hits[t] & ~ignored[t])
            recall = true / self.truths
            precision = true / np.maximum(true + false, np.spacing(1))
            precision = np.maximum.accumulate(precision[::-1])[::-1]
            at = np.searchsorted(recall, RECALLS, side='left')
            precisions.append(np.where(at < len(precision), precision[np.minimum(at, len(precision) - 1)], 0).mean()
                              if len(precision) else 0.0)
            recalls.append(recall[-1] if len(recall) else 0.0)
        return dict(ap=float(np.mean(precisions)), ap50=float(precisions[0]), ap75=float(precisions[5]),
                    ar=float(np.mean(recalls)), people=self.truths)


def people_without_keypoints(bank):
    """The bank's ignored boxes, letterboxed, as people: whoever is found there is neither right nor wrong."""
    scale, offset = augment.letterbox_map(bank)
    boxes = bank.ignore * scale[:, None, None] + offset.repeat(1, 2)[:, None]
    size = boxes[..., 2:] - boxes[..., :2]
    keypoints = boxes.new_zeros(*boxes.shape[:2], bank.keypoints.shape[2], 2)
    return data.People(boxes, keypoints, keypoints[..., 0], keypoints[..., 0], 0.53 * size.prod(-1),
                       bank.ignore.any(-1))


@torch.no_grad()
def evaluate(net, bank, device, batch=16, side=None, score_threshold=0.01):
    """AP of a network on a bank, letterboxed to `side`; also the predictions, in pixels of the letterboxed pictures."""
    was_training = net.training
    net.eval()
    precision = Precision(net.head.loss_oks.sigmas.cpu().numpy())
    predictions = []
    for start in range(0, len(bank), batch):
        part = bank[slice(start, start + batch)].to(device)
        images, people = augment.letterbox(part, ignore=False)
        unlabelled = people_without_keypoints(part)
        images, people = augment.resized(images.round(), data.joined(people, unlabelled), side or bank.side)
        for i, found in enumerate(net.predict(images, score_threshold)):
            here = people.exists[i]
            found = {k: v.float().cpu() for k, v in found.items()}
            predictions.append(found)
            precision.add(found['keypoints'], found['scores'], people.keypoints[i][here].cpu(),
                          people.visible[i][here].cpu(), people.areas[i][here].cpu(), people.boxes[i][here].cpu())
    net.train(was_training)
    return precision.result(), predictions


def sample_sheet(bank, predictions, path, count=12, threshold=0.3):
    """Writes the first pictures with what was found in them."""
    from ..synth.render import drawn, save_image
    tiles = []
    for i in range(min(count, len(bank))):
        image, _ = augment.letterbox(bank[slice(i, i + 1)], ignore=False)
        found = predictions[i]
        good = found['scores'] > threshold
        points = torch.cat((found['keypoints'], 1 + (found['visibility'] > 0.5).float()[..., None]), -1)[good]
        tiles.append(drawn(image[0].permute(1, 2, 0).round().byte().numpy(), points, found['boxes'][good]))
    while len(tiles) % 4:
        tiles.append(np.full_like(tiles[0], data.PAD))
    save_image(path, np.concatenate([np.concatenate(tiles[i:i + 4], 1) for i in range(0, len(tiles), 4)]))


def subset(annotations, folder, side, only=None, without=None):
    """A bank of a COCO file, restricted to (or without) the file names listed in a text file."""
    if not (only or without):
        return data.coco(annotations, folder, side)
    with open(annotations) as f:
        full = json.load(f)
    with open(only or without) as f:
        names = {line.strip() for line in f if line.strip()}
    full['images'] = [i for i in full['images'] if (i['file_name'] in names) == bool(only)]
    return data.coco(full, folder, side)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--weights', required=True, help='.safetensors or .pth')
    parser.add_argument('--bank', nargs='*', default=[])
    parser.add_argument('--coco', help='annotation file of person keypoints')
    parser.add_argument('--images', help='folder of the photos of --coco')
    parser.add_argument('--only', help='text file of file names: evaluate these alone')
    parser.add_argument('--side', type=int, help='network input; default: the architecture\'s own')
    parser.add_argument('--sheet', help='write pictures of what was found')
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    a = parser.parse_args()
    net = model.load(a.weights).to(a.device)
    side = a.side or model.ARCHS[net.arch].size
    if bool(a.bank) == bool(a.coco):
        parser.error('give either --bank or --coco with --images')
    bank = data.merged([data.Bank.load(p) for p in a.bank]) if a.bank else subset(a.coco, a.images, side, a.only)
    result, predictions = evaluate(net, bank, a.device, side=side if a.bank else None)
    print(json.dumps({k: round(v, 4) for k, v in result.items()} | {'pictures': len(bank)}))
    if a.sheet:
        sample_sheet(bank, predictions, a.sheet)


if __name__ == '__main__':
    main()
