"use strict";

// What the page shows comes from documents that nobody has checked. Text gets into the page by textContent alone.

const COLOURS = 48;
const data = JSON.parse(document.getElementById("data").textContent);

function byId(id) {
  return document.getElementById(id);
}

function element(tag, className = "", text = null) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== null) made.textContent = text;
  return made;
}

function colour(type) {
  return `type-${type % COLOURS}`;
}

// In the order of their fields in Python.
const documents = data.documents.map(([id, status, error, compared, passages, shown, total], number) => ({
  id, status, error, compared, passages, shown, total, number,
}));
const passages = data.passages.map(([document, segments, marks], number) => ({
  number,
  document: documents[document],
  segments: segments.map((segment) => (typeof segment === "string" ? [segment, []] : segment)),
  marks: marks.map(([type, lane, score, votes, extractedBy, verified, verdict, goldTypes]) => ({
    type, lane, score, votes, extractedBy, verified, verdict, goldTypes,
  })),
}));
for (const passage of passages) {
  passage.document.first ??= passage.number;
}

function textOf(passage) {
  return passage.segments.map(([text]) => text).join("");
}

// As search compares: whatever the case, and whether letters and their accents are written as one or as two.
function folded(text) {
  return text.normalize("NFC").toLocaleLowerCase();
}

function surfaceOf(passage, mark) {
  return passage.segments.filter(([, over]) => over.includes(mark)).map(([text]) => text).join("");
}

function isError(mark) {
  return mark.verdict !== "" && mark.verdict !== "right";
}
