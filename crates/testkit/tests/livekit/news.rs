use livekit::{Event, WebhookError, Webhooks};
use model::Clock;
use testkit::{LiveKitServer, livekit::Delivery};

use crate::{client, news_sink::NewsSink, settings_of, track_sink::TrackSink};

async fn listening(server: &LiveKitServer, faults: usize) -> NewsSink {
    let sink = NewsSink::start(Webhooks::new(&settings_of(server), Clock::system()), faults).await;
    server.webhooks_to(sink.url());
    sink
}

#[tokio::test]
async fn whatever_happens_in_a_room_is_told_in_order() {
    let server = LiveKitServer::start().await;
    let news = listening(&server, 2).await;
    let sink = TrackSink::start().await;
    let room = server.room("demo");
    let track = room.join("alice", "Alice").publish();
    let started = client(&server).start_track_egress("demo", track.id(), &sink.url("")).await.unwrap();
    let told = news.wait(5).await;
    let egress = told[3].clone().unwrap();
    assert_eq!((egress.room.as_deref(), egress.egress_id), (Some("demo"), Some(started.id)));
    assert!(egress.created_at.is_some());
    assert_eq!(egress.room_sid, told[0].clone().unwrap().room_sid);
    room.finish();
    use Event::{EgressEnded, EgressStarted, EgressUpdated, ParticipantJoined, RoomStarted, TrackPublished};
    let events = news.events(9).await;
    let before = [RoomStarted, ParticipantJoined, TrackPublished, EgressStarted, EgressUpdated];
    assert_eq!(events[..5], before);
    // The egress ends in its own time.
    let of_room: Vec<_> = events[5..].iter().filter(|event| **event != EgressEnded).collect();
    assert_eq!(of_room, [&Event::TrackUnpublished, &Event::ParticipantLeft, &Event::RoomFinished]);
}

#[tokio::test]
async fn news_come_twice_late_forged_and_never_when_a_test_wants_so() {
    let server = LiveKitServer::start().await;
    let news = listening(&server, 0).await;
    server.deliver_next([
        Delivery::Twice,
        Delivery::AfterNext,
        Delivery::Once,
        Delivery::BadSignature,
        Delivery::Lost,
    ]);
    let room = server.room("demo");
    let alice = room.join("alice", "Alice");
    let track = alice.publish();
    track.unpublish();
    alice.leave();
    room.join("bob", "Bob");
    let told = news.wait(6).await;
    let events: Vec<_> = told.iter().map(|read| read.as_ref().map(|event| event.event)).collect();
    let expected = [
        Ok(Event::RoomStarted),
        Ok(Event::RoomStarted),
        Ok(Event::TrackPublished),
        Ok(Event::ParticipantJoined),
        Err(&WebhookError::Token),
        Ok(Event::ParticipantJoined),
    ];
    assert_eq!(events, expected);
    let id = |place: usize| told[place].as_ref().unwrap().id.clone();
    assert_eq!(id(0), id(1));
    assert_ne!(id(3), id(5));
}
