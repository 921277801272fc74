"""Training of RTMO (arXiv 2312.07526) in plain PyTorch."""
