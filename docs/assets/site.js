/* Filter and sort the catalogue, open the search from the home page. All listeners are delegated, so
   instant navigation needs nothing more; without this file every table is complete and readable. */

/* A filter's state stands after the # of the address, under these names. An anchor is no state: the one before it
   stays, also when the theme loads a page anew, which it does at its first anchor. */
const addressState = (() => {
  let last = null;
  return names => {
    const now = new URLSearchParams(location.hash.slice(1)), anchor = location.hash && !names.some(name => now.has(name));
    if (!anchor) last = { path: location.pathname, state: now };
    return last?.path === location.pathname ? last.state : new URLSearchParams();
  };
})();

(() => {
  const one = (sel, root = document) => root.querySelector(sel);
  const all = (sel, root = document) => [...root.querySelectorAll(sel)];
  const field = (cat, name) => one(`[name=${name}]`, cat);
  const names = ["category", "q", "sort"];

  function apply(cat, remember = true) {
    const words = field(cat, "q").value.toLowerCase().split(/\s+/).filter(Boolean);
    const kind = one("[name=cat]:checked", cat).value;
    const sort = field(cat, "sort").value;
    const rows = all("tbody tr", cat);
    rows.forEach((row, i) => { row.n ??= i; row.t ??= `${row.textContent} ${row.dataset.a || ""}`.toLowerCase(); });
    rows.forEach(row => { row.hidden = !!kind && row.dataset.c !== kind || words.some(w => !row.t.includes(w)); });
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
      const state = new URLSearchParams(Object.entries({ category: kind, q: words.join(" "), sort }).filter(p => p[1]));
      history.replaceState(history.state, "", location.pathname + location.search + (state.size ? "#" + state : ""));
      addressState(names);
    }
  }

  function restore() {                                   // a filtered catalogue has an address: #category=attention&sort=2:-1
    const cat = one(".cat");
    if (!cat) return;
    const state = addressState(names);
    field(cat, "q").value = state.get("q") || "";
    field(cat, "sort").value = state.get("sort") || "";
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
    if ("reset" in button.dataset) { field(cat, "q").value = ""; field(cat, "cat").checked = true; apply(cat); }
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

  // --- to take away: terms under a finger, answers on a sheet of their own ---
  addEventListener("click", e => {                       // the first tap shows what a term means, the second goes there
    const term = e.target.closest?.(".term"), open = one(".term.open");
    open?.classList.remove("open");
    if (!term || e.pointerType !== "touch" || term === open) return;
    e.preventDefault();
    e.stopPropagation();                                 // or the theme follows the link
    term.classList.add("open");
  }, true);
  addEventListener("beforeprint", () => {                // answers on a sheet at the end, which can be left out
    const answers = all(".exercises details");
    if (!answers.length || one(".answers")) return;
    const sheet = document.createElement("section"), head = document.createElement("h2");
    sheet.className = "answers";
    head.textContent = `Answers: ${one("h1").firstChild.textContent}`;
    sheet.append(head);
    for (const answer of answers) {
      let question = answer;
      while (question && !/^\d/.test(question.textContent)) question = question.previousElementSibling;
      const number = document.createElement("p");
      number.append(document.createElement("strong"));
      number.firstChild.textContent = parseInt(question?.textContent) + ".";
      const copy = answer.cloneNode(true);
      one("summary", copy).remove();
      all("[id]", copy).forEach(el => el.removeAttribute("id"));
      sheet.append(number, ...copy.childNodes);
    }
    one("article").append(sheet);
  });
  addEventListener("afterprint", () => one(".answers")?.remove());

  // --- figures with options: their script is fetched by the first page that has one ---
  const widgets = { src: new URL("widgets.js", document.currentScript.src).href };
  function figures() {
    if (widgets.asked || !one(".widget")) return;
    widgets.asked = document.head.appendChild(Object.assign(document.createElement("script"), { src: widgets.src }));
  }

  const start = () => { restore(); guess(); sortable(); figures(); };
  window.document$ ? document$.subscribe(start) : start();
})();

/* The page that compares networks: a table filtered by budget, two of its rows side by side, values of the plots' dots.
   The state is in the address: #q=resnet&params=30&a=modern/resnet resnet50. */
(() => {
  const one = (sel, root = document) => root.querySelector(sel);
  const all = (sel, root = document) => [...root.querySelectorAll(sel)];
  const fields = pick => all("input, select", pick);
  const names = pick => fields(pick).map(f => f.name);
  const on = (type, sel, act) => document.addEventListener(type, e => {
    const hit = e.target.closest?.(sel);
    if (hit) act(hit, e);
  });

  function apply(pick, remember = true) {
    const words = one("[name=q]", pick).value.toLowerCase().split(/\s+/).filter(Boolean);
    const budgets = all("[data-col]", pick).filter(f => f.value !== "" && f.validity.valid);
    const rows = all("tbody tr", one(".sorts", pick));
    for (const row of rows) {
      const text = `${row.cells[0].textContent} ${row.dataset.f} ${row.dataset.k}`.toLowerCase();
      row.hidden = words.some(w => !text.includes(w)) || budgets.some(f => {
        const v = row.cells[f.dataset.col].dataset.v;    // no value: not known to be within the budget
        return v === "" || +v > f.value * f.dataset.per;
      });
    }
    const shown = rows.filter(row => !row.hidden).length;
    one(".pick-count span", pick).textContent = shown;
    one(".pick-none", pick).hidden = shown > 0;
    pair(pick);
    if (!remember) return;
    const state = new URLSearchParams(fields(pick).map(f => [f.name, f.value.trim()]).filter(f => f[1]));
    history.replaceState(history.state, "", location.pathname + location.search + (state.size ? "#" + state : ""));
    addressState(names(pick));
  }

  function pair(pick) {                                  // a small table: what differs between two rows
    const place = one(".pick-pair", pick), table = one(".sorts", pick);
    const two = ["a", "b"].map(side => {
      const key = one(`[name=${side}]`, pick).value;
      return key && all("tbody tr", table).find(row => row.dataset.k === key);
    });
    place.replaceChildren();
    if (!two[0] || !two[1]) return;
    const out = place.appendChild(document.createElement("table")), [a, b] = two;
    out.className = "num";
    const add = (row, tag, text) => { row.appendChild(document.createElement(tag)).textContent = text; };
    const head = out.createTHead().insertRow(), body = out.createTBody();
    for (const text of ["", a.cells[0].textContent, b.cells[0].textContent, "Difference"]) add(head, "th", text);
    all("thead tr:last-child th", table).slice(1).forEach((th, n) => {
      const [x, y] = two.map(row => row.cells[n + 1]), row = body.insertRow();
      add(row, "th", th.textContent);
      for (const cell of [x, y]) add(row, "td", cell.textContent);
      const [v, w] = [x.dataset.v, y.dataset.v], numbers = v !== "" && w !== "" && !isNaN(v) && !isNaN(w);
      const minus = w - v < 0 ? "−" : "+";
      add(row, "td", !numbers ? "" : v === w ? "equal" : x.matches(".published")
        ? minus + Math.abs(w - v).toFixed(1) : `× ${(w / v).toPrecision(3)}`);
    });
    for (const th of all("thead th", out)) th.scope = "col";
    for (const th of all("tbody th", out)) th.scope = "row";
  }

  function restore() {
    const pick = one(".pick");
    if (!pick) return;
    const state = addressState(names(pick));
    for (const f of fields(pick)) f.value = state.get(f.name) || "";
    apply(pick, false);
  }

  on("input", ".pick-by, .pick-two", part => apply(part.closest(".pick")));
  on("click", "[data-clear]", button => {
    const pick = button.closest(".pick");
    for (const f of all(".pick-by input", pick)) f.value = "";
    apply(pick);
  });
  addEventListener("hashchange", restore);

  // plots: the dot nearest to the pointer, or in focus, says its values; the same network shows in the plot beside
  function tell(dot, figure) {
    hush();
    const svg = dot.ownerSVGElement;
    for (const title of all(".pt > title", svg)) {       // else the browser shows a second box
      title.parentNode.setAttribute("aria-label", title.textContent);
      title.remove();
    }
    const tip = figure.appendChild(document.createElement("div"));
    tip.className = "plot-tip";
    tip.setAttribute("aria-hidden", "true");             // the dot's name says the same
    tip.textContent = dot.getAttribute("aria-label");
    const at = dot.getBoundingClientRect(), box = figure.getBoundingClientRect();
    const x = at.left + at.width / 2 - box.left - tip.offsetWidth / 2;
    tip.style.left = Math.max(0, Math.min(x, box.width - tip.offsetWidth)) + "px";
    const above = at.top - box.top - tip.offsetHeight - 8;
    tip.style.top = (above < 0 ? at.bottom - box.top + 8 : above) + "px";
    for (const twin of all(".pt", figure.closest(".pair") || figure))
      if (twin.dataset.k === dot.dataset.k) twin.classList.add("on");
  }
  function hush() {
    for (const tip of all(".plot-tip")) tip.remove();
    for (const dot of all(".pt.on")) dot.classList.remove("on");
  }
  const middle = dot => { const r = dot.getBoundingClientRect(); return [r.left + r.width / 2, r.top + r.height / 2]; };
  function point(svg, e) {
    const far = dot => { const [x, y] = middle(dot); return Math.hypot(e.clientX - x, e.clientY - y); };
    const dot = all(".pt", svg).reduce((best, d) => far(d) < far(best) ? d : best);
    if (far(dot) > 28) hush();
    else if (!dot.matches(".on") || !one(".plot-tip", svg.parentNode)) tell(dot, svg.closest("figure"));
  }
  on("pointermove", "svg.scatter", point);
  on("pointerdown", "svg.scatter", point);
  document.addEventListener("pointerover", e => { if (one(".plot-tip") && !e.target.closest("figure")) hush(); });
  on("focusin", ".pt", dot => tell(dot, dot.closest("figure")));
  on("focusout", ".pt", hush);
  on("keydown", ".pt", (dot, e) => {                     // left and right by cost, up and down by accuracy
    if (e.key === "Escape") return hush();
    const at = d => { const [x, y] = middle(d); return "ArrowUp ArrowDown".includes(e.key) ? -y : x; };
    const dots = all(".pt", dot.ownerSVGElement).sort((p, q) => at(p) - at(q)), n = dots.indexOf(dot);
    const to = { ArrowLeft: n - 1, ArrowDown: n - 1, ArrowRight: n + 1, ArrowUp: n + 1, Home: 0, End: dots.length - 1 }[e.key];
    if (to === undefined) return;
    e.preventDefault();
    if (!dots[to]) return;
    dot.tabIndex = -1;
    dots[to].tabIndex = 0;
    dots[to].focus();
  });

  window.document$ ? document$.subscribe(restore) : restore();
})();
