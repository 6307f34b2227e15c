"""The finest level of a UNet as a network of its own: the first encoder block and the last decoder block."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class FinestLevel(nn.Module):
    """The finest level of a diffusers UNet; all its modules are the UNet's, as they are when it is called.

    Given what entered the last decoder block in a pass of the whole UNet, it gives that pass's output, bit for bit.
    """

    def __init__(self, unet: Any) -> None:  # Any: diffusers does not type its blocks
        super().__init__()
        self.unet: Any = unet

    @property
    def channels(self) -> int:
        """Channels of what enters the last decoder block; its size is that of the latents."""
        skip = self.unet.down_blocks[0].resnets[-1].conv2.out_channels
        return int(self.unet.up_blocks[-1].resnets[0].conv1.in_channels - skip)

    def forward(self, sample: Tensor, timestep: int | Tensor, encoder_hidden_states: Tensor, deep: Tensor) -> Tensor:
        """The UNet's output ``[B, c, h, w]``.

        Args:
            sample: Latents ``[B, c, h, w]``.
            timestep: The same for all rows.
            encoder_hidden_states: The text ``[B, L, D]``.
            deep: What enters the last decoder block, ``[B, channels, h, w]``.
        """
        unet = self.unet
        down, up = unet.down_blocks[0], unet.up_blocks[-1]
        emb = unet.time_embedding(unet.get_time_embed(sample=sample, timestep=timestep))
        x = unet.conv_in(sample)
        _, skips = down(hidden_states=x, temb=emb, **_text(down, encoder_hidden_states))
        skips = (x, *skips)[: len(up.resnets)]
        x = up(hidden_states=deep, temb=emb, res_hidden_states_tuple=skips, **_text(up, encoder_hidden_states))
        if unet.conv_norm_out is not None:
            x = unet.conv_act(unet.conv_norm_out(x))
        out: Tensor = unet.conv_out(x)
        return out


def _text(block: Any, states: Tensor) -> dict[str, Tensor]:
    return {"encoder_hidden_states": states} if getattr(block, "has_cross_attention", False) else {}


def odd_parts(unet: Any) -> list[str]:
    """What this UNet has that `FinestLevel` does not know; Stable Diffusion's have nothing of it."""
    names = ("class_embed_type", "num_class_embeds", "time_cond_proj_dim", "encoder_hid_dim", "time_embedding_act_fn")
    found = [name for name in (*names, "center_input_sample") if unet.config.get(name)]
    return found + ["only one level"] * (len(unet.down_blocks) < 2)
