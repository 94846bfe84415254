"use strict";
// The pages work without this file. It adds keys, seeking, marks, and what is remembered of how content is shown.
(() => {
  const root = document.documentElement, byId = (id) => document.getElementById(id), token = root.dataset.csrf;
  const say = (text) => { byId("said").textContent = text; };
  const post = (url, fields) => fetch(url, { method: "POST", body: new URLSearchParams({ csrf: token, ...fields }), credentials: "same-origin", redirect: "manual" });
  const keys = {};
  const clock = (t) => t < 60 ? t.toFixed(1) + " s" : Math.floor(t / 60) + ":" + String(Math.floor(t % 60)).padStart(2, "0");

  // How content is shown: at once here, and remembered for the next page and the next session.
  const video = byId("video");
  for (const button of document.querySelectorAll("[data-preference]"))
    button.addEventListener("click", () => {
      const name = button.dataset.preference, on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(on));
      root.dataset[name] = on ? "on" : "off";
      if (name === "mute" && video) video.muted = on;
      say(button.textContent + (on ? " on" : " off"));
      post("/review/preferences", { name, value: on ? "on" : "off" }).catch(() => say("Not remembered: the server does not answer."));
    });

  if (video) player(video);
  function player(video) {
    const strips = byId("strips"), at = byId("at"), play = byId("play");
    const length = () => Number.isFinite(video.duration) && video.duration > 0 ? video.duration : Number(strips ? strips.dataset.duration : 0);
    const moments = [...document.querySelectorAll(".marks [data-at]")].map((b) => Number(b.dataset.at));
    const seek = (t) => {
      video.currentTime = Math.max(0, Math.min(t, Math.max(0, length() - 0.05)));
      show(video.currentTime);
      say("at " + clock(video.currentTime));
    };
    const show = (t) => {
      at.textContent = clock(t) + " of " + clock(length());
      const x = String(1000 * t / Math.max(0.001, Number(strips ? strips.dataset.duration : 1)));
      for (const line of document.querySelectorAll(".strip .now")) { line.setAttribute("x1", x); line.setAttribute("x2", x); }
    };
    video.muted = root.dataset.mute === "on";
    video.addEventListener("timeupdate", () => show(video.currentTime));
    video.addEventListener("loadedmetadata", () => show(video.currentTime));
    video.addEventListener("error", () => { byId("unplayable").hidden = false; });
    for (const [name, label] of [["play", "Pause"], ["pause", "Play"]]) video.addEventListener(name, () => { play.textContent = label; });
    const toggle = () => { if (video.paused) video.play().catch(() => {}); else video.pause(); };
    play.addEventListener("click", toggle);
    byId("speed").addEventListener("change", (event) => { video.playbackRate = Number(event.target.value); });
    for (const button of document.querySelectorAll("[data-seek]")) button.addEventListener("click", () => seek(video.currentTime + Number(button.dataset.seek)));
    for (const button of document.querySelectorAll("[data-at]")) button.addEventListener("click", () => seek(Number(button.dataset.at)));
    for (const strip of document.querySelectorAll(".strip svg"))
      strip.addEventListener("click", (event) => {
        const box = strip.getBoundingClientRect();
        seek((event.clientX - box.left) / box.width * Number(strips.dataset.duration));
      });
    const mark = (step) => {
      const now = video.currentTime, later = moments.filter((t) => t > now + 0.06), before = moments.filter((t) => t < now - 0.06);
      const to = step > 0 ? later[0] : before[before.length - 1];
      if (to !== undefined) seek(to);
    };
    Object.assign(keys, {
      " ": toggle, ArrowLeft: (e) => seek(video.currentTime - (e.shiftKey ? 5 : 1)), ArrowRight: (e) => seek(video.currentTime + (e.shiftKey ? 5 : 1)),
      "[": () => mark(-1), "]": () => mark(1),
    });
  }

  // A decision: one key chooses, Enter confirms. In a text, Ctrl + Enter does.
  const form = byId("decide"), opened = performance.now();
  if (form) {
    form.addEventListener("submit", () => {
      byId("seconds_spent").value = ((performance.now() - opened) / 1000).toFixed(1);
      byId("confirm").disabled = true;
    });
    form.addEventListener("keydown", (event) => {
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); form.requestSubmit(); }
    });
    form.addEventListener("change", () => {
      const chosen = form.querySelector("[name=decision]:checked");
      byId("reason").required = Boolean(chosen) && chosen.value === "extend";
    });
  }
  window.addEventListener("pageshow", () => { if (form) byId("confirm").disabled = false; });

  // A claim is held while the page is looked at.
  const claim = byId("claim");
  if (claim) setInterval(() => {
    if (document.visibilityState !== "visible") return;
    post(claim.dataset.renew, {}).then((answer) => {
      if (answer.status !== 204) { say("This item is not yours any more."); byId("until").textContent = "not yours any more"; return; }
      const until = new Date(Date.now() + 600000);
      byId("until").textContent = until.toISOString().slice(11, 16) + " UTC";
    }).catch(() => {});
  }, 240000);

  // Single keys act only outside of fields, without modifiers, and where they are switched on.
  function typing(target) {
    return target.closest("textarea, select, input:not([type=radio]):not([type=checkbox]), [contenteditable]") !== null;
  }
  document.addEventListener("keydown", (event) => {
    if (root.dataset.keys !== "on" || event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented || typing(event.target)) return;
    const held = event.target.closest("button, a, summary, video, input");
    if (held && [" ", "Enter"].includes(event.key)) return;
    if (held && held.matches("video, [type=radio]") && event.key.startsWith("Arrow")) return;
    const preference = { v: "blur", g: "grey", m: "mute" }[event.key];
    const button = preference ? document.querySelector('[data-preference="' + preference + '"]') : document.querySelector('[data-key="' + CSS.escape(event.key) + '"]');
    if (keys[event.key]) { event.preventDefault(); keys[event.key](event); return; }
    if (!button || button.disabled) return;
    event.preventDefault();
    if (button.matches("[type=radio]")) {
      button.checked = true;
      button.dispatchEvent(new Event("change", { bubbles: true }));
      say(button.value + " chosen; Enter confirms");
      (button.value === "extend" ? byId("reason") : byId("confirm")).focus();
    } else button.click();
  });
})();
