//! Translations of finals: wanted with them, claimed, told once.

use std::time::Duration;

use model::{Entry, Sequence, Timestamp, Translation, Untranslated, UtteranceId};
use storage::{Erasing, NewTranslation, Revision, Storage, Waiting, WantedTranslation};
use testkit::Database;

use crate::{NOW, new_stream, slug, store, stream_id, utterance};

const LEASE: Duration = Duration::from_secs(5);

/// Stores finals of one stream, each to be translated into these languages.
async fn said(storage: &Storage, count: u32, targets: &[&str]) {
    let open = storage.open_stream(&new_stream("demo", stream_id(1))).await.unwrap();
    for number in 1..=count {
        let mut new = utterance("demo", stream_id(1), &open, number);
        new.at = NOW;
        new.translate_to = targets.iter().map(|target| (*target).to_owned()).collect();
        store(storage, &new).await;
    }
}

async fn claim(storage: &Storage, limit: u32, now: Timestamp) -> Vec<WantedTranslation> {
    storage.claim_translations(None, limit, LEASE, now).await.unwrap()
}

fn told(wanted: &WantedTranslation, outcome: Result<&str, Untranslated>) -> NewTranslation {
    NewTranslation {
        session: wanted.session.clone(),
        utterance: wanted.utterance.clone(),
        revision: wanted.revision,
        target: wanted.target.clone(),
        outcome: outcome.map(str::to_owned),
        at: NOW.after(Duration::from_secs(1)),
    }
}

fn translations(entries: Vec<Entry>) -> Vec<Translation> {
    let translations = entries.into_iter().filter_map(|entry| match entry {
        Entry::Final(_) => None,
        Entry::Translation(translation) => Some(translation),
    });
    translations.collect()
}

#[tokio::test]
async fn each_translation_takes_the_next_place_of_its_session_once() {
    let database = Database::scratch().await;
    let storage = database.storage();
    said(&storage, 2, &["ar", "de-AT", "ar"]).await;
    let wanted = claim(&storage, 10, NOW).await;
    let pairs: Vec<_> =
        wanted.iter().map(|wanted| (wanted.utterance.to_string(), wanted.target.as_str())).collect();
    let id = |number| UtteranceId::Heard { stream: stream_id(1), number }.to_string();
    assert_eq!(pairs, [(id(1), "ar"), (id(1), "de-AT"), (id(2), "ar"), (id(2), "de-AT")]);
    assert_eq!((wanted[0].source.as_deref(), wanted[0].wanted_at), (Some("en"), NOW));

    let late = Err(Untranslated::TooLate);
    for (wanted, outcome, place) in
        [(&wanted[2], Ok("[ar] two\0"), 3), (&wanted[1], late, 4), (&wanted[0], Ok("[ar] one"), 5)]
    {
        let sequence = storage.tell_translation(&told(wanted, outcome)).await.unwrap();
        assert_eq!(sequence, Some(Sequence(place)));
        assert_eq!(storage.tell_translation(&told(wanted, late)).await, Ok(None), "it is known");
    }
    // A follower reads all of it, in order, in pages of any size.
    let all = storage.entries_since(&slug("demo"), Sequence(0), 100).await.unwrap();
    let places: Vec<_> = all.iter().map(|entry| entry.sequence().0).collect();
    assert_eq!(places, [1, 2, 3, 4, 5]);
    for limit in 1..5 {
        let mut read = Vec::new();
        while let page = storage
            .entries_since(&slug("demo"), read.last().map_or(Sequence(0), Entry::sequence), limit)
            .await
            .unwrap()
            && !page.is_empty()
        {
            read.extend(page);
        }
        assert_eq!(read, all, "in pages of {limit}");
    }
    let read = translations(all.clone());
    let outcomes: Vec<_> =
        read.iter().map(|it| (it.language.as_str(), it.outcome.as_deref().map_err(|e| *e))).collect();
    assert_eq!(outcomes, [("ar", Ok("[ar] two")), ("de-AT", late), ("ar", Ok("[ar] one"))]);
    assert_eq!(read[0].speaker.identity.as_str(), "alice");
    // A final that is read knows what it says in other languages.
    let Entry::Final(first) = &all[0] else { panic!("no final") };
    assert_eq!(first.translations.get("ar").map(String::as_str), Some("[ar] one"));
    assert_eq!(first.translations.len(), 1);
    // Each is announced as it is read.
    let claim = storage.claim_outbox(100).await.unwrap();
    let announced: Vec<Entry> = claim
        .rows()
        .iter()
        .filter_map(|row| match &row.announcement {
            storage::Announcement::Entry(entry @ Entry::Translation(_)) => Some(entry.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(translations(announced), read);
}

#[tokio::test]
async fn a_claim_is_held_until_it_lapses_or_is_given_back() {
    let database = Database::scratch().await;
    let (storage, other) = (database.storage(), database.storage());
    said(&storage, 3, &["ar"]).await;
    assert_eq!(storage.waiting_translations().await.unwrap(), Waiting { count: 3, next: Some(Timestamp(0)) });
    let mine = claim(&storage, 2, NOW).await;
    assert_eq!(claim(&other, 10, NOW).await.len(), 1, "what nobody holds");
    let lapse = NOW.after(LEASE);
    let waiting = Waiting { count: 3, next: Some(lapse) };
    assert_eq!(storage.waiting_translations().await.unwrap(), waiting);
    // Renewed; the other one dies.
    let ids: Vec<_> = mine.iter().map(|wanted| wanted.id).collect();
    storage.hold_translations(&ids, lapse.after(LEASE)).await.unwrap();
    let taken = claim(&storage, 10, lapse).await;
    assert_eq!(taken.len(), 1);
    assert!(!ids.contains(&taken[0].id));
    // Given back.
    storage.hold_translations(&ids[..1], NOW).await.unwrap();
    assert_eq!(claim(&other, 10, lapse).await.len(), 1);
    // Whoever was thought to be dead and tells it nevertheless is in time, and the other is not.
    assert!(storage.tell_translation(&told(&mine[0], Ok("x"))).await.unwrap().is_some());
    assert_eq!(storage.tell_translation(&told(&mine[0], Ok("y"))).await, Ok(None));
    assert_eq!(storage.waiting_translations().await.unwrap().count, 2);
}

#[tokio::test]
async fn what_is_wanted_since_too_long_is_found() {
    let database = Database::scratch().await;
    let storage = database.storage();
    said(&storage, 1, &["ar"]).await;
    let (before, now) = (NOW.before(Duration::from_millis(1)), NOW.after(LEASE));
    assert!(storage.claim_translations(Some(before), 9, LEASE, now).await.unwrap().is_empty());
    assert_eq!(storage.claim_translations(Some(NOW), 9, LEASE, now).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_correction_wants_what_its_final_wanted() {
    let database = Database::scratch().await;
    let storage = database.storage();
    said(&storage, 1, &["ar", "de"]).await;
    let first = claim(&storage, 10, NOW).await;
    storage.tell_translation(&told(&first[0], Ok("[ar] old"))).await.unwrap();
    let correction = Revision {
        session: slug("demo"),
        utterance: first[0].utterance.clone(),
        speaker: None,
        text: "Corrected.".to_owned(),
        language: None,
        outside: None,
        said_at: NOW,
        at: NOW,
    };
    storage.revise(&correction).await.unwrap().unwrap();
    assert_eq!(
        storage.tell_translation(&told(&first[1], Ok("[de] old"))).await,
        Ok(None),
        "not wanted any more"
    );
    let second = claim(&storage, 10, NOW).await;
    let wanted: Vec<_> =
        second.iter().map(|it| (it.revision, it.text.as_str(), it.target.as_str())).collect();
    assert_eq!(wanted, [(1, "Corrected.", "ar"), (1, "Corrected.", "de")]);
    storage.tell_translation(&told(&second[0], Ok("[ar] new"))).await.unwrap().unwrap();
    let all = storage.entries_since(&slug("demo"), Sequence(0), 100).await.unwrap();
    let texts: Vec<_> = translations(all).into_iter().map(|it| (it.revision, it.outcome.unwrap())).collect();
    assert_eq!(texts, [(0, "[ar] old".to_owned()), (1, "[ar] new".to_owned())]);
}

#[tokio::test]
async fn many_workers_make_no_translation_twice_and_leave_no_hole() {
    let database = Database::scratch().await;
    let storage = database.storage();
    said(&storage, 20, &["ar", "de", "es"]).await;
    let worker = async |storage: Storage| {
        let mut made = 0;
        loop {
            let claimed = claim(&storage, 4, NOW).await;
            if claimed.is_empty() {
                return made;
            }
            for wanted in claimed {
                let place = storage.tell_translation(&told(&wanted, Ok("x"))).await.unwrap();
                made += usize::from(place.is_some());
            }
        }
    };
    let workers = [database.storage(), database.storage(), database.storage()];
    let [a, b, c] = workers.map(worker);
    let (a, b, c) = tokio::join!(a, b, c);
    assert_eq!(a + b + c, 60);
    let all = storage.entries_since(&slug("demo"), Sequence(0), 1000).await.unwrap();
    let places: Vec<_> = all.iter().map(|entry| entry.sequence().0).collect();
    assert_eq!(places, (1..=80).collect::<Vec<_>>());
}

#[tokio::test]
async fn they_are_deleted_with_their_session() {
    let database = Database::scratch().await;
    let storage = database.storage();
    said(&storage, 2, &["ar"]).await;
    let wanted = claim(&storage, 1, NOW).await;
    storage.tell_translation(&told(&wanted[0], Ok("x"))).await.unwrap();
    let last = claim(&storage, 1, NOW).await;
    let erased = storage.delete_session(&slug("demo"), Erasing::ForGood).await.unwrap().unwrap();
    assert_eq!((erased.count("translations"), erased.count("announcements")), (2, 3));
    assert_eq!(storage.tell_translation(&told(&last[0], Ok("y"))).await, Ok(None));
    assert_eq!(storage.waiting_translations().await.unwrap(), Waiting::default());
    assert!(storage.claim_outbox(10).await.unwrap().rows().is_empty());
}

#[tokio::test]
async fn what_a_person_said_is_erased_in_every_language() {
    let database = Database::scratch().await;
    let storage = database.storage();
    let mut new = new_stream("demo", stream_id(1));
    new.user = Some("u1".parse().unwrap());
    let open = storage.open_stream(&new).await.unwrap();
    let mut said = utterance("demo", stream_id(1), &open, 1);
    said.translate_to = vec!["ar".to_owned()];
    store(&storage, &said).await;
    let wanted = claim(&storage, 1, NOW).await;
    storage.tell_translation(&told(&wanted[0], Ok("x"))).await.unwrap();
    let erased = storage.erase_user(&"u1".parse().unwrap(), Erasing::ForGood).await.unwrap();
    assert_eq!((erased.count("translations"), erased.count("announcements")), (1, 2));
    assert!(storage.entries_since(&slug("demo"), Sequence(0), 10).await.unwrap().is_empty());
}
