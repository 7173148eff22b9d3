// What is asked: the label rows, and demonstrations written as "[Anna](person) flew to [Oslo](place)."

const EXAMPLE_LABELS = {
  person: "named people, without title",
  place: "cities, countries, rivers",
  organization: "companies, institutions, teams",
};

function addLabel(name = "", description = "") {
  const row = byId("labels").appendChild(element("div", "label-row"));
  const fields = [["Label", name], ["Description", description]].map(([caption, value]) => {
    const field = row.appendChild(element("input"));
    field.value = value;
    field.autocomplete = "off";
    field.placeholder = caption.toLowerCase();
    field.setAttribute("aria-label", caption);
    return field;
  });
  const remove = row.appendChild(element("button", "", "✕"));
  remove.type = "button";
  remove.setAttribute("aria-label", "Remove this label");
  remove.addEventListener("click", () => {
    row.remove();
    colourLabels();
  });
  colourLabels();
  return fields[0];
}

function colourLabels() {
  [...byId("labels").children].forEach((row, number) => {
    row.className = `label-row ${colour(number)}`;
  });
}

function labelsGiven() {
  const rows = [...byId("labels").querySelectorAll(".label-row")];
  const pairs = rows.map((row) => [...row.querySelectorAll("input")].map((field) => field.value.trim()));
  const named = pairs.filter(([name]) => name);
  // Not an object literal: a label may be called __proto__.
  return Object.fromEntries(named);
}

function demonstrationsGiven() {
  return byId("demonstrations").value.split("\n").filter((line) => line.trim()).map(demonstration);
}

function demonstration(line) {
  const entities = [];
  let text = "";
  let length = 0; // in code points
  const append = (piece) => {
    text += piece;
    length += [...piece].length;
  };
  const plain = (piece) => piece.replaceAll(/\\([[\]()\\])/g, "$1");
  // What is escaped is passed over by itself, so that no mark begins at an escaped bracket.
  const marked = /\\.|\[((?:\\.|[^\]\\])+)\]\(((?:\\.|[^)\\])+)\)/gu;
  let at = 0;
  for (const match of line.matchAll(marked)) {
    if (match[1] === undefined) continue;
    append(plain(line.slice(at, match.index)));
    const start = length;
    append(plain(match[1]));
    entities.push({ start, end: length, type: plain(match[2]).trim() });
    at = match.index + match[0].length;
  }
  append(plain(line.slice(at)));
  return { text, entities };
}

function requestBody() {
  const body = { texts: [byId("text").value], labels: labelsGiven(), stream: true, stages: true };
  const shown = demonstrationsGiven();
  if (shown.length) body.demonstrations = shown;
  const method = byId("method")?.value;
  if (method) body.method = method;
  return body;
}
