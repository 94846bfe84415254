"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const PAGE = 50, RANK = { block: 0, review: 1, undecided: 2, allow: 3 };
  const state = { decision: null, category: null, error: null, words: "", sort: "concern", page: 0, open: null };
  const byId = (id) => document.getElementById(id);

  // Everything is built with createElement and text nodes: no text of the data is ever parsed as HTML.
  function el(tag, attributes, ...children) {
    const svg = ["svg", "path", "line", "rect", "circle", "text", "g", "polyline"].includes(tag);
    const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
      if (value === null || value === undefined || value === false) continue;
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else node.setAttribute(name, value === true ? "" : String(value));
    }
    for (const child of children.flat(Infinity)) if (child !== null && child !== undefined) node.append(child);
    return node;
  }

  // Characters that hide or reorder others are shown as what they are.
  const HIDDEN = /[\p{Cc}\p{Cf}\u2028\u2029]/gu;
  function visible(text) {
    const parts = [];
    let end = 0;
    for (const match of text.matchAll(HIDDEN)) {
      parts.push(text.slice(end, match.index));
      parts.push(el("span", { class: "escaped" }, "\\u{" + match[0].codePointAt(0).toString(16) + "}"));
      end = match.index + match[0].length;
    }
    parts.push(text.slice(end));
    return el("bdi", null, parts);
  }

  const nameOf = (category) => data.names[category] || category;
  const seconds = (value) => value === null || value === undefined ? "" : value.toFixed(value < 10 ? 2 : 1) + " s";
  function clock(value) {
    if (value === null || value === undefined) return "";
    if (value < 60) return value.toFixed(1) + " s";
    const whole = Math.round(value), h = Math.floor(whole / 3600), m = Math.floor(whole / 60) % 60, s = whole % 60;
    return (h ? h + ":" + String(m).padStart(2, "0") : m) + ":" + String(s).padStart(2, "0");
  }
  const pct = (value) => value === null ? "–" : value.toFixed(value > 0 && value < 0.01 ? 3 : 2);

  function matches(row) {
    if (state.decision && row.d !== state.decision) return false;
    if (state.category && !row.c.some((c) => c[0] === state.category && c[2])) return false;
    if (state.error && !(row.e && row.e[0] === state.error)) return false;
    if (!state.words) return true;
    const text = (row.s + " " + row.r + " " + (row.h || "") + " " + (row.e ? row.e[0] : "")).toLowerCase();
    return state.words.split(/\s+/).every((word) => text.includes(word));
  }
  const top = (row) => {
    const judged = row.c.filter((c) => c[1] !== null), flagged = judged.filter((c) => c[2]);
    return (flagged.length ? flagged : judged).reduce((best, c) => (!best || c[1] > best[1] ? c : best), null);
  };
  const score = (row) => { const best = top(row); return best ? best[1] : -1; };
  const ORDER = {
    concern: (a, b) => RANK[a.d] - RANK[b.d] || score(b) - score(a) || a.i - b.i,
    order: (a, b) => a.i - b.i,
    name: (a, b) => (a.s < b.s ? -1 : a.s > b.s ? 1 : a.i - b.i),
    score: (a, b) => score(b) - score(a) || a.i - b.i,
    length: (a, b) => (b.l || 0) - (a.l || 0) || a.i - b.i,
  };

  function draw() {
    const found = data.rows.filter(matches).sort(ORDER[state.sort]);
    const pages = Math.max(1, Math.ceil(found.length / PAGE));
    state.page = Math.min(state.page, pages - 1);
    const first = state.page * PAGE, shown = found.slice(first, first + PAGE);
    byId("rows").replaceChildren(...(shown.length ? shown.map(item) : [el("li", { class: "empty" }, data.rows.length ? "Nothing matches these filters." : "The scan had no inputs.")]));
    byId("shown").textContent = found.length === data.rows.length ? data.rows.length.toLocaleString("en") + (data.rows.length === 1 ? " input" : " inputs") : found.length.toLocaleString("en") + " of " + data.rows.length.toLocaleString("en");
    byId("reset").hidden = !(state.decision || state.category || state.error || state.words);
    const go = (step) => () => { state.page += step; draw(); byId("list").scrollIntoView(); };
    byId("pages").replaceChildren(...(pages < 2 ? [] : [
      el("button", { type: "button", onclick: go(-1), disabled: state.page === 0 }, "Previous"),
      el("span", null, "Page " + (state.page + 1) + " of " + pages),
      el("button", { type: "button", onclick: go(1), disabled: state.page === pages - 1 }, "Next"),
    ]));
    for (const key of ["decision", "category", "error"])
      for (const button of document.querySelectorAll("[data-" + key + "]"))
        button.setAttribute("aria-pressed", String(state[key] === button.dataset[key]));
  }

  const pill = (decision) => el("span", { class: "pill " + decision }, el("span", { class: "mark", "aria-hidden": "true" }), decision);
  function fileName(source) {
    const cut = source.lastIndexOf("/") + 1;
    return el("span", { class: "name" }, cut ? el("span", { class: "dir" }, visible(source.slice(0, cut))) : null, el("span", { class: "file" }, visible(source.slice(cut))));
  }
  function meter(row) {
    const best = top(row);
    if (row.e && row.d === "undecided") return el("span", { class: "top" }, el("code", { class: "what" }, row.e[0]));
    if (!best) return el("span", { class: "top" }, el("span", { class: "what" }, "not scored"));
    return el("span", { class: "top " + row.d },
      el("span", { class: "what" }, nameOf(best[0])), el("span", { class: "number" }, pct(best[1])),
      el("svg", { class: "meter", viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" },
        el("rect", { class: "back", width: 100, height: 4 }), el("rect", { class: "front", width: best[1] * 100, height: 4 }),
        best[3] !== null && best[3] <= 1 ? el("rect", { class: "bar-mark", x: best[3] * 100 - 0.5, width: 1, height: 4 }) : null));
  }

  function item(row) {
    const id = "detail-" + row.i;
    const name = fileName(row.s);
    name.title = row.s.replace(HIDDEN, (c) => "\\u{" + c.codePointAt(0).toString(16) + "}");
    if (row.dup !== null) name.append(el("span", { class: "tag" }, "duplicate"));
    const button = el("button", { type: "button", class: "row", "aria-expanded": "false", "aria-controls": id },
      pill(row.d), name, meter(row), el("span", { class: "length" }, clock(row.l)), el("span", { class: "chevron", "aria-hidden": "true" }, "›"));
    const li = el("li", null, button);
    const toggle = () => {
      const open = button.getAttribute("aria-expanded") === "true";
      button.setAttribute("aria-expanded", String(!open));
      if (open) li.lastChild.remove();
      else { li.append(detail(row, id)); state.open = row.i; }
    };
    button.addEventListener("click", toggle);
    return li;
  }

  function detail(row, id) {
    const box = el("div", { class: "detail", id });
    if (row.e) box.append(el("div", { class: "callout " + (row.d === "undecided" ? "undecided" : "review") },
      el("p", null, el("code", null, row.e[0]), " ", visible(row.e[1])), row.e[2] ? el("p", { class: "hint" }, row.e[2]) : null));
    if (!(row.e && row.r.includes(row.e[1]) && row.d === "undecided" && row.r.startsWith("Not judged"))) box.append(el("p", { class: "why" }, visible(row.r)));
    if (row.dup !== null) box.append(el("p", { class: "why" }, "Same content as ", el("code", null, visible(row.dup)), ", judged once."));
    if (row.t) box.append(plot(row));
    if (row.p.length) box.append(thumbs(row));
    const parts = el("div", { class: "split" });
    if (row.c.length) parts.append(rules(row));
    if (row.g.length) parts.append(segments(row));
    if (row.j) parts.append(judgement(row.j));
    parts.append(facts(row));
    box.append(parts);
    return box;
  }

  function table(title, heads, rows) {
    return el("div", { class: "scroll" }, el("h3", null, title), el("table", null,
      el("thead", null, el("tr", null, heads.map((h) => el("th", { scope: "col", class: h[1] }, h[0])))),
      el("tbody", null, rows.map((cells) => el("tr", null, cells.map((cell, k) => el("td", { class: heads[k][1] }, cell)))))));
  }
  const rules = (row) => table("Rules", [["Category"], ["Score", "n"], ["Block at", "n"], ["Judged by"], ["Finding"]],
    [...row.c].sort((a, b) => b[2] - a[2] || (b[1] ?? -1) - (a[1] ?? -1)).map((c) => [nameOf(c[0]), c[1] === null ? "–" : pct(c[1]), c[3] === null ? "–" : c[3] > 1 ? "never" : pct(c[3]),
      { fast: "fast path", slow: "slow path", none: "not settled" }[c[4]], c[2] ? "violates" : c[4] === "none" ? "open" : "clear"]));
  const segments = (row) => table("Segments", [["Category"], ["From", "n"], ["To", "n"], ["Peak at", "n"], ["Peak", "n"]],
    row.g.map((g) => [nameOf(g[2]), clock(g[0]), clock(g[1]), clock(g[3]), pct(g[4])]));
  const judgement = (j) => el("div", null, el("h3", null, "Slow path"),
    j.reason ? el("p", null, visible(j.reason)) : null,
    el("dl", null, el("dt", null, "engine"), el("dd", null, visible(j.engine)), el("dt", null, "status"), el("dd", null, j.status),
      j.checks.map((c) => [el("dt", null, nameOf(c[0])), el("dd", null, c[1] + (c[2].length ? " at " + c[2].map(clock).join(", ") : ""), c[3] ? [". ", visible(c[3])] : null)])),
    j.seen.length ? el("ul", null, j.seen.map((o) => el("li", null, clock(o[0]) + "–" + clock(o[1]) + ": ", visible(o[2])))) : null);
  function facts(row) {
    const pairs = [["media", row.m], ["route", row.o], ["coverage", row.v.length ? row.v : null], ["SHA-256", row.h ? el("code", null, row.h) : null], ["input", "number " + (row.i + 1)]];
    return el("div", null, el("h3", null, "Facts"), el("dl", null, pairs.filter((p) => p[1]).map((p) => [el("dt", null, p[0]), (Array.isArray(p[1]) ? p[1] : [p[1]]).map((value) => el("dd", null, value))])));
  }
  const thumbs = (row) => el("div", { class: "thumbs" }, row.p.map((p) => el("figure", null,
    el("button", { type: "button", "aria-label": "Frame at " + clock(p[0]) + ", blurred; focus to see it" }, el("img", { src: p[2], alt: "", loading: "lazy" })),
    el("figcaption", null, nameOf(p[1]) + ", " + clock(p[0])))));

  function plot(row) {
    const colour = (k) => "k" + Math.min(k, 5);
    const box = el("div", { class: "plot" }), legend = el("div", { class: "legend" }), readout = el("span", { class: "readout" });
    let focus = 0, at = null;
    const paint = () => {
      const width = Math.max(260, box.clientWidth || 900), height = 190, left = 30, right = width - 6, bottom = height - 22, topY = 8;
      const times = row.t, last = Math.max(row.l || 0, times[times.length - 1], 0.001);
      const x = (t) => left + (right - left) * Math.min(1, t / last), y = (v) => bottom - (bottom - topY) * v;
      const svg = el("svg", { width, height, viewBox: "0 0 " + width + " " + height, role: "img", tabindex: "0",
        "aria-label": "Score over time. " + row.u.map((s) => nameOf(s[0]) + " peaks at " + pct(Math.max(...s[1]) / 1000)).join("; ") + ". Arrow keys move the reading line." });
      for (const v of [0, 0.5, 1]) svg.append(el("line", { class: "axis", x1: left, x2: right, y1: y(v), y2: y(v) }), el("text", { x: left - 6, y: y(v) + 4, "text-anchor": "end" }, v === 0.5 ? "0.5" : String(v)));
      const steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200], step = steps.find((s) => last / s <= width / 90) || 14400;
      for (let t = 0; t <= last + 1e-9; t += step) svg.append(el("text", { x: x(t), y: height - 6, "text-anchor": t === 0 ? "start" : x(t) > right - 20 ? "end" : "middle" }, last < 60 ? +t.toFixed(1) + " s" : t < 60 ? "0:" + String(Math.round(t)).padStart(2, "0") : clock(t)));
      const chosen = row.u[focus], bounds = row.b[chosen[0]], labels = [];
      const busy = row.g.some((g) => g[2] === chosen[0] && x(g[3]) > right - 100);  // a peak where the labels would stand
      row.u.forEach((s, k) => row.g.filter((g) => g[2] === s[0]).forEach((g) => {
        const from = x(g[0]), wide = Math.max(3, x(g[1]) - from);
        if (k === focus) svg.append(el("rect", { class: "seg " + colour(k), x: from, y: topY, width: wide, height: bottom - topY }));
        svg.append(el("rect", { class: "segbar " + colour(k), x: from, y: bottom + 1, width: wide, height: 4, rx: 1 }));
      }));
      if (bounds) for (const [kind, value, label] of [["clear-below", bounds[0], "clear below "], ["block-at", bounds[1], "block at "]])
        if (value <= 1) {
          svg.append(el("line", { class: "bound " + kind, x1: left, x2: right, y1: y(value), y2: y(value) }));
          labels.push(el("text", { class: kind, x: busy ? left + 4 : right, y: value > 0.5 ? y(value) + 13 : y(value) - 4, "text-anchor": busy ? "start" : "end" }, label + pct(value)));
        }
      const order = row.u.map((_, k) => k).sort((a, b) => (a === focus) - (b === focus));
      for (const k of order) {
        const points = row.u[k][1].map((v, n) => x(times[n]).toFixed(1) + "," + y(v / 1000).toFixed(1));
        svg.append(points.length > 1 ? el("polyline", { class: "series " + colour(k) + (k === focus ? "" : " dim"), points: points.join(" ") })
          : el("circle", { class: "dot " + colour(k), cx: points[0].split(",")[0], cy: points[0].split(",")[1], r: 4 }));
      }
      svg.append(...labels);  // after the curves, which would run through them
      row.g.filter((g) => g[2] === chosen[0]).forEach((g) => svg.append(el("circle", { class: "peak " + colour(focus), cx: x(g[3]), cy: y(g[4]), r: 4.5 })));
      const cross = el("line", { class: "cross", y1: topY, y2: bottom, visibility: "hidden" });
      svg.append(cross);
      const read = (n) => {
        at = Math.max(0, Math.min(times.length - 1, n));
        cross.setAttribute("x1", x(times[at])); cross.setAttribute("x2", x(times[at])); cross.setAttribute("visibility", "visible");
        readout.textContent = "at " + clock(times[at]) + ": " + nameOf(chosen[0]) + " " + pct(chosen[1][at] / 1000);
      };
      svg.addEventListener("pointermove", (event) => {
        const t = (event.clientX - svg.getBoundingClientRect().left - left) / (right - left) * last;
        let best = 0;
        times.forEach((value, n) => { if (Math.abs(value - t) < Math.abs(times[best] - t)) best = n; });
        read(best);
      });
      svg.addEventListener("keydown", (event) => {
        if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
        event.preventDefault();
        read((at === null ? -1 : at) + (event.key === "ArrowRight" ? 1 : -1));
      });
      legend.replaceChildren(...row.u.map((s, k) => el("button", { type: "button", class: colour(k), "aria-pressed": String(k === focus), onclick: () => { focus = k; readout.textContent = ""; paint(); legend.children[k].focus(); } },
        el("span", { class: "swatch" }), nameOf(s[0]))), readout);
      box.replaceChildren(svg, legend);
    };
    let seen = 0;
    new ResizeObserver(() => { if (box.clientWidth !== seen) { seen = box.clientWidth; paint(); } }).observe(box);
    paint();
    return box;
  }

  for (const key of ["decision", "category", "error"])
    for (const button of document.querySelectorAll("[data-" + key + "]"))
      button.addEventListener("click", () => { state[key] = state[key] === button.dataset[key] ? null : button.dataset[key]; state.page = 0; draw(); });
  byId("search").addEventListener("input", (event) => { state.words = event.target.value.trim().toLowerCase(); state.page = 0; draw(); });
  byId("sort").addEventListener("change", (event) => { state.sort = event.target.value; state.page = 0; draw(); });
  byId("reset").addEventListener("click", () => { Object.assign(state, { decision: null, category: null, error: null, words: "", page: 0 }); byId("search").value = ""; draw(); byId("search").focus(); });
  document.querySelector(".controls").addEventListener("submit", (event) => event.preventDefault());
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && !["INPUT", "SELECT"].includes(document.activeElement.tagName)) { event.preventDefault(); byId("search").focus(); }
  });
  draw();
  const first = document.querySelector("#rows .row");
  if (first && data.rows.some((row) => row.d !== "allow")) first.click();
})();
