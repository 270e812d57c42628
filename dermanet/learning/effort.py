"""What one answer of a network costs, told from its graph: the same on every machine, however busy it is."""

from math import prod
from pathlib import Path

import onnx
from onnx import shape_inference

SMALL = 1024
"""Bytes of a constant that may be a shape itself, and is looked into."""


def multiply_adds(graph: Path) -> int:
    """How often an ONNX graph multiplies and adds for one image: in convolutions and matrix products, which are nearly all of it."""
    model = onnx.load(graph)
    for weights in model.graph.initializer:
        if len(weights.raw_data) > SMALL:
            # Its shape is enough, and all that stays would be copied twice.
            weights.ClearField("raw_data")
    for given in model.graph.input:
        # Of as many images as come; else no shape would be known.
        given.type.tensor_type.shape.dim[0].dim_value = 1
    inferred = shape_inference.infer_shapes(model, data_prop=True).graph
    known = {
        value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*inferred.input, *inferred.value_info, *inferred.output)
    } | {weights.name: list(weights.dims) for weights in inferred.initializer}
    found = 0
    for node in inferred.node:
        shapes = [known.get(name) for name in (*node.input[:2], *node.output[:1])]
        if node.op_type not in {"Conv", "MatMul", "Gemm"} or not all(shapes):
            continue
        left, right, out = (shape or [] for shape in shapes)
        found += prod(out) * (prod(right[1:]) if node.op_type == "Conv" else left[-1])
    return found
