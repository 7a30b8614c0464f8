"""What a file is that is not what it was given for, so that an error can say it."""

import codecs
import re

import numpy as np

HEAD = 1 << 20  # bytes whose control characters are counted
HTML = "a page of HTML, as a server sends in place of a file"
KINDS = {
    rb"version https://git-lfs\.github\.com/spec/": "a pointer of Git LFS and not the file itself: fetch that with git lfs pull",
    rb"(\xef\xbb\xbf)?\s*<(?i:!doctype html|html[\s>])": HTML,
    rb"\x89PNG|\xff\xd8\xff|GIF8[79]a|BM.{4}\0{4}|II[*+]\0|MM\0[*+]|RIFF.{4}WEBP": "an image, and images are given as a folder of them",
    rb"PK\x03\x04|.{257}ustar|\x28\xb5\x2f\xfd|7z\xbc\xaf|Rar!": "an archive, or compressed: unpack it first",
    rb"\x93NUMPY": "an array of NumPy, whose name should end with .npy",
    rb"\0\0\x08[\x01-\x03]\0": "an IDX file: for MNIST give --data mnist and its folder as --data-dir; save others with numpy.save",
    rb"%PDF-": "a PDF",
}
"""How files begin, as regular expressions, and what they are. Others are known by their control characters."""
CONTROLS = np.array([byte < 32 and byte not in b"\b\t\n\f\r\x1b" for byte in range(256)])
"""Bytes that are rare in text. A NUL ends a line here, so there may be some."""


def kind_of(content: bytes) -> str | None:
    """What a file that begins with these bytes is, for "... is {it}."; None if it may be text."""
    return next((what for begins, what in KINDS.items() if re.match(begins, content[:512], re.DOTALL)), None)


def binary(content: bytes) -> str | None:
    """The same for content that is no text by its share of control characters."""
    head = content[:HEAD]
    try:
        codecs.utf_8_decode(head)  # the last character may be cut off
        limit = 0.25  # UTF-8 may have some, to part its fields
    except UnicodeDecodeError:
        limit = 0.02  # random bytes have a tenth
    share = CONTROLS[np.frombuffer(head, np.uint8)].mean() if head else 0
    return f"no text, since {share:.0%} of its bytes are control characters" if share > limit else None
