"""Writes small JPEGs of the kinds that are seldom seen, and what Pillow (13.0.0) makes of each as NAME.png.

    pip install pillow
    python3 tests/data/pillow/jpeg.py
"""

import io
import pathlib

from PIL import Image, ImageOps

FOLDER = pathlib.Path(__file__).parent
WIDTH, HEIGHT = 24, 16


def jpeg(image, **options):
    encoded = io.BytesIO()
    image.save(encoded, "JPEG", quality=92, subsampling=0, **options)
    return encoded.getvalue()


def write(name, encoded):
    (FOLDER / f"{name}.jpg").write_bytes(encoded)
    ImageOps.exif_transpose(Image.open(io.BytesIO(encoded))).convert("RGB").save(FOLDER / f"{name}.png")


planes = bytes(v for y in range(HEIGHT) for x in range(WIDTH) for v in (9 * x, 12 * y, 5 * (x + y), 95 - 4 * x + 3 * y))
cmyk = jpeg(Image.frombytes("CMYK", (WIDTH, HEIGHT), planes))
write("cmyk", cmyk)
# Adobe's marker says which transform: 0 none, 2 YCCK.
at = cmyk.index(b"Adobe") + 11
write("ycck", cmyk[:at] + b"\x02" + cmyk[at + 1:])
rgb = Image.frombytes("RGB", (WIDTH, HEIGHT), bytes(v for i, v in enumerate(planes) if i % 4 != 3))
for orientation in (3, 6, 7):
    exif = Image.Exif()
    exif[0x0112] = orientation
    write(f"exif_{orientation}", jpeg(rgb, exif=exif))
