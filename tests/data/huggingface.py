"""Writes huggingface.parquet, and the same with other compressions than snappy: five pictures as Hugging Face's `datasets` stores them.

    pip install pyarrow pillow
    python3 tests/data/huggingface.py

Picture i is 3 x 2 pixels of (i, column, row); its class is i % 3 of bird, cat, dog. Row groups have two rows.
"""

import io
import json
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def picture(i):
    image = Image.new("RGB", (3, 2))
    image.putdata([(i, x, y) for y in range(2) for x in range(3)])
    encoded = io.BytesIO()
    image.save(encoded, "PNG")
    return {"bytes": encoded.getvalue(), "path": f"{i}.png"}


features = {
    "image": {"_type": "Image"},
    "label": {"names": ["bird", "cat", "dog"], "_type": "ClassLabel"},
}
schema = pa.schema(
    [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())])), ("label", pa.int64())],
    metadata={"huggingface": json.dumps({"info": {"features": features}})})
table = pa.table({"image": [picture(i) for i in range(5)], "label": [i % 3 for i in range(5)]}, schema=schema)
for compression, suffix in [("snappy", ".parquet"), ("zstd", ".zstd.parquet"), ("gzip", ".gzip.parquet")]:
    pq.write_table(table, pathlib.Path(__file__).with_suffix(suffix), row_group_size=2, compression=compression)
