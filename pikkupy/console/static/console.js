// What needs JavaScript: copying, and the keyboard. Everything else works without.
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
  if (event.key === "/") document.getElementById("q").focus();
  else if (event.key === "j" && links.length) links[Math.min(at + 1, links.length - 1)].focus();
  else if (event.key === "k" && links.length) links[Math.max(at - 1, 0)].focus();
  else return;
  event.preventDefault();
});
