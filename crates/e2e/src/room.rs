use model::{Entry, Final, Sequence, SessionSlug};
use settings::Secret;
use storage::Storage;
use testkit::tokens;
use uuid::Uuid;

use crate::{Client, JWT_SECRET};

/// Most entries that a story has.
const ENTRIES_MAX: u32 = 10_000;

/// A session, its participants and its transcript.
#[derive(Clone)]
pub struct Room {
    /// Its slug.
    pub slug: SessionSlug,
    port: u16,
    storage: Storage,
}

impl Room {
    /// A session that nobody has used, at this port.
    pub(crate) fn new(port: u16, storage: Storage) -> Self {
        let slug = format!("room-{}", Uuid::new_v4().simple()).parse().expect("a slug");
        Self { slug, port, storage }
    }

    /// The same session, entered at another port.
    #[must_use]
    pub fn at(&self, port: u16) -> Self {
        Self { port, ..self.clone() }
    }

    /// A good token.
    pub fn token(&self, identity: &str) -> String {
        tokens::good(&Secret::from(JWT_SECRET), &self.slug, identity)
    }

    /// Where a WebSocket with this query is opened.
    pub fn url(&self, query: &str) -> String {
        format!("ws://127.0.0.1:{}{}", self.port, self.target(query))
    }

    /// The path and this query.
    pub fn target(&self, query: &str) -> String {
        format!("/api/realtime/transcribe?{query}")
    }

    /// Opens a WebSocket with this query.
    pub async fn open(&self, query: &str) -> Client {
        Client::connect(&self.url(query), &[]).await
    }

    /// Joins as a participant and reads the greeting.
    pub async fn join(&self, identity: &str) -> Client {
        self.join_with(identity, "").await
    }

    /// Joins with more in the query, such as `&since=0`.
    pub async fn join_with(&self, identity: &str, more: &str) -> Client {
        let mut client = self.open(&format!("token={}{more}", self.token(identity))).await;
        assert_eq!(client.said().await["type"], "connected");
        client
    }

    /// The finals in Postgres.
    ///
    /// # Panics
    /// When Postgres does not answer.
    pub async fn finals(&self) -> Vec<Final> {
        let entries = self.entries().await.into_iter();
        let segments = entries.filter_map(|entry| match entry {
            Entry::Final(segment) => Some(segment),
            Entry::Translation(_) => None,
        });
        segments.collect()
    }

    /// All that is stored of what was said: finals, and what became of their translations.
    ///
    /// # Panics
    /// When Postgres does not answer.
    pub async fn entries(&self) -> Vec<Entry> {
        self.storage.entries_since(&self.slug, Sequence(0), ENTRIES_MAX).await.expect("the entries")
    }
}

/// The words of finals as one text.
pub fn text(finals: &[Final]) -> String {
    finals.iter().map(|segment| segment.text.as_str()).collect::<Vec<_>>().join(" ")
}
