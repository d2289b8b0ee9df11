"""Compares decoded and resized pictures with Pillow's: `against_pillow.py QTUNED [FOLDER]`, with the binary to test.

Makes pictures of every kind that is read (JPEG with all subsamplings, progressive, gray, CMYK, YCCK, EXIF orientations;
PNG, WebP, BMP), and takes the photographs of FOLDER where one is given. What `qtuned data --write` writes must be within
1 level of Pillow's on 99 % of the values, picture by picture. Needs the PyPI packages numpy and pillow.
"""

import io
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy
import PIL
from PIL import Image, ImageOps

HEIGHT, WIDTH = 211, 157
LEAST = 0.99


def photograph(height, width, channels):
    """Light with edges and noise, colours that change slowly: as in a photograph."""
    y, x = numpy.mgrid[:height, :width]
    light = 120 + 50 * numpy.sin(x / 11) + 40 * numpy.cos(y / 17 + x / 40)
    light[(x - 60) ** 2 + (y - 90) ** 2 < 900] += 50
    light += numpy.random.default_rng(7).normal(0, 6, light.shape)
    colour = [25 * numpy.sin(x / (40 + 9 * c) + c) + 20 * numpy.cos(y / (60 - 7 * c)) for c in range(channels)]
    return numpy.clip(numpy.stack([light + plane for plane in colour], -1), 0, 255).astype(numpy.uint8)


def encoded(image, form, **options):
    bytes_ = io.BytesIO()
    image.save(bytes_, form, **options)
    return bytes_.getvalue()


def pictures():
    """Names and bytes of pictures that are WIDTH x HEIGHT, upright."""
    rgb = Image.fromarray(photograph(HEIGHT, WIDTH, 3))
    gray = rgb.convert("L")
    rgba = rgb.copy()
    rgba.putalpha(gray)
    for quality in (75, 95):
        for subsampling in ("4:4:4", "4:2:2", "4:2:0"):
            name = f"jpeg-{quality}-{subsampling.replace(':', '')}"
            yield name, encoded(rgb, "JPEG", quality=quality, subsampling=subsampling)
    yield "jpeg-progressive", encoded(rgb, "JPEG", quality=90, progressive=True)
    yield "jpeg-gray", encoded(gray, "JPEG", quality=90)
    cmyk = Image.frombytes("CMYK", (WIDTH, HEIGHT), photograph(HEIGHT, WIDTH, 4).tobytes())
    adobe = encoded(cmyk, "JPEG", quality=90)
    yield "jpeg-cmyk", adobe
    # The same planes, taken for luma, chroma and black.
    marker = adobe.index(b"Adobe") + 11
    assert adobe[marker] == 0
    yield "jpeg-ycck", adobe[:marker] + b"\x02" + adobe[marker + 1:]
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        size = (HEIGHT, WIDTH) if orientation > 4 else (WIDTH, HEIGHT)
        yield f"jpeg-exif-{orientation}", encoded(rgb.resize(size), "JPEG", quality=90, exif=exif)
    exif = Image.Exif()
    exif[0x0112] = 6
    yield "png-exif-6", encoded(rgb.resize((HEIGHT, WIDTH)), "PNG", exif=exif)
    yield "webp-exif-6", encoded(rgb.resize((HEIGHT, WIDTH)), "WEBP", lossless=True, exif=exif)
    for name, image in [("rgb", rgb), ("rgba", rgba), ("gray", gray), ("gray-alpha", rgba.convert("LA")),
                        ("palette", rgb.quantize(64)), ("bit", gray.convert("1"))]:
        yield f"png-{name}", encoded(image, "PNG")
    yield "webp-lossy", encoded(rgb, "WEBP", quality=85)
    yield "webp-lossless", encoded(rgb, "WEBP", lossless=True)
    yield "webp-alpha", encoded(rgba, "WEBP", lossless=True)
    for name, image in [("rgb", rgb), ("gray", gray), ("palette", rgb.quantize(64))]:
        yield f"bmp-{name}", encoded(image, "BMP")


FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


def preprocessings():
    """A job's `preprocess`, and what Pillow does for it."""
    yield "decoded", {}, lambda image: image
    yield "stored", {"orientation": "stored", "resize": {"size": [64, 64]}}, \
        lambda image: image.resize((64, 64), FILTERS["bilinear"])
    for name, resampling in FILTERS.items():
        for side in (64, 300):
            # As torchvision.transforms.Resize with antialias.
            size = (side, int(side * HEIGHT / WIDTH))
            yield f"{name} {side}", {"resize": {"short_side": side, "interpolation": name}}, \
                lambda image, size=size, resampling=resampling: image.resize(size, resampling)


def fail(message):
    sys.exit(f"against_pillow.py: {message}")


def compared(qtuned, folder, names, preprocess, expected):
    """The share of values within 1 level, by picture."""
    (folder / "list.csv").write_text("file,label\n" + "".join(f"{name},0\n" for name in [*names, "first"]))
    (folder / "split.json").write_text(json.dumps({"calibration": ["first"], "validation": names}))
    data = {"images": {"csv": "list.csv"}, "preprocess": {"channels": "rgb", **preprocess},
            "split": {"file": "split.json"}}
    job = {"name": "pillow", "model": {"onnx": "none.onnx"}, "data": data, "budget": {"max_drop": 0.01}}
    (folder / "job.yaml").write_text(json.dumps(job))
    command = [qtuned, "data", folder / "job.yaml", "--write", folder / "out", "--channels-last"]
    ran = subprocess.run(command, capture_output=True, text=True)
    if ran.returncode != 0:
        fail(f"qtuned data: {ran.stderr}")
    ours = numpy.load(folder / "out/inputs.npy")
    if (folder / "out/names.txt").read_text().split() != names:
        fail("other samples than were listed")
    shares = {}
    for name, found in zip(names, ours):
        with Image.open(folder / name) as image:
            upright = image if preprocess.get("orientation") == "stored" else ImageOps.exif_transpose(image)
            wanted = numpy.asarray(expected(upright.convert("RGB"))).astype(numpy.float32)
        if wanted.shape != found.shape:
            fail(f"{name}: {found.shape} where Pillow has {wanted.shape}")
        shares[name] = float((numpy.abs(found - wanted) <= 1).mean())
    return shares


def main():
    qtuned = pathlib.Path(sys.argv[1]).resolve()
    photographs = sorted(pathlib.Path(sys.argv[2]).glob("*.jpg")) if len(sys.argv) > 2 else []
    bad = []

    def report(title, shares):
        worst = min(shares, key=shares.get)
        mean = sum(shares.values()) / len(shares)
        print(f"{title}: {len(shares)} pictures, {mean:.2%} of the values within 1 level; "
              f"least {shares[worst]:.2%} ({worst})")
        bad.extend(f"{title}, {name}: {share:.2%}" for name, share in shares.items() if share < LEAST)

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        made = dict(pictures())
        for name, bytes_ in [*made.items(), ("first", made["png-rgb"])]:
            (folder / name).write_bytes(bytes_)
        for title, preprocess, expected in preprocessings():
            report(title, compared(qtuned, folder, list(made), preprocess, expected))
    if photographs:
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            for path in photographs:
                (folder / path.name).write_bytes(path.read_bytes())
            (folder / "first").write_bytes(photographs[0].read_bytes())
            for name, resampling in FILTERS.items():
                preprocess = {"resize": {"size": [224, 224], "interpolation": name}}
                resized = lambda image, resampling=resampling: image.resize((224, 224), resampling)
                names = [path.name for path in photographs]
                report(f"photographs, {name}", compared(qtuned, folder, names, preprocess, resized))
    print(f"Pillow {PIL.__version__}")
    if bad:
        fail(f"expected {LEAST:.0%} of the values within 1 level:\n" + "\n".join(bad))


main()
