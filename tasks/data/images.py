"""Resizing, graying and measuring of uint8 images, in numpy.

Axes: n images, h and w pixels, c channels.
"""

import numpy as np

LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601, of red, green and blue.
_CHUNK_BYTES = 1 << 24  # Of uint8 pixels converted at a time.


def area_weights(before: int, after: int) -> np.ndarray:
    """Return the matrix (after, before), float64, that averages pixels by area.

    Output pixel i covers the inputs from ``i * before / after`` to
    ``(i + 1) * before / after``; each counts by the part of it that is covered. Rows
    sum to 1, and for whole ratios it is the mean of blocks.
    """
    edges = np.arange(after + 1) * (before / after)
    pixels = np.arange(before)
    right = np.minimum(edges[1:, None], pixels[None, :] + 1)
    left = np.maximum(edges[:-1, None], pixels[None, :])
    return np.maximum(right - left, 0.0) * (after / before)


def convert(images: np.ndarray, size: tuple[int, int] | None, gray: bool) -> np.ndarray:
    """Resize images by area and reduce them to luma, with one rounding at the end.

    Args:
      images: uint8 (n, h, w, c).
      size: Height and width to get, in pixels; None keeps them.
      gray: Whether to return one channel: the luma of three (or of the first three of
        four), the only channel of one, the first of two (gray and alpha).

    Returns:
      uint8 (n, h', w', c'); ``images`` itself where nothing is to be done.
    """
    n, h, w, c = images.shape
    size = size or (h, w)
    gray = gray and c > 1
    if size == (h, w) and not gray:
        return images
    rows, columns = area_weights(h, size[0]), area_weights(w, size[1])
    luma = np.asarray(LUMA if c >= 3 else (1.0,))
    out = np.empty((n, *size, 1 if gray else c), np.uint8)
    step = max(1, _CHUNK_BYTES // (max(h, size[0]) * max(w, size[1]) * c))
    for start in range(0, n, step):
        x = images[start : start + step].astype(np.float64)
        if gray:
            x = (x[..., : len(luma)] @ luma)[..., None]
        if size != (h, w):
            x = np.einsum("ih,nhwc->niwc", rows, x, optimize=True)
            x = np.einsum("jw,niwc->nijc", columns, x, optimize=True)
        out[start : start + step] = np.clip(np.rint(x), 0, 255)
    return out


def mean_and_std(images: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std per channel of ``images / 255``, exact, in little memory.

    Args:
      images: uint8 (n, h, w, c); may be memory-mapped.

    Returns:
      Two tuples of c floats; the std of a constant channel is given as 1, so that
      dividing by it is safe.
    """
    n, h, w, c = images.shape
    counts = np.zeros((c, 256), np.int64)
    step = max(1, _CHUNK_BYTES // (h * w * c))
    for start in range(0, n, step):
        chunk = images[start : start + step]
        for channel in range(c):
            counts[channel] += np.bincount(chunk[..., channel].ravel(), minlength=256)
    values = np.arange(256) / 255
    frac = counts / counts.sum(axis=1, keepdims=True)
    mean = frac @ values
    std = np.sqrt(np.sum(frac * (values[None, :] - mean[:, None]) ** 2, axis=1))
    std = np.where(std > 0, std, 1.0)
    return tuple(map(float, mean)), tuple(map(float, std))
