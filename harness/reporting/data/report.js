// SPDX-License-Identifier: Apache-2.0
"use strict";

const root = document.documentElement;
const drawer = document.getElementById("drawer");

// ---- colours ----

const themes = [...document.querySelectorAll("[data-theme]")];

function paint(theme) {
	root.style.colorScheme = theme || "light dark";
	for (const button of themes) button.ariaPressed = String(button.dataset.theme === theme);
	try {
		localStorage.setItem("kernel-matrix-theme", theme);
	} catch {
		// A page from a file, or a browser that keeps nothing: the choice lasts as long as the page.
	}
}

for (const button of themes) button.addEventListener("click", () => paint(button.dataset.theme));
try {
	paint(localStorage.getItem("kernel-matrix-theme") ?? "");
} catch {
	paint("");
}

// ---- evidence files: gzip in base64, unpacked when somebody looks ----

async function unpacked(id) {
	const packed = Uint8Array.from(atob(document.getElementById(id).textContent), (c) => c.charCodeAt(0));
	const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
	return new Response(stream).text();
}

function page(text) {
	const pre = document.createElement("pre");
	pre.tabIndex = 0;
	for (const line of text.split("\n")) {
		const span = document.createElement("span");
		if (line.trimStart().startsWith(";")) span.className = "src"; // C source in a verifier's log
		span.textContent = line + "\n";
		pre.append(span);
	}
	return pre;
}

async function toggle(button) {
	const item = button.closest("li");
	const shown = item.querySelector("pre");
	if (shown) {
		shown.remove();
	} else {
		const pre = page(await unpacked(button.dataset.file));
		pre.ariaLabel = item.querySelector(".file-title").textContent;
		item.append(pre);
	}
	button.ariaExpanded = String(!shown);
	button.firstChild.textContent = shown ? "show" : "hide";
}

document.addEventListener("click", (event) => {
	const button = event.target.closest("button.show");
	if (button) toggle(button);
});

// ---- cells open in a drawer; without script the links lead to the same below ----

// The table of relocations that differ, with this kernel's values marked.
function showMoved(place) {
	const moved = document.getElementById("moved");
	if (!moved) return;
	const table = moved.firstElementChild.cloneNode(true);
	for (const outcome of table.querySelectorAll(".outcome")) {
		if (!outcome.dataset.kernels.split(" ").includes(place.dataset.kernel)) continue;
		outcome.classList.add("here");
		outcome.prepend("→ ");
	}
	place.append(table);
}

function open(details) {
	const body = document.getElementById("drawer-body");
	const copy = details.cloneNode(true);
	for (const one of copy.querySelectorAll("[id]")) one.removeAttribute("id");
	copy.querySelector("summary").remove();
	body.replaceChildren(...copy.childNodes);
	for (const place of body.querySelectorAll(".moved-here")) showMoved(place);
	const title = details.querySelector("summary h3, summary h4").cloneNode(true);
	const heading = document.getElementById("drawer-title");
	heading.replaceChildren(...title.childNodes);
	if (details.dataset.title) heading.append(` on ${details.dataset.title.split(" · ")[0]}`);
	drawer.scrollTop = 0;
	if (!drawer.open) drawer.showModal();
}

function reveal(hash) {
	const target = hash.length > 1 ? document.getElementById(decodeURIComponent(hash.slice(1))) : null;
	for (let at = target; at; at = at.parentElement) if (at.tagName === "DETAILS") at.open = true;
	return target;
}

document.addEventListener("click", (event) => {
	const link = event.target.closest("a[data-open]");
	if (!link || event.ctrlKey || event.metaKey || event.shiftKey) return;
	const details = document.getElementById(decodeURIComponent(link.hash.slice(1)));
	if (!details) return;
	event.preventDefault();
	open(details);
});
document.getElementById("drawer-close").addEventListener("click", () => drawer.close());
drawer.addEventListener("click", (event) => {
	const link = event.target.closest("a[href^='#']");
	if (event.target === drawer || link) drawer.close();
});
window.addEventListener("hashchange", () => reveal(location.hash)?.scrollIntoView());
if (reveal(location.hash)) document.getElementById(decodeURIComponent(location.hash.slice(1))).scrollIntoView();

// ---- filters ----

const form = document.querySelector("form.filters");
const rows = [...document.querySelectorAll(".matrix tbody tr")];

function filter() {
	const data = new FormData(form);
	const verdicts = new Set(data.getAll("verdict"));
	const cause = data.get("cause");
	const series = data.get("series");
	let shown = 0;
	for (const row of rows) {
		const causes = row.dataset.causes.split(" ");
		row.hidden =
			!verdicts.has(row.dataset.verdict) ||
			(cause !== "" && !causes.includes(cause)) ||
			(series !== "" && row.dataset.series !== series);
		document.getElementById(row.dataset.kernel).hidden = row.hidden;
		for (const cell of row.querySelectorAll("a.c")) {
			cell.classList.toggle("found", cause !== "" && cell.dataset.cause === cause);
		}
		shown += row.hidden ? 0 : 1;
	}
	form.querySelector("output").textContent = `${shown} of ${rows.length} kernels`;
	arrange();
}

if (form) {
	form.addEventListener("submit", (event) => event.preventDefault());
	form.addEventListener("change", filter);
	form.addEventListener("reset", () => setTimeout(filter));
}

// ---- one stop for Tab in the matrix, arrow keys within ----

const grid = () => rows.filter((row) => !row.hidden).map((row) => [...row.querySelectorAll("a")]);

function arrange() {
	for (const row of rows) for (const link of row.querySelectorAll("a")) link.tabIndex = -1;
	const first = grid()[0]?.[0];
	if (first) first.tabIndex = 0;
}

const STEPS = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

document.querySelector(".matrix")?.addEventListener("keydown", (event) => {
	const step = STEPS[event.key];
	const link = event.target.closest("tbody a");
	if (!step || !link) return;
	const lines = grid();
	const y = lines.findIndex((line) => line.includes(link));
	const next = lines[y + step[0]]?.[lines[y].indexOf(link) + step[1]];
	event.preventDefault();
	if (!next) return;
	link.tabIndex = -1;
	next.tabIndex = 0;
	next.focus();
});

if (rows.length) arrange();
