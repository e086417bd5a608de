"""Checkpoints in the form of HNeRV's authors."""

import torch


def quantised(values, axis=None):
    """Return a tensor as HNeRV's authors write it: 8 bits between the smallest and the largest value, over one axis or all."""
    kept = {"dim": axis, "keepdim": True} if axis is not None else {}
    low, high = (values.amin(**kept), values.amax(**kept)) if kept else (values.min(), values.max())
    scale = (high - low).clamp(min=1e-6) / 255
    return {
        "quant": ((values - low) / scale).round().clamp(0, 255).to(torch.uint8),
        "min": low,
        "scale": scale,
    }


def checkpoint(widths=(10, 8, 7), strides=(3, 2), kernels=(1, 3)):
    """Return a small network of random weights in the authors' form."""
    torch.manual_seed(0)
    layers = {"decoder.0.conv.downconv": torch.randn(widths[0], 16, 1, 1)}
    for index, (stride, kernel) in enumerate(zip(strides, kernels, strict=True)):
        shape = (widths[index + 1] * stride**2, widths[index], kernel, kernel)
        layers[f"decoder.{index + 1}.conv.upconv.0"] = 0.2 * torch.randn(shape)
    layers["head_layer"] = 0.2 * torch.randn(3, widths[-1], 3, 3)
    model = {}
    for name, weight in layers.items():
        model[f"{name}.weight"] = quantised(weight, axis=1 if weight.shape[1] > 8 else None)
        model[f"{name}.bias"] = quantised(0.1 * torch.randn(len(weight)))
    return {"embed": quantised(torch.randn(5, 16, 2, 4), axis=0), "model": model}
