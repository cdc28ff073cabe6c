//! What the world does to the system while users are told things: nothing is lost, and nothing is told twice.

use e2e::{Stack, User};

/// Publishes these numbers as titles.
async fn publish(user: &User, numbers: std::ops::RangeInclusive<usize>) {
    for number in numbers {
        user.publish_surely(&number.to_string()).await;
    }
}

fn titles(last: usize) -> Vec<String> {
    (1..=last).map(|number| number.to_string()).collect()
}

#[tokio::test]
async fn while_redis_is_away_notifications_wait_and_then_come_once() {
    let mut stack = Stack::start().await;
    let user = stack.user();
    let mut tab = user.tab(Some(0)).await;
    publish(&user, 1..=5).await;
    assert_eq!(tab.titles_to("5").await, titles(5));
    stack.redis.kill().await;
    publish(&user, 6..=20).await;
    stack.redis.restart().await;
    publish(&user, 21..=25).await;
    assert_eq!(tab.titles_to("25").await, titles(25).split_off(5));
    tab.counts(25).await;
}

#[tokio::test]
async fn a_killed_hub_loses_nothing() {
    let mut stack = Stack::start().await;
    let user = stack.user();
    let mut tabs = [user.tab(Some(0)).await, user.tab(Some(0)).await];
    publish(&user, 1..=10).await;
    stack.hub.kill();
    let (told, ()) = tokio::join!(
        async {
            let mut told = Vec::new();
            for tab in &mut tabs {
                told.push(tab.titles_to("30").await);
            }
            told
        },
        async {
            stack.restart_hub().await;
            publish(&user, 11..=30).await;
        },
    );
    assert_eq!(told, [titles(30), titles(30)]);
    for tab in &mut tabs {
        tab.counts(30).await;
    }
}

#[tokio::test]
async fn a_killed_edge_and_another_beside_it_lose_nothing() {
    let mut stack = Stack::start().await;
    let user = stack.user();
    let (_second, port) = stack.another_edge().await;
    let elsewhere = user.at(port);
    let (here, there, ()) = tokio::join!(user.follow(0, "40"), elsewhere.follow(0, "40"), async {
        publish(&elsewhere, 1..=20).await;
        stack.edge.kill();
        publish(&elsewhere, 21..=30).await;
        stack.restart_edge().await;
        publish(&elsewhere, 31..=40).await;
    });
    assert_eq!((here, there), (titles(40), titles(40)));
    assert_eq!(user.unread().await, 40);
}
