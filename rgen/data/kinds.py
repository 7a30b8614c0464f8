"""What a file is that is neither text nor an array nor a picture, by its bytes: so that a message can say it."""

import codecs
import re

import numpy as np

HEAD = 1 << 20  # bytes whose control characters are counted
HTML = "a page of HTML, as a server sends in place of a file"
KINDS = {
    rb"version https://git-lfs\.github\.com/spec/": "a pointer of Git LFS and not the file itself: fetch that with git lfs pull",
    rb"(\xef\xbb\xbf)?\s*<(?i:!doctype html|html[\s>])": HTML,
    rb"\x28\xb5\x2f\xfd": "compressed by Zstandard: unpack it first, with zstd -d",
    rb"\x04\x22\x4d\x18|\x1f\x9d|LZIP\x01|\x89LZO|\x5d\0\0[\x80\0]\0": "compressed by a program that is not known here: unpack it first",
    rb"PK(\x03\x04|\x05\x06)": "a ZIP archive (.zip, .npz, .docx, PyTorch's .pt): unpack it first",
    rb".{257}ustar": "a tar archive: unpack it first, with tar -xf",
    rb"7z\xbc\xaf\x27\x1c|Rar!\x1a\x07|!<arch>\n": "an archive (7-Zip, RAR, ar): unpack it first",
    rb"\x89PNG": "a PNG image, and images are given as a folder of them",
    rb"\xff\xd8\xff": "a JPEG image, and images are given as a folder of them",
    rb"GIF8[79]a": "a GIF image, and images are given as a folder of them",
    rb"BM.{4}\0{4}|II[*+]\0|MM\0[*+]|RIFF.{4}WEBP|\0\0\0\x0cjP|\0\0..ftyp(avi|hei|mif)": (
        "an image, and images are given as a folder of them"
    ),
    rb"\x93NUMPY": "an array of NumPy, whose name should end with .npy",
    rb"\0\0[\x08\x09\x0b-\x0e][\x01-\x04]\0": (
        "an IDX file, as MNIST's: for MNIST itself give --data mnist and its folder as --data-dir; save others with numpy.save"
    ),
    rb"RIFF.{4}(WAVE|AVI )|OggS\0|fLaC\0|ID3[\x02-\x04]\0|\0\0..ftyp|\x1aE\xdf\xa3": "sound or video",
    rb"%PDF-": "a PDF",
    rb"\xd0\xcf\x11\xe0\xa1\xb1": "a document of Microsoft Office",
    rb"SQLite format 3\0": "a database of SQLite",
    rb"PAR1\x15|ARROW1\0\0|FEA1\0|\x89HDF\r\n|CDF[\x01\x02\x05]|Obj\x01|MATLAB 5\.0 MAT": (
        "a table or arrays (Parquet, Arrow, HDF5, NetCDF, Avro, MATLAB): write lines of text to a file, or save images with numpy.save"
    ),
    rb"\x80[\x02-\x05][\x8a\x95}\](cK]": "a pickle of Python, which is not read",
    rb"\x7fELF|MZ.{38}\0{20}|[\xce\xcf]\xfa\xed\xfe|\xca\xfe\xba\xbe\0|\0asm": "a program",
}
"""How files begin, as regular expressions, and what they are."""
CONTROLS = np.array([byte < 32 and byte not in b"\0\b\t\n\f\r\x1b" for byte in range(256)])
"""Bytes that hardly stand in text; a NUL has a meaning of its own here."""


def kind_of(content: bytes) -> str | None:
    """What a file that begins with these bytes is, for "... is {it}."; None if it may be text."""
    head = content[:512]
    return next((what for begins, what in KINDS.items() if re.match(begins, head, re.DOTALL)), None)


def binary(content: bytes) -> str | None:
    """The same of content that is no text by its share of control characters: of random bytes, a tenth."""
    head = content[:HEAD]
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)
        limit = 0.25  # text may have some, to part its fields
    except UnicodeDecodeError:
        limit = 0.02
    symbols = np.frombuffer(head, np.uint8)
    share = CONTROLS[symbols].sum() / max(1, np.count_nonzero(symbols))
    return f"no text, since {share:.0%} of its bytes are control characters" if share > limit else None
