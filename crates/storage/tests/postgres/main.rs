//! Against a real Postgres: `PARLEY_TEST_DATABASE_URL`.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod erasure;
mod faults;
mod legacy;
mod messages;
mod notifications;
mod outbox;
mod search;
mod sessions;
mod sound;
mod stream_keys;
mod streams;
mod tls;
mod transcripts;
mod translations;
mod usage;

use model::{Samples, Sequence, SessionSlug, Speaker, StreamId, Timestamp, Word};
use storage::{NewFinal, NewStream, OpenStream, Recorded, Storage};

const NOW: Timestamp = Timestamp(1_700_000_000_000);

fn slug(text: &str) -> SessionSlug {
    text.parse().unwrap()
}

fn stream_id(number: u128) -> StreamId {
    StreamId(uuid::Uuid::from_u128(number))
}

fn new_stream(session: &str, id: StreamId) -> NewStream {
    let speaker = Speaker { identity: "alice".parse().unwrap(), name: Some("Alice".to_owned()) };
    NewStream {
        id,
        session: slug(session),
        speaker,
        started_at: NOW,
        user: None,
        limits: storage::StreamLimits::default(),
        now: NOW,
    }
}

/// The utterance of this number: one second each, half a second apart.
fn utterance(session: &str, stream: StreamId, open: &OpenStream, number: u32) -> NewFinal {
    let start = Samples(u64::from(number) * 24_000);
    NewFinal {
        session_id: open.session_id,
        session: slug(session),
        epoch: open.epoch,
        stream,
        number,
        speaker: Speaker { identity: "alice".parse().unwrap(), name: None },
        text: format!("Utterance {number}, \u{0645}\u{0631}\u{062d}\u{0628}\u{0627}."),
        language: Some("en".to_owned()),
        start,
        end: start + Samples(16_000),
        words: vec![Word { text: "Utterance".to_owned(), start, end: start + Samples(8_000) }],
        translate_to: Vec::new(),
        at: Timestamp(NOW.0 + i64::from(number)),
    }
}

async fn store(storage: &Storage, segment: &NewFinal) -> model::Final {
    match storage.record_final(segment).await.unwrap() {
        Recorded::Stored(stored) => *stored,
        Recorded::AlreadyStored => panic!("already stored: {:?}", segment.number),
    }
}

/// The finals among what is stored of a session after a sequence.
async fn finals_since(
    storage: &Storage,
    session: &SessionSlug,
    after: Sequence,
    limit: u32,
) -> Vec<model::Final> {
    let entries = storage.entries_since(session, after, limit).await.unwrap();
    let segments = entries.into_iter().filter_map(|entry| match entry {
        model::Entry::Final(segment) => Some(segment),
        model::Entry::Translation(_) => None,
    });
    segments.collect()
}
