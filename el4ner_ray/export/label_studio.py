"""Label Studio: tasks as JSON with the entities as predictions, and beside them the labelling configuration as XML.

Label Studio counts code points, not the UTF-16 code units of its browser, so that offsets stay as they are: its editor
converts (`charsToCodePoints` in web/libs/editor/src/utils/selection-tools.js, "Store code points instead of js length",
HumanSignal/label-studio pull request 1559, label-studio-frontend 308), and its documentation of the Text tag
(https://labelstud.io/tags/text) says to read a region as Python's `text[start:end]`. CR and LF count one each, also
side by side. Reports of wrong marks after emoji are of versions before that (issues 1008, 1347), or of how releases
between 1.9 and pull request 6135 (July 2024) drew regions whose stored offsets were right (issues 4988, 6057).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from statistics import fmean
from typing import Any
from xml.etree import ElementTree

import msgspec

from el4ner_ray.errors import UsageError
from el4ner_ray.export.shared import Export, generator, label_note, replacing
from el4ner_ray.results import AnnotatedDocument

FROM_NAME, TO_NAME = "label", "text"
# What XML 1.0 cannot hold, and what Label Studio reads as a field of the task (parseValue in utils/data.js).
_NO_LABEL = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|\$[A-Za-z0-9_\[\].{}]")


def write(export: Export) -> list[str]:
    """Write the tasks, and the configuration to the same name with `.config.xml` in place of `.json`. Votes are lost.

    The configuration has all labels of the run, so that an entity of any of them can be added by hand.

    Raises UsageError at a type that cannot be a label.
    """
    encoder, maker = msgspec.json.Encoder(), generator()
    labels = dict.fromkeys(map(_checked, export.labels))
    configuration = export.path.with_name(f"{export.path.name.removesuffix('.json')}.config.xml")
    with (
        replacing(export.path, export.overwrite) as path,
        replacing(configuration, export.overwrite) as config_path,
    ):
        with path.open("wb") as file:
            separator = b"[\n"
            for document in export.documents:
                for entity in document.entities:
                    if entity.type not in labels:
                        labels[_checked(entity.type)] = None
                file.write(separator + encoder.encode(_task(document, maker)))
                separator = b",\n"
            file.write(b"\n]\n" if separator == b",\n" else b"[]\n")
        config_path.write_text(label_config(labels), "utf-8")
    return [f"labelling configuration: {configuration}", *label_note(export.labels)]


def _task(document: AnnotatedDocument, maker: str) -> dict[str, Any]:
    task: dict[str, Any] = {
        "data": {"text": document.text, "doc_id": document.doc_id, "status": document.status},
        "predictions": [],
    }
    if document.status == "failed":  # nobody said that there are no entities in it
        return task
    prediction: dict[str, Any] = {
        "model_version": maker,
        "result": [
            {
                "id": f"e{number}",
                "from_name": FROM_NAME,
                "to_name": TO_NAME,
                "type": "labels",
                "score": entity.score,
                "value": {"start": entity.start, "end": entity.end, "text": entity.text, "labels": [entity.type]},
            }
            for number, entity in enumerate(document.entities, 1)
        ],
    }
    if document.entities:
        prediction["score"] = fmean(entity.score for entity in document.entities)
    task["predictions"].append(prediction)
    return task


def _checked(label: str) -> str:
    if _NO_LABEL.search(label):
        mend = "annotate with another name under `labels`, or export to another format"
        raise UsageError(f"--format label-studio: type {label!r} cannot be a label in its XML; {mend}")
    return label


def label_config(labels: Iterable[str]) -> str:
    """The labelling configuration with these labels, each as it is."""
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Style").text = ".htx-text, .htx-richtext { white-space: pre-wrap; }"  # all spaces
    control = ElementTree.SubElement(view, "Labels", name=FROM_NAME, toName=TO_NAME)
    for label in labels:
        ElementTree.SubElement(control, "Label", value=label)
    ElementTree.SubElement(view, "Text", name=TO_NAME, value="$text", valueType="text")
    ElementTree.indent(view)
    return ElementTree.tostring(view, encoding="unicode") + "\n"
