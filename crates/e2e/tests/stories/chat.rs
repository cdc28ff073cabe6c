//! People chat, with the libraries of Socket.IO that apps have, beside captions, and on several edges.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::{Deref, DerefMut},
    time::Duration,
};

use e2e::{Client, LIBRARIES, Library, POLLING, Peer, Plan, Script, Stack, UPGRADE, User, WEBSOCKET, binary};
use reqwest::Method;
use serde_json::{Value, json};
use testkit::free_port;
use tokio::time::{sleep, timeout};

/// How long it takes until somebody whose edge has died is gone, and more.
const GONE_LIMIT: Duration = Duration::from_secs(120);

/// What a user says of itself when it enters.
fn says(user: &User, name: &str, room: &str) -> Value {
    json!({"token": user.token(), "username": name, "room": room})
}

/// A user in a room.
struct Guest {
    peer: Peer,
    /// Who is in the room by what it was told: names by id.
    people: BTreeMap<String, String>,
}

impl Guest {
    /// Enters, and has been told what was said before.
    async fn enter(library: Library, port: u16, transports: &[&str], says: &Value) -> Self {
        let mut peer = Peer::start(library, port, transports, &["/"], says);
        let connected = peer.event("connected").await;
        assert_eq!(connected["username"], says["username"], "{library:?}: {connected}");
        peer.event("messageHistory").await;
        Self { peer, people: BTreeMap::new() }
    }

    /// Waits until exactly these are in the room by what it was told: a list, and then who comes and who goes.
    async fn sees(&mut self, expected: &[&str]) {
        let expected: BTreeSet<&str> = expected.iter().copied().collect();
        while self.people.values().map(String::as_str).collect::<BTreeSet<_>>() != expected {
            let is_about_people = |line: &Value| {
                ["roomUsers", "userJoined", "userLeft"].iter().any(|name| line["name"] == *name)
            };
            let line = self.peer.find("who is in the room", is_about_people).await;
            let said = &line["args"][0];
            let text = |value: &Value| value.as_str().expect("text").to_owned();
            let user = |user: &Value| (text(&user["id"]), text(&user["username"]));
            match line["name"].as_str() {
                Some("roomUsers") => self.people = said.as_array().expect("users").iter().map(user).collect(),
                Some("userJoined") => self.people.extend([user(said)]),
                _ => drop(self.people.remove(&text(said))),
            }
        }
    }
}

impl Deref for Guest {
    type Target = Peer;

    fn deref(&self) -> &Peer {
        &self.peer
    }
}

impl DerefMut for Guest {
    fn deref_mut(&mut self) -> &mut Peer {
        &mut self.peer
    }
}

/// Asks again for as long as it is told to wait.
async fn ask(peer: &mut Peer, said: Value) -> Value {
    loop {
        let answer = peer.ask(said.clone()).await;
        match answer["retryAfterMs"].as_u64() {
            Some(wait) => sleep(Duration::from_millis(wait)).await,
            None => return answer,
        }
    }
}

/// Says something and is told that it is stored; the message.
async fn say(peer: &mut Peer, content: &str) -> Value {
    let mut answer = ask(peer, json!(["sendMessage", {"content": content}])).await;
    assert_eq!(answer["ok"], true, "{answer}");
    answer["message"].take()
}

/// The contents of what is said, up to the last.
async fn heard(peer: &mut Peer, last: &str) -> Vec<String> {
    let mut contents = Vec::new();
    while contents.last().is_none_or(|content| content != last) {
        let message = peer.event("message").await;
        contents.push(message["content"].as_str().unwrap().to_owned());
    }
    contents
}

#[tokio::test]
async fn its_own_test_passes_over_websockets_alone() {
    let chat = free_port();
    let stack = Stack::set(&[("CHAT_ANONYMOUS", "true"), ("CHAT_PORT", &chat.to_string())]).await;
    let [front, edge] = stack.doors();
    for port in [chat, front, edge] {
        let argument = json!({"url": format!("http://localhost:{port}"), "room": format!("room-{port}")});
        let told = Script::start("chat.js", &argument).end().await;
        assert!(told[0]["checks"].as_u64().unwrap() > 50, "{told:?}");
    }
    // Who has proved nothing is refused unless that is asked for.
    drop(stack);
    let closed = Stack::start().await;
    let mut nobody = Peer::start(
        Library::Npm(4),
        closed.nginx.http_port,
        WEBSOCKET,
        &["/"],
        &json!({"username": "Nobody"}),
    );
    assert!(nobody.next("refused").await["message"].as_str().unwrap().starts_with("unauthenticated: "));
}

#[tokio::test]
async fn every_library_and_transport_chats_in_one_room() {
    let stack = Stack::start().await;
    let port = stack.nginx.http_port;
    let mut peers = Vec::new();
    for library in LIBRARIES {
        for transports in [WEBSOCKET, POLLING, UPGRADE] {
            let name = format!("{library:?} {}", transports.join(", "));
            let says = says(&stack.user(), &name, "team");
            peers.push((Guest::enter(library, port, transports, &says).await, name));
        }
    }
    let everybody: Vec<_> = peers.iter().map(|(_, name)| name.clone()).collect();
    let everybody: Vec<&str> = everybody.iter().map(String::as_str).collect();
    let mut said = Vec::new();
    for (guest, name) in &mut peers {
        guest.sees(&everybody).await;
        let message = say(guest, &format!("{name} says hello")).await;
        assert_eq!((&message["username"], &message["roomId"]), (&json!(name), &json!("team")));
        assert!(
            said.last().is_none_or(|last: &Value| last["sequence"].as_u64() < message["sequence"].as_u64())
        );
        said.push(message);
    }
    let contents: Vec<_> = said.iter().map(|message| message["content"].as_str().unwrap()).collect();
    for (peer, name) in &mut peers {
        let mut told = Vec::new();
        while told.len() < said.len() {
            told.push(peer.event("message").await);
        }
        if !peer.library.is_orderly() {
            told.sort_by_key(|message| message["sequence"].as_u64());
        }
        let told: Vec<_> = told.iter().map(|message| message["content"].as_str().unwrap()).collect();
        assert_eq!(told, contents, "{name}");
        // The history begins with the newest.
        let answer = peer.ask(json!(["requestHistory", "team"])).await;
        assert_eq!(answer["ok"], true, "{answer}");
        let history = peer.event("messageHistory").await;
        let rows: Vec<_> =
            history.as_array().unwrap().iter().rev().map(|row| row["content"].as_str().unwrap()).collect();
        assert_eq!(rows, contents, "{name}");
    }
    // Rooms are apart from each other, and bytes are no text.
    let [(one, _), (other, _), ..] = &mut peers[..] else { panic!("two of them") };
    for peer in [&mut *one, &mut *other] {
        assert_eq!(peer.ask(json!(["joinRoom", "two"])).await["ok"], true);
    }
    let refused = one.ask(json!(["sendMessage", {"content": binary(b"bytes"), "roomId": "two"}])).await;
    assert_eq!((&refused["ok"], &refused["code"]), (&json!(false), &json!("text_invalid")));
    let answer = one.ask(json!(["sendMessage", {"content": "in two", "roomId": "two"}])).await;
    assert_eq!(answer["message"]["roomId"], "two");
    assert_eq!(heard(other, "in two").await, ["in two"]);
    assert_eq!(other.ask(json!(["leaveRoom", "two"])).await["ok"], true);
    one.ask(json!(["sendMessage", {"content": "still in two", "roomId": "two"}])).await;
    say(one, "the end").await;
    for (peer, name) in &mut peers[1..] {
        assert_eq!(heard(peer, "the end").await, ["the end"], "{name}");
    }
}

#[tokio::test]
async fn two_edges_chat_and_the_loss_of_one_costs_no_message() {
    let mut stack = Stack::with(Plan { two_edges: true, ..Plan::default() }).await;
    let [front, edge] = stack.doors();
    let (mut other, other_port) = stack.another_edge().await;
    // Whoever comes by nginx while one is away is at the other.
    stack.edge.kill();
    let [alice, bob, carol] = [stack.user(), stack.user(), stack.user()];
    let mut bob_says = says(&bob, "Bob", "team");
    let mut bob_here = Guest::enter(Library::Npm(4), front, WEBSOCKET, &bob_says).await;
    let mut carol_here =
        Guest::enter(Library::Npm(2), front, WEBSOCKET, &says(&carol, "Carol", "team")).await;
    stack.restart_edge().await;
    let mut alice_here = Guest::enter(Library::Npm(4), edge, UPGRADE, &says(&alice, "Alice", "team")).await;
    for guest in [&mut alice_here, &mut bob_here, &mut carol_here] {
        guest.sees(&["Alice", "Bob", "Carol"]).await;
    }
    assert_eq!(alice_here.ask(json!(["typing", true])).await["ok"], true);
    let typing = bob_here.event("userTyping").await;
    assert_eq!((&typing["username"], &typing["isTyping"]), (&json!("Alice"), &json!(true)));

    let mut expected = Vec::new();
    for number in 1..=20 {
        let content = number.to_string();
        let peer = if number % 2 == 0 { &mut alice_here } else { &mut bob_here };
        say(peer, &content).await;
        expected.push(content);
    }
    for peer in [&mut alice_here, &mut bob_here, &mut carol_here] {
        assert_eq!(heard(peer, "20").await, expected);
    }
    let (_, history) =
        alice.at(other_port).ask(Method::GET, "/api/chat/messages?roomId=team", Value::Null).await;
    assert_eq!(history["messages"][0]["content"], "20", "{history}");

    // Bob goes on to say things while the edge that he is on dies: what is not acknowledged he says again.
    bob_says["since"] = json!(20);
    bob_here.order(json!({"auth": bob_says})).await;
    for number in 21..=25 {
        let said = json!({"content": number.to_string(), "clientMessageId": format!("bob-{number}")});
        bob_here.order(json!({"emit": ["sendMessage", said], "ack": number.to_string()})).await;
    }
    other.kill();
    for number in 26..=30 {
        say(&mut alice_here, &number.to_string()).await;
    }
    for peer in [&mut bob_here, &mut carol_here] {
        peer.next("disconnected").await;
        peer.event("connected").await;
    }
    for number in 21..=25 {
        let said = json!({"content": number.to_string(), "clientMessageId": format!("bob-{number}")});
        assert_eq!(bob_here.ask(json!(["sendMessage", said])).await["ok"], true);
    }
    say(&mut bob_here, "the end").await;

    // Everybody has the same in the same order, each message once.
    let order = heard(&mut alice_here, "the end").await;
    let mut sorted = order.clone();
    sorted.sort_unstable();
    let mut all: Vec<_> =
        (21..=30).map(|number: u32| number.to_string()).chain(["the end".to_owned()]).collect();
    all.sort_unstable();
    assert_eq!(sorted, all);
    // Bob a beginning of it on the connection that he lost, and on the next all since what he said that he has.
    let of_bob = heard(&mut bob_here, "the end").await;
    let (before, after) = of_bob.split_at(of_bob.len() - order.len());
    assert!(after == order && order.starts_with(before), "{of_bob:?}");
    // Carol, whose library cannot say what she has, in the history.
    carol_here.ask(json!(["requestHistory", "team"])).await;
    let history = loop {
        let mut history = carol_here.event("messageHistory").await;
        let rows = history.as_array_mut().expect("messages");
        rows.reverse();
        if rows.last().is_some_and(|row| row["content"] == "the end") {
            break rows.iter().map(|row| row["content"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
        }
    };
    expected.extend(order);
    assert_eq!(history, expected);
    carol_here.sees(&["Alice", "Bob", "Carol"]).await;
}

#[tokio::test]
async fn who_was_on_an_edge_that_died_is_gone_from_the_room_after_a_while() {
    let stack = Stack::start().await;
    let (mut other, port) = stack.another_edge().await;
    let (alice, bob) = (stack.user(), stack.user());
    let mut alice_here =
        Guest::enter(Library::Npm(4), stack.nginx.http_port, WEBSOCKET, &says(&alice, "Alice", "team")).await;
    let bob_here = Guest::enter(Library::Npm(4), port, WEBSOCKET, &says(&bob, "Bob", "team")).await;
    alice_here.sees(&["Alice", "Bob"]).await;
    other.kill();
    drop(bob_here);
    // Nobody says so: what the dead edge has said of him ends by itself.
    let gone = async {
        loop {
            let (_, users) = alice.ask(Method::GET, "/api/users?roomId=team", Value::Null).await;
            if users["totalUsers"] == 1 {
                return;
            }
            sleep(Duration::from_secs(1)).await;
        }
    };
    timeout(GONE_LIMIT, gone).await.expect("he is gone by what REST says");
    assert_eq!(alice_here.event("userLeft").await, bob.id.as_str());
    alice_here.sees(&["Alice"]).await;
}

#[tokio::test]
async fn a_thousand_rooms_are_too_many_for_one_connection() {
    let stack = Stack::start().await;
    let user = stack.user();
    let mut peer =
        Guest::enter(Library::Npm(4), stack.nginx.http_port, WEBSOCKET, &says(&user, "Eve", "home")).await;
    let mut codes = Vec::new();
    let mut joined = 0_u32;
    for number in 0..1_000 {
        let answer = ask(&mut peer, json!(["joinRoom", format!("room {number}")])).await;
        if answer["ok"] == true {
            joined += 1;
        } else {
            assert_eq!(answer["error"], "Too many rooms on one connection", "{answer}");
            codes.push(answer["code"].clone());
        }
    }
    assert!(joined >= 10 && !codes.is_empty(), "{joined} joined");
    assert!(codes.iter().all(|code| code == "too_many_rooms"));
    assert_eq!(say(&mut peer, "still here").await["roomId"], "home");
    assert_eq!(heard(&mut peer, "still here").await, ["still here"]);
}

#[tokio::test]
async fn a_session_is_chatted_in_beside_its_captions() {
    let stack = Stack::start().await;
    let room = stack.room();
    let mut alice: Client = room.join_with("alice", "&chat=true").await;
    let bob = json!({"token": room.token("bob"), "sessionSlug": room.slug});
    let mut bob = Peer::start(Library::Npm(4), stack.nginx.http_port, UPGRADE, &["/"], &bob);
    assert_eq!(bob.event("connected").await["username"], "bob");
    bob.event("messageHistory").await;
    let message = say(&mut bob, "hello from the socket").await;
    assert_eq!(message["roomId"], format!("session:{}", room.slug));
    let told = loop {
        let told = alice.expect("chat").await;
        if told["data"]["content"] == "hello from the socket" {
            break told;
        }
    };
    assert_eq!(told["data"]["id"], message["id"], "{told}");
    alice.say(json!({"type": "chat", "content": "hello from the captions"})).await;
    assert_eq!(heard(&mut bob, "hello from the captions").await.last().unwrap(), "hello from the captions");

    // Another session is nobody else's.
    let elsewhere = stack.room();
    let answer = bob.ask(json!(["joinRoom", format!("session:{}", elsewhere.slug)])).await;
    assert_eq!((&answer["ok"], &answer["code"]), (&json!(false), &json!("forbidden")));
}
