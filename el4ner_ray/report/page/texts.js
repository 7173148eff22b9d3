// The texts: what the filters let through, a page at a time. Only a page's passages are ever in the document.

const PAGE = 20;
const filter = { query: "", types: new Set(), minimum: 0, status: "", errors: false };
let matching = passages;
let withLabels = true;
let page = 0;

function isVisible(mark) {
  if (mark.score !== null && mark.score < filter.minimum) return false;
  return !filter.types.size || filter.types.has(mark.type) || mark.goldTypes.some((type) => filter.types.has(type));
}

function holdsQuery(passage) {
  passage.folded ??= folded(textOf(passage));
  return passage.folded.includes(filter.query) || folded(passage.document.id).includes(filter.query);
}

function matches(passage) {
  const { document: owner, marks } = passage;
  if (filter.status && owner.status !== filter.status) return false;
  if (filter.errors && !marks.some((mark) => isError(mark) && isVisible(mark))) return false;
  if ((filter.types.size || filter.minimum > 0) && !marks.some(isVisible)) return false;
  return !filter.query || holdsQuery(passage);
}

function refilter() {
  matching = passages.filter(matches);
  byId("legend").classList.toggle("some", filter.types.size > 0);
  for (const button of byId("legend").children) {
    button.setAttribute("aria-pressed", String(filter.types.has(Number(button.dataset.type))));
  }
  showPage(0);
}

function pages() {
  return Math.max(1, Math.ceil(matching.length / PAGE));
}

function showPage(wanted) {
  page = Math.min(Math.max(wanted, 0), pages() - 1);
  hideCard();
  const shown = matching.slice(page * PAGE, (page + 1) * PAGE);
  byId("passages").replaceChildren(...shown.map((passage) => passageElement(passage, isVisible, withLabels)));
  const owners = new Set(matching.map((passage) => passage.document.number)).size;
  const several = owners === matching.length ? "" : ` in ${matching.length.toLocaleString("en")} passages`;
  const found = `${owners.toLocaleString("en")} of ${documents.length.toLocaleString("en")} texts${several}`;
  for (const pager of document.querySelectorAll(".pager")) {
    pager.querySelector(".found").textContent = found;
    pager.querySelector(".back").disabled = page === 0;
    pager.querySelector(".next").disabled = page === pages() - 1;
    pager.querySelector(".page").value = page + 1;
    pager.querySelector(".page").max = pages();
    pager.querySelector(".pages").textContent = `of ${pages().toLocaleString("en")}`;
    pager.hidden = pager.id === "pager-below" && pages() === 1;
  }
  markFound(byId("passages"));
}

function turnTo(wanted) {
  showPage(wanted);
  byId("view-texts").scrollIntoView();
}

// The browser paints what was searched for; browsers that cannot do so show the passages all the same.
function markFound(list) {
  if (!globalThis.CSS?.highlights) return;
  CSS.highlights.delete("found");
  if (!filter.query) return;
  const ranges = [...list.querySelectorAll(".text")].flatMap((text) => rangesOf(text, filter.query));
  if (ranges.length) CSS.highlights.set("found", new Highlight(...ranges));
}

function rangesOf(text, query) {
  const walker = document.createTreeWalker(text, NodeFilter.SHOW_TEXT);
  const nodes = [];
  let content = "";
  while (walker.nextNode()) {
    if (walker.currentNode.parentElement.closest(".label")) continue;
    nodes.push([content.length, walker.currentNode]);
    content += walker.currentNode.data;
  }
  const lower = folded(content);
  // Where letters change their length, offsets would lie; one that grows must not make up for one that shrinks.
  if (lower.length !== content.length || content.normalize("NFC").length !== content.length) return [];
  const at = (offset) => {
    const [start, node] = nodes.findLast(([begin]) => begin <= offset);
    return [node, offset - start];
  };
  const ranges = [];
  for (let found = lower.indexOf(query); found >= 0; found = lower.indexOf(query, found + query.length)) {
    const range = new Range();
    range.setStart(...at(found));
    const [last, offset] = at(found + query.length - 1); // not the next piece: a label may lie between
    range.setEnd(last, offset + 1);
    ranges.push(range);
  }
  return ranges;
}
