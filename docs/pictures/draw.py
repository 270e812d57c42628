"""Draws way.svg, how data become answers, and stack.svg, which service asks which; for light and dark, without a request to anybody.

python docs/pictures/draw.py
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from pathlib import Path

HERE = Path(__file__).parent
STYLE = """
:root { --ink: #1f2328; --quiet: #59636e; --line: #8a94a0; --card: #ffffff; --edge: #b9c2cc; --zone: #f3f6f9; --strong: #1f5fa8; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e9edf2; --quiet: #a4afbb; --line: #7d8894; --card: #1b2129; --edge: #4a5562; --zone: #12171d; --strong: #7db3f0; }
}
text { font: 13px system-ui, sans-serif; fill: var(--ink); text-anchor: middle; }
.name { font-weight: 600; font-size: 14px; } .about { fill: var(--quiet); font-size: 12px; }
.label { fill: var(--quiet); font-size: 11.5px; }
.zone { fill: var(--zone); stroke: var(--edge); stroke-dasharray: 5 4; } .zone + text { text-anchor: start; }
.card { fill: var(--card); stroke: var(--edge); } .strong { stroke: var(--strong); stroke-width: 2; }
path { fill: none; stroke: var(--line); stroke-width: 1.5; } marker path { fill: var(--line); stroke: none; }
"""
MARKER = (
    '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto-start-reverse">'
    '<path d="M0 0 8 4 0 8Z"/></marker>'
)


@dataclass(frozen=True)
class Box:
    """A card with a name and lines below it, from its upper left corner."""

    x: int
    y: int
    width: int
    height: int
    name: str
    about: Sequence[str] = ()
    strong: bool = False

    @property
    def middle(self) -> tuple[int, int]:
        """Its centre."""
        return self.x + self.width // 2, self.y + self.height // 2

    def drawn(self) -> str:
        """The card with its words."""
        top = self.y + (self.height - 17 * len(self.about)) // 2 + 5
        lines = [
            _text(self.middle[0], top + 17 * n, line, "about" if n else "name")
            for n, line in enumerate((self.name, *self.about))
        ]
        kind = "card strong" if self.strong else "card"
        return (
            f'<rect class="{kind}" x="{self.x}" y="{self.y}" width="{self.width}" height="{self.height}" rx="8"/>'
            + "".join(lines)
        )


def way() -> str:
    """From a source to an answer, in three rows."""
    rows = (
        (("source", "folder, CSV, S3, inbox"), ("screening", "accepted, or quarantine"), ("catalogue", "every image once"),
         ("snapshot", "named by its content"), ("validation", "against the one before")),
        (("prepared pixels", "cached by recipe"), ("features", "of frozen backbones"), ("training", "three heads"),
         ("evaluation", "holdout of lesions"), ("gate", "a verdict with reasons")),
        (("registry", "version, dossier"), ("trial", "in the real server"), ("approval", "a person, if wanted"),
         ("champion", "an alias"), ("scorer", "follows the champion")),
    )  # fmt: skip
    boxes = [
        [
            Box(20 + 188 * n, 30 + 120 * r, 168, 66, name, (about,), name in ("gate", "scorer"))
            for n, (name, about) in enumerate(row)
        ]
        for r, row in enumerate(rows)
    ]
    arrows = [_arrow(f"M{a.x + a.width} {a.middle[1]}H{b.x - 2}") for row in boxes for a, b in pairwise(row)]
    for upper, lower in pairwise(boxes):
        last, first, half = upper[-1], lower[0], upper[-1].y + 66 + 27
        arrows.append(_arrow(f"M{last.middle[0]} {last.y + last.height}V{half}H{first.middle[0]}V{first.y - 2}"))
    scorer, source = boxes[2][-1], boxes[0][0]
    low = scorer.y + 66 + 40
    arrows.append(_arrow(f"M{scorer.middle[0]} {scorer.y + 66}V{low}H8V{source.middle[1]}H{source.x - 2}"))
    told = _text(
        480, low - 8, "log of predictions → monitor: drift asks for a retrain; new labels come as a new source", "label"
    )
    title = "The way of the data, from the source past screening, snapshot, training and gate to the scorer, and back"
    return _drawing(
        980,
        low + 20,
        title,
        [*arrows, *(box.drawn() for row in boxes for box in row), told],
    )


def stack() -> str:
    """Services of docker-compose.yml, the two networks, and who asks whom."""
    people = Box(300, 16, 360, 48, "people and programs", ("on this machine, or through your reverse proxy",))
    airflow = Box(40, 130, 250, 84, "Airflow's API", ("people with roles", "127.0.0.1:8080"), True)
    mlflow = Box(365, 130, 250, 84, "MLflow's server", ("users; hands out artifacts itself", "127.0.0.1:5000"), True)
    scorer = Box(690, 130, 250, 84, "scorer and its page", ("a token; ONNX Runtime", "127.0.0.1:8000"), True)
    grafana = Box(740, 262, 200, 52, "Grafana", ("profile metrics, 127.0.0.1:3000",))
    parts = Box(40, 262, 250, 66, "scheduler, DAG processor,", ("triggerer",))
    workers = Box(365, 262, 250, 66, "workers", ("Celery; the home is one volume",))
    redis = Box(40, 424, 150, 62, "Redis", ("the queue",))
    postgres = Box(225, 424, 250, 62, "PostgreSQL", ("airflow, mlflow, catalogue; 4 users",))
    s3 = Box(510, 424, 190, 62, "S3 (SeaweedFS)", ("3 buckets, 4 keys",))
    watch = Box(740, 424, 200, 62, "Prometheus, statsd", ("profile metrics",))
    boxes = (people, airflow, mlflow, scorer, grafana, parts, workers, redis, postgres, s3, watch)
    zones = [_zone(20, 96, 940, 250, 190, 113, "network outside: published on 127.0.0.1 alone"),
             _zone(20, 388, 940, 116, 40, 499, "network inside: no way out")]  # fmt: skip
    arrows = [
        *(_arrow(f"M{people.middle[0]} 64V84H{box.middle[0]}V{box.y - 2}") for box in (airflow, mlflow, scorer)),
        _arrow(f"M{scorer.x} 172H{mlflow.x + mlflow.width + 2}"),
        _arrow(f"M{airflow.middle[0]} 214V{parts.y - 2}", both=True),
        _arrow(f"M{workers.middle[0]} 262V216"),
        _arrow("M115 328V422"),
        _arrow("M265 328V422"),
        _arrow("M400 328V422"),
        _arrow("M365 295H330V404H130V422"),
        _arrow("M560 328V422"),
        _arrow("M600 214V240H640V422"),
        _arrow("M715 214V376H440V422"),
        _arrow("M840 314V422"),
        _arrow("M722 455H728V236H850V216"),
    ]
    arrows[-1] = _arrow("M740 440H722V232H815V216")
    words = [
        _text(652, 164, "versions", "label"), _text(512, 243, "registers", "label"), _text(660, 370, "artifacts", "label"),
        _text(583, 370, "images", "label"), _text(690, 228, "log", "label"), _text(772, 226, "metrics", "label"),
    ]  # fmt: skip
    title = "The services of docker-compose.yml, the two networks, and who asks whom"
    return _drawing(980, 520, title, [*zones, *arrows, *(box.drawn() for box in boxes), *words])


def _drawing(width: int, height: int, title: str, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img"><title>{escape(title)}</title>'
    return f"{head}\n<style>{STYLE}</style>\n<defs>{MARKER}</defs>\n" + "\n".join(parts) + "\n</svg>\n"


def _zone(x: int, y: int, width: int, height: int, left: int, base: int, name: str) -> str:
    box = f'<rect class="zone" x="{x}" y="{y}" width="{width}" height="{height}" rx="10"/>'
    return box + _text(left, base, name, "label")


def _arrow(path: str, both: bool = False) -> str:
    start = ' marker-start="url(#tip)"' if both else ""
    return f'<path d="{path}" marker-end="url(#tip)"{start}/>'


def _text(x: int, y: int, text: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x}" y="{y}">{escape(text)}</text>'


if __name__ == "__main__":
    for name, drawn in (("way", way()), ("stack", stack())):
        (HERE / f"{name}.svg").write_text(drawn)
