//! Routes of system B, with a real hub, and chat beside captions.

use reqwest::Method;
use serde_json::{Value, json};
use testkit::{free_port, tokens};

use crate::{client::Client, guest::Guest, hub::ChatStage, stage::SERVICE_KEY};

struct Rest {
    url: String,
    http: reqwest::Client,
}

impl Rest {
    fn new(url: String) -> Self {
        Self { url, http: reqwest::Client::new() }
    }

    async fn ask(&self, method: Method, path: &str, token: Option<&str>, body: Value) -> (u16, Value) {
        let mut request = self.http.request(method, format!("{}{path}", self.url));
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        if !body.is_null() {
            request = request.body(body.to_string());
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        self.ask(Method::GET, path, None, Value::Null).await
    }

    async fn post(&self, body: Value) -> (u16, Value) {
        self.ask(Method::POST, "/api/messages", None, body).await
    }
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

#[tokio::test]
async fn both_doors_answer_as_system_b_and_the_chat_door_is_its_own() {
    let port = free_port();
    let chat = ChatStage::with(&[("CHAT_ANONYMOUS", "true"), ("CHAT_PORT", &port.to_string())]).await;
    let main = Rest::new(format!("http://{}", chat.stage.running.address));
    let door = Rest::new(format!("http://127.0.0.1:{port}"));
    let (status, index) = door.get("/").await;
    assert_eq!((status, &index["endpoints"]["health"]), (200, &json!("/health")));
    let (status, health) = door.get("/health").await;
    assert_eq!((status, &health["status"], &health["connectedUsers"]), (200, &json!("healthy"), &json!(0)));
    assert_eq!(keys(&health), ["connectedClients", "connectedUsers", "status", "timestamp", "uptime"]);
    assert!(health["uptime"].is_f64());
    assert_eq!(
        door.get("/x?y=1").await,
        (404, json!({"error": "Not Found", "message": "Route GET /x not found"}))
    );
    let post = door.ask(Method::POST, "/health", None, json!({})).await;
    assert_eq!(post, (404, json!({"error": "Not Found", "message": "Route POST /health not found"})));
    // The main door is system A's.
    assert_eq!(main.get("/health").await.1["status"], "ok");
    assert_eq!(main.get("/x").await.1["error"], "Not found");
    let mut guest = Guest::enter(chat.stage.running.address, json!({"username": "Ada"})).await.unwrap();
    guest.expect("roomUsers").await;
    for rest in [&main, &door] {
        let (status, socket) = rest.get("/socket-health").await;
        assert_eq!((status, &socket["status"]), (200, &json!("socket-healthy")));
        assert_eq!(
            socket["socketIO"],
            json!({"connected": 1, "transports": ["polling", "websocket"], "path": "/socket.io/"})
        );
        assert_eq!(socket["cors"], json!({"origins": ["*"]}));
        let cors = rest.http.get(format!("{}/test-cors", rest.url)).header("origin", "https://a.example");
        let cors: Value = cors.send().await.unwrap().json().await.unwrap();
        assert_eq!((&cors["origin"], cors["message"].is_string()), (&json!("https://a.example"), true));
        assert_eq!(rest.get("/api/clients").await, (200, json!({"totalClients": 0, "clients": []})));
        let (_, users) = rest.get("/api/users").await;
        assert_eq!((&users["totalUsers"], &users["onlineUsers"][0]["username"]), (&json!(1), &json!("Ada")));
        let (status, refused) = rest.ask(Method::DELETE, "/api/messages", None, Value::Null).await;
        assert_eq!((status, refused["error"].is_string()), (405, true));
    }
    assert_eq!(door.get("/health").await.1["connectedUsers"], 1);
    chat.end().await;
}

#[tokio::test]
async fn messages_are_posted_and_read_as_the_web_client_of_system_b_does() {
    let chat = ChatStage::open().await;
    let rest = Rest::new(format!("http://{}", chat.stage.running.address));
    let mut guest = Guest::enter(chat.stage.running.address, json!({"username": "Ada"})).await.unwrap();
    guest.expect("roomUsers").await;
    for body in [
        json!({}),
        json!({"content": "x"}),
        json!({"username": "bob"}),
        json!({"content": "", "username": "b"}),
    ] {
        let (status, refused) = rest.post(body.clone()).await;
        assert_eq!((status, &refused["error"]), (400, &json!("Content and username are required")), "{body}");
    }
    for (body, code) in [
        (json!({"content": " ", "username": "bob"}), "text_invalid"),
        (json!({"content": "x", "username": "a\nb"}), "name_invalid"),
        (json!({"content": "x", "username": "bob", "type": "video"}), "kind_invalid"),
        (json!({"content": "x", "username": "bob", "roomId": 5}), "room_invalid"),
    ] {
        let (status, refused) = rest.post(body.clone()).await;
        assert_eq!((status, refused["code"].as_str()), (400, Some(code)), "{body}");
    }
    let (status, said) = rest.post(json!({"content": " hi ", "username": "bob", "type": "text"})).await;
    assert_eq!(
        (status, &said["userId"], &said["username"], &said["content"], &said["type"], &said["roomId"]),
        (200, &json!("bob"), &json!("bob"), &json!("hi"), &json!("text"), &json!("general"))
    );
    assert!(said["id"].is_string() && said["timestamp"].is_string());
    assert_eq!(guest.said("message").await, said, "one road");
    let link = json!({"content": "https://example.com/a.png", "username": "bob", "type": "image"});
    let (_, image) = rest.post(link).await;
    guest.said("message").await;
    // Whoever calls itself by a user's id does not become that user.
    let token = chat.stage.user_token("bob");
    let (status, real) = rest
        .ask(Method::POST, "/api/messages", Some(&token), json!({"content": "real", "username": "Bob"}))
        .await;
    assert_eq!((status, &real["userId"], real.get("isAnonymous")), (200, &json!("bob"), None));
    assert_eq!(said["isAnonymous"], true);
    let mut bob = Guest::enter(chat.stage.running.address, json!({"token": token})).await.unwrap();
    bob.said("connected").await;
    assert_eq!(bob.refused("deleteMessage", json!({"id": said["id"]})).await, "not_author");

    let all = json!([real, image, said]);
    assert_eq!(
        rest.get("/api/messages").await,
        (200, json!({"messages": all, "total": 3, "limit": 100, "offset": 0}))
    );
    assert_eq!(rest.get("/api/messages?limit=1").await.1["messages"], json!([real]));
    let before = format!("/api/messages?before={}", real["position"]);
    assert_eq!(rest.get(&before).await.1["messages"], json!([image, said]));
    assert_eq!(
        rest.get("/api/chat/messages").await,
        (200, json!({"roomId": "general", "messages": all, "count": 3}))
    );
    for (path, key) in [
        ("/api/chat/users/bob/messages", "userId"),
        ("/api/messages/user/bob", "userId"),
        ("/api/messages/client/bob", "clientId"),
    ] {
        assert_eq!(rest.get(path).await, (200, json!({key: "bob", "messages": all, "count": 3})), "{path}");
    }
    assert_eq!(
        rest.get("/api/messages/type/image").await,
        (200, json!({"messageType": "image", "messages": [image], "count": 1}))
    );
    assert_eq!(rest.get("/api/messages/type/video").await.1["count"], 0);
    for (path, code) in [
        ("/api/messages?limit=0", "limit_invalid"),
        ("/api/messages?limit=201", "limit_invalid"),
        ("/api/messages?before=x", "before_invalid"),
        ("/api/messages?roomId=%0a", "room_invalid"),
    ] {
        let (status, refused) = rest.get(path).await;
        assert_eq!((status, refused["code"].as_str()), (400, Some(code)), "{path}");
    }
    chat.cable.cut();
    let (status, away) = rest.post(json!({"content": "x", "username": "bob"})).await;
    assert_eq!((status, away["error"].is_string()), (503, true), "{away}");
    chat.end().await;
}

#[tokio::test]
async fn without_chat_for_all_every_route_asks_for_a_token() {
    let chat = ChatStage::with(&[]).await;
    let stage = &chat.stage;
    let rest = Rest::new(format!("http://{}", stage.running.address));
    let none = (401, json!({"error": "Authentication required"}));
    for path in [
        "/api/users",
        "/api/messages",
        "/api/chat/messages",
        "/api/chat/users/a/messages",
        "/api/messages/type/text",
    ] {
        assert_eq!(rest.get(path).await, none, "{path}");
    }
    assert_eq!(rest.post(json!({"content": "x", "username": "bob"})).await, none);
    let (alice, follower, user) = (
        stage.token("alice"),
        tokens::follow_only(&stage.secret, &stage.session, "carol"),
        stage.user_token("u1"),
    );
    let room = format!("session:{}", stage.session);
    let say = |content: &str, room: &str| json!({"content": content, "roomId": room, "username": "x"});
    for (token, room, status) in [
        (alice.as_str(), room.as_str(), 200),
        (&alice, "general", 403),
        (&alice, "session:other", 403),
        (&follower, &room, 403),
        (&user, "general", 200),
        (&user, &room, 403),
        (SERVICE_KEY, &room, 200),
        ("wrong", "general", 401),
    ] {
        let (got, answer) = rest.ask(Method::POST, "/api/messages", Some(token), say("x", room)).await;
        assert_eq!(got, status, "{room}: {answer}");
    }
    // A session's token means its room.
    let (_, read) = rest.ask(Method::GET, "/api/chat/messages", Some(&follower), Value::Null).await;
    assert_eq!((&read["roomId"], &read["count"]), (&json!(room), &json!(2)));
    let by_query = rest.get(&format!("/api/chat/messages?token={follower}")).await;
    assert_eq!(by_query, (200, read));
    // Whom a back end speaks for it says; and nobody else finds what is said in sessions.
    let spoken = json!({"content": "for Zoe", "username": "Zoe", "userId": "zoe"});
    let (_, said) = rest.ask(Method::POST, "/api/messages", Some(SERVICE_KEY), spoken.clone()).await;
    assert_eq!(said["userId"], "zoe");
    let (_, said) = rest.ask(Method::POST, "/api/messages", Some(&user), spoken).await;
    assert_eq!(said["userId"], "u1");
    let path = "/api/chat/users/alice/messages";
    assert_eq!(rest.ask(Method::GET, path, Some(&user), Value::Null).await.1["count"], 0);
    assert_eq!(rest.ask(Method::GET, path, Some(&alice), Value::Null).await.0, 403);
    chat.end().await;
}

#[tokio::test]
async fn the_chat_of_a_session_goes_beside_its_captions() {
    let chat = ChatStage::with(&[]).await;
    let stage = &chat.stage;
    let mut voice = stage.voice().await;
    let mut alice = stage.connect("alice", "&chat=true").await;
    let chatted = async |client: &mut Client, event: &str| loop {
        let said = client.expect("chat").await;
        if said["event"] == event {
            return said["data"].clone();
        }
    };
    assert_eq!(chatted(&mut alice, "connected").await["userId"], "alice");
    assert_eq!(chatted(&mut alice, "messageHistory").await, json!([]));
    assert_eq!(chatted(&mut alice, "roomUsers").await.as_array().unwrap().len(), 1);
    let mut bob = Guest::enter(stage.running.address, json!({"token": stage.token("bob")})).await.unwrap();
    bob.expect("roomUsers").await;
    assert_eq!(chatted(&mut alice, "userJoined").await["id"], "bob");
    bob.done("sendMessage", json!({"content": "from Socket.IO"})).await;
    let message = bob.said("message").await;
    assert_eq!(chatted(&mut alice, "message").await, message);

    alice.say(json!({"type": "chat", "content": "https://a.example/x", "kind": "file", "id": 7})).await;
    let ack = loop {
        let said = alice.expect("chat").await;
        if said["event"] == "ack" {
            break said;
        }
    };
    assert_eq!((&ack["id"], &ack["data"]["ok"]), (&json!(7), &json!(true)));
    let file = bob.said("message").await;
    assert_eq!(
        (&file["type"], &file["userId"], &file["roomId"]),
        (&json!("file"), &json!("alice"), &message["roomId"])
    );
    alice.say(json!({"type": "chat", "event": "typing", "data": true})).await;
    assert_eq!(bob.said("userTyping").await["userId"], "alice");
    alice.say(json!({"type": "chat", "event": "deleteMessage", "data": {"id": file["id"]}})).await;
    assert_eq!(bob.said("messageDeleted").await["id"], file["id"]);
    alice.say(json!({"type": "chat", "event": "deleteMessage", "data": {"id": message["id"]}})).await;
    let error = chatted(&mut alice, "error").await;
    assert_eq!((&error["ok"], &error["code"]), (&json!(false), &json!("not_author")));
    alice.say(json!({"type": "chat", "content": 7})).await;
    assert_eq!(chatted(&mut alice, "error").await["code"], "text_invalid");
    voice.say(stage, "Captions go on.").await;
    assert_eq!(alice.expect("transcript_final").await["text"], "Captions go on.");

    // Who only reads, from where it was.
    let token = tokens::follow_only(&stage.secret, &stage.session, "carol");
    let since = &message["sequence"];
    let url = stage.url(&format!("token={token}&chat=true&chatSince={since}"));
    let mut carol = Client::connect(&url, &[]).await;
    carol.expect("connected").await;
    carol.say(json!({"type": "chat", "content": "I only read", "id": "r"})).await;
    // The file was said and taken back since: nothing of it is told.
    let users = chatted(&mut carol, "roomUsers").await;
    assert_eq!(users.as_array().unwrap().len(), 2);
    bob.done("sendMessage", json!({"content": "last"})).await;
    assert_eq!(chatted(&mut carol, "message").await["content"], "last");

    // Without being asked for there is no chat.
    let mut plain = stage.connect("dave", "").await;
    plain.say(json!({"type": "chat", "content": "x"})).await;
    assert_eq!(plain.said().await["code"], "caller");
    let mut odd = Client::connect(&stage.url_of("eve", "&chat=maybe"), &[]).await;
    let (_, code, _) = odd.ended().await;
    assert_eq!(code, 1008);
    alice.close().await;
    assert_eq!(bob.expect("userLeft").await, "alice");
    chat.end().await;
}
