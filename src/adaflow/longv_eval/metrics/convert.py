"""Published pickles made into safetensors, once. The only place that reads a pickle, and by weights alone.

`torch.load` with ``weights_only=True`` builds tensors and containers and refuses everything else, so that a file that
would run code ends in an error.
"""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ...disk import disk_errors
from ...errors import InputError
from ...peers.flow import RAFT_PARTS, RAFT_WEIGHTS
from .aesthetic import head_shapes
from .dover import check_state
from .weights import AESTHETIC, DOVER


def convert(published: Path, folder: Path) -> Path:
    """Make a safetensors file of a published one, and say where it is.

    Taken are ``DOVER.pth``, LAION's ``sac+logos+ava1-l14-linearMSE.pth`` and torchvision's ``raft_large``, recognised
    by what they hold, into the weights ``folder``; and ``pytorch_model.bin`` of a transformers folder, into
    ``model.safetensors`` beside it.

    Raises:
        InputError: the file cannot be read, holds more than weights, or those of something else.
    """
    if not published.is_file():
        raise InputError(f"there is no file {published}; download it first (docs/benchmark-metrics.md says from where)")
    state = read_state(published)
    if published.name == "pytorch_model.bin" and (published.parent / "config.json").is_file():
        out = published.with_name("model.safetensors")
    elif {name: tuple(t.shape) for name, t in state.items()} == head_shapes():
        out = folder / AESTHETIC.file
    elif {name.partition(".")[0] for name in state} == RAFT_PARTS:
        out = folder / RAFT_WEIGHTS
    else:
        check_state(state)
        out = folder / DOVER.file
    digest = hashlib.sha256(published.read_bytes()).hexdigest()
    part = out.with_name(f".{out.name}.part")
    try:
        with disk_errors(out, "written"):
            out.parent.mkdir(parents=True, exist_ok=True)
            # tensors that share memory, as tied weights do, would be refused
            plain = {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}
            save_file(plain, part, metadata={"format": "pt", "made_from": published.name, "sha256": digest})
            part.replace(out)
    finally:
        part.unlink(missing_ok=True)
    return out


def read_state(published: Path) -> Mapping[str, Tensor]:
    """The tensors of a pickled state, by name.

    Raises:
        InputError: it cannot be read, or holds anything else.
    """
    try:
        state: Any = torch.load(published, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split()).split(". ")[0][:160]
        raise InputError(f"{published} is no file of plain weights ({reason}); download it again") from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{published} holds more than named tensors; the published file is a plain state")
    return {str(name): tensor for name, tensor in state.items()}
