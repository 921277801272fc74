"""Weights for the engine, and training states in pieces.

    python -m tools.train.export run/state.pt --demo --out demo.safetensors

writes the averaged (EMA) weights in FP16; rtmo-t takes 13.7 MB. Names are those of the published checkpoints, so that
the engine and mmpose read the file; its metadata tells the engine the input size, and with --demo that this is the
demonstration model.
"""
import argparse
import glob
import io
import os

import torch

from . import model

PIECE = 15 << 20


def weights(state, half=True):
    """A network's tensors without counters and constants, as FP16 unless told otherwise."""
    out = {}
    for name, t in state.items():
        if name.endswith(model.CONSTANTS):
            continue
        if half and not bool((t.float().abs() < 65504).all()):
            raise ValueError(f'{name}: beyond the range of FP16')
        out[name] = (t.half() if half else t.float()).contiguous().cpu()
    return out


def save_weights(net_state, path, arch, side, half=True, demo=False):
    from safetensors.torch import save_file
    keypoints = len(net_state['head.dcc.pos_enc'])
    metadata = {'format': 'pt', 'arch': f'rtmo-{arch}', 'keypoints': str(keypoints), 'input_size': f'{side}x{side}'}
    if demo:
        # By this the engine knows it: it raises the score threshold, and says that the people mean little.
        metadata['purpose'] = 'demonstration'
    save_file(weights(net_state, half), path + '.part', metadata)
    os.chmod(path + '.part', 0o644)
    os.replace(path + '.part', path)


def split(state, folder):
    """A training state in files under 16 MB: EMA as FP16, second moments as bfloat16, first moments left out.

    Resuming from it restarts the first moments; the rest is as it was to 16 bits.
    """
    slim = dict(state)
    slim['ema'] = {k: v.half() if v.is_floating_point() else v for k, v in state['ema'].items()}
    moments = {}
    for i, s in state['optimizer']['state'].items():
        moments[i] = dict(step=s['step'], exp_avg_sq=s['exp_avg_sq'].bfloat16())
    slim['optimizer'] = dict(state=moments, param_groups=state['optimizer']['param_groups'])
    buffer = io.BytesIO()
    torch.save(slim, buffer)
    raw = buffer.getvalue()
    os.makedirs(folder, exist_ok=True)
    for old in glob.glob(os.path.join(folder, 'state.*.part')):
        os.remove(old)
    for i in range(0, len(raw), PIECE):
        with open(os.path.join(folder, f'state.{i // PIECE:02}.part'), 'wb') as f:
            f.write(raw[i:i + PIECE])


def join(folder):
    """The state that `split` wrote."""
    names = sorted(glob.glob(os.path.join(folder, 'state.*.part')))
    if not names:
        raise ValueError(f'{folder}: holds no state.NN.part')
    raw = b''
    for name in names:
        with open(name, 'rb') as f:
            raw += f.read()
    state = torch.load(io.BytesIO(raw), map_location='cpu', weights_only=True)
    state['ema'] = {k: v.float() if v.is_floating_point() else v for k, v in state['ema'].items()}
    for s in state['optimizer']['state'].values():
        s['exp_avg_sq'] = s['exp_avg_sq'].float()
        s['exp_avg'] = torch.zeros_like(s['exp_avg_sq'])
    return state


def read_state(path):
    """A training state from run/state.pt or a folder of pieces."""
    return join(path) if os.path.isdir(path) else torch.load(path, map_location='cpu', weights_only=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('state', help='state.pt of a run, or a folder of its pieces; or .safetensors, with --side')
    parser.add_argument('--side', type=int, help='network input; default: the state\'s')
    parser.add_argument('--out', required=True)
    parser.add_argument('--raw', action='store_true', help='the last weights, not their average')
    parser.add_argument('--float32', action='store_true')
    parser.add_argument('--demo', action='store_true', help='say in the file that this is the demonstration model')
    a = parser.parse_args()
    if a.state.endswith('.safetensors'):
        net = model.load(a.state)
        save_weights(net.state_dict(), a.out, net.arch, a.side or model.ARCHS[net.arch].size, not a.float32,
                     a.demo)
    else:
        state = read_state(a.state)
        save_weights(state['model' if a.raw else 'ema'], a.out, state['arch'], a.side or state['side'], not a.float32,
                     a.demo)
    print(f'{a.out}: {os.path.getsize(a.out) / 1e6:.2f} MB')


if __name__ == '__main__':
    main()
