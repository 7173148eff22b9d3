// What is asked: the label rows, and demonstrations written as "[Anna](person) flew to [Oslo](place)."

const EXAMPLE_LABELS = {
  person: "named people, without title",
  place: "cities, countries, rivers",
  organization: "companies, institutions, teams",
};

function addLabel(name = "", description = "") {
  const row = byId("labels").appendChild(element("div", "label-row"));
  const fields = [["label", name], ["description", description]].map(([caption, value]) => {
    const field = row.appendChild(element("input"));
    field.value = value;
    field.autocomplete = "off";
    field.placeholder = caption;
    return field;
  });
  fields[0].addEventListener("input", tellRowsApart);
  const remove = row.appendChild(element("button", "", "✕"));
  remove.type = "button";
  remove.addEventListener("click", () => {
    const next = row.nextElementSibling?.querySelector("button") ?? byId("add-label");
    row.remove();
    tellRowsApart();
    next.focus();
  });
  tellRowsApart();
  return fields[0];
}

function labelRows() {
  return [...byId("labels").querySelectorAll(".label-row")];
}

// By colours, which are those of the marks: in the order of what is sent, where names like numbers come first.
function tellRowsApart() {
  const sent = Object.keys(labelsGiven());
  labelRows().forEach((row, number) => {
    const [label, description, remove] = row.children;
    const place = sent.indexOf(label.value.trim());
    row.className = `label-row ${colour(place < 0 ? sent.length + number : place)}`;
    label.setAttribute("aria-label", `Label ${number + 1}`);
    description.setAttribute("aria-label", `Description ${number + 1}`);
    remove.setAttribute("aria-label", `Remove label ${number + 1}`);
  });
}

// [label, description] of each row that has a label.
function labelPairs() {
  const pairs = labelRows().map((row) => [...row.querySelectorAll("input")].map((field) => field.value.trim()));
  return pairs.filter(([name]) => name);
}

function labelsGiven() {
  // Not an object literal: a label may be called __proto__.
  return Object.fromEntries(labelPairs());
}

function repeatedLabel() {
  const names = labelPairs().map(([name]) => name);
  return names.find((name, number) => names.indexOf(name) < number);
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
