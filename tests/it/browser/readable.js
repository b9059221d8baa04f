// Returns what is hard to read or unlabelled in the page: contrast below 4.5 (WCAG 1.4.3), fields and buttons without
// a name (4.1.2), ids given twice, headings that skip a level, and content wider than the screen (1.4.10).
function faults() {
  const found = [];
  const numbers = (color) => color.match(/[\d.]+/g).map(Number);
  const linear = (part) => (part /= 255) <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
  const luminance = ([r, g, b]) => 0.2126 * linear(r) + 0.7152 * linear(g) + 0.0722 * linear(b);
  const background = (element) => {
    for (; element; element = element.parentElement) {
      const color = numbers(getComputedStyle(element).backgroundColor);
      if (color.length === 3 || color[3] === 1) return color;
    }
    return matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18] : [255, 255, 255];
  };
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const elements = new Set(document.querySelectorAll("textarea, select"));
  while (texts.nextNode()) if (texts.currentNode.textContent.trim()) elements.add(texts.currentNode.parentElement);
  for (const element of elements) {
    if (!element.checkVisibility() || element.closest("option, script")) continue;
    const [one, two] = [numbers(getComputedStyle(element).color), background(element)].map(luminance);
    const contrast = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
    if (contrast < 4.5) found.push(`contrast ${contrast.toFixed(2)}: ${element.textContent.trim().slice(0, 40)}`);
  }
  for (const field of document.querySelectorAll("button, select, textarea, input, a, [role], dl")) {
    const named = field.labels?.length || field.getAttribute("aria-label") || field.textContent.trim();
    const labelled = document.getElementById(field.getAttribute("aria-labelledby"));
    if (!named && !labelled) found.push(`no name: ${field.outerHTML.slice(0, 60)}`);
    const small = field.matches("button, select") && field.checkVisibility() && field.getBoundingClientRect().height < 44;
    if (small) found.push(`lower than 44 px: ${field.textContent}`);
  }
  const ids = [...document.querySelectorAll("[id]")].map((element) => element.id);
  found.push(...ids.filter((id, index) => ids.indexOf(id) !== index).map((id) => `id twice: ${id}`));
  const levels = [...document.querySelectorAll("h1, h2, h3")].map((heading) => Number(heading.tagName[1]));
  levels.reduce((before, level) => (level > before + 1 && found.push(`heading ${level} after ${before}`), level), 0);
  if (document.documentElement.scrollWidth > innerWidth) found.push("wider than the screen");
  return found;
}
