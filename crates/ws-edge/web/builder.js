// Builds the address of an overlay, with a preview.
import { claims } from '/parley.js';
import { $, asked, copy, devTokens, isDev, t, tokens } from '/pages/page.js';

const form = $('#fields');
const usual = Object.fromEntries(new FormData(form));
let dev = false;
let made;

async function token() {
  const { session, token: pasted } = Object.fromEntries(new FormData(form));
  if (pasted) return pasted.trim();
  if (tokens.session) return tokens.session;
  if (!dev || !session) return undefined;
  if (made?.session !== session) made = { session, ...await devTokens(session, { identity: 'overlay', scope: 'follow' }) };
  return made.token;
}

function look() {
  const values = Object.fromEntries(new FormData(form));
  const query = new URLSearchParams();
  for (const name of ['size', 'lines', 'font', 'position', 'align', 'language', 'delay', 'hide', 'color']) {
    if (values[name] && values[name] !== usual[name]) query.set(name, values[name].replace(/^#/, ''));
  }
  if (values.background !== usual.background || values.opacity !== usual.opacity) {
    query.set('background', values.background.slice(1) + Math.round(values.opacity * 2.55).toString(16).padStart(2, '0'));
  }
  for (const name of ['speakers', 'clean']) if (values[name]) query.set(name, '1');
  return query;
}

async function build() {
  const query = look();
  const shown = new URLSearchParams(query);
  shown.set('preview', '1');
  const preview = `/overlay/preview?${shown}`;
  if ($('#preview').getAttribute('src') !== preview) $('#preview').setAttribute('src', preview);
  const text = await token().catch(() => undefined);
  const said = claims(text ?? '');
  const session = said.sessionSlug ?? form.elements.session.value;
  const words = query.toString();
  $('#address').value = `${location.origin}/overlay/${encodeURIComponent(session)}${words && `?${words}`}${text ? `#token=${text}` : ''}`;
  const warn = !text ? 'overlay_no_token' : said.scope !== 'follow' ? 'overlay_not_read_only' : undefined;
  $('#hint').textContent = warn ? t(warn) : t('overlay_until', said.exp ? new Date(said.exp * 1000).toLocaleString(document.documentElement.lang) : '–');
  $('#hint').dataset.kind = warn ? 'warn' : '';
}

function fit() {
  $('#preview').style.transform = `scale(${$('#stage').clientWidth / 1920})`;
}

let soon;
form.addEventListener('input', () => {
  clearTimeout(soon);
  soon = setTimeout(build, 250);
});
form.addEventListener('submit', (event) => event.preventDefault());
$('#copy').addEventListener('click', ({ target }) => copy($('#address').value, target));
new ResizeObserver(fit).observe($('#stage'));
fit();

dev = await isDev();
if (asked('session')) form.elements.session.value = asked('session');
await build();
document.documentElement.dataset.ready = '';
