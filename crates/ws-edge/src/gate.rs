//! Lets one part of a task sleep while another part of it is woken.
//!
//! A delivery wakes its connection for one thing. To ask the socket, the clock and everything else on the way whether they
//! have something, too, would cost as much as the delivery. Behind a gate they are asked only once one of them has called.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::task::AtomicWaker;

/// A gate, open at first. What is behind it must keep its waker from one poll to the next by itself.
pub(crate) struct Gate(Arc<Bell>);

struct Bell {
    /// Whether something behind the gate has called since it was asked last.
    rung: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Bell { rung: AtomicBool::new(true), task: AtomicWaker::new() }))
    }

    /// What is behind the gate has changed by our own doing: it is asked anew.
    pub(crate) fn open(&self) {
        self.0.rung.store(true, Ordering::Release);
    }

    /// Asks what is behind the gate, if something there has called.
    pub(crate) fn poll<T>(
        &self,
        context: &Context<'_>,
        behind: impl FnOnce(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        self.0.task.register(context.waker());
        if !self.0.rung.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        behind(&mut Context::from_waker(&Waker::from(self.0.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_is_asked_when_it_has_called() {
        let gate = Gate::new();
        let context = Context::from_waker(Waker::noop());
        let mut kept = None;
        let mut ask = |gate: &Gate| {
            let mut asked = false;
            let _ = gate.poll(&context, |context| {
                asked = true;
                kept = Some(context.waker().clone());
                Poll::<()>::Pending
            });
            asked
        };
        assert!(ask(&gate), "at first");
        assert!(!ask(&gate));
        gate.open();
        assert!(ask(&gate));
        kept.unwrap().wake();
        let mut asked = false;
        let _ = gate.poll(&context, |_| {
            asked = true;
            Poll::Ready(())
        });
        assert!(asked, "it has called");
    }
}
