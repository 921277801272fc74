"""Hints of a teacher: the student's maps learn to give those of a trained detector (FitNets, arXiv 1412.6550).

A pose network trained from nothing learns for long what edges, parts and objects are; the maps of a detector say it at
every pixel. The teacher is YOLOX-nano as ONNX (needs the package `onnx`), run in PyTorch on the same pictures; one 1x1
convolution for each map turns the student's channels into the teacher's. Neither is part of the trained model.
"""
import torch
import torch.nn.functional as F
from torch import nn

# Maps of the teacher by the name of the tensor in YOLOX-nano's graph, and the student's module that gives the same.
MAPS = {'backbone.stage1': 'input.67', 'backbone.stage2': 'input.175', 'backbone.stage3': 'input.283',
        'backbone.stage4': 'input.359', 'neck.pan_blocks.0': 'input.531', 'neck.pan_blocks.1': 'input.591'}
FIRST = 'input'  # what Focus gives, the first convolution's input


class Teacher:
    """The graph of an ONNX file up to the wanted tensors, from images [b, 3, h, w], BGR, 0 to 255."""

    def __init__(self, path, wanted):
        import onnx
        from onnx import numpy_helper
        graph = onnx.load(path).graph
        constants = {t.name: torch.from_numpy(numpy_helper.to_array(t).copy()) for t in graph.initializer}
        self.wanted, self.nodes = set(wanted), []
        outputs, started = set(), False
        for node in graph.node:
            if started and not self.wanted <= outputs:
                attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
                given = [constants[n].to(memory_format=torch.channels_last) for n in node.input
                         if n in constants and constants[n].ndim == 4] + [constants[n] for n in node.input
                                                                          if n in constants and constants[n].ndim < 4]
                self.nodes.append((node.op_type, [n for n in node.input if n not in constants], given, attributes,
                                   node.output[0]))
            outputs.add(node.output[0])
            started = started or node.output[0] == FIRST
        missing = self.wanted - outputs
        if missing:
            raise ValueError(f'{path}: no tensors {sorted(missing)}; the hints are made for YOLOX-nano')

    @torch.no_grad()
    def __call__(self, images):
        x = images
        values = {FIRST: torch.cat((x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]), 1)}
        for kind, inputs, given, attributes, output in self.nodes:
            a = [values[n] for n in inputs]
            if kind == 'Conv':
                value = F.conv2d(a[0], *given, stride=attributes['strides'], padding=attributes['pads'][:2],
                                 groups=attributes['group'])
            elif kind == 'Sigmoid':
                value = a[0]  # each belongs to a SiLU, which the product below computes
            elif kind == 'Mul':
                value = F.silu(a[0])
            elif kind == 'Add':
                value = a[0] + a[1]
            elif kind == 'Concat':
                value = torch.cat(a, attributes['axis'])
            elif kind == 'MaxPool':
                value = F.max_pool2d(a[0], attributes['kernel_shape'], 1, attributes['pads'][:2])
            elif kind == 'Resize':
                value = F.interpolate(a[0], scale_factor=2.0, mode='nearest')
            else:
                raise ValueError(f'operator {kind} of the teacher is not known here')
            values[output] = value
        return {n: values[n] for n in self.wanted}


class Hints(nn.Module):
    """The loss between a network's maps and its teacher's; the maps are caught while the network runs."""

    def __init__(self, net, path):
        super().__init__()
        self.teacher, self.caught = Teacher(path, MAPS.values()), {}
        size = 64
        with torch.no_grad():
            images = torch.zeros(2, 3, size, size)
            self.catch(net)
            net.neck(net.backbone(images))
            theirs = self.teacher(images)
        self.adaptors = nn.ModuleList(nn.Conv2d(self.caught[mine].shape[1], theirs[name].shape[1], 1)
                                      for mine, name in MAPS.items())

    def catch(self, net):
        for name in MAPS:
            net.get_submodule(name).register_forward_hook(
                lambda _, __, out, name=name: self.caught.__setitem__(name, out))

    def forward(self, images):
        """Mean squared error of the maps of the network's last run on the images, channels scaled to unit variance."""
        theirs = self.teacher(images)
        loss = 0
        for adaptor, (mine, name) in zip(self.adaptors, MAPS.items()):
            target = F.batch_norm(theirs[name], None, None, training=True)
            loss = loss + F.mse_loss(adaptor(self.caught[mine]), target)
        return loss / len(MAPS)
