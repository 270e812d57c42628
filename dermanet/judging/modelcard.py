"""The model card: what a version is, what it may be used for, what it was judged by; in Markdown (Mitchell et al., 2019)."""

from collections.abc import Mapping
from typing import Any

from dermanet.judging.page import MAIN
from dermanet.judging.report import between
from dermanet.webpage import in_markdown


def model_card(
    version: str, code: str, card: Mapping[str, Any], manifest: Mapping[str, Any], evaluation: Mapping[str, Any],
    verdict: Mapping[str, Any], licences: str,
) -> str:  # fmt: skip
    """The card in Markdown.

    `code`: which one has trained; `card`: the model's own; `manifest`: of the snapshot; `evaluation` and `verdict` as the stages keep
    them.
    """
    tried = card["experiment"]
    malignant = [one for one in card["taxonomy"] if one["malignant"]]
    named = [
        *((name, called) for name, called, _ in MAIN),
        *((f"diagnosis_recall_{one['code']}", f"{one['name']}, recall") for one in malignant),
    ]
    slices = [one for one in evaluation["slices"] if one["support"]["images"]]
    beside = f" beside the frozen networks of `{tried['beside']}`" if tried.get("beside") else ""
    return "\n".join([
        f"# Version {version}: {tried['name']}", "",
        "For research use; not a medical device.", "",
        "## Model", "",
        f"Backbone `{tried['backbone']}`{beside}, method `{tried['method']}`, seed {tried['seed']}.",
        f"Pixels `{card['recipe']['name']}@{card['recipe']['size']}`, fingerprint {card['fingerprint']}.",
        f"Answers age in years, sex ({', '.join(card['sexes'])}) and a diagnosis:",
        ", ".join(one["name"] for one in card["taxonomy"]) + ".",
        f"MLflow run {card['run_id']}; DermaNet {code}.", "",
        "## Intended use", "",
        "Research on dermoscopic images like those below. Not for clinical photographs, not for lesions outside the list of",
        "diagnoses, never as the only reader of a lesion.", "",
        "## Data", "",
        f"Snapshot {manifest['snapshot']}: {manifest['images']:,} images of {manifest['lesions']:,} lesions, split by lesion "
        f"({', '.join(f'{count:,} {side}' for side, count in manifest['sides'].items())}).",
        f"Diagnoses: {', '.join(f'{count:,} {code}' for code, count in sorted(manifest['diagnoses'].items()))}.", "",
        "## Evaluation", "",
        f"On holdout {evaluation['holdout']}, of which it has learned nothing. Intervals (CI) by bootstrap over lesions.", "",
        "| figure | value | 95 % CI | trivial reader | champion |", "|---|---|---|---|---|",
        *(_row(name, called, evaluation) for name, called in named if name in evaluation["candidate"]), "",
        "Slices, by accuracy of the diagnosis:", "",
        "| slice | images | accuracy | 95 % CI |", "|---|---|---|---|",
        *(_slice(one) for one in slices), "",
        "## Verdict", "",
        f"{verdict['verdict']} ({len(verdict['checks'])} checks, gates: {verdict['mode']}).",
        *(f"- {in_markdown(line)}" for line in verdict["told"]), "",
        "## Caveats", "",
        "Dermoscopes, clinics, skin tones and diagnoses that are rare in the data are judged by few images: see their number above.",
        "By its individual typology angle most of the skin around the lesions is very light.", "",
        "## Licences", "", licences.strip(), "",
    ])  # fmt: skip


def _row(name: str, called: str, evaluation: Mapping[str, Any]) -> str:
    others = [(evaluation[side] or {}).get(name) for side in ("baseline", "champion")]
    told = [f"{value:.3f}" if value is not None else "" for value in (evaluation["candidate"][name], *others)]
    return f"| {called} | {told[0]} | {between(evaluation['intervals'].get(name))} | {told[1]} | {told[2]} |"


def _slice(one: Mapping[str, Any]) -> str:
    name = "diagnosis_accuracy"
    value = one["candidate"].get(name)
    told = "" if value is None else f"{value:.3f}"
    named, interval = f"{one['axis']}: {in_markdown(one['value'])}", between(one["intervals"].get(name))
    return f"| {named} | {one['support']['images']:,} | {told} | {interval} |"
