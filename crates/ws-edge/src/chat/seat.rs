//! One connection's seat in its rooms, whatever the connection speaks: what it asks for is done in its order, what is told of
//! the past comes first, nothing comes twice and nothing is missing.

use std::{
    collections::VecDeque,
    mem::take,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use fanout::{Follower, Taken};
use futures_util::future::{BoxFuture, OptionFuture};
use model::{Member, Message, MessageId, NewMessage, RoomId, RoomSign, SeatId, Sequence, UserId};
use rpc::{HubError, notification::RoomPage};
use tokio::time::timeout;
use uuid::Uuid;

use super::{
    chatter::Chatter,
    members::{Members, Place},
    protocol::{self, Done, Draft, Failing, HISTORY_MAX, Problem, Request, Telling},
    said::{Said, What},
    talk::Talk,
};
use crate::{
    Edge,
    feed::{self, Feed, Story as _},
    happenings::Away,
    limits::TooOften,
    order::Page,
};

/// Events of rooms that are passed on in one go when several wait.
const BATCH_MAX: usize = 32;

/// How long the past of a room may take before the client is told that it cannot be read yet.
const PAST_LIMIT: Duration = Duration::from_secs(5);

/// Requests that wait for the ones before them.
const ASKED_MAX: usize = 32;

/// A connection in its rooms. `R` is how it is told what became of something that it asked for.
pub(crate) struct Seat<R> {
    edge: Arc<Edge>,
    id: SeatId,
    chatter: Chatter,
    user: UserId,
    name: Option<String>,
    /// The room that it means when it names none.
    home: RoomId,
    /// What it had of that room when it came.
    since: Option<Sequence>,
    follower: Follower<RoomId, Said>,
    /// By room.
    rooms: Vec<Followed>,
    /// What is read for one of the rooms at the moment.
    reading: Option<(RoomId, BoxFuture<'static, Read>)>,
    /// Rooms for which something else is to be read after that.
    to_read: VecDeque<RoomId>,
    asked: VecDeque<(Request, R)>,
    doing: Option<(R, BoxFuture<'static, Did>)>,
    out: Vec<Out<R>>,
}

/// What the connection is to pass on.
pub(crate) enum Out<R> {
    Tell(Telling),
    /// What became of something that it asked for.
    Answer(R, Result<Done, Problem>),
    /// Something that it did not ask for went wrong.
    Trouble(Problem),
}

/// What a seat wakes for.
pub(crate) enum Turn {
    Said(Taken<Said>),
    Work(Work),
}

/// What a seat has waited for by itself.
pub(crate) enum Work {
    Read(Read),
    Did(Did),
}

/// A room that a seat follows.
struct Followed {
    room: RoomId,
    feed: Arc<Feed<Talk>>,
    /// Messages up to here were told, or were there before the seat was.
    told: Sequence,
    /// Messages that were said up to here are known to the client, as they were then. The same as `told`, but while pages of
    /// the past are told: one that was changed since comes on a later page.
    known: Sequence,
    /// What of the past is still to be told. Until then, live messages are not told but read with it.
    past: Past,
    /// Whether the history could not be read, which the client knows.
    has_failed: bool,
    /// Whether a live message came since what is being read was asked for.
    overtaken: bool,
    /// The state of the roster that was told last.
    people: Option<u64>,
    /// The place of a member.
    place: Option<Place>,
}

/// What is to be told of a room before what lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Past {
    Nothing,
    /// The newest messages.
    History,
    /// What came after [`Followed::told`].
    After,
}

/// What was read for a room.
pub(crate) enum Read {
    History(RoomPage),
    After(Page<Message>),
    /// Not this time.
    Failed,
    /// Who is there, and the version of it.
    People(Telling, u64),
}

/// What became of a request.
pub(crate) enum Did {
    Message(Failing, Result<Box<Message>, HubError>),
    History(RoomId, Result<RoomPage, HubError>),
}

/// A request that was begun.
enum Begun {
    Done(Done),
    Waits(BoxFuture<'static, Did>),
}

impl<R> Seat<R> {
    /// A seat of somebody, in no room yet.
    pub(crate) fn new(
        edge: &Arc<Edge>,
        chatter: Chatter,
        user: UserId,
        home: RoomId,
        since: Option<Sequence>,
    ) -> Self {
        Self {
            id: SeatId(Uuid::new_v4()),
            name: chatter.name(),
            follower: edge.talks.hub.follower(),
            rooms: Vec::new(),
            reading: None,
            to_read: VecDeque::new(),
            asked: VecDeque::new(),
            doing: None,
            out: Vec::new(),
            edge: edge.clone(),
            chatter,
            user,
            home,
            since,
        }
    }

    /// Comes in: with a name, and so into its room, if there is one and it may have one; whoever only reads into that room
    /// without. The client is told who it is.
    pub(crate) fn start(&mut self, name: Option<String>) {
        let may_write = self.chatter.may_write();
        let begun = match name {
            Some(name) if may_write => self.set_name(name).map(drop),
            _ => {
                let name = self.name.as_deref().unwrap_or(self.user.as_str());
                self.out.push(Out::Tell(protocol::connected(self.user.as_str(), name)));
                let home = self.home.clone();
                if may_write { Ok(()) } else { self.follow(&home, self.since) }
            }
        };
        self.out.extend(begun.err().map(Out::Trouble));
    }

    pub(crate) fn chatter(&self) -> &Chatter {
        &self.chatter
    }

    /// The same somebody has shown a new token.
    pub(crate) fn refresh(&mut self, chatter: Chatter) {
        self.chatter = chatter;
    }

    pub(crate) fn rooms(&self) -> usize {
        self.rooms.len()
    }

    /// Whether nothing more can be asked for until something of it is done.
    pub(crate) fn is_full(&self) -> bool {
        self.asked.len() >= ASKED_MAX
    }

    /// The connection has something to pass on by itself, after what there is by now.
    pub(crate) fn put(&mut self, out: Out<R>) {
        self.out.push(out);
    }

    /// What there is to pass on by now.
    pub(crate) fn out(&mut self) -> Vec<Out<R>> {
        take(&mut self.out)
    }

    /// The next that was said in one of its rooms. For a task that polls by hand.
    pub(crate) fn poll_said(&self, context: &Context<'_>) -> Poll<Taken<Said>> {
        self.follower.poll_take(context)
    }

    /// Waits for whatever comes first. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Turn {
        let Self { follower, reading, doing, .. } = self;
        tokio::select! {
            taken = follower.take() => Turn::Said(taken),
            work = work(reading, doing) => Turn::Work(work),
        }
    }

    /// Takes in what was said, and what was said since then. False when it was told too late: nothing more will come.
    pub(crate) fn take_in(&mut self, taken: Taken<Said>) -> bool {
        let mut next = Some(taken);
        let mut count = 0;
        while let Some(taken) = next {
            let Taken::Item(said) = taken else { return false };
            self.hear(&said);
            count += 1;
            next = if count < BATCH_MAX { self.follower.try_take() } else { None };
        }
        true
    }

    /// Waits for whatever it reads or does by itself; for ever when that is nothing. Cancel-safe.
    pub(crate) async fn work(&mut self) -> Work {
        work(&mut self.reading, &mut self.doing).await
    }

    /// Goes on after that.
    pub(crate) fn worked(&mut self, work: Work) {
        match work {
            Work::Read(read) => self.tell_read(read),
            Work::Did(did) => self.finish(did),
        }
    }

    /// Something is asked for: it is done once everything before it is.
    pub(crate) fn ask(&mut self, request: Request, reply: R) {
        self.asked.push_back((request, reply));
        self.begin();
    }

    fn begin(&mut self) {
        while self.doing.is_none()
            && self.asked.front().is_some_and(|(request, _)| !self.must_wait(request))
            && let Some((request, reply)) = self.asked.pop_front()
        {
            match self.begin_one(request) {
                Ok(Begun::Done(done)) => self.out.push(Out::Answer(reply, Ok(done))),
                Ok(Begun::Waits(doing)) => self.doing = Some((reply, doing)),
                Err(problem) => self.out.push(Out::Answer(reply, Err(problem))),
            }
        }
    }

    /// Whether the past of the room that it is about is still to be told: what somebody says right after joining would be
    /// told as the past, and a history come before that of the joining.
    fn must_wait(&self, request: &Request) -> bool {
        let room = match request {
            Request::Send(draft) => &draft.room,
            Request::Edit { room, .. } | Request::Delete { room, .. } | Request::History { room, .. } => room,
            Request::Name(_)
            | Request::Join { .. }
            | Request::Leave(_)
            | Request::Typing { .. }
            | Request::Since { .. }
            | Request::Refresh(_) => return false,
        };
        let index = self.position(room.as_ref().unwrap_or(&self.home)).ok();
        let followed = index.and_then(|index| self.rooms.get(index));
        followed.is_some_and(|followed| followed.past != Past::Nothing && !followed.has_failed)
    }

    fn begin_one(&mut self, request: Request) -> Result<Begun, Problem> {
        match request {
            Request::Name(name) => self.set_name(name).map(Begun::Done),
            Request::Send(draft) => self.send(draft),
            Request::Edit { room, id, text } => self.edit(room, id, text),
            Request::Delete { room, id } => self.delete(room, id),
            Request::Join { room, since } => {
                self.follow(&room, since)?;
                Ok(Begun::Done(Done::Room(room)))
            }
            Request::Leave(room) => {
                self.leave(&room);
                Ok(Begun::Done(Done::Room(room)))
            }
            Request::Typing { room, is_typing } => self.typing(room, is_typing).map(Begun::Done),
            Request::History { room, before, limit } => self.history(room, before, limit),
            Request::Since { room, since } => self.tell_since(room, since).map(Begun::Done),
            // Whoever has the connection knows its token.
            Request::Refresh(_) => Err(Problem::Unknown),
        }
    }

    /// Takes a name, and the room in which everybody is who has one.
    ///
    /// # Errors
    /// It may not have one.
    pub(crate) fn set_name(&mut self, name: String) -> Result<Done, Problem> {
        if !self.chatter.may_write() {
            return Err(Problem::ReadOnly);
        }
        self.out.push(Out::Tell(protocol::connected(self.user.as_str(), &name)));
        self.name = Some(name.clone());
        for followed in &mut self.rooms {
            if let Some(place) = &mut followed.place {
                place.rename(&name);
            }
        }
        let (home, since) = (self.home.clone(), self.since.take());
        self.follow(&home, since)?;
        for index in 0..self.rooms.len() {
            self.enter(index);
        }
        Ok(Done::Named { user: self.user.clone(), name })
    }

    /// Follows a room: what came after a place, or else the newest messages, then who is there, then what lives. Again: it
    /// is told the past again, and what lives goes on.
    ///
    /// # Errors
    /// It may not, or one more is too many.
    pub(crate) fn follow(&mut self, room: &RoomId, since: Option<Sequence>) -> Result<(), Problem> {
        if !self.chatter.may_read(room) {
            return Err(Problem::Forbidden);
        }
        let index = match self.position(room) {
            Ok(index) => index,
            Err(_) if self.rooms.len() >= self.edge.settings.channels_max => {
                return Err(Problem::TooManyRooms);
            }
            Err(index) => {
                let feed = self.edge.talks.join(&self.edge, &mut self.follower, room);
                let followed = Followed {
                    room: room.clone(),
                    feed,
                    told: Sequence(0),
                    known: Sequence(0),
                    past: Past::Nothing,
                    has_failed: false,
                    overtaken: false,
                    people: None,
                    place: None,
                };
                self.rooms.insert(index, followed);
                self.edge.members.ring(room);
                index
            }
        };
        self.enter(index);
        if let Some(followed) = self.rooms.get_mut(index) {
            followed.overtaken |= followed.past != Past::Nothing;
            followed.people = None;
            followed.has_failed = false;
            match since {
                Some(since) => {
                    followed.past = Past::After;
                    (followed.told, followed.known) = (since, since);
                }
                None => followed.past = Past::History,
            }
        }
        self.read_for(room.clone());
        Ok(())
    }

    /// Becomes a member of a room that it follows, if it has a name and may speak.
    fn enter(&mut self, index: usize) {
        let (Some(name), true) = (&self.name, self.chatter.may_write()) else { return };
        let Some(followed) = self.rooms.get_mut(index).filter(|followed| followed.place.is_none()) else {
            return;
        };
        let member = Member { user: self.user.clone(), name: name.clone(), joined_at: self.edge.clock.now() };
        followed.place = Some(Members::enter(&self.edge, followed.room.clone(), self.id, member));
    }

    fn leave(&mut self, room: &RoomId) {
        let Ok(index) = self.position(room) else { return };
        self.rooms.remove(index);
        self.follower.leave(room);
        self.to_read.retain(|waiting| waiting != room);
        if self.reading.as_ref().is_some_and(|(reading, _)| reading == room) {
            self.reading = None;
            self.read_next();
        }
    }

    /// Who says something, and where.
    fn speaker(&self, room: Option<RoomId>) -> Result<(RoomId, String), Problem> {
        let room = room.unwrap_or_else(|| self.home.clone());
        if !self.chatter.may_read(&room) {
            return Err(Problem::Forbidden);
        }
        if !self.chatter.may_write() {
            return Err(Problem::ReadOnly);
        }
        let name = self.name.clone().ok_or(Problem::Nameless)?;
        Ok((room, name))
    }

    fn send(&self, draft: Draft) -> Result<Begun, Problem> {
        let (room, name) = self.speaker(draft.room.clone())?;
        let new: NewMessage = draft.by(self.user.clone(), name, room)?;
        let edge = self.edge.clone();
        Ok(waits(Failing::Send, async move { edge.hub.send_message(&new).await }))
    }

    fn edit(&self, room: Option<RoomId>, id: MessageId, text: String) -> Result<Begun, Problem> {
        let (room, _) = self.speaker(room)?;
        let (edge, user) = (self.edge.clone(), self.user.clone());
        Ok(waits(Failing::Edit, async move { edge.hub.edit_message(&room, id, &user, &text).await }))
    }

    fn delete(&self, room: Option<RoomId>, id: MessageId) -> Result<Begun, Problem> {
        let (room, _) = self.speaker(room)?;
        let (edge, user) = (self.edge.clone(), self.user.clone());
        Ok(waits(Failing::Delete, async move { edge.hub.delete_message(&room, id, &user).await }))
    }

    fn typing(&self, room: Option<RoomId>, is_typing: bool) -> Result<Done, Problem> {
        let (room, name) = self.speaker(room)?;
        if self.position(&room).is_err() {
            return Err(Problem::NotJoined);
        }
        if let Err(TooOften { retry_after }) = self.edge.limits.typing(self.id) {
            return Err(Problem::TooOften { retry_after });
        }
        let sign = RoomSign::Typing { user: self.user.clone(), name, is_typing };
        self.edge.members.sign(&room, self.id, sign);
        Ok(Done::Typing)
    }

    fn history(&self, room: Option<RoomId>, before: Option<Sequence>, limit: u32) -> Result<Begun, Problem> {
        let room = room.unwrap_or_else(|| self.home.clone());
        if !self.chatter.may_read(&room) {
            return Err(Problem::Forbidden);
        }
        let edge = self.edge.clone();
        Ok(Begun::Waits(Box::pin(async move {
            let page = edge.hub.history(&room, before, Some(limit)).await;
            Did::History(room, page)
        })))
    }

    fn tell_since(&mut self, room: Option<RoomId>, since: Sequence) -> Result<Done, Problem> {
        let room = room.unwrap_or_else(|| self.home.clone());
        let Some(followed) = self.followed(&room) else { return Err(Problem::NotJoined) };
        followed.overtaken |= followed.past != Past::Nothing;
        followed.past = Past::After;
        (followed.told, followed.known) = (since, since);
        self.read_for(room.clone());
        Ok(Done::Room(room))
    }

    /// Something that it asked for has come to its end.
    fn finish(&mut self, did: Did) {
        let Some((reply, _)) = self.doing.take() else { return };
        let outcome = match did {
            Did::Message(_, Ok(message)) => Ok(Done::Message(message)),
            Did::Message(failing, Err(error)) => Err(failed(failing, error)),
            Did::History(_, Err(error)) => Err(failed(Failing::History, error)),
            Did::History(room, Ok(page)) => {
                self.out.push(Out::Tell(protocol::message_history(&room, &page.messages)));
                Ok(Done::History { room, through: page.through, more: page.more })
            }
        };
        self.out.push(Out::Answer(reply, outcome));
        self.begin();
    }

    fn position(&self, room: &RoomId) -> Result<usize, usize> {
        position(&self.rooms, room)
    }

    fn followed(&mut self, room: &RoomId) -> Option<&mut Followed> {
        let index = self.position(room).ok()?;
        self.rooms.get_mut(index)
    }

    /// Something was said in one of its rooms.
    fn hear(&mut self, said: &Said) {
        let Self { id, user, rooms, out, .. } = self;
        let told = said.told();
        // Left meanwhile, otherwise.
        let Some(followed) = position(rooms, &told.room).ok().and_then(|index| rooms.get_mut(index)) else {
            return;
        };
        match &told.what {
            What::Message { sequence, position, is_deleted, body } => {
                let is_new = followed.hear(*sequence, *position);
                let telling = is_new.and_then(|is_new| protocol::said(body.clone(), is_new, *is_deleted));
                out.extend(telling.map(Out::Tell));
            }
            What::Typing { seat, telling, .. } if seat != id => out.push(Out::Tell(telling.clone())),
            What::Typing { .. } => {}
            // Whoever was not told who is there will be told of these, too.
            What::People(people) if followed.people.is_some_and(|version| people.version > version) => {
                followed.people = Some(people.version);
                let joined = people.joined.iter().filter(|(joined, _)| joined != user);
                let tellings = joined.map(|(_, telling)| telling).chain(&people.left).chain(&people.all);
                out.extend(tellings.cloned().map(Out::Tell));
            }
            What::People(_) => {}
        }
    }

    /// Reads for a room; anew if it is being read for.
    fn read_for(&mut self, room: RoomId) {
        if self.reading.as_ref().is_some_and(|(reading, _)| *reading == room) {
            self.reading = None;
        }
        self.to_read.retain(|waiting| *waiting != room);
        self.to_read.push_back(room);
        self.read_next();
    }

    /// One after the other, so that a connection with many rooms asks the hub no faster than it answers.
    fn read_next(&mut self) {
        while self.reading.is_none()
            && let Some(room) = self.to_read.pop_front()
        {
            let edge = self.edge.clone();
            let Some(followed) = self.followed(&room) else { continue };
            if let Some(reading) = followed.read(&edge) {
                self.reading = Some((room, reading));
            }
        }
    }

    /// Tells what was read, and reads on.
    fn tell_read(&mut self, read: Read) {
        let Some((room, _)) = self.reading.take() else { return };
        let Some(followed) = self.followed(&room) else {
            self.read_next();
            return;
        };
        let mut tellings = Vec::new();
        let mut trouble = None;
        match read {
            Read::History(page) => {
                tellings.push(protocol::message_history(&room, &page.messages));
                (followed.told, followed.known) = (page.through, page.through);
                followed.past = if followed.overtaken { Past::After } else { Past::Nothing };
            }
            Read::After(page) => {
                if page.is_incomplete {
                    tellings.push(protocol::resync(&room));
                }
                for message in &page.records {
                    let is_new = message.position > followed.known;
                    let body = protocol::message(message);
                    tellings.extend(protocol::said(body, is_new, message.deleted_at.is_some()));
                }
                // Also back: whoever says that it has what was never there would hear nothing until there is as much.
                followed.told = page.through;
                if page.is_last {
                    followed.known = page.through;
                }
                let more = !page.is_last || followed.overtaken;
                followed.past = if more { Past::After } else { Past::Nothing };
            }
            Read::Failed => {
                followed.has_failed = true;
                trouble = Some(Problem::Failed(Failing::History));
            }
            Read::People(telling, version) => {
                tellings.push(telling);
                followed.people = Some(version);
            }
        }
        followed.has_failed &= followed.past != Past::Nothing;
        let is_done = followed.past == Past::Nothing && followed.people.is_some();
        if !is_done {
            self.to_read.push_back(room);
        }
        self.out.extend(tellings.into_iter().map(Out::Tell).chain(trouble.map(Out::Trouble)));
        self.read_next();
        self.begin();
    }
}

impl Followed {
    /// Whether a live message is to be told, and whether it is new to the client.
    fn hear(&mut self, sequence: Sequence, position: Sequence) -> Option<bool> {
        if self.past != Past::Nothing {
            self.overtaken = true;
            return None;
        }
        if sequence <= self.told {
            return None;
        }
        let is_new = position > self.told;
        (self.told, self.known) = (sequence, sequence);
        Some(is_new)
    }

    /// What is to be read next. A past that could not be read comes after who is there, and then for however long it takes.
    fn read(&mut self, edge: &Arc<Edge>) -> Option<BoxFuture<'static, Read>> {
        let (edge, feed, room, told) = (edge.clone(), self.feed.clone(), self.room.clone(), self.told);
        let (past, is_patient) = (self.past, self.has_failed);
        if past == Past::Nothing || (is_patient && self.people.is_none()) {
            self.people.is_none().then_some(())?;
            let also = self.place.as_ref().map(|place| place.member().clone());
            return Some(Box::pin(async move {
                let (telling, version) = feed.story.people(also.as_ref(), edge.clock.now()).await;
                Read::People(telling, version)
            }));
        }
        self.overtaken = false;
        Some(Box::pin(async move {
            let read = || read_past(&edge, &room, past, told);
            if is_patient {
                feed.begun().await;
                return feed::patiently(read).await;
            }
            let first = async {
                feed.begun().await;
                read().await
            };
            match timeout(PAST_LIMIT, first).await {
                Ok(Ok(read)) => read,
                Ok(Err(error)) => {
                    tracing::warn!(%error, "read the past of a room");
                    Read::Failed
                }
                Err(_) => Read::Failed,
            }
        }))
    }
}

async fn read_past(edge: &Edge, room: &RoomId, past: Past, told: Sequence) -> Result<Read, Away> {
    Ok(match past {
        Past::After => Read::After(Talk::after(edge, room, told).await?),
        Past::History | Past::Nothing => {
            Read::History(edge.hub.history(room, None, Some(HISTORY_MAX)).await?)
        }
    })
}

fn waits(failing: Failing, doing: impl Future<Output = Result<Message, HubError>> + Send + 'static) -> Begun {
    Begun::Waits(Box::pin(async move { Did::Message(failing, doing.await.map(Box::new)) }))
}

async fn work<R>(
    reading: &mut Option<(RoomId, BoxFuture<'static, Read>)>,
    doing: &mut Option<(R, BoxFuture<'static, Did>)>,
) -> Work {
    tokio::select! {
        Some(read) = OptionFuture::from(reading.as_mut().map(|(_, reading)| reading)) => Work::Read(read),
        Some(did) = OptionFuture::from(doing.as_mut().map(|(_, doing)| doing)) => Work::Did(did),
        else => std::future::pending().await,
    }
}

/// Where a room is among those that are followed, or would be.
fn position(rooms: &[Followed], room: &RoomId) -> Result<usize, usize> {
    rooms.binary_search_by(|followed| followed.room.cmp(room))
}

/// What a client is told of what the hub has not done.
fn failed(failing: Failing, error: HubError) -> Problem {
    match error {
        HubError::Refused(refusal) => refusal.into(),
        error => {
            tracing::warn!(%error, "ask the notification hub");
            Problem::Failed(failing)
        }
    }
}
