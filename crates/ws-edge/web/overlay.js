// Captions over video, for days: what is kept is the last few utterances, and every loss of the connection is mended.
import { Session } from '/parley.js';
import { asked, devTokens, h, isDev, sessionOfPath, tokens } from '/pages/page.js';

/** More than these are never shown, whatever is asked for. */
const LINES_MAX = 6;
const UTTERANCES = 4;

// English, Russian and Arabic; as stems, so that their endings are found, too.
const BAD = /(?<![\p{L}])(?:f+u+c+k|motherf|shit|bitch|cunt|asshole|bastard|dickhead|bullshit|ху[йеёяю]|п[ие]зд|[её]б[аиоулн]|бля[дт]?|муда[кч]|сук[аиу](?![\p{L}])|كس(?![\p{L}])|شرموط|عاهر|خرا(?![\p{L}])|زب(?![\p{L}]))[\p{L}]*/giu;

const number = (name, least, most, otherwise) => {
  const value = Number.parseFloat(asked(name) ?? '');
  return Number.isFinite(value) ? Math.min(most, Math.max(least, value)) : otherwise;
};
const safe = (name, pattern) => (pattern.test(asked(name) ?? '') ? asked(name) : undefined);

const box = document.querySelector('#captions');
const { style } = document.documentElement;
style.setProperty('--size', `${number('size', 10, 300, 52)}px`);
style.setProperty('--lines', Math.round(number('lines', 1, LINES_MAX, 2)));
const font = safe('font', /^[\p{L}\p{N} ,'-]{1,80}$/u);
if (font) style.setProperty('--font', `${font.split(',').map((name) => `"${name.trim().replaceAll("'", '')}"`).join(', ')}, system-ui, sans-serif`);
const hex = /^#?[0-9a-f]{3,8}$/i;
for (const name of ['color', 'background']) {
  const value = safe(name, hex);
  if (value) style.setProperty(`--${name}`, `#${value.replace('#', '')}`);
}
document.body.dataset.position = safe('position', /^(top|middle|bottom)$/) ?? 'bottom';
document.body.dataset.align = safe('align', /^(center|start)$/) ?? 'center';
const wanted = asked('language');
const delayMs = number('delay', 0, 60, 0) * 1000;
const hideMs = number('hide', 0, 600, 8) * 1000;
const clean = asked('clean') === '1';
const speakers = asked('speakers') === '1';

/** Utterances that are shown, the oldest first: id → caption. */
const shown = new Map();
let frame;
let hiding;

function say(caption) {
  const known = shown.get(caption.utteranceId);
  // A correction of what has gone is for readers.
  if (caption.revision && !known) return;
  if (!caption.text) shown.delete(caption.utteranceId);
  // A partial that was on its way for longer than its final does not take its place.
  else if (caption.isFinal || !known?.isFinal) shown.set(caption.utteranceId, caption);
  for (const id of shown.keys()) if (shown.size > UTTERANCES) shown.delete(id);
  frame ??= requestAnimationFrame(draw);
  clearTimeout(hiding);
  if (hideMs) hiding = setTimeout(() => { shown.clear(); draw(); }, hideMs);
}

function draw() {
  frame = undefined;
  let last;
  const lines = [...shown.values()].map(({ text, speaker, speakerId, language }) => {
    const line = h('p', { dir: 'auto', lang: language });
    const span = h('span');
    if (speakers && speaker && speakerId !== last) span.append(h('b', {}, `${speaker}: `));
    last = speakerId;
    span.append(clean ? text.replace(BAD, (word) => word[0] + '*'.repeat(word.length - 1)) : text);
    line.append(span);
    return line;
  });
  box.replaceChildren(...lines);
}

const later = (act) => (message) => (delayMs ? setTimeout(() => act(message), delayMs) : act(message));

function follow(token) {
  const session = new Session({ token, partials: !wanted });
  if (!wanted) session.on('partial', later(say));
  session.on('final', later((caption) => {
    if (!wanted || caption.language === wanted) say(caption);
    else if (caption.translations?.[wanted]) say({ ...caption, text: caption.translations[wanted], language: wanted });
  }));
  session.on('translation', later((told) => {
    if (told.language === wanted && told.text) say({ ...told, isFinal: true });
  }));
  // Nobody who watches the stream should read it; OBS's log shows it.
  session.on('state', (state) => { document.documentElement.dataset.state = state; });
  session.on('error', (error) => {
    document.documentElement.dataset.state = 'failed';
    console.warn(`Parley: ${error.name}: ${error.message}`);
    shown.clear();
    draw();
  });
  session.open().catch(() => { /* Told above. */ });
}

/** The builder's preview: words that everybody knows, in the language of the captions. */
function rehearse() {
  const words = ('The captions of your stream appear here, two lines at a time, while people speak. ' +
    'They stay readable over bright and dark pictures, and go away when nobody says anything.').split(' ');
  let count = 3;
  const step = () => {
    const done = count > words.length;
    say({ utteranceId: 'preview', text: words.slice(0, count).join(' '), isFinal: done, speaker: 'Ada', speakerId: 'ada', language: 'en' });
    count = done ? 3 : count + 2;
  };
  for (let i = 0; i < 6; i++) step();
  if (!matchMedia('(prefers-reduced-motion: reduce)').matches) setInterval(step, 500);
}

if (asked('preview') === '1') rehearse();
else if (tokens.session) follow(tokens.session);
else if (await isDev()) follow(async () => (await devTokens(sessionOfPath, { identity: 'overlay', scope: 'follow' })).token);
else document.documentElement.dataset.state = 'failed';
document.documentElement.dataset.ready = '';
