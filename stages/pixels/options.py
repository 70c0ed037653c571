"""How an image is checked, resized and encoded: the parameters."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Interpolation = Literal["nearest", "linear", "bilinear", "cubic", "bicubic", "area", "lanczos", "lanczos4"]

# 67 megapixels: the largest of full-frame cameras have 61. A decoder needs up to 2.3 GB for so many: see docs/safety.md.
MAX_PIXELS = 2**26

_QUALITY_RANGE = {"jpg": (0, 100), "png": (0, 9), "webp": (1, 101)}


class ImageOptions(BaseModel):
    """How an image is checked, resized and encoded: img2dataset's options, under its names and with its defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_size: int = Field(256, gt=0, le=16384, description="target side in pixels; resize_mode says which side")
    resize_mode: Literal["no", "border", "keep_ratio", "keep_ratio_largest", "center_crop"] = Field(
        "border",
        description="no: as it is; border: longer side to image_size, padded white to a square; keep_ratio: shorter side to "
        "image_size; keep_ratio_largest: longer side to image_size; center_crop: keep_ratio, then the square in the middle",
    )
    resize_only_if_bigger: bool = Field(False, description="leave images alone that are not larger than image_size")
    upscale_interpolation: Interpolation = Field("lanczos", description="interpolation where the image grows")
    downscale_interpolation: Interpolation = Field("area", description="interpolation where the image shrinks")
    decode: Literal["fast", "exact"] = Field(
        "fast",
        description="where images shrink by area, fast: JPEGs decoded at 1/2, 1/4 or 1/8 where that is enough, then blurred "
        "and sampled: at least 29 dB (PSNR), mostly 43 to 50, from exact, for half the CPU time; exact: img2dataset's pixels",
    )
    encode_format: Literal["jpg", "png", "webp"] = Field("jpg", description="format of the stored image")
    encode_quality: int = Field(
        95, ge=0, le=101, description="jpg: 0 to 100; webp: 1 to 100, 101 for lossless; png: compression 0 to 9"
    )
    orientation: Literal["apply", "ignore"] = Field(
        "apply",
        description="apply: turn each picture as its EXIF tag Orientation says, as viewers do; ignore: leave it as it came, as "
        "img2dataset does; original_width and original_height are those of the picture as it came either way",
    )
    skip_reencode: bool = Field(False, description="store the original bytes where nothing was resized and the format is right")
    disable_all_reencoding: bool = Field(
        False, description="store every file as it came, undecoded; sizes are read from its header"
    )
    min_image_size: int = Field(0, ge=0, description="images whose shorter side has fewer pixels fail as too_small")
    max_image_area: float | None = Field(None, gt=0, description="images with more pixels fail as too_large; null: no bound")
    max_aspect_ratio: float | None = Field(
        None, ge=1, description="images whose longer side is more than so many times the shorter one fail as aspect_ratio"
    )
    max_pixels: int = Field(
        MAX_PIXELS, gt=0, description="hard bound against bombs, before decoding and after resizing: too_many_pixels"
    )

    @model_validator(mode="after")
    def _quality_fits_format(self) -> "ImageOptions":
        low, high = _QUALITY_RANGE[self.encode_format]
        if not low <= self.encode_quality <= high:
            raise ValueError(
                f"encode_quality is {self.encode_quality}; with encode_format {self.encode_format} it must be {low} to {high}"
            )
        return self
