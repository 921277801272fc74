"""RTMO t, s, m, l and r50 as PyTorch modules, and n, of RTMO-t's depth and YOLOX-nano's width.

Names and shapes of the state dict are those of the published checkpoints, so that a file loads here, in mmpose 1.3.2
and in the engine alike. Maps are [batch, channels, height, width]; images are BGR, 0 to 255. Grids are ordered level
by level, row by row.
"""
import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

# Keypoint deviations k_i of OKS, halved as the data sets state them: COCO and CrowdPose.
COCO_SIGMAS = (0.026, 0.025, 0.025, 0.035, 0.035, 0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087,
               0.089, 0.089)
CROWDPOSE_SIGMAS = (0.079, 0.079, 0.072, 0.072, 0.062, 0.062, 0.107, 0.107, 0.087, 0.087, 0.089, 0.089, 0.079, 0.079)
SIGMAS = {17: COCO_SIGMAS, 14: CROWDPOSE_SIGMAS}
# Left and right swapped.
FLIP = {17: (0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15),
        14: (1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 12, 13)}


@dataclass(frozen=True)
class Arch:
    """Width and depth multipliers, the usual input side, and the range of sides of multi-scale training.

    resnet: the backbone is ResNet-50 and the multipliers are those of neck and head alone.
    """
    widen: float
    deepen: float
    size: int
    scales: tuple
    resnet: bool = False


ARCHS = {
    'n': Arch(0.25, 0.33, 320, (256, 416)),
    't': Arch(0.375, 0.33, 416, (320, 640)),
    's': Arch(0.5, 0.33, 640, (480, 800)),
    'm': Arch(0.75, 0.67, 640, (480, 800)),
    'l': Arch(1.0, 1.0, 640, (480, 800)),
    'r50': Arch(1.0, 1.0, 640, (480, 800), resnet=True),
}
HIDDEN = 256
DARKNET_NORM = dict(momentum=0.03, eps=1e-3)
NECK_NORM = {}


class ConvModule(nn.Module):
    """Convolution without bias, batch norm and, unless told otherwise, SiLU."""

    def __init__(self, cin, cout, kernel, stride=1, groups=1, norm=DARKNET_NORM, act=True):
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(cout, **norm)
        self.activate = nn.SiLU(inplace=True) if act else nn.Identity()

    def forward(self, x):
        return self.activate(self.bn(self.conv(x)))


class Focus(nn.Module):
    """Blocks of 2x2 pixels become channels."""

    def __init__(self, cout):
        super().__init__()
        self.conv = ConvModule(12, cout, 3)

    def forward(self, x):
        return self.conv(torch.cat((x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]), 1))


class SppBottleneck(nn.Module):
    """Max pools of 5, 9 and 13 beside the identity; the larger windows are repeated windows of 5."""

    def __init__(self, channels):
        super().__init__()
        self.conv1 = ConvModule(channels, channels // 2, 1)
        self.conv2 = ConvModule(channels * 2, channels, 1)

    def forward(self, x):
        maps = [self.conv1(x)]
        for _ in range(3):
            maps.append(F.max_pool2d(maps[-1], 5, 1, 2))
        return self.conv2(torch.cat(maps, 1))


class DarknetBottleneck(nn.Module):
    def __init__(self, channels, identity):
        super().__init__()
        self.conv1 = ConvModule(channels, channels, 1)
        self.conv2 = ConvModule(channels, channels, 3)
        self.identity = identity

    def forward(self, x):
        y = self.conv2(self.conv1(x))
        return y + x if self.identity else y


class CspLayer(nn.Module):
    def __init__(self, channels, blocks, identity):
        super().__init__()
        mid = channels // 2
        self.main_conv = ConvModule(channels, mid, 1)
        self.short_conv = ConvModule(channels, mid, 1)
        self.final_conv = ConvModule(2 * mid, channels, 1)
        self.blocks = nn.Sequential(*(DarknetBottleneck(mid, identity) for _ in range(blocks)))

    def forward(self, x):
        return self.final_conv(torch.cat((self.blocks(self.main_conv(x)), self.short_conv(x)), 1))


class CspDarknet(nn.Module):
    """Backbone: image to C3, C4, C5 at strides 8, 16, 32, of `channels`."""

    def __init__(self, widen, deepen):
        super().__init__()
        self.channels = [int(c * widen) for c in (256, 512, 1024)]
        wide = [int(c * widen) for c in (64, 128, 256, 512, 1024)]
        self.stem = Focus(wide[0])
        for i, blocks in enumerate((3, 9, 9, 3)):
            last = i == 3
            stage = [ConvModule(wide[i], wide[i + 1], 3, 2)]
            if last:
                stage.append(SppBottleneck(wide[i + 1]))
            stage.append(CspLayer(wide[i + 1], max(round(blocks * deepen), 1), identity=not last))
            self.add_module(f'stage{i + 1}', nn.Sequential(*stage))

    def forward(self, x):
        c3 = self.stage2(self.stage1(self.stem(x)))
        c4 = self.stage3(c3)
        return c3, c4, self.stage4(c4)


class ResNetBottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut; the 3x3 convolution has the stride."""
    EXPANSION = 4

    def __init__(self, cin, mid, stride):
        super().__init__()
        cout = mid * self.EXPANSION
        self.conv1, self.bn1 = nn.Conv2d(cin, mid, 1, bias=False), nn.BatchNorm2d(mid)
        self.conv2, self.bn2 = nn.Conv2d(mid, mid, 3, stride, 1, bias=False), nn.BatchNorm2d(mid)
        self.conv3, self.bn3 = nn.Conv2d(mid, cout, 1, bias=False), nn.BatchNorm2d(cout)
        self.downsample = None
        if stride != 1 or cin != cout:
            self.downsample = nn.Sequential(nn.Conv2d(cin, cout, 1, stride, bias=False), nn.BatchNorm2d(cout))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        return F.relu(self.bn3(self.conv3(y)) + (x if self.downsample is None else self.downsample(x)))


class ResNet50(nn.Module):
    """Backbone of RTMO-r50 (table 1 of the paper): image to C3, C4, C5 at strides 8, 16, 32; mmpose's `ResNet`."""
    channels = [512, 1024, 2048]

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64)
        cin = 64
        for i, blocks in enumerate((3, 4, 6, 3)):
            mid, layer = 64 << i, []
            for block in range(blocks):
                layer.append(ResNetBottleneck(cin, mid, 2 if i and not block else 1))
                cin = mid * ResNetBottleneck.EXPANSION
            self.add_module(f'layer{i + 1}', nn.Sequential(*layer))

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        c3 = self.layer2(self.layer1(x))
        c4 = self.layer3(c3)
        return c3, c4, self.layer4(c4)


class RepVggBlock(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.branch_3x3 = ConvModule(channels, channels, 3, norm=NECK_NORM, act=False)
        self.branch_1x1 = ConvModule(channels, channels, 1, norm=NECK_NORM, act=False)

    def forward(self, x):
        return F.silu(self.branch_3x3(x) + self.branch_1x1(x))


class CspRepLayer(nn.Module):
    def __init__(self, widen, blocks):
        super().__init__()
        mid = int(HIDDEN * widen)
        self.conv1 = ConvModule(2 * HIDDEN, mid, 1, norm=NECK_NORM)
        self.conv2 = ConvModule(2 * HIDDEN, mid, 1, norm=NECK_NORM)
        self.bottlenecks = nn.Sequential(*(RepVggBlock(mid) for _ in range(blocks)))
        self.conv3 = ConvModule(mid, HIDDEN, 1, norm=NECK_NORM) if mid != HIDDEN else nn.Identity()

    def forward(self, x):
        return self.conv3(self.bottlenecks(self.conv1(x)) + self.conv2(x))


class SineEncoding(nn.Module):
    """PE(x) = [cos(x / T_i), sin(x / T_i)] with T_i = temperature^(i / n), n half the channels."""

    def __init__(self, channels, temperature):
        super().__init__()
        n = channels // 2
        self.register_buffer('dim_t', temperature ** (torch.arange(n, dtype=torch.float32) / n))

    def forward(self, position):
        angle = position.unsqueeze(-1) / self.dim_t
        return torch.cat((angle.cos(), angle.sin()), -1)


class Attention(nn.Module):
    def __init__(self, channels, heads):
        super().__init__()
        self.attn = nn.MultiheadAttention(channels, heads, batch_first=True)

    def forward(self, x, position):
        query = x + position
        return self.attn(query, query, x, need_weights=False)[0]


class FeedForward(nn.Module):
    def __init__(self, channels, inner):
        super().__init__()
        self.layers = nn.Sequential(nn.Sequential(nn.Linear(channels, inner), nn.GELU()), nn.Linear(inner, channels))

    def forward(self, x):
        return self.layers(x)


class EncoderLayer(nn.Module):
    """One post-norm transformer layer."""

    def __init__(self):
        super().__init__()
        self.self_attn = Attention(HIDDEN, 8)
        self.ffn = FeedForward(HIDDEN, 4 * HIDDEN)
        self.norms = nn.ModuleList((nn.LayerNorm(HIDDEN), nn.LayerNorm(HIDDEN)))

    def forward(self, x, position):
        x = self.norms[0](x + self.self_attn(x, position))
        return self.norms[1](x + self.ffn(x))


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList((EncoderLayer(),))

    def forward(self, x, position):
        return self.layers[0](x, position)


class Projector(nn.Module):
    def __init__(self, channels, levels):
        super().__init__()
        self.convs = nn.ModuleList(
            ConvModule(HIDDEN, channels, 1, norm=NECK_NORM, act=False) for _ in range(levels))

    def forward(self, maps):
        return [conv(x) for conv, x in zip(self.convs, maps)]


class HybridEncoder(nn.Module):
    """Neck: C3, C4, C5 of `inputs` channels to the last `levels` of P3, P4, P5 of `channels`."""

    def __init__(self, inputs, widen, deepen, channels, levels):
        super().__init__()
        self.levels = levels
        blocks = round(3 * deepen)
        self.input_proj = nn.ModuleList(
            ConvModule(c, HIDDEN, 1, norm=NECK_NORM, act=False) for c in inputs)
        self.encoder = nn.ModuleList((Encoder(),))
        self.sincos_pos_enc = SineEncoding(HIDDEN // 2, 10000)
        self.lateral_convs = nn.ModuleList(ConvModule(HIDDEN, HIDDEN, 1, norm=NECK_NORM) for _ in range(2))
        self.fpn_blocks = nn.ModuleList(CspRepLayer(widen, blocks) for _ in range(2))
        self.downsample_convs = nn.ModuleList(ConvModule(HIDDEN, HIDDEN, 3, 2, norm=NECK_NORM) for _ in range(2))
        self.pan_blocks = nn.ModuleList(CspRepLayer(widen, blocks) for _ in range(2))
        self.projector = Projector(channels, levels)

    def positions(self, height, width):
        """Encoding of a map's cells [1, height * width, 256]: cosines and sines of y, then of x."""
        ys = torch.arange(height, dtype=torch.float32, device=self.sincos_pos_enc.dim_t.device)
        xs = torch.arange(width, dtype=torch.float32, device=ys.device)
        y = self.sincos_pos_enc(ys)[:, None].expand(height, width, -1)
        x = self.sincos_pos_enc(xs)[None].expand(height, width, -1)
        return torch.cat((y, x), -1).reshape(1, height * width, HIDDEN)

    def forward(self, maps):
        c3, c4, c5 = (proj(x) for proj, x in zip(self.input_proj, maps))
        batch, _, height, width = c5.shape
        tokens = c5.flatten(2).transpose(1, 2)
        tokens = self.encoder[0](tokens, self.positions(height, width).to(tokens.dtype))
        high = self.lateral_convs[0](tokens.transpose(1, 2).reshape(batch, HIDDEN, height, width))
        mid = self.lateral_convs[1](self.fpn_blocks[0](torch.cat((self.up(high), c4), 1)))
        p3 = self.fpn_blocks[1](torch.cat((self.up(mid), c3), 1))
        p4 = self.pan_blocks[0](torch.cat((self.downsample_convs[0](p3), mid), 1))
        p5 = self.pan_blocks[1](torch.cat((self.downsample_convs[1](p4), high), 1))
        return self.projector((p3, p4, p5)[-self.levels:])

    @staticmethod
    def up(x):
        return F.interpolate(x, scale_factor=2.0, mode='nearest')


class HeadModule(nn.Module):
    """Dense outputs of every level: class logit, raw box, keypoint offsets (for training), visibility, pose feature."""

    def __init__(self, widen, keypoints, channels, levels):
        super().__init__()
        half = int(256 * widen)
        pose = 8 * int(36 * widen)

        def branch(out, groups):
            widths = [half] + [out] * len(groups)
            return nn.Sequential(*(ConvModule(widths[i], out, 3, groups=g) for i, g in enumerate(groups)))

        def per_level(make):
            return nn.ModuleList(make() for _ in range(levels))

        self.conv_cls = per_level(lambda: branch(half, (1, 1)))
        self.out_cls = per_level(lambda: nn.Conv2d(half, 1, 1))
        self.conv_pose = per_level(lambda: branch(pose, (1, 8, 8, 8)))
        self.out_bbox = per_level(lambda: nn.Conv2d(pose, 4, 1))
        self.out_kpt_reg = per_level(lambda: nn.Conv2d(pose, 2 * keypoints, 1))
        self.out_kpt_vis = per_level(lambda: nn.Conv2d(pose, keypoints, 1))
        self.out_pose = per_level(lambda: nn.Conv2d(pose, channels, 1))

    def forward(self, maps, offsets):
        """Lists over levels; the third is empty unless `offsets` is set."""
        out = [], [], [], [], []
        for i, x in enumerate(maps):
            cls, pose = x.chunk(2, 1)
            cls, pose = self.conv_cls[i](cls), self.conv_pose[i](pose)
            out[0].append(self.out_cls[i](cls))
            out[1].append(self.out_bbox[i](pose))
            if offsets:
                out[2].append(self.out_kpt_reg[i](pose))
            out[3].append(self.out_kpt_vis[i](pose))
            out[4].append(self.out_pose[i](pose))
        return out


class ScaleNorm(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.scale = channels ** -0.5
        self.g = nn.Parameter(torch.ones(1))

    def forward(self, x):
        return x / (x.norm(dim=-1, keepdim=True) * self.scale).clamp(min=1e-5) * self.g


class ChannelScale(nn.Module):
    def __init__(self, *shape, value=1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.full(shape, value))

    def forward(self, x):
        return x * self.scale


class GatedAttention(nn.Module):
    """Gated attention unit (arXiv 2202.10447) over the keypoints of a person."""

    def __init__(self, channels, expansion=2, s=128):
        super().__init__()
        self.split = (expansion * channels, expansion * channels, s)
        self.gamma = nn.Parameter(torch.rand(2, s))
        self.beta = nn.Parameter(torch.rand(2, s))
        self.o = nn.Linear(self.split[0], channels, bias=False)
        self.uv = nn.Linear(channels, sum(self.split), bias=False)
        nn.init.xavier_uniform_(self.uv.weight)
        self.ln = ScaleNorm(channels)
        self.res_scale = ChannelScale(channels)

    def forward(self, x, position):
        u, v, base = F.silu(self.uv(self.ln(x))).split(self.split, -1)
        q = base * self.gamma[0] + self.beta[0] + position
        k = base * self.gamma[1] + self.beta[1] + position
        kernel = F.relu(q @ k.transpose(-1, -2) / math.sqrt(self.split[2])).square()
        return self.res_scale(x) + self.o(u * (kernel @ v))


class Dcc(nn.Module):
    """Dynamic coordinate classifier (section 3.2 of the paper).

    For n people: `pose` [n, C], `box` [n, 4] as centre and padded width and height, `grids` [n, 2], all in pixels of
    the network input. The bins of a person span its box: x_i = c_x + t_i w with t from -0.5 to 0.5.
    """
    BINS = (192, 256)
    CHANNELS = 128

    def __init__(self, keypoints, channels):
        super().__init__()
        self.keypoints = keypoints
        self.pos_enc = nn.Parameter(torch.randn(keypoints, self.CHANNELS))
        self.register_buffer('y_bins', torch.linspace(-0.5, 0.5, self.BINS[1]))
        self.register_buffer('x_bins', torch.linspace(-0.5, 0.5, self.BINS[0]))
        self.spe = SineEncoding(self.CHANNELS, 300.0)
        self.gau = GatedAttention(self.CHANNELS)
        self.pose_to_kpts = nn.Sequential(nn.Linear(channels, self.CHANNELS * keypoints),
                                          nn.BatchNorm1d(self.CHANNELS * keypoints))
        self.x_fc = nn.Linear(self.CHANNELS, self.CHANNELS)
        self.y_fc = nn.Linear(self.CHANNELS, self.CHANNELS)
        self.sigma_fc = nn.Sequential(nn.Linear(channels, keypoints), nn.Sigmoid(), ChannelScale(value=0.1))

    @torch.no_grad()
    def smooth(self):
        """Lets training begin with smooth heatmaps: the share of a frequency in the bins' code falls with it.

        Not of the paper. With rough ones, as drawn, the classifier hardly learns in the first thousands of steps.
        """
        period = self.spe.dim_t.repeat(2)
        for fc in (self.x_fc, self.y_fc):
            fc.weight.mul_((period / period.max()).sqrt())

    def bins(self, box):
        """Coordinates of the bins, [n, 192] and [n, 256]."""
        return self.x_bins * box[:, 2:3] + box[:, 0:1], self.y_bins * box[:, 3:4] + box[:, 1:2]

    def heatmaps(self, pose, box, grids):
        """Probabilities over the bins, [n, K, 192] and [n, K, 256].

        f . (W e + b) = (f W) . e + f . b, and the softmax ignores f . b, the same for every bin: the K vectors of a
        person are turned rather than its 448 bins.
        """
        features = self.pose_to_kpts(pose).reshape(-1, self.keypoints, self.CHANNELS)
        features = self.gau(features, self.pos_enc)
        out = []
        for axis, (bins, fc) in enumerate(zip(self.bins(box), (self.x_fc, self.y_fc))):
            code = self.spe(bins - grids[:, axis:axis + 1])
            out.append(((features @ fc.weight) @ code.transpose(-1, -2)).softmax(-1))
        return out

    def decode(self, heatmaps, box):
        """Expected coordinates, [n, K, 2]."""
        return torch.stack([(p * b[:, None]).sum(-1) for p, b in zip(heatmaps, self.bins(box))], -1)

    def deviations(self, pose):
        """Learnt Laplace deviations, relative to the square root of a person's area, [n, K]."""
        return self.sigma_fc(pose)

    def forward(self, pose, box, grids):
        heatmaps = self.heatmaps(pose, box, grids)
        return self.decode(heatmaps, box), heatmaps


class OksSigmas(nn.Module):
    """Holds the deviations under the name that the published checkpoints give them."""

    def __init__(self, keypoints):
        super().__init__()
        self.register_buffer('sigmas', torch.tensor(SIGMAS[keypoints]))


class Head(nn.Module):
    PADDING = 1.25

    def __init__(self, widen, keypoints, channels, levels):
        super().__init__()
        self.loss_oks = OksSigmas(keypoints)
        self.head_module = HeadModule(widen, keypoints, channels, levels)
        self.dcc = Dcc(keypoints, channels)


@dataclass
class Dense:
    """Flattened dense outputs of a batch: [b, n, ...] over all n grids, and the grids' centres and strides [n, ...]."""
    cls: torch.Tensor
    box: torch.Tensor
    offsets: torch.Tensor
    vis: torch.Tensor
    pose: torch.Tensor
    grids: torch.Tensor
    strides: torch.Tensor

    def boxes(self):
        """Decoded boxes x1 y1 x2 y2, [b, n, 4]."""
        stride = self.strides[:, None]
        centre = self.box[..., :2] * stride + self.grids
        half = self.box[..., 2:].exp() * stride / 2
        return torch.cat((centre - half, centre + half), -1)

    def proxies(self):
        """Directly regressed keypoints, [b, n, K, 2]: those that choose the positive grids in training."""
        offsets = self.offsets.unflatten(-1, (-1, 2))
        return offsets * self.strides[:, None, None] + self.grids[:, None]


def padded(boxes, padding=Head.PADDING):
    """x1 y1 x2 y2 to centre and padded width and height, [n, 4]."""
    return torch.cat(((boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) * padding), 1)


class Rtmo(nn.Module):
    """The network of architecture 't', 's', 'm', 'l' or 'r50', for 17 (COCO) or 14 (CrowdPose) keypoints."""

    def __init__(self, arch='t', keypoints=17, levels=2):
        super().__init__()
        spec = ARCHS[arch]
        channels = int(512 * spec.widen)
        self.arch, self.keypoints = arch, keypoints
        self.strides = (8, 16, 32)[-levels:]
        self.backbone = ResNet50() if spec.resnet else CspDarknet(spec.widen, spec.deepen)
        self.neck = HybridEncoder(self.backbone.channels, spec.widen, spec.deepen, channels, levels)
        self.head = Head(spec.widen, keypoints, channels, levels)
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_uniform_(m.weight, a=math.sqrt(5))
                if m.bias is not None:
                    nn.init.zeros_(m.bias)
        for conv in self.head.head_module.out_cls:
            nn.init.constant_(conv.bias, -math.log(99.0))  # a prior of 0.01

    def dense(self, images, offsets=False):
        """Images [b, 3, h, w], both sides multiples of 32, to `Dense`, at least in single precision."""
        maps = self.neck(self.backbone(images))
        lists = self.head.head_module(maps, offsets)
        flat = [torch.cat([m.flatten(2).transpose(1, 2) for m in level], 1) if level else None for level in lists]
        flat = [x.float() if x is not None and x.dtype in (torch.bfloat16, torch.half) else x for x in flat]
        grids, strides = self.grids([m.shape[-2:] for m in maps], images.device)
        return Dense(*flat, grids, strides)

    def grids(self, sizes, device):
        grids, strides = [], []
        for (height, width), stride in zip(sizes, self.strides):
            y, x = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing='ij')
            grids.append(torch.stack((x, y), -1).reshape(-1, 2) * stride + (stride - 1) / 2)
            strides.append(torch.full((height * width,), float(stride), device=device))
        return torch.cat(grids), torch.cat(strides)

    @torch.no_grad()
    def predict(self, images, score_threshold=0.1, nms_threshold=0.65):
        """People of each image: dicts of scores [n], boxes [n, 4], keypoints [n, K, 2] and visibility [n, K]."""
        dense = self.dense(images)
        boxes, scores = dense.boxes(), dense.cls[..., 0].sigmoid()
        height, width = images.shape[-2:]
        people = []
        for i in range(len(images)):
            keep = torch.nonzero(scores[i] > score_threshold)[:, 0]
            keep = keep[scores[i, keep].argsort(descending=True, stable=True)]
            keep = keep[suppress(boxes[i, keep], nms_threshold)]
            box = boxes[i, keep]
            keypoints, _ = self.head.dcc(dense.pose[i, keep], padded(box), dense.grids[keep])
            limit = torch.tensor((width, height, width, height), device=box.device)
            people.append(dict(scores=scores[i, keep], boxes=torch.minimum(box.clamp(min=0), limit),
                               keypoints=keypoints, visibility=dense.vis[i, keep].sigmoid()))
        return people


def iou(a, b, eps=1e-6):
    """Overlap of boxes, broadcast over leading dimensions: [..., 4] and [..., 4] to [...]."""
    size = (torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2])).clamp(min=0)
    overlap = size[..., 0] * size[..., 1]
    area = [(x[..., 2] - x[..., 0]) * (x[..., 3] - x[..., 1]) for x in (a, b)]
    return overlap / (area[0] + area[1] - overlap).clamp(min=eps)


def suppress(boxes, threshold):
    """Greedy suppression of boxes sorted by falling score; indices of those kept."""
    overlaps = (iou(boxes[:, None], boxes[None]) > threshold).cpu().numpy()
    alive = [True] * len(boxes)
    kept = []
    for i in range(len(boxes)):
        if alive[i]:
            kept.append(i)
            for j in overlaps[i, i + 1:].nonzero()[0]:
                alive[i + 1 + j] = False
    return torch.tensor(kept, dtype=torch.long, device=boxes.device)


def load(path):
    """A model from a checkpoint (.pth, .safetensors, or the average of a state.pt); its shapes tell the architecture."""
    if str(path).endswith('.safetensors'):
        from safetensors.torch import load_file
        state = load_file(path)
    else:
        state = torch.load(path, map_location='cpu', weights_only=False)
        state = state.get('ema', state.get('state_dict', state))
    state = {name: t.float() if t.is_floating_point() else t for name, t in state.items()}
    arch = 'r50'
    if 'backbone.stem.conv.conv.weight' in state:
        arch = {16: 'n', 24: 't', 32: 's', 48: 'm', 64: 'l'}[state['backbone.stem.conv.conv.weight'].shape[0]]
    levels = sum(name.startswith('head.head_module.out_cls') and name.endswith('bias') for name in state)
    model = Rtmo(arch, state['head.dcc.pos_enc'].shape[0], levels)
    missing, unexpected = model.load_state_dict(state, strict=False)
    missing = [n for n in missing if not n.endswith(CONSTANTS)]
    if missing or unexpected:
        raise ValueError(f'{path}: missing tensors {missing[:4]}, unknown tensors {unexpected[:4]}')
    return model


# Tensors that follow from the architecture alone, or that nothing reads.
CONSTANTS = ('dim_t', 'x_bins', 'y_bins', 'num_batches_tracked')
