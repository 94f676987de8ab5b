"""PyTorch: backbones, correlation, heads, the systems, losses, data and the training loop."""
