// The card of a piece of marked text: it follows pointer and focus; a click, a tap or Enter pins it.

const card = byId("card");
let pinned = null;

function showCard(piece) {
  const passage = passages[Number(piece.dataset.passage)];
  const numbers = piece.dataset.marks.split(" ").map(Number);
  card.replaceChildren(...numbers.toReversed().map((number) => markElement(passage, number)));
  card.hidden = false;
  activate(piece, numbers);
  piece.setAttribute("aria-describedby", "card");
  const place = piece.getClientRects()[0];
  const room = document.documentElement.clientWidth - card.offsetWidth - 12;
  const below = place.bottom + 10;
  const above = place.top - card.offsetHeight - 8;
  const top = below + card.offsetHeight > window.innerHeight && above > 0 ? above : below;
  card.style.setProperty("--x", `${Math.max(12, Math.min(place.left, room)) + window.scrollX}px`);
  card.style.setProperty("--y", `${top + window.scrollY}px`);
}

function hideCard() {
  card.hidden = true;
  card.classList.remove("pinned");
  pinned = null;
  activate(null, []);
}

function activate(piece, numbers) {
  for (const marked of document.querySelectorAll(".mark.active")) {
    marked.classList.remove("active");
    marked.removeAttribute("aria-describedby");
  }
  if (!piece) return;
  const wanted = new Set(numbers.map(String));
  for (const other of piece.parentElement.querySelectorAll(".mark")) {
    other.classList.toggle("active", other.dataset.marks.split(" ").some((number) => wanted.has(number)));
  }
}

function markElement(passage, number) {
  const mark = passage.marks[number];
  const article = element("article", colour(mark.type));
  article.append(element("div", "surface", surfaceOf(passage, number)));
  article.append(element("span", "chip", data.types[mark.type]));
  if (isError(mark)) article.append(element("div", "verdict bad", verdictText(mark)));
  if (mark.verdict === "right") article.append(element("div", "verdict good", "as in the gold"));
  if (mark.verdict === "missed") return article;
  if (mark.score !== null) article.append(scoreElement(mark.score));
  article.append(evidenceTable(mark));
  article.append(element("div", "verified", mark.verified ? "✓ verified" : "not verified"));
  return article;
}

function scoreElement(score) {
  const row = element("div", "score");
  row.append(element("span", "muted", "score"), element("strong", "", score.toFixed(2)));
  row.appendChild(element("div", "track")).appendChild(element("div")).style.setProperty("--share", `${score * 100}%`);
  return row;
}

function verdictText(mark) {
  if (mark.verdict === "dropped") return "dropped by the last stage";
  if (mark.verdict === "missed") return "missed: in the gold, not in the run";
  if (mark.verdict === "wrong") return "wrong: not in the gold";
  return `wrong type: ${mark.goldTypes.map((type) => data.types[type]).join(", ")} in the gold`;
}

function evidenceTable(mark) {
  const table = element("table");
  const head = table.appendChild(element("thead")).appendChild(element("tr"));
  for (const name of ["model", "extracted", "vote"]) head.append(element("th", "", name));
  const body = table.appendChild(element("tbody"));
  const votes = new Map(mark.votes);
  data.models.forEach((model, number) => {
    const row = body.appendChild(element("tr"));
    row.append(element("th", "name", model));
    row.append(element("td", "", mark.extractedBy.includes(number) ? "yes" : "–"));
    const vote = row.appendChild(element("td"));
    if (!votes.has(number)) vote.append(element("span", "muted", "not asked"));
    else if (votes.get(number) === null) vote.append(element("span", "muted", "abstained"));
    else vote.append(element("span", `chip ${colour(votes.get(number))}`, data.types[votes.get(number)]));
  });
  return table;
}

function pieceOf(event) {
  return event.target.closest(".mark");
}

function watchMarks(list) {
  list.addEventListener("pointerover", (event) => {
    if (event.pointerType === "mouse" && !pinned && pieceOf(event)) showCard(pieceOf(event));
  });
  list.addEventListener("pointerout", (event) => {
    if (event.pointerType === "mouse" && !pinned) hideCard();
  });
  list.addEventListener("focusin", (event) => {
    if (!pinned && pieceOf(event)?.matches(":focus-visible")) showCard(pieceOf(event));
  });
  list.addEventListener("focusout", () => {
    if (!pinned) hideCard();
  });
  document.addEventListener("click", (event) => {
    if (event.target.closest(".card")) return;
    const piece = pieceOf(event);
    const same = piece === pinned;
    hideCard();
    if (piece && !same) pin(piece);
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") hideCard();
    if ((event.key === "Enter" || event.key === " ") && pieceOf(event)) {
      event.preventDefault();
      pin(pieceOf(event));
    }
  });
}

function pin(piece) {
  showCard(piece);
  pinned = piece;
  card.classList.add("pinned");
  piece.scrollIntoView({ block: "nearest" }); // on a phone the card may lie over it
}
