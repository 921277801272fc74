"""mmpose's own modules, for comparing; `available()` says whether this Python has them."""
import os
import sys
import types
import warnings

warnings.filterwarnings('ignore')
CONFIGS = {('t', 17): 'body7/rtmo-t_8xb32-600e_body7-416x416.py', ('s', 17): 'coco/rtmo-s_8xb32-600e_coco-640x640.py',
           ('m', 17): 'coco/rtmo-m_16xb16-600e_coco-640x640.py', ('l', 17): 'coco/rtmo-l_16xb16-600e_coco-640x640.py',
           ('s', 14): 'crowdpose/rtmo-s_8xb32-700e_crowdpose-640x640.py'}


def available():
    try:
        import mmengine  # noqa: F401
        import importlib.util
        return importlib.util.find_spec('mmpose') is not None
    except ImportError:
        return False


def _stub(name, **members):
    module = sys.modules.setdefault(name, types.ModuleType(name))
    module.__dict__.update(members)
    return module


def prepare():
    """Imports mmpose; packages that it names for models other than RTMO are replaced by empty ones."""
    from mmengine.config import ConfigDict
    import torch
    _stub('mmdet', __version__='3.3.0').utils = _stub('mmdet.utils', ConfigType=ConfigDict, reduce_mean=lambda x: x)
    import mmcv  # noqa: F401
    if 'mmcv.ops' not in sys.modules:
        _stub('mmcv.ops', **{n: type(n, (torch.nn.Module,), {}) for n in
                             ('MultiScaleDeformableAttention', 'DeformConv2d', 'ModulatedDeformConv2d')})
    import mmpose.models  # noqa: F401
    from mmengine.registry import init_default_scope
    init_default_scope('mmpose')
    return mmpose


def build(arch='t', keypoints=17):
    """mmpose's model, random weights, and its config."""
    mmpose = prepare()
    from mmengine.config import Config
    from mmpose.registry import MODELS
    folder = os.path.join(os.path.dirname(mmpose.__file__), '.mim', 'configs', 'body_2d_keypoint', 'rtmo')
    cfg = Config.fromfile(os.path.join(folder, CONFIGS[arch, keypoints]))
    cfg.model.backbone.init_cfg = None
    cfg.model.pop('init_cfg', None)
    here = os.getcwd()
    os.chdir(os.path.join(os.path.dirname(mmpose.__file__), '.mim'))  # metainfo paths are relative to the configs
    try:
        return MODELS.build(cfg.model), cfg
    finally:
        os.chdir(here)
