/* Filter and sort the catalogue, open the search from the home page. All listeners are delegated, so
   instant navigation needs nothing more; without this file every table is complete and readable. */
(() => {
  const one = (sel, root = document) => root.querySelector(sel);
  const all = (sel, root = document) => [...root.querySelectorAll(sel)];
  const field = (cat, name) => one(`[name=${name}]`, cat);

  function apply(cat, remember = true) {
    const words = field(cat, "q").value.toLowerCase().split(/\s+/).filter(Boolean);
    const kind = one("[name=cat]:checked", cat).value;
    const sort = field(cat, "sort").value, written = field(cat, "written").checked;
    const rows = all("tbody tr", cat);
    rows.forEach((row, i) => { row.n ??= i; row.t ??= `${row.textContent} ${row.dataset.a || ""}`.toLowerCase(); });
    rows.forEach(row => { row.hidden = !!kind && row.dataset.c !== kind || written && !row.cells[0].firstElementChild || words.some(w => !row.t.includes(w)); });
    const shown = rows.filter(row => !row.hidden).length;

    const [col, dir] = sort ? sort.split(":").map(Number) : [-1, 1];
    const key = row => {                                 // null (no value) goes last in both directions
      if (col < 0) return row.n;
      const cell = row.cells[col], v = cell.dataset.v;
      if (!col || v === undefined) return cell.textContent.toLowerCase();
      return v === "" ? null : isNaN(v) ? v : +v;
    };
    one("tbody", cat).append(...rows.map(row => [key(row), row]).sort(([a, x], [b, y]) =>
      a === b ? x.n - y.n : a === null ? 1 : b === null ? -1 : a < b ? -dir : dir).map(pair => pair[1]));

    all("th[aria-sort]", cat).forEach(th => th.removeAttribute("aria-sort"));
    one(`[data-sort="${col}"]`, cat)?.parentNode.setAttribute("aria-sort", dir > 0 ? "ascending" : "descending");
    one(".cat-count", cat).textContent = (shown < rows.length ? `${shown} of ` : "") + `${rows.length} techniques`;
    one(".cat-none", cat).hidden = shown > 0;
    if (remember) {
      const state = new URLSearchParams(Object.entries({ category: kind, q: words.join(" "), sort, written: written ? "only" : "" }).filter(p => p[1]));
      history.replaceState(history.state, "", location.pathname + location.search + (state.size ? "#" + state : ""));
    }
  }

  function restore() {                                   // a filtered catalogue has an address: #category=attention&sort=2:-1
    const cat = one(".cat");
    if (!cat) return;
    const state = new URLSearchParams(location.hash.slice(1));
    field(cat, "q").value = state.get("q") || "";
    field(cat, "sort").value = state.get("sort") || "";
    field(cat, "written").checked = state.has("written");
    (all("[name=cat]", cat).find(r => r.value === state.get("category")) || field(cat, "cat")).checked = true;
    apply(cat, false);
  }

  function guess() {                                     // the 404 page: search for the last word of the address
    const lost = one(".lost"), link = lost && one("[data-guess]", lost);
    if (!link) return;
    const words = decodeURIComponent(location.pathname).split("/").filter(Boolean).pop() || "";
    link.textContent = words.replace(/\.\w+$/, "").replace(/[-_+]+/g, " ");
    link.href = lost.dataset.base + "?q=" + encodeURIComponent(link.textContent);
    link.parentNode.hidden = !link.textContent;
  }

  function press(button, cat) {
    if (button.matches(".ask")) one("[data-md-component=search-query]").focus();
    if ("reset" in button.dataset) { field(cat, "q").value = ""; field(cat, "cat").checked = true; field(cat, "written").checked = false; apply(cat); }
    if ("sort" in button.dataset) {                      // one way, the other way, teaching order
      const select = field(cat, "sort"), col = button.dataset.sort, up = col + ":1", down = col + ":-1";
      const [first, second] = "25".includes(col) ? [down, up] : [up, down];
      select.value = select.value === first ? second : select.value === second ? "" : first;
      apply(cat);
    }
  }

  function sortable() {                                  // a table of numbers: each head becomes a button
    for (const head of all("table.sorts thead tr:last-child th")) {
      if (one("button", head)) continue;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
    }
  }

  function sort(button) {                                // largest first, smallest first, as it was; names the other way
    const head = button.parentNode, body = one("tbody", button.closest("table")), col = head.cellIndex;
    const ways = col ? ["descending", "ascending", ""] : ["ascending", "descending", ""];
    const way = ways[(ways.indexOf(head.getAttribute("aria-sort") || "") + 1) % 3];
    const rows = all("tr", body);
    rows.forEach((row, i) => { row.n ??= i; });
    const key = row => {                                 // no value goes last in both directions
      const cell = row.cells[col], v = cell.dataset.v ?? cell.textContent.toLowerCase();
      return !way ? row.n : v === "" ? null : isNaN(v) ? v : +v;
    };
    const dir = way === "descending" ? -1 : 1;
    body.append(...rows.map(row => [key(row), row]).sort(([a, x], [b, y]) =>
      a === b ? x.n - y.n : a === null ? 1 : b === null ? -1 : a < b ? -dir : dir).map(pair => pair[1]));
    all("[aria-sort]", head.parentNode).forEach(th => th.removeAttribute("aria-sort"));
    if (way) head.setAttribute("aria-sort", way);
  }

  const on = (type, sel, act) => document.addEventListener(type, e => {
    const hit = e.target.closest?.(sel);
    if (hit) act(hit, hit.closest(".cat"));
  });
  on("input", ".cat", cat => apply(cat));
  on("click", "button", press);
  on("click", ".sorts thead button", sort);
  addEventListener("hashchange", restore);

  const start = () => { restore(); guess(); sortable(); };
  window.document$ ? document$.subscribe(start) : start();
})();
