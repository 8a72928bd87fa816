"""Makes the pictures of tests/golden/pictures: kinds that the `image` crate does not write itself.

Run with: pip install pillow==12.0.0 && python3 make_pictures.py
"""

import struct
import zlib
from pathlib import Path

from PIL import Image

folder = Path(__file__).parent / "pictures"
folder.mkdir(exist_ok=True)

# Left half red, right half blue: after any turn it is known which way is up.
picture = Image.new("RGB", (16, 8), (250, 10, 10))
picture.paste((10, 10, 250), (8, 0, 16, 8))

picture.convert("CMYK").save(folder / "cmyk.jpg", quality=95)
picture.convert("P", palette=Image.Palette.ADAPTIVE).save(folder / "palette.png")
picture.convert("1").save(folder / "one_bit.png")
picture.save(folder / "lossy.webp", quality=90)

turned = Image.Exif()
turned[0x0112] = 6  # EXIF's orientation: turn by 90 degrees clockwise to look at it
picture.save(folder / "turned.jpg", quality=95, exif=turned)

frames = [picture, picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
frames[0].save(folder / "animated.webp", save_all=True, append_images=frames[1:], duration=100)
frames[0].save(folder / "animated.png", save_all=True, append_images=frames[1:], duration=100)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


# A palette of red and of a blue that cannot be seen; Pillow would add colours.
rows = b"".join(b"\0" + bytes([0] * 8 + [1] * 8) for _ in range(8))
parts = [
    (b"IHDR", struct.pack(">IIBBBBB", 16, 8, 8, 3, 0, 0, 0)),
    (b"PLTE", bytes([250, 10, 10, 10, 10, 250])),
    (b"tRNS", bytes([255, 0])),
    (b"IDAT", zlib.compress(rows)),
    (b"IEND", b""),
]
(folder / "clear_palette.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
