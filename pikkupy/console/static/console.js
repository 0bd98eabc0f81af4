// What needs JavaScript: copying, the keyboard, now that moves on, and word of a lost connection. Everything else works without.
"use strict";

// A text becomes HTML nowhere but in htmx, of what the server has sent. It begins when this has run.
if (globalThis.trustedTypes) {
  const policy = trustedTypes.createPolicy("console", { createHTML: (text) => text });
  htmx.registerExtension("trusted", { init: (inside) => inside.initSecurity(policy) });
}

if (navigator.clipboard) document.documentElement.classList.add("copies"); // browsers have it over TLS and on this machine

document.addEventListener("click", async (event) => {
  const button = event.target.closest?.("button.copy");
  if (!button) return;
  const { whole } = button.dataset; // where what is too long for a page is
  try {
    const answer = whole && await fetch(whole);
    if (answer && !answer.ok) throw new Error(`${whole}: ${answer.status}`);
    await navigator.clipboard.writeText(answer ? await answer.text() : button.previousElementSibling.textContent);
    button.firstChild.textContent = "copied";
  } catch {
    button.firstChild.textContent = "not copied";
  }
  setTimeout(() => { button.firstChild.textContent = "copy"; }, 1500);
});

let before = null; // the search: where one goes back to
document.addEventListener("keydown", (event) => {
  const search = document.getElementById("q");
  if (event.key === "Escape" && event.target === search && before?.isConnected) before.focus();
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select")) return;
  const links = [...document.querySelectorAll("td.id a")];
  const at = links.indexOf(document.activeElement);
  if (event.key === "/") [before] = [document.activeElement, search.select()];
  else if (event.key === "j" && links.length) links[Math.min(at + 1, links.length - 1)].focus();
  else if (event.key === "k" && links.length) links[Math.max(at - 1, 0)].focus();
  else return;
  event.preventDefault();
});

// Who is in already needs no token: it is not kept where it could be seen.
function forgetToken() {
  if (location.hash.startsWith("#token=")) history.replaceState(null, "", location.pathname + location.search);
}
addEventListener("hashchange", forgetToken);
forgetToken();

// What is shown grows old while nothing comes; it is said until something does.
const lost = document.getElementById("lost");
const WHY_LOST = { 401: "You are logged out: load the page anew.", 429: "Too many live pages are open: what is shown may be old." };
function sayLost(status) {
  lost.textContent = WHY_LOST[status] ?? "The connection is lost: what is shown may be old.";
  lost.hidden = false;
}

// The extension mends a connection that there was. If there was none yet, it is asked for again here, less and less often.
const SOONEST_MS = 2000, LATEST_MS = 60000;
let tries = 0;
let loggedOut = false; // then asking again is of no use
document.addEventListener("htmx:sse:error", (event) => {
  sayLost(event.detail.status);
  loggedOut = event.detail.status === 401;
});
document.addEventListener("htmx:sse:before:connection", (event) => { event.detail.connection.cancelled = loggedOut; });
document.addEventListener("htmx:sse:after:connection", () => { lost.hidden = true; tries = 0; });
function notConnected(event) {
  if (!event.target.matches?.("[data-live]")) return;
  const { status } = event.detail.ctx?.response ?? {};
  sayLost(status);
  if (status === 401) return;
  const wait = Math.min(SOONEST_MS * 2 ** tries++, LATEST_MS) * (0.7 + 0.3 * Math.random()); // not all tabs at once
  setTimeout(() => event.target.dispatchEvent(new Event("again")), wait);
}
document.addEventListener("htmx:response:error", notConnected);
document.addEventListener("htmx:error", notConnected);

// A tab that is hidden from the beginning does not ask before somebody looks.
let unseen = null;
document.addEventListener("htmx:before:request", (event) => {
  if (!document.hidden || !event.target.matches("[data-live]")) return;
  event.preventDefault();
  unseen = event.target;
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden || !unseen) return;
  unseen.dispatchEvent(new Event("again"));
  unseen = null;
});

// Now moves on by itself, and with it what is under way: the server sends a run anew only if something of it has changed.
const UNITS = [[86400, "d", 3600, "h"], [3600, "h", 60, "min"], [60, "min", 1, "s"]];
function lasted(seconds) { // as the server writes it
  for (const [size, large, part, small] of UNITS) {
    if (seconds < size) continue;
    const rest = Math.floor(seconds % size / part);
    return `${Math.floor(seconds / size).toLocaleString("en")} ${large}${rest ? ` ${rest} ${small}` : ""}`;
  }
  return `${seconds.toFixed(1)} s`;
}

let drawing = ""; // that was seen last
let drawnAt = 0; // when it came, by the clock of this page
function moveOn() {
  const timeline = document.querySelector(".timeline[data-at]");
  if (!timeline) return;
  const { at, now, pace, end } = timeline.dataset;
  if (at !== drawing) [drawing, drawnAt] = [at, performance.now()];
  const further = pace * (performance.now() - drawnAt) / 1000;
  const reached = +now + further; // beyond the end the past is pressed together
  const share = Math.min(1, end / reached);
  for (const bar of timeline.querySelectorAll("[data-x]")) {
    const width = +bar.dataset.width + ("goesOn" in bar.dataset ? further : 0);
    bar.setAttribute("x", share * bar.dataset.x);
    bar.setAttribute("width", Math.max(2, share * width));
  }
  const line = timeline.querySelector(".now");
  for (const name of ["x1", "x2"]) line.setAttribute(name, share * reached);
  const word = timeline.querySelector(".says-now"); // moves with it, until it would stand on the last one
  word?.setAttribute("x", `${reached / end * 100}%`);
  word?.classList.toggle("over", reached > 0.9 * end);
  if (reached > +end) timeline.querySelector(".length").textContent = `now, +${lasted(reached / pace)}`;
}
setInterval(moveOn, 1000);
document.addEventListener("htmx:after:swap", moveOn);
moveOn();
