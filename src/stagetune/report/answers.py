"""What the answers of a run are worth, in words for the screen and as a part of the page."""

from base64 import b64encode
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from stagetune.artifacts import RunDir
from stagetune.report.collect import Run
from stagetune.visible import visible_name

SHOWN = 3  # classes, confusions and mistakes on the screen


def worth_words(found: Mapping[str, Any], *, about: str) -> dict[str, str]:
    """What the screen says of the answers by image, by the word at the left: at most a few of each kind.

    `about` is that of the first line.
    """
    accuracy, balanced, majority = found["accuracy"], found["balanced_accuracy"], found["majority"]
    over = f"95% over {found['units']} {found['interval_over']}"
    said = {
        about: f"{_interval(accuracy)}, balanced {_interval(balanced)}; {over}",
        "baseline": f'{majority["accuracy"]:.4f} by always answering "{visible_name(majority["class"])}"',
    }
    weakest = sorted((one for one in found["classes"] if one["images"]), key=lambda one: one["recall"])
    said["classes"] = ", ".join(
        f"{visible_name(one['name'])} {round(one['recall'] * one['images'])} of {one['images']} right"
        for one in weakest[:SHOWN]
    )
    if len(weakest) > SHOWN:
        said["classes"] += f"; {len(weakest) - SHOWN} more do no worse"
    if found["confused"]:
        said["confused"] = ", ".join(
            visible_name(f"{one['label']} taken for {one['answer']} {_times(one['count'])}")
            for one in found["confused"][:SHOWN]
        )
        said["mistakes"] = "\n".join(
            visible_name(f"{one['image']}: is {one['label']}, answered {one['answer']} ({one['probability']:.2f})")
            for one in found["mistakes"][:SHOWN]
        )
    return said


def trust_words(found: Mapping[str, Any], unknown: Mapping[str, Any]) -> str:
    """How far the probabilities of a classifier can be believed, in a line."""
    test = found["test"]
    text = f"expected calibration error {test['ece_before']:.3f}, with temperature {found['temperature']:.2f} "
    text += f"{test['ece']:.3f}"
    if unknown["below"] is None or unknown["accuracy"] is None:
        return text
    answered, right = (round(100 * unknown[key]) for key in ("answered", "accuracy"))
    return f'{text}; "unknown" below {unknown["below"]:.2g}: {answered}% answered, {right}% of these rightly'


def verification_words(found: Mapping[str, Any]) -> dict[str, str]:
    """How surely pairs are told apart, and how well the nearest images are of the same identity."""
    said = {
        "pairs": f"auc {_interval(found['auc'])}, eer {_interval(found['eer'])}; 95% over {found['interval_over']}"
    }
    if "retrieval" in found:
        near = found["retrieval"]
        said["retrieval"] = (
            f"recall@1 {near['recall@1']:.4f}, mAP@R {near['map@r']:.4f}, R-precision {near['r_precision']:.4f}"
        )
    return said


def _interval(of: Mapping[str, float]) -> str:
    return f"{of['value']:.4f} ({of['low']:.3f} to {of['high']:.3f})"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


@dataclass(frozen=True)
class Tested:
    """The answers of the test of one run, or of the runs of one seed whose tests are folds of the data."""

    runs: Sequence[Run]  # the best first
    found: Mapping[str, Any]  # as `evaluation/classification` says it

    @property
    def words(self) -> str:
        """Which runs."""
        seed = self.runs[0].result.seed
        count, folds = len(self.runs), self.runs[0].settings.get("data.folds")
        if count == 1:
            return "its best run"
        return f"{'its' if count == folds else f'{count} of its'} {folds} folds with seed {seed}"


def tested(best: Run, others: Sequence[Run]) -> Tested | None:
    """What the test of a configuration has come to; None where no image was answered.

    Args:
        best: its best run.
        others: all its runs that are scored; those of the same seed and other folds are put together with the best.
    """
    found = best.result.classification
    if not found:
        return None
    folds = {run.settings.get("data.fold"): run for run in others if run.result.seed == best.result.seed}
    folds[best.settings.get("data.fold")] = best
    answers = [run.answers() for run in folds.values()]
    if best.settings.get("data.folds") is None or len(folds) < 2 or not all(answers):
        return Tested([best], found)
    runs = sorted(folds.values(), key=lambda run: run is not best)
    return Tested(runs, _together([row for rows in answers for row in _answerable(rows, found)], found))


def _answerable(rows: Sequence[Mapping[str, str]], found: Mapping[str, Any]) -> list[Mapping[str, str]]:
    """The test's rows of a run; of a siamese one without those that are alone of their identity."""
    tested = [row for row in rows if row["split"] == "test"]
    counts = Counter(row["label"] for row in tested)
    fewest = 1 if found["answered_by"] == "class" else 2
    return [row for row in tested if counts[row["label"]] >= fewest]


def _together(rows: Sequence[Mapping[str, str]], found: Mapping[str, Any]) -> dict[str, Any]:
    import numpy as np  # here, as what follows: a run's words need neither

    from stagetune.evaluation.classification import Answers, classification

    said = [[row[key] for row in rows] for key in ("label", "answer")]
    names, numbers = np.unique(said, return_inverse=True)
    labels, answers = numbers.reshape(2, -1)
    over = found["interval_over"]
    units = np.array([row["group"] if over == "groups" else row["label"] for row in rows])
    return classification(
        Answers(labels, answers, np.array([float(row["probability"]) for row in rows])),
        names.tolist(),
        [row["path"] for row in rows],
        majority=int(np.bincount(labels).argmax()),
        units=None if over == "images" else np.unique(units, return_inverse=True)[1],
        over=over,
    )


def headline_of(tested: Tested) -> str:
    """The test in a sentence."""
    found = tested.found
    majority, over = found["majority"], f"{found['units']} {found['interval_over']}"
    is_siamese = tested.runs[0].result.task == "siamese"  # its accuracy is that of pairs
    what = "accuracy of naming an image after the nearest other one" if is_siamese else "accuracy"
    return (
        f"In the test of {tested.words} the {what} is {_interval(found['accuracy'])}, the balanced accuracy "
        f"{_interval(found['balanced_accuracy'])}, 95% over {over}; always answering "
        f'"{majority["class"]}" would have {majority["accuracy"]:.4f}.'
    )


def section(tested: Tested) -> str:
    """Classes, what is confused and the worst mistakes of a test, with their picture, as HTML."""
    found = tested.found
    classes = _table(
        ("class", "images", "right", "recall, 95%", "precision", "f1"),
        [
            (
                one["name"],
                str(one["images"]),
                str(round((one["recall"] or 0) * one["images"])),
                _recall(one),
                f"{one['precision']:.2f}" if one["precision"] is not None else "",
                f"{one['f1']:.2f}",
            )
            for one in found["classes"]
        ],
    )
    confused = _table(
        ("is", "answered", "times", "share of its images"),
        [(one["label"], one["answer"], str(one["count"]), f"{one['share']:.2f}") for one in found["confused"]],
    )
    mistakes = _table(
        ("image", "is", "answered", "probability"),
        [(one["image"], one["label"], one["answer"], f"{one['probability']:.2f}") for one in found["mistakes"]],
    )
    parts = [f"<h2>The test of the best configuration, {escape(tested.words)}</h2>", f"<h3>Classes</h3>{classes}"]
    if found["confused"]:
        parts += [f"<h3>Confused most</h3>{confused}", f"<h3>Worst mistakes</h3>{mistakes}"]
    for run in tested.runs:
        picture = (RunDir(run.folder).figures / "mistakes.png").resolve()
        if picture.is_file() and picture.is_relative_to(run.folder.resolve()):  # a link may lead to any file
            data = b64encode(picture.read_bytes()).decode()
            parts.append(f'<figure><img alt="the worst mistakes" src="data:image/png;base64,{data}"></figure>')
    return "".join(parts)


def _recall(one: Mapping[str, Any]) -> str:
    """With its interval; empty of a class without images."""
    found = [one[key] for key in ("recall", "recall_low", "recall_high")]
    return "" if None in found else "{:.2f} ({:.2f} to {:.2f})".format(*found)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in header)
    body = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
