// What needs JavaScript: copying, the keyboard, and word of a lost connection. Everything else works without.
"use strict";

if (navigator.clipboard) document.documentElement.classList.add("copies"); // browsers have it over TLS and on this machine

document.addEventListener("click", async (event) => {
  const button = event.target.closest?.("button.copy");
  if (!button) return;
  const { whole } = button.dataset; // where what is too long for a page is
  const text = whole ? await (await fetch(whole)).text() : button.previousElementSibling.textContent;
  await navigator.clipboard.writeText(text);
  button.firstChild.textContent = "copied";
  setTimeout(() => { button.firstChild.textContent = "copy"; }, 1500);
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, textarea, select")) return;
  const links = [...document.querySelectorAll("td.id a")];
  const at = links.indexOf(document.activeElement);
  if (event.key === "/") document.getElementById("q").select();
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
document.addEventListener("htmx:sse:error", (event) => {
  const out = event.detail.status === 401;
  lost.textContent = out ? "You are logged out: load the page anew." : "The connection is lost: what is shown may be old.";
  lost.hidden = false;
});
document.addEventListener("htmx:sse:after:connection", () => { lost.hidden = true; });
