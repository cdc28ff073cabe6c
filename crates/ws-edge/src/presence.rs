//! Which users have a `/ws` open here, told to the other services through Redis: whoever has none is woken otherwise.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{Arc, Mutex, PoisonError},
};

use event_bus::PRESENCE_INTERVAL;
use model::UserId;
use tokio::{sync::mpsc, time::sleep};

use crate::Edge;

/// Users that come and go before Redis is told. Beyond it the next round tells who is here, and an absence is found
/// out when the word of this edge ends.
const CHANGES_MAX: usize = 4_096;

/// Users in one word to Redis.
const USERS_PER_WORD: usize = 1_000;

/// The users of this edge, with the number of their connections.
pub(crate) struct Presence {
    users: Mutex<HashMap<UserId, usize>>,
    changes: mpsc::Sender<UserId>,
}

/// A connection of a user, until it is dropped.
pub(crate) struct Here {
    edge: Arc<Edge>,
    user: UserId,
}

impl Presence {
    /// Nobody yet, and whose presence has changed (for [`tell`]).
    pub(crate) fn new() -> (Self, mpsc::Receiver<UserId>) {
        let (changes, changed) = mpsc::channel(CHANGES_MAX);
        (Self { users: Mutex::default(), changes }, changed)
    }

    /// A user has opened a connection.
    pub(crate) fn enter(edge: &Arc<Edge>, user: &UserId) -> Here {
        let presence = &edge.presence;
        let count = {
            let mut users = presence.lock();
            let count = users.entry(user.clone()).or_default();
            *count += 1;
            *count
        };
        if count == 1 {
            let _ = presence.changes.try_send(user.clone());
        }
        Here { edge: edge.clone(), user: user.clone() }
    }

    fn is_here(&self, user: &UserId) -> bool {
        self.lock().contains_key(user)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<UserId, usize>> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Here {
    fn drop(&mut self) {
        let presence = &self.edge.presence;
        let mut users = presence.lock();
        let Entry::Occupied(mut count) = users.entry(self.user.clone()) else { return };
        *count.get_mut() -= 1;
        if *count.get() == 0 {
            count.remove();
            drop(users);
            let _ = presence.changes.try_send(self.user.clone());
        }
    }
}

/// Tells Redis who is here, until the edge stops. A word that is lost is said again in the next round.
pub(crate) async fn tell(edge: Arc<Edge>, mut changed: mpsc::Receiver<UserId>) {
    let mut round = tokio::time::interval(PRESENCE_INTERVAL);
    loop {
        tokio::select! {
            () = edge.life.stopping().cancelled() => return,
            _ = round.tick() => {
                let users: Vec<UserId> = edge.presence.lock().keys().cloned().collect();
                for users in users.chunks(USERS_PER_WORD) {
                    if edge.bus.mark_present(users, edge.clock.now()).await.is_err() {
                        break;
                    }
                }
            }
            user = changed.recv() => {
                let Some(user) = user else { return };
                // What is so now counts, however often it has changed meanwhile.
                let told = if edge.presence.is_here(&user) {
                    edge.bus.mark_present(&[user], edge.clock.now()).await
                } else {
                    edge.bus.mark_absent(&user).await
                };
                if told.is_err() {
                    // Redis is away: no need to ask it for each of them.
                    sleep(std::time::Duration::from_millis(100)).await;
                }
            }
        }
    }
}
