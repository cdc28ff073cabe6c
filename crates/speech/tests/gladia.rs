//! Gladia sessions against a stand-in over real sockets, which recognizes with the real model.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a fault here fails the test that met it"
)]

#[expect(dead_code, reason = "each test uses some of it")]
mod hearing;

use std::{sync::Mutex, time::Duration};

use hearing::{moonshine, offline, silence};
use model::Samples;
use speech::{
    Gladia, GladiaEvent, GladiaLimits, GladiaSession, GladiaSettings, GladiaTrouble, Listener,
    ListenerSettings, Recognizer, Spoken,
};
use testkit::{GladiaServer, PATIENCE, eventually};
use tokio::time::timeout;

/// 100 ms.
const CHUNK: usize = 1_600;

fn settings(server: &GladiaServer, key: &str) -> GladiaSettings {
    let mut reader = settings::of([("GLADIA_API_KEY", key), ("GLADIA_API_URL", &server.url())]);
    let mut read = GladiaSettings::read(&mut reader).unwrap();
    let short = Duration::from_millis(20);
    read.limits = GladiaLimits { back_off: (short, short), ..read.limits };
    read
}

fn open(server: &GladiaServer) -> GladiaSession {
    open_at(server, ListenerSettings::default())
}

fn open_at(server: &GladiaServer, listener: ListenerSettings) -> GladiaSession {
    let gladia = Gladia::new(settings(server, GladiaServer::KEY)).unwrap();
    GladiaSession::open(&gladia, &listener, Some("en"))
}

async fn next(session: &mut GladiaSession) -> GladiaEvent {
    timeout(PATIENCE, session.next()).await.expect("something from Gladia")
}

/// The next text, or the end.
async fn next_said(session: &mut GladiaSession) -> GladiaEvent {
    loop {
        match next(session).await {
            GladiaEvent::Settled => {}
            event => return event,
        }
    }
}

/// The next final.
async fn next_final(session: &mut GladiaSession) -> Spoken {
    loop {
        match next_said(session).await {
            GladiaEvent::Spoken(Spoken::Partial { .. }) => {}
            GladiaEvent::Spoken(spoken) => return spoken,
            other => panic!("{other:?}"),
        }
    }
}

async fn until_over(session: &mut GladiaSession, said: &mut Vec<Spoken>) -> GladiaEvent {
    loop {
        match next_said(session).await {
            GladiaEvent::Spoken(spoken) => said.push(spoken),
            over => return over,
        }
    }
}

/// Everything that is said until the end.
async fn heard_to_the_end(mut session: GladiaSession) -> Vec<Spoken> {
    let mut said = Vec::new();
    session.end();
    assert!(session.awaits_final() && !session.idle());
    assert_eq!(until_over(&mut session, &mut said).await, GladiaEvent::Ended);
    assert!(session.idle());
    assert_eq!(session.settled(), session.heard());
    said
}

fn finals(said: &[Spoken]) -> Vec<Spoken> {
    said.iter().filter(|spoken| matches!(spoken, Spoken::Final { .. })).cloned().collect()
}

fn text(spoken: &Spoken) -> &str {
    match spoken {
        Spoken::Final { text, .. } | Spoken::Partial { text, .. } => text,
        other => panic!("{other:?}"),
    }
}

async fn with_moonshine() -> GladiaServer {
    let moonshine = Mutex::new(moonshine());
    GladiaServer::start(move |pcm| {
        let pcm: Vec<f32> = pcm.iter().map(|sample| f32::from(*sample) / 32_768.0).collect();
        moonshine.lock().unwrap().recognize(&pcm, &speech::Wanted::default()).unwrap().text()
    })
    .await
}

/// Says how long it was, to a tenth of a second.
async fn with_clock() -> GladiaServer {
    GladiaServer::start(|pcm| format!("heard {} tenths", pcm.len() / CHUNK)).await
}

/// A voice of so many seconds between half a second and a second of silence.
fn voice(seconds: f64) -> Vec<i16> {
    let tone = hearing::made(seconds, -20.0, |at| (at * 200.0 * std::f64::consts::TAU).sin());
    [silence(0.5), tone, silence(1.0)].concat()
}

fn talk() -> Vec<i16> {
    let recordings = ["jfk", "LJ001-0001", "LJ001-0004"].map(|name| testkit::recording(name).samples());
    recordings.into_iter().flat_map(|pcm| [silence(0.7), pcm, silence(0.8)].concat()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn five_drops_change_no_final() {
    let server = with_moonshine().await;
    let pcm = talk();
    let mut session = open(&server);
    session.hear(&pcm);
    let undisturbed = heard_to_the_end(session).await;
    assert!(finals(&undisturbed).len() >= 3, "{undisturbed:?}");
    assert_eq!((server.sockets(), server.sound() == pcm), (1, true));

    server.delay(Duration::from_millis(5));
    let each = pcm.len() * 2 / 8;
    server.drop_after_bytes(each, 5);
    let mut session = open(&server);
    let mut said = Vec::new();
    for (index, chunk) in pcm.chunks(CHUNK).enumerate() {
        session.hear(chunk);
        // Faster than real time, but not all at once: there are acknowledgements on the way when a socket is lost.
        let mut pause = std::pin::pin!(tokio::time::sleep(Duration::from_millis(10)));
        loop {
            tokio::select! {
                () = &mut pause => break,
                event = session.next() => match event {
                    GladiaEvent::Spoken(spoken) => said.push(spoken),
                    GladiaEvent::Settled => {}
                    over => panic!("{over:?} in chunk {index}"),
                },
            }
        }
    }
    said.extend(heard_to_the_end(session).await);
    assert_eq!((server.sessions(), server.sockets()), (2, 7));
    assert!(server.lost_bytes() > 0, "drops that lost nothing test nothing");
    assert!(server.sound() == pcm, "some sound is lost, doubled or elsewhere");
    assert_eq!(finals(&said), finals(&undisturbed));

    let mut number_expected = 1;
    let mut border = Samples(0);
    for spoken in &said {
        match spoken {
            Spoken::Partial { number, text, stable, .. } => {
                assert!(*number >= number_expected && *stable as usize <= text.chars().count());
            }
            Spoken::Final { number, revision, text, words, start, end, language, .. } => {
                assert_eq!((*number, *revision, language.as_deref()), (number_expected, 0, Some("en")));
                assert!(*start >= border && end > start);
                let mut at = *start;
                for word in words {
                    assert!(word.start >= at && word.end >= word.start && word.end <= *end, "{word:?}");
                    at = word.end;
                }
                let words: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
                assert_eq!(words.join(" "), *text);
                (number_expected, border) = (number + 1, *end);
            }
            other => panic!("{other:?}"),
        }
    }
    let partials = said.iter().filter(|spoken| matches!(spoken, Spoken::Partial { .. })).count();
    assert!(partials > 0);
    assert_eq!(server.init()["endpointing"], 0.5);
    assert_eq!(server.init()["language_config"]["languages"][0], "en");
}

#[tokio::test(flavor = "multi_thread")]
async fn any_retryable_close_is_survived() {
    let server = with_clock().await;
    let mut session = open(&server);
    for (index, code) in [Some(1011), None, Some(1002), Some(4500), Some(1006 + 6)].into_iter().enumerate() {
        session.hear(&voice(0.5));
        let said = next_final(&mut session).await;
        assert_eq!(text(&said), "heard 13 tenths");
        server.drop_socket(code);
        eventually("another socket", async || server.sockets() == index + 2).await;
    }
    assert_eq!(finals(&heard_to_the_end(session).await), []);
    assert_eq!(server.sound().len(), voice(0.5).len() * 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn each_trouble_has_its_name() {
    let server = with_clock().await;
    let mut gladia = GladiaSession::open(
        &Gladia::new(settings(&server, "another key")).unwrap(),
        &ListenerSettings::default(),
        None,
    );
    assert_eq!(next(&mut gladia).await, GladiaEvent::Failed(GladiaTrouble::Unauthorized));
    assert_eq!(server.requests(), 1, "a wrong key does not get right");

    let cases = [
        (402, 1, GladiaTrouble::Quota),
        (429, 3, GladiaTrouble::Quota),
        (422, 1, GladiaTrouble::Refused { status: 422 }),
        (503, 3, GladiaTrouble::Unavailable),
    ];
    for (status, times, expected) in cases {
        let before = server.requests();
        server.refuse_next(status, times);
        assert_eq!(next(&mut open(&server)).await, GladiaEvent::Failed(expected));
        assert_eq!(server.requests() - before, times, "{status}");
    }

    let cases = [
        (4401, GladiaTrouble::Unauthorized),
        (4429, GladiaTrouble::Quota),
        (4400, GladiaTrouble::Refused { status: 4400 }),
        (1000, GladiaTrouble::Unavailable),
    ];
    for (code, expected) in cases {
        let (sockets, mut session) = (server.sockets(), open(&server));
        eventually("a socket", async || server.sockets() > sockets).await;
        server.drop_socket(Some(code));
        assert_eq!(next(&mut session).await, GladiaEvent::Failed(expected));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_refusals_in_a_row_are_survived() {
    let server = with_clock().await;
    server.refuse_next(503, 2);
    let mut session = open(&server);
    session.hear(&voice(0.5));
    assert_eq!(finals(&heard_to_the_end(session).await).len(), 1);
    assert_eq!(server.requests(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_there_is_unavailable() {
    let server = with_clock().await;
    let gladia = Gladia::new(settings(&server, GladiaServer::KEY)).unwrap();
    drop(server);
    let mut session = GladiaSession::open(&gladia, &ListenerSettings::default(), None);
    assert_eq!(next(&mut session).await, GladiaEvent::Failed(GladiaTrouble::Unavailable));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_acknowledge_is_given_up() {
    let server = with_clock().await;
    server.silent();
    let mut settings = settings(&server, GladiaServer::KEY);
    settings.limits.silence = Duration::from_millis(100);
    let mut session =
        GladiaSession::open(&Gladia::new(settings).unwrap(), &ListenerSettings::default(), None);
    let pcm = voice(0.5);
    session.hear(&pcm);
    assert_eq!(next(&mut session).await, GladiaEvent::Failed(GladiaTrouble::Unavailable));
    assert_eq!(server.sockets(), 5);
    assert_eq!(session.into_unsettled().sound, [(Samples(0), pcm)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_while_disconnected_loses_nothing() {
    let server = with_clock().await;
    let mut session = open(&server);
    session.hear(&voice(0.5));
    drop(next_final(&mut session).await);
    // The next message is lost with its socket; the stop comes before there is another.
    server.drop_after_bytes(0, 1);
    session.hear(&voice(0.7));
    let sockets = server.sockets();
    session.end();
    let said = heard_to_the_end(session).await;
    let texts: Vec<_> = finals(&said).iter().map(|said| text(said).to_owned()).collect();
    assert_eq!(texts, ["heard 15 tenths"]);
    assert_eq!(server.sockets(), sockets + 1);
    assert!(server.lost_bytes() > 0 && server.finished());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrected_final_is_a_revision() {
    let server = with_clock().await;
    let mut session = open_at(&server, ListenerSettings { next_number: 7, ..ListenerSettings::default() });
    session.hear(&voice(0.5));
    let first = next_final(&mut session).await;
    let settled = session.settled();
    server.correct_last(text(&first));
    server.correct_last("better words");
    let Spoken::Final { number, revision, text, .. } = next_final(&mut session).await else { panic!() };
    assert_eq!((number, revision, text.as_str()), (7, 1, "better words"));
    server.correct_last("the best");
    let Spoken::Final { number, revision, text, .. } = next_final(&mut session).await else { panic!() };
    assert_eq!((number, revision, text.as_str()), (7, 2, "the best"));
    assert!(session.settled() >= settled);
    session.hear(&voice(0.5));
    let Spoken::Final { number, revision, .. } = next_final(&mut session).await else { panic!() };
    assert_eq!((number, revision), (8, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn times_are_those_of_the_stream_whatever_it_skips() {
    let server = with_clock().await;
    let first = Samples::from_millis(60_000);
    let mut session = open_at(&server, ListenerSettings { first, ..ListenerSettings::default() });
    // Somebody speaks when the stream breaks off, and right away when it goes on three hours later.
    let pcm = voice(1.0);
    session.hear(&pcm[..16_000]);
    let later = first + Samples::from_millis(3 * 3_600_000);
    session.skip_to(later);
    assert_eq!(session.heard(), later);
    session.skip_to(first);
    session.hear(&pcm[8_000..]);
    assert_eq!(session.heard(), later + Samples::of(pcm.len() - 8_000));
    let said = finals(&heard_to_the_end(session).await);
    let [Spoken::Final { start, end, .. }, Spoken::Final { start: start_later, end: end_later, words, .. }] =
        said.as_slice()
    else {
        panic!("{said:?}")
    };
    assert_eq!(*start, first + Samples::from_millis(200));
    assert!(*end > first + Samples::of(16_000) && *end < first + Samples::of(32_000));
    assert!(*start_later >= first + Samples::of(16_000) && *start_later <= later, "{start_later}");
    assert!(*end_later > later + Samples::of(16_000) && *end_later <= later + Samples::of(pcm.len() - 8_000));
    assert_eq!(words.len(), 3);
    assert!(words.last().unwrap().start > later);
    assert!(server.sound().len() < pcm.len() + 48_000, "hours of silence are not sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn silence_settles_and_speech_holds_it_back() {
    let server = with_clock().await;
    let mut settings = settings(&server, GladiaServer::KEY);
    settings.limits.settle = Duration::from_millis(50);
    let mut session =
        GladiaSession::open(&Gladia::new(settings).unwrap(), &ListenerSettings::default(), None);
    session.hear(&silence(2.0));
    while session.settled() < Samples::of(32_000) {
        assert_eq!(next(&mut session).await, GladiaEvent::Settled);
    }
    assert!(session.idle());
    let speech = voice(2.0);
    let (open, rest) = speech.split_at(32_000);
    session.hear(open);
    // A partial means that Gladia has heard all that was sent before it, and that an utterance is open.
    assert!(matches!(next_said(&mut session).await, GladiaEvent::Spoken(Spoken::Partial { number: 1, .. })));
    assert!(!session.idle());
    for _ in 0..3 {
        session.hear(&hearing::made(0.6, -20.0, |at| (at * 200.0 * std::f64::consts::TAU).sin()));
        assert!(matches!(next_said(&mut session).await, GladiaEvent::Spoken(Spoken::Partial { .. })));
        assert!(session.settled() <= Samples::of(32_000 + 8_000), "{}", session.settled());
    }
    session.hear(rest);
    let Spoken::Final { end, .. } = next_final(&mut session).await else { panic!() };
    assert!(session.settled() >= end);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_goes_on_where_gladia_failed() {
    let server = with_moonshine().await;
    let names = ["LJ001-0002", "LJ001-0008"];
    let [first, second] = names.map(|name| [silence(0.7), testkit::recording(name).samples()].concat());
    let mut session = open(&server);
    session.hear(&[first.clone(), silence(1.0)].concat());
    let mut said = vec![next_final(&mut session).await];
    // The second is open, and shown, when the account is closed.
    session.hear(&second);
    let shown = loop {
        match next_said(&mut session).await {
            GladiaEvent::Spoken(Spoken::Partial { number, .. }) => break number,
            GladiaEvent::Spoken(spoken) => said.push(spoken),
            over => panic!("{over:?}"),
        }
    };
    server.drop_socket(Some(4403));
    let over = until_over(&mut session, &mut said).await;
    assert_eq!(over, GladiaEvent::Failed(GladiaTrouble::Unauthorized));
    let (heard, delivered) = (session.heard(), finals(&said).len());
    let unsettled = session.into_unsettled();
    if delivered + 1 == shown as usize {
        assert_eq!(unsettled.next_number, shown);
    }
    let settings = ListenerSettings {
        first: unsettled.sound.first().unwrap().0,
        next_number: unsettled.next_number,
        partial_interval: None,
        ..ListenerSettings::default()
    };
    let (mut listener, mut moonshine) = (Listener::new(settings), moonshine());
    for (position, pcm) in unsettled.sound {
        listener.skip_to(position);
        listener.hear(&pcm);
    }
    assert_eq!(listener.heard(), heard);
    listener.end();
    let now = std::time::Instant::now();
    while let Some(decode) = listener.next(now) {
        let hypothesis = moonshine.recognize(&decode.pcm, &decode.wanted).unwrap();
        said.extend(listener.decoded(decode.ticket, Ok(hypothesis), now));
    }
    let words = |said: &[Spoken]| {
        finals(said).iter().flat_map(|said| hearing::wer::normalise(text(said))).collect::<Vec<_>>()
    };
    let alone =
        offline(&mut moonshine, &[first, silence(1.0), second].concat(), &ListenerSettings::default());
    let errors = hearing::wer::WordErrors::between(&words(&alone).join(" "), &words(&said).join(" "));
    assert!(errors.rate() <= 0.1, "{:?} against {:?}", words(&said), words(&alone));
    let numbers: Vec<u32> = finals(&said)
        .iter()
        .map(|said| if let Spoken::Final { number, .. } = said { *number } else { 0 })
        .collect();
    assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
}
