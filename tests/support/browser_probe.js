// Looks at the page in each frame, and leaves what it saw as JSON in #seen, by the frames' names.
function rgb(colour) {
  const context = (rgb.context ??= document.createElement("canvas").getContext("2d", { willReadFrequently: true }));
  context.clearRect(0, 0, 1, 1);
  context.fillStyle = colour;
  context.fillRect(0, 0, 1, 1);
  return [...context.getImageData(0, 0, 1, 1).data];
}

function luminance(colour) {
  const linear = colour.slice(0, 3).map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
  return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
}

function background(element, view) {
  for (let at = element; at; at = at.parentElement) {
    const colour = rgb(view.getComputedStyle(at).backgroundColor);
    if (colour[3] > 250) return colour;
  }
  return [255, 255, 255, 255];
}

// WCAG's contrast of an element's text with what lies behind it, 1..21.
function contrast(element, view) {
  const style = view.getComputedStyle(element);
  const ink = element.closest("svg") ? style.fill : style.color;
  const [dim, bright] = [luminance(rgb(ink)), luminance(background(element, view))].sort((a, b) => a - b);
  return (bright + 0.05) / (dim + 0.05);
}

function name(element) {
  return `${element.tagName.toLowerCase()}.${element.getAttribute("class") ?? ""}: ${element.textContent.trim().slice(0, 40)}`;
}

function look(frame) {
  const page = frame.contentDocument;
  const view = frame.contentWindow;
  page.querySelectorAll("details").forEach((one) => (one.open = true));
  const all = [...page.body.querySelectorAll("*")];
  const width = page.documentElement.clientWidth;
  const withText = all.filter((one) => [...one.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()));
  const seenText = withText.filter((one) => one.getClientRects().length && !one.closest(".heard, .skip, title, style"));
  const levels = [...page.querySelectorAll("h1, h2, h3")].map((one) => Number(one.tagName[1]));
  const seen = document.getElementById("seen");
  const found = JSON.parse(seen.textContent || "{}");
  found[frame.id] = {
    width,
    scroll_width: page.documentElement.scrollWidth,
    wider: all.filter((one) => !one.closest(".scroll, svg, .skip, .heard") && one.getBoundingClientRect().right > width + 1).map(name),
    faint: seenText.map((one) => [name(one), contrast(one, view)]).filter(([, ratio]) => ratio < 4.5),
    texts: seenText.length,
    dark: luminance(background(page.body, view)) < 0.1,
    unnamed: [...page.querySelectorAll("table")].filter((one) => !one.caption?.textContent.trim()).map(name),
    headless: [...page.querySelectorAll("th")].filter((one) => !one.textContent.trim() || !one.scope).map(name),
    silent: [...page.querySelectorAll("img, svg")].filter((one) => !(one.alt || one.getAttribute("aria-label"))).map(name),
    broken: [...page.querySelectorAll("img")].filter((one) => !one.naturalWidth).map(name),
    landmarks: ["header", "nav", "main", "footer"].map((one) => page.querySelectorAll(`body > ${one}, body > * > ${one}`).length),
    unreached: [...page.querySelectorAll(".scroll")].filter((one) => one.tabIndex !== 0).map(name),
    skipped: levels.filter((level, at) => level > (levels[at - 1] ?? 0) + 1),
    resources: view.performance.getEntriesByType("resource").map((one) => one.name).filter((one) => !one.startsWith("data:")),
  };
  seen.textContent = JSON.stringify(found);
}
