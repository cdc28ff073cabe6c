use model::{Sequence, Topic};
use storage::{Announcement, OutboxRow};
use testkit::{Database, eventually};

use crate::{new_stream, slug, store, stream_id, utterance};

fn sequences(rows: &[OutboxRow]) -> Vec<u64> {
    rows.iter().map(|row| row.sequence.0).collect()
}

#[tokio::test]
async fn rows_go_to_one_relay_at_a_time_and_back_when_it_gives_up() {
    let database = Database::scratch().await;
    let storage = database.storage();
    assert_eq!(storage.outbox_oldest().await.unwrap(), None);
    let open = storage.open_stream(&new_stream("demo", stream_id(1))).await.unwrap();
    let mut stored = Vec::new();
    for number in 1..=5 {
        stored.push(store(&storage, &utterance("demo", stream_id(1), &open, number)).await);
    }
    assert_eq!(storage.outbox_oldest().await.unwrap(), Some(stored[0].at));

    let claim = storage.claim_outbox(3).await.unwrap();
    assert_eq!(sequences(claim.rows()), [1, 2, 3]);
    let row = &claim.rows()[0];
    assert_eq!(
        (&row.topic, row.sequence, row.at),
        (&Topic::Session(slug("demo")), Sequence(1), stored[0].at)
    );
    assert_eq!(row.announcement, Announcement::Entry(model::Entry::Final(stored[0].clone())));

    let other = storage.claim_outbox(10).await.unwrap();
    assert_eq!(sequences(other.rows()), [4, 5]);
    other.settle(2).await.unwrap();

    // The first was published, then Redis went away.
    claim.settle(1).await.unwrap();
    let dropped = storage.claim_outbox(10).await.unwrap();
    assert_eq!(sequences(dropped.rows()), [2, 3]);
    drop(dropped);
    eventually("a dropped claim gives its rows back", async || {
        sequences(storage.claim_outbox(10).await.unwrap().rows()) == [2, 3]
    })
    .await;
}

#[tokio::test]
async fn kinds_of_a_later_release_are_left_and_unreadable_rows_do_not_block() {
    let database = Database::scratch().await;
    let storage = database.storage();
    database
        .run(
            r#"INSERT INTO outbox (topic, sequence, payload, created_at) VALUES
                   ('session:demo', 1, '{"kind": "poll"}', now()),
                   ('session:demo', 2, '{"kind": "final", "text": 5}', now())"#,
        )
        .await;
    let claim = storage.claim_outbox(10).await.unwrap();
    assert!(claim.rows().is_empty());
    claim.settle(0).await.unwrap();
    database
        .run(
            "DO $$ BEGIN
                 ASSERT (SELECT array_agg(sequence) = '{1}' FROM outbox), 'only the later release''s row stays';
             END $$",
        )
        .await;
}
