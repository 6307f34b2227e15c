"""The table's columns: what each number is called, how it is written, and which way is better."""

from __future__ import annotations

from dataclasses import dataclass

from .rows import FROZEN

MISSING = "–"
"""What stands where nothing was measured."""


@dataclass(frozen=True)
class Column:
    """One number of a result, by the name it has in `Row.values`."""

    name: str
    label: str
    better: int
    """1: more is better; -1: less is; 0: neither by itself."""
    digits: int = 2
    scale: float = 1.0
    unit: str = ""
    ratio: bool = False
    """Whether a difference is best read as a share: the number is positive and its level depends on the videos."""
    about: str = ""
    origin: float = 0.0
    """Where its bars begin: at what a perfect edit has, so that their length is what is missing; at 0 for a gain."""
    most: bool = False
    """Whether tables show the largest number in place of the mean."""

    def text(self, value: float | None, signed: bool = False) -> str:
        """A value as it stands in a table, without its unit."""
        if value is None:
            return MISSING
        shown = f"{value * self.scale:{'+' if signed else ''},.{self.digits}f}"
        zero = f"{0:.{self.digits}f}"
        return zero if shown.lstrip("+-") == zero else shown  # never "-0.0"

    @property
    def heading(self) -> str:
        """Label, unit, and an arrow that points where it is better."""
        arrow = {1: " ↑", -1: " ↓", 0: ""}[self.better]
        return f"{self.label}{f' ({self.unit})' if self.unit else ''}{arrow}"


def _percent(name: str, label: str, better: int, about: str) -> Column:
    return Column(name, label, better, digits=1, scale=100, unit="%", about=about, origin=1.0 if better > 0 else 0.0)


EDIT = (
    _percent("success", "success", 1, "frames in which the asked attribute is found"),
    _percent("kept", "kept", 1, "frames in which everything not asked for is as it was"),
    Column("psnr", "PSNR", 1, unit="dB", about="against the ground-truth target"),
    Column("gain", "gain", 1, unit="dB", about="PSNR above that of the unedited source"),
    Column("ssim", "SSIM", 1, digits=3, about="against the ground-truth target"),
    Column("unedited_psnr", "unedited", 1, unit="dB", about="PSNR against the source where the edit changes nothing"),
)
TIME = (
    Column(
        "warp_relative", "warp", -1, ratio=True, about="warp error along the true flow, 1 = the target's own", origin=1
    ),
    Column("flicker", "flicker", -1, unit="levels", about="above the target's own, along the true motion"),
    Column("drift", "drift", -1, unit="levels", about="change over 32 frames above the target's own"),
    Column(
        "seam", "seam", -1, ratio=True, about="warp error at clip borders over that elsewhere, 1 = no seam", origin=1
    ),
    Column("motion", "motion", 0, about=f"as a share of the target's; below {FROZEN} the video is frozen"),
)
CLIPS = (
    _percent("cut_recall", "cut recall", 1, "true cuts at which a clip starts"),
    _percent("cut_precision", "cut precision", 1, "clips that start at a true cut"),
    Column("false_cuts_per_1000", "false cuts / 1,000", -1, digits=1, about="in 1,000 frames"),
    Column("keyframes_per_100", "keyframes / 100", 0, digits=1, about="in 100 frames"),
    Column("motion_correlation", "motion correlation", 1, about="rank correlation of keyframes and true motion"),
    _percent(
        "matches_right", "right matches", 1, "tokens whose match in their keyframe lies within 1 token of the truth"
    ),
    _percent("matches_right_on_objects", "… on objects", 1, "the same, on objects alone"),
    _percent("kept_share", "kept tokens", 0, "of all keyframes' tokens, those that a keyframe attends to"),
    _percent("kept_own", "own tokens", 0, "of the tokens a keyframe keeps, those that are its own"),
)
COST = (
    Column("seconds", "seconds", -1, digits=1, ratio=True, about="as if the method ran alone"),
    Column("seconds_per_frame", "seconds / frame", -1, ratio=True, about="as if the method ran alone"),
    Column("unet_rows", "UNet rows", -1, digits=0, ratio=True, about="frames x branches x calls"),
    Column("tflop", "TFLOP", -1, digits=1, ratio=True, about="of the UNet and the autoencoder"),
    Column("peak_mb", "peak memory", -1, digits=0, unit="MB", ratio=True, about="of the process, page cache apart"),
    Column("disk_mb", "disk", -1, digits=0, unit="MB", ratio=True, about="of the workspace"),
)
PAPER = (
    Column("fq", "FQ", 1, about="aesthetic mark of the frames, about 0 to 10"),
    Column("vq", "VQ", 1, digits=3, about="video quality by DOVER, 0 to 1"),
    Column("oc", "OC", 1, digits=4, about="likeness of neighbouring frames by DINOv2"),
    Column("sc", "SC", 1, digits=4, about="likeness of neighbouring frames by CLIP"),
    Column("text_alignment", "text", 1, about="100 x cosine of frames and prompt by CLIP"),
    _percent("text_success", "success", 1, "frames nearer to the prompt than to the source's caption"),
)
SOURCE = (
    Column(
        "warp_error_relative", "warp", -1, ratio=True, about="along the source's estimated flow, 1 = its own", origin=1
    ),
    Column("flow_flicker", "flicker", -1, unit="levels", about="above the source's, along its estimated flow"),
    Column("oc_5s_difference", "OC at 5 s", 1, digits=4, about="likeness at 5 s less the source's"),
    Column("palette_drift_difference", "palette", -1, about="drift of colours beyond the source's, in Lab"),
    Column("flow_seam", "seam", -1, ratio=True, about="warp error at borders over that elsewhere, 1 = none", origin=1),
    Column("motion", "motion", 0, about=f"as a share of the source's, by flow; below {FROZEN} the video is frozen"),
)
_MINUTES = Column(
    "minutes", "minutes / video", -1, ratio=True, about="as if the method ran alone, on the machine below"
)
_AT_ONCE = Column(
    "at_once",
    "in one inference",
    1,
    digits=0,
    unit="frames",
    about="the longest video, or chunk of one, whose frames were edited together here; 1: every frame by itself",
    most=True,
)
_MACHINE = (_MINUTES, next(column for column in COST if column.name == "peak_mb"), _AT_ONCE)
TABLE_1 = "Table 1"
"""The heading of the block that is the paper's Table 1, with what it does not have."""
_KNOWN = {column.name: column for column in (*EDIT, *TIME, *PAPER, *SOURCE)}
_TRUTH = ("success", "psnr", "warp_relative", "flicker", "drift", "seam")
_REAL = ("fq", "vq", "oc", "sc", "text_alignment", "warp_error_relative", "flow_seam")
BLOCKS = {
    TABLE_1: (*(_KNOWN[name] for name in _TRUTH), *_MACHINE),
    "The edit": EDIT,
    "Over time": TIME,
    "Clips and keyframes": CLIPS,
    "Cost of one edit": COST,
}
"""All columns, in blocks that fit a page."""
REAL_BLOCKS = {
    TABLE_1: (*(_KNOWN[name] for name in _REAL), *_MACHINE),
    "The paper's metrics": PAPER,
    "Against the source": SOURCE,
    "Cost of one edit": COST,
}
"""The columns of real videos, of which no truth is known."""
_FIRST = {column.name: column for block in BLOCKS.values() for column in block}
COLUMNS = _FIRST | {column.name: column for column in (*PAPER, *SOURCE) if column.name not in _FIRST}
BRIEF_REAL = (*PAPER, SOURCE[0])
BRIEF = tuple(COLUMNS[name] for name in ("success", "psnr", "gain", "warp_relative", "flicker", "drift", "seam"))
"""The columns of a part of the results."""
COMPARED = (*EDIT, *TIME, *COST)
COMPARED_REAL = (*PAPER, *SOURCE, *COST)
"""The columns that two methods are compared by."""
