/* The worker of the search: the theme's own (lunr) with what it leaves out around it. It loads the theme's file, which the
   address names behind #, and search/pages.js (other names and the sentence of every page) when the index comes; words are
   stemmed, corrected by one letter, split and joined; a page counts by how much of the question it answers. */
(() => {
  const [QUERY, RESULT] = [2, 3];                        // the theme's messages: 0 index, 1 ready, 2 query, 3 result
  const here = new URL(self.document?.currentScript.src ?? location.href);
  const post = self.postMessage.bind(self);
  let index, entries, words, passing = false;

  addEventListener("message", async event => {           // stands before the theme's listener
    if (passing) return;
    event.stopImmediatePropagation();
    let { type, data } = event.data;
    if (!index) {
      await importScripts(new URL("javascripts/workers/" + here.hash.slice(1), here).href, new URL("../search/pages.js", here).href);
      patch(self.lunr);
      prepare(data.docs);
    } else if (type === QUERY) {
      words = /(^|\s)[-+]|[*:^~"]/.test(data) ? undefined : understood(data);  // lunr's own signs are left to lunr
      if (words) data = words.map(w => w.terms.join(" ")).join(" ");
    }
    passing = true;
    dispatchEvent(new MessageEvent("message", { data: { type, data } }));
    passing = false;
  });
  self.postMessage = message => {
    if (message.type === RESULT) message.data.items = shown(message.data.items);
    post(message);
  };

  function patch({ Builder, Index, Query }) {
    const { build } = Builder.prototype, { search } = Index.prototype;
    Builder.prototype.build = function () { return index = build.call(this); };
    Index.prototype.search = function (text) {
      return words ? this.query(query => {
        for (const term of words.flatMap(w => w.terms)) {
          query.term(term, { boost: 10, usePipeline: false });
          if (term.length > 2) query.term(term, { wildcard: Query.wildcard.TRAILING, usePipeline: false });
        }
      }) : search.call(this, text);
    };
  }

  /* what is indexed: the page's other names, its sentence, public names of its code (searched, not shown); no code */
  const sizes = text => text.replace(/(\d) ?[x×] ?(?=\d)/g, "$1×");   // 3x3, 3 x 3 and 3 × 3 are one word
  function prepare(docs) {
    entries = docs.length;
    for (const doc of docs) {
      const page = self.pages[doc.location];
      doc.text = sizes(doc.text)
        .replace(/<p><sup><sub>([^<]*)<\/sub><\/sup><\/p>/, (_, names) => { doc.names = names; return ""; })
        .replace(/(In\s\[\s\]: Copied! )?<pre>[^]*?<\/pre>/g, "");    // of a notebook
      if (page) [doc.aliases, doc.about] = [sizes(page.aliases), page.about];
      else delete doc.tags;                              // the page's, not each section's
    }
  }

  const stem = word => self.lunr.stemmer(new self.lunr.Token(word)).toString();
  const like = (term, set) => index.tokenSet.intersect(set).toArray();
  const spread = term => Object.values(index.invertedIndex[term] ?? {}).reduce((n, docs) => n + Object.keys(docs).length, 0);

  /* the words that count, each with its terms of the index */
  function understood(text) {
    const { lunr } = self;
    const typed = sizes(text.toLowerCase()).split(lunr.tokenizer.separator).filter(Boolean);
    const telling = typed.filter(word => lunr.stopWordFilter(word));
    const found = (telling.length ? telling : typed).flatMap(word => {
      const term = stem(word);
      if (spread(term) || like(term, lunr.TokenSet.fromString(term + "*")).length) return { typed: word, terms: [term] };
      const near = word.length > 4 ? like(term, lunr.TokenSet.fromFuzzyString(term, 1)) : [];
      near.sort((a, b) => spread(b) - spread(a));
      if (near.length) return { typed: word, terms: [near[0]] };
      for (let i = word.length - 3; i > 2; i--) {        // finetune: fine, tune
        const parts = [word.slice(0, i), word.slice(i)];
        if (parts.every(part => spread(stem(part)))) return parts.map(part => ({ typed: part, terms: [stem(part)] }));
      }
      return { typed: word, terms: [term] };
    });
    for (const word of found) {                          // resnet50: resnet too
      const [, name] = word.typed.match(/^([a-z]{3,}?)v?\d+$/) ?? [];
      if (name && spread(stem(name))) word.terms.push(stem(name));
    }
    found.slice(1).forEach((word, i) => {                // depth wise: depthwise
      const joined = stem(found[i].typed + word.typed);
      if (spread(joined)) [found[i], word].forEach(w => w.terms.push(joined));
    });
    return found;
  }

  /* the pages by how much of the question they answer; of each its title, its sentence and the best hit */
  function shown(groups) {
    if (words) {
      const weight = words.map(w => Math.log(1 + entries / (1 + Math.max(...w.terms.map(spread)))));
      const total = weight.reduce((sum, w) => sum + w, 0);
      const score = new Map(groups.map(items => {
        const terms = Object.fromEntries(words.map(({ typed, terms }) => {
          const found = terms.find(term => items.some(item => item.terms[term]));
          return [found ?? typed, !!found];
        }));
        const share = words.reduce((sum, w, i) => sum + (w.terms.some(term => terms[term]) ? weight[i] : 0), 0) / total;
        const best = Math.max(...items.map(item => item.score));
        for (const item of items) item.terms = terms;    // what the page lacks, not each section
        return [items, best * share ** 2];
      }));
      groups.sort((a, b) => score.get(b) - score.get(a));
    }
    for (const items of groups) {
      const page = items.findIndex(item => !item.location.includes("#"));
      for (const item of items) {
        if (item.about) item.title += ` <small>${item.about}</small>`;
        item.text = hit(item.text, item === items[page]);
        delete item.tags;
      }
      const first = items.findIndex(item => item.text.includes("<mark"));
      if (!page && first > 0) items.unshift(...items.splice(first, 1));   // the theme shows the section that stands first
    }
    return groups;
  }

  function hit(text, page) {                             // some words around the first one that was searched
    const parts = text.replace(/<(?!\/?mark)[^>]*>/g, " ").split(/(<mark.*?<\/mark>)/);
    if (parts.length < 3) return page ? "" : cut(parts[0], 140);
    const before = parts[0].length > 60 ? "… " + parts[0].slice(-60).replace(/^\S*\s/, "") : parts[0];
    let room = 160, after = "";
    for (const part of parts.slice(2)) {
      if (room <= 0) break;
      after += part.startsWith("<mark") ? part : cut(part, room);
      room -= part.length;
    }
    return before + parts[1] + after;
  }
  const cut = (text, n) => text.length > n ? text.slice(0, n).replace(/\s\S*$/, "") + " …" : text;
})();
