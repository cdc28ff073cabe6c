//! A service says "tell this user", and every tab of the user hears it.

use e2e::{Client, Stack, run};
use reqwest::Method;
use serde_json::{Value, json};
use testkit::{eventually, node_script, tokens};

const MINE: &str = "/api/user/notifications";

#[tokio::test]
async fn a_notification_made_by_rest_reaches_every_tab_and_the_count_is_right_everywhere() {
    let stack = Stack::start().await;
    let (user, other) = (stack.user(), stack.user());
    let mut stranger = other.tab(None).await;
    let mut tabs = [user.tab(None).await, user.tab(None).await, user.tab(None).await];
    for tab in &mut tabs {
        tab.counts(0).await;
    }
    let made = json!({"userId": user.id, "type": "LIKE_POST", "title": "A like", "message": "of a post",
        "metadata": {"postId": "p1"}});
    let (status, answer) = user.ask(Method::POST, MINE, made).await;
    assert_eq!((status, &answer["success"]), (200, &json!(true)), "{answer}");
    let id = answer["notification"]["id"].clone();
    for tab in &mut tabs {
        let told = tab.expect("notification").await;
        assert_eq!((&told["userId"], &told["notification"]["id"]), (&json!(user.id), &id));
        assert_eq!(told["notification"]["metadata"], json!({"postId": "p1"}));
        assert_eq!(told["notification"]["isRead"], false);
        tab.counts(1).await;
    }
    for title in ["two", "three"] {
        assert_eq!(user.publish(title, json!({"title": title})).await.0, 200);
    }
    for tab in &mut tabs {
        tab.counts(3).await;
    }
    assert_eq!(user.unread().await, 3);

    // Read in one tab: known in all.
    let read = format!("{MINE}/{}/read?wallet=ignored", id.as_str().unwrap());
    assert_eq!(user.ask(Method::PUT, &read, Value::Null).await.0, 200);
    for tab in &mut tabs {
        assert_eq!(tab.expect("notification_read").await["notificationId"], id);
        tab.counts(2).await;
    }
    assert_eq!(user.unread().await, 2);
    let (_, list) = user.ask(Method::GET, &format!("{MINE}?unreadOnly=true&limit=20"), Value::Null).await;
    let titles: Vec<_> =
        list["notifications"].as_array().unwrap().iter().map(|row| row["title"].clone()).collect();
    assert_eq!(titles, [json!("three"), json!("two")]);

    // A tab that opens later is told what is unread.
    let mut late = user.tab(None).await;
    let unread = late.expect("unread_notifications").await;
    assert_eq!(
        (&unread["data"]["count"], &unread["data"]["notifications"][0]["title"]),
        (&json!(2), &json!("three"))
    );

    let unread = json!({"notificationId": id, "isRead": false});
    assert_eq!(user.ask(Method::PATCH, MINE, unread).await.0, 200);
    for tab in &mut tabs {
        tab.counts(3).await;
    }
    assert_eq!(user.ask(Method::PUT, MINE, json!({"markAllAsRead": true})).await.0, 200);
    for tab in &mut tabs {
        assert_eq!(
            tab.expect("unread_notifications").await["data"],
            json!({"notifications": [], "count": 0, "version": tab.newest})
        );
        tab.counts(0).await;
    }
    let (status, cleared) = user.ask(Method::DELETE, &format!("{MINE}/clear"), Value::Null).await;
    assert_eq!((status, &cleared["clearedCount"]), (200, &json!(3)), "{cleared}");
    for tab in &mut tabs {
        tab.expect("notifications_cleared").await;
    }
    assert_eq!(user.unread().await, 0);
    stranger.client.settled().await;
    assert!(stranger.client.told("notification").is_empty());
}

#[tokio::test]
async fn rest_answers_as_system_c_and_says_what_is_wrong() {
    let stack = Stack::start().await;
    let (user, other) = (stack.user(), stack.user());
    for title in ["1", "2", "3", "4", "5"] {
        let (status, answer) = user.publish(title, json!({"title": title, "priority": "high"})).await;
        assert_eq!((status, &answer["repeated"]), (200, &json!(false)), "{answer}");
        let (status, again) = user.publish(title, json!({"title": title, "priority": "high"})).await;
        assert_eq!((status, &again["repeated"]), (200, &json!(true)));
        assert_eq!(again["notification"]["id"], answer["notification"]["id"]);
    }
    let (status, conflict) = user.publish("1", json!({"title": "another"})).await;
    assert_eq!((status, &conflict["code"]), (409, &json!("idempotency_conflict")));

    // The keys are those of back ends: a user who guesses one takes nothing from anybody.
    let own = json!({"userId": other.id, "type": "LIKE_POST", "title": "mine", "message": "m"});
    let (status, answer) = other.ask_under_key(Method::POST, MINE, "6", own).await;
    assert_eq!((status, &answer["success"]), (200, &json!(true)), "{answer}");

    // Page by page, and nobody reads another's.
    let mut titles = Vec::new();
    let mut path = format!("{MINE}?limit=2");
    let cursor = loop {
        let (status, page) = user.ask(Method::GET, &path, Value::Null).await;
        assert_eq!(status, 200, "{page}");
        titles.extend(page["notifications"].as_array().unwrap().iter().map(|row| row["title"].clone()));
        match page["nextCursor"].as_str() {
            Some(cursor) => path = format!("{MINE}?limit=2&cursor={cursor}"),
            None => break path.split("cursor=").nth(1).unwrap().to_owned(),
        }
    };
    assert_eq!(titles, ["5", "4", "3", "2", "1"]);
    let (status, answer) = other.ask(Method::GET, &format!("{MINE}?cursor={cursor}"), Value::Null).await;
    assert_eq!((status, &answer["code"]), (400, &json!("cursor_invalid")));
    for limit in ["0", "-1", "201", "1000000000", "x"] {
        let (status, answer) = user.ask(Method::GET, &format!("{MINE}?limit={limit}"), Value::Null).await;
        assert_eq!((status, &answer["code"]), (400, &json!("limit_invalid")), "{limit}");
    }
    let (status, answer) = user.publish("long", json!({"title": "x".repeat(1_000_000)})).await;
    assert_eq!((status, &answer["code"]), (413, &json!("title_too_long")));
    let (status, answer) = user.publish("when", json!({"title": "t", "deliverAt": "never"})).await;
    assert_eq!((status, &answer["code"]), (400, &json!("deliver_at_invalid")));
    let (status, answer) =
        user.ask(Method::PATCH, MINE, json!({"notificationId": "nonsense", "isRead": true})).await;
    assert_eq!((status, &answer["error"]), (404, &json!("Notification not found")));

    // What has not changed is not sent again.
    let url = stack.http(MINE);
    let client = reqwest::Client::new();
    let list = async |tag: Option<&str>| {
        let mut request = client.get(&url).bearer_auth(user.token());
        if let Some(tag) = tag {
            request = request.header("if-none-match", tag);
        }
        let answer = request.send().await.unwrap();
        let tag = answer.headers()["etag"].to_str().unwrap().to_owned();
        (answer.status().as_u16(), tag)
    };
    let (status, tag) = list(None).await;
    assert_eq!((status, list(Some(&tag)).await), (200, (304, tag.clone())));
    user.publish("6", json!({"title": "6"})).await;
    let (status, newer) = list(Some(&tag)).await;
    assert_eq!(status, 200);
    assert_ne!(tag, newer);

    // Muted types are not stored.
    let muted = json!({"mutedTypes": ["LIKE_POST"]});
    let preferences = format!("{MINE}/preferences");
    assert_eq!(user.ask(Method::PUT, &preferences, muted.clone()).await, (200, muted.clone()));
    assert_eq!(user.ask(Method::GET, &preferences, Value::Null).await, (200, muted));
    let (status, answer) = user.publish("7", json!({"type": "LIKE_POST"})).await;
    assert_eq!((status, &answer["notifications"][0]["notification"]), (200, &Value::Null));

    let (status, gone) = user.ask(Method::DELETE, &format!("{MINE}?id=nonsense"), Value::Null).await;
    assert_eq!((status, &gone["success"]), (200, &json!(true)));
    assert_eq!(user.unread().await, 6);
}

#[tokio::test]
async fn who_was_away_goes_on_where_it_was() {
    let stack = Stack::start().await;
    let user = stack.user();
    let mut tab = user.tab(None).await;
    // What is there by the time it subscribes is told as a list.
    tab.counts(0).await;
    user.publish_surely("1").await;
    assert_eq!(tab.titles_to("1").await, ["1"]);
    let since = tab.newest;
    tab.client.close().await;
    // More than a page.
    for index in 2..=250 {
        user.publish_surely(&index.to_string()).await;
    }
    let mut tab = user.tab(Some(since)).await;
    for index in 251..=260 {
        user.publish_surely(&index.to_string()).await;
    }
    let expected: Vec<String> = (2..=260).map(|index| index.to_string()).collect();
    assert_eq!(tab.titles_to("260").await, expected);
    tab.counts(260).await;

    // One that claims to have what was never there is told so, and hears what comes.
    let mut ahead = user.tab(Some(1_000_000)).await;
    ahead.newest = 0;
    assert_eq!(ahead.expect("resync").await["data"]["channelKey"], format!("notifications_{}", user.id));
    ahead.counts(260).await;
    user.publish_surely("261").await;
    assert_eq!(ahead.titles_to("261").await, ["261"]);
}

#[tokio::test]
async fn followers_of_a_creator_hear_its_events_live_and_from_the_past() {
    let stack = Stack::start().await;
    let user = stack.user();
    let channel = json!({"type": "creator", "id": "c1"});
    let open = async |since: Option<u64>| {
        let mut client = Client::connect(&user.url(&format!("token={}", user.token())), &[]).await;
        client.say(json!({"type": "subscribe", "channel": channel, "since": since})).await;
        client.expect("subscribed").await;
        client
    };
    let publish = async |name: &str| {
        let event = json!({"topic": "creator:c1", "type": "creator_updated", "metadata": {"creatorId": "c1", "data": {"name": name}}});
        let (status, answer) = user.service("/api/notifications", name, event).await;
        assert_eq!(status, 200, "{answer}");
        answer["sequence"].as_u64().unwrap()
    };
    let mut follower = open(None).await;
    // The feed begins with the first follower; what it knows by then is not told again.
    let first = eventually("it is heard", async || {
        let sequence = publish(&uuid::Uuid::new_v4().to_string()).await;
        follower.settled().await;
        (!follower.told("creator_updated").is_empty()).then_some(sequence)
    })
    .await;
    let second = publish("second").await;
    assert_eq!(second, first + 1);
    let told = loop {
        let told = follower.expect("creator_updated").await;
        if told["sequence"] == second {
            break told;
        }
    };
    assert_eq!((&told["data"]["name"], &told["channelKey"]), (&json!("second"), &json!("creator_c1")));
    let mut late = open(Some(first)).await;
    assert_eq!(late.expect("creator_updated").await, told);
}

#[tokio::test]
async fn a_client_of_nodes_ws_as_system_c_has_them_is_served() {
    let stack = Stack::start().await;
    let user = stack.user();
    let client = async |token: String| {
        let script = node_script("tab.js").into_os_string();
        let url = user.url(&format!("token={token}"));
        let output = run("node", [script, url.into(), user.id.clone().into(), "1".into()]).await;
        let lines = String::from_utf8(output.bytes).unwrap();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect::<Vec<Value>>()
    };
    let publish = async {
        for number in 0.. {
            user.publish(&number.to_string(), json!({})).await;
        }
    };
    let said = tokio::select! {
        said = client(user.token()) => said,
        () = publish => unreachable!("it publishes for ever"),
    };
    let kinds: Vec<_> = said.iter().map(|message| message["type"].as_str().unwrap_or("close")).collect();
    assert_eq!(kinds[..3], ["connected", "subscribed", "pong"], "{said:?}");
    assert!(kinds.contains(&"notification"), "{kinds:?}");
    assert_eq!(said.last().unwrap()["close"], 1000, "{said:?}");
    let expired = tokens::of_user(&e2e::USER_SECRET.into(), &user.id, -60);
    for token in [String::new(), "invalid".to_owned(), expired] {
        let said = client(token).await;
        assert_eq!(said.last(), Some(&json!({"close": 1008, "reason": "Unauthorized"})), "{said:?}");
    }
}
