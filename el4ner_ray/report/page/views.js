// Filters, pagers and the choice of view, wired to what stands in the page.

function watchFilters() {
  byId("search").addEventListener("input", () => {
    filter.query = folded(byId("search").value);
    refilter();
  });
  byId("minimum").addEventListener("input", () => {
    filter.minimum = Number(byId("minimum").value);
    byId("minimum-shown").textContent = filter.minimum.toFixed(2);
    refilter();
  });
  byId("status")?.addEventListener("change", () => {
    filter.status = byId("status").value;
    refilter();
  });
  byId("errors")?.addEventListener("change", () => {
    filter.errors = byId("errors").checked;
    refilter();
  });
  byId("labels").addEventListener("change", () => {
    withLabels = byId("labels").checked;
    showPage(page);
  });
  byId("legend").addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    const type = Number(button.dataset.type);
    if (!filter.types.delete(type)) filter.types.add(type);
    refilter();
  });
  byId("clear").addEventListener("click", () => {
    Object.assign(filter, { query: "", types: new Set(), minimum: 0, status: "", errors: false });
    byId("filter-form").reset();
    byId("minimum-shown").textContent = "0.00";
    withLabels = true;
    refilter();
  });
}

function watchPagers() {
  for (const pager of document.querySelectorAll(".pager")) {
    pager.querySelector(".back").addEventListener("click", () => turnTo(page - 1));
    pager.querySelector(".next").addEventListener("click", () => turnTo(page + 1));
    pager.querySelector(".page").addEventListener("change", (event) => turnTo(Math.round(Number(event.target.value)) - 1));
  }
}

// A surface or type in a table leads to the texts that hold it.
function watchLinks() {
  document.addEventListener("click", (event) => {
    const link = event.target.closest("[data-search], [data-only]");
    if (!link) return;
    byId("clear").click();
    if (link.dataset.only) filter.types.add(Number(link.dataset.only));
    byId("search").value = link.dataset.search ?? "";
    filter.query = folded(link.dataset.search ?? ""); // the field drops line breaks
    refilter();
    location.hash = "texts";
  });
}

function showView() {
  hideCard();
  const views = [...document.querySelectorAll(".view")];
  const wanted = views.find((view) => view.id === `view-${location.hash.slice(1)}`) ?? views[0];
  for (const view of views) view.hidden = view !== wanted;
  for (const link of document.querySelectorAll(".views a")) {
    link.setAttribute("aria-current", String(wanted.id === `view-${link.hash.slice(1)}`));
  }
}

byId("filters").open = window.matchMedia("(min-width: 56rem)").matches;
byId("filter-form").reset();
byId("filter-form").addEventListener("submit", (event) => event.preventDefault());
watchFilters();
watchPagers();
watchLinks();
watchMarks(byId("passages"));
window.addEventListener("hashchange", () => {
  const scrolled = document.querySelector(".views").getBoundingClientRect().top <= 0;
  showView();
  if (scrolled) document.querySelector(".view:not([hidden])").scrollIntoView();
});
showView();
refilter();
