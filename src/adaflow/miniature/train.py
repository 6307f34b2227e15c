"""Train the miniature: ``python -m adaflow.miniature.train {vae,unet,classifier} --out DIR --minutes N [--init DIR]``.

Training is done in slices: each starts from the averaged (EMA) fp16 weights of the one before, with a fresh optimizer
and a warm-up, and leaves nothing but such weights and ``training.json``. Needs torch, numpy, safetensors and diffusers.
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from . import WEIGHTS
from .classifier import AttributeClassifier, to_model_range
from .data import LatentPool, batches
from .slices import Slice, run_slice
from .text import TextEncoder, WordTokenizer
from .vocabulary import STYLES, VOCABULARY

SHARD = "14MB"
CAPTION_DROPOUT = 0.12
SNR_CAP = 5.0
POOL = 100_000  # samples that can be drawn again
PENCIL = STYLES.index("pencil")


@dataclass
class Job:
    """What the command line asked for."""

    out: Path
    init: Path | None
    shape: Path
    device: torch.device
    workers: int
    fresh: float
    seed: int
    thaw: bool
    save_every: float
    plan: Slice

    @property
    def base(self) -> Path:
        """Where configurations, tokenizer and scheduler come from, and weights where it is ``init``."""
        return self.init or self.shape

    def autocast(self) -> torch.autocast:
        """bfloat16 where it is faster."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def record(self, task: str, next_seed: int) -> None:
        """Add this slice to ``training.json``, after those of the weights it started from."""
        path = self.base / "training.json"
        history = json.loads(path.read_text(encoding="utf-8"))["slices"] if self.init and path.exists() else []
        device = torch.cuda.get_device_name() if self.device.type == "cuda" else self.device.type
        slices = [*history, {"task": task, "device": device, **self.plan.report(), "curve": self.plan.curve}]
        text = json.dumps({"next_seed": next_seed, "slices": slices}, indent=2)
        (self.out / "training.json").write_text(text + "\n", encoding="utf-8")

    def first_seed(self) -> int:
        """The first scene not seen by earlier slices."""
        path = self.base / "training.json"
        seen = json.loads(path.read_text(encoding="utf-8"))["next_seed"] if self.init and path.exists() else 0
        return seen + self.seed

    def start_output(self) -> None:
        """The output folder, with everything of the base that this task does not train."""
        self.out.mkdir(parents=True, exist_ok=True)
        if self.out.resolve() != self.base.resolve():
            unwanted = None if self.init else shutil.ignore_patterns("*.safetensors*")
            shutil.copytree(self.base, self.out, dirs_exist_ok=True, ignore=unwanted)


def save_model(model: Any, folder: Path) -> None:
    """A diffusers model in fp16, in shards that are small enough to be carried about."""
    shutil.rmtree(folder, ignore_errors=True)
    plain = copy.deepcopy(model).to("cpu", torch.float16).to(memory_format=torch.contiguous_format)
    plain.save_pretrained(folder, max_shard_size=SHARD)
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)  # where the slice began, on the machine that it ran on
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def load_model(kind: Any, folder: Path, job: Job) -> tuple[Any, bool]:
    """A diffusers model in fp32 on the job's device, with the weights to start from, and whether there are none yet."""
    fresh = job.init is None or not any(folder.glob("*.safetensors"))
    if fresh:
        model = kind.from_config(kind.load_config(folder))
    else:
        model = kind.from_pretrained(folder, torch_dtype=torch.float32, local_files_only=True)
    return model.to(job.device), fresh


def encode(vae: Any, images: Tensor, job: Job) -> Tensor:
    """Latents of uint8 frames ``(n, h, w, 3)``."""
    with torch.inference_mode(), job.autocast():
        mode = vae.encode(to_model_range(images.to(job.device, non_blocking=True))).latent_dist.mode()
    return mode.float() * vae.config.scaling_factor


def train_unet(job: Job) -> None:
    """UNet and text encoder, on latents of the frozen autoencoder: epsilon prediction, min-SNR weights."""
    vae, blank = load_model(AutoencoderKL, job.base / "vae", job)
    if blank:
        raise SystemExit("the UNet learns from an autoencoder: name a folder that holds one with --init")
    vae.eval()
    unet, fresh = load_model(UNet2DConditionModel, job.base / "unet", job)
    unet.train()
    if job.device.type == "cpu":  # the backward of the fused attention is half of a step there
        unet.set_attn_processor(AttnProcessor())
    text = TextEncoder.from_folder(job.base / "text_encoder", fresh).to(job.device).train()
    if fresh:
        text.apply(_reset)
    tokens = WordTokenizer(job.base / "tokenizer")
    alphas = DDIMScheduler.from_pretrained(job.base / "scheduler").alphas_cumprod.to(job.device)
    generator = torch.Generator(job.device).manual_seed(job.seed)
    first = job.first_seed()
    size = job.plan.batch
    source = batches(first, size, job.workers)
    pool = LatentPool(POOL if job.fresh < 1 else size)
    empty = tokens([""]).to(job.device)
    on_gpu = job.device.type == "cuda"
    if on_gpu:
        unet.to(memory_format=torch.channels_last)
    job.plan.started = time.monotonic()

    def draw() -> tuple[Tensor, ...]:
        # a whole batch of new samples every 1 / fresh steps: a small batch would cost as much to encode
        if not pool.added or pool.added < job.fresh * (job.plan.samples + size):
            sample = next(source)
            pool.add(encode(vae, sample["image"], job), tokens(sample["caption"]).to(job.device))
        latents, ids = pool.newest(size) if job.fresh == 1 else pool.draw(size, generator)
        dropped = torch.rand(size, 1, generator=generator, device=job.device) < CAPTION_DROPOUT
        ids = torch.where(dropped, empty, ids)
        places = torch.arange(size, device=job.device) + torch.rand(size, generator=generator, device=job.device)
        t = (places / size * len(alphas)).long().clamp(max=len(alphas) - 1)
        return latents, ids, t, torch.randn(latents.shape, generator=generator, device=job.device)

    def loss_of(latents: Tensor, ids: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        alpha = alphas[t].view(-1, 1, 1, 1)
        noisy = alpha.sqrt() * latents + (1 - alpha).sqrt() * noise
        with job.autocast():
            predicted = unet(noisy, t, text(ids), return_dict=False)[0]
        snr = alphas[t] / (1 - alphas[t])
        error = (predicted.float() - noise).square().mean((1, 2, 3))
        return (error * snr.clamp(max=SNR_CAP) / snr).mean()

    def save() -> None:
        save_model(unet, job.out / "unet")
        weights = {name: value.half().cpu().contiguous() for name, value in text.state_dict().items()}
        save_file(weights, job.out / "text_encoder" / "model.safetensors", metadata={"format": "pt"})
        job.record("unet", first + pool.added)

    job.start_output()
    run_slice(job.plan, [unet, text], draw, loss_of, save, job.save_every, graph=on_gpu)


def _reset(module: nn.Module) -> None:
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.LayerNorm):
        module.reset_parameters()


def train_vae(job: Job) -> None:
    """The autoencoder. A trained encoder stays as it is, so that latents made with it stay valid, unless thawed."""
    vae, fresh = load_model(AutoencoderKL, job.base / "vae", job)
    vae.train()
    whole = fresh or job.thaw
    if not whole:
        vae.encoder.requires_grad_(False)
        vae.quant_conv.requires_grad_(False)
    first = job.first_seed()
    source = batches(first, job.plan.batch, job.workers)
    generator = torch.Generator(job.device).manual_seed(job.seed)
    dice = torch.Generator().manual_seed(job.seed)
    crop = 96, 160  # of 128 x 224: twice the speed
    job.plan.started = time.monotonic()

    def loss_of() -> Tensor:
        x = to_model_range(next(source)["image"].to(job.device, non_blocking=True))
        with torch.set_grad_enabled(whole), job.autocast():
            mean, log_variance = vae.quant_conv(vae.encoder(x)).float().chunk(2, dim=1)
        noise = torch.randn(mean.shape, generator=generator, device=job.device)
        z = mean + (0.5 * log_variance.clamp(-30, 20)).exp() * noise
        top, left = (8 * int(torch.randint(0, n, (1,), generator=dice)) for n in (5, 9))
        x = x[..., top : top + crop[0], left : left + crop[1]]
        z = z[..., top // 8 : (top + crop[0]) // 8, left // 8 : (left + crop[1]) // 8]
        with job.autocast():
            y = vae.decoder(vae.post_quant_conv(z))
        loss = reconstruction_loss(y.float(), x)
        if whole:
            divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
            loss = loss + 3e-4 * divergence
        return loss

    def save() -> None:
        finished = copy.deepcopy(vae)
        if whole:
            normalise(finished, torch.cat([encode(finished, next(source)["image"], job) for _ in range(8)]))
        save_model(finished, job.out / "vae")
        job.record("vae", first + job.plan.samples)

    job.start_output()
    run_slice(job.plan, [vae], tuple, loss_of, save, job.save_every, weight_decay=1e-3)


@torch.no_grad()
def normalise(vae: Any, latents: Tensor) -> None:
    """Let the autoencoder's latents have mean 0 and variance 1 in every channel, by its own two 1x1 convolutions.

    Args:
        vae: An `AutoencoderKL`, changed in place; what it reconstructs stays the same.
        latents: What it encodes to so far, ``(n, c, h, w)``.

    """
    mean, deviation = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    inner, outer = vae.quant_conv, vae.post_quant_conv
    count = len(mean)
    inner.bias[:count] -= mean
    inner.bias[:count] /= deviation
    inner.weight[:count] /= deviation.view(-1, 1, 1, 1)
    inner.bias[count:] -= 2 * deviation.log()
    outer.bias += (outer.weight * mean.view(1, -1, 1, 1)).sum((1, 2, 3))
    outer.weight *= deviation.view(1, -1, 1, 1)


def reconstruction_loss(y: Tensor, x: Tensor) -> Tensor:
    """L1 and squares, more where ``x`` stands out from its surroundings, with gradients and with coarse colours."""
    difference = y - x
    surroundings = F.avg_pool2d(F.avg_pool2d(x, 8), 5, 1, 2, count_include_pad=False)
    contrast = (x - F.interpolate(surroundings, scale_factor=8, mode="bilinear")).abs().mean(1, keepdim=True)
    weight = 1 + 5 * contrast.clamp(max=0.6)
    coarse = (F.avg_pool2d(difference, 8).abs() * F.avg_pool2d(weight, 8)).mean()
    slopes = difference.new_zeros(())
    d = difference
    for _ in range(3):
        slopes = slopes + d.diff(dim=-1).abs().mean() + d.diff(dim=-2).abs().mean()
        d = F.avg_pool2d(d, 2)
    return (difference.abs() * weight).mean() + 10 * (difference.square() * weight).mean() + coarse + 0.4 * slopes


def train_classifier(job: Job) -> None:
    """The attribute classifier, on single objects, sharp and blurred."""
    model = AttributeClassifier()
    if job.init is not None:
        model = AttributeClassifier.load(job.init / "classifier.safetensors")
    model = model.to(job.device).train()
    first = job.first_seed()
    source = batches(first, job.plan.batch, job.workers, objects=1)
    job.plan.started = time.monotonic()

    def loss_of() -> Tensor:
        sample = next(source)
        x, target = to_model_range(sample["image"].to(job.device)), sample["labels"].to(job.device)
        blurred = F.interpolate(F.avg_pool2d(x, 2), scale_factor=2, mode="bilinear")
        share = torch.rand(len(x), 1, 1, 1, device=x.device)
        x = torch.lerp(x, blurred, (share * 1.6 - 0.6).clamp(min=0))
        x = x + 0.06 * torch.rand(len(x), 1, 1, 1, device=x.device) * torch.randn_like(x)
        with job.autocast():
            logits = model(x)
        names = list(VOCABULARY)
        has_colour = (target[:, names.index("style")] != PENCIL).float()
        losses = {}
        for k, name in enumerate(names):
            losses[name] = F.cross_entropy(logits[name].float(), target[:, k], reduction="none")
        return sum((loss * (has_colour if name == "colour" else 1)).mean() for name, loss in losses.items())  # type: ignore[return-value]

    def save() -> None:
        model.save(job.out / "classifier.safetensors")
        job.record("classifier", first + job.plan.samples)

    job.out.mkdir(parents=True, exist_ok=True)
    run_slice(job.plan, [model], tuple, loss_of, save, job.save_every)


TASKS = {"vae": train_vae, "unet": train_unet, "classifier": train_classifier}
RATES = {"vae": 5e-4, "unet": 5e-4, "classifier": 2e-3}


def main(arguments: list[str] | None = None) -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=sorted(TASKS))
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights (a whole pipeline folder)")
    parser.add_argument("--init", type=Path, help="weights to start from; without it, training starts from nothing")
    parser.add_argument(
        "--shape", type=Path, default=WEIGHTS, help="pipeline folder whose sizes a model from nothing has"
    )
    parser.add_argument("--minutes", type=float, required=True)
    parser.add_argument("--samples", type=int, help="stop after so many samples, if the time is not up before")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, help="peak learning rate")
    parser.add_argument("--warmup", type=int, default=150, help="steps until the learning rate has its full value")
    parser.add_argument("--schedule", choices=("cosine", "constant"), default="cosine")
    parser.add_argument("--workers", type=int, default=2, help="rendering processes")
    parser.add_argument("--fresh", type=float, default=1, help="share of a batch not drawn from earlier samples (unet)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--thaw", action="store_true", help="train the encoder too; a UNet must then learn anew (vae)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--save-every", type=float, default=240, help="seconds between checkpoints")
    given = parser.parse_args(arguments)
    torch.manual_seed(given.seed)
    rate = given.rate or RATES[given.task]
    plan = Slice(given.minutes, rate, given.batch, given.schedule, given.samples, given.warmup)
    job = Job(
        given.out,
        given.init,
        given.shape,
        torch.device(given.device),
        given.workers,
        given.fresh,
        given.seed,
        given.thaw,
        given.save_every,
        plan,
    )
    TASKS[given.task](job)


if __name__ == "__main__":
    main()
