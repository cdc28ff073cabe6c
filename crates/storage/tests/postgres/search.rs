//! Finding what was said.

use model::{Samples, Timestamp};
use storage::{FoundPage, Revision, Search, Storage};
use testkit::Database;

use crate::{NOW, new_stream, slug, store, stream_id, utterance};

/// Stores what was said in a session, one utterance after the other.
async fn say(storage: &Storage, session: &str, stream: u128, texts: &[&str]) {
    let mut new = new_stream(session, stream_id(stream));
    // Streams with a higher number begin later.
    new.started_at = Timestamp(NOW.0 + i64::try_from(stream).unwrap() * 60_000);
    let open = storage.open_stream(&new).await.unwrap();
    for (number, text) in (1..).zip(texts) {
        let mut new = utterance(session, stream_id(stream), &open, number);
        new.text = (*text).to_owned();
        store(storage, &new).await;
    }
}

async fn search(storage: &Storage, query: &str) -> FoundPage {
    storage.search(&Search { query, session: None, before: None, limit: 100 }).await.unwrap()
}

async fn texts(storage: &Storage, query: &str) -> Vec<String> {
    search(storage, query).await.found.into_iter().map(|found| found.spoken.segment.text).collect()
}

#[tokio::test]
async fn words_are_found_by_their_stems_in_both_languages() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let (cats, dogs) = ("The cats were running home.", "Dogs run, cats run.");
    let (books, mixed) = ("Мы читали хорошие книги.", "Запустите сервер Postgres.");
    say(&storage, "demo", 1, &[cats, dogs, books, mixed]).await;
    for (query, expected) in [
        ("cat", &[dogs, cats][..]),
        ("RUNS", &[dogs, cats]),
        ("runs -dog", &[cats]),
        ("\"cats running\"", &[dogs]),
        ("\"running home\"", &[cats]),
        ("книга", &[books]),
        ("читать плохая книга", &[]),
        ("читала хорошую книгу", &[books]),
        ("книгами or servers", &[books]),
        ("сервера postgres", &[mixed]),
        ("the", &[]),
        ("-cats", &[]),
        ("", &[]),
        ("' & | ! :* \\ \0", &[]),
    ] {
        assert_eq!(texts(&storage, query).await, expected, "{query}");
    }
    let found = search(&storage, "книгу").await.found.remove(0);
    assert_eq!(found.snippet, "Мы читали хорошие **книги**.");
    assert_eq!(search(&storage, "run dog").await.found[0].snippet, "**Dogs** **run**, cats **run**.");
    assert_eq!(
        (found.spoken.segment.session, found.spoken.started_at),
        (slug("demo"), Timestamp(NOW.0 + 60_000 + 4_500))
    );
    assert_eq!(found.spoken.segment.start, Samples(3 * 24_000));
}

#[tokio::test]
async fn results_come_newest_first_page_by_page_and_in_one_session_when_asked() {
    let database = Database::scratch().await;
    let storage = database.storage();
    say(&storage, "a", 1, &["apple one", "apple two", "pear"]).await;
    say(&storage, "b", 2, &["apple three", "apple four"]).await;
    let page = async |session: Option<&str>, before, limit| {
        let session = session.map(slug);
        let search = Search { query: "apples", session: session.as_ref(), before, limit };
        let page = storage.search(&search).await.unwrap();
        let texts: Vec<_> = page.found.iter().map(|found| found.spoken.segment.text.clone()).collect();
        (texts, page.next)
    };
    let (first, next) = page(None, None, 3).await;
    assert_eq!(first, ["apple four", "apple three", "apple two"]);
    let next = next.expect("another page").to_string().parse().unwrap();
    assert_eq!(page(None, Some(next), 3).await, (vec!["apple one".to_owned()], None));
    assert_eq!(page(Some("a"), None, 100).await.0, ["apple two", "apple one"]);
    assert_eq!(page(Some("none"), None, 100).await.0, Vec::<String>::new());
    let (one, next) = page(Some("a"), None, 1).await;
    assert_eq!(one, ["apple two"]);
    assert_eq!(page(Some("a"), next, 1).await.0, ["apple one"]);
}

#[tokio::test]
async fn only_the_newest_revision_is_found() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let revision = |text: &str| Revision {
        session: slug("demo"),
        utterance: "x".parse().unwrap(),
        speaker: None,
        text: text.to_owned(),
        language: None,
        outside: None,
        said_at: NOW,
        at: NOW,
    };
    for text in ["a pear", "an apple"] {
        storage.revise(&revision(text)).await.unwrap();
    }
    assert_eq!(texts(&storage, "pear").await, Vec::<String>::new());
    assert_eq!(texts(&storage, "apple").await, ["an apple"]);
}
