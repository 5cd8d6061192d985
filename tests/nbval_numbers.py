"""How a stored output and a new run of a notebook are compared: words, and numbers.

tests/nbval_sanitize.cfg turns every number into "#", so that offline, on the sample,
only words are compared. Where the full data lie, as when the outputs were stored, the
numbers are compared as well: to the digit, or within the band that the cell states in a
tag. "within 2" means 2 in the unit that is printed, "within 10%" a share of the number.
"""

import re

from nbval.plugin import IPyNbCell

from mnistlab import data, pendigits

NUMBER = "#"  # what the sanitizer puts in the place of a number
WORDS_VARY = "words-vary"  # a tag: offline this cell may say something else
BAND = re.compile(r"within (\d+(?:\.\d+)?)(%?)")  # a tag


class Output(str):
    """The words of an output; equal to another one if its numbers agree, too."""

    __hash__ = None

    def __new__(cls, words: str, numbers: list[float], tags: list[str]):
        self = super().__new__(cls, words)
        bands = [match.groups() for match in map(BAND.fullmatch, tags) if match]
        self.numbers = numbers
        self.band = sum(float(size) for size, share in bands if not share)
        self.share = sum(float(size) / 100 for size, share in bands if share)
        return self

    def agrees(self, one: float, other: float) -> bool:
        if one != one or other != other:  # nan
            return one != one and other != other
        room = self.band + self.share * max(abs(one), abs(other))
        return abs(one - other) <= room + 1e-9

    def __eq__(self, other):
        same = len(self.numbers) == len(other.numbers) and str(self) == str(other)
        return same and all(map(self.agrees, self.numbers, other.numbers))

    def __ne__(self, other):
        return not self == other


def read(text: str, patterns: dict[str, str]) -> tuple[str, list[float]]:
    """An output's words, sanitized, and the numbers that were in it."""
    numbers = []
    for pattern, replacement in patterns.items():
        if replacement == NUMBER:
            found = re.findall(pattern, text)
            numbers = [float(n.replace(",", "").replace("−", "-")) for n in found]
        text = re.sub(pattern, replacement, text)
    return text, numbers


def sanitize(self, text):
    if not isinstance(text, str) or not self.config.full_data:
        return sanitize_words(self, text)
    words, numbers = read(text, self.parent.sanitize_patterns)
    return Output(words, numbers, self.cell.metadata.get("tags", []))


def repr_without_numbers(self, key, left, right):
    """Say which numbers differ, for pytest only shows how words do."""
    show_words(self, key, str(left), str(right))
    if isinstance(left, Output) and str(left) == str(right):
        pairs = zip(left.numbers, right.numbers, strict=True)
        wrong = [f"{a:g} stored, {b:g} now" for a, b in pairs if not left.agrees(a, b)]
        self.comparison_traceback.append(
            f"numbers outside the band ({left.band:g} + {left.share:.0%}): "
            + "; ".join(wrong)
        )


sanitize_words, show_words = IPyNbCell.sanitize, IPyNbCell.format_output_compare
IPyNbCell.sanitize, IPyNbCell.format_output_compare = sanitize, repr_without_numbers


def pytest_configure(config):
    folder = data.data_folder()
    files = [folder / "MNIST" / "raw" / name for name in data.MNIST_FILES]
    files.append(folder / "pendigits" / pendigits.PENS_FILE)
    config.full_data = all(path.exists() for path in files)


def pytest_collection_modifyitems(config, items):
    for item in items:
        if isinstance(item, IPyNbCell) and not config.full_data:
            if WORDS_VARY in item.cell.metadata.get("tags", []):
                item.options["check"] = False
