"""Weights from a PyTorch state dict of before version 1.6, read without PyTorch: four pickles, then the storages' bytes.

The unpickler builds tensors and nothing else, so that a file from elsewhere cannot run code.
"""

import pickle
import struct
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from dermanet.errors import DermaNetError

MAGIC = 0x1950A86A20F9469CFC6C
KINDS: dict[str, type[np.generic]] = {"FloatStorage": np.float32, "DoubleStorage": np.float64, "HalfStorage": np.float16,
         "IntStorage": np.int32, "LongStorage": np.int64}  # fmt: skip


@dataclass
class _Storage:
    kind: type[np.generic]
    values: NDArray[Any] = field(default_factory=lambda: np.empty(0))


@dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self) -> NDArray[Any]:
        """The tensor's values, copied out of its storage."""
        values = self.storage.values[self.offset :]
        steps = [stride * values.itemsize for stride in self.strides]
        return np.lib.stride_tricks.as_strided(values, self.shape, steps).copy()


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes], storages: dict[str, _Storage]) -> None:
        super().__init__(file, encoding="latin1")
        self.storages = storages

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, shape, strides, *rest: _Tensor(storage, offset, tuple(shape), tuple(strides))
        if module == "torch" and name in KINDS:
            return name
        raise pickle.UnpicklingError(f"{module}.{name} is no part of a state dict")

    def persistent_load(self, pid: Any) -> _Storage:
        kind, key = pid[1], pid[2]
        return self.storages.setdefault(key, _Storage(KINDS[kind]))


def read(path: Path) -> dict[str, NDArray[Any]]:
    """Every tensor of a state dict by its name. Raises DermaNetError for another kind of file."""
    storages: dict[str, _Storage] = {}
    try:
        with path.open("rb") as file:
            magic, _, _ = (_Unpickler(file, storages).load() for _ in range(3))
            if magic != MAGIC:
                raise pickle.UnpicklingError("its first number is another")
            tensors = _Unpickler(file, storages).load()
            for key in _Unpickler(file, storages).load():
                (count,) = struct.unpack("<q", file.read(8))
                storage = storages[key]
                storage.values = np.frombuffer(file.read(count * np.dtype(storage.kind).itemsize), storage.kind)
    except (pickle.UnpicklingError, struct.error, EOFError, ValueError) as error:
        raise DermaNetError(
            f"{path.name} is no PyTorch state dict of the old form ({error}); install it anew"
        ) from None
    return {name: tensor.array() for name, tensor in tensors.items()}
