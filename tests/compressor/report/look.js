// Writes what the browser laid out into an element with the id "seen", for a test to read.
document.querySelectorAll("details").forEach((element) => { element.open = true; });

const box = (element) => element.getBoundingClientRect();
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });

function rgba(color) {
  canvas.clearRect(0, 0, 1, 1);
  canvas.fillStyle = color;
  canvas.fillRect(0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data];
}

function luminance([red, green, blue]) {
  const [r, g, b] = [red, green, blue].map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

function contrast(one, other) {
  const [low, high] = [luminance(one), luminance(other)].sort((a, b) => a - b);
  return (high + 0.05) / (low + 0.05);
}

function background(element) {
  for (let at = element; at; at = at.parentElement) {
    const color = rgba(getComputedStyle(at).backgroundColor);
    if (color[3] > 250) return color;
  }
  return rgba("white");
}

function seenChart(svg) {
  const frame = box(svg);
  const texts = [...svg.querySelectorAll("text")].filter((text) => text.textContent.trim());
  const boxes = texts.map((text) => [text.textContent, box(text)]);
  const clipped = boxes.filter(([, b]) => b.left < frame.left - 1 || b.right > frame.right + 1 || b.top < frame.top - 1 || b.bottom > frame.bottom + 1);
  const overlaps = [];
  boxes.forEach(([name, a], i) => boxes.slice(i + 1).forEach(([other, b]) => {
    const width = Math.min(a.right, b.right) - Math.max(a.left, b.left);
    const height = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
    if (width > 1.5 && height > 3) overlaps.push([name, other]);
  }));
  return {
    name: svg.dataset.chart, width: frame.width, height: frame.height, texts: texts.length,
    smallest_text: Math.min(...boxes.map(([, b]) => b.height)),
    marks: svg.querySelectorAll("path, use").length, clipped: clipped.map(([name]) => name), overlaps,
  };
}

function seenTable(table) {
  const rows = [...table.querySelectorAll("tbody tr")].map((row) => ({
    candidate: row.dataset.candidate ?? null, width: box(row).width, height: box(row).height, text: row.textContent,
  }));
  return { top: box(table).top, rows };
}

// how far the first cell of a row moves when what is around it is scrolled to its end
function seenScrolled(element) {
  const first = element.querySelector('tbody th[scope="row"]:first-child');
  const before = first && box(first).left;
  element.scrollLeft = element.scrollWidth;
  const kept = first && Math.abs(box(first).left - before);
  element.scrollLeft = 0;
  return {
    name: element.getAttribute("aria-label") ?? element.textContent.trim().slice(0, 60),
    hidden: element.scrollWidth - element.clientWidth, kept,
    hint: getComputedStyle(element, "::before").display === "none" ? "" : getComputedStyle(element, "::before").content,
  };
}

const texts = [...document.querySelectorAll("body *")].filter(
  (element) => box(element).width && !["SCRIPT", "STYLE"].includes(element.tagName)
    && [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.trim()));
const faintTexts = texts.filter((element) => {
  const style = getComputedStyle(element);
  return contrast(rgba(element instanceof SVGElement ? style.fill : style.color), background(element.closest("svg")?.parentElement ?? element)) < 4.5;
});

// a mark is seen when its outline or its filling stands out; the lines of an axis are meant to be faint
const marks = [...document.querySelectorAll("svg[role=img] path")].filter(
  (element) => element.closest("g[id*=patch_], g[id*=LineCollection], g[id*=line2d]") && !element.closest("g[id*=matplotlib\\.axis], defs, clipPath"));
const faintMarks = marks.filter((element) => {
  const { fill, stroke } = getComputedStyle(element);
  const colors = [fill, stroke].filter((color) => color !== "none" && !color.startsWith("url")).map(rgba).filter((color) => color[3] > 0);
  return colors.length && colors.every((color) => contrast(color, background(element.closest("svg").parentElement)) < 3);
});

const seen = {
  charts: [...document.querySelectorAll("svg[role=img]")].map(seenChart),
  tables: [...document.querySelectorAll("table")].map(seenTable),
  scrolled: [...document.querySelectorAll(".scroll, .chart")].map(seenScrolled),
  first_section_top: box(document.querySelector("h2")).top,
  background_luminance: luminance(background(document.body)),
  page_width: document.documentElement.scrollWidth,
  window_width: window.innerWidth,
  texts_checked: texts.length,
  faint_texts: faintTexts.map((element) => element.textContent.slice(0, 60)),
  marks_checked: marks.length,
  faint_marks: faintMarks.map((element) => `${element.closest("svg").dataset.chart}: ${element.closest("g").id}`),
};
const pre = document.createElement("pre");
pre.id = "seen";
pre.textContent = JSON.stringify(seen);
document.body.append(pre);
