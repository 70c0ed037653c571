"""Names and types of the columns that stages exchange, in one place.

`float16` vectors are unit length; sizes are pixels; counts are bytes unless said otherwise. A null means "not known":
every column may hold nulls unless its line says otherwise.
"""

import pyarrow as pa

# Every row has these from intake on; never null.
ORDINAL = pa.field("ordinal", pa.int64(), nullable=False)  # position in the input over all generations, from 0
KEY = pa.field("key", pa.string(), nullable=False)  # the ordinal, zero-padded to 9: img2dataset's keys at its defaults
UID = pa.field("uid", pa.string(), nullable=False)  # 32 hex digits: a 128-bit hash of url and caption, or the source's own

# What readers give.
URL = pa.field("url", pa.string())
CAPTION = pa.field("caption", pa.string())
CAPTIONS = pa.field("captions", pa.list_(pa.string()))  # where one image has several: `caption` is the first of them

# An image is a reference: into a source tar (an absolute URI), or into a payload (a path relative to the work folder).
IMAGE_PATH = pa.field("image_path", pa.string())
IMAGE_OFFSET = pa.field("image_offset", pa.int64())
IMAGE_LENGTH = pa.field("image_length", pa.int64())
IMAGE_FORMAT = pa.field("image_format", pa.string())  # the tar member's extension: jpg, png, webp
IMAGE_REFERENCE = (IMAGE_PATH, IMAGE_OFFSET, IMAGE_LENGTH, IMAGE_FORMAT)

# Of a row that was a sample of another dataset: its key there, and where its further members lie in the file `image_path`.
SOURCE_KEY = pa.field("source_key", pa.string())
SOURCE_MEMBERS = pa.field(
    "source_members",
    pa.list_(pa.struct([("extension", pa.string()), ("offset", pa.int64()), ("length", pa.int64())])),
)

# The encoded bytes travel with a unit while it is in flight and are never stored in a layer. A stage that reads "image"
# gets them; a stage that writes "image" (with "image_format") has them put into the unit's payload.
IMAGE = pa.field("image", pa.large_binary())

WIDTH = pa.field("width", pa.int32())  # of the stored image
HEIGHT = pa.field("height", pa.int32())
ORIGINAL_WIDTH = pa.field("original_width", pa.int32())  # of the image as downloaded
ORIGINAL_HEIGHT = pa.field("original_height", pa.int32())
ORIGINAL_BYTES = pa.field("original_bytes", pa.int64())  # of the body as downloaded
ORIGINAL_FORMAT = pa.field("original_format", pa.string())  # as its first bytes say: jpg, png, webp, gif, bmp, tiff, avif
EXIF = pa.field("exif", pa.string())  # JSON object of exifread's tags, "{}" if there are none
SHA256 = pa.field("sha256", pa.string())  # 64 hex digits, over the bytes as downloaded

# A transform or a reader may add these two: a code of `fates.Failure` where the row has no result, null where it has one.
FAILURE = pa.field("failure", pa.string())
FAILURE_DETAIL = pa.field("failure_detail", pa.string())

CLIP_SIMILARITY = pa.field("clip_similarity", pa.float32())  # cosine of image_embedding and text_embedding, -1 to 1


def embedding(name: str, dim: int) -> pa.Field:
    """A column of unit vectors: `fixed_size_list<float16>[dim]`; null where there is nothing to embed."""
    return pa.field(name, pa.list_(pa.float16(), dim))
