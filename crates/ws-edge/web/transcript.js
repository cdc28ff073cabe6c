// A session to read: what is stored first, then live while it is live.
import { Session, claims } from '/parley.js';
import { $, asked, copy, devTokens, downloadTranscript, explain, isDev, sessionOfPath, t, tokens } from '/pages/page.js';
import { CaptionView } from '/pages/captions.js';

/** Lines on the page; the newest stay. Files have all of them. */
const LINES_MAX = 20000;

let session;
let slug;
let link;
const view = new CaptionView($('#log'), $('#live'), { most: LINES_MAX, scroller: document.scrollingElement,
  idle: () => t(session?.state === 'open' ? 'waiting_for_words' : `state_${session?.state ?? 'idle'}`) });

async function read(token) {
  const first = typeof token === 'string' ? token : await token();
  const { sessionSlug, scope } = claims(first);
  slug = sessionSlug ?? sessionOfPath;
  // Only what lets others read and nothing else is for passing on.
  $('#share').hidden = scope !== 'follow';
  link = `${location.origin}/transcript/${encodeURIComponent(slug)}#token=${encodeURIComponent(first)}`;
  $('#sign-in').hidden = true;
  $('#reading').hidden = false;
  $('#name').textContent = slug;
  document.title = `${slug} · Parley`;
  session = new Session({ token, session: slug });
  session.on('state', state);
  session.on('error', trouble);
  session.on('disconnected', () => view.silence());
  // The socket first, so that nothing is said between what is stored and what is live; what is stored is shown first.
  let early = [];
  const show = (act) => (told) => (early ? early.push(() => act(told)) : act(told));
  session.on('partial', (caption) => view.partial(caption));
  session.on('final', show((caption) => { view.final(caption); counted(); }));
  session.on('translation', show((told) => view.translation(told)));
  await session.open();
  try {
    const { segments } = await session.transcript();
    // What was there already is not read aloud.
    $('#log').setAttribute('aria-live', 'off');
    for (const segment of segments) view.final({ ...segment, isFinal: true });
    view.draw();
    requestAnimationFrame(() => $('#log').setAttribute('aria-live', 'polite'));
  } catch (error) {
    told(error);
  } finally {
    // What is live goes on, whatever became of what is stored.
    for (const act of early.splice(0)) act();
    early = undefined;
    counted();
  }
}

function state(now) {
  $('#state').dataset.state = now;
  $('#state').textContent = t(now === 'open' ? 'state_following' : `state_${now}`);
  view.schedule();
}

function counted() {
  $('#log-empty').hidden = view.lines.size + view.coming.length > 0;
}

function told(error) {
  $('#trouble').hidden = false;
  $('#trouble').textContent = explain(error);
}

function trouble(error) {
  told(error);
  state('failed');
  if (error.name === 'TokenError') ask(explain(error));
}

function ask(hint = '') {
  $('#sign-in').hidden = false;
  $('#sign-in-hint').textContent = hint;
  $('#sign-in-hint').dataset.kind = hint ? 'bad' : '';
}

$('#sign-in').addEventListener('submit', (event) => {
  event.preventDefault();
  const token = $('#token').value.trim();
  const name = $('#session').value.trim();
  session?.close();
  $('#trouble').hidden = true;
  if (token) {
    tokens.keep({ session: token });
    read(token).catch(trouble);
  } else if (dev) location.assign(`/transcript/${encodeURIComponent(name)}`);
  else ask(t('error_unauthenticated'));
});
$('#search').addEventListener('input', ({ target }) => {
  const found = view.search(target.value);
  $('#found').textContent = target.value.trim() ? t('found', found) : '';
});
$('#copy').addEventListener('click', ({ target }) => copy(view.text(), target));
$('#share').addEventListener('click', ({ target }) => copy(link, target));
$('#download').addEventListener('click', () => downloadTranscript(session, slug).catch(told));

const dev = await isDev();
$('#session').value = sessionOfPath ?? asked('session') ?? (dev ? 'demo' : '');
$('#token-label').hidden = dev && !tokens.session;
if (tokens.session) read(tokens.session).catch(trouble);
else if (dev && sessionOfPath) {
  const token = async () => (await devTokens(sessionOfPath, { identity: 'reader', scope: 'follow' })).token;
  read(token).catch(trouble);
} else ask();
document.documentElement.dataset.ready = '';
