"""The page of the Space: a table of references and predictions in, the metrics out."""

from pathlib import Path

import evaluate
import gradio as gr

FOLDER = Path(__file__).resolve().parent

metrics = evaluate.load(str(FOLDER / "bibier_metrics.py"))


def score(rows: list[list[float]]) -> dict[str, float] | None:
    """Rows of (reference, prediction) -> the metrics."""
    if not rows:
        raise gr.Error("Give at least one row: the true class and the predicted class, as whole numbers.")
    references, predictions = zip(*((int(reference), int(prediction)) for reference, prediction in rows), strict=True)
    return metrics.compute(references=references, predictions=predictions)


page = gr.Interface(
    fn=score,
    inputs=gr.Dataframe(
        headers=["reference", "prediction"],
        datatype="number",
        type="array",
        value=[[0, 0], [0, 0], [0, 3], [3, 3]],
        label="Class indices",
    ),
    outputs=gr.JSON(label="Metrics"),
    title="UAR, WAR, MF1, WF1",
    description=metrics.info.description,
    article=(FOLDER / "README.md").read_text(encoding="utf-8").split("---\n", 2)[2],
)

if __name__ == "__main__":
    page.launch()
