// A passage as DOM: each piece of marked text lies in one element for each of its marks, the outermost first.

const DEEPEST = 5;

function passageElement(passage, isVisible, withLabels) {
  const { document: owner } = passage;
  const article = element("article", "passage");
  const header = article.appendChild(element("header"));
  header.append(element("h3", "", owner.id));
  if (owner.status !== "ok") header.append(element("span", "bad", owner.status === "absent" ? "not in the run" : owner.status));
  if (owner.passages > 1) {
    header.append(element("span", "", `passage ${passage.number - owner.first + 1} of ${owner.passages}`));
  }
  if (owner.shown < owner.total) {
    const shown = `${owner.shown.toLocaleString("en")} of ${owner.total.toLocaleString("en")} characters shown`;
    header.append(element("span", "", shown));
  }
  header.append(countsElement(passage));
  if (owner.error !== null) article.append(element("p", "problem", owner.error));
  article.append(textElement(passage, isVisible, withLabels));
  return article;
}

function countsElement({ document: owner, marks }) {
  const counts = element("span", "counts");
  const found = marks.filter((mark) => mark.verdict !== "missed").length;
  if (!owner.compared) {
    counts.append(`${found} ${found === 1 ? "entity" : "entities"}`);
    return counts;
  }
  const names = { right: "right", type: "wrong type", wrong: "wrong", missed: "missed" };
  for (const [verdict, name] of Object.entries(names)) {
    const number = marks.filter((mark) => mark.verdict === verdict).length;
    if (!number) continue;
    if (counts.childNodes.length) counts.append(" · ");
    counts.append(element("span", verdict === "right" ? "good" : "bad", `${number} ${name}`));
  }
  return counts;
}

function textElement(passage, isVisible, withLabels) {
  const text = element("p", "text");
  text.dir = "auto";
  if (passage.marks.some((mark) => mark.lane > 1)) text.classList.add("deep");
  const over = passage.segments.map(([, marks]) => marks.filter((number) => isVisible(passage.marks[number])));
  passage.segments.forEach(([content], at) => {
    if (!over[at].length) {
      text.append(content);
      return;
    }
    const starting = over[at].filter((number) => !over[at - 1]?.includes(number));
    const ending = over[at].filter((number) => !over[at + 1]?.includes(number));
    const piece = pieceElement(passage, over[at], content, starting, withLabels ? [] : ending);
    piece.tabIndex = 0;
    piece.setAttribute("role", "button");
    text.append(piece);
    if (withLabels) text.append(...labelPieces(passage, over[at], ending));
  });
  return text;
}

// A label continues its mark's box and those of the marks around it; the innermost mark that ends comes first.
function labelPieces(passage, over, ending) {
  return ending.toReversed().map((number) => {
    const around = over.filter((other) => !ending.includes(other) || ending.indexOf(other) <= ending.indexOf(number));
    return pieceElement(passage, around, labelElement(passage.marks[number]), [], [number]);
  });
}

function pieceElement(passage, over, content, starting, ending) {
  const piece = element("span", "mark");
  piece.dataset.passage = passage.number;
  piece.dataset.marks = over.join(" ");
  const nested = over.toReversed().reduce((inner, number) => {
    const mark = passage.marks[number];
    const box = element("span", `over lane-${Math.min(mark.lane, DEEPEST)} ${colour(mark.type)} ${mark.verdict}`);
    if (starting.includes(number)) box.classList.add("begins");
    if (ending.includes(number)) box.classList.add("ends");
    box.append(inner);
    return box;
  }, content);
  piece.append(nested);
  return piece;
}

function labelElement(mark) {
  const label = element("span", `label ${colour(mark.type)}`);
  label.append("\u2060"); // no line break between a surface and its label
  if (isError(mark)) label.append(element("span", "flag", mark.verdict === "missed" ? "missed" : "✗"), "\u00a0");
  label.append(data.types[mark.type]);
  if (mark.goldTypes.length) {
    label.append(element("span", "gold", ` · gold:\u00a0${mark.goldTypes.map((type) => data.types[type]).join(", ")}`));
  }
  return label;
}
