//! The engine pool with recognizers that do what they are told.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a fault here fails the test that met it")]

#[expect(dead_code, reason = "each test uses some of it")]
mod hearing;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    time::Instant,
};

use speech::{
    Decode, DecodeKind, EnginePool, Hypothesis, HypothesisWord, Listener, ListenerSettings, Recognizer,
    SpeechError, Wanted,
};

/// Waits for leave before each decode, and notes how long the sound was.
struct Gated {
    leave: Arc<Mutex<mpsc::Receiver<()>>>,
    began: mpsc::SyncSender<usize>,
    log: Arc<Mutex<Vec<usize>>>,
}

impl Recognizer for Gated {
    fn recognize(&mut self, pcm: &[f32], _: &Wanted) -> Result<Hypothesis, SpeechError> {
        self.began.send(pcm.len()).unwrap();
        self.leave.lock().unwrap().recv().unwrap();
        self.log.lock().unwrap().push(pcm.len());
        Ok(Hypothesis {
            words: vec![HypothesisWord { text: "yes".into(), logprob: 0.0 }],
            ..Hypothesis::default()
        })
    }
}

/// A listener that asks for a decode of each kind.
fn ask(kind: DecodeKind, chunks: usize) -> (Listener, Decode) {
    let speech = hearing::recordings().into_iter().find(|(name, ..)| name == "LJ001-0001.wav").unwrap().1;
    let mut listener = Listener::new(ListenerSettings::default());
    listener.hear(&speech[..chunks * 1_600]);
    if kind == DecodeKind::Final {
        listener.finalize();
    }
    let decode = listener.next(Instant::now()).unwrap();
    assert_eq!(decode.kind(), kind);
    (listener, decode)
}

#[test]
fn finals_go_first_then_the_oldest_and_superseded_partials_never() {
    let (leave, gate) = mpsc::sync_channel(16);
    let (began, begun) = mpsc::sync_channel(16);
    let log = Arc::new(Mutex::new(Vec::new()));
    let gate = Arc::new(Mutex::new(gate));
    let made = Arc::clone(&log);
    let pool = EnginePool::start(1, move || {
        Ok(Box::new(Gated { leave: Arc::clone(&gate), began: began.clone(), log: Arc::clone(&made) })
            as Box<dyn Recognizer>)
    })
    .unwrap();

    let (_first, decode) = ask(DecodeKind::Partial, 10);
    let blocking = pool.submit(decode);
    begun.recv().unwrap();
    let (_old, old) = ask(DecodeKind::Partial, 12);
    let (mut dropped, superseded) = ask(DecodeKind::Partial, 13);
    let (_new, new) = ask(DecodeKind::Partial, 14);
    let (_last, last) = ask(DecodeKind::Final, 16);
    let order = [last.pcm.len(), old.pcm.len(), new.pcm.len()];
    let answers = [pool.submit(new), pool.submit(old), pool.submit(last)];
    let superseded = pool.submit(superseded);
    // The utterance goes on and ends elsewhere than where its partial was asked for.
    dropped.hear(&hearing::recordings()[0].1[8_000..24_000]);
    dropped.finalize();
    assert_eq!((pool.load().queued, pool.load().working), (4, 1));
    for _ in 0..4 {
        leave.send(()).unwrap();
    }
    blocking.wait().1.unwrap();
    for answer in answers {
        answer.wait().1.unwrap();
    }
    assert_eq!(superseded.wait().1, Err(SpeechError::Superseded));
    assert_eq!(log.lock().unwrap()[1..], order);
}

#[test]
fn a_panic_fails_the_decode_and_the_thread_gets_a_new_recognizer() {
    struct Panics(bool);
    impl Recognizer for Panics {
        fn recognize(&mut self, _: &[f32], _: &Wanted) -> Result<Hypothesis, SpeechError> {
            assert!(!self.0, "told to panic");
            Ok(Hypothesis::default())
        }
    }
    let made = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&made);
    let pool = EnginePool::start(1, move || {
        Ok(Box::new(Panics(count.fetch_add(1, Ordering::SeqCst) == 0)) as Box<dyn Recognizer>)
    })
    .unwrap();
    assert_eq!(pool.submit(ask(DecodeKind::Final, 10).1).wait().1, Err(SpeechError::Panicked));
    assert_eq!(pool.submit(ask(DecodeKind::Final, 10).1).wait().1, Ok(Hypothesis::default()));
    assert_eq!(made.load(Ordering::SeqCst), 2);
}

#[test]
fn shutting_down_finishes_finals_and_refuses_partials() {
    let (leave, gate) = mpsc::sync_channel(16);
    let (began, begun) = mpsc::sync_channel(16);
    let gate = Arc::new(Mutex::new(gate));
    let pool = EnginePool::start(1, move || {
        Ok(Box::new(Gated { leave: Arc::clone(&gate), began: began.clone(), log: Arc::default() })
            as Box<dyn Recognizer>)
    })
    .unwrap();
    let first = pool.submit(ask(DecodeKind::Final, 10).1);
    begun.recv().unwrap();
    let partial = pool.submit(ask(DecodeKind::Partial, 10).1);
    let last = pool.submit(ask(DecodeKind::Final, 10).1);
    let closing = std::thread::spawn(move || pool.shutdown());
    // Queued partials are refused before the pool waits for its engines.
    assert_eq!(partial.wait().1, Err(SpeechError::ShutDown));
    leave.send(()).unwrap();
    leave.send(()).unwrap();
    closing.join().unwrap();
    assert!(first.wait().1.is_ok() && last.wait().1.is_ok());
}

#[tokio::test]
async fn an_answer_can_be_awaited() {
    struct Silent;
    impl Recognizer for Silent {
        fn recognize(&mut self, _: &[f32], _: &Wanted) -> Result<Hypothesis, SpeechError> {
            Ok(Hypothesis::default())
        }
    }
    let pool = EnginePool::start(1, || Ok(Box::new(Silent) as Box<dyn Recognizer>)).unwrap();
    let (_, decode) = ask(DecodeKind::Final, 10);
    let ticket = decode.ticket;
    assert_eq!(pool.submit(decode).await, (ticket, Ok(Hypothesis::default())));
}

#[test]
fn a_missing_model_fails_the_start() {
    let failed = EnginePool::start(1, || Err(SpeechError::Load("no model".into())));
    assert!(matches!(failed, Err(SpeechError::Load(_))));
}
