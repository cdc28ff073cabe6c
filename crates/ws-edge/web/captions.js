// Captions as lines: each utterance once, its stable part apart from the rest, speakers by colour.
import { clock, h, t } from '/pages/page.js';

const colours = new Map();

/** The colour of a speaker: by the order in which they are met, the same all over a page. */
export function colour(id = '') {
  if (!colours.has(id)) colours.set(id, colours.size % 8);
  return `speaker-${colours.get(id)}`;
}

function textOf(caption) {
  const node = h('p', { className: 'text', dir: 'auto', lang: caption.language });
  if (caption.isFinal) {
    node.append(caption.text);
    return node;
  }
  // `stable` counts characters as people of Unicode do, not UTF-16 units.
  const characters = [...caption.text];
  node.append(h('span', { className: 'stable' }, characters.slice(0, caption.stable).join('')),
    h('span', { className: 'rest' }, characters.slice(caption.stable).join('')));
  return node;
}

/** An utterance as an element. */
export function line(caption, translations = caption.translations ?? {}) {
  const node = h('li', { className: `line ${colour(caption.speakerId)}${caption.isFinal ? '' : ' partial'}` });
  const who = h('div', { className: 'who' }, h('b', { dir: 'auto' }, caption.speaker ?? t('somebody')),
    h('time', { dateTime: new Date(caption.ts).toISOString() }, clock(caption.ts)));
  if (caption.revision) who.append(h('span', { className: 'tag' }, t('corrected')));
  if (caption.fallback) who.append(h('span', { className: 'tag' }, t('by_http')));
  node.append(who, textOf(caption));
  for (const [tag, text] of Object.entries(translations)) node.append(translation(tag, text));
  return node;
}

const translation = (tag, text) => h('p', { className: 'translation', dir: 'auto', lang: tag }, text);

/**
 * Finals in a log that scrolls, partials in a place of their own that never changes its size. Drawn once a frame,
 * however many come; the log keeps `most` lines on the page.
 */
export class CaptionView {
  constructor(log, live, { most = 500, idle = () => '', scroller = log } = {}) {
    Object.assign(this, { log, live, most, idle, scroller });
    this.list = log.querySelector('ol');
    this.lines = new Map();
    this.partials = new Map();
    this.coming = [];
    this.words = '';
  }

  partial(caption) {
    if (caption.text) this.partials.set(caption.utteranceId, caption);
    else this.partials.delete(caption.utteranceId);
    this.schedule();
  }

  final(caption) {
    this.partials.delete(caption.utteranceId);
    this.coming.push(caption);
    this.schedule();
  }

  translation({ utteranceId, language, text, error }) {
    const known = this.lines.get(utteranceId) ?? this.coming.find((caption) => caption.utteranceId === utteranceId);
    if (!known || error) return;
    const caption = known.caption ?? known;
    caption.translations = { ...caption.translations, [language]: text };
    if (known.node) known.node.append(translation(language, text));
  }

  /** What was being said is not known any more. */
  silence() {
    this.partials.clear();
    this.schedule();
  }

  /** Another session begins. */
  clear() {
    this.list.replaceChildren();
    this.lines.clear();
    this.coming = [];
    this.silence();
  }

  schedule() { this.frame ??= requestAnimationFrame(() => this.draw()); }

  draw() {
    this.frame = undefined;
    const { scroller } = this;
    const atEnd = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 60;
    for (const caption of this.coming) {
      const node = line(caption);
      const old = this.lines.get(caption.utteranceId);
      if (old) old.node.replaceWith(node);
      else this.list.append(node);
      this.lines.set(caption.utteranceId, { caption, node });
      this.sift(caption, node);
    }
    for (const [id, { node }] of this.lines) {
      if (this.lines.size <= this.most) break;
      node.remove();
      this.lines.delete(id);
    }
    if (this.coming.length && atEnd) scroller.scrollTop = scroller.scrollHeight;
    this.coming = [];
    // The newest few; somebody who never ends does not hide the others.
    const open = [...this.partials.values()].slice(-3).map((caption) => line(caption));
    this.live.replaceChildren(...(open.length ? open : [h('li', { className: 'waiting' }, this.idle())]));
  }

  /** Shows only lines with these words; how many those are. */
  search(words) {
    this.words = words.trim().toLocaleLowerCase();
    let found = 0;
    for (const { caption, node } of this.lines.values()) found += this.sift(caption, node);
    return found;
  }

  sift({ text, speaker = '', translations = {} }, node) {
    const all = [text, speaker, ...Object.values(translations)].join(' ').toLocaleLowerCase();
    node.hidden = !all.includes(this.words);
    const place = node.querySelector('.text');
    const at = this.words ? text.toLocaleLowerCase().indexOf(this.words) : -1;
    if (at < 0) place.replaceChildren(text);
    else place.replaceChildren(text.slice(0, at), h('mark', {}, text.slice(at, at + this.words.length)), text.slice(at + this.words.length));
    return !node.hidden;
  }

  /** What is shown, as plain text. */
  text() {
    return [...this.lines.values()].map(({ caption }) => `${caption.speaker ?? ''}: ${caption.text}`).join('\n');
  }
}
