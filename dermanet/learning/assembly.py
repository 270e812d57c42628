"""An ONNX graph put together from pieces: frozen backbones that were exported before, and what is new around them.

Converting a backbone takes ten seconds, and a retrain on its kept features changes nothing in it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto, compose, helper

from dermanet.errors import DermaNetError


@dataclass(frozen=True, slots=True)
class Pieces:
    """`before`: the image to what the backbones see, or nothing where that is the image; `backbones`, side by side; `after`: their
    features, one behind the other, to the heads' answers. Each has one input; the image is `side` pixels wide."""

    side: int
    before: onnx.ModelProto | None
    backbones: Sequence[onnx.ModelProto]
    after: onnx.ModelProto


def assembled(pieces: Pieces, heads: Sequence[str]) -> onnx.ModelProto:
    """One graph: `image` (n, side, side, 3) in, `heads` out by name, in the order in which `after` gives them.

    Raises DermaNetError where the pieces are of different versions of ONNX.
    """
    named = list(_named(pieces))
    opsets = {(one.domain, one.version) for piece in named for one in piece.opset_import}
    if len({domain for domain, _ in opsets}) < len(opsets):
        raise DermaNetError(f"the pieces of the graph were exported with different opsets: {sorted(opsets)}")
    graph = helper.make_graph(
        list(_nodes(named, pieces.before is not None, heads)), "DermaNet",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", pieces.side, pieces.side, 3])],
        [helper.make_tensor_value_info(head, TensorProto.FLOAT, ["n", None]) for head in heads],
        [tensor for piece in named for tensor in piece.graph.initializer],
    )  # fmt: skip
    found = helper.make_model(graph, opset_imports=[helper.make_opsetid(*one) for one in sorted(opsets)])
    found.ir_version = min(piece.ir_version for piece in named)
    return found


def _named(pieces: Pieces) -> Iterator[onnx.ModelProto]:
    """Every piece, its names made its own."""
    if pieces.before is not None:
        yield compose.add_prefix(pieces.before, "before/")
    for place, backbone in enumerate(pieces.backbones):
        yield compose.add_prefix(backbone, f"backbone{place}/")
    yield compose.add_prefix(pieces.after, "after/")


def _nodes(named: Sequence[onnx.ModelProto], oriented: bool, heads: Sequence[str]) -> Iterator[onnx.NodeProto]:
    """All nodes in an order in which each has what it needs."""
    seen, *_, after = "image", named[-1]
    backbones = named[1 if oriented else 0 : -1]
    if oriented:
        yield from _fed(named[0], seen)
        seen = named[0].graph.output[0].name
    for backbone in backbones:
        yield from _fed(backbone, seen)
    features = [backbone.graph.output[0].name for backbone in backbones]
    yield helper.make_node("Concat", features, ["features"], axis=1)
    yield from _fed(after, "features")
    for answer, head in zip(after.graph.output, heads, strict=True):
        yield helper.make_node("Identity", [answer.name], [head])


def _fed(piece: onnx.ModelProto, tensor: str) -> Iterator[onnx.NodeProto]:
    yield helper.make_node("Identity", [tensor], [piece.graph.input[0].name])
    yield from piece.graph.node
