"""Memory that is freed stays with the process that learns."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

AGAIN = """
import ctypes, resource, sys, threading
{before}
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes, libc.memset.argtypes = [ctypes.c_void_p], [ctypes.c_void_p, ctypes.c_int, ctypes.c_size_t]
faults = []
def step():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(100 << 20)
    libc.memset(block, 1, 100 << 20)
    libc.free(block)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
for _ in range(3):
    thread = threading.Thread(target=step)
    thread.start()
    thread.join()
print(max(faults[1:]) / faults[0])
"""


def again(before: str) -> float:
    """Pages that the system gives a thread for a block of 100 MB, over those that it gave another for one before it was freed."""
    told = subprocess.run(
        [sys.executable, "-c", AGAIN.format(before=before)], check=True, capture_output=True, text=True
    )
    return float(told.stdout)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_what_a_step_freed_the_next_one_gets_without_the_system() -> None:
    assert again("from dermanet import memory; memory.keep()") < 0.05
    assert again("") > 0.5, "without it the same would be seen as well, and this test of nothing"


ANSWERED = """
from pathlib import Path
import numpy as np
from dermanet import experiment
from dermanet.learning import model as network
chosen = experiment.named("finetune28:views=4")
model = network.build(chosen, 112, 7, network.AgeScale(50, 15), views=chosen.views, weights=False)
def peak():  # Not `ru_maxrss`: a process inherits that from who started it, and pytest's worker may have gigabytes.
    told = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in told if line.startswith("VmHWM")) / 1e6
network.answers(model, np.zeros((1, 112, 112, 3), np.uint8))
before = peak()
{ask}
print(peak() - before)
"""


def grown(ask: str) -> float:
    """Gigabytes by which the peak of a process grows that asks three backbones in four orientations for sixteen images."""
    told = subprocess.run([sys.executable, "-c", ANSWERED.format(ask=ask)], check=True, capture_output=True, text=True)
    return float(told.stdout.split()[-1])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process its peak of memory")
def test_a_network_that_answers_does_not_keep_what_each_of_its_layers_gave() -> None:
    assert grown("network.answers(model, np.zeros((16, 112, 112, 3), np.uint8))") < 0.6
    kept = grown("model(np.zeros((16, 112, 112, 3), np.float32), training=False)")
    assert kept > 1.2, "called layer by layer the same would be seen as well, and this test of nothing"


BATCH = """
from pathlib import Path
import numpy as np, onnxruntime
from onnx import TensorProto, helper, numpy_helper
from dermanet.pixels import preprocess
from dermanet.serving.network import Network
def constant(name, *values):
    return numpy_helper.from_array(np.array(values, np.int64), name)
nodes = [  # 8 MB an image, twice.
    helper.make_node("Tile", ["image", "wide"], ["tiled"]), helper.make_node("Relu", ["tiled"], ["positive"]),
    helper.make_node("ReduceMean", ["positive"], ["mean"], axes=[1, 2, 3], keepdims=1),
    helper.make_node("Reshape", ["mean", "flat"], ["age"]),
    helper.make_node("Tile", ["age", "three"], ["sex"]), helper.make_node("Tile", ["age", "seven"], ["diagnosis"]),
]
def floats(name, *shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *shape])
graph = helper.make_graph(
    nodes, "wide", [floats("image", 64, 64, 3)], [floats("age", 1), floats("sex", 3), floats("diagnosis", 7)],
    [constant("wide", 1, 1, 1, 170), constant("flat", -1, 1), constant("three", 1, 3), constant("seven", 1, 7)],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
network = Network(session, preprocess.recipe("plain@64"), tuple("abcdefg"), {})
def held():
    told = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in told if line.startswith("VmRSS")) / 1e6
pixels = np.zeros((32, 64, 64, 3), np.uint8)
network.answer(pixels[:1])
before = held()
BATCH
print(held() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells a process its memory")
def test_what_a_batch_needed_besides_is_given_back() -> None:
    def kept(ask: str) -> float:
        code = BATCH.replace("BATCH", ask)
        told = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
        return float(told.stdout.split()[-1])

    assert kept("network.answer(pixels)") < 0.1
    plainly = kept("session.run(None, {'image': pixels.astype(np.float32)})")
    assert plainly > 0.2, "without it the same would be seen as well, and this test of nothing"
