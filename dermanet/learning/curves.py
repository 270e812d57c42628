"""Learning curves as a picture."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from dermanet.learning.train import Epoch

PANELS = (("loss", "loss"), ("age_mae", "age: mean absolute error (years)"),
          ("sex_accuracy", "sex: accuracy"), ("diagnosis_accuracy", "diagnosis: accuracy"))  # fmt: skip


def draw(history: Sequence[Epoch], best_epochs: Sequence[int]) -> Figure:
    """Four panels over the epochs: loss and the three heads, training and validation, the kept epochs marked."""
    figure = Figure(figsize=(10, 6.5), layout="constrained")
    epochs = range(1, len(history) + 1)
    for axes, (name, title) in zip(figure.subplots(2, 2).flat, PANELS, strict=True):
        axes.plot(epochs, [epoch[name] for epoch in history], label="training", color="#9aa5b1")
        axes.plot(
            epochs,
            [epoch[f"val_{name}"] for epoch in history],
            label="validation",
            color="#1f5fa8",
            marker="o",
            markersize=3,
        )
        for place, epoch in enumerate(best_epochs):
            axes.axvline(epoch, color="#c2571a", linewidth=1, linestyle="--", label="" if place else "kept epoch")
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.25)
    figure.axes[0].legend()
    return figure
