"""Draw artifacts/story.gif, the README's first picture, by the shipped network.

The scripted hand draws; above, the story's app looks on, below, the correct pipeline.
Nothing is staged: every answer is the network's own.
"""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from mnistlab.checkpoint import ARTIFACTS
from mnistlab.classifier import Classifier
from mnistlab.preprocess import as_grey, normalize, resize_28x28
from mnistlab.strokes import rasterize
from mnistlab.synthetic import handwrite


def invert(image: np.ndarray) -> np.ndarray:
    return 255 - image


VERBS = {
    "original": "drawn",
    "resize_28x28": "resized",
    "invert": "255 - image",
    "crop_to_ink": "cropped",
    "fit_20x20": "fitted",
    "center_of_mass": "centred",
}
# Without alarms and refusal: the story's app named a digit for everything.
correct = replace(Classifier.load(), reference=None)
story = correct.with_pipeline((resize_28x28, invert, normalize))
ROWS = {  # title: who answers, in which colour, at which height
    "the app of the story": (story, "#d0632a", 0.53),
    "the correct pipeline": (correct, "#3b6fb6", 0.03),
}


def frame(strokes: list[np.ndarray], done: bool) -> Image.Image:
    """What both rows show of these strokes; the answers when the drawing is done."""
    fig = plt.figure(figsize=(8.6, 4), dpi=100, layout="none")
    canvas = rasterize(strokes)
    for title, (classifier, color, bottom) in ROWS.items():
        prediction = classifier(canvas)
        stages = prediction.stages[:-1]  # normalising changes nothing to the eye
        fig.text(0.02, bottom + 0.41, title, fontsize=13, color=color, weight="bold")
        for column, stage in enumerate(stages):
            ax = fig.add_axes([0.02 + 0.205 * column, bottom, 0.16, 0.344])
            side = max(stage.image.shape)
            ax.imshow(as_grey(stage.image), cmap="gray", vmin=0, vmax=255)
            rows, columns = stage.image.shape  # in the middle of a square
            ax.set(xlim=(columns / 2 - side / 2 - 0.5, columns / 2 + side / 2 - 0.5))
            ax.set(ylim=(rows / 2 + side / 2 - 0.5, rows / 2 - side / 2 - 0.5))
            ax.set(xticks=[], yticks=[], facecolor="black")
            ax.grid(False)
            for spine in ax.spines.values():
                spine.set(visible=True, color="#999999")
            ax.set_title(VERBS[stage.name], fontsize=10, color="#555555", pad=3)
            fig.text(0.2025 + 0.205 * column, bottom + 0.17, "→", fontsize=15,
                     color="#555555", ha="center", va="center")  # fmt: skip
        if done and prediction.label is not None:
            share, x = prediction.probabilities.max(), 0.08 + 0.205 * len(stages)
            for y, size, text in (0.2, 56, f"{prediction.label}"), (
                0.01, 12, f"{100 * share:.0f} % sure"):  # fmt: skip
                fig.text(x, bottom + y, text, fontsize=size, color=color,
                         ha="center", va="center" if size > 20 else "bottom",
                         weight="bold" if size > 20 else "normal")  # fmt: skip
    fig.canvas.draw()
    picture = Image.fromarray(np.asarray(fig.canvas.buffer_rgba())).convert("RGB")
    plt.close(fig)
    return picture.quantize(32, dither=Image.Dither.NONE)


def main(digits: str = "7425", moments: int = 7) -> None:
    frames, durations = [], []
    for digit in map(int, digits):
        strokes = handwrite(digit, seed=digit)
        total = sum(map(len, strokes))
        for moment in range(1, moments + 1):
            left, part = round(total * moment / moments), []
            for stroke in strokes:
                part += [stroke[:left]] if left > 0 else []
                left -= len(stroke)
            done = moment == moments
            frames.append(frame(part, done))
            durations.append(2200 if done else 110)
    path = ARTIFACTS / "story.gif"
    more = {"append_images": frames[1:], "duration": durations, "loop": 0}
    frames[0].save(path, save_all=True, optimize=True, **more)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB, {len(frames)} frames")


if __name__ == "__main__":
    main()
