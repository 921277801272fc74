"""SimOTA: which grids learn which person (section 3.3 of the paper; mmpose's SimOTAAssigner with OKS as indicator).

The whole batch is assigned at once, people padded to the same number per image, so that nothing waits for the device.
"""
import torch

from .model import iou

CENTRE_RADIUS = 2.5
CANDIDATES = 10
OVERLAP_WEIGHT = 3.0
OKS_WEIGHT = 3.0
FAR = 1e5
EPS = 1e-7


def oks(predicted, target, visible, area, sigmas, eps=1e-8):
    """Object keypoint similarity, broadcast: keypoints [..., K, 2], `visible` [..., K], `area` [...] to [...]."""
    distance = (predicted - target).norm(dim=-1)
    distance = distance / area.sqrt().clip(min=eps).unsqueeze(-1) / (2 * sigmas)
    weight = visible / visible.sum(-1, keepdim=True).clip(min=eps)
    return (torch.exp(-distance.square() / 2) * weight).sum(-1)


@torch.no_grad()
def assign(dense, boxes, proxies, people, sigmas, least=1):
    """Matches grids with people.

    dense: `model.Dense`; boxes [b, n, 4] and proxies [b, n, K, 2]: its decoded boxes and keypoints.
    people: `data.People`, padded to g per image.
    Returns for each grid the index of its person, -1 for none [b, n], and the OKS of the two [b, n].

    The cost is -3 ln IoU - 3 ln OKS - ln sqrt(score) + 1e5 for grids that are not both in the person's box and near the
    centre of its visible keypoints. A person takes its k grids of least cost, k the sum of its ten best OKS, and `least`
    or more of those near its centre.
    """
    grids, strides = dense.grids[None, :, None], dense.strides[None, :, None]
    truth, visible = people.boxes[:, None], people.visible
    exists = people.exists[:, None]  # [b, 1, g]

    offset = torch.cat((grids - truth[..., :2], truth[..., 2:] - grids), -1)
    in_box = (offset.amin(-1) > 0) & exists
    seen = visible.sum(-1, keepdim=True)
    centre = torch.where(seen > 0, (people.keypoints * visible[..., None]).sum(-2) / seen.clip(min=1),
                         (people.boxes[..., :2] + people.boxes[..., 2:]) / 2)[:, None]
    near = ((grids - centre).abs().amax(-1) < CENTRE_RADIUS * strides) & exists
    valid = (in_box | near).any(-1, keepdim=True) & exists  # [b, n, g]

    similarity = oks(proxies[:, :, None], people.keypoints[:, None], visible[:, None], people.areas[:, None], sigmas)
    cost = (~(in_box & near)) * FAR
    cost = cost - torch.log(iou(boxes[:, :, None], truth) + EPS) * OVERLAP_WEIGHT
    cost = cost - torch.log(similarity + EPS) * OKS_WEIGHT
    # Binary cross entropy of the square root of the score against 1, its logarithm bounded as PyTorch bounds it.
    score = dense.cls[..., 0].clip(-1e4, 1e4).sigmoid().sqrt().nan_to_num(0)
    cost = cost - torch.log(score).clip(min=-100)[..., None]

    cost = torch.where(valid, cost.nan_to_num(nan=2 * FAR), torch.inf)
    similarity = torch.where(valid, similarity, 0)
    candidates = min(CANDIDATES, cost.shape[1])
    counts = similarity.topk(candidates, 1).values.sum(1).int().clamp(min=1)  # [b, g]
    lowest, where = cost.topk(candidates, 1, largest=False, sorted=True)  # [b, 10, g]
    rank = torch.arange(candidates, device=cost.device)[None, :, None]
    taken = ((rank < counts[:, None]) | ((rank < least) & (lowest < FAR))) & lowest.isfinite()
    matched = torch.zeros_like(valid).scatter_(1, where, taken)

    # A grid that several people want goes to the one it costs least.
    contested = matched.sum(-1) > 1
    index = torch.where(contested, cost.argmin(-1), matched.int().argmax(-1))
    index = torch.where(matched.any(-1), index, -1)
    return index, similarity.gather(-1, index.clamp(min=0)[..., None])[..., 0]
