/* Figures with options: the rates of a schedule, Mixup's share and its density. site.js fetches this file on the pages that
   have one. The page's still figure is drawn by cnn_site.directives.widgets with the same formulas and the same words;
   tests hold both to torch. Listeners are delegated, so instant navigation needs nothing more than a first drawing. */
(() => {
  const one = (sel, root = document) => root.querySelector(sel);
  const all = (sel, root = document) => [...root.querySelectorAll(sel)];
  const set = (el, values) => { for (const name in values) el.setAttribute(name, values[name]); };
  const short = x => x === Infinity ? "∞" : String(+x.toPrecision(3)).replace("-", "−");  // a line may break at a hyphen
  const [LEFT, WIDTH] = [56, 296];                       // of the plots, in units of the SVG

  // --- the rate of step t ---
  const annealed = (start, end, part) => end + (start - end) * (1 + Math.cos(Math.PI * part)) / 2;
  const rates = {
    cosine: (t, o) => annealed(o.lr, o.eta_min, t / o.T_max),
    restarts(t, o) {
      let length = o.T_0;
      while (t >= length) { t -= length; length *= o.T_mult; }
      return annealed(o.lr, o.eta_min, t / length);
    },
    step: (t, o) => o.lr * o.gamma ** Math.floor(t / o.step_size),
    warmup: (t, o) => t < o.warmup
      ? o.lr * (1 + (o.warmup - 1) * t / o.warmup) / o.warmup
      : annealed(o.lr, o.eta_min, (t - o.warmup) / (o.steps - o.warmup)),
    cycle(t, o) {
      const top = o.pct_start * o.steps - 1, first = o.lr / o.div_factor;
      return t <= top ? annealed(first, o.lr, t / top)
        : annealed(o.lr, first / o.final_div_factor, (t - top) / (o.steps - 1 - top));
    },
  };

  // --- the density of Beta(alpha, alpha) ---
  function lgamma(x) {                                   // Stirling's series, from 12 on right to 13 digits
    let less = 0;
    while (x < 12) less += Math.log(x++);
    const r = 1 / (x * x);
    return (x - .5) * Math.log(x) - x + Math.log(2 * Math.PI) / 2 + (1 / 12 - r * (1 / 360 - r * (1 / 1260 - r / 1680))) / x - less;
  }
  const beta = alpha => Math.exp(2 * lgamma(alpha) - lgamma(2 * alpha));
  const density = (alpha, share) => (share * (1 - share)) ** (alpha - 1) / beta(alpha);

  // --- draw ---
  function plot(w, points, at, top, bottom, x, y) {      // x and y from 0 to 1
    one(".curve", w).setAttribute("d", "M" + points.map(([x, y]) => `${x} ${-y}`).join("L"));
    const [px, py] = [LEFT + WIDTH * x, bottom - (bottom - top) * Math.min(y, 1)];
    set(one("circle", w), { cx: px, cy: py });
    one(".front", w).setAttribute("d", `M${px} ${top}V${bottom}`);
  }
  const draw = {
    schedule(w, o) {
      const curve = Array.from({ length: o.steps }, (_, t) => rates[o.kind](t, o));
      const most = Math.max(o.lr, o.eta_min) || 1, t = Math.min(o.t, o.steps - 1);
      one(".area", w).setAttribute("viewBox", `0 ${-most} ${o.steps} ${most}`);
      plot(w, curve.map((rate, t) => [t, rate]), t, 8, 168, t / o.steps, curve[t] / most);
      all(".y", w).forEach((text, n) => { text.textContent = short(most / (n + 1)); });
      all(".x", w).forEach((text, n) => { text.textContent = short(o.steps * (n + 1) / 2); });
      const line = one(`option[value=${o.kind}]`, w).dataset.line.replace(/\{(\w+)\}/g, (_, name) => o[name]);
      one("figcaption code", w).textContent = line;
      return [`Step ${t}: rate ${short(curve[t])}`, `Of ${o.steps} steps the first has a rate of ${short(curve[0])}, the last ` +
        `${short(curve[o.steps - 1])}; the largest rate is ${short(Math.max(...curve))}.`];
    },
    mixup(w, { share, alpha }) {
      const rest = +(1 - share).toFixed(2), here = density(alpha, share);
      const points = Array.from({ length: 119 }, (_, k) => (1 - Math.cos(Math.PI * (k + 1) / 120)) / 2);
      plot(w, points.map(x => [x, density(alpha, x)]), share, 124, 244, share, here / 4);
      one(".over", w).setAttribute("opacity", share);
      for (const [name, part] of [["a", share], ["b", rest]]) {
        const [times, value] = all(`text.${name}`, w);
        times.textContent = `${part} ×`;
        value.textContent = part;
        one(`rect.${name}`, w).setAttribute("width", 72 * part);
      }
      return [`λ = ${share}: ${share} of the 0 and ${rest} of the 1, in the image and in the label`,
        `α = ${alpha}: the density at this λ is ${short(here)}; on average the larger of the two shares is ` +
        `${short(.5 + .25 ** alpha / (alpha * beta(alpha)))}.`];
    },
  };

  // --- read the fields: as they are, or for print as they were ---
  const wrong = ({ step, validity: v }) =>               // fractions may be finer than a step of the arrow keys
    v.badInput || v.valueMissing || v.rangeUnderflow || v.rangeOverflow || v.stepMismatch && step === "1";
  function apply(w, print = false) {
    const fields = all("input, select", w), o = {};
    for (const f of fields) {
      const value = !print ? f.value : f.options ? [...f.options].find(option => option.defaultSelected).value : f.defaultValue;
      o[f.name] = f.options ? value : f.dataset.is ? +f.dataset.is.split(" ")[value] : +value;
    }
    for (const label of all("[data-of]", w)) label.hidden = !label.dataset.of.split(" ").includes(o.kind);
    const bad = fields.filter(f => !print && !f.closest("[hidden]") && wrong(f));
    for (const f of fields) f.setAttribute("aria-invalid", bad.includes(f));
    const [says, told] = bad.length ? [`${bad[0].name}: ${bad[0].validationMessage}`] : draw[w.dataset.widget](w, o);
    one("output", w).textContent = says;
    if (told) one(".told", w).textContent = told;
    if (print) return;
    const t = one("[name=t]", w), alpha = one("[name=alpha]", w);
    if (t && !bad.length) t.max = o.steps - 1;
    alpha?.setAttribute("aria-valuetext", o.alpha);
  }

  document.addEventListener("input", e => {
    const w = e.target.closest?.(".widget");
    if (w) apply(w);
  });
  const every = print => { for (const w of all(".widget")) apply(w, print); };
  addEventListener("beforeprint", () => every(true));
  addEventListener("afterprint", () => every(false));
  window.document$ ? document$.subscribe(() => every(false)) : every(false);
})();
