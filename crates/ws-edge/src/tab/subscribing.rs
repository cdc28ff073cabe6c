//! A tab's channels: who may follow what, what is told of the past first, and that nothing is told twice.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use model::{Notification, Sequence, Topic, Unread, UserId};
use rpc::notification::Filter;

use super::{Tab, protocol, protocol::Problem};
use crate::{
    Edge,
    access::Unanswered,
    channel::Channel,
    ending::{Flow, go_on},
    feed::{self, Feed},
    happenings::{Happening, Happenings},
    news::News,
    order::Page,
};

/// Unread notifications that are told after subscribing, as system C does.
const UNREAD_TOLD_MAX: u32 = 20;

/// A channel that a tab follows.
pub(super) struct Followed {
    pub(super) topic: Topic,
    feed: Arc<Feed<Happenings>>,
    /// Events up to here were told, or were there before the tab was.
    told: Sequence,
    /// What of the past is still to be told. Until then, live events are not told but read with it.
    past: Past,
    /// Whether a live event came since what is being read was asked for.
    overtaken: bool,
}

/// What is to be read for a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Past {
    /// Nothing: what comes is told.
    Nothing,
    /// The notifications that are unread.
    Unread,
    /// What came after [`Followed::told`].
    After,
    /// How many are unread; what comes is told meanwhile.
    Count,
}

impl Past {
    /// Whether live events have to wait for it.
    const fn withholds(self) -> bool {
        matches!(self, Self::Unread | Self::After)
    }
}

/// What was read.
pub(super) enum Read {
    Unread(Vec<Notification>, Unread),
    After(Page<Happening>),
    Count(Unread),
}

/// A subscription whose access is asked for.
pub(super) struct Asked {
    channel: Channel,
    topic: Topic,
    since: Option<Sequence>,
    pub(super) answer: BoxFuture<'static, Result<bool, Unanswered>>,
}

/// Who may follow a topic.
enum Access {
    Granted,
    Denied,
    /// The application knows.
    Ask,
}

fn access(edge: &Edge, user: &UserId, topic: &Topic) -> Access {
    match topic {
        Topic::User(owner) | Topic::Feed(owner) if owner == user => Access::Granted,
        Topic::Creator(_) => Access::Granted,
        Topic::Post(_) if edge.settings.access_hook.is_some() => Access::Ask,
        _ => Access::Denied,
    }
}

impl Tab {
    pub(super) async fn subscribe(&mut self, channel: Channel, since: Option<Sequence>) -> Flow {
        let Some(topic) = channel.topic.clone() else { return self.deny(&channel).await };
        match access(&self.edge, self.user.id(), &topic) {
            Access::Granted => self.follow(&channel, topic, since).await,
            Access::Denied => self.deny(&channel).await,
            Access::Ask => {
                let (edge, user) = (self.edge.clone(), self.user.id().clone());
                let asked = topic.clone();
                let answer = Box::pin(async move {
                    match &edge.settings.access_hook {
                        Some(hook) => hook.allows(&user, &asked).await,
                        None => Ok(false),
                    }
                });
                self.asking = Some(Box::new(Asked { channel, topic, since, answer }));
                go_on()
            }
        }
    }

    /// The application has said whether the user may follow.
    pub(super) async fn answered(&mut self, answer: Result<bool, Unanswered>) -> Flow {
        let Some(asked) = self.asking.take() else { return go_on() };
        match answer {
            Ok(true) => self.follow(&asked.channel, asked.topic, asked.since).await,
            Ok(false) => self.deny(&asked.channel).await,
            Err(error) => {
                tracing::warn!(%error, "ask for access to a channel");
                self.edge.stats.error();
                self.send(protocol::error(Problem::Failed, Some(&asked.channel))).await
            }
        }
    }

    /// What is refused for good is no mistake of form, so it does not end the connection however often it comes.
    async fn deny(&mut self, channel: &Channel) -> Flow {
        self.bad = 0;
        self.send(protocol::error(Problem::Denied, Some(channel))).await
    }

    async fn follow(&mut self, channel: &Channel, topic: Topic, since: Option<Sequence>) -> Flow {
        self.bad = 0;
        let index = match self.position(&topic) {
            // Again: it is told the past again, and what lives goes on.
            Ok(index) => index,
            Err(_) if self.channels.len() >= self.edge.settings.channels_max => {
                return self.send(protocol::error(Problem::TooManyChannels, Some(channel))).await;
            }
            Err(index) => {
                let feed = self.edge.happenings.join(&self.edge, &mut self.follower, &topic);
                let followed = Followed {
                    topic: topic.clone(),
                    feed,
                    told: Sequence(0),
                    past: Past::Nothing,
                    overtaken: false,
                };
                self.channels.insert(index, followed);
                self.edge.stats.followed(&topic, 1);
                index
            }
        };
        let past = match (since, &topic) {
            (Some(_), _) => Past::After,
            (None, Topic::User(_)) => Past::Unread,
            (None, _) => Past::Nothing,
        };
        if let Some(followed) = self.channels.get_mut(index) {
            if let Some(since) = since {
                followed.told = since;
            }
            followed.overtaken |= followed.past.withholds();
            followed.past = past;
        }
        self.send(protocol::subscription("subscribed", channel)).await?;
        if past != Past::Nothing {
            self.read_for(topic);
        }
        go_on()
    }

    pub(super) async fn unsubscribe(&mut self, channel: &Channel) -> Flow {
        let Some(topic) = &channel.topic else { return go_on() };
        let Ok(index) = self.position(topic) else { return go_on() };
        self.channels.remove(index);
        self.follower.leave(topic);
        self.to_read.retain(|waiting| waiting != topic);
        if self.reading.as_ref().is_some_and(|(reading, _)| reading == topic) {
            self.reading = None;
            self.read_next();
        }
        self.edge.stats.followed(topic, -1);
        self.send(protocol::subscription("unsubscribed", channel)).await
    }

    fn position(&self, topic: &Topic) -> Result<usize, usize> {
        self.channels.binary_search_by(|followed| followed.topic.cmp(topic))
    }

    fn followed(&mut self, topic: &Topic) -> Option<&mut Followed> {
        let index = self.position(topic).ok()?;
        self.channels.get_mut(index)
    }

    /// Whether something live is news to this tab: the past may have told it, or will.
    pub(super) fn is_news(&mut self, news: &News) -> bool {
        // Left meanwhile.
        let Some(followed) = self.followed(news.topic()) else { return false };
        let Some(sequence) = news.sequence() else { return true };
        if followed.past.withholds() {
            followed.overtaken = true;
            return false;
        }
        let is_news = sequence > followed.told;
        followed.told = followed.told.max(sequence);
        is_news
    }

    /// Reads for a channel; anew if it is being read for.
    fn read_for(&mut self, topic: Topic) {
        if self.reading.as_ref().is_some_and(|(reading, _)| *reading == topic) {
            self.reading = None;
        }
        self.to_read.retain(|waiting| *waiting != topic);
        self.to_read.push_back(topic);
        self.read_next();
    }

    /// One after the other, so that a tab with many channels asks the hub no faster than it answers.
    fn read_next(&mut self) {
        while self.reading.is_none()
            && let Some(topic) = self.to_read.pop_front()
        {
            let edge = self.edge.clone();
            let Some(followed) = self.followed(&topic) else { continue };
            let (feed, told) = (followed.feed.clone(), followed.told);
            let past = followed.past;
            if past.withholds() {
                followed.overtaken = false;
            }
            let of = topic.clone();
            let reading: BoxFuture<'static, Read> = match (past, &topic) {
                (Past::After, _) => {
                    Box::pin(async move { Read::After(feed::replay(&edge, &feed, &of, told).await) })
                }
                (Past::Unread, Topic::User(user)) => {
                    let user = user.clone();
                    Box::pin(async move {
                        feed.begun().await;
                        let filter =
                            Filter { unread_only: true, limit: Some(UNREAD_TOLD_MAX), ..Filter::default() };
                        let page = feed::patiently(|| edge.hub.list(&user, &filter)).await;
                        Read::Unread(page.notifications, page.unread)
                    })
                }
                (Past::Count, Topic::User(user)) => {
                    let user = user.clone();
                    Box::pin(async move { Read::Count(feed::patiently(|| edge.hub.unread(&user)).await) })
                }
                _ => continue,
            };
            self.reading = Some((topic, reading));
        }
    }

    /// Tells what was read, and reads on.
    pub(super) async fn tell_read(&mut self, read: Read) -> Flow {
        let Some((topic, _)) = self.reading.take() else { return go_on() };
        let user = self.user.id().clone();
        let Some(followed) = self.followed(&topic) else {
            self.read_next();
            return go_on();
        };
        let mut texts = Vec::new();
        match read {
            Read::Unread(notifications, unread) => {
                // Everything up to the version is in the list, or is no longer unread.
                followed.told = unread.version;
                followed.past = if followed.overtaken { Past::After } else { Past::Nothing };
                if unread.count > 0 {
                    texts.push(protocol::unread_notifications(&notifications, unread));
                }
                texts.push(protocol::unread_count(&user, unread));
            }
            Read::After(page) => {
                if page.is_incomplete {
                    texts.push(protocol::resync(&topic));
                }
                for happening in &page.records {
                    texts.extend(protocol::event(&topic, &happening.event));
                }
                let counted = page.records.last().and_then(|happening| happening.unread);
                texts.extend(counted.map(|unread| protocol::unread_count(&user, unread)));
                // Also back: whoever says that it has what was never there would hear nothing until there is as much.
                followed.told = page.through;
                followed.past = match &topic {
                    _ if !page.is_last || followed.overtaken => Past::After,
                    Topic::User(_) if counted.is_none() => Past::Count,
                    _ => Past::Nothing,
                };
            }
            Read::Count(unread) => {
                followed.past = Past::Nothing;
                texts.push(protocol::unread_count(&user, unread));
            }
        }
        if followed.past != Past::Nothing {
            self.to_read.push_back(topic);
        }
        self.read_next();
        self.deliver(texts).await
    }
}
