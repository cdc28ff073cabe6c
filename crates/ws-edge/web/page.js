// What every page needs: its language, tokens kept out of addresses, signing in, a little DOM.
import { TEXTS } from '/pages/texts.js';

export const LANGUAGES = { en: 'English', ru: 'Русский', ar: 'العربية' };

const address = new URL(location.href);
const hash = new URLSearchParams(location.hash.slice(1));

/** A word of the address, from its query or its fragment. */
export const asked = (name) => address.searchParams.get(name) ?? hash.get(name) ?? undefined;

/** The address of this page without what was taken out of it. */
const here = () => address.pathname + address.search + (hash.size ? `#${hash}` : '');

// ---- language ----

const wanted = [asked('lang'), stored('lang'), ...navigator.languages].map((tag) => tag?.slice(0, 2).toLowerCase());
export const language = wanted.find((tag) => tag && tag in LANGUAGES) ?? 'en';
const column = Object.keys(LANGUAGES).indexOf(language);

/** The text of a key, with `{0}`, `{1}` … filled in. */
export function t(key, ...values) {
  const text = TEXTS[key]?.[column] ?? TEXTS[key]?.[0] ?? key;
  return text.replace(/\{(\d)\}/g, (_, index) => values[index] ?? '');
}

function translate() {
  document.documentElement.lang = language;
  document.documentElement.dir = language === 'ar' ? 'rtl' : 'ltr';
  for (const node of document.querySelectorAll('[data-t]')) node.textContent = t(node.dataset.t);
  for (const name of ['placeholder', 'aria-label', 'title']) {
    for (const node of document.querySelectorAll(`[data-t-${name}]`)) node.setAttribute(name, t(node.getAttribute(`data-t-${name}`)));
  }
  const choice = document.querySelector('#language-choice');
  if (!choice) return;
  for (const [tag, name] of Object.entries(LANGUAGES)) choice.append(h('option', { value: tag, lang: tag, selected: tag === language }, name));
  choice.addEventListener('change', () => {
    store('lang', choice.value);
    // What the address says would win over what was chosen.
    address.searchParams.delete('lang');
    hash.delete('lang');
    history.replaceState(null, '', here());
    location.reload();
  });
}

// ---- what this browser remembers: the language for ever, tokens for this tab ----

function stored(name) {
  try { return localStorage.getItem(`parley.${name}`) ?? undefined; } catch { return undefined; }
}
export function store(name, value) {
  try { localStorage.setItem(`parley.${name}`, value); } catch { /* Private windows may forbid it. */ }
}
function ofTab(name, value) {
  try {
    if (value === undefined) return sessionStorage.getItem(`parley.${name}`) ?? undefined;
    sessionStorage.setItem(`parley.${name}`, value);
  } catch { /* As above: then it lasts as long as the page. */ }
  return value;
}

/** The session that the path names (`/transcript/demo`). */
export const sessionOfPath = (() => {
  const part = location.pathname.split('/')[2];
  try { return part ? decodeURIComponent(part) : undefined; } catch { return undefined; }
})();

/** Tokens: `session` and `user`. Taken from the address, and out of it before anything else happens. */
export const tokens = (() => {
  const place = `${location.pathname}:`;
  const [session, user] = [asked('token'), asked('userToken')];
  if (session) ofTab(`${place}token`, session);
  if (user) ofTab(`${place}userToken`, user);
  for (const name of ['token', 'userToken']) {
    address.searchParams.delete(name);
    hash.delete(name);
  }
  if (session || user) history.replaceState(null, '', here());
  return {
    session: session ?? ofTab(`${place}token`),
    user: user ?? ofTab(`${place}userToken`),
    keep(next) {
      Object.assign(this, next);
      if (next.session) ofTab(`${place}token`, next.session);
      if (next.user) ofTab(`${place}userToken`, next.user);
    },
  };
})();

/** Who this tab is when nobody says otherwise. */
export const guest = () => ofTab('guest') ?? ofTab('guest', `guest-${Math.random().toString(36).slice(2, 8)}`);

const isHere = ['localhost', '127.0.0.1', '[::1]'].includes(location.hostname);

/** Whether this server gives tokens to whoever sits at it: `make run` does. */
export async function isDev() {
  if (!isHere) return false;
  try { return (await fetch('/api/dev/token')).ok; } catch { return false; }
}

/** Tokens of `make run`; `{token, userToken}`. */
export async function devTokens(session, { identity = guest(), scope } = {}) {
  const headers = { 'Content-Type': 'application/json' };
  const answer = await fetch('/api/dev/token', { method: 'POST', headers, body: JSON.stringify({ session, identity, scope }) });
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error ?? `HTTP ${answer.status}`);
  return answer.json();
}

// ---- DOM ----

export const $ = (selector) => document.querySelector(selector);

/** An element. Texts are texts: nothing that was said becomes markup. */
export function h(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === false) continue;
    if (key.startsWith('on')) node.addEventListener(key.slice(2), value);
    else if (key in node && key !== 'lang' && typeof value !== 'string') node[key] = value;
    else node.setAttribute(key === 'className' ? 'class' : key, value === true ? '' : value);
  }
  node.append(...children.filter((child) => child !== undefined && child !== null));
  return node;
}

export const clock = (ms) => new Date(ms).toLocaleTimeString(language, { hour: '2-digit', minute: '2-digit', second: '2-digit' });

function download(name, text, type = 'text/plain') {
  const link = h('a', { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

/** Hands over the stored transcript of a session, in the format that is chosen on the page. */
export async function downloadTranscript(session, name) {
  const format = $('#format').value;
  const text = await session.transcript({ format });
  download(`${name}.${format}`, format === 'json' ? JSON.stringify(text, null, 2) : text);
}

/** Copies, and says so on the button for a moment. */
export async function copy(text, button) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without https there is no clipboard but the old one.
    const area = h('textarea', { className: 'unseen' });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand('copy');
    area.remove();
  }
  button.dataset.label ??= button.textContent;
  button.textContent = t('copied');
  setTimeout(() => { button.textContent = button.dataset.label; }, 1500);
}

/** What an error of parley.js is called here. */
export function explain(error) {
  const key = `error_${error.code}`;
  return TEXTS[key] ? t(key) : t('error_other', error.message);
}

translate();
