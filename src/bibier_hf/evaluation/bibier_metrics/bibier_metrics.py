"""UAR, WAR, MF1 and WF1 as a module of the library `evaluate`."""

import datasets
import evaluate
from evaluate.utils.file_utils import add_start_docstrings

from .averages import averages

_DESCRIPTION = """
The four metrics of emotion recognition studies: UAR (unweighted average recall, also called balanced accuracy or macro recall), WAR
(weighted average recall, which equals accuracy), MF1 (macro F1) and WF1 (weighted F1), and the mean of the four. The averages run over
the classes that occur in the references; a class that is only predicted costs the recall of the samples it was given to.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of int): predicted classes.
    references (list of int): true classes.

Returns:
    uar, war, mf1, wf1, mean (float): each between 0 and 1.

Example:
    >>> metrics = evaluate.load("bibier_metrics")  # a folder with this file, or OWNER/bibier_metrics on the Hub
    >>> metrics.compute(references=[0, 0, 0, 3], predictions=[0, 0, 3, 3])["uar"]
    0.8333333333333333
"""

_CITATION = """
@article{ryumina2025ber,
  title = {BiBiER: A Bilingual Bimodal Emotion Recognition Method with Improved Generalization through Data Augmentation},
  author = {Ryumina, Elena and Axyonov, Alexandr and Abdulkadirov, Timur and Koryakovskaya, Darya and Gorovaya, Svetlana and
            Bykova, Anna and Vikhorev, Dmitry and Ryumin, Dmitry},
  journal = {Expert Systems with Applications},
  year = {2025}
}
"""


@add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class BiBiERMetrics(evaluate.Metric):
    """See `_DESCRIPTION`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: list[int], references: list[int]) -> dict[str, float]:
        return averages(references, predictions)
