"""Option types that more than one command takes."""

from __future__ import annotations

from typing import Annotated

import typer

from sruplift.errors import UsageError

Model = Annotated[
    str, typer.Option("--model", "-m", help="The network; `sruplift models` lists them.")
]
Scale = Annotated[int, typer.Option("--scale", "-s", help="How many times larger: 2, 3 or 4.")]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        "-w",
        metavar="FILE|hf://OWNER/REPO/FILE[@REVISION]",
        help="Weights to use instead of the released ones.",
    ),
]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:N, xpu or mps.")]
Precision = Annotated[str, typer.Option("--precision", help="auto, fp32, bf16 or fp16.")]
Compile = Annotated[
    str,
    typer.Option(
        "--compile",
        help="auto: our kernels on CPUs, by the C compiler that is here, and PyTorch's compiler for"
        " long jobs on a GPU; on: for all jobs, or an error; off.",
    ),
]
Backend = Annotated[
    str,
    typer.Option(
        "--backend",
        help="torch; openvino (CPU: faster in fp32 where there is no C compiler) or onnxruntime.",
    ),
]
SelfEnsemble = Annotated[
    bool,
    typer.Option("--self-ensemble", help="Mean over 8 flips and rotations, 8 times slower."),
]

# Of `sruplift upscale`.

Inputs = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="INPUT…",
        help="Images, folders of images, patterns such as 'a/**/*.jpg'; - is stdin.",
    ),
]
FromFile = Annotated[
    str | None,
    typer.Option(
        "--from-file", metavar="LIST|-", help="Also the inputs in this list: one a line, or NULs."
    ),
]
Recursive = Annotated[
    bool, typer.Option("--recursive", "-r", help="Folders mean their subfolders' images too.")
]
Output = Annotated[
    str | None,
    typer.Option(
        "--output", "-o", metavar="FILE|DIR|-", help="Default: photo_pan_x4.png beside photo.png."
    ),
]
OutputTemplate = Annotated[
    str,
    typer.Option(
        "--output-template",
        metavar="NAME",
        help="How outputs are called; also {parent}, {index:03}.",
    ),
]
Tile = Annotated[
    str, typer.Option("--tile", metavar="auto|N", help="Edge of a tile in input pixels.")
]
Overlap = Annotated[
    str, typer.Option("--overlap", metavar="auto|N", help="Input pixels that tiles share.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")]
SkipExisting = Annotated[
    bool, typer.Option("--skip-existing", help="Leave out inputs whose output exists.")
]
ReportFile = Annotated[
    str | None,
    typer.Option("--report", metavar="FILE|-", help="Append a line of JSON for each input."),
]
Resume = Annotated[
    str | None,
    typer.Option(
        "--resume",
        metavar="FILE",
        help="Leave out what is done by this report, and append to it (or to --report's).",
    ),
]
MaxPixels = Annotated[
    int | None,
    typer.Option("--max-pixels", min=1, help="Read images of up to so many pixels (268,435,456)."),
]
Quality = Annotated[
    int | None,
    typer.Option(
        "--quality",
        min=1,
        max=100,
        help="For JPEG, WebP (both 95) and AVIF (90).",
    ),
]
Format = Annotated[
    str | None,
    typer.Option("--format", help="png, jpg, webp, tiff, avif or gif; default: as input."),
]
VerifySeams = Annotated[
    bool,
    typer.Option("--verify-seams", help="Also tell how tiles differ from the whole, on a crop."),
]
AnyScale = Annotated[
    float | None,
    typer.Option("--scale", "-s", help="How many times larger, above 1 up to 64; default: 4."),
]
Width = Annotated[
    int | None, typer.Option("--width", help="Of the result; alone, the height follows.")
]
Height = Annotated[
    int | None, typer.Option("--height", help="Of the result; alone, the width follows.")
]
MaxSide = Annotated[int | None, typer.Option("--max-side", help="The longer side of the result.")]
Megapixels = Annotated[
    float | None, typer.Option("--megapixels", help="Of the result, in millions of pixels.")
]
OnlyIfSmaller = Annotated[
    bool, typer.Option("--only-if-smaller", help="Leave out images that are as large already.")
]
Alpha = Annotated[
    str,
    typer.Option(
        "--alpha", help="Transparency: bleed (resized), net (through the network) or drop."
    ),
]
Background = Annotated[
    str,
    typer.Option("--background", help="The colour behind it where the format has none."),
]
Provenance = Annotated[
    bool,
    typer.Option(
        "--provenance/--no-provenance", help="Write network, size and weights into the XMP data."
    ),
]
Compare = Annotated[
    str | None,
    typer.Option("--compare", metavar="FILE", help="Also a sheet with bicubic beside the result."),
]
DryRun = Annotated[
    bool,
    typer.Option("--dry-run", help="Only tell what would be done, how long and how much memory."),
]

# Of `sruplift batch`.

BatchTemplate = Annotated[
    str,
    typer.Option(
        "--output-template", metavar="NAME", help="How outputs are called; also {parent}."
    ),
]

InputAddress = Annotated[
    str,
    typer.Argument(
        metavar="INPUT",
        help="A folder, bucket or pattern of images, Parquet or tar files; a path or an address.",
    ),
]
OutputAddress = Annotated[
    str, typer.Argument(metavar="OUTPUT", help="The folder or bucket for results.")
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", min=1, help="Default: one for each GPU, else as cores are for."),
]
CoresPerWorker = Annotated[
    int | None,
    typer.Option("--cores-per-worker", min=1, help="And threads; default: 4, if there are."),
]
Address = Annotated[
    str | None,
    typer.Option("--address", help="A Ray cluster to join, such as auto; default: this machine."),
]
ImageColumn = Annotated[
    str | None,
    typer.Option("--image-column", help="Of Parquet; default: image, else the one of bytes."),
]


def auto_or_number(text: str, option: str) -> str | int:
    """The value of an option that is "auto" or a number of pixels.

    Raises:
        UsageError: it is neither.
    """
    if text == "auto":
        return text
    try:
        return int(text)
    except ValueError:
        raise UsageError(f"{option} is 'auto' or a number of pixels, not {text!r}") from None
