"""A picture is the same in any form: as Chromium shows it, and by its descriptor."""

import base64
import struct

import numpy as np
import pytest
from PIL import Image
from test_hostile import WHOLE, encoded
from test_images import MODES, SRGB, SWAPPED, TRANSPARENT, gray_profile, png, rgb, turned

import cbir
from cbir.datasets import SCENES

# Primaries of Display P3 and of Adobe RGB (1998), adapted to D50 as profiles have them (ICC.1).
P3 = [[0.51512, 0.2412, -0.00105], [0.29198, 0.69225, 0.04189], [0.1571, 0.06657, 0.78407]]
ADOBE = [[0.60974, 0.31111, 0.01947], [0.20528, 0.62567, 0.06087], [0.14919, 0.06322, 0.74457]]

ELSEWHERE = {  # where Chromium is another than most, or says nothing
    "frames.AVIF": "it shows the moving ones brighter than the same picture at rest",
    "cut.JPEG": "it leaves out the last blocks of rows, which are there",
    "whole rle.bmp": "pixels that its code skips have no colour",
    **{f"turned {turn}.WEBP": "it turns all formats but WebP" for turn in range(2, 9)},
    "whole a.webp": "likewise",
}
CMYK_LEVELS, LEVELS = 20, 6  # of 255, by which a field may differ

DRAWN = """async address => {
    const image = new Image();
    image.src = address;
    try { await image.decode(); } catch { return null; }
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    const context = canvas.getContext("2d");
    context.fillStyle = "white";
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.drawImage(image, 0, 0);
    const pixels = context.getImageData(0, 0, canvas.width, canvas.height).data;
    const text = Array.from(pixels, level => String.fromCharCode(level)).join("");
    return [canvas.height, canvas.width, btoa(text)];
}"""

# How the scene is saved, and how far its descriptor may be: a share of the next scene's distance.
FORMS = {
    "jpg": (0.1, {"quality": 95, "subsampling": 0}),
    "avif": (0.1, {"quality": 95, "subsampling": "4:4:4"}),
    "webp": (0.35, {"quality": 95}),
    "png": (1e-6, {}),
    "tif": (1e-6, {"compression": "tiff_lzw"}),
}
BACK = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # `Image.Transpose` that undoes each turn


def with_primaries(primaries):
    profile = bytearray(SRGB)
    for name, xyz in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries):
        (at,) = struct.unpack_from(">I", profile, profile.index(name) + 4)
        struct.pack_into(">3i", profile, at + 8, *(round(value * 65536) for value in xyz))
    return bytes(profile)


def in_primaries(image, primaries):
    """The pixels of an sRGB image for a profile of `with_primaries`; clipped where it has none."""
    srgb = [[0.43607, 0.22249, 0.01392], [0.38515, 0.71687, 0.09708], [0.14307, 0.06061, 0.7141]]
    values = np.asarray(image) / 255
    light = np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
    light = np.clip(light @ np.array(srgb) @ np.linalg.inv(primaries), 0, 1)
    values = np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)
    return Image.fromarray(np.round(values * 255).astype(np.uint8))


def scene():
    """A picture without a symmetry: a rendered scene, with a quarter of it darker."""
    pixels = rgb(next((SCENES / "database").rglob("*.jpg"))).copy()
    pixels[:112, :112] //= 3
    return Image.fromarray(pixels)


def on_canvas(gif, width, height, left, top):
    """A GIF whose only frame is a part of a larger canvas."""
    gif, at = bytearray(gif), gif.index(b",\0\0\0\0") + 1
    gif[6:10], gif[at : at + 4] = (struct.pack("<HH", *n) for n in [(width, height), (left, top)])
    return bytes(gif)


def odd_files():
    """{name: bytes}: files that only a careful reader shows as Chromium does."""
    picture, files = scene(), {}
    shown = (".jpg", ".png", ".gif", ".webp", ".avif", ".bmp")
    files |= {f"whole {name}": data for name, data in WHOLE.items() if name.endswith(shown)}
    for number, (mode, color, _) in enumerate(MODES):
        format = "JPEG" if mode == "CMYK" else "PNG"
        files[f"{mode} {number}.{format}"] = encoded(Image.new(mode, (8, 8), color), format)
    for kind, (bits, color, row, transparent) in TRANSPARENT.items():
        chunks = [(b"tRNS", transparent)] if transparent else []
        files[f"{kind}.png"] = png(2, 1, bits, color, b"\0" + row, *chunks)
    lossless = {"PNG": {}, "JPEG": {"quality": 95}, "WEBP": {"lossless": True}, "AVIF": {}}
    profiles = {"swapped": SWAPPED, "P3": with_primaries(P3), "Adobe": with_primaries(ADOBE)}
    profiles |= {"sRGB": SRGB, "cut profile": SRGB[:300], "no profile": b"none"}
    for format, options in lossless.items():
        for name, profile in profiles.items():
            files[f"{name}.{format}"] = encoded(picture, format, icc_profile=profile, **options)
        for turn in range(1, 9):
            kept = options | {"exif": turned(turn)}
            files[f"turned {turn}.{format}"] = encoded(picture, format, **kept)
    gray, clear = picture.convert("L"), picture.convert("RGBA")
    clear.putalpha(gray)
    for format in ("PNG", "JPEG"):
        files[f"linear grey.{format}"] = encoded(gray, format, icc_profile=gray_profile(1.0))
    for format in ("PNG", "WEBP", "AVIF"):
        files[f"clear swapped.{format}"] = encoded(clear, format, icc_profile=SWAPPED)
    for name, options in {"": {}, "progressive ": {"progressive": True}}.items():
        files[f"{name}CMYK.JPEG"] = encoded(picture.convert("CMYK"), "JPEG", **options)
    files["plain CMYK.JPEG"] = encoded(picture.convert("CMYK"), "JPEG").replace(b"Adobe", b"Odobe")
    files["cut.JPEG"] = encoded(picture, "JPEG")[:-2]
    for subsampling in range(3):
        files[f"{subsampling}.JPEG"] = encoded(picture, "JPEG", subsampling=subsampling)
    values = np.asarray(gray).astype(np.uint16) * 257
    files["16 bits.PNG"] = encoded(Image.fromarray(values), "PNG")
    frames = [picture.rotate(90), picture.rotate(180)]
    for format in ("GIF", "PNG", "WEBP", "AVIF"):
        files[f"frames.{format}"] = encoded(picture, format, save_all=True, append_images=frames)
    moving = {"save_all": True, "append_images": frames, "default_image": True}
    files["frames behind a picture.PNG"] = encoded(picture, "PNG", **moving)
    for name, options in {"part": {}, "clear part": {"transparency": 3, "background": 3}}.items():
        whole = encoded(picture.quantize(64), "GIF", **options)
        files[f"{name}.GIF"] = on_canvas(whole, 300, 240, 20, 10)
    files["palette.GIF"] = encoded(picture.quantize(64), "GIF", transparency=5)
    files["palette.PNG"] = encoded(picture.quantize(64), "PNG", transparency=bytes(range(64)))
    files["alpha.BMP"] = encoded(clear, "BMP")
    return files


def fields(pixels):
    """Mean colours of 4 x 4 fields, (4, 4, 3)."""
    pixels = np.repeat(np.repeat(pixels.astype(float), 4, axis=0), 4, axis=1)
    rows = (np.array_split(row, 4, axis=1) for row in np.array_split(pixels, 4))
    return np.array([[field.mean(axis=(0, 1)) for field in row] for row in rows])


@pytest.mark.slow
@pytest.mark.browser
def test_pictures_are_shown_as_chromium_shows_them(browser, tmp_path):
    page, shown, wrong = browser.new_page(), 0, {}
    for name, data in odd_files().items():
        (tmp_path / "odd").write_bytes(data)
        ours = rgb(tmp_path / "odd")
        kind = name.split(".")[-1].lower().replace("jpg", "jpeg")
        address = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        drawn = page.evaluate(DRAWN, address)
        if drawn is None:  # a profile that is none, in an AVIF
            assert name in ("cut profile.AVIF", "no profile.AVIF")
            continue
        height, width, pixels = drawn
        theirs = np.frombuffer(base64.b64decode(pixels), np.uint8)
        theirs = theirs.reshape(height, width, 4)[..., :3]
        shown += 1
        if name not in ELSEWHERE:
            far = np.abs(fields(ours) - fields(theirs)).max()
            if ours.shape != theirs.shape or far > (CMYK_LEVELS if "CMYK" in name else LEVELS):
                wrong[name] = ours.shape, theirs.shape, far
    page.close()
    assert not wrong and shown > 100


def test_a_scene_in_any_form_is_near_itself_and_far_from_the_next(tmp_path):
    """By η of the slim network, as printed: WebP halves the resolution of colours."""
    scenes = sorted((SCENES / "database").rglob("*.jpg"))[::100]
    picture, files, bounds = cbir.open_image(scenes[0]), {}, {}
    for suffix, (bound, options) in FORMS.items():
        picture.save(tmp_path / f"a.{suffix}", **options)
        files[suffix], bounds[suffix] = tmp_path / f"a.{suffix}", bound
    rows = b"".join(b"\0" + (row.astype(">u2") * 257).tobytes() for row in np.asarray(picture))
    data = {"16 bits.png": png(*picture.size, 16, 2, rows)}
    for name, primaries in {"P3": P3, "Adobe RGB": ADOBE}.items():
        profile = with_primaries(primaries)
        data[f"{name}.png"] = encoded(in_primaries(picture, primaries), "PNG", icc_profile=profile)
    for turn in range(1, 9):
        stored = picture.transpose(BACK[turn]) if turn > 1 else picture
        data[f"turned {turn}.png"] = encoded(stored, "PNG", exif=turned(turn))
    for name, content in data.items():
        (tmp_path / name).write_bytes(content)
        files[name], bounds[name] = tmp_path / name, 0.05 if "RGB" in name or "P3" in name else 1e-6
    net = cbir.load_network("embedded", device="cpu")
    eta = cbir.extract([*files.values(), *scenes], net, tmp_path / "store").eta[:].astype(float)
    apart = np.abs(eta - eta[len(files)]).sum(axis=1)
    next_scene = apart[len(files) + 1 :].min()
    shares = dict(zip(files, apart / next_scene))
    assert {name: share for name, share in shares.items() if share > bounds[name]} == {}
