"""The page: template, style and script in one HTML file that loads nothing and runs nothing but its own script."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup, escape

from el4ner_ray.core.evaluation import Evaluation
from el4ner_ray.html import environment, joined, policy_hash
from el4ner_ray.report import palette
from el4ner_ray.report.comparison import Comparison
from el4ner_ray.report.page_data import PageData, embedded
from el4ner_ray.report.run_file import Run
from el4ner_ray.report.sample import Bound
from el4ner_ray.report.statistics import Failed, Frequent, Statistics
from el4ner_ray.schema import Usage

_PACKAGE = "el4ner_ray.report"
_STYLES = ("page.css", "texts.css", "marks.css")
_SCRIPTS = ("data.js", "passage.js", "card.js", "texts.js", "views.js")


@dataclass(frozen=True)
class Report:
    """What a page shows. `types` are in the order of their colours; `evaluation` and `comparison` go together.

    `bound` is what keeps the texts of further documents out, None where all are shown.
    """

    name: str
    run: Run
    statistics: Statistics
    failures: Frequent[Failed]
    data: PageData
    types: tuple[str, ...]
    models: tuple[str, ...]
    bound: Bound | None = None
    evaluation: Evaluation | None = None
    comparison: Comparison | None = None

    @property
    def legend(self) -> tuple[str, ...]:
        """The types of entities, of the run or the gold, in the order of their colours."""
        named = set(self.statistics.types) | (self.comparison.types if self.comparison else set())
        return tuple(name for name in self.types if name in named)

    @property
    def total(self) -> int:
        """Documents that could be shown."""
        absent = len(self.evaluation.missing_documents) if self.evaluation else 0
        return self.statistics.documents + absent

    @property
    def statuses(self) -> list[str]:
        """Statuses of the documents shown."""
        return sorted({document.status for document in self.data.documents})

    @property
    def costs(self) -> list[tuple[str, str, Usage]]:
        """Stage, model and what it was asked, in the order of the run."""
        return [(stage, model, usage) for stage, models in self.run.stages.items() for model, usage in models.items()]

    @property
    def longest(self) -> float:
        """Seconds of the stage and model that took most, never 0."""
        return max((usage.seconds for _, _, usage in self.costs), default=0.0) or 1.0


def render(report: Report) -> str:
    """The report as an HTML document. All that it shows is escaped, whoever wrote it."""
    style = Markup("\n").join((joined(_STYLES, _PACKAGE), Markup(palette.css(len(report.types)))))
    script = joined(_SCRIPTS, _PACKAGE)
    slots = {name: number % palette.MOST for number, name in enumerate(report.types)}
    templates = environment(_PACKAGE)
    templates.filters |= {"attribute": _attribute, "duration": duration, "number": _number, "percent": _percent}
    return templates.get_template("report.html.jinja").render(
        report=report,
        run=report.run,
        statistics=report.statistics,
        slots=slots,
        style=style,
        script=script,
        style_hash=policy_hash(style),
        script_hash=policy_hash(script),
        data=embedded(report.data),
    )


def duration(seconds: float | None) -> str:
    """Seconds in the unit that suits: `0.4 s`, `98 s`, `46 min`, `3.4 h`; a dash for None."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"


def _attribute(text: str) -> Markup:
    """The text as an attribute of which a script gets every character; a raw CR would become a line feed."""
    return Markup(str(escape(text)).replace("\r", "&#13;"))


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,}"


def _percent(share: float) -> str:
    return f"{share:.0%}"
