//! Chat as clients of Socket.IO see it, with a real hub.

use std::time::Duration;

use event_bus::Event;
use model::{Clock, Member, RoomId, RoomSign, SeatId, Topic};
use serde_json::{Value, json};
use testkit::{eventually, tokens};
use uuid::Uuid;
use ws_edge::Running;

use crate::{
    guest::{Came, Guest},
    hub::ChatStage,
    stage::{SERVICE_KEY, Stage, USER_SECRET},
};

/// Somebody who has proved nothing, under a name; past everything that it is told at first.
async fn named(edge: &Running, name: &str) -> (Guest, String) {
    let mut guest = Guest::enter(edge.address, json!({})).await.unwrap();
    guest.said("connected").await;
    guest.emit("setUsername", json!(name)).await;
    let user = guest.said("connected").await["userId"].as_str().unwrap().to_owned();
    guest.said("messageHistory").await;
    guest.said("roomUsers").await;
    (guest, user)
}

/// A user with a token, in the general room; past everything that it is told at first.
async fn user(stage: &Stage, edge: &Running, user: &str) -> Guest {
    let auth = json!({"token": stage.user_token(user), "username": user.to_uppercase()});
    let mut guest = Guest::enter(edge.address, auth).await.unwrap();
    assert_eq!(guest.said("connected").await, json!({"userId": user, "username": user.to_uppercase()}));
    guest.said("messageHistory").await;
    guest.said("roomUsers").await;
    guest
}

fn names(users: &Value) -> Vec<&str> {
    users.as_array().unwrap().iter().map(|user| user["username"].as_str().unwrap()).collect()
}

fn contents(messages: &Value) -> Vec<&str> {
    messages.as_array().unwrap().iter().map(|message| message["content"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn events_come_in_the_order_and_the_shapes_of_system_b() {
    let chat = ChatStage::open().await;
    let edge = &chat.stage.running;
    let mut ada = Guest::enter(edge.address, json!({})).await.unwrap();
    let first = json!({"userId": ada.sid, "username": format!("User-{}", &ada.sid[..6])});
    assert_eq!(ada.said("connected").await, first);
    ada.emit("sendMessage", json!({"content": "too early"})).await;
    assert_eq!(ada.said("error").await, "Please set your username first");
    ada.emit("setUsername", json!("  ")).await;
    assert_eq!(ada.said("error").await, "Failed to set username. Please try again.");
    ada.emit("setUsername", json!(" Ada ")).await;
    let connected = ada.said("connected").await;
    let id: Uuid = connected["userId"].as_str().unwrap().parse().unwrap();
    assert_eq!((&connected["username"], id.get_version_num()), (&json!("Ada"), 4));
    assert_eq!(ada.said("messageHistory").await, json!([]));
    let users = ada.said("roomUsers").await;
    assert_eq!(names(&users), ["Ada"]);
    assert_eq!((&users[0]["id"], &users[0]["isOnline"]), (&connected["userId"], &json!(true)), "{users}");
    assert!(users[0]["joinedAt"].as_str().unwrap().ends_with('Z') && users[0]["lastSeen"].is_string());

    ada.emit("sendMessage", json!({"content": " Hello. "})).await;
    let message = ada.said("message").await;
    assert_eq!(
        (&message["userId"], &message["username"], &message["content"], &message["type"], &message["roomId"]),
        (&connected["userId"], &json!("Ada"), &json!("Hello."), &json!("text"), &json!("general"))
    );
    assert!(message["id"].is_string() && message["timestamp"].as_str().unwrap().ends_with('Z'));

    let mut bob = Guest::enter(edge.address, json!({})).await.unwrap();
    bob.said("connected").await;
    bob.emit("setUsername", json!("Bob")).await;
    let of_bob = bob.said("connected").await["userId"].clone();
    assert_eq!(bob.said("messageHistory").await, json!([message]));
    assert_eq!(names(&bob.said("roomUsers").await), ["Ada", "Bob"]);
    let joined = ada.said("userJoined").await;
    assert_eq!((&joined["id"], &joined["username"]), (&of_bob, &json!("Bob")));
    bob.emit("typing", json!(true)).await;
    assert_eq!(
        ada.said("userTyping").await,
        json!({"userId": of_bob, "username": "Bob", "isTyping": true, "roomId": "general"})
    );
    bob.emit("sendMessage", json!({"content": "Hi."})).await;
    assert_eq!(bob.said("message").await, ada.said("message").await);
    // Again: the same id, and who is there is told to everybody.
    bob.emit("setUsername", json!("Robert")).await;
    assert_eq!(bob.said("connected").await, json!({"userId": of_bob, "username": "Robert"}));
    assert_eq!(names(&ada.said("roomUsers").await), ["Ada", "Robert"]);
    bob.vanish();
    assert_eq!(ada.said("userLeft").await, of_bob);
    assert_eq!(names(&ada.said("roomUsers").await), ["Ada"]);
    ada.quiet().await;
    chat.end().await;
}

#[tokio::test]
async fn who_somebody_is_a_token_says() {
    let chat = ChatStage::with(&[]).await;
    let (stage, edge) = (&chat.stage, &chat.stage.running);
    let of = |auth: Value| Guest::enter(edge.address, auth);
    let follower = tokens::follow_only(&stage.secret, &stage.session, "carol");
    for (auth, reason) in [
        (json!({}), "unauthenticated: "),
        (json!({"token": "x"}), "unauthenticated: "),
        (json!({"token": tokens::of_user(&USER_SECRET.into(), "u1", -60)}), "expired: "),
        (
            json!({"token": stage.user_token("u1"), "room": format!("session:{}", stage.session)}),
            "forbidden: ",
        ),
        (json!({"token": stage.token("alice"), "room": "general"}), "forbidden: "),
        (json!({"token": stage.token("alice"), "sessionSlug": "other"}), "forbidden: "),
        (json!({"token": stage.user_token("u1"), "since": "x"}), "caller: "),
        (json!({"token": stage.user_token("u1"), "username": "a\nb"}), "caller: "),
    ] {
        let denied = of(auth.clone()).await.err().unwrap();
        assert!(denied.starts_with(reason), "{auth}: {denied}");
    }
    // A token alone says who, and joins nothing.
    let mut plain = of(json!({"token": stage.user_token("u1")})).await.unwrap();
    assert_eq!(plain.said("connected").await, json!({"userId": "u1", "username": "u1"}));
    let said = plain.done("sendMessage", json!({"content": "unseen"})).await;
    assert_eq!((&said["message"]["userId"], &said["message"]["username"]), (&json!("u1"), &json!("u1")));
    plain.quiet().await;

    // One of a session is in its room and in no other.
    let session = format!("session:{}", stage.session);
    let mut alice = of(json!({"token": stage.token("alice")})).await.unwrap();
    assert_eq!(alice.said("connected").await["userId"], "alice");
    let room = json!({"roomId": session});
    assert_eq!(alice.event().await, ("messageHistory".to_owned(), vec![json!([]), room.clone()]));
    let (name, users) = alice.event().await;
    assert_eq!((name.as_str(), names(&users[0]), &users[1]), ("roomUsers", vec!["alice"], &room));
    for data in
        [json!({"content": "x", "roomId": "general"}), json!({"content": "x", "roomId": "session:other"})]
    {
        assert_eq!(alice.refused("sendMessage", data).await, "forbidden");
    }
    assert_eq!(alice.refused("joinRoom", json!("general")).await, "forbidden");
    assert_eq!(plain.refused("joinRoom", json!(session)).await, "forbidden");
    assert_eq!(plain.refused("requestHistory", json!(session)).await, "forbidden");

    // Who only reads is told everything, says nothing and is not there.
    let mut carol = of(json!({"token": follower})).await.unwrap();
    assert_eq!(carol.said("connected").await["userId"], "carol");
    assert_eq!(carol.event().await.0, "messageHistory");
    assert_eq!(names(&carol.event().await.1[0]), ["alice"]);
    for (event, data) in [
        ("setUsername", json!("Carol")),
        ("sendMessage", json!({"content": "x"})),
        ("typing", json!(true)),
        ("deleteMessage", json!({"id": said["message"]["id"]})),
    ] {
        assert_eq!(carol.refused(event, data).await, "forbidden", "{event}");
    }
    alice.done("sendMessage", json!({"content": "to the session"})).await;
    let message = carol.said("message").await;
    assert_eq!((&message["content"], &message["roomId"]), (&json!("to the session"), &json!(session)));

    // A trusted back end may say something anywhere.
    let mut service = of(json!({"token": SERVICE_KEY, "username": "Bot", "room": session})).await.unwrap();
    assert_eq!(service.said("connected").await, json!({"userId": "service", "username": "Bot"}));
    service.done("sendMessage", json!({"content": "beep"})).await;
    assert_eq!(carol.expect("message").await["username"], "Bot");
    chat.end().await;
}

#[tokio::test]
async fn a_guest_with_a_key_keeps_its_id_and_its_messages() {
    let chat = ChatStage::open().await;
    let edge = &chat.stage.running;
    let auth = json!({"guestKey": "a key of sixteen bytes or more", "username": "Ada"});
    let mut ada = Guest::enter(edge.address, auth.clone()).await.unwrap();
    assert_eq!(ada.said("connected").await["userId"], ada.sid.as_str());
    let id = ada.said("connected").await["userId"].clone();
    ada.expect("roomUsers").await;
    let said = ada.done("sendMessage", json!({"content": "mine"})).await;
    let mut again = Guest::enter(edge.address, auth).await.unwrap();
    again.said("connected").await;
    assert_eq!(again.said("connected").await["userId"], id);
    again.said("messageHistory").await;
    assert_eq!(names(&again.said("roomUsers").await), ["Ada"], "one user, twice here");
    let edit = json!({"id": said["message"]["id"], "content": "still mine"});
    assert_eq!(again.done("editMessage", edit).await["message"]["content"], "still mine");
    ada.vanish();
    let (mut bob, of_bob) = named(edge, "Bob").await;
    assert_eq!(again.expect("userJoined").await["id"], of_bob.as_str());
    again.vanish();
    assert_eq!(bob.expect("userLeft").await, id, "with the last of its connections");
    assert!(Guest::enter(edge.address, json!({"guestKey": "short"})).await.is_err());
    chat.end().await;
}

#[tokio::test]
async fn messages_are_answered_changed_and_taken_back_by_their_authors() {
    let chat = ChatStage::with(&[]).await;
    let (stage, edge) = (&chat.stage, &chat.stage.running);
    let (mut ada, mut bob) = (user(stage, edge, "ada").await, user(stage, edge, "bob").await);
    ada.said("userJoined").await;
    let first = ada.done("sendMessage", json!({"content": "one", "clientMessageId": "c1"})).await;
    let again = ada.done("sendMessage", json!({"content": "one", "clientMessageId": "c1"})).await;
    assert_eq!(first["message"]["id"], again["message"]["id"]);
    let id = first["message"]["id"].clone();
    let image = json!({"content": "https://example.com/cat.png", "type": "image", "replyTo": id,
        "metadata": {"width": 3}});
    bob.done("sendMessage", image).await;
    let one = bob.said("message").await;
    assert_eq!((&one["id"], &one["clientMessageId"]), (&id, &json!("c1")));
    let cat = bob.said("message").await;
    assert_eq!(
        (&cat["type"], &cat["replyTo"], &cat["metadata"]),
        (&json!("image"), &id, &json!({"width": 3}))
    );

    for (event, data, code) in [
        ("editMessage", json!({"id": id, "content": "stolen"}), "not_author"),
        ("deleteMessage", json!({"id": id}), "not_author"),
        ("editMessage", json!({"id": cat["id"], "content": "a dog"}), "only_text_edited"),
        ("editMessage", json!({"id": Uuid::new_v4(), "content": "x"}), "message_unknown"),
        ("editMessage", json!({"id": id, "content": "x", "roomId": "team"}), "message_unknown"),
        ("sendMessage", json!({"content": "x", "replyTo": Uuid::new_v4()}), "reply_unknown"),
        ("sendMessage", json!({"content": "x", "replyTo": id, "roomId": "team"}), "reply_unknown"),
        ("sendMessage", json!({"content": "javascript:alert(1)", "type": "file"}), "link_invalid"),
        ("sendMessage", json!({"content": "x".repeat(8_193)}), "text_invalid"),
        ("joinRoom", json!({"roomId": "x".repeat(129)}), "room_invalid"),
        ("typing", json!({"isTyping": true, "roomId": "team"}), "not_joined"),
        ("dance", json!({}), "unknown_event"),
    ] {
        assert_eq!(bob.refused(event, data.clone()).await, code, "{event} {data}");
    }
    ada.done("editMessage", json!({"id": id, "content": "One."})).await;
    let edited = bob.said("messageEdited").await;
    assert_eq!((&edited["id"], &edited["content"]), (&id, &json!("One.")));
    assert!(edited["editedAt"].is_string() && edited["position"] == one["position"]);
    ada.done("deleteMessage", json!({"id": id})).await;
    let deleted = bob.said("messageDeleted").await;
    assert_eq!((&deleted["id"], &deleted["content"]), (&id, &json!("")));

    let ack = bob.done("requestHistory", Value::Null).await;
    assert_eq!((&ack["sequence"], &ack["more"]), (&deleted["sequence"], &json!(false)));
    assert_eq!(bob.said("messageHistory").await, json!([cat]), "what was taken back is not in it");
    chat.end().await;
}

#[tokio::test]
async fn every_room_has_its_own_people_and_its_own_past() {
    let chat = ChatStage::with(&[("WS_CHANNELS_MAX", "3")]).await;
    let (stage, edge) = (&chat.stage, &chat.stage.running);
    let (mut ada, mut bob) = (user(stage, edge, "ada").await, user(stage, edge, "bob").await);
    ada.said("userJoined").await;
    assert_eq!(ada.done("joinRoom", json!("team")).await["roomId"], "team");
    let team = json!({"roomId": "team"});
    assert_eq!(ada.event().await, ("messageHistory".to_owned(), vec![json!([]), team.clone()]));
    let (name, users) = ada.event().await;
    assert_eq!((name.as_str(), names(&users[0]), &users[1]), ("roomUsers", vec!["ADA"], &team));
    for number in 0..3 {
        ada.done("sendMessage", json!({"content": number.to_string(), "roomId": "team"})).await;
        assert_eq!(ada.said("message").await["content"], number.to_string());
    }
    // Not in the room: not told.
    bob.quiet().await;
    bob.done("joinRoom", json!({"roomId": "team"})).await;
    let (_, history) = bob.event().await;
    assert_eq!(contents(&history[0]), ["2", "1", "0"], "newest first");
    assert!(history[0].as_array().unwrap().iter().all(|message| message["username"] == "ADA"));
    assert_eq!(names(&bob.event().await.1[0]), ["ADA", "BOB"]);
    let joined = ada.expect("userJoined").await;
    assert_eq!((&joined["id"], &joined["roomId"]), (&json!("bob"), &json!("team")));
    bob.done("typing", json!({"isTyping": true, "roomId": "team"})).await;
    assert_eq!(ada.said("userTyping").await["roomId"], "team");
    bob.done("leaveRoom", json!("team")).await;
    assert_eq!(ada.event().await, ("userLeft".to_owned(), vec![json!("bob"), team.clone()]));
    assert_eq!(ada.event().await.0, "roomUsers");
    ada.done("sendMessage", json!({"content": "without Bob", "roomId": "team"})).await;
    ada.said("message").await;
    bob.quiet().await;

    // Older pages, of rooms that it has left as well.
    let ack = bob.done("requestHistory", json!({"roomId": "team", "limit": 1, "before": 4})).await;
    assert_eq!((&ack["more"], &ack["sequence"]), (&json!(true), &json!(4)));
    assert_eq!(bob.event().await, ("messageHistory".to_owned(), vec![bob_page("2", &history[0]), team]));
    bob.done("joinRoom", json!("a")).await;
    bob.done("joinRoom", json!("b")).await;
    assert_eq!(bob.refused("joinRoom", json!("c")).await, "too_many_rooms");
    bob.done("joinRoom", json!("a")).await;
    chat.end().await;
}

#[tokio::test]
async fn whoever_waits_for_nothing_is_told_everything_in_its_order() {
    let chat = ChatStage::open().await;
    for round in 0..5 {
        let mut ada = Guest::enter(chat.stage.running.address, json!({})).await.unwrap();
        let room = format!("room {round}");
        ada.emit("setUsername", json!("Ada")).await;
        ada.emit("joinRoom", json!(room)).await;
        ada.emit("sendMessage", json!({"content": "first", "roomId": room})).await;
        ada.emit("requestHistory", json!(room)).await;
        let mut told = Vec::new();
        while told.len() < 3 {
            let (name, args) = ada.event().await;
            match name.as_str() {
                "messageHistory" if args.len() == 2 => told.push((name, contents(&args[0]).len())),
                "message" => told.push((name, 0)),
                _ => {}
            }
        }
        let (joined, asked) = (("messageHistory".to_owned(), 0), ("messageHistory".to_owned(), 1));
        let message = ("message".to_owned(), 0);
        // The bus may ring before or after the hub has answered.
        assert!(told == [joined.clone(), message.clone(), asked.clone()] || told == [joined, asked, message]);
    }
    chat.end().await;
}

fn bob_page(content: &str, history: &Value) -> Value {
    let found = history.as_array().unwrap().iter().find(|message| message["content"] == content);
    json!([found.unwrap()])
}

#[tokio::test]
async fn whoever_comes_back_is_told_what_it_missed_and_nothing_twice() {
    let chat = ChatStage::with(&[]).await;
    let (stage, edge) = (&chat.stage, &chat.stage.running);
    let mut ada = user(stage, edge, "ada").await;
    let mut said = Vec::new();
    for number in 0..5 {
        said.push(ada.done("sendMessage", json!({"content": number.to_string()})).await["message"].clone());
    }
    let id = |index: usize| said[index]["id"].clone();
    // Known to whoever comes back: 0 and 1. Of these one is changed and one is taken back; of the others, too.
    ada.done("editMessage", json!({"id": id(0), "content": "zero"})).await;
    ada.done("deleteMessage", json!({"id": id(1)})).await;
    ada.done("editMessage", json!({"id": id(2), "content": "two"})).await;
    ada.done("deleteMessage", json!({"id": id(3)})).await;
    let since = &said[1]["sequence"];
    let auth = json!({"token": stage.user_token("bob"), "username": "Bob", "since": since});
    let mut bob = Guest::enter(edge.address, auth).await.unwrap();
    bob.said("connected").await;
    let told = async |guest: &mut Guest| {
        let mut told = Vec::new();
        loop {
            let (name, args) = guest.event().await;
            if name == "roomUsers" {
                return told;
            }
            told.push((name, args[0]["content"].as_str().unwrap().to_owned()));
        }
    };
    let event = |name: &str, content: &str| (name.to_owned(), content.to_owned());
    let missed = vec![
        event("message", "4"),
        event("messageEdited", "zero"),
        event("messageDeleted", ""),
        event("message", "two"),
    ];
    assert_eq!(told(&mut bob).await, missed);
    // The same on an open connection, and what lives goes on behind it.
    bob.emit("joinRoom", json!({"roomId": "general", "since": since})).await;
    ada.done("sendMessage", json!({"content": "live"})).await;
    let again = told(&mut bob).await;
    assert_eq!(again[..4], missed[..]);
    if again.len() == 4 {
        assert_eq!(bob.said("message").await["content"], "live");
    } else {
        assert_eq!(again[4..], [event("message", "live")]);
    }
    bob.done("requestHistory", json!({"since": 1_000})).await;
    assert_eq!(bob.said("resync").await, json!({"roomId": "general"}), "nobody was ever so far");
    ada.done("sendMessage", json!({"content": "after that"})).await;
    assert_eq!(bob.said("message").await["content"], "after that");
    bob.quiet().await;
    chat.end().await;
}

#[tokio::test]
async fn two_edges_are_one_room() {
    let chat = ChatStage::with(&[]).await;
    let stage = &chat.stage;
    let (other_life, other) = stage.another().await;
    let mut ada = user(stage, &stage.running, "ada").await;
    let mut bob = user(stage, &other, "bob").await;
    assert_eq!(ada.said("userJoined").await["id"], "bob");
    for round in 0..5 {
        ada.done("sendMessage", json!({"content": format!("ada {round}")})).await;
        bob.done("sendMessage", json!({"content": format!("bob {round}")})).await;
    }
    let read = async |guest: &mut Guest| {
        let mut messages = Vec::new();
        while messages.len() < 10 {
            messages.push(guest.said("message").await);
        }
        messages
    };
    let (of_ada, of_bob) = (read(&mut ada).await, read(&mut bob).await);
    assert_eq!(of_ada, of_bob, "the same, in the same order");
    let sequences: Vec<u64> = of_ada.iter().map(|message| message["sequence"].as_u64().unwrap()).collect();
    assert!(sequences.is_sorted_by(|one, next| one + 1 == *next), "{sequences:?}");
    bob.emit("typing", json!(true)).await;
    assert_eq!(ada.said("userTyping").await["userId"], "bob");

    // Whoever was on an edge that ends comes back on another.
    assert_eq!(other_life.end(Duration::from_secs(5)).await, Ok(()));
    let (events, end) = bob.ended().await;
    assert_eq!((events.last().map(|(name, _)| name.as_str()), end), (Some("reconnect"), Came::Closed));
    assert_eq!(ada.said("userLeft").await, "bob");
    assert_eq!(names(&ada.said("roomUsers").await), ["ADA"]);
    ada.done("sendMessage", json!({"content": "meanwhile"})).await;
    let last = of_bob.last().unwrap();
    let auth = json!({"token": stage.user_token("bob"), "username": "Bob", "since": last["sequence"]});
    let mut bob = Guest::enter(stage.running.address, auth).await.unwrap();
    bob.said("connected").await;
    assert_eq!(bob.said("message").await["content"], "meanwhile");
    assert_eq!(names(&bob.said("roomUsers").await), ["ADA", "Bob"]);
    chat.end().await;
}

#[tokio::test]
async fn the_people_of_an_edge_that_died_are_gone_when_its_word_ends() {
    let chat = ChatStage::with(&[]).await;
    let stage = &chat.stage;
    // An edge that wrote its people down and will not do so again: its word ends in a moment.
    let general = RoomId::general();
    let (seat, member) = (
        SeatId(Uuid::new_v4()),
        Member { user: "zoe".parse().unwrap(), name: "Zoe".to_owned(), joined_at: Clock::system().now() },
    );
    let long_ago = Clock::system().now().before(event_bus::PRESENCE_LIFE - Duration::from_secs(5));
    stage.bus.enter_room(&general, &[(seat, member.clone())], long_ago).await.unwrap();
    let auth = json!({"token": stage.user_token("ada"), "username": "Ada"});
    let mut ada = Guest::enter(stage.running.address, auth).await.unwrap();
    ada.said("connected").await;
    ada.said("messageHistory").await;
    assert_eq!(names(&ada.said("roomUsers").await).len(), 2);
    eventually("its word has ended", async || {
        stage.bus.room_members(&general, Clock::system().now(), 10).await.unwrap().members.len() == 1
    })
    .await;
    // Found out in the next round; here, since somebody rings.
    let sign = Event::Sign { sign: RoomSign::Left { user: member.user }, from: seat };
    stage.bus.publish(&Topic::Room(general), &sign).await.unwrap();
    assert_eq!(ada.said("userLeft").await, "zoe");
    assert_eq!(names(&ada.said("roomUsers").await), ["Ada"]);
    chat.end().await;
}

#[tokio::test]
async fn a_hub_that_is_away_is_told_and_costs_no_message() {
    let chat = ChatStage::with(&[]).await;
    let (stage, edge) = (&chat.stage, &chat.stage.running);
    let mut ada = user(stage, edge, "ada").await;
    ada.done("sendMessage", json!({"content": "before"})).await;
    ada.said("message").await;
    chat.cable.cut();
    ada.emit("sendMessage", json!({"content": "lost"})).await;
    assert_eq!(ada.said("error").await, "Failed to send message");
    ada.emit("requestHistory", Value::Null).await;
    assert_eq!(ada.said("error").await, "Failed to load message history");
    let refused = ada.ask("sendMessage", json!({"content": "lost"})).await;
    assert_eq!((&refused["code"], refused["retryAfterMs"].is_u64()), (&json!("unavailable"), true));
    // Somebody comes meanwhile: who is there is told, and the past once there is a hub.
    let auth = json!({"token": stage.user_token("bob"), "username": "Bob"});
    let mut bob = Guest::enter(edge.address, auth).await.unwrap();
    bob.said("connected").await;
    assert_eq!(bob.said("error").await, "Failed to load message history");
    assert_eq!(names(&bob.said("roomUsers").await), ["ADA", "Bob"]);
    assert_eq!(ada.said("userJoined").await["id"], "bob");
    chat.cable.mend();
    assert_eq!(contents(&bob.said("messageHistory").await), ["before"]);
    eventually("the hub is back", async || {
        ada.ask("sendMessage", json!({"content": "after", "clientMessageId": "c"})).await["ok"] == true
    })
    .await;
    assert_eq!(bob.said("message").await["content"], "after");
    chat.end().await;
}

#[tokio::test]
async fn nonsense_and_floods_are_answered_and_then_ended() {
    let chat = ChatStage::with(&[("WS_MESSAGES_PER_SECOND", "10"), ("CHAT_ANONYMOUS", "true")]).await;
    let (stage, edge) = (&chat.stage, &chat.stage.running);
    let (mut other, _) = named(edge, "Other").await;
    let mut odd = user(stage, edge, "odd").await;
    for packet in [
        r#"42["sendMessage"]"#,
        r#"42["sendMessage",1,2,3]"#,
        r#"42["joinRoom",{"roomId":{"a":[]}}]"#,
        r#"42["typing","maybe"]"#,
        r#"42["",null]"#,
        r#"42["__proto__",{"a":1}]"#,
        r#"42[" sendMessage",{"content":"x"}]"#,
    ] {
        odd.send(packet.to_owned()).await;
    }
    assert_eq!(odd.refused("dance", json!({})).await, "unknown_event");
    for _ in 0..4 {
        odd.said("error").await;
    }
    // In a row.
    for _ in 0..30 {
        odd.emit("joinRoom", json!(7)).await;
    }
    let (_, end) = odd.ended().await;
    assert_eq!(end, Came::Out, "it is not to come back by itself");

    let mut flood = user(stage, edge, "flood").await;
    for _ in 0..10_000 {
        flood.emit("typing", json!(true)).await;
    }
    let (events, end) = flood.ended().await;
    let often =
        events.iter().filter(|(name, args)| name == "error" && args[0] == "Too many messages").count();
    assert!((1..200).contains(&often), "{often}");
    assert!(matches!(end, Came::Out | Came::Closed), "{end:?}");
    other.done("sendMessage", json!({"content": "calm"})).await;
    chat.end().await;
}

#[tokio::test]
async fn writing_is_told_no_more_often_than_it_can_be_seen() {
    let chat = ChatStage::open().await;
    let (mut ada, _) = named(&chat.stage.running, "Ada").await;
    let (mut bob, _) = named(&chat.stage.running, "Bob").await;
    ada.expect("userJoined").await;
    let mut refused = None;
    for round in 0..50 {
        let ack = ada.ask("typing", json!(round % 2 == 0)).await;
        if ack["ok"] == false {
            refused = Some(ack);
        }
    }
    let refused = refused.expect("one of so many at once");
    assert_eq!((&refused["code"], refused["retryAfterMs"].is_u64()), (&json!("rate_limited"), true));
    ada.quiet().await;
    bob.expect("userTyping").await;
    chat.end().await;
}

#[tokio::test]
async fn a_token_ends_the_namespace_unless_it_is_refreshed() {
    let chat = ChatStage::with(&[]).await;
    let edge = &chat.stage.running;
    let of = |user: &str, lifetime| tokens::of_user(&USER_SECRET.into(), user, lifetime);
    let enter = async |token: String| {
        let mut guest = Guest::enter(edge.address, json!({"token": token, "username": "Ada"})).await.unwrap();
        guest.expect("roomUsers").await;
        guest
    };
    let (mut lost, mut kept) = (enter(of("u1", 2)).await, enter(of("u1", 2)).await);
    for (token, code) in
        [(of("u2", 60), "forbidden"), (of("u1", -60), "expired"), ("x".to_owned(), "unauthenticated")]
    {
        assert_eq!(kept.refused("refresh", json!(token)).await, code);
    }
    assert!(kept.done("refresh", json!({"token": of("u1", 60)})).await["expiresAt"].is_number());
    let (events, end) = lost.ended().await;
    let last = events.last().unwrap();
    assert_eq!((last.0.as_str(), end), ("error", Came::Out), "it must not come back with the same token");
    assert!(last.1[0].as_str().unwrap().contains("expired"));
    kept.done("sendMessage", json!({"content": "still here"})).await;
    chat.end().await;
}

#[tokio::test]
async fn whoever_does_not_read_loses_its_connection_and_nobody_else_does() {
    let chat = ChatStage::with(&[
        ("FOLLOWER_QUEUE", "4"),
        ("WRITE_LIMIT_MS", "200"),
        ("WS_MESSAGES_PER_SECOND", "1000"),
    ])
    .await;
    let (stage, edge) = (&chat.stage, &chat.stage.running);
    let mut ada = user(stage, edge, "ada").await;
    // It enters and never reads again.
    let deaf =
        Guest::enter(edge.address, json!({"token": stage.user_token("deaf"), "username": "Deaf"})).await;
    let deaf = deaf.unwrap();
    ada.said("userJoined").await;
    let text = "x".repeat(8_000);
    let mut gone = false;
    for _ in 0..3_000 {
        ada.emit("sendMessage", json!({"content": text})).await;
        loop {
            match ada.event().await {
                (name, _) if name == "message" => break,
                (name, args) if name == "error" => panic!("{args:?}"),
                (name, args) => gone |= name == "userLeft" && args[0] == "deaf",
            }
        }
        if gone {
            break;
        }
    }
    assert!(gone, "it is not waited for");
    deaf.vanish();
    chat.end().await;
}
