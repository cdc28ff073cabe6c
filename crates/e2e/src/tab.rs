use reqwest::Method;
use serde_json::{Value, json};
use settings::Secret;
use testkit::{eventually, tokens};
use uuid::Uuid;

use crate::{Client, Heard, SERVICE_KEY, USER_SECRET};

/// A user of the application, at one port of the system.
#[derive(Clone)]
pub struct User {
    /// Its id.
    pub id: String,
    port: u16,
}

impl User {
    /// One that nobody has told anything.
    pub(crate) fn new(port: u16) -> Self {
        Self { id: format!("user-{}", Uuid::new_v4().simple()), port }
    }

    /// The same user, at another port.
    #[must_use]
    pub fn at(&self, port: u16) -> Self {
        Self { port, ..self.clone() }
    }

    /// A good token.
    pub fn token(&self) -> String {
        tokens::of_user(&Secret::from(USER_SECRET), &self.id, 3600)
    }

    /// Where a `/ws` with this query is opened.
    pub fn url(&self, query: &str) -> String {
        format!("ws://127.0.0.1:{}/ws?{query}", self.port)
    }

    /// Opens a tab and subscribes to the user's notifications in the moment in which it is open, as clients do.
    pub async fn tab(&self, since: Option<u64>) -> Tab {
        let mut client = Client::connect(&self.url(&format!("token={}", self.token())), &[]).await;
        let channel = json!({"type": "notifications", "userId": self.id});
        client.say(json!({"type": "subscribe", "channel": channel, "since": since})).await;
        assert_eq!(client.said().await["type"], "connected");
        assert_eq!(client.said().await["type"], "subscribed");
        Tab { client, newest: since.unwrap_or(0) }
    }

    /// Every notification after a sequence by its title, in order, up to the last: comes back after every loss of the
    /// connection, and goes on after what it has.
    pub async fn follow(&self, since: u64, last: &str) -> Vec<String> {
        let (mut titles, mut newest) = (Vec::new(), since);
        while titles.last().is_none_or(|title| title != last) {
            let mut client = eventually("somebody lets it in", async || {
                Client::try_connect(&self.url(&format!("token={}", self.token()))).await
            })
            .await;
            let channel = json!({"type": "notifications", "userId": self.id});
            client.say(json!({"type": "subscribe", "channel": channel, "since": newest})).await;
            let mut tab = Tab { client, newest };
            titles.extend(tab.titles_to(last).await);
            newest = tab.newest;
        }
        titles
    }

    /// Asks as this user; the status and the body.
    ///
    /// # Panics
    /// When nobody answers.
    pub async fn ask(&self, method: Method, path: &str, body: Value) -> (u16, Value) {
        self.ask_with(method, path, &self.token(), &[], body).await
    }

    /// The same, with an idempotency key.
    pub async fn ask_under_key(&self, method: Method, path: &str, key: &str, body: Value) -> (u16, Value) {
        self.ask_with(method, path, &self.token(), &[("idempotency-key", key)], body).await
    }

    /// A trusted back end publishes with this idempotency key.
    pub async fn publish(&self, key: &str, mut fields: Value) -> (u16, Value) {
        if let Some(fields) = fields.as_object_mut() {
            fields.entry("userId").or_insert_with(|| json!(self.id));
            fields.entry("type").or_insert_with(|| json!("SYSTEM_ANNOUNCEMENT"));
            fields.entry("title").or_insert_with(|| json!("t"));
        }
        self.service("/api/notifications", key, fields).await
    }

    /// A trusted back end asks with this idempotency key.
    pub async fn service(&self, path: &str, key: &str, body: Value) -> (u16, Value) {
        self.ask_with(Method::POST, path, SERVICE_KEY, &[("idempotency-key", key)], body).await
    }

    /// Publishes until it is stored, however often the system has to be asked; always with the same key.
    pub async fn publish_surely(&self, title: &str) {
        let key = format!("{}-{title}", self.id);
        eventually("it is stored", async || self.publish(&key, json!({"title": title})).await.0 == 200).await;
    }

    async fn ask_with(
        &self,
        method: Method,
        path: &str,
        bearer: &str,
        headers: &[(&str, &str)],
        body: Value,
    ) -> (u16, Value) {
        let url = format!("http://127.0.0.1:{}{path}", self.port);
        let mut request = reqwest::Client::new().request(method, url).bearer_auth(bearer);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if !body.is_null() {
            request = request.body(body.to_string());
        }
        match request.send().await {
            Ok(answer) => (answer.status().as_u16(), answer.json().await.unwrap_or_default()),
            Err(_) => (0, Value::Null),
        }
    }

    /// How many are unread, as REST says.
    pub async fn unread(&self) -> u64 {
        let (_, list) = self.ask(Method::GET, "/api/user/notifications?limit=1", Value::Null).await;
        list["unreadCount"].as_u64().expect("a count")
    }
}

/// An open `/ws` of a user that follows its notifications.
pub struct Tab {
    /// The socket.
    pub client: Client,
    /// The newest sequence that it was told.
    pub newest: u64,
}

impl Tab {
    /// The next message of this type.
    pub async fn expect(&mut self, kind: &str) -> Value {
        loop {
            let said = self.client.said().await;
            self.note(&said);
            if said["type"] == kind {
                return said;
            }
        }
    }

    /// Reads until it is told that so many are unread.
    pub async fn counts(&mut self, count: u64) {
        while self.expect("unread_count").await["count"] != count {}
    }

    /// Reads notifications until the one with this title was told, or the connection ends; their titles in order.
    pub async fn titles_to(&mut self, last: &str) -> Vec<String> {
        let mut titles = Vec::new();
        while titles.last().is_none_or(|title| title != last) {
            let Heard::Said(said) = self.client.hear().await else { break };
            self.note(&said);
            if said["type"] == "notification" {
                titles.push(said["notification"]["title"].as_str().expect("a title").to_owned());
            }
        }
        titles
    }

    fn note(&mut self, said: &Value) {
        if let Some(sequence) = said["sequence"].as_u64() {
            assert!(sequence >= self.newest, "{sequence} after {}", self.newest);
            self.newest = sequence;
        }
    }
}
