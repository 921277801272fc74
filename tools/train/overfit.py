"""Checks the training as a whole: eight pictures learnt by heart must give an OKS above 0.9.

    python -m tools.train.overfit --bank scenes.pt [--side 128] [--steps 170]

No augmentation, the first stage's losses; the classifier begins smooth. Studio scenes of tools.synth.render suffice.
"""
import argparse

import torch

from . import augment, data, losses, model, train
from .assigner import oks


def learn(bank, side, steps, device, arch='t', seed=0, rate=0.0007, every=30):
    """Trains on the bank's pictures as one batch; returns the network, the pictures and their people."""
    torch.manual_seed(seed)
    net = model.Rtmo(arch, bank.keypoints.shape[2]).to(device).train()
    net.head.dcc.smooth()
    images, people = augment.resized(*augment.letterbox(bank.to(device), ignore=False), side)
    people = people.kept(people.visible.sum(-1) > 0)
    optimizer = torch.optim.AdamW(train.parameter_groups(net, train.SHORT_ENCODER_SHARE, 0.3), lr=rate)
    for step in range(steps):
        for group in optimizer.param_groups:
            group['lr'] = rate * group['share'] * min(1, (step + 1) / 20) * (0.05 if step > 0.9 * steps else 1)
        parts, quality = losses.training_loss(net.head, net.dense(images, offsets=True), people, losses.FIRST)
        optimizer.zero_grad()
        sum(parts.values()).backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 5.0)
        optimizer.step()
        if step % every == 0 or step == steps - 1:
            print(step, {k: round(float(v), 3) for k, v in parts.items()}, 'oks', round(float(quality), 3), flush=True)
    return net, images, people


@torch.no_grad()
def recall(net, images, people, passes=20):
    """Mean over all people of the best OKS among the predictions; batch-norm statistics taken from these pictures."""
    net.train()
    for _ in range(passes):
        dense = net.dense(images)
        found = dense.cls[..., 0] > 0
        if found.sum() > 1:
            net.head.dcc.pose_to_kpts(dense.pose[found])
    best = []
    for i, p in enumerate(net.eval().predict(images)):
        for g in torch.nonzero(people.exists[i])[:, 0]:
            pairs = oks(p['keypoints'], people.keypoints[i, g], people.visible[i, g], people.areas[i, g],
                        net.head.loss_oks.sigmas)
            best.append(float(pairs.max()) if len(pairs) else 0.0)
    return sum(best) / len(best), len(best)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--bank', required=True)
    parser.add_argument('--side', type=int, default=128)
    parser.add_argument('--steps', type=int, default=170)
    parser.add_argument('--pictures', type=int, default=8)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    a = parser.parse_args()
    bank = data.Bank.load(a.bank)[slice(0, a.pictures)]
    quality, count = recall(*learn(bank, a.side, a.steps, a.device))
    print(f'OKS {quality:.3f} over {count} people')
    if quality <= 0.9:
        raise SystemExit('below 0.9')


if __name__ == '__main__':
    main()
