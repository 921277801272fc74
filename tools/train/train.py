"""Trains RTMO as the paper does (section 3.3), from banks of rendered scenes or annotated photos.

    python -m tools.train.train --arch t --bank train.pt --val val.pt --out run --hours 0.3 [--minutes 8] [--resume run/state.pt]

The course of training is a fraction: of --hours of training time in all, or of --steps. Up to 280/600 the proxy
keypoints learn from the annotation; after that from the classifier; from 580/600 without Mosaic and with an L1 loss on
boxes. A number of steps written to the file `steps` of the folder while it runs changes the course's length. --minutes
or SIGTERM ends one call early, with the state written; --resume goes on. Learning rates are those of the paper for a
batch of 256, in proportion to the batch.

Written to --out: state.pt (resumable), weights.safetensors (averaged, FP16), log.jsonl, samples.jpg; with --pieces a
folder of files under 16 MB that together resume the run.
"""
import argparse
import copy
import json
import math
import os
import signal
import time

import torch

from . import augment, data, evaluate, export, hints, losses, model, views

EPOCHS = 600  # the paper's; fractions below are in its epochs
WARMUP, SWITCH, CLOSE = 5 / EPOCHS, 280 / EPOCHS, 580 / EPOCHS
RATE, FLOOR, SECOND_RATE = 0.004, 0.0002, 0.0005
DECAY, CLIP = 0.05, 0.1
ENCODER_SHARE = 0.05
SHORT_WARMUP, SHORT_ENCODER_SHARE, SHORT_DCC_SHARE = 0.02, 0.4, 0.1  # the classifier stays smooth
STEADY_WARMUP, STEADY_SWITCH, STEADY_CLOSE, STEADY_FALL = 0.003, 0.2, 0.75, 0.5
COCO_SIDE = 640  # of COCO's photos as sources of views
HINT_END = 0.5  # where in the course the teacher's hints have faded


def rate(progress, share=1.0):
    """Learning rate at a batch of 256; `share` that of the parameter group.

    Quadratic warm-up to 0.004, cosine to 0.0002, then, in the second stage, cosine from 2.5 times that back to 0.0002.
    """
    base = RATE * share
    if progress < WARMUP:
        return base * (progress / WARMUP) ** 2
    cosine = lambda t: (1 + math.cos(math.pi * t)) / 2
    first = lambda p: FLOOR + (base - FLOOR) * cosine((p - WARMUP) * EPOCHS / 280)
    if progress < SWITCH:
        return first(progress)
    if progress < CLOSE:
        start = first(SWITCH) * SECOND_RATE / FLOOR
        return FLOOR + (start - FLOOR) * cosine(max(progress * EPOCHS - 281, 0) / 300)
    return FLOOR


def short_rate(progress, share=1.0):
    """The rate of a short course from scratch: warm-up, then one cosine from 0.004 down to a fiftieth."""
    base = RATE * share
    if progress < SHORT_WARMUP:
        return base * progress / SHORT_WARMUP
    return base * (0.02 + 0.98 * (1 + math.cos(math.pi * (progress - SHORT_WARMUP) / (1 - SHORT_WARMUP))) / 2)


def steady_rate(progress, share=1.0):
    """The rate of a course with useful averages on the way: warm-up, slowly down to a half, in the last quarter a cosine."""
    base = RATE * share
    if progress < STEADY_WARMUP:
        return base * progress / STEADY_WARMUP
    if progress < STEADY_CLOSE:
        return base * (1 - (1 - STEADY_FALL) * progress / STEADY_CLOSE)
    end = (progress - STEADY_CLOSE) / (1 - STEADY_CLOSE)
    return base * STEADY_FALL * (0.02 + 0.98 * (1 + math.cos(math.pi * end)) / 2)


def stage(progress):
    return losses.FIRST if progress < SWITCH else losses.SECOND if progress < CLOSE else losses.CLOSING


def short_stage(progress):
    return losses.SHORT_FIRST if progress < SWITCH else losses.SHORT_SECOND


def steady_stage(progress):
    return losses.SHORT_FIRST if progress < STEADY_SWITCH else losses.SHORT_SECOND


# Rate and stage of the courses: the paper's; from scratch in some thousand steps; in some ten thousand, with stops.
COURSES = {'paper': (rate, stage), 'short': (short_rate, short_stage), 'steady': (steady_rate, steady_stage)}


def parameter_groups(net, encoder_share=ENCODER_SHARE, dcc_share=1.0, backbone_share=1.0):
    """AdamW's groups: the transformer at a twentieth of the rate; norms and biases without decay."""
    norms = (torch.nn.BatchNorm2d, torch.nn.BatchNorm1d, torch.nn.LayerNorm)
    groups = {}
    for prefix, module in net.named_modules():
        for name, p in module.named_parameters(recurse=False):
            path = f'{prefix}.{name}'
            share = (encoder_share if path.startswith('neck.encoder') else dcc_share if path.startswith('head.dcc') else
                     backbone_share if path.startswith('backbone') else 1.0)
            decay = 0.0 if isinstance(module, norms) or name == 'bias' else DECAY
            groups.setdefault((share, decay), []).append(p)
    return [dict(params=p, share=share, weight_decay=decay) for (share, decay), p in groups.items()]


class Average:
    """Exponential moving average of weights and buffers, faster in the first steps: 2000 at the paper's 0.0002."""

    def __init__(self, net, momentum):
        self.net = copy.deepcopy(net).eval().requires_grad_(False)
        self.momentum, self.gamma, self.steps = momentum, 0.4 / momentum, 0

    @torch.no_grad()
    def update(self, net):
        share = 1.0 if self.steps == 0 else (1 - self.momentum) * math.exp(-(1 + self.steps) / self.gamma) + self.momentum
        mine, theirs = self.net.state_dict(), net.state_dict()
        names = [n for n, t in mine.items() if t.is_floating_point()]
        torch._foreach_lerp_([mine[n] for n in names], [theirs[n] for n in names], share)
        self.steps += 1


def initialised(net, path):
    """Starts from the tensors of a checkpoint that fit by name and shape; returns how many did."""
    if path.endswith('.safetensors'):
        from safetensors.torch import load_file
        state = load_file(path)
    else:
        state = torch.load(path, map_location='cpu', weights_only=True)
        state = state.get('state_dict', state)
    mine = net.state_dict()
    fit = {k: v.to(mine[k].dtype) for k, v in state.items() if k in mine and v.shape == mine[k].shape}
    if not fit:
        raise ValueError(f'{path}: no tensor fits rtmo-{net.arch}')
    net.load_state_dict(fit, strict=False)
    return len(fit)


class Trainer:
    """One run: network, average, optimiser, augmentation and the state that resumes them."""

    def __init__(self, args):
        torch.manual_seed(args.seed)
        self.args, self.device = args, torch.device(args.device)
        self.net = model.Rtmo(args.arch, args.keypoints).to(self.device)
        if args.short or args.smooth:
            self.net.head.dcc.smooth()
        if args.init:
            print(f'{args.init}: {initialised(self.net, args.init)} tensors')
        if self.device.type == 'cuda':
            torch.backends.cudnn.benchmark = True
            torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
        self.net.to(memory_format=torch.channels_last)
        self.average = Average(self.net, args.ema)
        self.rate, self.stage = COURSES['steady' if args.steady else 'short' if args.short else 'paper']
        shares = (SHORT_ENCODER_SHARE, SHORT_DCC_SHARE) if args.short else (ENCODER_SHARE, 1.0)
        groups = parameter_groups(self.net, *shares, args.backbone_share)
        self.hints = None
        if args.hints:
            self.hints = hints.Hints(self.net, args.hints).to(self.device)
            groups.append(dict(params=list(self.hints.parameters()), share=1.0, weight_decay=0.0))
        self.optimizer = torch.optim.AdamW(groups, lr=RATE, weight_decay=DECAY, fused=True)
        self.augmenter = augment.Augmenter(self.device, args.seed, mixup=args.arch != 't' if args.mixup is None else
                                           args.mixup == 'on')
        self.step, self.seconds = 0, 0.0
        if args.resume:
            self.load(export.read_state(args.resume))

    def state(self):
        return dict(arch=self.args.arch, keypoints=self.args.keypoints, side=self.args.side, step=self.step,
                    seconds=self.seconds, model=self.net.state_dict(), ema=self.average.net.state_dict(),
                    ema_steps=self.average.steps, optimizer=self.optimizer.state_dict(),
                    random=self.augmenter.generator.get_state(),
                    hints=self.hints.state_dict() if self.hints else {})

    def load(self, state):
        if (state['arch'], state['keypoints']) != (self.args.arch, self.args.keypoints):
            raise ValueError(f'the state is of rtmo-{state["arch"]} with {state["keypoints"]} keypoints')
        self.step, self.seconds = state['step'], state['seconds']
        self.net.load_state_dict(state['model'])
        self.average.net.load_state_dict(state['ema'])
        self.average.steps = state['ema_steps']
        self.optimizer.load_state_dict(state['optimizer'])
        self.augmenter.generator.set_state(state['random'].cpu())
        if self.hints:
            self.hints.load_state_dict(state['hints'])

    @property
    def progress(self):
        a = self.args
        done = self.step / a.steps if a.steps else self.seconds / (a.hours * 3600)
        return min(a.start + (1 - a.start) * done, 1.0)

    @torch.no_grad()
    def batch(self, bank, now):
        """Pictures and people of one step, from a bank or from `views.Views`."""
        a = self.args
        scales = a.late_scales if now.refined and a.late_scales else a.scales
        if isinstance(bank, views.Views):
            side = self.augmenter.drawn_side(scales) if scales else a.side
            images, people = self.augmenter.finished(*bank.batch(a.batch, side))
        else:
            images, people = self.augmenter.batch(bank, a.batch, closing=not a.mosaic if a.short else now.auxiliary)
            if scales:
                images, people = self.augmenter.resized(images, people, scales)
            else:
                images, people = augment.resized(images, people, a.side)
        return images.contiguous(memory_format=torch.channels_last), people

    def train_step(self, bank):
        """One batch; returns the parts of the loss and the positives' mean OKS, on the device."""
        a, progress = self.args, self.progress
        now = self.stage(progress)
        images, people = self.batch(bank, now)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == 'cuda'):
            dense = self.net.dense(images, offsets=True)
        parts, oks = losses.training_loss(self.net.head, dense, people, now)
        if self.hints and progress < HINT_END:
            parts['hint'] = self.hints(images) * a.hint_weight * (1 - progress / HINT_END)
        for group in self.optimizer.param_groups:
            group['lr'] = self.rate(progress, group['share']) * a.batch / 256 * a.rate
        self.optimizer.zero_grad(set_to_none=True)
        sum(parts.values()).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.net.parameters(), CLIP)
        self.optimizer.step()
        self.average.update(self.net)
        self.step += 1
        return {name: v.detach() for name, v in parts.items()} | {'mean_oks': oks, 'norm': norm}

    def save(self):
        path = os.path.join(self.args.out, 'state.pt')
        state = self.state()
        torch.save(state, path + '.part')
        os.replace(path + '.part', path)
        export.save_weights(state['ema'], os.path.join(self.args.out, 'weights.safetensors'), self.args.arch,
                            self.args.side)
        if self.args.pieces:
            export.split({**state, 'model': {k: v.cpu() for k, v in state['model'].items()}}, self.args.pieces)

    def shorten(self):
        """Takes the length of the course in steps from the file `steps` of the folder, if there is one."""
        path = os.path.join(self.args.out, 'steps')
        if self.args.steps and os.path.exists(path):
            with open(path) as f:
                self.args.steps = int(f.read())

    def run(self, bank, validation):
        a = self.args
        os.makedirs(a.out, exist_ok=True)
        began = last_save = last_log = time.time()
        already, totals, counted = self.seconds, None, 0
        self.net.train()
        log = open(os.path.join(a.out, 'log.jsonl'), 'a')

        def write(entry):
            print(json.dumps(entry), file=log, flush=True)
            print(json.dumps(entry), flush=True)

        def check():
            result, predictions = evaluate.evaluate(self.average.net, validation, self.device, side=a.side)
            write({'step': self.step, **{f'val_{k}': round(v, 4) for k, v in result.items()}})
            evaluate.sample_sheet(validation, predictions, os.path.join(a.out, 'samples.jpg'))

        stopped = []
        signal.signal(signal.SIGTERM, lambda *_: stopped.append(True))
        while self.progress < 1 and time.time() - began < a.minutes * 60 and not stopped:
            parts = self.train_step(bank)
            totals = parts if totals is None else {k: totals.get(k, 0) + v for k, v in parts.items()}
            counted += 1
            self.seconds = already + time.time() - began
            if time.time() - last_log > a.log_every or self.step == 1:
                self.shorten()
                elapsed = time.time() - last_log
                values = {k: round(float(v) / counted, 4) for k, v in totals.items()}
                if not math.isfinite(sum(values.values())):
                    raise FloatingPointError(f'step {self.step}: the loss is not finite: {values}')
                write({'step': self.step, 'progress': round(self.progress, 4), **values,
                       'rate': round(self.rate(self.progress) * a.batch / 256 * a.rate, 7),
                       'pictures_per_second': round(counted * a.batch / elapsed, 1)})
                totals, counted, last_log = None, 0, time.time()
            if time.time() - last_save > a.save_every * 60:
                self.save()
                if validation is not None:
                    check()
                last_save = last_log = time.time()
        self.save()
        if validation is not None:
            check()
        write({'step': self.step, 'progress': round(self.progress, 4), 'minutes': round(self.seconds / 60, 2)})


def arguments(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add('--arch', choices=sorted(model.ARCHS), default='t')
    add('--keypoints', type=int, choices=(14, 17), default=17)
    add('--bank', nargs='*', default=[], help='made by tools.synth.render')
    add('--coco', help='annotation file of person keypoints to train on, with --images')
    add('--images', help='folder of the photos of --coco')
    add('--without', help='text file of names of photos to leave out')
    add('--repeat', type=int, default=1, help='how often to count each photo beside the pictures of --bank')
    add('--val', help='bank to evaluate on')
    add('--val-coco', help='text file of names of photos of --coco to evaluate on instead')
    add('--out', required=True)
    add('--side', type=int, help='network input; default: the architecture\'s own')
    add('--scales', type=int, nargs=2, help='sides of multi-scale training; default: none')
    add('--late-scales', type=int, nargs=2, help='the same from the second stage on')
    add('--steady', action='store_true', help='--short for some ten thousand steps, with the rate of `steady_rate`')
    add('--short', action='store_true', help='for some thousand steps: one cosine, L1 losses, no Mosaic')
    add('--smooth', action='store_true', help='begin with smooth heatmaps (model.Dcc.smooth); --short does so')
    add('--views', type=float, nargs='+', metavar='SHARE', help='instead of Mosaic or whole pictures, views (views.py); '
        'the share of each --bank, and of --coco last')
    add('--hints', help='ONNX file of YOLOX-nano, whose maps the network learns to give')
    add('--hint-weight', type=float, default=20.0, help='at first; falls to 0 half way')
    add('--threads', type=int, help='of the CPU')
    add('--mosaic', action='store_true', help='Mosaic with --short')
    add('--batch', type=int, default=32)
    add('--hours', type=float, default=1.0, help='length of the whole course')
    add('--steps', type=int, help='length of the whole course in steps, instead of --hours')
    add('--minutes', type=float, default=1e9, help='length of this call')
    add('--start', type=float, default=0.0, help='where in the course to begin, 0 to 1: 0.967 for the closing epochs')
    add('--rate', type=float, default=1.0, help='factor on the learning rate')
    add('--ema', type=float, default=0.0002, help='momentum of the average; raise it for short runs')
    add('--mixup', choices=('on', 'off'), help='default: off for t, on for the others')
    add('--backbone-share', type=float, default=1.0, help='factor on the rate of the backbone: below 1 where it is trained')
    add('--init', help='checkpoint to start from')
    add('--resume', help='state.pt, or a folder of pieces')
    add('--pieces', help='also write the state here, in files under 16 MB')
    add('--save-every', type=float, default=3.0, help='minutes')
    add('--log-every', type=float, default=10.0, help='seconds')
    add('--seed', type=int, default=0)
    add('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    a = parser.parse_args(argv)
    a.side = a.side or model.ARCHS[a.arch].size
    a.short = a.short or a.steady
    if not (a.bank or a.coco):
        parser.error('give --bank, or --coco and --images')
    if a.views and len(a.views) != len(a.bank) + bool(a.coco):
        parser.error(f'--views: {len(a.views)} shares for {len(a.bank) + bool(a.coco)} banks')
    if a.views and a.device != 'cpu':
        parser.error('--views are made on the CPU: add --device cpu')
    if any(s % 32 for s in (a.scales or []) + (a.late_scales or []) + [a.side]):
        parser.error('sides are multiples of 32')
    return a


def main(argv=None):
    a = arguments(argv)
    if a.threads:
        torch.set_num_threads(a.threads)
    banks = [data.Bank.load(path) for path in a.bank]
    validation = data.Bank.load(a.val) if a.val else None
    if a.coco:
        banks += [evaluate.subset(a.coco, a.images, COCO_SIDE if a.views else a.side, without=a.without)] * a.repeat
        if a.val_coco:
            validation = evaluate.subset(a.coco, a.images, a.side, only=a.val_coco)
    if a.views:
        trainer = Trainer(a)
        trainer.run(views.Views(banks, a.views, trainer.augmenter.generator), validation)
        return
    bank = data.merged(banks)
    if a.device == 'cuda' and bank.images.numel() < 0.5 * torch.cuda.get_device_properties(0).total_memory:
        bank = bank.to('cuda')
    print(f'rtmo-{a.arch}, {len(bank)} pictures, {int((bank.areas > 0).sum())} people, {a.device}', flush=True)
    Trainer(a).run(bank, validation)


if __name__ == '__main__':
    main()
