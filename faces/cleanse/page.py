"""What is shown of a cleansing: figures, and one self-contained page."""

import html

import numpy as np
from sklearn.metrics import brier_score_loss, roc_auc_score

from sgdphases.estimators.cleansing.mixture import DISBELIEVED
from sgdphases.estimators.cleansing.outside import Contradiction
from sgdphases.estimators.cleansing.share import Share
from sgdphases.faces.cleanse.figures import (
    SUSPECTS,
    agreement_figure,
    are_images,
    loss_figure,
    reliability_figure,
    suspects_figure,
)
from sgdphases.faces.page import note, page, saved_picture, table
from sgdphases.sim.cleansing.cleanse import MOST_UNLEARNT, Cleansing
from sgdphases.sim.cleansing.data import LabelledData
from sgdphases.sim.cleansing.folder import CleansingFolder
from sgdphases.sim.storage.atomic import write_whole

BESIDE = (
    "Samples are numbered from 0, in the order of the data. All of them are in labels.csv, those kept in a file beside "
    "it; review.html shows the suspects one by one."
)


def write_cleansing_report(folder: CleansingFolder, labelled: LabelledData, found: Cleansing) -> None:
    """Draw the figures and write the page; where the right labels are known, with how far they were found.

    Parameters
    ----------
    folder : CleansingFolder
        Written already.
    labelled : LabelledData
    found : Cleansing
    """
    data, wrong = labelled.data, labelled.data.wrong
    folder.figures.mkdir(exist_ok=True)
    probability = found.found.probability
    pictures = [
        (
            "Losses",
            loss_figure(found.consensus, found.found, wrong),
            "Loss of the mean prediction over the window, under the given label; as many labels are flagged as lie "
            "beyond the dotted line.",
            "losses",
        ),
        (
            "Phase II",
            agreement_figure(found.consensus),
            "The order of the losses in phase II resembles the orders before and after it: t_c is the measurement "
            "whose order agrees best with those of all others.",
            "agreement",
        ),
    ]
    if wrong is not None and wrong.any() and found.found.has_noise:
        figure = reliability_figure(probability, wrong)
        pictures.append(
            ("Reliability", figure, "From the known right labels, which the method never saw.", "reliability")
        )
    if are_images(data.input_shape):
        order = most_suspect(found)[:SUSPECTS]
        names = labelled.classes
        figure = suspects_figure(data.x_train, order, probability, names[data.y_train], names[found.suggested])
        pictures.append(("Most suspect images", figure, "The most suspect first.", "suspects"))
    drawn = "".join(
        f"<h2>{html.escape(title)}</h2>{saved_picture(figure, folder.figures / f'{name}.png', title)}{note(text)}"
        for title, figure, text, name in pictures
    )
    heading, rows = suspect_rows(labelled, found)
    verdict = "".join(f"<p>{html.escape(line)}</p>" for line in verdict_lines(labelled, found))
    config = html.escape(folder.config.read_text(encoding="utf-8"))
    body = (
        f"{verdict}{drawn}<h2>Most suspect labels</h2>{table(heading, rows)}"
        f"{note(BESIDE)}<h2>Settings</h2><pre>{config}</pre>"
    )
    text = page(f"Wrong labels: {data.name}", body)
    write_whole(folder.report, lambda part: part.write_text(text, encoding="utf-8"))


def most_suspect(found: Cleansing) -> np.ndarray:
    """All samples: first those not kept, then the others, each by falling score."""
    return np.lexsort((-found.score, found.keep))


def suspect_rows(labelled: LabelledData, found: Cleansing) -> tuple[list[str], list[list[str]]]:
    """Heading and rows of the table of the twenty most suspect labels."""
    names = labelled.classes
    rows = [
        [
            str(sample),
            str(names[labelled.data.y_train[sample]]),
            str(names[found.suggested[sample]]),
            f"{found.found.probability[sample]:.3f}",
            f"{found.consensus.loss[sample]:.2f}",
            f"{found.score[sample]:.2f}",
        ]
        for sample in most_suspect(found)[:20]
    ]
    return ["sample", "given", "suggested", "probability wrong", "loss (nats)", "score"], rows


FOLLOWING = (
    "either wrong labels follow the input, as people's mistakes do, or the inputs do not determine the class, and "
    "these labels are right"
)


def _disputed(removed: int, n: int, share: Share, against: Contradiction) -> str:
    """Why labels are flagged that form no population of their own."""
    end = (
        f". Share of wrong labels: {share}. Right labels of hard samples are among those flagged: look at the most "
        "suspect (review.html) before you remove them."
    )
    if against.follows_class:
        return (
            f"{removed} of {n} labels are flagged, the most suspect ones. Two networks that have not seen a sample "
            f"contradict {against.disagreed:.0%} of the labels, and {against.by_class.fifth:.0%} where they are surest "
            "of a class: either some classes have many wrong labels, whatever the input, or the inputs do not tell "
            f"these classes apart, and labels are right{end}"
        )
    begin = (
        f"{removed} of {n} labels are flagged, the most suspect ones. Two networks that have not seen a sample "
        f"agree on its class in {against.agreement:.0%} of cases, but either gives the label in {against.given:.0%} "
        "only"
    )
    if against.follows_input:
        begin += f". Among the samples that they are surest of, they contradict {against.surest:.0%}: {FOLLOWING}"
    else:
        begin += f", and among the samples that they are surest of, {against.surest:.0%} of the labels are contradicted"
    if not against.gives_number and against.low_if_determined >= 0.01:
        begin += f". If the inputs determine the class, {against.low_if_determined:.0%} are wrong at least"
    return f"{begin}{end}"


def _flagged(found: Cleansing, removed: int, n: int) -> str:
    """How many labels are flagged, and why so many."""
    labels = found.found
    if labels.found_by == "given":
        return (
            f"{removed} of {n} labels are flagged, the most suspect ones: a share of "
            f"{labels.noise_fraction:.1%} was given."
        )
    if labels.found_by == "contradictions" and found.against is not None:
        return _disputed(removed, n, found.share, found.against)
    if labels.found_by == "planted mistakes":
        return (
            f"{removed} of {n} labels are flagged, the most suspect ones: arbitrary mistakes planted on "
            f"purpose score as if so many were wrong. Share of wrong labels: {found.share}. They form no population of "
            "their own, so right labels of hard samples are among them: look at the most suspect (review.html) before "
            "you remove them."
        )
    doubt = ""
    if found.against is not None and found.against.follows_input:
        doubt = f" Networks that have not seen them contradict few where they are surest: {FOLLOWING}."
    return f"{removed} of {n} labels are probably wrong. Share of wrong labels: {found.share}.{doubt}"


def verdict_lines(labelled: LabelledData, found: Cleansing) -> list[str]:
    """What was found, in sentences; where the right labels are known, how far that is so."""
    labels, agreed, wrong = found.found, found.consensus, labelled.data.wrong
    n, removed = len(found.keep), int((~found.keep).sum())
    share = found.share
    first, last = agreed.window
    lines = [
        f"Labels are judged in phase II, best at t_c: epoch {agreed.t_clean:.3g}, in a window from {first:.3g} to "
        f"{last:.3g}."
    ]
    if labels.has_noise:
        lines = [_flagged(found, removed, n), *lines]
        if not labels.is_fitted:
            lines.append("Probabilities hold if as many labels are wrong as are flagged.")
        if np.isfinite(labels.mixture.loss_threshold):
            limit = labels.mixture.loss_threshold
            lines.append(
                f"With a loss above l_c = {limit:.2f} nats a label is more probably wrong than right; as many as lie "
                "above it are flagged, the most suspect ones."
            )
    elif labels.is_of_classes:
        names = ", ".join(str(labelled.classes[k]) for k in labels.whole_classes)
        lines = [
            f"No label is flagged: the losses form two populations, but {labels.whole_share:.0%} of the upper one are "
            f"labels of classes that lie in it nearly whole ({names}). Either the network has not learnt these, as is "
            "often so with rare classes, or most of their labels are wrong. Have some of them checked; "
            "--known-fraction flags as many as you say.",
            *lines,
        ]
    elif not labels.is_learnt:
        lines = [
            f"Nothing can be said: {labels.label_share:.0%} of the spread of losses lies between labels, so the "
            "network has learnt some classes and not others. Train it longer, at a higher learning rate, or take "
            "another network.",
            *lines,
        ]
    elif labels.is_refuted:
        lines = [
            "No label is flagged: the losses form two populations, but networks that have not seen it give many labels "
            "of the upper one, too. It holds hard samples.",
            *lines,
        ]
    elif labels.mixture.is_two:
        lines = [
            "No label is flagged: the losses form two populations, but "
            f"{labels.label_share:.0%} of their spread lies between labels, so some classes are likely to be hard to "
            "learn. --per-class judges each class by itself, --known-fraction flags as many as you say.",
            *lines,
        ]
    elif np.median(agreed.loss) > DISBELIEVED:
        lines = [
            "Nothing can be said: around t_c the network believes less than half of the labels, and the losses do not "
            "fall into two populations. Either it has not learnt the task, or nearly all labels are wrong.",
            *lines,
        ]
    else:
        lines = ["No label is flagged: the losses form one population. The most suspect are listed.", *lines]
    if not labels.has_noise:
        lines.insert(1, f"Share of wrong labels: {share}.")
        if not share.is_known:
            lines.insert(
                2,
                "Networks that had not seen them disagree with up to so many labels. Have some of the most suspect "
                "checked (review.html), and say their share with --known-fraction.",
            )
    if found.weights.size and found.memorised < 1 - MOST_UNLEARNT:  # the recipe's run ends where its learning rate does
        lines.append(
            f"At the end of the run only {found.memorised:.0%} of these labels had been learnt: it ended before "
            "phase III. With more epochs t_c is surer."
        )
    if wrong is not None and wrong.any():
        score = roc_auc_score(wrong, found.score) if not wrong.all() else float("nan")
        lines.append(
            f"Known to be wrong: {wrong.mean():.1%}. Area under the ROC curve {score:.4f}; of the wrong labels "
            f"{(~found.keep[wrong]).mean():.1%} removed, of the right ones {found.keep[~wrong].mean():.1%} kept; Brier "
            f"score {brier_score_loss(wrong, labels.probability):.4f}."
        )
    return lines
