"""Images for the fault server: drawn ones in every format, and files that are broken or hostile on purpose.

Every function takes a name that seeds the drawing, so that no two addresses show the same image.
"""

import io
import struct
import zlib
from functools import lru_cache

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 400, 300


@lru_cache(maxsize=64)
def _drawing(name: str) -> bytes:
    generator = np.random.default_rng(zlib.crc32(name.encode()))
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    pixels = np.empty((HEIGHT, WIDTH, 3), np.float32)
    for channel in range(3):
        dx, dy, start = generator.uniform(-0.4, 0.4, 2).tolist() + [generator.uniform(60, 190)]
        pixels[..., channel] = start + dx * (x - WIDTH / 2) + dy * (y - HEIGHT / 2)
    for _ in range(12):
        centre_x, centre_y = generator.uniform(0, WIDTH), generator.uniform(0, HEIGHT)
        radius_x, radius_y = generator.uniform(20, 110), generator.uniform(20, 80)
        inside = ((x - centre_x) / radius_x) ** 2 + ((y - centre_y) / radius_y) ** 2 < 1
        pixels[inside] = generator.uniform(0, 255, 3)
    pixels += generator.normal(0, 9, pixels.shape)
    return np.clip(pixels, 0, 255).astype(np.uint8).tobytes()


def drawing(name: str) -> Image.Image:
    """An image of ellipses on a slope of colour, with grain; the same name gives the same one."""
    return Image.frombytes("RGB", (WIDTH, HEIGHT), _drawing(name))


def saved(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


@lru_cache(maxsize=64)
def jpeg(name: str) -> bytes:
    """About 40 KB, baseline, no restart markers."""
    return saved(drawing(name), "JPEG", quality=85)


def png(name: str) -> bytes:
    return saved(drawing(name), "PNG", compress_level=1)


def webp(name: str) -> bytes:
    return saved(drawing(name), "WEBP", quality=80, method=0)


def _with_palette(name: str, colours: int) -> Image.Image:
    return drawing(name).quantize(colours, Image.Quantize.FASTOCTREE)


def gif(name: str) -> bytes:
    return saved(_with_palette(name, 128), "GIF")


def bmp(name: str) -> bytes:
    return saved(drawing(name), "BMP")


def tiff(name: str) -> bytes:
    return saved(drawing(name), "TIFF", compression="tiff_lzw")


def progressive_jpeg(name: str) -> bytes:
    return saved(drawing(name), "JPEG", quality=85, progressive=True)


def grey_jpeg(name: str) -> bytes:
    return saved(drawing(name).convert("L"), "JPEG", quality=85)


def cmyk_jpeg(name: str) -> bytes:
    return saved(drawing(name).convert("CMYK"), "JPEG", quality=85)


def animated_gif(name: str) -> bytes:
    frames = [_with_palette(f"{name}/{i}", 32) for i in range(4)]
    return saved(frames[0], "GIF", save_all=True, append_images=frames[1:], duration=100, loop=0)


def png_16_bit(name: str) -> bytes:
    grey = np.asarray(drawing(name).convert("L")).astype(np.uint16) * 257
    return saved(Image.fromarray(grey), "PNG", compress_level=1)


def png_palette_alpha(name: str) -> bytes:
    return saved(_with_palette(name, 64), "PNG", transparency=0)


def exif_rotated_jpeg(name: str) -> bytes:
    """Stored lying on its side, with the EXIF tag that says so: upright it is 300 x 400."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(drawing(name), "JPEG", quality=85, exif=exif.tobytes())


def _start_of_scan(data: bytes) -> int:
    return data.index(b"\xff\xda")


def extraneous_bytes_jpeg(name: str) -> bytes:
    """A whole image with stray bytes between two header segments: decoders complain and go on; it must be kept."""
    data = jpeg(name)
    at = _start_of_scan(data)
    return data[:at] + b"\x12\x34\x56\x78" + data[at:]


def truncated_jpeg(name: str) -> bytes:
    data = jpeg(name)
    return data[: len(data) * 2 // 3]


def jpeg_without_1_kb(name: str) -> bytes:
    """A kilobyte of the coded image is missing in the middle; Pillow and OpenCV decode it without a word."""
    data = jpeg(name)
    middle = (_start_of_scan(data) + len(data)) // 2
    return data[: middle - 512] + data[middle + 512 :]


def jpeg_with_zeros(name: str) -> bytes:
    """512 bytes of the coded image are zeros."""
    data = jpeg(name)
    middle = (_start_of_scan(data) + len(data)) // 2
    return data[: middle - 256] + bytes(512) + data[middle + 256 :]


def jpeg_header_only(name: str) -> bytes:
    return jpeg(name)[:200]


def truncated_png(name: str) -> bytes:
    data = png(name)
    return data[: len(data) // 2]


def png_with_wrong_checksum(name: str) -> bytes:
    """One bit of the image's data is flipped, so that neither its checksum nor its code holds."""
    data = bytearray(png(name))
    data[len(data) // 2] ^= 0x10
    return bytes(data)


def tiny_png(name: str) -> bytes:
    """1 x 1 px, as counting pixels are."""
    return saved(drawing(name).resize((1, 1)), "PNG")


def huge_jpeg(name: str) -> bytes:
    """Says 65,500 x 65,500 px in its header."""
    data = jpeg(name)
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", 65500, 65500) + data[at + 4 :]


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _squeezed_zeros(count: int) -> bytes:
    """``count`` zeros, a multiple of 1,000,000, as zlib squeezes them; without squeezing each of them here."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = squeeze.compress(bytes(1_000_000)) + squeeze.flush(zlib.Z_FULL_FLUSH)
    checksum = (count % 65521) << 16 | 1
    return b"\x78\xda" + block * (count // 1_000_000) + b"\x03\0" + struct.pack(">I", checksum)


@lru_cache(maxsize=1)
def png_bomb() -> bytes:
    """33,333 x 30,000 px of one grey: 1 GB in 1 MB."""
    width, height = 33_333, 30_000
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    data = _squeezed_zeros(1_001_000_000)
    return b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def png_text_bomb(name: str) -> bytes:
    """A good image with a comment that unpacks to 200 MB."""
    data = png(name)
    return data[:33] + _chunk(b"zTXt", b"Comment\0\0" + _squeezed_zeros(200_000_000)) + data[33:]


def gif_bomb(name: str) -> bytes:
    """Says 65,535 x 65,535 px for its screen and its frame."""
    data = bytearray(gif(name))
    data[6:10] = b"\xff\xff\xff\xff"
    return bytes(data)


def gif_of_many_frames() -> bytes:
    """Twenty thousand frames of 400 x 300 px in 500 KB; only the first is wanted."""
    data = saved(Image.linear_gradient("L").resize((WIDTH, HEIGHT)), "GIF")
    frame = b"\x2c\0\0\0\0" + struct.pack("<HH", WIDTH, HEIGHT) + b"\0\x08\x02\x00\x01\0"
    return data[:-1] + frame * 20_000 + b";"


def webp_bomb(name: str) -> bytes:
    """Says 16,384 x 16,384 px."""
    data = bytearray(saved(drawing(name), "WEBP", lossless=True, method=0))
    at = data.index(b"VP8L") + 9
    bits = struct.unpack("<I", data[at : at + 4])[0] | 0x0FFFFFFF
    data[at : at + 4] = struct.pack("<I", bits)
    return bytes(data)


def tiff_bomb() -> bytes:
    """60,000 x 60,000 px of deflated zeros in one strip."""
    squeezed = zlib.compress(bytes(1_000_000), 9)
    tags = [
        (256, 4, 1, 60_000),  # width
        (257, 4, 1, 60_000),  # height
        (258, 3, 1, 8),  # bits a sample
        (259, 3, 1, 8),  # deflate
        (262, 3, 1, 1),  # black is zero
        (273, 4, 1, 8),  # where the strip starts
        (277, 3, 1, 1),  # samples a pixel
        (278, 4, 1, 60_000),  # rows in the strip
        (279, 4, 1, len(squeezed)),
    ]
    directory = struct.pack("<H", len(tags)) + b"".join(struct.pack("<HHII", *tag) for tag in tags) + bytes(4)
    return b"II*\0" + struct.pack("<I", 8 + len(squeezed)) + squeezed + directory


def bmp_bomb() -> bytes:
    """Says 100,000 x 100,000 px."""
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, 10**5, 10**5, 1, 24, *[0] * 6)


def avif_start() -> bytes:
    """The first bytes of a format that is not read."""
    return struct.pack(">I", 28) + b"ftypavif\0\0\0\0avifmif1miaf" + bytes(2000)


HTML = b"<!DOCTYPE html><html><head><title>Sign in</title></head><body>" + b"<p>Sign in to see it.</p>" * 80
SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="400" height="300"><rect width="9"/></svg>'


def gzip_bomb() -> bytes:
    """1 GB of zeros in 1 MB, as zlib squeezes them."""
    return _squeezed_zeros(1_000_000_000)
