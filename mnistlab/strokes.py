"""Pen strokes: what they are, where they are placed, how they become pixels.

A *stroke* is a float array (n, 2) of points in canvas pixels, x to the right and y
down; a *drawing* is a list of strokes.
"""

import numpy as np
from PIL import Image, ImageDraw

CANVAS_PX, BRUSH_PX = 280, 18
FARTHEST_PX = 100_000  # farther out, Pillow's coordinates would lose precision
SUPERSAMPLE = 4  # the raster is drawn this much larger, and averaged

Drawing = list[np.ndarray]


def rasterize(
    strokes: Drawing, brush_px: float = BRUSH_PX, canvas_px: int = CANVAS_PX
) -> np.ndarray:
    """Draw strokes as a browser's canvas does, with a round, anti-aliased brush.

    A single point is a dot; what lies outside the canvas is cut off by its edge.
    Returns uint8 (canvas_px, canvas_px), ink 255 on paper 0. ValueError for strokes
    that are not (n, 2), finite and within FARTHEST_PX.
    """
    check_number("canvas_px", canvas_px, 1, 4096)
    check_number("brush_px", brush_px, 1 / SUPERSAMPLE, canvas_px)
    strokes = [np.asarray(stroke, float) for stroke in strokes]
    for number, stroke in enumerate(strokes):
        reach = np.abs(stroke).max(initial=0)
        if stroke.shape[1:] != (2,) or not reach <= FARTHEST_PX:  # NaN is not, too
            raise ValueError(
                f"stroke {number} has the shape {stroke.shape} and reaches {reach:g}; "
                f"expected (n, 2), x and y within {FARTHEST_PX:,} canvas pixels"
            )
    canvas = Image.new("L", (canvas_px, canvas_px))
    # Only the box around the ink is drawn large and averaged: that is the slow part.
    points = np.concatenate([np.empty((0, 2)), *strokes])
    low = np.floor(points.min(axis=0, initial=canvas_px) - brush_px)
    high = np.ceil(points.max(axis=0, initial=0) + brush_px)
    corner, end = np.clip([low, high], 0, canvas_px).astype(int)
    if len(points) == 0 or (end <= corner).any():
        return np.array(canvas)
    large = Image.new("L", tuple(((end - corner) * SUPERSAMPLE).tolist()))
    pen = ImageDraw.Draw(large)
    width = round(brush_px * SUPERSAMPLE)
    radius = (width - 1) / 2  # Pillow's shapes hold the pixels of their outline, too
    for stroke in strokes:
        path = (stroke - corner) * SUPERSAMPLE - 0.5  # the pixel 0 is centred on 0
        corners = np.floor(path - radius + 0.5)  # np.round would treat halves unlike
        for box in np.hstack([corners, corners + width - 1]).tolist():
            pen.ellipse(box, fill=255)  # round ends and round joins
        # Pillow's own wide lines are up to half a pixel off: 0.05 instead of 0.03.
        step = np.diff(path, axis=0)
        length = np.maximum(np.hypot(*step.T), 1e-9)[:, None]
        side = step[:, ::-1] / length * (-radius, radius)
        start, stop = path[:-1], path[1:]
        bars = np.hstack([start + side, stop + side, stop - side, start - side])
        for bar in np.floor(bars + 0.5).tolist():
            pen.polygon(bar, fill=255)
    canvas.paste(large.reduce(SUPERSAMPLE), tuple(corner.tolist()))
    return np.array(canvas)


def check_number(name: str, value: float, low: float, high: float) -> None:
    """Raise ValueError, which says what was expected, unless low <= value <= high."""
    if not low <= value <= high:
        raise ValueError(f"{name} is {value}, expected {low:g} to {high:g}")


def place(strokes: Drawing, size_px, center=None, canvas_px=CANVAS_PX) -> Drawing:
    """Scale and move a drawing: its longer side is size_px, its box lies at center.

    Proportions are kept; a dot is only moved. The brush is not counted. center is
    (x, y) in pixels, None the middle of the canvas. ValueError if there are no points.
    """
    check_number("size_px", size_px, 0, FARTHEST_PX)
    strokes = [np.asarray(stroke, float) for stroke in strokes]
    if sum(map(len, strokes)) == 0:
        raise ValueError("the drawing has no points, so there is nothing to place")
    center = (canvas_px / 2, canvas_px / 2) if center is None else center
    points = np.concatenate(strokes)
    low, high = points.min(axis=0), points.max(axis=0)
    scale = size_px / max(high - low) if max(high - low) > 1e-9 else 1.0
    return [(stroke - (low + high) / 2) * scale + center for stroke in strokes]


def random_place(
    strokes: Drawing, rng, low=100, high=240, brush_px=BRUSH_PX, canvas_px=CANVAS_PX
) -> Drawing:
    """Place a drawing at a random size (longer side low..high px) and position.

    All ink, half a brush around the points included, stays on the canvas. rng is
    numpy's Generator.
    """
    check_number("high", high, low, canvas_px - brush_px)
    drawing = place(strokes, rng.uniform(low, high), canvas_px=canvas_px)
    points = np.concatenate(drawing)
    room = canvas_px - brush_px - np.ptp(points, axis=0)
    shift = brush_px / 2 + rng.uniform(0, 1, 2) * room - points.min(axis=0)
    return [stroke + shift for stroke in drawing]
