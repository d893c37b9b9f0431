"""The parameters of a built module as shapes, and as the code that a spec's `shape` can be written from."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from lensmith.interfaces.shapes import ParameterShape


def shape_code(module: nn.Module, *, prefix: str = "") -> str:
    """Python for the parameters of a module, to be put into the `shape` of a part's spec and generalised there.

    Args:
        module: the part at any size, built.
        prefix: before every name.

    Returns:
        An expression of `lensmith.linear`, `lensmith.norm` and `lensmith.ParameterShape`, one term a line, that equals
        `parameter_shapes(module)` but for the order of tensors.
    """
    shapes = {shape.name: shape for shape in parameter_shapes(module)}
    lines = []
    for name, shape in shapes.items():
        owner, _, last = name.rpartition(".")
        bias = shapes.get(f"{owner}.bias") if owner else None
        said = repr(f"{prefix}{owner}").replace("'", '"')
        without = "" if bias is not None else ", bias=False"
        if last == "bias" and (weight := shapes.get(f"{owner}.weight")) and (weight.linear or len(weight.shape) == 1):
            continue  # written with its weight
        if last == "weight" and owner and shape.linear:
            outputs, inputs = shape.shape
            lines.append(f"linear({said}, {inputs}, {outputs}{without})")
        elif last == "weight" and owner and len(shape.shape) == 1:
            lines.append(f"norm({said}, {shape.shape[0]}{without})")
        else:
            whole = repr(f"{prefix}{name}").replace("'", '"')
            linear = ", linear=True" if shape.linear else ""
            lines.append(f"(ParameterShape({whole}, {shape.shape}{linear}),)")
    return "(\n    " + "\n    + ".join(lines) + "\n)" if lines else "()"


def parameter_shapes(module: nn.Module) -> tuple[ParameterShape, ...]:
    """Every parameter of a module as shapes, the weights of `nn.Linear` that an adapter may wrap marked."""
    # nn.MultiheadAttention reads the weight of its output layer and never calls it: an adapter would do nothing.
    # The layer's own sizes, as a quantised weight is packed into other ones.
    linears = {
        f"{name}.weight".lstrip("."): (child.out_features, child.in_features)
        for name, child in module.named_modules()
        if isinstance(child, nn.Linear) and not isinstance(child, NonDynamicallyQuantizableLinear)
    }
    return tuple(
        ParameterShape(name, linears.get(name, tuple(p.shape)), name in linears)
        for name, p in module.named_parameters()
    )
