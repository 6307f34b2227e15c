"""What `adaflow models` and `adaflow workspace` do: what is on this machine, fetched or deleted; nothing is loaded."""

from __future__ import annotations

import math
from pathlib import Path

from .cache import cache_folder, list_workspaces, prune_workspaces, workspace_info
from .cards import cards, default_model, find_card
from .console import err, print_json, print_table
from .disk import format_bytes
from .errors import ConfigError, InputError, MissingError


def list_models(as_json: bool) -> None:
    """`adaflow models list`."""
    rows = [
        {
            "name": c.name,
            "title": c.title,
            "from": c.hub or "in this package",
            "here": c.embedded or bool(_cached(c.hub)),
        }
        for c in cards().values()
    ]
    if as_json:
        print_json({"models": rows, "default": default_model()})
        return
    lines = ((row["name"], "yes" if row["here"] else "no", row["from"], row["title"]) for row in rows)
    print_table(("name", "here", "from", "what"), *lines)


def get_model(name: str) -> None:
    """`adaflow models get`."""
    from huggingface_hub import snapshot_download

    card = find_card(name)
    if card.embedded:
        print(f"{name} is part of this package; there is nothing to fetch")
        return
    if not card.hub and "/" not in name:
        raise MissingError(f"there is no model {name!r}; see: adaflow models list")
    patterns = ["*.json", "*.txt", "*.model", "unet/diffusion_pytorch_model*.safetensors"]
    patterns += ["vae/diffusion_pytorch_model*.safetensors", "text_encoder/model*.safetensors"]
    try:
        folder = snapshot_download(
            card.hub or name, revision=card.revision, allow_patterns=patterns, ignore_patterns=["*fp16*", "*non_ema*"]
        )
    except Exception as error:  # the hub client has no common base for network, cache and permission errors
        reason = " ".join(str(error).split()).split(". ")[0]
        raise MissingError(
            f"{card.hub or name} could not be fetched ({reason}); check the network and the name"
        ) from error
    print(folder)


def list_all_workspaces(as_json: bool) -> None:
    """`adaflow workspace list`."""
    infos = list_workspaces()
    if as_json:
        document = [
            {"folder": str(i.root), "of": i.describe, "bytes": i.bytes, "last_used": i.last_used, "problem": i.problem}
            for i in infos
        ]
        print_json({"workspaces": document})
    elif infos:
        lines = ((format_bytes(i.bytes), i.root, i.problem or i.describe) for i in infos)
        print_table(("size", "folder", "of"), *lines)
    else:
        print(f"no workspaces in {cache_folder()}")


def show_workspace(folder: Path, as_json: bool) -> None:
    """`adaflow workspace show`."""
    if not (folder / "manifest.json").exists():
        raise InputError(f"{folder} is no workspace; see: adaflow workspace list")
    info = workspace_info(folder)
    if as_json:
        stages = [{"stage": s.name, "state": s.state, "bytes": s.bytes, "problem": s.problem} for s in info.stages]
        print_json(
            {
                "folder": str(info.root),
                "of": info.describe,
                "bytes": info.bytes,
                "stages": stages,
                "problem": info.problem,
            }
        )
        return
    if info.problem:
        err.print(f"note: {info.problem}")
    print_table(("stage", "state", "size"), *((s.name, s.state, format_bytes(s.bytes)) for s in info.stages))


def prune_all(everything: bool, max_gb: float | None, older_than: float | None) -> None:
    """`adaflow workspace prune`; deletes nothing unless told what."""
    if not everything and max_gb is None and older_than is None:
        raise ConfigError("say which workspaces to delete: --all, --max-gb GB, or --older-than DAYS")
    for name, value in (("--max-gb", max_gb), ("--older-than", older_than)):
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise ConfigError(f"{name} is {value}; it must be a number that is not negative")
    most = 0 if everything else None if max_gb is None else int(max_gb * 1e9)
    freed = prune_workspaces(max_bytes=most, older_than=None if older_than is None else older_than * 86400)
    print(f"freed {format_bytes(freed)}")


def _cached(hub: str | None) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return hub is not None and isinstance(try_to_load_from_cache(hub, "model_index.json"), str)
