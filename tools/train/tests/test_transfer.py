"""A detector's backbone as a beginning: what is fitted is what a linear layer computes."""
import unittest

import torch

from tools.train import model, transfer


class Transfer(unittest.TestCase):
    def test_a_linear_layer_is_found_again(self):
        torch.manual_seed(0)
        backbone = model.CspDarknet(0.25, 0.33).eval()
        images = torch.rand(4, 3, 64, 64) * 255
        layers = dict(transfer.pairs(backbone))
        self.assertEqual(len(layers), 35)
        stem = layers['stem.conv']
        weight, bias = torch.randn_like(stem.conv.weight), torch.randn(len(stem.conv.weight))
        x = transfer.inputs(backbone, stem, images)
        target = torch.nn.functional.conv2d(x, weight, bias, padding=1)
        explained = transfer.fit(backbone, stem, [images], [target])
        self.assertGreater(explained, 0.999)
        # Batch norm in inference gives the sums themselves.
        found = stem.bn(stem.conv(x))
        self.assertLess(float((found - target).norm() / target.norm()), 0.01)

    def test_noise_is_not_explained(self):
        torch.manual_seed(1)
        backbone = model.CspDarknet(0.25, 0.33).eval()
        images = torch.rand(4, 3, 64, 64) * 255
        stem = dict(transfer.pairs(backbone))['stem.conv']
        explained = transfer.fit(backbone, stem, [images], [torch.randn(4, 16, 32, 32)])
        self.assertLess(explained, 0.2)


if __name__ == '__main__':
    unittest.main()
