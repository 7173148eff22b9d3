// The four steps of a text: what each holds so far, and how it is shown.

// The union shows what the models found once more: nobody is taken there unasked.
const FOLLOWED = ["result", "vote", "models"];
let points = []; // of the text that is being annotated
let sentences = []; // {candidates, typed, done} of each
let step = "models";
let chosen = false; // by the reader, who is then left there
let scheduled = null; // the frame in which what came is shown
let behind = false; // what came is not shown, since what is there is read

function begin(text, count, labels) {
  points = [...text];
  sentences = Array.from({ length: count }, () => ({ candidates: null, typed: null, done: null }));
  data.types = Object.keys(labels);
  step = "models";
  chosen = false;
  show();
  // On a phone the steps lie below the form.
  if (byId("steps").getBoundingClientRect().top > 0.6 * window.innerHeight) byId("steps").scrollIntoView();
}

function learn(line) {
  const sentence = sentences[line.sentence];
  if (line.kind === "sentence") sentence.done = line;
  else if (line.candidates && line.stage === "extract") sentence.candidates = line.candidates;
  else if (line.entities) sentence.typed = line.entities;
  if (!chosen) step = FOLLOWED.find((name) => reached(name)) ?? "models";
  // Lines come faster than a browser paints.
  scheduled ??= requestAnimationFrame(showUnlessRead);
}

function reached(name) {
  return sentences.filter((sentence) => marksOf(sentence, name) !== null).length;
}

// The marks of a sentence at a step; null where it is not so far.
function marksOf(sentence, name) {
  if (name === "vote") return sentence.typed && sentence.typed.map(typedMark);
  if (name === "result") {
    if (!sentence.done) return null;
    const dropped = sentence.done.dropped.map((entity) => ({ ...typedMark(entity), verdict: "dropped" }));
    return [...sentence.done.entities.map(typedMark), ...dropped];
  }
  return sentence.candidates && sentence.candidates.map(unionMark);
}

function typedMark(entity) {
  const votes = entity.votes.map((vote) => [data.models.indexOf(vote.model), vote.type === null ? null : typeNumber(vote.type)]);
  return {
    start: entity.start,
    end: entity.end,
    type: typeNumber(entity.type || "undecided"),
    score: entity.type ? entity.score : null,
    votes,
    extractedBy: modelNumbers(entity.extracted_by),
    verified: entity.verified,
    verdict: "",
  };
}

function unionMark(candidate) {
  const name = `${candidate.extracted_by.length}\u00a0of\u00a0${data.models.length}`;
  return {
    start: candidate.start,
    end: candidate.end,
    type: typeNumber(name),
    score: null,
    votes: [],
    extractedBy: modelNumbers(candidate.extracted_by),
    verified: false,
    verdict: "",
  };
}

// What is shown anew closes the card that a reader pinned, and takes the focus from the mark that has it.
function showUnlessRead() {
  cancelAnimationFrame(scheduled);
  scheduled = null;
  behind = pinned !== null || byId("passages").contains(document.activeElement);
  if (!behind) show();
}

function catchUp() {
  // In the next frame, when it is settled what is pinned and has the focus.
  if (behind) scheduled ??= requestAnimationFrame(showUnlessRead);
}

function show() {
  cancelAnimationFrame(scheduled);
  scheduled = null;
  behind = false;
  hideCard();
  for (const button of byId("steps").querySelectorAll("button")) {
    const { step: name } = button.dataset;
    button.setAttribute("aria-pressed", String(name === step));
    button.classList.toggle("reached", reached(name) > 0);
  }
  passages.length = 0;
  byId("passages").replaceChildren(...(step === "models" ? data.models.map(modelElement) : [stepElement()]));
}

function stepElement() {
  const found = sentences.flatMap((sentence) => marksOf(sentence, step) ?? []);
  return passage("", found, true);
}

function modelElement(model, number) {
  const candidates = sentences.flatMap((sentence) => sentence.candidates ?? []);
  const own = candidates.filter((candidate) => candidate.extracted_by.includes(model)).map(unionMark);
  // Behind the labels, so that a model's colour is none of theirs where there are enough.
  const type = typeNumber(model);
  return passage(model, own.map((mark) => ({ ...mark, type, extractedBy: [number] })), false);
}

function passage(title, found, withLabels) {
  const article = element("article", "passage");
  const header = article.appendChild(element("header"));
  if (title) header.append(element("h3", "model", title));
  const dropped = found.filter((mark) => mark.verdict === "dropped").length;
  const kept = found.length - dropped;
  const noun = step === "models" || step === "union" ? ["span", "spans"] : ["entity", "entities"];
  const counts = `${kept} ${noun[kept === 1 ? 0 : 1]}${dropped ? `, ${dropped} dropped` : ""}`;
  header.append(element("span", "counts", counts));
  article.append(textElement(addPassage(points, found), () => true, withLabels));
  return article;
}

function watchSteps() {
  byId("steps").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    step = button.dataset.step;
    chosen = true;
    show();
  });
  for (const type of ["click", "keydown", "focusout"]) document.addEventListener(type, catchUp);
}
