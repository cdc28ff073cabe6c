//! The chat of a session beside its captions: the same seat as a guest of Socket.IO has, whose events are messages of type
//! `chat`.

use model::{FaultKind, RoomId};

use super::{BAD_MESSAGES_MAX, Connection};
use crate::{
    chat::{
        chatter::Chatter,
        protocol::{self as events, Problem, Request},
        seat::{Out, Seat, Turn},
    },
    close::Close,
    ending::{Flow, end_with, go_on},
    metrics::Refused,
    protocol::{self, Chat},
};

impl Connection {
    /// Takes a seat in the session's room.
    pub(super) async fn open_chat(&mut self) -> Flow {
        let principal = &self.peer.principal;
        let (user, home) = (principal.user().clone(), RoomId::of_session(principal.session()));
        let chatter = Chatter::Participant(principal.clone());
        let name = chatter.name();
        let mut seat = Seat::new(&self.edge, chatter, user, home, self.peer.chat_since);
        seat.start(name);
        self.chat = Some(Box::new(seat));
        self.pass_on_chat().await
    }

    /// Something was said in the room, or a question about it was answered.
    pub(super) async fn chat(&mut self, turn: Turn) -> Flow {
        let Some(seat) = &mut self.chat else { return go_on() };
        let is_in_time = match turn {
            Turn::Said(taken) => seat.take_in(taken),
            Turn::Work(work) => {
                seat.worked(work);
                true
            }
        };
        self.pass_on_chat().await?;
        if is_in_time {
            return go_on();
        }
        let text = Problem::TooSlow.text();
        end_with(Close::SlowFollower, protocol::error(FaultKind::Overloaded, &text, None))
    }

    pub(super) async fn hear_chat(&mut self, chat: Chat) -> Flow {
        let Some(seat) = &mut self.chat else {
            return self.refuse(FaultKind::Caller, "connect with chat=true to chat").await;
        };
        let Chat { event, data, id } = chat;
        match Request::read(&event, &data) {
            Ok(_) if seat.is_full() => seat.put(Out::Answer(id, Err(Problem::TooMany))),
            Ok(request) => {
                self.bad = 0;
                seat.ask(request, id);
            }
            Err(problem) => {
                self.edge.tally.refused(Refused::Invalid);
                self.bad += 1;
                if self.bad > BAD_MESSAGES_MAX {
                    return end_with(
                        Close::Policy,
                        protocol::error(FaultKind::Caller, &problem.text(), None),
                    );
                }
                seat.put(Out::Answer(id, Err(problem)));
            }
        }
        self.pass_on_chat().await
    }

    async fn pass_on_chat(&mut self) -> Flow {
        let Some(seat) = &mut self.chat else { return go_on() };
        let texts = seat.out().into_iter().filter_map(|out| match out {
            Out::Tell(telling) => Some(protocol::chat(telling.name, &telling.body, None)),
            Out::Answer(Some(id), outcome) => Some(protocol::chat("ack", &events::ack(&outcome), Some(&id))),
            Out::Answer(None, Ok(_)) => None,
            Out::Answer(None, Err(problem)) | Out::Trouble(problem) => {
                Some(protocol::chat("error", &events::ack(&Err(problem)), None))
            }
        });
        let texts = texts.collect();
        self.deliver(texts).await
    }
}
